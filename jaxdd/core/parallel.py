"""Work that devices share: independent items, in sequence on each device, the devices side by side.

The only file that knows the mesh axis. Everything below the driver calls `map_over` and `sum_over` and does not know
how many devices there are: they look for the mesh that `over_devices` (or `jax.set_mesh`) has set. Without one, or
within an item of another call, they are a scan.

Axis letters: n items, D devices, B real batch.
"""

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdd.errors import SettingError
from jaxdd.types import AnyArray, Array, Examples, PyTree

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices, all of them by default, along one axis."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


@contextlib.contextmanager
def over_devices() -> Iterator[Mesh]:
    """Set the mesh that work is shared over: the one that is set already, or else all devices.

    Raises:
        ValueError: The mesh that is set is not one axis named `data`, as `make_mesh` builds it.
    """
    ambient = jax.sharding.get_mesh()
    if ambient.empty:
        mesh = make_mesh()
        with jax.set_mesh(mesh):
            yield mesh
    elif ambient.axis_names != (AXIS,):
        raise SettingError(f"the mesh that is set has the axes {ambient.axis_names}; set jaxdd.make_mesh(devices)")
    else:
        yield ambient


def map_over(function: Callable[..., PyTree], items: PyTree, *shared: PyTree) -> PyTree:
    """Compute `function(item, *shared)` for every item along the leading axis of `items`.

    Each device takes its items one after another: side by side, networks would have grouped convolutions, which are
    slower than a loop, and batches would all be in memory at once.

    Args:
        function: `(item, *shared) -> tree of arrays`, pure.
        items: Tree of arrays with leading axis n. Where the devices do not divide n, some compute an item again, which
            is dropped; where items are fewer than devices and hold `Examples`, these are split instead.
        shared: What every call is given, whole on every device. The function closes over no arrays of the computation
            around it: they are passed here.

    Returns:
        The results stacked along a leading axis n.

    Raises:
        ValueError: The function closes over such an array, and devices share the work.
    """
    mesh = _free_mesh()
    if mesh is None or _splits(items, mesh.size):
        items = items if mesh is None else split(items)
        return jax.lax.map(lambda item: function(item, *shared), items)
    _refuse_closures(function)
    count, (items, _) = _length(items), _padded(items, mesh.size)

    def on_device(items: PyTree, *shared: PyTree) -> PyTree:
        return jax.lax.map(lambda item: function(item, *shared), items)

    results = _side_by_side(on_device, (items,), shared)
    return jax.tree.map(lambda x: x[:count], results)


def sum_over(function: Callable[..., PyTree], items: PyTree, *shared: PyTree) -> PyTree:
    """Compute `Σ_i function(item_i, *shared)` over the leading axis of `items`.

    Differentiable any number of times, in the items and in what is shared: a gradient computes each term again, and
    needs the memory of one.

    Args:
        function: `(item, *shared) -> tree of arrays`, pure.
        items: As for `map_over`.
        shared: As for `map_over`.

    Returns:
        A tree as `function` gives. On another number of devices the terms are added in another order.

    Raises:
        ValueError: As for `map_over`.
    """
    mesh = _free_mesh()
    if mesh is None or _splits(items, mesh.size):
        items = items if mesh is None else split(items)
        return _scan_sum(function, items, None, shared)
    _refuse_closures(function)
    items, valid = _padded(items, mesh.size)

    def on_device(items: PyTree, valid: Array | None, *shared: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x[None], _scan_sum(function, items, valid, shared))

    partial_sums = _side_by_side(on_device, (items, valid), shared)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), partial_sums)


def mean_over(function: Callable[..., PyTree], items: PyTree, *shared: PyTree) -> PyTree:
    """Compute the mean of `function(item_i, *shared)`, see `sum_over`."""
    count = _length(items)
    return jax.tree.map(lambda x: x / count, sum_over(function, items, *shared))


def split(tree: PyTree) -> PyTree:
    """Split every `Examples` of a tree along its axis B over the devices, inside jit.

    One that the number of devices does not divide stays whole, and so does all else.
    """
    mesh = _free_mesh()
    if mesh is None:
        return tree

    def place(node: Any) -> Any:
        if not isinstance(node, Examples) or node.indices.shape[-1] % mesh.size:
            return node
        spec = P(*[None] * (node.indices.ndim - 1), AXIS)
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), node)

    return jax.tree.map(place, tree, is_leaf=_is_examples)


def whole(tree: PyTree) -> PyTree:
    """Replicate every array on every device, inside jit."""
    if _free_mesh() is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def lanes() -> int:
    """Return how many devices share independent items: 1 without a mesh, or within an item."""
    mesh = _free_mesh()
    return 1 if mesh is None else int(mesh.size)


def replicate(tree: PyTree) -> PyTree:
    """Put a copy of every array on every device of the mesh that is set."""
    sharding = NamedSharding(jax.sharding.get_mesh(), P())
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def spread(tree: PyTree) -> PyTree:
    """Divide every array over the devices along its first axis; one that does not divide is put on all of them."""
    mesh = jax.sharding.get_mesh()

    def place(x: AnyArray) -> Array:
        return _put(x, NamedSharding(mesh, P() if x.shape[0] % mesh.size else P(AXIS)))

    return jax.tree.map(place, tree)


def _put(x: AnyArray, sharding: NamedSharding) -> Array:
    """Put an array that every process has on devices, those of other processes among them."""
    elsewhere = not sharding.is_fully_addressable
    if not elsewhere or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x[index]))


def to_host(tree: PyTree) -> PyTree:
    """Fetch arrays to the host as NumPy arrays, whole on every process of a job."""

    def fetch(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(fetch, tree)))


def program_memory(compiled: Any) -> int:
    """Return the bytes that a compiled program takes up on a device: what it reads, gives and needs between."""
    found = compiled.memory_analysis()
    kept = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(kept + found.temp_size_in_bytes)


def device_memory() -> int:
    """Return the memory of one device in bytes; that of the host, shared among them, where devices do not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or host_memory() // jax.local_device_count()


def host_memory() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_mesh() -> Any:
    """Return the ambient mesh if it has devices to share work over, and none of it is shared yet."""
    mesh = jax.sharding.get_abstract_mesh()
    free = not mesh.empty and mesh.size > 1 and mesh.axis_types == (AxisType.Auto,)
    return mesh if free else None


def _splits(items: PyTree, devices: int) -> bool:
    """Return whether items are so few that real examples within them are to be split."""
    return _length(items) < devices and any(map(_is_examples, jax.tree.leaves(items, is_leaf=_is_examples)))


def _is_examples(node: Any) -> bool:
    return isinstance(node, Examples)


def _length(items: PyTree) -> int:
    return jax.tree.leaves(items)[0].shape[0]


def _padded(items: PyTree, devices: int) -> tuple[PyTree, Array | None]:
    """Repeat the first item until devices divide the items: these, and which are no repetition (None for all)."""
    count = _length(items)
    missing = -count % devices
    if not missing:
        return items, None
    padded = jax.tree.map(lambda x: jnp.concatenate([x, jnp.broadcast_to(x[:1], (missing, *x.shape[1:]))]), items)
    return padded, jnp.arange(count + missing) < count


def _refuse_closures(function: Callable[..., PyTree]) -> None:
    """Refuse a function that closes over traced arrays: JAX fails on many of their uses inside `shard_map`."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=True):
        value = cell.cell_contents
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
            raise SettingError(
                f"{function.__name__}, which devices are to share, closes over the array {name}: pass it as a "
                "shared argument, function(item, *shared)"
            )
        if inspect.isfunction(value):
            _refuse_closures(value)


def _side_by_side(on_device: Callable[..., PyTree], items: tuple[PyTree, ...], shared: tuple[PyTree, ...]) -> PyTree:
    specs = (*[P(AXIS)] * len(items), *[P()] * len(shared))
    return jax.shard_map(on_device, in_specs=specs, out_specs=P(AXIS), check_vma=False)(*items, *shared)


def _scan_sum(
    function: Callable[..., PyTree], items: PyTree, valid: Array | None, shared: tuple[PyTree, ...]
) -> PyTree:
    def add(total: PyTree, entry: tuple[PyTree, Array | None]) -> tuple[PyTree, None]:
        item, counts = entry
        term = jax.checkpoint(function, prevent_cse=False)(item, *shared)
        if counts is not None:
            term = jax.tree.map(lambda x: x * counts.astype(x.dtype), term)
        return jax.tree.map(jnp.add, total, term), None

    first = jax.tree.map(lambda x: x[0], items)
    shapes = jax.eval_shape(lambda item: function(item, *shared), first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (items, valid))[0]
