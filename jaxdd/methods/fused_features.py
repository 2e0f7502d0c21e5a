"""What the released code of Inf-Match runs: matching features that are fused with gradients of the last layer.

The displacement of Theorem 1 is switched off there. Class by class, the mean fused feature of the distilled images
should be that of real images, seen through random probes, and a trained network should still classify the distilled
images as what they are. `infmatch.Config(estimator="released")` builds it.

Axis letters: B real batch, C classes, m checkpoints, D probes, F features, P parameters.
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import relative_distance, unit_norm
from jaxdd.core.tasks import Task, all_items, mean_loss
from jaxdd.experts.trajectories import Window
from jaxdd.methods.base import Method, MethodConfig, Sources, State, descent, outer_optimizer
from jaxdd.methods.classwise import require_classes, slope_over_classes, sum_over_classes
from jaxdd.settings import AtLeast, NonNegative, Settings
from jaxdd.types import Array, Examples, Params, Snapshots


@dataclasses.dataclass(frozen=True)
class Released(Settings, path="method.released"):
    """Settings of Inf-Match's released code. [published] the defaults."""

    influence: Annotated[float, NonNegative] = 0.2
    """ρ, weight of the gradient in the features; 0 matches features alone."""
    probes: Annotated[int, AtLeast(1)] = 4096
    """D, random directions that mean features are compared along, drawn anew for every step."""
    calibration: Annotated[float, NonNegative] = 1.0
    """Weight of the cross-entropy of the distilled images in a trained expert; 0 for none."""


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C]` keys of the augmentation, which the real and the distilled images of a class share.
        probes: Key of the probes, which all classes share.
        states: θ^t, m snapshots of one expert.
        final: `[P]` its last parameters.
    """

    real: Examples
    keys: Array
    probes: Array
    states: Snapshots
    final: Array


def fused_features(task: Task, params: Params, examples: Examples, influence: float) -> Array:
    """Compute features that carry what their example asks of the last layer.

    `ψ = unit(vec_c[(1 + ρ g_c) φ])` with `g = softmax(z) − y`: the feature φ once for each class, plus ρ times the
    gradient `g ⊗ φ` of the example's loss in the weights of the last layer.

    Args:
        task: Its network gives φ and the logits z.
        params: Of the network.
        examples: `[B]`, with targets y `[B, C]`.
        influence: ρ.

    Returns:
        `[B, C · F]`, of norm one. [published] the released code of Inf-Match, fusion `wgrad`.
    """
    phi = task.model.features(params, examples.inputs)
    g = jax.nn.softmax(task.model.apply(params, examples.inputs)) - examples.targets
    return unit_norm(((1 + influence * g)[:, :, None] * phi[:, None, :]).reshape(len(phi), -1))


def matching_fused_features(
    task: Task, config: MethodConfig, released: Released, *, real_batch: int, checkpoints: int, window: Window
) -> Method:
    """Build what Inf-Match's released code runs, for a task.

    A step descends, in the images, and in the labels if they are learned,

        Σ_c [ 100 · mean_d (a_d − b_d)² / (a_d² + b_d² + 1e-8) + λ L(A_c(S_c); θ^T) ]

    where a and b are the mean fused features of distilled and real images, those at m checkpoints of one expert one
    after another, projected on D random directions of norm one.

    Args:
        task: Its features are matched; it has classes.
        config: Optimizers, labels and augmentation.
        released: See `Released`.
        real_batch: B.
        checkpoints: m (published: 2 or 3 at random).
        window: Snapshots that they are drawn from.

    Returns:
        The method; its sources need trajectories.

    Raises:
        ValueError: The task has no classes.

    References:
        [published] both terms, the released code of Inf-Match. [our choice] one step on the sum of both terms and of
        all classes, where that code takes one for each class and term, with AdamW on clamped pixels; a fixed number of
        checkpoints, drawn with replacement; one draw of probes for all classes, where that code draws anew for each.
        What a class descends is distributed as there, for its own term is all that its images and labels are in, and
        C times fewer numbers are drawn. Its stored images make 2 × 2 each, here with `factor=2`.
    """
    require_classes(task, config.name)
    classes, augment = task.items(1), dsa(config.augment, siamese=True)

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        expert_key, start_key, real_key, class_key, probe_key = jax.random.split(key, 5)
        rows = sampling.classwise(real_key, sources.examples, real_batch)
        expert = jax.random.randint(expert_key, (), 0, sources.experts.num_experts)
        positions = window.sample(start_key, step, config.steps, (checkpoints,))
        return Batch(
            sampling.take(sources.examples, rows),
            jax.random.split(class_key, classes),
            probe_key,
            Snapshots(jnp.full_like(positions, expert), positions),
            jnp.asarray(sources.experts.final)[expert],
        )

    def of_class(distilled: Distilled, real: Examples, key: Array, states: Array, final: Array, probes: Array) -> Array:
        synthetic = all_items(task, distilled)
        synthetic, real = (e._replace(inputs=augment(key, e.inputs)) for e in (synthetic, real))

        def projected(examples: Examples) -> Array:
            fused = [fused_features(task, task.unravel(flat), examples, released.influence) for flat in states]
            return probes @ (examples.weights @ jnp.concatenate(fused, axis=1))

        distance = 100 * relative_distance(projected(synthetic), projected(real))
        return distance + released.calibration * mean_loss(task.losses, synthetic)(task.unravel(final))

    def given(batch: Batch) -> tuple[tuple[Examples, Array], Array, Array, Array]:
        """What every class has of its own, and what all share: networks and probes."""
        some = jax.tree.map(lambda x: x[0], batch.real)
        params = task.unravel(batch.final)
        features = jax.eval_shape(lambda: fused_features(task, params, some, released.influence))
        size = (released.probes, checkpoints * features.shape[-1])
        probes = unit_norm(jax.random.normal(batch.probes, size, features.dtype))
        return (batch.real, batch.keys), batch.states.params, batch.final, probes

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        del state
        return sum_over_classes(of_class, distilled, classes, *given(batch))

    def slope(distilled: Distilled, batch: Batch) -> tuple[Array, Distilled]:
        return slope_over_classes(of_class, distilled, classes, *given(batch))

    optimizer = outer_optimizer(config.image_optimizer, config.label_optimizer if config.labels == "learned" else None)
    init, step = descent(optimizer, slope)
    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
