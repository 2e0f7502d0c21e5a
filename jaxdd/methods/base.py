"""What a method is, and what every method shares: its settings, its sources, and its outer optimizer.

Axis letters: B batch, M distilled items, C classes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import optax

from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.sampling import RealSet, check_per_class
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Trajectories
from jaxdd.settings import AtLeast, Fraction, NonNegative, Settings
from jaxdd.types import Array, Batch, PyTree, Scalars, Scores


class Sources(NamedTuple):
    """All that a method samples from; lives on the devices.

    Attributes:
        real: The real training set; None for a method that does not read it, see `needs_real`.
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


class Init(Protocol):
    """The first state of a method, from its first distilled set."""

    def __call__(self, key: Array, distilled: Distilled, sources: Sources) -> PyTree:
        """Return the state before step 0."""


class Sample(Protocol):
    """Everything random that a step of a method needs."""

    def __call__(self, key: Array, step: Array, sources: Sources) -> Batch:
        """Return the batch of a step. It depends on the arguments alone."""


class Step(Protocol):
    """One update of a method's state."""

    def __call__(self, key: Array, state: PyTree, batch: Batch) -> tuple[PyTree, Scalars]:
        """Return the next state, and scalars to log, `loss` among them."""


class Prepare(Protocol):
    """What a method computes once, before its steps."""

    def __call__(self, key: Array, sources: Sources) -> PyTree:
        """Return what steps will find as `sources.cache`."""


class Objective(Protocol):
    """The loss that a step descends."""

    def __call__(self, distilled: Distilled, state: PyTree, batch: Batch) -> Array:
        """Return the loss at `distilled`, which replaces `state.distilled`, under the weights of the batch."""


class Method(NamedTuple):
    """A distillation method: pure functions over its State, which `config.build(task)` makes.

    A method neither jits nor prints, reads no files and does not know how many devices there are.

    Attributes:
        init: `(key, distilled, sources) -> State`, the state before step 0 from a first distilled set.
        sample: `(key, step, sources) -> Batch`, everything random that a step needs. Fields that name snapshots of
            experts are `Snapshots`: the driver fetches their parameters from wherever the experts are kept.
        step: `(key, state, batch) -> (State, {name: scalar})`, one update of the distilled set, and what to log of it:
            `loss`, and whatever else.
        distilled: `(state) -> Distilled`, the set as a user would save it.
        prepare: `(key, sources) -> cache`, runs once before the first step, and again after a resume: what steps will
            find as `sources.cache`.
        warn: `({name: value}) -> {topic: text}`, on the host, from what was logged: warnings, each given once.
        inspect: `(state) -> {name: array}`, logged at each evaluation: scalars, arrays for histograms, and `Scores` of
            the training examples, which a run also ranks in a table and shows on a page.
        objective: `(distilled, state, batch) -> scalar`, the loss that a step descends, as a function of the distilled
            set (`distilled` replaces `state.distilled`) and, through the weights of `batch.real`, of the real examples;
            None for methods without one.
    """

    init: Init
    sample: Sample
    step: Step
    distilled: Callable[[PyTree], Distilled]
    prepare: Prepare | None = None
    warn: Callable[[Mapping[str, float]], dict[str, str]] = lambda info: {}
    inspect: Callable[[PyTree], Mapping[str, Array | Scores]] = lambda state: {}
    objective: Objective | None = None


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
    teachers: Literal["all", "right"] = "all"
    """Experts whose logits are averaged for soft labels: all, or those that classify the item right (published for
    DATM), and all where none does."""
    image_optimizer: Optimizer = Optimizer()
    """Optimizer of the images."""
    label_optimizer: Optimizer = Optimizer()
    """Optimizer of the label logits, where they are learned."""
    augment: str = "none"
    """Siamese augmentation during distillation: one of color_crop_cutout_flip_scale_rotate, or fewer, at a time;
    several in turn, as flip+color+crop_scale_rotate+cutout (IDC, NCFM); or none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dsa(self.augment, siamese=True)  # refuses an unknown operation now, before any work
        try:
            hash(self)
        except TypeError as error:
            raise SettingError(
                f"a setting of {self.name} cannot be hashed ({error}), and what is compiled is found again by the "
                "settings; give a tuple in place of a list"
            ) from error

    def build(self, task: Task) -> Method:
        """Build the method for a task.

        Raises:
            ValueError: These settings belong to no method, or the method does not suit the task.
        """
        del task
        raise SettingError(f"{type(self).__qualname__} belongs to no method: give it build(task) -> Method, and a name")

    def check(self, real: RealSet) -> None:
        """Refuse real examples that the distilled set cannot be made of, on the host, before anything is computed.

        Raises:
            ValueError: A class has fewer than `items_per_class`.
        """
        check_per_class(real, self.items_per_class)

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
    def needs_features(self) -> bool:
        """Whether it reads the features of networks: to match them, or to choose the first items by an expert's."""
        return self.needs_experts and self.init in ("herding", "k_center")

    @property
    def needs_real(self) -> bool:
        """Whether the steps, or what is prepared for them, read real examples; the first set may in any case."""
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


def descending(
    optimizer: optax.GradientTransformation,
    sample: Sample,
    objective: Callable[[Distilled, Batch], Array],
    prepare: Prepare | None = None,
) -> Method:
    """Build a method whose every step descends a loss of the set and the batch, by its gradient.

    Args:
        optimizer: Of the set.
        sample: See `Method`.
        objective: `(distilled, batch) -> loss`.
        prepare: See `Method`.
    """
    init, step = descent(optimizer, jax.value_and_grad(objective))
    return Method(
        init,
        sample,
        step,
        lambda state: state.distilled,
        prepare=prepare,
        objective=lambda distilled, state, batch: objective(distilled, batch),
    )


def outer_transforms(
    images: Optimizer | None, labels: Optimizer | None = None, lr: Optimizer | None = None
) -> dict[str, optax.GradientTransformation]:
    """Name the transformations of the variables of a `Distilled`, for an optimizer that has more of them."""
    optimizers = {"inputs": images, "labels": labels, "lr": lr}
    return {name: o.build() if o is not None else optax.set_to_zero() for name, o in optimizers.items()}
