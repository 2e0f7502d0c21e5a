"""Per-example losses and their weighted means."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdd.types import Array, Examples, Losses, Model, Params


def cross_entropy(model: Model) -> Losses:
    """Build the per-example cross-entropy `ℓ_i(θ) = −Σ_c y_ic log softmax(f(θ, x_i))_c`.

    Args:
        model: The network f.

    Returns:
        `(params, examples) -> [B]`, for hard and soft targets alike.
    """

    def losses(params: Params, examples: Examples) -> Array:
        logits = model.apply(params, examples.images)
        return -jnp.sum(examples.targets * jax.nn.log_softmax(logits), axis=-1)

    return losses


def mean_loss(losses: Losses, examples: Examples) -> Callable[[Params], Array]:
    """Build `L(θ) = Σ_i w_i ℓ_i(θ)` of fixed examples as a function of the parameters alone.

    Args:
        losses: Per-example losses.
        examples: The examples and their weights w, which sum to one.

    Returns:
        `(params) -> scalar`.
    """
    return lambda params: jnp.vdot(examples.weights, losses(params, examples))
