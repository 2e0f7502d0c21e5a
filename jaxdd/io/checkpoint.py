"""Orbax behind a handful of functions: trees of arrays in, trees of arrays out, every write atomic."""

import errno
import logging
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdd.errors import SettingError
from jaxdd.io.hosts import from_first
from jaxdd.io.integrity import DamagedError, damaged, digests, read_sealed, write_sealed
from jaxdd.types import AnyArray, PyTree

# Orbax reports every save on the root logger's INFO and some of its own deprecations as warnings.
logging.getLogger("absl").setLevel(logging.ERROR)
# A write that fails raises here; its other tasks would be reported as tracebacks of their own.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

MANIFEST = "manifest.json"
OVERHEAD = 16_384  # bytes of a checkpoint beside its arrays, about


def save(path: Path, tree: dict[str, np.ndarray]) -> None:
    """Write a flat dictionary of arrays as the Orbax checkpoint `path`, replacing what is there."""
    _remove(path)
    _write(path, tree)


def load(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the named arrays of the Orbax checkpoint `path`, and no others, into host memory."""
    return _read(path, dict.fromkeys(names, 0), partial=True)


class Checkpoints:
    """The checkpoints of one run: the newest two are kept, a damaged one is set aside.

    What a run's state holds is the same on all processes of a job: the first one writes it and reads it, on its own
    disk if there is no shared one, and tells the others. A run goes on with any number of processes and devices.

    Each is a folder named by its step that holds a manifest of its files. It appears in one rename, whole.

    Args:
        directory: Folder of the run's checkpoints, created if missing.
        run: What the run is known by; checkpoints of another are refused. None to take whatever is there.
    """

    def __init__(self, directory: Path, run: str | None = None):
        self._directory = directory.absolute()
        self._run = run
        self._directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tree: PyTree) -> None:
        """Write `tree` as the checkpoint of `step`; it counts only once it is complete."""
        from_first(lambda: self._save(step, tree))

    def _save(self, step: int, tree: PyTree) -> None:
        partial, path = self._directory / "partial", self._directory / str(step)
        _write(partial, tree)
        write_sealed(partial / MANIFEST, {"run": self._run, "files": digests(partial)})
        _remove(path)
        os.rename(partial, path)
        for old in self._steps()[2:]:
            _remove(self._directory / str(old))

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Read the newest intact checkpoint into the structure of `like`, as host arrays; None if there is none.

        Raises:
            SettingError: It is of another run.
        """
        return from_first(lambda: self._restore(like))

    def _restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        for step in self._steps():
            path = self._directory / str(step)
            try:
                manifest = _check_intact(path)
            except DamagedError as error:
                # Out of the way, because its step will be written again, but not deleted: the fault may be elsewhere.
                aside = self._directory / f"unreadable_{step}_{secrets.token_hex(2)}"
                path.rename(aside)
                warnings.warn(f"checkpoint {step} cannot be read and is now {aside}: {error}", stacklevel=2)
                continue
            self._check_owner(path, manifest)
            return step, self._read(path, like)
        return None

    def check_run(self) -> None:
        """Refuse checkpoints of another run, before anything is written beside them.

        Raises:
            SettingError: There is one.
        """
        for step in self._steps():
            path = self._directory / str(step)
            with suppress(DamagedError):  # which `restore` names
                self._check_owner(path, _read_manifest(path))

    def _steps(self) -> list[int]:
        """List the steps that have a checkpoint, the newest first."""
        return sorted((int(path.name) for path in self._directory.iterdir() if path.name.isdecimal()), reverse=True)

    def _read(self, path: Path, like: PyTree) -> PyTree:
        try:
            tree = _read(path, like)
            jax.tree.map(_check_alike, tree, like)
        except (ValueError, KeyError, TypeError) as error:  # an intact one of other arrays
            raise SettingError(
                f"{path} is a checkpoint of another method or data ({error}); {self._remedy()}"
            ) from error
        return tree

    def _check_owner(self, path: Path, manifest: dict[str, Any]) -> None:
        if self._run is not None and manifest["run"] != self._run:
            raise SettingError(
                f"{path} is a checkpoint of another run, with other settings, data (train, validation or test) or "
                f"code of a network, or of a jaxdd that did not tell all of them apart; {self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"choose another workdir, or delete {self._directory} to start over"


def _write(path: Path, tree: PyTree) -> None:
    _check_room(path, tree)
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree), force=True)
    except ValueError as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # a quota, or another program took the room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _checkpointer() -> ocp.Checkpointer:
    """Build a checkpointer of this process alone, which waits for no other one of a job."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _check_room(path: Path, tree: PyTree) -> None:
    """Refuse to begin what the disk has no room for: threads of Orbax that fail half-way print tracebacks."""
    needed = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree)) + OVERHEAD
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes needed", str(path))


def _read(path: Path, like: PyTree, *, partial: bool = False) -> PyTree:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    with _checkpointer() as checkpointer:
        return checkpointer.restore(
            path.absolute(), args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=partial)
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).exists():
        raise DamagedError("it has no manifest of its files")
    return read_sealed(path / MANIFEST, "it is passed over")


def _check_intact(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint and compare its files with it."""
    manifest = _read_manifest(path)
    if changed := damaged(path, manifest["files"]):
        raise DamagedError(f"it is damaged: {', '.join(changed[:3])} missing or changed")
    return manifest


def _check_alike(stored: np.ndarray, like: AnyArray) -> None:
    if np.shape(stored) != np.shape(like):
        raise ValueError(f"an array of shape {np.shape(stored)} is stored where {np.shape(like)} is expected")
