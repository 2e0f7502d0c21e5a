"""Coresets: real images, chosen; the baseline of every method and the first value of its distilled set.

Axis letters: M distilled items, C classes, N real examples, n largest class, F features, E experts.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.data import sampling
from jaxdd.distilled import Distilled, hard_labels
from jaxdd.methods.base import MethodConfig, Sources, no_cache
from jaxdd.trajectories import Trajectories, flattening
from jaxdd.types import Array, Method, Model

CHUNK = 500  # real images whose features are computed at a time


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of a coreset: `init` says which; there is nothing to optimise."""

    steps: int = 0
    """Outer steps: none, the selection is the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "noise":
            raise ValueError(
                "method.init is 'noise'; a coreset is made of real images: real, correct, herding or k_center"
            )

    @property
    def needs_experts(self) -> bool:
        """Whether an expert is needed for the features or the labels."""
        return super().needs_experts or self.init in ("herding", "k_center")


class State(NamedTuple):
    """The selection."""

    distilled: Distilled


class Info(NamedTuple):
    """Nothing is minimised: the loss is 0."""

    loss: Array


def herding(features: Array, valid: Array, count: int) -> Array:
    """Select greedily so that the mean of the selection follows the mean of the class.

    `i_k = argmin_i ‖ μ − (1/k) (f_i + Σ_{j<k} f_{i_j}) ‖` over the examples not chosen yet.

    Args:
        features: `[n, F]`.
        valid: `[n]` bool, False where a row is padding.
        count: How many to select.

    Returns:
        int32 `[count]` rows.

    References:
        [published] Herding Dynamical Weights to Learn, Welling 2009; as a coreset, iCaRL, Rebuffi et al. 2017,
        arXiv 1611.07725, Algorithm 4.
    """
    mean = jnp.sum(jnp.where(valid[:, None], features, 0), axis=0) / jnp.sum(valid)

    def choose(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, free, chosen = carry
        distance = jnp.sum((mean[None] - (features + total[None]) / (k + 1)) ** 2, axis=-1)
        best = jnp.argmin(jnp.where(free, distance, jnp.inf)).astype(jnp.int32)
        return total + features[best], free.at[best].set(False), chosen.at[k].set(best)

    carry = (jnp.zeros_like(mean), valid, jnp.zeros((count,), jnp.int32))
    return jax.lax.fori_loop(0, count, choose, carry)[2]


def k_center(features: Array, valid: Array, count: int) -> Array:
    """Select greedily the example farthest from all selected ones, beginning with the one nearest to the class mean.

    `i_k = argmax_i min_{j<k} ‖ f_i − f_{i_j} ‖`

    Args:
        features: `[n, F]`.
        valid: `[n]` bool, False where a row is padding.
        count: How many to select.

    Returns:
        int32 `[count]` rows.

    References:
        [published] Active Learning for Convolutional Neural Networks: A Core-Set Approach, Sener & Savarese 2018,
        arXiv 1708.00489, Algorithm 1; [our choice] the first one.
    """
    mean = jnp.sum(jnp.where(valid[:, None], features, 0), axis=0) / jnp.sum(valid)

    def distance_to(centre: Array) -> Array:
        return jnp.where(valid, jnp.sum((features - centre[None]) ** 2, axis=-1), -jnp.inf)

    first = jnp.argmin(jnp.where(valid, distance_to(mean), jnp.inf)).astype(jnp.int32)

    def choose(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, chosen = carry
        best = jnp.argmax(nearest).astype(jnp.int32)
        # Never again, even where only copies of what was selected are left.
        nearest = jnp.minimum(nearest, distance_to(features[best])).at[best].set(-jnp.inf)
        return nearest, chosen.at[k].set(best)

    chosen = jnp.zeros((count,), jnp.int32).at[0].set(first)
    nearest = distance_to(features[first]).at[first].set(-jnp.inf)
    return jax.lax.fori_loop(1, count, choose, (nearest, chosen))[1]


GREEDY: dict[str, Callable[[Array, Array, int], Array]] = {"herding": herding, "k_center": k_center}


def select(name: str, key: Array, model: Model, sources: Sources, ipc: int) -> Array:
    """Choose ipc real examples of every class.

    Args:
        name: `real` (at random), `correct` (at random among those that the first expert classifies right, and others
            only where a class has too few), `herding` or `k_center`.
        key: Draws the random ones.
        model: Gives the features and the classes.
        sources: The real set; its first expert's last parameters give the features, pixels where there are no experts.
        ipc: Examples per class.

    Returns:
        int32 `[C, ipc]` indices into the real set, without repetition.

    References:
        [published] correct: DATM, arXiv 2310.05773; [our choice] by which expert, and what if there are too few.
    """
    real = sources.real
    if name == "real":
        return sampling.balanced(key, real, ipc)
    if name == "correct":
        params = flattening(model)[1](sources.experts.final[0])
        found = over_real(sources, lambda images: jnp.argmax(model.apply(params, images), axis=-1))
        return sampling.balanced(key, real, ipc, preferred=found == real.labels)
    features = real_features(model, sources)
    positions = jnp.arange(real.class_table.shape[1])

    def of_class(entry: tuple[Array, Array]) -> Array:
        rows, size = entry
        return rows[GREEDY[name](features[rows], positions < size, ipc)]

    return jax.lax.map(of_class, (real.class_table, real.class_sizes))


def real_features(model: Model, sources: Sources) -> Array:
    """Compute the features `[N, F]` of every real example by the first expert's last parameters, or by pixels."""
    if sources.trajectories is None:
        return over_real(sources, lambda images: images.reshape(len(images), -1))
    params = flattening(model)[1](sources.trajectories.final[0])
    return over_real(sources, lambda images: model.features(params, images))


def over_real(sources: Sources, function: Callable[[Array], Array]) -> Array:
    """Apply `function` to every real image, a chunk `[B, H, W, K]` at a time: `[N, …]`."""
    size = sources.real.labels.shape[0]
    chunks = jnp.arange(-(-size // CHUNK) * CHUNK) % size
    results = jax.lax.map(lambda rows: function(sampling.take(sources.real, rows).images), chunks.reshape(-1, CHUNK))
    return results.reshape(len(chunks), *results.shape[2:])[:size]


def initial_distilled(key: Array, model: Model, sources: Sources, config: MethodConfig, *, lr: float) -> Distilled:
    """Give the distilled set before the first step, items of each class in the order of the classes.

    Args:
        key: Draws the real images or the noise.
        model: Gives features for coresets, and logits for soft labels.
        sources: The real set, and the experts for soft labels and coresets in feature space.
        config: `items_per_class`, `init` and `labels` say what to do.
        lr: The learning rate to record with the set, where the method learns none.

    Returns:
        Images `[M, H, W, K]`, label logits `[M, C]` and the learning rate.

    Raises:
        ValueError: Soft labels without experts.

    References:
        [published] labels from the final expert: Inf-Match; the mean logits of the experts: DATM (arXiv 2310.05773).
    """
    real, trajectories = sources.real, sources.trajectories
    count = real.class_sizes.shape[0]
    classes = jnp.repeat(jnp.arange(count), config.items_per_class)
    if config.init == "noise":
        images = jax.random.normal(key, (count * config.items_per_class, *real.images.shape[1:]))
    else:
        images = sampling.take(
            real, select(config.init, key, model, sources, config.items_per_class).reshape(-1)
        ).images
    labels = hard_labels(classes, count)
    if config.labels != "hard":
        if trajectories is None:
            raise ValueError(f"method.labels={config.labels!r} starts from the experts' logits; train experts first")
        labels = jnp.mean(final_logits(model, trajectories, images), axis=0)
    return Distilled(images, labels, jnp.asarray(lr, images.dtype))


def final_logits(model: Model, trajectories: Trajectories, images: Array) -> Array:
    """Apply every expert's last parameters to `images [B,H,W,K]`: logits `[E, B, C]`."""
    unravel = flattening(model)[1]
    return jax.lax.map(lambda flat: model.apply(unravel(flat), images), trajectories.final)


def build(model: Model, config: Config) -> Method:
    """Build the method whose distilled set is its first value."""
    del model, config

    def step(key: Array, state: State, batch: tuple[()]) -> tuple[State, Info]:
        del key, batch
        return state, Info(jnp.zeros(()))

    return Method(
        prepare=no_cache,
        init=lambda key, distilled, sources: State(distilled),
        sample=lambda key, step, sources: (),
        step=step,
        distilled=lambda state: state.distilled,
    )
