"""The contracts that the parts of jaxdd agree on.

Axis letters, used in every docstring of the package: B real batch, M distilled items, C classes, H W K image height,
width and channels, T snapshots of a trajectory, E experts, P network parameters, F features, N real examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
AnyArray: TypeAlias = jax.Array | np.ndarray  # on a device, or on the host before the driver moves it
Params: TypeAlias = Any  # a pytree of arrays
PyTree: TypeAlias = Any


class Examples(NamedTuple):
    """Labelled examples as a loss sees them, real or distilled.

    Attributes:
        images: `[..., B, H, W, K]` normalised float images.
        targets: `[..., B, C]` target class probabilities (one-hot for real examples, softmax of the label logits for
            distilled ones).
        weights: `[..., B]` instance weights that sum to one over B; `1/B` for a plain mean.
        indices: `[..., B]` int32 position of each example in the set that it was drawn from.
    """

    images: Array
    targets: Array
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
        apply: `(params, images [B,H,W,K]) -> logits [B,C]`.
        features: `(params, images [B,H,W,K]) -> [B,F]`, the input of the last linear layer.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, Array], Array]
    features: Callable[[Params, Array], Array]


Losses = Callable[[Params, Examples], Array]
"""Per-example losses, `(params, examples) -> [B]`."""

Augment = Callable[[Array, Array], Array]
"""`(key, images [B,H,W,K]) -> images [B,H,W,K]`, differentiable in the images."""


class Method(NamedTuple):
    """A distillation method: pure functions over its State, built by `build(...)` of the method's module.

    A method neither jits nor prints, reads no files and does not know how many devices there are.

    Attributes:
        prepare: `(key, sources) -> cache`, runs once before the first step, and again after a resume: what steps will
            find as `sources.cache`. None for most methods.
        init: `(key, distilled, sources) -> State`, the state before step 0 from an initial distilled set.
        sample: `(key, step, sources) -> Batch`, everything random that a step needs. Fields that hold real examples
            are `Examples`: the driver shards them over the devices. Fields that name snapshots of experts are
            `Snapshots`: the driver fetches their parameters from wherever the experts are kept.
        step: `(key, state, batch) -> (State, Info)`, one update of the distilled set.
        distilled: `(state) -> Distilled`, the set as a user would save it.
        warn: `({name: value of Info}) -> {topic: text}`, on the host: what a person should be told, once per topic.
        inspect: `(state) -> {name: array}`, what a person wants to see at each evaluation: scalars, arrays for
            histograms, and `Scores` of the training examples, which a run also ranks in a table and shows on a page.
        objective: `(distilled, state, batch) -> scalar`, the loss that a step descends, as a function of the distilled
            set (`distilled` replaces `state.distilled`) and, through the weights of the batch's `Examples`, of the real
            instances; None for methods without one.
    """

    prepare: Callable[[Array, Any], Any]
    init: Callable[[Array, Any, Any], Any]
    sample: Callable[[Array, Array, Any], Any]
    step: Callable[[Array, Any, Any], tuple[Any, Any]]
    distilled: Callable[[Any], Any]
    warn: Callable[[dict[str, float]], dict[str, str]] = lambda info: {}
    inspect: Callable[[Any], dict[str, Array | Scores]] = lambda state: {}
    objective: Callable[[Any, Any, Any], Array] | None = None
