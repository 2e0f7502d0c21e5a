"""APM: distilled pairs from which ridge regression finds the projections that it finds from the real ones.

    min_S Σ_k ‖ W_k(S) − W_k(D) ‖² / ‖ W_k(D) ‖²,    W_text = (C_tt + ε I)⁻¹ C_tf,   W_image = (C_ff + ε' I)⁻¹ C_ft

with the embedded texts t, the embeddings f of images by a network that stays as it is, and their covariances C. No
training of a student is followed: the parameters that it would end with are known in closed form, and of the real pairs
two matrices are all that a step needs.

The idea is that of analytic parameter matching (Bo & Wang, ICML 2026), of which this is our reading: its abstract names
projections in closed form, two cached matrices, and whitening, which C⁻¹ᐟ² is.

Axis letters: B pairs, D embedding, E text features, P parameters.
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import map_over
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, all_items
from jaxdd.methods.base import Method, MethodConfig, Optimizer, Sources, descending, outer_optimizer
from jaxdd.methods.cross_covariance import require_pairs
from jaxdd.settings import Positive
from jaxdd.types import Array, Examples


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of analytic parameter matching; all are ours."""

    name: ClassVar[str] = "analytic_parameters"
    image_optimizer: Optimizer = Optimizer("adam", 0.03)
    """Optimizer of images and texts."""
    ridge: Annotated[float, Positive] = 0.1
    """ε and ε', in units of the mean variance of what is projected: distilled pairs span few directions, and say
    nothing of the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_pairs(self)

    @property
    def needs_experts(self) -> bool:
        """Always: their last networks embed the images."""
        return True

    def build(self, task: Task) -> Method:
        """Build the method for a task, see `matching_projections`."""
        return matching_projections(task, self)


class Projections(NamedTuple):
    """Projections in closed form.

    Attributes:
        text: `[E, D]`, of embedded texts onto images.
        image: `[D, E]`, of images onto embedded texts.
    """

    text: Array
    image: Array


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        params: `[P]`, the last parameters of an expert.
        real: What it finds from the real pairs.
    """

    params: Array
    real: Projections


def projections(images: Array, texts: Array, weights: Array, ridge: float) -> Projections:
    """Regress embedded texts and images on each other: `argmin_W Σ_i w_i ‖x_i W − y_i‖² + ε ‖W‖²`, x and y centered.

    Args:
        images: `[B, D]`.
        texts: `[B, E]`.
        weights: `[B]` w, of sum one.
        ridge: ε in units of the mean variance of x, `tr(C_xx) / dim x`.

    Returns:
        Both projections. [derived] the normal equations, `W = (XᵀX + ε I)⁻¹ Xᵀ Y` with rows `√w_i (x_i − x̄)`; of fewer
        pairs than dimensions, such as distilled ones, those of the dual problem, `W = Xᵀ (X Xᵀ + ε I)⁻¹ Y`.
    """

    def regressed(x: Array, y: Array) -> Array:
        x, y = (jnp.sqrt(weights)[:, None] * (z - (weights @ z)[None]) for z in (x, y))
        count, size = x.shape
        penalty = ridge * jnp.sum(x**2) / size

        def solved(products: Array, right: Array) -> Array:
            penalized = products + penalty * jnp.eye(len(products), dtype=products.dtype)
            return jax.scipy.linalg.solve(penalized, right, assume_a="pos")

        return x.T @ solved(x @ x.T, y) if count < size else solved(x.T @ x, x.T @ y)

    return Projections(regressed(texts, images), regressed(images, texts))


def matching_projections(task: Task, config: Config) -> Method:
    """Build analytic parameter matching for a task.

    A step descends `Σ_k ‖W_k(S) − W_k(D)‖² / ‖W_k(D)‖²` in images and texts, for the last network of an expert that it
    draws; what that finds from the real pairs is computed once.

    Args:
        task: Retrieval, see `jaxdd.retrieval`: its network makes two embeddings of images and texts.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories.

    Raises:
        SettingError: The task has classes: its network makes something else.
    """
    require_pairs(config, task)

    def embedded(examples: Examples, params: Array) -> tuple[Array, Array]:
        return task.model.apply(task.unravel(params), examples.inputs)[0], examples.inputs["text"]

    def prepare(key: Array, sources: Sources) -> Projections:
        del key

        def of_expert(params: Array, real: RealSet) -> Projections:
            by_batch = task.model.observe is not None
            images, texts = sampling.over_all(embedded, real, params, exact=by_batch)
            return projections(images, texts, jnp.full(real.size, 1 / real.size), config.ridge)

        computed: Projections = map_over(of_expert, sources.experts.final, sources.examples)
        return computed

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        expert = jax.random.randint(key, (), 0, sources.experts.num_experts)
        return Batch(sources.experts.final[expert], jax.tree.map(lambda x: x[expert], sources.cache))

    def objective(distilled: Distilled, batch: Batch) -> Array:
        items = all_items(task, distilled)
        ours = projections(*embedded(items, batch.params), items.weights, config.ridge)
        gaps = jax.tree.map(lambda w, real: jnp.sum((w - real) ** 2) / jnp.sum(real**2), ours, batch.real)
        return gaps.text + gaps.image

    return descending(outer_optimizer(config.image_optimizer), sample, objective, prepare)
