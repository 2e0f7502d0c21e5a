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


STATISTICS = "statistics"
"""The key among parameters of the running statistics of batch normalization, and their collection in flax.

This is what jaxdd does with them. A network with batch normalization is a pure function of its parameters: it
standardizes by the mean and variance of the batch that it is applied to, in matching, unrolling, experts and influence,
where published code does so too (their networks are in training mode). Only networks trained to be evaluated have
running statistics: `core.training.train` averages what `Model.observe` sees, `s <- 0.9 s + 0.1 (mean, unbiased
variance)` as PyTorch does, and hands the parameters back with a further entry `params["statistics"]`. Where that entry
is there, `apply` standardizes by it, as PyTorch's evaluation mode does, and a logit depends on its own image alone. It
is no parameter: it is not learned, and not counted in P.
"""


class Model(NamedTuple):
    """A network as pure functions of its parameters; the only thing that jaxdd knows of a network.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, inputs) -> outputs`; of a classifier `images [B,H,W,K] -> logits [B,C]`.
        features: `(params, inputs) -> [B,F]`, the input of the last linear layer.
        observe: `(params, inputs) -> statistics`, the mean and variance of the batch wherever the network standardizes
            by them; None if it does not. With their running averages in `params[STATISTICS]` the other functions use
            those, see `STATISTICS`.
        maps: `(params, inputs) -> ([B,*], ...)`, what each layer but the last makes of the inputs, after its
            activation; None where it is not known.
        head: `(params, features) -> outputs`, of a network that is frozen but for its last layer, whose parameters are
            those of this head, and whose features do not depend on them; None for all others.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, PyTree], PyTree]
    features: Callable[[Params, PyTree], Array]
    observe: Callable[[Params, PyTree], PyTree] | None = None
    maps: Callable[[Params, PyTree], tuple[Array, ...]] | None = None
    head: Callable[[Params, Array], PyTree] | None = None


class DualEncoder(NamedTuple):
    """Two encoders onto one unit sphere, `jaxdd.models.dual`.

    Attributes:
        model: Both as a network: `{"image": [B, H, W, K], "text": [B, E]} -> (images [B, D], texts [B, D])`.
        image: `(params, [B, H, W, K]) -> [B, D]`, with the parameters of both.
        text: `(params, [B, E]) -> [B, D]`, alike.
    """

    model: Model
    image: Callable[[Params, Array], Array]
    text: Callable[[Params, Array], Array]


Losses: TypeAlias = Callable[[Params, Examples], Array]
"""Per-example losses, `(params, examples) -> [B]`."""

Augment: TypeAlias = Callable[[Array, Array], Array]
"""`(key, images [B,H,W,K]) -> images [B,H,W,K]`, differentiable in the images."""
