"""What every method shares: its settings, its sources, and its outer optimizer.

Axis letters: B batch, M distilled items, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import optax

from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.sampling import RealSet
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Trajectories
from jaxdd.settings import AtLeast, Fraction, NonNegative, Settings
from jaxdd.types import Array, Batch, Init, Method, Scalars, Step, Task


class Sources(NamedTuple):
    """All that a method samples from; lives on the devices.

    Attributes:
        real: The real training set; None at the steps of a method that does not read it, see `needs_real`.
        trajectories: The experts, None for a method that needs none. They come without snapshots where these stay on
            the host: a method's `sample` names those that it reads, see `Snapshots`.
        cache: What the method's `prepare` computed.
        validation: The validation split, for a method that learns from it; None for all others.
    """

    real: RealSet | None = None
    trajectories: Trajectories | None = None
    cache: Any = None
    validation: RealSet | None = None

    @property
    def examples(self) -> RealSet:
        """The real training set, for a method that reads it.

        Raises:
            ValueError: It is not there.
        """
        if self.real is None:
            raise SettingError("this method samples real examples and was given none; say so by needs_real")
        return self.real

    @property
    def experts(self) -> Trajectories:
        """The trajectories, for a method that cannot do without.

        Raises:
            ValueError: There are none.
        """
        if self.trajectories is None:
            raise SettingError("this method samples from expert trajectories and was given none; train experts first")
        return self.trajectories


@dataclasses.dataclass(frozen=True)
class Optimizer(Settings, path="optimizer"):
    """An outer optimizer of one variable."""

    name: Literal["sgd", "adam"] = "sgd"
    """sgd with momentum, or adam."""
    lr: Annotated[float, NonNegative] = 1.0
    """Learning rate."""
    momentum: Annotated[float, Fraction] = 0.5
    """Momentum of sgd; adam's first decay rate is its usual 0.9."""

    def build(self) -> optax.GradientTransformation:
        """Build the optax transformation."""
        if self.name == "adam":
            return optax.adam(self.lr)
        return optax.sgd(self.lr, momentum=self.momentum or None)


@dataclasses.dataclass(frozen=True)
class MethodConfig(Settings, path="method"):
    """Settings that every method has. A method is a subclass with a `name` and `build`."""

    name: ClassVar[str] = "none"
    """What the method is called."""

    ipc: Annotated[int, AtLeast(1)] = 1
    """Images per class."""
    steps: Annotated[int, AtLeast(0)] = 300
    """Outer steps: updates of the distilled set."""
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "real"
    """First inputs: random real ones, Gaussian noise, random real ones that the first expert classifies right, or a
    coreset in that expert's features (of pixels without experts)."""
    labels: Literal["hard", "soft", "learned"] = "hard"
    """Labels: one-hot; the mean logits of the final experts, fixed; or the same as a start, learned."""
    image_optimizer: Optimizer = Optimizer()
    """Optimizer of the images."""
    label_optimizer: Optimizer = Optimizer()
    """Optimizer of the label logits, where they are learned."""
    augment: str = "none"
    """Siamese augmentation during distillation: operations of color_crop_cutout_flip_scale_rotate, or none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dsa(self.augment, siamese=True)  # refuses an unknown operation now, before any work

    def build(self, task: Task) -> Method:
        """Build the method for a task.

        Raises:
            ValueError: These settings belong to no method, or the method does not suit the task.
        """
        del task
        raise SettingError(f"{type(self).__qualname__} belongs to no method: give it build(task) -> Method, and a name")

    @property
    def title(self) -> str:
        """What the method with these settings is called in reports."""
        return self.name

    @property
    def learning_rates(self) -> dict[str, float]:
        """The outer learning rates, by what they move."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name.removesuffix("_optimizer"): value.lr for name, value in values if isinstance(value, Optimizer)}

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
    def needs_real(self) -> bool:
        """Whether the steps read real examples. The first set may be made of them all the same."""
        return True

    @property
    def needs_validation(self) -> bool:
        """Whether the method learns from the validation split."""
        return False


def outer_optimizer(
    images: Optimizer | None, labels: Optimizer | None = None, lr: Optimizer | None = None
) -> optax.GradientTransformation:
    """Build the optimizer of a `Distilled`, one transformation per variable; a variable without one stays fixed."""
    return optax.partition(outer_transforms(images, labels, lr), Distilled._make(Distilled._fields))


class State(NamedTuple):
    """What the next step of a method that descends on its set alone needs: the set and its optimizers' state."""

    distilled: Distilled
    optimizer: optax.OptState


def descent(
    optimizer: optax.GradientTransformation, slope: Callable[[Distilled, Batch], tuple[Array, Distilled]]
) -> tuple[Init, Step]:
    """Build init and step of a method whose every step descends a loss of the set and the batch.

    Args:
        optimizer: Of the set.
        slope: `(distilled, batch) -> (loss, gradient)`.

    Returns:
        The two functions, over a `State`; a step logs the loss, and the norm of its gradient in the inputs.
    """

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del key, sources
        return State(distilled, optimizer.init(distilled))

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        del key
        loss, grads = slope(state.distilled, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.distilled)
        new = State(optax.apply_updates(state.distilled, updates), optimizer_state)
        return new, {"loss": loss, "image_gradient": optax.tree.norm(grads.inputs)}

    return init, step


def outer_transforms(
    images: Optimizer | None, labels: Optimizer | None = None, lr: Optimizer | None = None
) -> dict[str, optax.GradientTransformation]:
    """Name the transformations of the variables of a `Distilled`, for an optimizer that has more of them."""
    optimizers = {"inputs": images, "labels": labels, "lr": lr}
    return {name: o.build() if o is not None else optax.set_to_zero() for name, o in optimizers.items()}
