"""Experts in a folder: Orbax checkpoints, a manifest of the files of each, and what determines them.

Axis letters: E experts, T snapshots, P parameters.
"""

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jaxdd.data import Data
from jaxdd.errors import SettingError
from jaxdd.experts.timeline import ExpertsConfig, Timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io import checkpoint
from jaxdd.io.files import NOT_FINITE, differences, plain, write_json
from jaxdd.io.hosts import everywhere, from_first
from jaxdd.io.integrity import DamagedError, damaged, digest, digests, read_json, read_sealed, write_sealed
from jaxdd.io.lock import in_use
from jaxdd.models import ModelConfig
from jaxdd.types import AnyArray

FORMAT = 1  # of the store, and of the way that an expert follows from its description
RETRAINED = "the expert is trained anew"
log = logging.getLogger("jaxdd")


class Expert(NamedTuple):
    """One expert as it was trained: snapshots `[T, P]`, last parameters `[P]`, training loss at each snapshot `[T]`."""

    snapshots: AnyArray
    final: AnyArray
    losses: AnyArray


class ExpertStore:
    """A folder of experts, each an Orbax checkpoint with one array per snapshot, beside a manifest of its files.

    An expert counts as stored once its manifest is there and every file has the checksum that it names. In a job of
    many processes the first one writes.

    Args:
        directory: The folder; created if missing.
        description: All that determines the experts; a store made for another description is refused.

    Raises:
        SettingError: The folder holds experts of another description; the differences are named. Or its header is
            damaged, or missing beside experts of another description.
    """

    def __init__(self, directory: Path, description: dict[str, Any]):
        self.directory = directory
        self.description = plain(description)
        self._hash = digest(self.description)
        self._sound: set[int] = set()  # experts whose files were read and found whole, which takes time
        self._named: set[int] = set()  # those that were found damaged
        header = directory / "store.json"
        from_first(lambda: self._open(header))

    def _open(self, header: Path) -> None:
        if header.exists():
            self._check(header)
        else:
            for manifest in sorted(self.directory.glob("expert_*.json")):
                with suppress(DamagedError):  # which `missing` names
                    self._read_manifest(manifest)
            write_json(header, {"hash": self._hash, "description": self.description})

    def _check(self, header: Path) -> None:
        remedy = "delete it if the experts are those of this run: each knows which description it is of"
        stored = read_json(header, remedy)
        if not isinstance(stored, dict) or stored.get("hash") != digest(stored.get("description")):
            raise DamagedError(f"{header} is damaged (its content does not have its checksum); {remedy}")
        if found := differences(stored["description"], self.description):
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
        self._named.discard(expert)
        self._manifest(expert).unlink(missing_ok=True)
        checkpoint.save(path, self._encode(np.asarray(trained.snapshots), np.asarray(trained.final)))
        manifest = {"files": digests(path), "losses": plain(np.asarray(trained.losses)), "description": self._hash}
        write_sealed(self._manifest(expert), manifest)

    def in_use(self) -> AbstractContextManager[None]:
        """Keep the folder for this process while it trains experts.

        Raises:
            SettingError: Another process trains experts there.
        """
        return in_use(
            self.directory / ".experts.lock",
            "wait until it has trained its experts, or choose another experts.directory",
        )

    def missing(self, count: int) -> list[int]:
        """List the experts among the first `count` that have to be trained; those that are damaged are logged."""
        absent = []
        for expert in sorted(set(range(count)) - self._sound):
            path, manifest = self._checkpoint(expert), self._manifest(expert)
            if not path.exists() and not manifest.exists():
                absent.append(expert)
            elif fault := self._fault(path, manifest):
                if expert not in self._named:
                    log.warning("expert %s %s; it is trained anew", path, fault)
                self._named.add(expert)
                absent.append(expert)
            else:
                self._sound.add(expert)
        return absent

    def _fault(self, path: Path, manifest: Path) -> str | None:
        if not manifest.exists():
            return "has no manifest: its writing was interrupted"
        try:
            stored = self._read_manifest(manifest)
        except DamagedError:
            return f"has an unreadable manifest {manifest}"
        changed = damaged(path, stored["files"])
        return f"is damaged: {', '.join(changed[:3])} missing or changed" if changed else None

    def _read_manifest(self, path: Path) -> dict[str, Any]:
        """Read what was written with an expert, unless it is damaged or of another description."""
        stored = read_sealed(path, RETRAINED, seal_needed=False)  # older versions wrote none
        if not (_names_files(stored.get("files")) and _are_losses(stored.get("losses"))):
            raise DamagedError(f"{path} is damaged (it names no files, or no losses); {RETRAINED}")
        if stored.get("description", self._hash) != self._hash:
            raise SettingError(
                f"{path} is an expert of another description; choose another workdir or experts.directory, or delete "
                "that folder to train new ones"
            )
        return stored

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

        def read() -> Trajectories:
            return assemble(((self.read(expert, rows), self.final(expert)) for expert in range(count)), count, line)

        # Hosts that share a file system read for themselves, others are sent what the first one reads.
        alone = jax.process_count() == 1  # which need not read once more what it has just checked or written
        return read() if alone or everywhere(not self.missing(count)) else from_first(read)

    def losses(self, count: int) -> np.ndarray:
        """Read the training losses that the first `count` experts recorded at their snapshots, `[count, T]`."""
        manifests = from_first(lambda: [self._read_manifest(self._manifest(expert)) for expert in range(count)])
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


def _names_files(files: Any) -> bool:
    return isinstance(files, dict) and bool(files)


def _are_losses(losses: Any) -> bool:
    return isinstance(losses, list) and bool(losses) and all(map(_is_loss, losses))


def _is_loss(loss: Any) -> bool:
    return isinstance(loss, int | float) or (isinstance(loss, str) and loss in NOT_FINITE)


def describe(dataset: Data, model: Any, config: ExpertsConfig, seed: int) -> dict[str, Any]:
    """Collect all that determines an expert, for the key of its store."""
    return {
        "format": FORMAT,
        "data": dataset.fingerprint(),
        "model": model.identity() if isinstance(model, ModelConfig) else plain(model),
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
