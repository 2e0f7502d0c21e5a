"""Accuracy under attack: how often a network is still right when an image is changed a little to deceive it.

Axis letters: B batch, C classes, H W K image height, width and channels.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.settings import AtLeast, Fraction, Settings
from jaxdd.types import Array, Examples, Params


@dataclasses.dataclass(frozen=True)
class Attack(Settings, path="attack"):
    """Projected gradient descent on the pixels, PGD. [published: Madry et al. 2018, arXiv 1706.06083]."""

    radius: Annotated[float, Fraction] = 0.0
    """ε, how far a pixel may be moved, where [0, 1] is black to white: 0.0314 is 8/255; 0 for no attack."""
    steps: Annotated[int, AtLeast(1)] = 10
    """Steps of 2.5 ε / steps each, so that every corner of the box can be reached."""
    images: Annotated[int, AtLeast(1)] = 1000
    """How many images to attack, the first of the split."""


def attacked(task: Task, params: Params, examples: Examples, normalization: Any, attack: Attack) -> Array:
    """Move the pixels x of images within `|x' − x| ≤ ε`, `0 ≤ x' ≤ 1`, up the network's loss; pure.

    `x' ← clip(x' + (2.5 ε / steps) · sign ∇_x' ℓ(θ, x'), x − ε, x + ε)`, then to [0, 1], starting at x.

    Args:
        task: Its losses are climbed.
        params: θ.
        examples: `[B]`, normalized.
        normalization: How they were normalized.
        attack: ε and the steps.

    Returns:
        `[B, H, W, K]` images, normalized.
    """
    start = jnp.clip(normalization.inverse(examples.inputs), 0, 1)

    def loss(pixels: Array) -> Array:
        return jnp.sum(task.losses(params, examples._replace(inputs=normalization(255 * pixels))))

    def ascend(_: int, pixels: Array) -> Array:
        moved = pixels + 2.5 * attack.radius / attack.steps * jnp.sign(jax.grad(loss)(pixels))
        return jnp.clip(jnp.clip(moved, start - attack.radius, start + attack.radius), 0, 1)

    return normalization(255 * jax.lax.fori_loop(0, attack.steps, ascend, start))


def accuracy_under_attack(task: Task, params: Params, split: RealSet, attack: Attack) -> Array:
    """Compute the fraction of the first images of a split that a network classifies right under attack, a scalar.

    Raises:
        SettingError: The split has no images that were normalized from pixels.
    """
    normalization = split.normalization
    if normalization is None:
        raise SettingError("an attack moves pixels, and this split has no normalization that leads back to them")
    first = split._replace(
        inputs=jax.tree.map(lambda x: x[: attack.images], split.inputs), targets=split.targets[: attack.images]
    )

    def right(examples: Examples, params: Params, normalization: Any) -> Array:
        inputs = attacked(task, params, examples, normalization, attack)
        return jnp.argmax(task.model.apply(params, inputs), -1) == jnp.argmax(examples.targets, -1)

    return jnp.mean(sampling.over_all(right, first, params, normalization), dtype=float)


def confusion(task: Task, params: Params, split: RealSet) -> Array:
    """Count a split's examples by true class and the class that a network gives, `[C, C]` int32; rows are true."""

    def found(examples: Examples, params: Params) -> Array:
        return jnp.argmax(task.model.apply(params, examples.inputs), -1)

    classes = task.classes or 0
    predicted = sampling.over_all(found, split, params)
    return jnp.zeros((classes, classes), jnp.int32).at[split.targets, predicted].add(1)
