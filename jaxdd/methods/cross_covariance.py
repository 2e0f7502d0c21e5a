"""Cross-covariance matching: distilled pairs whose images and texts vary together as the real ones do.

    min_S E_θ ‖ C(S; θ) − C(B; θ) ‖² + λ ( ‖ f̄(S) − f̄(B) ‖² + ‖ ḡ(S) − ḡ(B) ‖² ),    C = Σ_i w_i (f_i − f̄)(g_i − ḡ)ᵀ

with the embeddings f of images and g of texts by an expert θ at some time of its training. At a linear loss of inner
products the gradient of two linear projections is their cross-covariance, which is why it says what is learned. The
idea is that of CovMatch (Lee et al. 2025, NeurIPS).

Axis letters: B real batch, M distilled pairs, D embedding, P parameters.
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.tasks import Task, all_items
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Window
from jaxdd.methods.base import Method, MethodConfig, Optimizer, Sources, descending, outer_optimizer
from jaxdd.settings import AtLeast, NonNegative
from jaxdd.types import Array, Examples, Params, Snapshots


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of cross-covariance matching; all are ours."""

    name: ClassVar[str] = "cross_covariance"
    image_optimizer: Optimizer = Optimizer("adam", 0.03)
    """Optimizer of images and texts."""
    real_batch: Annotated[int, AtLeast(2)] = 512
    """B, real pairs of a step."""
    window: Window = Window(start=16)
    """Snapshots of the experts that embed."""
    means: Annotated[float, NonNegative] = 1.0
    """λ, weight of the distances of the mean embeddings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_pairs(self)

    @property
    def snapshots_needed(self) -> int:
        """As many as the window reaches."""
        return self.window.last

    def build(self, task: Task) -> Method:
        """Build the method for a task, see `matching_covariances`."""
        return matching_covariances(task, self)


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[B]` real pairs.
        network: θ, a snapshot of an expert.
    """

    real: Examples
    network: Snapshots


class Moments(NamedTuple):
    """What is matched of pairs.

    Attributes:
        images: `[D]`, the mean embedding of the images.
        texts: `[D]`, that of the texts.
        covariance: `[D, D]` between them.
    """

    images: Array
    texts: Array
    covariance: Array


def require_pairs(config: MethodConfig, task: Task | None = None) -> None:
    """Refuse labels that are learned, and a task whose network does not make two embeddings.

    Raises:
        SettingError: It is either.
    """
    if config.labels == "learned":
        raise SettingError(
            "method.labels is 'learned', but embeddings do not depend on labels; choose hard, or mtt for these"
        )
    if task is not None and task.classes is not None:
        raise SettingError(
            f"{config.name} matches two embeddings of a pair, and the task {task.name!r} has classes; use it with "
            "jaxdd.retrieval, or choose dm"
        )


def moments(images: Array, texts: Array, weights: Array) -> Moments:
    """Compute weighted means and the cross-covariance of embeddings `[B, D]`, weights `[B]` of sum one."""
    f, g = weights @ images, weights @ texts
    return Moments(f, g, (weights[:, None] * (images - f[None])).T @ (texts - g[None]))


def matching_covariances(task: Task, config: Config) -> Method:
    """Build cross-covariance matching for a task.

    A step descends `‖C(S) − C(B)‖² + λ (‖f̄(S) − f̄(B)‖² + ‖ḡ(S) − ḡ(B)‖²)` in images and texts.

    Args:
        task: Its network makes two embeddings of a pair.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories.

    Raises:
        SettingError: The task has classes: its network makes something else.
    """
    require_pairs(config, task)

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        expert_key, time_key, real_key = jax.random.split(key, 3)
        real = sampling.take(sources.examples, sampling.uniform(real_key, sources.examples, config.real_batch))
        expert = jax.random.randint(expert_key, (), 0, sources.experts.num_experts)
        return Batch(real, Snapshots(expert, config.window.sample(time_key, step, config.steps)))

    def of(params: Params, examples: Examples) -> Moments:
        images, texts = task.model.apply(params, examples.inputs)
        return moments(images, texts, examples.weights)

    def objective(distilled: Distilled, batch: Batch) -> Array:
        params = task.unravel(batch.network.params)
        synthetic, real = of(params, all_items(task, distilled)), of(params, batch.real)
        gaps = jax.tree.map(lambda s, r: jnp.sum((s - r) ** 2), synthetic, real)
        return gaps.covariance + config.means * (gaps.images + gaps.texts)

    return descending(outer_optimizer(config.image_optimizer), sample, objective)
