"""Drawing batches of real examples: pure functions of a key, jittable, over a set that lives on the device.

Axis letters: B real batch, C classes, H W K image, N real examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.normalization import Normalization
from jaxdd.core.parallel import lanes, map_over
from jaxdd.errors import SettingError
from jaxdd.types import AnyArray, Array, Examples, PyTree

CHUNK = 500
"""Examples in memory at a time where a whole set is read."""


class Classes(NamedTuple):
    """Which examples belong to which class.

    Attributes:
        table: `[C, n_max]` int32 positions of each class's examples, padded by repeating the class's own.
        sizes: `[C]` int32 number of examples of each class.
    """

    table: AnyArray
    sizes: AnyArray


class RealSet(NamedTuple):
    """Real examples as experts, methods and evaluation read them; a pytree.

    Attributes:
        inputs: Tree of arrays `[N, *]` as they are stored; images `[N, H, W, K]` uint8.
        targets: Tree of arrays `[N, *]`; with classes, `[N]` int32 classes, which `take` makes one-hot.
        classes: The examples of each class; None where examples belong to none.
        normalization: `inputs -> inputs` as the network sees them, a pytree; None for inputs that are stored so.
    """

    inputs: PyTree
    targets: PyTree
    classes: Classes | None = None
    normalization: Any = None

    @property
    def size(self) -> int:
        """N, the number of examples."""
        size: int = jax.tree.leaves(self.targets)[0].shape[0]
        return size

    @property
    def groups(self) -> Classes:
        """The classes, or else all examples as one group."""
        if self.classes is not None:
            return self.classes
        return Classes(np.arange(self.size, dtype=np.int32)[None], np.array([self.size], np.int32))


def real_set(images: np.ndarray, labels: np.ndarray, num_classes: int, normalization: Normalization) -> RealSet:
    """Index labeled images by class, on the host.

    Args:
        images: `[N, H, W, K]` uint8.
        labels: `[N]` integers in [0, C).
        num_classes: C.
        normalization: what `take` will normalize with.

    Returns:
        A set of numpy arrays; `jax.device_put` moves it to devices. A class may be without examples: `check_per_class`
        refuses that for sets that are drawn from class by class.

    Raises:
        ValueError: if the lengths differ or a label is out of range.
    """
    if len(images) != len(labels):
        raise SettingError(f"{len(images)} images but {len(labels)} labels; every image needs one label")
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise SettingError(f"labels span {labels.min()}..{labels.max()}, but {num_classes} classes need 0..C−1")
    members = [np.flatnonzero(labels == label) for label in range(num_classes)]
    sizes = np.array([len(indices) for indices in members], np.int32)
    table = np.stack([np.resize(indices, sizes.max(initial=1)) for indices in members]).astype(np.int32)
    return RealSet(images, labels.astype(np.int32), Classes(table, sizes), normalization)


def take(real: RealSet | Examples, indices: AnyArray) -> Examples:
    """Gather examples.

    Args:
        real: the set to take from; of `Examples`, which are in memory as the network sees them, the rows.
        indices: `[..., B]` positions in the set.

    Returns:
        Examples with the leading axes of `indices`: normalized inputs, targets (one-hot where there are classes),
        weights `1/B`. Rows of `Examples` keep weights and positions of their own.
    """
    indices = jnp.asarray(indices, jnp.int32)
    if isinstance(real, Examples):
        return jax.tree.map(lambda x: x[indices], real)
    inputs, targets = (jax.tree.map(lambda x: jnp.asarray(x)[indices], tree) for tree in (real.inputs, real.targets))
    return Examples(
        inputs=inputs if real.normalization is None else real.normalization(inputs),
        targets=targets if real.classes is None else jax.nn.one_hot(targets, real.classes.sizes.shape[0]),
        weights=jnp.full(indices.shape, 1 / indices.shape[-1]),
        indices=indices,
    )


def in_order(data: RealSet | Examples, order: AnyArray) -> RealSet | Examples:
    """Return a set with its examples in another order, positions `[N]`; its table of classes stays as it was."""
    if isinstance(data, Examples):
        return take(data, order)
    inputs, targets = (jax.tree.map(lambda x: jnp.asarray(x)[order], tree) for tree in (data.inputs, data.targets))
    return data._replace(inputs=inputs, targets=targets)


def size_of(data: RealSet | Examples) -> int:
    """Return N of a real set, or the number of examples."""
    return data.size if isinstance(data, RealSet) else data.indices.shape[0]


def chunks_of(size: int, largest: int = CHUNK, *, exact: bool = False) -> tuple[Array, Array]:
    """Cut `0 … size − 1`, size ≥ 1, into equal chunks of at most `largest`, their number a multiple of the devices'.

    Args:
        size: how many to cut.
        largest: the most of a chunk.
        exact: whether chunks are to have that size, or all there are, on any number of devices: they are batches, whose
            examples matter to each other.

    Returns:
        Positions `[n, B]`, filled up from the start where they do not divide, and which are no filling `[n, B]`.
    """
    length = min(largest, size)
    count = -(-size // length)
    if not exact:
        count = min(-(-count // lanes()) * lanes(), size)
        length = -(-size // count)
    positions = jnp.arange(count * length, dtype=jnp.int32).reshape(count, length)
    return positions % size, positions < size


def over_all(
    function: Callable[..., PyTree],
    data: RealSet | Examples,
    *shared: PyTree,
    largest: int = CHUNK,
    exact: bool = False,
) -> PyTree:
    """Apply a function of a batch to all examples of a set, a chunk at a time, the chunks spread over the devices.

    Args:
        function: `(examples [B], *shared) -> tree of arrays [B, *]`, each row of one example.
        data: N examples.
        shared: What every call is given, see `jaxdd.core.parallel.map_over`.
        largest: Examples in memory at a time.
        exact: Whether a chunk is a batch, see `chunks_of`.

    Returns:
        Tree of arrays `[N, *]`.
    """
    size = size_of(data)
    positions, _ = chunks_of(size, largest, exact=exact)
    found = map_over(lambda rows, data, *shared: function(take(data, rows), *shared), positions, data, *shared)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], found)


def uniform(key: Array, real: RealSet, batch: int) -> Array:
    """Draw examples uniformly and independently, with replacement: one may come twice.

    Args:
        key: random key.
        real: the set to draw from.
        batch: B, the number of draws; static.

    Returns:
        `[B]` int32 positions.

    Raises:
        ValueError: if `batch` is not positive.
    """
    if batch < 1:
        raise SettingError(f"batch must be at least 1, got {batch}")
    return jax.random.randint(key, (batch,), 0, real.size, jnp.int32)


def balanced(key: Array, real: RealSet, per_class: int, preferred: Array | None = None) -> Array:
    """Draw the same number of examples from every class, without replacement within a class.

    Where there are no classes, all examples are one.

    Every subset of a class is equally likely: the draws are the positions of the largest of i.i.d. uniform noise.

    `per_class` must not exceed the smallest class. Class sizes are values on the device, which a jitted function cannot
    check: call `check_per_class` once on the host.

    Args:
        key: random key.
        real: the set to draw from.
        per_class: number of draws from each class; static.
        preferred: `[N]` bool, examples of which all are drawn before any other of their class; none by default.

    Returns:
        `[C, per_class]` int32 positions; row c holds examples of class c.

    Raises:
        ValueError: if `per_class` is not positive or exceeds the largest class.
    """
    table = jnp.asarray(real.groups.table)
    largest = table.shape[1]
    if not 1 <= per_class <= largest:
        raise SettingError(f"per_class must lie in 1..{largest}, the size of the largest class, got {per_class}")
    return jnp.take_along_axis(table, _shuffled(key, real.groups, per_class, preferred), axis=1)


def classwise(key: Array, real: RealSet, batch: int) -> Array:
    """Draw a batch from every class, without replacement while the class lasts.

    A class that is smaller than the batch is drawn whole and then again in the same order.

    Args:
        key: random key.
        real: the set to draw from.
        batch: B, number of draws from each class; static, of any size.

    Returns:
        `[C, B]` int32 positions; row c holds examples of class c.

    Raises:
        ValueError: if `batch` is not positive.

    References:
        [published] without replacement, DC's code; [our choice] repetition, where that code makes the batch smaller.
    """
    if batch < 1:
        raise SettingError(f"batch must be at least 1, got {batch}")
    table, sizes = (jnp.asarray(x) for x in real.groups)
    order = _shuffled(key, real.groups, min(batch, table.shape[1]))
    turns = jnp.arange(batch)[None] % sizes[:, None]
    return jnp.take_along_axis(table, jnp.take_along_axis(order, turns, axis=1), axis=1)


def _shuffled(key: Array, groups: Classes, count: int, preferred: Array | None = None) -> Array:
    """Shuffle the columns of each row of the class table, its padding last, and keep the first ones: `[C, count]`."""
    table, sizes = (jnp.asarray(x) for x in groups)
    noise = jax.random.uniform(key, table.shape)
    if preferred is not None:
        noise += preferred[table]
    is_member = jnp.arange(table.shape[1])[None] < sizes[:, None]
    return jax.lax.top_k(jnp.where(is_member, noise, -1.0), count)[1]


def check_per_class(real: RealSet, per_class: int, remedy: str = "") -> None:
    """Refuse to draw more from a class than it has, on the host and before anything is compiled.

    Args:
        real: the set that `balanced` will draw from.
        per_class: number of draws from each class.
        remedy: what to do; by default to choose another ipc.

    Raises:
        ValueError: if `per_class` is not positive or exceeds the smallest class, which is named.
    """
    sizes = np.asarray(real.groups.sizes)
    if not 1 <= per_class <= sizes.min():
        where = "the set" if real.classes is None else f"class {int(sizes.argmin())}"
        raise SettingError(
            f"cannot draw {per_class} examples per class without replacement: {where} has {sizes.min()}; "
            + (remedy or f"choose 1 to {sizes.min()} (method.ipc)")
        )


def check_validation(split: RealSet | None) -> RealSet:
    """Refuse a validation split that a method cannot learn from.

    Raises:
        ValueError: if there is none, or it lacks a class.
    """
    if split is None:
        raise SettingError("the method learns from the validation split, which is empty; raise data.validation")
    if split.classes is not None and not np.asarray(split.classes.sizes).all():
        missing = int(np.argmin(np.asarray(split.classes.sizes)))
        raise SettingError(
            f"the validation split has no example of class {missing}: raise data.validation, or do without it"
        )
    return split
