"""What every method shares: its settings, its sources, and its outer optimiser.

Axis letters: B batch, M distilled items, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.augment import dsa
from jaxdd.choices import check_choices
from jaxdd.data.sampling import RealSet
from jaxdd.distilled import Distilled
from jaxdd.trajectories import Trajectories
from jaxdd.types import Array, Examples, PyTree


class Sources(NamedTuple):
    """All that a method samples from; lives on the devices.

    Attributes:
        real: The real training set.
        trajectories: The experts, None for a method that needs none. Their snapshots are `[E, T, 0]` where they stay
            on the host: a method's `sample` names those that it reads, see `Snapshots`.
        cache: What the method's `prepare` computed.
        validation: The validation split, for a method that learns from it; None for all others.
    """

    real: RealSet
    trajectories: Trajectories | None = None
    cache: Any = None
    validation: RealSet | None = None

    @property
    def experts(self) -> Trajectories:
        """The trajectories, for a method that cannot do without.

        Raises:
            ValueError: There are none.
        """
        if self.trajectories is None:
            raise ValueError("this method samples from expert trajectories and was given none; train experts first")
        return self.trajectories


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """An outer optimiser of one variable."""

    name: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, or adam."""
    lr: float = 1.0
    """Learning rate."""
    momentum: float = 0.5
    """Momentum of sgd; adam's first decay rate is its usual 0.9."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.lr >= 0 or not 0 <= self.momentum < 1:
            raise ValueError(f"optimiser has lr={self.lr}, momentum={self.momentum}; needs lr >= 0, 0 <= momentum < 1")

    def build(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        if self.name == "adam":
            return optax.adam(self.lr)
        return optax.sgd(self.lr, momentum=self.momentum or None)


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Settings that every method has."""

    ipc: int = 1
    """Images per class."""
    steps: int = 300
    """Outer steps: updates of the distilled set."""
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "real"
    """First images: random real ones, Gaussian noise, random real ones that the first expert classifies right, or a
    coreset in that expert's features (of pixels without experts)."""
    labels: Literal["hard", "soft", "learned"] = "hard"
    """Labels: one-hot; the mean logits of the final experts, fixed; or the same as a start, learned."""
    image_optimiser: Optimiser = Optimiser()
    """Optimiser of the images."""
    label_optimiser: Optimiser = Optimiser()
    """Optimiser of the label logits, where they are learned."""
    augment: str = "none"
    """Siamese augmentation during distillation: operations of color_crop_cutout_flip_scale_rotate, or none."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.ipc < 1:
            raise ValueError(f"method.ipc is {self.ipc}; distil to at least 1 image per class")
        if self.steps < 0:
            raise ValueError(f"method.steps is {self.steps}; give 0 or more outer steps")
        dsa(self.augment, siamese=True)  # refuses an unknown operation now, before any work

    @property
    def name(self) -> str:
        """What the method is called: its module's name."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def items_per_class(self) -> int:
        """How many items of each class the distilled set has: `ipc`, unless stored images stand for several items."""
        return self.ipc

    @property
    def snapshots_needed(self) -> int:
        """How many snapshots of each expert the method reads; 0 if it does without experts."""
        return 0

    @property
    def needs_experts(self) -> bool:
        """Whether experts have to be trained for the method or for the first value of its distilled set."""
        return self.snapshots_needed > 0 or self.labels != "hard" or self.init == "correct"

    @property
    def needs_validation(self) -> bool:
        """Whether the method learns from the validation split."""
        return False


def softened(distilled: Distilled, indices: Array) -> Examples:
    """Give the distilled items at `indices [B]` as examples with targets softmax(labels) and equal weights."""
    batch = indices.shape[-1]
    images = distilled.images[indices]
    weights = jnp.full((batch,), 1 / batch, images.dtype)
    return Examples(images, jax.nn.softmax(distilled.labels[indices]), weights, indices)


def by_class(distilled: Distilled) -> Distilled:
    """Cut a set, whose items are in the order of the classes, into a set for each: a leading axis C on every field."""
    classes = distilled.labels.shape[-1]
    images, labels = (x.reshape(classes, -1, *x.shape[1:]) for x in (distilled.images, distilled.labels))
    return Distilled(images, labels, jnp.broadcast_to(distilled.lr, (classes,)))


def sum_over_classes(function: Callable[..., Array], distilled: Distilled, *entries: PyTree) -> Array:
    """Compute `Σ_c f(S_c, …)`, one class after another.

    Side by side, C batches need C times the memory, and on CPUs they are slower: DC's gradient took 2.5 to 4 times as
    long on ten classes of digits or 28×28 images.

    Args:
        function: f, `(S_c, entry of class c, …) -> scalar`.
        distilled: The set S.
        entries: Trees of arrays with a leading axis C.

    Returns:
        A scalar. A gradient computes the terms again, class by class, and needs the memory of one.
    """
    return jnp.sum(jax.lax.map(jax.checkpoint(lambda entry: function(*entry)), (by_class(distilled), *entries)))


def slope_over_classes(
    function: Callable[..., Array], distilled: Distilled, *entries: PyTree
) -> tuple[Array, Distilled]:
    """Compute `sum_over_classes` and its gradient in S.

    The gradient of a class is taken as soon as its term is computed, so that nothing of a class is kept for the next:
    the memory is that of one class.
    """
    sets, pull = jax.vjp(by_class, distilled)
    values, slopes = jax.lax.map(lambda entry: jax.value_and_grad(function)(*entry), (sets, *entries))
    return jnp.sum(values), pull(slopes)[0]


def all_items(distilled: Distilled) -> Examples:
    """Give all distilled items as examples of equal weights."""
    return softened(distilled, jnp.arange(len(distilled.images)))


def outer_optimiser(
    images: Optimiser | None, labels: Optimiser | None = None, lr: Optimiser | None = None
) -> optax.GradientTransformation:
    """Build the optimiser of a `Distilled`, one transformation per variable; a variable without one stays fixed."""
    return optax.partition(outer_transforms(images, labels, lr), Distilled._make(Distilled._fields))


def outer_transforms(
    images: Optimiser | None, labels: Optimiser | None = None, lr: Optimiser | None = None
) -> dict[str, optax.GradientTransformation]:
    """Name the transformations of the variables of a `Distilled`, for an optimiser that has more of them."""
    optimisers = {"images": images, "labels": labels, "lr": lr}
    return {name: o.build() if o is not None else optax.set_to_zero() for name, o in optimisers.items()}


def no_cache(key: Array, sources: Sources) -> None:
    """Cache nothing: the `prepare` of most methods."""
    del key, sources
