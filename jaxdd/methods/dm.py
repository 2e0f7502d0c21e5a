"""DM: dataset condensation with distribution matching (Zhao & Bilen 2023, arXiv 2110.04181).

Class by class, the mean feature of the distilled images should be that of real images, for any random network:

    min_S E_θ Σ_c ‖ (1/|S_c|) Σ_j φ(A_c(s_j); θ) − (1/|B_c|) Σ_i φ(A_c(x_i); θ) ‖²

Axis letters: B real batch, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxdd.augment import dsa
from jaxdd.data import sampling
from jaxdd.distilled import Distilled
from jaxdd.matching import mean_distance
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
from jaxdd.types import Array, Examples, Method, Model, Params


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of DM."""

    steps: int = 1000
    """Outer steps, each with its own random network (published: 20 000)."""
    image_optimiser: Optimiser = Optimiser("sgd", 1.0, 0.5)
    """Optimiser of the images."""
    real_batch: int = 256
    """B, real examples of each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real_batch < 1:
            raise ValueError(f"method.real_batch is {self.real_batch}; distribution matching needs 1 or more")
        if self.labels == "learned":
            raise ValueError("method.labels is 'learned', but features do not depend on labels; choose hard or soft")


class State(NamedTuple):
    """What the next step needs: the distilled set and the state of its optimisers."""

    distilled: Distilled
    optimiser: optax.OptState


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C]` keys of the augmentation, which the real and the distilled images of a class share.
        network: Key of the random network.
    """

    real: Examples
    keys: Array
    network: Array


class Info(NamedTuple):
    """What a person wants to see: the distance, summed over classes, and the norm of its gradient in the images."""

    loss: Array
    image_gradient: Array


def build(model: Model, config: Config) -> Method:
    """Build DM for a model.

    A step descends `Σ_c ‖ Σ_j φ(A_c(s_j)) / |S_c| − Σ_i w_i φ(A_c(x_i)) ‖²` in the images, with the features φ of a
    fresh network and the weights w of the batch.

    Args:
        model: Its features are matched.
        config: See `Config`.

    Returns:
        The method; it needs no experts.
    """
    augment = dsa(config.augment, siamese=True)
    optimiser = outer_optimiser(config.image_optimiser)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del key, sources
        return State(distilled, optimiser.init(distilled))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        real_key, augment_key, network_key = jax.random.split(key, 3)
        real = sampling.take(sources.real, sampling.classwise(real_key, sources.real, config.real_batch))
        return Batch(real, jax.random.split(augment_key, sources.real.class_sizes.shape[0]), network_key)

    def of_class(network: Params) -> Callable[[Distilled, Examples, Array], Array]:
        def distance(distilled: Distilled, real: Examples, key: Array) -> Array:
            synthetic = all_items(distilled)
            phi_s, phi_r = (model.features(network, augment(key, e.images)) for e in (synthetic, real))
            return mean_distance(phi_s, phi_r, synthetic.weights, real.weights)

        return distance

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        del state
        return sum_over_classes(of_class(model.init(batch.network)), distilled, batch.real, batch.keys)

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Info]:
        del key
        network = model.init(batch.network)
        loss, grads = slope_over_classes(of_class(network), state.distilled, batch.real, batch.keys)
        updates, optimiser_state = optimiser.update(grads, state.optimiser, state.distilled)
        info = Info(loss, optax.tree.norm(grads.images))
        return State(optax.apply_updates(state.distilled, updates), optimiser_state), info

    return Method(no_cache, init, sample, step, lambda state: state.distilled, objective=objective)
