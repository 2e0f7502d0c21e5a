"""Devices: one mesh axis `data`, over which real batches and networks are spread. No method knows of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdd.types import Examples, PyTree


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices, all of them by default, along the one axis `data`."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_examples(batch: PyTree, mesh: Mesh) -> PyTree:
    """Spread the real examples of a method's batch over the devices, inside jit.

    Every `Examples` in the batch is split along its example axis; one that the number of devices does not divide stays
    whole. Everything else is left as it is.
    """

    def shard(node: Any) -> Any:
        if not isinstance(node, Examples) or node.indices.shape[-1] % mesh.size:
            return node
        spec = P(*[None] * (node.indices.ndim - 1), "data")
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec)), node)

    return jax.tree.map(shard, batch, is_leaf=lambda node: isinstance(node, Examples))


def map_networks(function: Callable[..., PyTree], mesh: Mesh, xs: PyTree, *constants: PyTree) -> PyTree:
    """Compute `function(x, *constants)` for every x along the leading axis of `xs`, spread over the devices; in jit.

    Each device takes its networks one after another: side by side, their convolutions would become grouped ones,
    which are slower than a loop.

    Args:
        function: `(x, *constants) -> tree of arrays`.
        mesh: The devices.
        xs: Tree of arrays with leading axis n: keys, one for each network, and whatever else differs between them.
        constants: What every call shares.

    Returns:
        The results stacked along a leading axis n, on every device, so that every process of a job can read them.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    missing = -count % mesh.size
    padded = jax.tree.map(lambda x: jnp.concatenate([x, jnp.broadcast_to(x[:1], (missing, *x.shape[1:]))]), xs)
    run = jax.shard_map(
        lambda xs, *constants: jax.lax.map(lambda x: function(x, *constants), xs),
        mesh=mesh,
        in_specs=(P("data"), *[P()] * len(constants)),
        out_specs=P("data"),
        check_vma=False,
    )
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere)[:count], run(padded, *constants))


def to_host(tree: PyTree) -> PyTree:
    """Fetch arrays to the host as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
