"""Where expert snapshots are kept while a method samples from them: on the devices, or on the host and fetched ahead.

Axis letters: E experts, T snapshots, P parameters.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd.core.parallel import replicate, spread
from jaxdd.experts.trajectories import Trajectories, named_snapshots
from jaxdd.types import AnyArray, Array, PyTree

Residency = Literal["auto", "device", "host"]
Names = list[tuple[Array, Array]]
SHARE = 0.5
"""The part of a device's memory that snapshots may take up; training needs the rest."""


def resolve(residency: Residency, snapshots: AnyArray, mesh: Mesh) -> Residency:
    """Choose where snapshots are kept: `auto` means on the devices if they take up at most half of the memory of each.

    Args:
        residency: What was asked for.
        snapshots: `[E, T, P]`.
        mesh: The devices. Where their number divides E, each holds its part of the experts, else a copy of all.

    Returns:
        `device` or `host`. A device that does not tell its memory, a CPU, holds them.
    """
    if residency != "auto":
        return residency
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    held = snapshots.nbytes if snapshots.shape[0] % mesh.size else snapshots.nbytes // mesh.size
    return "host" if limit is not None and held > SHARE * limit else "device"


def place(trajectories: Trajectories) -> Trajectories:
    """Put experts on the devices: snapshots divided over them if their number divides E, copies of the rest."""
    rest = replicate(trajectories._replace(snapshots=None))
    return rest if trajectories.snapshots is None else rest._replace(snapshots=spread(trajectories.snapshots))


class Fetcher:
    """Fetches from the host what the next steps read, while the devices compute the present ones.

    Args:
        draw: `(key, step, sources) -> Batch`, in which `Snapshots` are named.
        snapshots: `[E, T, P]` on the host; None if the devices hold them and nothing is to be fetched.
        length: How many steps to fetch for at a time.
    """

    def __init__(self, draw: Callable[..., PyTree], snapshots: np.ndarray | None, length: int):
        self._snapshots = snapshots

        def names(key: Array, sources: PyTree, first: Array) -> Names:
            def of_step(step: Array) -> Names:
                return [(named.expert, named.position) for named in named_snapshots(draw(key, step, sources))]

            return jax.lax.map(of_step, first + jnp.arange(length))

        self._names = jax.jit(names)

    def names(self, key: Array, sources: PyTree, first: int) -> Names | None:
        """Look up which snapshots the steps from `first` on read; to be called before other work."""
        return None if self._snapshots is None else self._names(key, sources, jnp.int32(first))

    def fetch(self, names: Names | None) -> list[Array] | None:
        """Send these snapshots to the devices, `[length, …, P]` each, without waiting for their arrival."""
        if self._snapshots is None or names is None:
            return None
        rows = [self._snapshots[np.asarray(expert), np.asarray(position)] for expert, position in names]
        return replicate(rows)
