"""Scalars of a run, as JSON lines and in TensorBoard.

`metrics.jsonl` holds one object per line: `{"step": 40, "stage": "distill", "time": 1767225600.125, "loss": 0.5}`.
`time` is in seconds since 1970. A value that is not finite is written as the string `"NaN"`, `"Infinity"` or
`"-Infinity"`, because JSON has no number for it; `float` in Python and `Number` in JavaScript read these strings, and
`read` gives them back as floats.
"""

import io
import json
import math
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from jaxdd.errors import SettingError
from jaxdd.io.files import NOT_FINITE, atomic_write, to_json
from jaxdd.report.tracking import Wandb

BINS = 40
"""Bins of a histogram."""


class Metrics:
    """Append the scalars of a run to `workdir/metrics.jsonl` and to TensorBoard in `workdir/tensorboard`.

    Every stage is one run of TensorBoard, `tensorboard/<stage>`, because the steps of different stages do not share
    an axis. In a job of many processes one writes and the others pass `enabled=False`, which makes every method do
    nothing.

    Args:
        workdir: the folder of the run; made if missing.
        enabled: whether this process writes, `jax.process_index() == 0` for a driver.
        tracker: where all of it is sent as well; closed with the files.
    """

    def __init__(self, workdir: str | Path, *, enabled: bool = True, tracker: Wandb | None = None):
        self.enabled = enabled
        self._tracker = tracker
        self.path = Path(workdir) / "metrics.jsonl"
        self._writers: dict[str, _Events] = {}
        self._purge: dict[str, int] = {}
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                _drop_unfinished_line(self.path)
            self._file = open(self.path, "ab")  # noqa: SIM115

    def write(self, step: int, stage: str, **values: float) -> None:
        """Append one line; it is with the operating system when this returns.

        Args:
            step: the step of the stage that the values belong to.
            stage: `"experts"`, `"distill"`, `"validate"` or another name.
            **values: scalars, also arrays of shape `[]`, which are waited for; of an array with axes its histogram is
                written, `{"edges": [BINS + 1], "counts": [BINS]}` over its finite values.

        Raises:
            ValueError: if a value is called `time`.
        """
        if not self.enabled:
            return
        if "time" in values:
            raise SettingError("a metric cannot be called 'time', which holds the clock: rename it, e.g. to 'seconds'")
        scalars = {name: float(value) for name, value in values.items() if np.shape(value) == ()}
        histograms = {name: histogram(value) for name, value in values.items() if np.shape(value) != ()}
        now = time.time()
        line = to_json({"step": int(step), "stage": stage, "time": round(now, 3), **scalars, **histograms}) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        from tensorboardX import summary

        shown = [summary.scalar(name, value) for name, value in scalars.items() if math.isfinite(value)]
        for name, counted in histograms.items():
            if any(counted["counts"]):
                shown.append(summary.histogram(name, _finite(values[name]), np.array(counted["edges"])))
        self._writer(stage).write(shown, int(step), now)
        if self._tracker is not None:
            self._tracker.write(int(step), stage, scalars, histograms)

    def show(self, step: int, stage: str, name: str, png: bytes) -> None:
        """Put a picture into TensorBoard, and nowhere in `metrics.jsonl`.

        Args:
            step: the step of the stage that it belongs to.
            stage: as in `write`.
            name: what it is called.
            png: the picture.
        """
        if not self.enabled:
            return
        from tensorboardX import summary

        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._writer(stage).write([summary.image(name, pixels, dataformats="HWC")], int(step), time.time())
        if self._tracker is not None:
            self._tracker.show(int(step), stage, name, png)

    def rewind(self, stage: str, step: int) -> None:
        """Forget what a stage recorded after a step, so that a resumed run records no step twice.

        Args:
            stage: the stage that resumes; the lines of the others stay.
            step: the last step to keep.

        Raises:
            ValueError: if a line before the last one is not JSON.
        """
        if not self.enabled:
            return
        self._file.close()
        kept = [line for line in read(self.path) if line["stage"] != stage or line["step"] <= step]
        atomic_write(self.path, "".join(to_json(line) + "\n" for line in kept).encode())
        self._file = open(self.path, "ab")  # noqa: SIM115
        if stage in self._writers:
            self._writers.pop(stage).close()
        self._purge[stage] = step + 1  # TensorBoard hides what older files of the run hold from this step on

    def close(self) -> None:
        """Close the files; further writes fail."""
        with ExitStack() as every:  # one that fails, on a full disk, leaves no other open
            if self._tracker is not None:
                every.callback(self._tracker.close)
                self._tracker = None
            if self.enabled:
                every.callback(self._file.close)
                for writer in self._writers.values():
                    every.callback(writer.close)
                self._writers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _writer(self, stage: str) -> "_Events":
        if stage not in self._writers:
            folder = self.path.parent / "tensorboard" / stage
            self._writers[stage] = _Events(folder, self._purge.pop(stage, None))
        return self._writers[stage]


class _Events:
    """A file of TensorBoard, written by the thread that calls.

    tensorboardX's `SummaryWriter` has one of its own, which a full disk ends, and whose queue then blocks the run.
    """

    def __init__(self, folder: Path, purge_step: int | None):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()  # in whole seconds, two files that are opened within one would share a name
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{now // 10**9}.{now}"))
        self._append(Event(wall_time=now / 1e9, file_version="brain.Event:2"))
        if purge_step is not None:
            self._append(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, summaries: list[Any], step: int, now: float) -> None:
        """Append summaries; they are with the operating system when this returns."""
        from tensorboardX.proto.event_pb2 import Event

        for summary in summaries:
            self._append(Event(summary=summary, step=step, wall_time=now))
        self._file.flush()

    def _append(self, event: Any) -> None:
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: str | Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`, in the order in which they were written.

    A last line that a kill cut short (one without a newline) is left out.

    Args:
        path: the file.
        stage: return the lines of this stage only.

    Returns:
        One dict per line; values that are not finite are floats again.

    Raises:
        SettingError: if a finished line is not a JSON object with a step and a stage.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = {name: _restore(name, value) for name, value in json.loads(line).items()}
            _check_line(record)
        except (ValueError, AttributeError, RecursionError) as error:
            raise SettingError(f"{path}, line {number} is damaged ({error}): remove the line") from error
        if stage is None or record["stage"] == stage:
            records.append(record)
    return records


def histogram(values: Any) -> dict[str, list[float]]:
    """Count the finite values in `BINS` bins of equal width from the smallest to the largest.

    Where these are (almost) equal the bins span a thousandth of the value, or of 1, to either side.
    """
    finite = _finite(values)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    least = 1e-3 * max(abs(low), abs(high), 1.0)
    if high - low < least:
        low, high = (low + high) / 2 - least, (low + high) / 2 + least
    edges = np.linspace(low, high, BINS + 1)
    return {"edges": edges.tolist(), "counts": np.histogram(finite, edges)[0].tolist()}


def _finite(values: Any) -> np.ndarray:
    flat = np.asarray(values, np.float64).ravel()  # in float32 the bins of a narrow range would coincide
    return flat[np.isfinite(flat)]


def _check_line(record: dict[str, Any]) -> None:
    for name, kind in {"step": int, "stage": str}.items():
        if type(record.get(name)) is not kind:
            raise ValueError(f"its {name} is {record.get(name, 'missing')!r}")
    for name, value in record.items():
        if name != "stage" and not isinstance(value, int | float | dict):
            raise ValueError(f"its {name} is {value!r}")


def _restore(name: str, value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) and name != "stage" else value


def _drop_unfinished_line(path: Path) -> None:
    content = path.read_bytes()
    finished = content.rfind(b"\n") + 1
    if finished < len(content):
        atomic_write(path, content[:finished])
