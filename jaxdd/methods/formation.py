"""Several images stored as one: IDC's multi-formation (Kim et al. 2022, arXiv 2205.14959), around any method.

A stored image is cut into f × f patches, and each is enlarged to an image to train on: of the same number of pixels f²
times as many images are made, with less detail. A method is not told: the task that it is given makes f² examples of
each item of its set.

Axis letters: M stored images, C classes, H W K image, f factor.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxdd.core.distilled import Distilled
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, MethodConfig, Sources
from jaxdd.settings import AtLeast
from jaxdd.types import Array, Examples, PyTree


@dataclasses.dataclass(frozen=True)
class FormationConfig(MethodConfig):
    """Settings of a method whose stored images may make several to train on."""

    factor: Annotated[int, AtLeast(1)] = 1
    """f: each stored image is cut into f × f patches, enlarged to images, so that `ipc` stored images of a class make
    ipc · f² to train on (published for IDC, NCFM, and Inf-Match as released: 2)."""

    @property
    def items_per_class(self) -> int:
        """Images of each class to train on: f² for each stored one."""
        return self.ipc * self.factor**2

    def check(self, real: RealSet) -> None:
        """Refuse what every method does, and images that do not divide into f × f patches, see `decode`.

        Raises:
            ValueError: A class has fewer than `items_per_class`, or f does not divide H and W.
        """
        super().check(real)
        if self.factor > 1:
            height, breadth = real.inputs.shape[1:3]
            _check_divisible(height, breadth, self.factor)


def formed(build: Callable[[Task], Method], task: Task, factor: int) -> Method:
    """Build a method whose set is stored images, each of which makes f² items.

    Args:
        build: Builds the method, which reads its set by `task.examples` alone.
        task: What its network does, with a set of items.
        factor: f; 1 for one item each, the method as it is.

    Returns:
        The method: its state has stored images, its objective is a function of them, and it begins with the items
        that it is given, see `encode`, and shows those that it has made, see `decode`.

    Raises:
        ValueError: f is not 1, and the task has no classes.
    """
    if factor == 1:
        return build(task)
    if task.classes is None:
        raise SettingError(
            f"method.factor is {factor}, which makes several images of a class from one, and the task {task.name!r} "
            "has no classes; leave it out"
        )

    def examples(stored: Distilled, indices: Array) -> Examples:
        items = factor**2 * indices[:, None] + jnp.arange(factor**2)[None]
        return task.examples(decode(stored, factor), items.reshape(-1))

    base = build(dataclasses.replace(task, examples=examples))

    def init(key: Array, distilled: Distilled, sources: Sources) -> PyTree:
        return base.init(key, encode(distilled, factor), sources)

    return base._replace(init=init, distilled=lambda state: decode(base.distilled(state), factor))


def decode(stored: Distilled, factor: int) -> Distilled:
    """Cut every image into f × f patches, row by row, and enlarge each bilinearly to an image of the full size.

    Args:
        stored: Images `[M, H, W, K]`, label logits `[M, C]`.
        factor: f; 1 changes nothing.

    Returns:
        Images `[M·f², H, W, K]` and label logits `[M·f², C]`, the f² items of a stored image one after another;
        differentiable in the images.

    Raises:
        ValueError: f does not divide H and W.

    References:
        [published] IDC's multi-formation, arXiv 2205.14959; its code pads what does not divide.
    """
    if factor == 1:
        return stored
    size, height, breadth, channels = stored.images.shape
    _check_divisible(height, breadth, factor)
    patches = stored.images.reshape(size, factor, height // factor, factor, breadth // factor, channels)
    patches = patches.swapaxes(2, 3).reshape(-1, height // factor, breadth // factor, channels)
    images = jax.image.resize(patches, (len(patches), height, breadth, channels), "bilinear")
    return stored._replace(inputs=images, labels=jnp.repeat(stored.labels, factor**2, axis=0))


def encode(distilled: Distilled, factor: int) -> Distilled:
    """Shrink f × f images, one after another, into the patches of one: those whose `decode` is nearest to them.

    Args:
        distilled: Images `[M·f², H, W, K]` and label logits `[M·f², C]`.
        factor: f; 1 changes nothing.

    Returns:
        Images `[M, H, W, K]` and the mean label logits `[M, C]`; of images that `decode` made, those it made them from.

    Raises:
        ValueError: f does not divide H and W.

    References:
        [published] IDC's code calls it mix and takes every f-th pixel; [our choice] least squares.
    """
    if factor == 1:
        return distilled
    _, height, breadth, channels = distilled.images.shape
    _check_divisible(height, breadth, factor)
    rows, columns = (jnp.linalg.pinv(_enlarging(side // factor, side)) for side in (height, breadth))
    patches = jnp.einsum("ah,mhwk,bw->mabk", rows, distilled.images, columns, precision="highest")
    patches = patches.reshape(-1, factor, factor, height // factor, breadth // factor, channels)
    images = patches.swapaxes(2, 3).reshape(-1, height, breadth, channels)
    labels = distilled.labels.reshape(len(images), factor**2, -1).mean(1)
    return distilled._replace(inputs=images, labels=labels)


def _enlarging(small: int, large: int) -> Array:
    """Return the matrix `[large, small]` by which a column of pixels is enlarged bilinearly."""
    return jax.image.resize(jnp.eye(small), (large, small), "bilinear")


def _check_divisible(height: int, breadth: int, factor: int) -> None:
    if height % factor or breadth % factor:
        raise SettingError(
            f"method.factor is {factor} and images are {height}×{breadth}, which do not divide into {factor}×{factor} "
            "patches; choose another factor, or scale the images (data.image_size)"
        )
