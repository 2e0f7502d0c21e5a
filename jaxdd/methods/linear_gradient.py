"""Linear gradient matching (Cazenavette et al. 2025, arXiv 2511.16674): sets for a linear head on frozen features.

A head W, drawn anew every step, should get the same gradient from the distilled images as from real ones, both seen
through a network φ that stays as it is:

    min_S E_W [ 1 − cos( ∇_W L(W φ(A(S))), ∇_W L(W φ(A(B))) ) ]

The network is one of `jaxdd.models.frozen`, whose parameters are its head; a set is judged by heads trained on it.

Axis letters: B real batch, M distilled items, N real examples, F features.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.augment import NONE, dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import cosine_distance
from jaxdd.core.parallel import mean_over
from jaxdd.core.tasks import Task, all_items, cross_entropy, mean_loss
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, MethodConfig, Optimizer, Sources, descent, outer_optimizer
from jaxdd.methods.classwise import require_classes
from jaxdd.settings import AtLeast
from jaxdd.types import Array, Examples, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of linear gradient matching.

    [published] 5000 steps of Adam at 0.002, noise at first, ten augmented copies of each image. Published images are
    sums of ever finer pyramids in decorrelated colors, augmented by crops, flips and noise; here they are pixels, and
    the augmentation is `augment`. [our choice] the rates and batches below.
    """

    name: ClassVar[str] = "linear_gradient"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps, each with its own heads (published: 5000)."""
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "noise"
    """First images: Gaussian noise (published), or chosen real ones."""
    image_optimizer: Optimizer = Optimizer("adam", 0.01)
    """Optimizer of the images."""
    heads: Annotated[int, AtLeast(1)] = 1
    """Heads of a step; their gradients are averaged (published: 1)."""
    copies: Annotated[int, AtLeast(1)] = 1
    """Augmented copies of each distilled image (published: 10); more than one only with `augment`."""
    real_batch: Annotated[int, AtLeast(1)] = 1024
    """B, real examples of all classes together (published: ten for each distilled image)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies > 1 and self.augment in NONE:
            raise SettingError(
                f"method.copies is {self.copies}, and without method.augment all copies are the same: give an "
                "augmentation, such as crop_flip_scale, or one copy"
            )

    def build(self, task: Task) -> Method:
        """Build linear gradient matching for a task, see `matching_head_gradients`."""
        return matching_head_gradients(task, self)


class Draw(NamedTuple):
    """What is random about a head; a batch has one for each, a leading axis.

    Attributes:
        head: Key of W.
        real: `[B]` real examples, features in place of inputs where nothing augments them.
        keys: `[2]` keys of the augmentation of real and of distilled images.
    """

    head: Array
    real: Examples
    keys: Array


def matching_head_gradients(task: Task, config: Config) -> Method:
    """Build linear gradient matching for a task.

    A step descends `1 − cos(g(S), g(B))` in the images, and in the labels if they are learned, averaged over heads,
    where g is the gradient of the mean cross-entropy in W and its bias, one vector. It logs that and the norm of the
    gradient in the images. Without augmentation, the features of all real images are computed once.

    Args:
        task: A classifier whose network is frozen but for its head.
        config: See `Config`.

    Returns:
        The method; it needs no experts.

    Raises:
        SettingError: The task has no classes, or its network is not frozen.

    References:
        [published] arXiv 2511.16674 and its code: one cosine over kernel and bias, a fresh head each step. [our choice]
        several heads a step.
    """
    require_classes(task, config.name)
    model = task.model
    if model.head is None:
        raise SettingError(
            "linear_gradient matches the gradients of a head on features that stay as they are, and this network has "
            "other parameters, too: build it by jaxdd.models.frozen(network, params, image_shape, classes)"
        )
    on_features = cross_entropy(model._replace(apply=model.head))
    still = config.augment in NONE
    augment = dsa(config.augment, siamese=False)

    def prepare(key: Array, sources: Sources) -> PyTree:
        del key
        head = model.init(jax.random.key(0))
        return sampling.over_all(lambda e, head: model.features(head, e.inputs), sources.examples, head)

    def sample(key: Array, step: Array, sources: Sources) -> Draw:
        del step

        def draw(key: Array) -> Draw:
            head_key, real_key, augment_key = jax.random.split(key, 3)
            rows = sampling.uniform(real_key, sources.examples, config.real_batch)
            real = sampling.take(sources.examples, rows)
            if still:
                real = real._replace(inputs=sources.cache[rows])
            return Draw(head_key, real, jax.random.split(augment_key))

        return jax.vmap(draw)(jax.random.split(key, config.heads))

    def seen(head: Params, examples: Examples, key: Array) -> Examples:
        return examples._replace(inputs=model.features(head, augment(key, examples.inputs)))

    def distance(distilled: Distilled, draw: Draw) -> Array:
        head = model.init(draw.head)
        copies = jax.tree.map(lambda x: jnp.concatenate([x] * config.copies), all_items(task, distilled))
        synthetic = seen(head, copies._replace(weights=copies.weights / config.copies), draw.keys[0])
        real = draw.real if still else seen(head, draw.real, draw.keys[1])
        gradients = (jax.grad(mean_loss(on_features, examples))(head) for examples in (synthetic, real))
        return cosine_distance(*gradients)

    def slope(distilled: Distilled, batch: Draw) -> tuple[Array, Distilled]:
        each = jax.value_and_grad(distance)
        return mean_over(lambda draw, distilled: each(distilled, draw), batch, distilled)

    learned_labels = config.label_optimizer if config.labels == "learned" else None
    init, step = descent(outer_optimizer(config.image_optimizer, learned_labels), slope)
    return Method(init, sample, step, lambda state: state.distilled, prepare=prepare if still else None)
