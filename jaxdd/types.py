"""The contracts that the parts of jaxdd agree on.

Axis letters, used in every docstring of the package: B real batch, M distilled items, C classes, H W K image height,
width and channels, T snapshots of a trajectory, E experts, P network parameters, F features, N real examples.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
AnyArray: TypeAlias = jax.Array | np.ndarray  # on a device, or on the host before the driver moves it
Params: TypeAlias = Any  # a pytree of arrays
PyTree: TypeAlias = Any
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
    """A network as pure functions of its parameters; the only thing that jaxdd knows of a network.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, inputs) -> outputs`; of a classifier `images [B,H,W,K] -> logits [B,C]`.
        features: `(params, inputs) -> [B,F]`, the input of the last linear layer.
        observe: `(params, inputs) -> statistics`, the mean and variance of the batch wherever the network standardizes
            by them; None if it does not. With their running averages in `params["statistics"]` the other functions use
            those, see `jaxdd.models.layers.STATISTICS`.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, PyTree], PyTree]
    features: Callable[[Params, PyTree], Array]
    observe: Callable[[Params, PyTree], PyTree] | None = None


Losses: TypeAlias = Callable[[Params, Examples], Array]
"""Per-example losses, `(params, examples) -> [B]`."""

Augment: TypeAlias = Callable[[Array, Array], Array]
"""`(key, images [B,H,W,K]) -> images [B,H,W,K]`, differentiable in the images."""
