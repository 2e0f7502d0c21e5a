"""Drawing batches of real examples: pure functions of a key, jittable, over a set that lives on the device.

Axis letters: B real batch, C classes, H W K image, N real examples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.data.normalisation import Normalisation
from jaxdd.types import Array, Examples


class RealSet(NamedTuple):
    """Real examples as the samplers of this module read them; a pytree.

    Attributes:
        images: `[N, H, W, K]` uint8.
        labels: `[N]` int32.
        class_table: `[C, n_max]` int32 indices of each class's examples, padded by repeating the class's own.
        class_sizes: `[C]` int32 number of examples of each class, all ≥ 1.
        normalisation: what `take` normalises with.
    """

    images: np.ndarray | Array
    labels: np.ndarray | Array
    class_table: np.ndarray | Array
    class_sizes: np.ndarray | Array
    normalisation: Normalisation


def real_set(images: np.ndarray, labels: np.ndarray, num_classes: int, normalisation: Normalisation) -> RealSet:
    """Index examples by class, on the host.

    Args:
        images: `[N, H, W, K]` uint8.
        labels: `[N]` integers in [0, C).
        num_classes: C.
        normalisation: what `take` will normalise with.

    Returns:
        A set of numpy arrays; `jax.device_put` moves it to devices.

    Raises:
        ValueError: if the lengths differ, a label is out of range, or a class has no example.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels; every image needs one label")
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(f"labels span {labels.min()}..{labels.max()}, but {num_classes} classes need 0..C−1")
    members = [np.flatnonzero(labels == label) for label in range(num_classes)]
    sizes = np.array([len(indices) for indices in members], np.int32)
    if not sizes.all():
        raise ValueError(f"class {int(np.argmin(sizes))} has no example; remove the class or add images of it")
    table = np.stack([np.resize(indices, sizes.max()) for indices in members]).astype(np.int32)
    return RealSet(images, labels.astype(np.int32), table, sizes, normalisation)


def take(real: RealSet, indices: np.ndarray | Array) -> Examples:
    """Gather examples: normalised images, one-hot targets, weights `1/B`.

    Args:
        real: the set to take from.
        indices: `[..., B]` positions in the set.

    Returns:
        Examples with the leading axes of `indices`.
    """
    indices = jnp.asarray(indices, jnp.int32)
    return Examples(
        images=real.normalisation(jnp.asarray(real.images)[indices]),
        targets=jax.nn.one_hot(jnp.asarray(real.labels)[indices], real.class_sizes.shape[0]),
        weights=jnp.full(indices.shape, 1 / indices.shape[-1]),
        indices=indices,
    )


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
        raise ValueError(f"batch must be at least 1, got {batch}")
    return jax.random.randint(key, (batch,), 0, real.labels.shape[0], jnp.int32)


def balanced(key: Array, real: RealSet, per_class: int, preferred: Array | None = None) -> Array:
    """Draw the same number of examples from every class, without replacement within a class.

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
    largest = real.class_table.shape[1]
    if not 1 <= per_class <= largest:
        raise ValueError(f"per_class must lie in 1..{largest}, the size of the largest class, got {per_class}")
    return jnp.take_along_axis(jnp.asarray(real.class_table), _shuffled(key, real, per_class, preferred), axis=1)


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
        raise ValueError(f"batch must be at least 1, got {batch}")
    order = _shuffled(key, real, min(batch, real.class_table.shape[1]))
    turns = jnp.arange(batch)[None] % jnp.asarray(real.class_sizes)[:, None]
    return jnp.take_along_axis(jnp.asarray(real.class_table), jnp.take_along_axis(order, turns, axis=1), axis=1)


def _shuffled(key: Array, real: RealSet, count: int, preferred: Array | None = None) -> Array:
    """Shuffle the columns of each row of the class table, its padding last, and keep the first ones: `[C, count]`."""
    noise = jax.random.uniform(key, real.class_table.shape)
    if preferred is not None:
        noise += preferred[jnp.asarray(real.class_table)]
    is_member = jnp.arange(real.class_table.shape[1])[None] < jnp.asarray(real.class_sizes)[:, None]
    return jax.lax.top_k(jnp.where(is_member, noise, -1.0), count)[1]


def check_per_class(real: RealSet, per_class: int) -> None:
    """Refuse to draw more from a class than it has, on the host and before anything is compiled.

    Args:
        real: the set that `balanced` will draw from.
        per_class: number of draws from each class.

    Raises:
        ValueError: if `per_class` is not positive or exceeds the smallest class, which is named.
    """
    sizes = np.asarray(real.class_sizes)
    if not 1 <= per_class <= sizes.min():
        raise ValueError(
            f"cannot draw {per_class} examples per class without replacement: class {int(sizes.argmin())} has "
            f"{sizes.min()}; choose 1 to {sizes.min()} (method.ipc)"
        )
