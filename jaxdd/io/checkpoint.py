"""Orbax behind a handful of functions: trees of arrays in, trees of arrays out, every write atomic."""

import logging
import secrets
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdd.errors import SettingError
from jaxdd.types import AnyArray, PyTree

# Orbax reports every save on the root logger's INFO and some of its own deprecations as warnings.
logging.getLogger("absl").setLevel(logging.ERROR)


def save(path: Path, tree: dict[str, np.ndarray]) -> None:
    """Write a flat dictionary of arrays as the Orbax checkpoint `path`, replacing what is there."""
    shutil.rmtree(path, ignore_errors=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def load(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the named arrays of the Orbax checkpoint `path`, and no others, into host memory."""
    like = dict.fromkeys(names, 0)
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in like}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(
            path.absolute(), args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=True)
        )


class Checkpoints:
    """The checkpoints of one run: the newest two are kept, an unreadable one is set aside.

    Args:
        directory: Folder of the run's checkpoints, created if missing.
    """

    def __init__(self, directory: Path):
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False),
        )

    def save(self, step: int, tree: PyTree) -> None:
        """Write `tree` as the checkpoint of `step`; it counts only once it is complete."""
        self._manager.save(step, args=ocp.args.PyTreeSave(tree), force=True)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Read the newest readable checkpoint into the structure of `like`, as host arrays; None if there is none."""
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                tree = self._manager.restore(step, args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy))
                jax.tree.map(_check_alike, tree, like)
                return step, tree
            except (OSError, ValueError, KeyError) as error:
                # Out of the way, because its step will be written again, but not deleted: the fault may be elsewhere.
                aside = self._directory / f"unreadable_{step}_{secrets.token_hex(2)}"
                (self._directory / str(step)).rename(aside)
                self._manager.reload()
                warnings.warn(f"checkpoint {step} cannot be read and is now {aside}: {error}", stacklevel=2)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()


def _check_alike(stored: np.ndarray, like: AnyArray) -> None:
    if np.shape(stored) != np.shape(like):
        raise SettingError(f"an array of shape {np.shape(stored)} is stored where {np.shape(like)} is expected")
