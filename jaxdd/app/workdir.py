"""The folder of a run: whose it is, that one process at a time writes into it, and how far the run has come."""

import dataclasses
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxdd.app.common import Common
from jaxdd.app.config import Config
from jaxdd.data import Data
from jaxdd.data.pairs import PREFIX
from jaxdd.errors import SettingError
from jaxdd.evaluation import Measures
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.files import differences, plain, write_json
from jaxdd.io.hosts import from_first
from jaxdd.io.integrity import DamagedError, digest, read_json, read_sealed, write_sealed
from jaxdd.io.lock import in_use

log = logging.getLogger("jaxdd")
IMMATERIAL = ("experts.per_dispatch", "experts.directory", "data.data_dir")
"""Settings that are told of a run, and that it may go on without: how experts come about, and where they and data are.
What is there is known by its content."""


@contextmanager
def opened(workdir: Path, config: Config, run: str) -> Iterator[None]:
    """Keep a workdir for this process and this run.

    Args:
        workdir: The folder; made if missing.
        config: The run.
        run: What it is known by, see `identity`.

    Raises:
        SettingError: Another process has it, or it holds another run.
        OSError: It cannot be written to; an error that knows no path is given that of the workdir.
    """
    try:
        with in_use(workdir / ".run.lock", "wait until it has ended, or choose another --workdir"):
            if from_first(lambda: not (workdir / "config.json").exists()):
                from_first(Checkpoints(workdir / "checkpoints", run).check_run)
            from_first(lambda: claim(workdir, config))
            yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(workdir)
        raise


def claim(workdir: Path, config: Config) -> None:
    """Write `config.json`, or make sure that the run in the workdir is this one.

    Raises:
        SettingError: The workdir holds a run of another configuration; the differences are named. Or `config.json` is
            damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        write_json(path, record(config))
        return
    stored = read_json(path, "delete it if the folder is that of this run: its checkpoints know which run they are of")
    found = [line for line in differences(stored, record(config)) if not line.startswith(IMMATERIAL)]
    if found:
        raise SettingError(
            f"{workdir} holds a run of another configuration ({'; '.join(found)}); choose another --workdir, or delete "
            "that folder to start over"
        )


def record(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON, without what does not change the results, but for what is `IMMATERIAL`."""
    fields = plain(config)
    del fields["experts"]["residency"]
    for name in ("workdir", "dry_run", "log", "hosts", *(field.name for field in dataclasses.fields(Common))):
        del fields[name]
    if config.stages == 1:  # as before there were stages
        del fields["stages"]
    if not config.data.name.startswith(PREFIX):
        del fields["text"], fields["retrieval"]
    return fields


def identity(config: Config, dataset: Data) -> str:
    """Compute the sha256 of all that determines the results of a run: its configuration, its network and its data."""
    fields = {**record(config), "model": config.model.identity()}
    for group, name in (setting.split(".") for setting in IMMATERIAL):
        del fields[group][name]
    return digest({"config": fields, "data": dataset.fingerprint(), "held_out": dataset.held_out_fingerprint()})


def versions() -> dict[str, str]:
    """Return what the numbers were computed with."""
    packages = {name: metadata.version(name) for name in ("jaxdd", "jax", "jaxlib", "flax", "optax", "numpy")}
    return {**packages, "python": platform.python_version(), "device": jax.devices()[0].device_kind}


class Progress:
    """What the run has computed besides experts and checkpoints, in a file: accuracies, and seconds spent.

    Args:
        path: The file. A damaged one, or one of another run, is not believed: its accuracies are computed again.
        run: What the run is known by, see `identity`.
    """

    def __init__(self, path: Path, run: str):
        self._path = path
        self._run = run
        self._scored = ""
        self.accuracies: dict[str, Measures] = {}
        self.seconds = {"experts": 0.0, "evaluate": 0.0}
        found = from_first(self._read)
        if found is not None:
            self._scored, self.accuracies, self.seconds = found["set"], found["accuracies"], found["seconds"]

    def _read(self) -> dict[str, Any] | None:
        if not self._path.exists():
            return None
        remedy = "what it held is computed again"
        try:
            stored = read_sealed(self._path, remedy)
        except DamagedError as error:
            log.warning("%s", error)
            return None
        if stored["run"] != self._run:
            log.warning("%s is that of another run; %s", self._path, remedy)
            return None
        return stored

    def score(self, distilled: str) -> None:
        """Begin the evaluation of a set, known by its sha256; forget the accuracies of another one."""
        if self._scored != distilled:
            self.accuracies.pop("distilled", None)
        self._scored = distilled

    def add(self, stage: str, seconds: float, **accuracies: Measures) -> None:
        """Record time spent in a stage, and accuracies if it computed any."""
        self.seconds[stage] += seconds
        self.accuracies.update(accuracies)
        known = {"run": self._run, "set": self._scored, "accuracies": self.accuracies, "seconds": self.seconds}
        from_first(lambda: write_sealed(self._path, known))
