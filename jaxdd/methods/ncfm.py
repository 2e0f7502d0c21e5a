"""NCFM: matching neural characteristic functions (Wang et al. 2025, arXiv 2502.20653).

Class by class, the distribution of the features of the distilled images should be that of real images, as seen by its
characteristic function `Φ(t) = E exp(𝑖 ⟨t, φ⟩)` at random frequencies t, for networks at any stage of training; and a
trained network should still classify the distilled images as what they are.

Axis letters: B real batch, C classes, D frequencies, F features, P parameters.
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import characteristic_distance, characteristic_function, unit_norm
from jaxdd.core.tasks import Task, all_items, mean_loss
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, Optimizer, Sources, State, descent, outer_optimizer
from jaxdd.methods.classwise import ClasswiseConfig, slope_over_classes, sum_over_classes
from jaxdd.settings import AtLeast, Between, NonNegative
from jaxdd.types import Array, Examples, Params, Snapshots


@dataclasses.dataclass(frozen=True)
class Config(ClasswiseConfig):
    """Settings of NCFM."""

    name: ClassVar[str] = "ncfm"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps."""
    image_optimizer: Optimizer = Optimizer("adam", 0.01)
    """Optimizer of the images."""
    frequencies: Annotated[int, AtLeast(1)] = 4096
    """D, frequencies at which the characteristic functions are compared, drawn anew for every class and step."""
    amplitude: Annotated[float, Between(0, 1)] = 0.5
    """α, weight of the difference in amplitude; that in phase has 1 − α."""
    calibration: Annotated[float, NonNegative] = 1.0
    """Weight of the cross-entropy of the distilled images in a trained expert; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "learned":
            raise SettingError(
                "method.labels is 'learned', but only the calibration sees labels: they would become whatever the "
                "expert says; choose hard, or soft, which are the experts' own"
            )

    @property
    def snapshots_needed(self) -> int:
        """The first one; the other end of the interpolation is what training ends with."""
        return 1

    def unweighted(self, task: Task) -> Method:
        """Build NCFM for a task, see `matching_characteristic_functions`."""
        return matching_characteristic_functions(task, self)


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


def matching_characteristic_functions(task: Task, config: Config) -> Method:
    """Build NCFM for a task.

    A step descends, in the images,

        Σ_c [ 300 · mean_t sqrt(α (|Φ_r| − |Φ_s|)² + (1 − α) · 2 (|Φ_r| |Φ_s| − Re Φ_r Φ_s*)) + λ L(A_c(S_c); θ^T) ]

    where `Φ_r(t) = Σ_i w_i exp(𝑖 ⟨t, φ_i⟩)` with the weights w of the batch, Φ_s alike, the φ are features of norm one
    at `θ = (1 − u) θ^0 + u θ^T`, u ~ U(0, 1), and t ~ N(0, I).

    Args:
        task: The features of its network are matched; it has classes.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories.

    References:
        [published] the terms, and networks between the start and the end of training. [our choice] frequencies that
        are not learned by an adversary, which the paper finds to help; one step on the sum of both terms, where the
        published code takes one step on each.
    """
    model, classes, augment = task.model, task.items(1), dsa(config.augment, siamese=True)

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        expert_key, progress_key, real_key, class_key = jax.random.split(key, 4)
        rows = sampling.classwise(real_key, sources.examples, config.real_batch)
        expert = jax.random.randint(expert_key, (), 0, sources.experts.num_experts)
        return Batch(
            sampling.take(sources.examples, rows),
            jax.random.split(class_key, (classes, 2)),
            Snapshots(expert, jnp.zeros_like(expert)),
            jnp.asarray(sources.experts.final)[expert],
            jax.random.uniform(progress_key),
        )

    def of_class(distilled: Distilled, real: Examples, keys: Array, params: Params, trained: Params) -> Array:
        augment_key, frequency_key = keys
        synthetic = all_items(task, distilled)
        synthetic, real = (e._replace(inputs=augment(augment_key, e.inputs)) for e in (synthetic, real))
        phi_s, phi_r = (unit_norm(model.features(params, e.inputs)) for e in (synthetic, real))
        t = jax.random.normal(frequency_key, (config.frequencies, phi_s.shape[-1]), phi_s.dtype)
        distance = characteristic_distance(
            characteristic_function(phi_s, synthetic.weights, t),
            characteristic_function(phi_r, real.weights, t),
            amplitude=config.amplitude,
        )
        return distance + config.calibration * mean_loss(task.losses, synthetic)(trained)

    def networks(batch: Batch) -> tuple[Params, Params]:
        """The network whose features are matched, and the trained one."""
        start, final = batch.start.params, batch.final
        return task.unravel(start + batch.progress * (final - start)), task.unravel(final)

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        del state
        return sum_over_classes(of_class, distilled, classes, (batch.real, batch.keys), *networks(batch))

    def slope(distilled: Distilled, batch: Batch) -> tuple[Array, Distilled]:
        return slope_over_classes(of_class, distilled, classes, (batch.real, batch.keys), *networks(batch))

    init, step = descent(outer_optimizer(config.image_optimizer), slope)
    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
