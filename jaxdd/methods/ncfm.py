"""NCFM: matching neural characteristic functions (Wang et al. 2025, arXiv 2502.20653).

Class by class, the distribution of the features of the distilled images should be that of real images, as seen by its
characteristic function `Φ(t) = E exp(𝑖 ⟨t, φ⟩)` at random frequencies t, for networks at any stage of training; and a
trained network should still classify the distilled images as what they are.

Axis letters: B real batch, C classes, D frequencies, F features, P parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.augment import dsa
from jaxdd.data import sampling
from jaxdd.distilled import Distilled
from jaxdd.losses import cross_entropy, mean_loss
from jaxdd.matching import characteristic_distance, characteristic_function, unit_norm
from jaxdd.methods.base import (
    MethodConfig,
    Optimiser,
    Sources,
    all_items,
    no_cache,
    outer_optimiser,
    slope_over_classes,
    sum_over_classes,
)
from jaxdd.trajectories import flattening
from jaxdd.types import Array, Examples, Method, Model, Snapshots


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of NCFM."""

    steps: int = 1000
    """Outer steps."""
    image_optimiser: Optimiser = Optimiser("adam", 0.01)
    """Optimiser of the images."""
    real_batch: int = 256
    """B, real examples of each class."""
    frequencies: int = 4096
    """D, frequencies at which the characteristic functions are compared, drawn anew for every class and step."""
    amplitude: float = 0.5
    """α, weight of the difference in amplitude; that in phase has 1 − α."""
    calibration: float = 1.0
    """Weight of the cross-entropy of the distilled images in a trained expert; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("real_batch", "frequencies"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.{name} is {getattr(self, name)}; NCFM needs 1 or more")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"method.amplitude is {self.amplitude}; it and the weight of the phase are in [0, 1]")
        if not self.calibration >= 0:
            raise ValueError(f"method.calibration is {self.calibration}; give a weight of 0 or more")
        if self.labels == "learned":
            raise ValueError(
                "method.labels is 'learned', but only the calibration sees labels: they would become whatever the "
                "expert says; choose hard, or soft, which are the experts' own"
            )

    @property
    def snapshots_needed(self) -> int:
        """The first one; the other end of the interpolation is what training ends with."""
        return 1


class State(NamedTuple):
    """What the next step needs: the distilled set and the state of its optimisers."""

    distilled: Distilled
    optimiser: optax.OptState


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C, 2]` keys of the augmentation, which the real and the distilled images of a class share, and of the
            frequencies.
        start: θ^0 of an expert.
        final: `[P]` its last parameters θ^T.
        progress: [] u, how far between the two the network is.
    """

    real: Examples
    keys: Array
    start: Snapshots
    final: Array
    progress: Array


class Info(NamedTuple):
    """What a person wants to see: the loss, summed over classes, and the norm of its gradient in the images."""

    loss: Array
    image_gradient: Array


def build(model: Model, config: Config) -> Method:
    """Build NCFM for a model.

    A step descends, in the images,

        Σ_c [ 300 · mean_t sqrt(α (|Φ_r| − |Φ_s|)² + (1 − α) · 2 (|Φ_r| |Φ_s| − Re Φ_r Φ_s*)) + λ L(A_c(S_c); θ^T) ]

    where `Φ_r(t) = Σ_i w_i exp(𝑖 ⟨t, φ_i⟩)` with the weights w of the batch, Φ_s alike, the φ are features of norm one
    at `θ = (1 − u) θ^0 + u θ^T`, u ~ U(0, 1), and t ~ N(0, I).

    Args:
        model: Its features are matched.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories.

    References:
        [published] the terms, and networks between the start and the end of training. [our choice] frequencies that
        are not learned by an adversary, which the paper finds to help; one step on the sum of both terms, where the
        published code takes one step on each.
    """
    losses, augment, unravel = cross_entropy(model), dsa(config.augment, siamese=True), flattening(model)[1]
    optimiser = outer_optimiser(config.image_optimiser)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del key, sources
        return State(distilled, optimiser.init(distilled))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        expert_key, progress_key, real_key, class_key = jax.random.split(key, 4)
        real = sampling.take(sources.real, sampling.classwise(real_key, sources.real, config.real_batch))
        expert = jax.random.randint(expert_key, (), 0, sources.experts.num_experts)
        return Batch(
            real,
            jax.random.split(class_key, (sources.real.class_sizes.shape[0], 2)),
            Snapshots(expert, jnp.zeros_like(expert)),
            jnp.asarray(sources.experts.final)[expert],
            jax.random.uniform(progress_key),
        )

    def of_class(batch: Batch) -> Callable[[Distilled, Examples, Array], Array]:
        start, final = batch.start.params, batch.final
        params, trained = unravel(start + batch.progress * (final - start)), unravel(final)

        def loss(distilled: Distilled, real: Examples, keys: Array) -> Array:
            augment_key, frequency_key = keys
            synthetic, real = (e._replace(images=augment(augment_key, e.images)) for e in (all_items(distilled), real))
            phi_s, phi_r = (unit_norm(model.features(params, e.images)) for e in (synthetic, real))
            t = jax.random.normal(frequency_key, (config.frequencies, phi_s.shape[-1]), phi_s.dtype)
            distance = characteristic_distance(
                characteristic_function(phi_s, synthetic.weights, t),
                characteristic_function(phi_r, real.weights, t),
                amplitude=config.amplitude,
            )
            return distance + config.calibration * mean_loss(losses, synthetic)(trained)

        return loss

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        del state
        return sum_over_classes(of_class(batch), distilled, batch.real, batch.keys)

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Info]:
        del key
        loss, grads = slope_over_classes(of_class(batch), state.distilled, batch.real, batch.keys)
        updates, optimiser_state = optimiser.update(grads, state.optimiser, state.distilled)
        info = Info(loss, optax.tree.norm(grads.images))
        return State(optax.apply_updates(state.distilled, updates), optimiser_state), info

    return Method(no_cache, init, sample, step, lambda state: state.distilled, objective=objective)
