"""Where expert snapshots are kept while a method samples from them: on the devices, or on the host and fetched ahead.

Axis letters: E experts, T snapshots, P parameters.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd.mesh import replicate
from jaxdd.trajectories import Trajectories, named_snapshots
from jaxdd.types import AnyArray, Array, PyTree

Residency = Literal["auto", "device", "host"]
Names = list[tuple[Array, Array]]
SHARE = 0.5
"""The part of a device's memory that snapshots may take up; training needs the rest."""


def resolve(residency: Residency, snapshots: AnyArray, mesh: Mesh) -> Residency:
    """Say where snapshots are kept: `auto` means on the devices if they take up at most half of the memory of each.

    Args:
        residency: What was asked for.
        snapshots: `[E, T, P]`.
        mesh: The devices, each of which holds a copy.

    Returns:
        `device` or `host`. A device that does not tell its memory, a CPU, holds them.
    """
    if residency != "auto":
        return residency
    stats = mesh.local_devices[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return "host" if limit is not None and snapshots.nbytes > SHARE * limit else "device"


def without_snapshots(trajectories: Trajectories) -> Trajectories:
    """Leave out the snapshots, but not how many there are: `[E, T, 0]`."""
    return trajectories._replace(snapshots=np.zeros((*trajectories.snapshots.shape[:2], 0), np.float32))


class Fetcher:
    """Fetches from the host what the next steps read, while the devices compute the present ones.

    Args:
        draw: `(key, step, sources) -> Batch`, in which `Snapshots` are named.
        snapshots: `[E, T, P]` on the host; None if the devices hold them and nothing is to be fetched.
        length: How many steps to fetch for at a time.
        mesh: The devices.
    """

    def __init__(self, draw: Callable[..., PyTree], snapshots: np.ndarray | None, length: int, mesh: Mesh):
        self._snapshots = snapshots
        self._mesh = mesh

        def names(key: Array, sources: PyTree, first: Array) -> Names:
            def of_step(step: Array) -> Names:
                return [(named.expert, named.position) for named in named_snapshots(draw(key, step, sources))]

            return jax.lax.map(of_step, first + jnp.arange(length))

        self._names = jax.jit(names)

    def names(self, key: Array, sources: PyTree, first: int) -> Names | None:
        """Have the devices say which snapshots the steps from `first` on read; to be called before other work."""
        return None if self._snapshots is None else self._names(key, sources, jnp.int32(first))

    def fetch(self, names: Names | None) -> list[Array] | None:
        """Send these snapshots to the devices, `[length, …, P]` each, without waiting for their arrival."""
        if self._snapshots is None or names is None:
            return None
        rows = [self._snapshots[np.asarray(expert), np.asarray(position)] for expert, position in names]
        return replicate(rows, self._mesh)
