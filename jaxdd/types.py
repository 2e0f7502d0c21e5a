"""The contracts that the parts of jaxdd agree on.

Axis letters, used in every docstring of the package: B real batch, M distilled items, C classes, H W K image height,
width and channels, T snapshots of a trajectory, E experts, P network parameters, F features, N real examples.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

if TYPE_CHECKING:
    from jaxdd.core.distilled import Distilled
    from jaxdd.core.sampling import RealSet
    from jaxdd.methods.base import Sources

Array: TypeAlias = jax.Array
AnyArray: TypeAlias = jax.Array | np.ndarray  # on a device, or on the host before the driver moves it
Params: TypeAlias = Any  # a pytree of arrays
PyTree: TypeAlias = Any
State: TypeAlias = Any  # a method's own, a pytree of arrays
Batch: TypeAlias = Any  # a method's own, a pytree of arrays
Scalars: TypeAlias = Mapping[str, Array]  # by name


class Examples(NamedTuple):
    """Examples as a loss sees them, real or distilled.

    Attributes:
        inputs: Tree of arrays `[..., B, *]`, what the network is applied to; for images `[..., B, H, W, K]` normalized
            floats.
        targets: Tree of arrays `[..., B, *]`, what its outputs should be; for classification `[..., B, C]` class
            probabilities (one-hot for real examples, softmax of the label logits for distilled ones).
        weights: `[..., B]` instance weights that sum to one over B; `1/B` for a plain mean.
        indices: `[..., B]` int32 position of each example in the set that it was drawn from.
    """

    inputs: PyTree
    targets: PyTree
    weights: Array
    indices: Array


class Snapshots(NamedTuple):
    """Snapshots of experts that a step reads: named by a method's `sample`, fetched by the driver.

    Attributes:
        expert: `[...]` int32, which expert.
        position: int32 of the same shape, which of its snapshots.
        params: `[..., P]` its flattened parameters; None as `sample` returns it, there when `step` is called.
    """

    expert: Array
    position: Array
    params: Any = None


class Scores(NamedTuple):
    """A score of every real training example, among what a method's `inspect` shows.

    Attributes:
        values: `[N]` in the order of the train split; the lower, the less the method thinks of an example.
    """

    values: AnyArray


class Model(NamedTuple):
    """A network as three pure functions of its parameters; the only thing that jaxdd knows of a network.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, inputs) -> outputs`; of a classifier `images [B,H,W,K] -> logits [B,C]`.
        features: `(params, inputs) -> [B,F]`, the input of the last linear layer.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, PyTree], PyTree]
    features: Callable[[Params, PyTree], Array]


Losses: TypeAlias = Callable[[Params, Examples], Array]
"""Per-example losses, `(params, examples) -> [B]`."""

Augment: TypeAlias = Callable[[Array, Array], Array]
"""`(key, images [B,H,W,K]) -> images [B,H,W,K]`, differentiable in the images."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is asked to do: all that experts, methods, influence and evaluation know of a problem.

    `jaxdd.classification(model, classes)` makes that of a classifier; another task is a call of this class.

    Attributes:
        name: What to call it in messages.
        model: The network.
        losses: `(params, examples) -> [B]`, the loss of each example.
        examples: `(distilled, indices [b]) -> Examples`, distilled items as the loss sees them, differentiable in the
            set.
        labels: `(targets [M,*]) -> labels [M,*]`, the first labels of items whose targets are known: what `examples`
            turns into these targets.
        measure: `(params, split) -> {name: scalar}`, how good a network is on a real split.
        score: Which of these decides between two sets: the higher, the better.
        classes: C, where examples belong to classes; None where they do not. A set of `ipc` items per class has
            C · ipc items, and `ipc` in all where there are no classes.
        separable: Whether the loss of an example does not depend on the others of its batch. Influence needs that.
    """

    name: str
    model: Model
    losses: Losses
    examples: Callable[["Distilled", Array], Examples]
    labels: Callable[[PyTree], PyTree]
    measure: Callable[[Params, "RealSet"], Scalars]
    score: str
    classes: int | None = None
    separable: bool = True

    @property
    def size(self) -> int:
        """P, the number of the network's parameters."""
        return self._flattening[0]

    @property
    def unravel(self) -> Callable[[Array], Params]:
        """`[P] -> params`, the inverse of `jax.flatten_util.ravel_pytree`."""
        return self._flattening[1]

    @cached_property
    def _flattening(self) -> tuple[int, Callable[[Array], Params]]:
        flat, unravel = ravel_pytree(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), self._shapes))
        return flat.size, unravel

    @cached_property
    def _shapes(self) -> PyTree:
        return jax.eval_shape(self.model.init, jax.random.key(0))

    @property
    def tensors(self) -> dict[str, int]:
        """Names of the network's tensors, `body/conv_0/kernel`, with their sizes, in the order of `[P]`."""
        leaves = jax.tree_util.tree_flatten_with_path(self._shapes)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}

    def items(self, per_class: int) -> int:
        """Count the items of a set that has so many of each class."""
        return per_class * (self.classes or 1)


class Init(Protocol):
    """The first state of a method, from its first distilled set."""

    def __call__(self, key: Array, distilled: "Distilled", sources: "Sources") -> State:
        """Return the state before step 0."""


class Sample(Protocol):
    """Everything random that a step of a method needs."""

    def __call__(self, key: Array, step: Array, sources: "Sources") -> Batch:
        """Return the batch of a step. It depends on the arguments alone."""


class Step(Protocol):
    """One update of a method's state."""

    def __call__(self, key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        """Return the next state, and scalars to log, `loss` among them."""


class Prepare(Protocol):
    """What a method computes once, before its steps."""

    def __call__(self, key: Array, sources: "Sources") -> PyTree:
        """Return what steps will find as `sources.cache`."""


class Objective(Protocol):
    """The loss that a step descends."""

    def __call__(self, distilled: "Distilled", state: State, batch: Batch) -> Array:
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
    distilled: Callable[[State], "Distilled"]
    prepare: Prepare | None = None
    warn: Callable[[Mapping[str, float]], dict[str, str]] = lambda info: {}
    inspect: Callable[[State], Mapping[str, Array | Scores]] = lambda state: {}
    objective: Objective | None = None
