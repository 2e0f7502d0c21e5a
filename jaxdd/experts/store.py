"""Experts in a folder: Orbax checkpoints, a manifest of the files of each, and what determines them.

Axis letters: E experts, T snapshots, P parameters.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.experts.timeline import ExpertsConfig, Timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io import checkpoint
from jaxdd.io.files import differences, plain, write_json
from jaxdd.types import AnyArray

FORMAT = 1  # of the store, and of the way that an expert follows from its description
log = logging.getLogger("jaxdd")


class Expert(NamedTuple):
    """One expert as it was trained: snapshots `[T, P]`, last parameters `[P]`, training loss at each snapshot `[T]`."""

    snapshots: AnyArray
    final: AnyArray
    losses: AnyArray


class ExpertStore:
    """A folder of experts, each an Orbax checkpoint with one array per snapshot, beside a manifest of its files.

    An expert counts as stored once its manifest is there and every file has the size and the checksum that it names.

    Args:
        directory: The folder; created if missing.
        description: All that determines the experts; a store made for another description is refused.

    Raises:
        ValueError: The folder holds experts of another description; the differences are named.
    """

    def __init__(self, directory: Path, description: dict[str, Any]):
        self.directory = directory
        self.description = plain(description)
        self._sound: set[int] = set()  # experts whose files were read and found whole, which takes time
        header = directory / "store.json"
        if header.exists():
            self._check(json.loads(header.read_text())["description"])
        else:
            directory.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()
            write_json(header, {"hash": digest, "description": self.description})

    def _check(self, stored: dict[str, Any]) -> None:
        if found := differences(stored, self.description):
            raise SettingError(
                f"{self.directory} holds experts of another description ({'; '.join(found)}); choose another "
                "workdir or experts.directory, or delete that folder to train new ones"
            )

    def _checkpoint(self, expert: int) -> Path:
        return self.directory / f"expert_{expert:04d}"

    def _manifest(self, expert: int) -> Path:
        return self.directory / f"expert_{expert:04d}.json"

    def save(self, expert: int, trained: Expert) -> None:
        """Store an expert; it counts only when the last of its files is in place."""
        path = self._checkpoint(expert)
        self._manifest(expert).unlink(missing_ok=True)
        checkpoint.save(path, self._encode(np.asarray(trained.snapshots), np.asarray(trained.final)))
        write_json(self._manifest(expert), {"files": _digests(path), "losses": plain(np.asarray(trained.losses))})

    def missing(self, count: int) -> list[int]:
        """List the experts among the first `count` that have to be trained, removing and naming damaged ones."""
        absent = []
        for expert in sorted(set(range(count)) - self._sound):
            path, manifest = self._checkpoint(expert), self._manifest(expert)
            if not path.exists() and not manifest.exists():
                absent.append(expert)
            elif fault := _fault(path, manifest):
                log.warning("expert %s %s; it is trained anew", path, fault)
                shutil.rmtree(path, ignore_errors=True)
                manifest.unlink(missing_ok=True)
                absent.append(expert)
            else:
                self._sound.add(expert)
        return absent

    def read(self, expert: int, snapshots: Iterable[int]) -> np.ndarray:
        """Read some snapshots of one expert, `[len(snapshots), P]` float32, and nothing else of the store."""
        wanted = list(snapshots)
        return self._decode(expert, [_name(t) for t in wanted])

    def final(self, expert: int) -> np.ndarray:
        """Read the last parameters of one expert, `[P]` float32."""
        return self._decode(expert, ["final"])[0]

    def load(self, count: int, line: Timeline, snapshots: int | None = None) -> Trajectories:
        """Read the first `count` experts into host memory, their earliest snapshots only if a number is given."""
        rows = range(len(line.steps))[:snapshots]
        return assemble(((self.read(expert, rows), self.final(expert)) for expert in range(count)), count, line)

    def losses(self, count: int) -> np.ndarray:
        """Read the training losses that the first `count` experts recorded at their snapshots, `[count, T]`."""
        manifests = [json.loads(self._manifest(expert).read_text()) for expert in range(count)]
        return np.array([manifest["losses"] for manifest in manifests], np.float64)

    @property
    def _delta(self) -> bool:
        return self.description["storage"] == "bfloat16_delta"

    def _encode(self, snapshots: np.ndarray, final: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {_name(t): snapshot for t, snapshot in enumerate(snapshots)} | {"final": final}
        if not self._delta:
            return arrays
        first = arrays[_name(0)]
        return {name: x if name == _name(0) else (x - first).astype(ml_dtypes.bfloat16) for name, x in arrays.items()}

    def _decode(self, expert: int, names: list[str]) -> np.ndarray:
        wanted = dict.fromkeys([*names, _name(0)] if self._delta else names)
        stored = checkpoint.load(self._checkpoint(expert), wanted)
        if not self._delta:
            return np.stack([stored[name] for name in names])
        first = stored[_name(0)]
        return np.stack([first if name == _name(0) else first + stored[name].astype(np.float32) for name in names])


def _name(snapshot: int) -> str:
    return f"{snapshot:05d}"


def _digests(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): _digest(file) for file in sorted(path.rglob("*")) if file.is_file()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path, manifest: Path) -> str | None:
    if not manifest.exists():
        return "has no manifest: its writing was interrupted"
    try:
        expected = dict(json.loads(manifest.read_text())["files"])
    except (ValueError, KeyError, TypeError):
        return f"has an unreadable manifest {manifest}"
    found = _digests(path) if path.exists() else {}
    damaged = sorted(name for name in expected if expected[name] != found.get(name))
    return f"is damaged: {', '.join(damaged[:3])} missing or changed" if damaged else None


def describe(dataset: Dataset, model: Any, config: ExpertsConfig, seed: int) -> dict[str, Any]:
    """Collect all that determines an expert, for the key of its store."""
    return {
        "format": FORMAT,
        "data": dataset.fingerprint(),
        "model": plain(model),
        "recipe": plain(config.recipe),
        "snapshot_every": config.snapshot_every,
        "keep": config.keep,
        "storage": config.storage,
        "seed": seed,
    }


def assemble(experts: Iterable[tuple[AnyArray, AnyArray]], count: int, line: Timeline) -> Trajectories:
    """Stack experts, snapshots `[T, P]` and last parameters `[P]` of each, one after another."""
    snapshots: np.ndarray | None = None
    final: list[AnyArray] = []
    for index, (recorded, last) in enumerate(experts):
        if snapshots is None:  # filled in place: a list to stack would hold everything twice
            snapshots = np.empty((count, *recorded.shape), recorded.dtype)
        snapshots[index] = recorded
        final.append(last)
    assert snapshots is not None
    whole = Trajectories(
        snapshots=snapshots,
        final=np.stack(final),
        lr=line.lr.astype(np.float32),
        time=line.time.astype(np.float32),
        total_time=np.asarray(line.total_time, np.float32),
        steps=line.steps,
    )
    return whole.first(snapshots.shape[1])
