"""DM: dataset condensation with distribution matching (Zhao & Bilen 2023, arXiv 2110.04181).

Class by class, the mean feature of the distilled images should be that of real images, for any random network:

    min_S E_θ Σ_c ‖ (1/|S_c|) Σ_j φ(A_c(s_j); θ) − (1/|B_c|) Σ_i φ(A_c(x_i); θ) ‖²

Axis letters: B real batch, C classes.
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

import jax

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import mean_distance
from jaxdd.core.tasks import Task, all_items
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, Optimizer, Sources, State, descent, outer_optimizer
from jaxdd.methods.classwise import ClasswiseConfig, slope_over_classes, sum_over_classes
from jaxdd.settings import AtLeast
from jaxdd.types import Array, Examples, Params


@dataclasses.dataclass(frozen=True)
class Config(ClasswiseConfig):
    """Settings of DM. Its published augmentation is DSA (`augment`), its default here none."""

    name: ClassVar[str] = "dm"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps, each with its own random network (published: 20 000)."""
    image_optimizer: Optimizer = Optimizer("sgd", 1.0, 0.5)
    """Optimizer of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "learned":
            raise SettingError("method.labels is 'learned', but features do not depend on labels; choose hard or soft")

    @property
    def needs_features(self) -> bool:
        """Yes: they are matched."""
        return True

    def unweighted(self, task: Task) -> Method:
        """Build DM for a task, see `matching_means`."""
        return matching_means(task, self)


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


def matching_means(task: Task, config: Config) -> Method:
    """Build DM for a task.

    A step descends `Σ_c ‖ Σ_j φ(A_c(s_j)) / |S_c| − Σ_i w_i φ(A_c(x_i)) ‖²` in the images, with the features φ of a
    fresh network and the weights w of the batch.

    Args:
        task: The features of its network are matched; it has classes.
        config: See `Config`.

    Returns:
        The method; it needs no experts.
    """
    model, classes = task.model, task.items(1)
    augment = dsa(config.augment, siamese=True)

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        real_key, augment_key, network_key = jax.random.split(key, 3)
        rows = sampling.classwise(real_key, sources.examples, config.real_batch)
        return Batch(sampling.take(sources.examples, rows), jax.random.split(augment_key, classes), network_key)

    def of_class(distilled: Distilled, real: Examples, key: Array, network: Params) -> Array:
        synthetic = all_items(task, distilled)
        phi_s, phi_r = (model.features(network, augment(key, e.inputs)) for e in (synthetic, real))
        return mean_distance(phi_s, phi_r, synthetic.weights, real.weights)

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        del state
        return sum_over_classes(of_class, distilled, classes, (batch.real, batch.keys), model.init(batch.network))

    def slope(distilled: Distilled, batch: Batch) -> tuple[Array, Distilled]:
        return slope_over_classes(of_class, distilled, classes, (batch.real, batch.keys), model.init(batch.network))

    init, step = descent(outer_optimizer(config.image_optimizer), slope)
    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
