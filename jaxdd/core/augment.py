"""Differentiable siamese augmentation (Zhao & Bilen 2021, arXiv 2102.08259).

Each operation is `(key, images [B,H,W,K], *, siamese) -> images`, affine in the images. With `siamese` one draw of the
parameters serves all images, and depends on the key and the image size alone, so that the same key transforms real and
distilled batches of different sizes alike; otherwise every image has its own draw. Images are normalized ones: what an
operation brings in from outside an image is zero in that space, as published. Parameters are the published ones.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxdd.errors import SettingError
from jaxdd.types import Array, Augment, Examples


def _draws(images: Array, siamese: bool) -> int:
    return 1 if siamese else images.shape[0]


def _uniform(key: Array, images: Array, siamese: bool, low: float, high: float) -> Array:
    """Draw U(low, high) once or per image, as `[1 or B, 1, 1, 1]`."""
    return jax.random.uniform(key, (_draws(images, siamese), 1, 1, 1), images.dtype, low, high)


def brightness(key: Array, images: Array, *, siamese: bool) -> Array:
    """Add a constant: `x + b`, b ~ U(-0.5, 0.5). [published]."""
    return images + _uniform(key, images, siamese, -0.5, 0.5)


def saturation(key: Array, images: Array, *, siamese: bool) -> Array:
    """Scale the distance of a pixel to its mean m over channels: `s (x - m) + m`, s ~ U(0, 2). [published]."""
    mean = images.mean(axis=3, keepdims=True)
    return (images - mean) * _uniform(key, images, siamese, 0.0, 2.0) + mean


def contrast(key: Array, images: Array, *, siamese: bool) -> Array:
    """Scale the distance of an image to its mean m: `c (x - m) + m`, c ~ U(0.5, 1.5). [published]."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return (images - mean) * _uniform(key, images, siamese, 0.5, 1.5) + mean


def color(key: Array, images: Array, *, siamese: bool) -> Array:
    """Apply `brightness`, `saturation` and `contrast` in turn. [published]."""
    brightness_key, saturation_key, contrast_key = jax.random.split(key, 3)
    images = brightness(brightness_key, images, siamese=siamese)
    images = saturation(saturation_key, images, siamese=siamese)
    return contrast(contrast_key, images, siamese=siamese)


def crop(key: Array, images: Array, *, siamese: bool) -> Array:
    """Shift by whole pixels and fill with zeros: up to `int(H / 8 + 1 / 2)` rows either way, alike for columns.

    [published].
    """
    _, height, breadth, _ = images.shape

    def positions(key: Array, size: int) -> Array:
        largest = int(size * 0.125 + 0.5)
        shift = jax.random.randint(key, (_draws(images, siamese), 1), -largest, largest + 1)
        return (jnp.arange(size)[None] + shift).astype(images.dtype)

    row_key, column_key = jax.random.split(key)
    return _resample(images, positions(row_key, height), positions(column_key, breadth))


def cutout(key: Array, images: Array, *, siamese: bool) -> Array:
    """Zero a rectangle of half the height and half the width, centered anywhere and clipped at the border. [published].

    With s = int(H / 2 + 1 / 2), rows o - s // 2 ... o - s // 2 + s - 1 for o uniform in {0 ... H - s % 2}, alike for
    columns.
    """
    _, height, breadth, _ = images.shape

    def inside(key: Array, size: int) -> Array:
        side = int(size * 0.5 + 0.5)
        center = jax.random.randint(key, (_draws(images, siamese), 1), 0, size + 1 - side % 2)
        offset = jnp.arange(size)[None] - (center - side // 2)
        return (offset >= 0) & (offset < side)

    row_key, column_key = jax.random.split(key)
    rows, columns = inside(row_key, height), inside(column_key, breadth)
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], jnp.zeros((), images.dtype), images)


def flip(key: Array, images: Array, *, siamese: bool) -> Array:
    """Mirror left and right with probability 1/2. [published]."""
    return jnp.where(_uniform(key, images, siamese, 0.0, 1.0) < 0.5, images[:, :, ::-1], images)


def scale(key: Array, images: Array, *, siamese: bool) -> Array:
    """Zoom rows and columns by 1 / s about the center, each with its s ~ U(1 / 1.2, 1.2). [published].

    A pixel at p, in coordinates where the image is [-1, 1], takes the bilinear value at s p, zero outside.
    """
    _, height, breadth, _ = images.shape

    def positions(key: Array, size: int) -> Array:
        factor = jax.random.uniform(key, (_draws(images, siamese), 1), images.dtype, 1 / 1.2, 1.2)
        return _pixels(factor * _centers(size, images.dtype)[None], size)

    row_key, column_key = jax.random.split(key)
    return _resample(images, positions(row_key, height), positions(column_key, breadth))


def rotate(key: Array, images: Array, *, siamese: bool) -> Array:
    """Rotate about the center by an angle a ~ U(-15, 15) degrees. [published].

    A pixel at (x, y), in coordinates where the image is [-1, 1]^2, takes the bilinear value at
    `(x cos a - y sin a, x sin a + y cos a)`, zero outside. Images that are not square are sheared a little, as in the
    published code.
    """
    batch, height, breadth, channels = images.shape
    limit = math.radians(15)
    angle = _uniform(key, images, siamese, -limit, limit)[..., 0]
    x = _centers(breadth, images.dtype)[None, None, :]
    y = _centers(height, images.dtype)[None, :, None]
    rows = _pixels(x * jnp.sin(angle) + y * jnp.cos(angle), height)
    columns = _pixels(x * jnp.cos(angle) - y * jnp.sin(angle), breadth)

    # Gathering the four neighbors beats the dense [HW, HW] matrix on CPUs by an order of magnitude.
    pixels = images.reshape(batch, height * breadth, channels)
    rotated = jnp.zeros_like(pixels)
    for row in (jnp.floor(rows), jnp.floor(rows) + 1):
        for column in (jnp.floor(columns), jnp.floor(columns) + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < breadth)
            weight = inside * (1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column))
            nearest = jnp.clip(row, 0, height - 1) * breadth + jnp.clip(column, 0, breadth - 1)
            index = nearest.astype(jnp.int32).reshape(-1, height * breadth)
            if siamese:
                neighbor = jnp.take(pixels, index[0], axis=1)
            else:
                neighbor = jax.vmap(lambda image, index: image[index])(pixels, index)
            rotated += weight.reshape(-1, height * breadth, 1) * neighbor
    return rotated.reshape(images.shape)


def _centers(size: int, dtype: jnp.dtype) -> Array:
    """Return the coordinates of pixel centers where the image is [-1, 1] (PyTorch's align_corners=False)."""
    return (2 * jnp.arange(size, dtype=dtype) + 1) / size - 1


def _pixels(coordinates: Array, size: int) -> Array:
    """Invert `_centers`: coordinates in [-1, 1] to fractional pixel indices."""
    return ((coordinates + 1) * size - 1) / 2


def _resample(images: Array, rows: Array, columns: Array) -> Array:
    """Interpolate bilinearly on a grid of rows `[1 or B, H]` and columns `[1 or B, W]`, zero outside the images.

    `out[h, w] = sum_ij hat(rows[h] - i) hat(columns[w] - j) x[i, j]`, hat(t) = max(0, 1 - |t|): two matrix products,
    whose transposes are matrix products too, where a gather would have a scatter.
    """
    batch, height, breadth, channels = images.shape

    def weights(positions: Array, size: int) -> Array:
        distance = jnp.abs(positions[:, :, None] - jnp.arange(size, dtype=images.dtype)[None, None, :])
        return jnp.maximum(0, 1 - distance)

    # Accelerators round the factors of a matrix product by default, which would change even the pixels of a pure shift.
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    images = product(weights(rows, height), images.reshape(batch, height, breadth * channels))
    images = images.reshape(batch, height, breadth, channels)
    return product(weights(columns, breadth)[:, None], images)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
"""Published name to operation `(key, images, *, siamese) -> images`."""


NONE = ("", "none", "None")
"""Strategies that change nothing."""


def dsa(strategy: str, *, siamese: bool) -> Augment:
    """Build an augmentation that applies one operation per call, drawn uniformly from a strategy. [published].

    Strategies joined by `+` are applied one after another, as IDC and NCFM do: theirs, called
    `color_crop_cutout_flip_scale_rotate`, is `flip+color+crop_scale_rotate+cutout`. [published].

    Args:
        strategy: names of `OPERATIONS` joined by underscores, such as `color_crop_cutout_flip_scale_rotate`; a name
            given twice is drawn twice as often. `none` or the empty string is the identity.
        siamese: draw the parameters of the operation once for all images, so that calls with the same key transform
            batches of any size alike (matching gradients or features); otherwise once per image (training a network).

    Returns:
        `(key, images [B,H,W,K]) -> images`, differentiable in the images; the operation is drawn once per call in
        either mode.

    Raises:
        ValueError: if the strategy names an unknown operation; from an augmentation other than `none`, if the images do
            not have four axes.
    """
    stages = [] if strategy in NONE else [stage.split("_") for stage in strategy.split("+")]
    unknown = [name for names in stages for name in names if name not in OPERATIONS]
    if unknown:
        raise SettingError(
            f"unknown operation {unknown[0]!r} in augmentation {strategy!r}; "
            f"join some of {', '.join(OPERATIONS)} by underscores, or give none"
        )

    def one_of(names: list[str], key: Array, images: Array) -> Array:
        operations = [partial(OPERATIONS[name], siamese=siamese) for name in names]
        choice_key, operation_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, len(operations))
        return lax.switch(choice, operations, operation_key, images)

    def augment(key: Array, images: Array) -> Array:
        if not stages:
            return images
        if getattr(images, "ndim", None) != 4:
            raise SettingError(
                f"images have shape {jax.tree.map(jnp.shape, images)}; augmentation needs four axes, [B, H, W, K]: "
                "set augment to none for other inputs"
            )
        keys = [key] if len(stages) == 1 else jax.random.split(key, len(stages))
        for names, stage_key in zip(stages, keys, strict=True):
            images = one_of(names, stage_key, images)
        return images

    return augment


CUTMIX_KEYS = 0x3C1
"""Folded into the key of a batch; small numbers would give keys that `dsa` gets by splitting it."""


def cutmix(key: Array, examples: Examples, probability: float) -> Examples:
    """Paste a rectangle of one image of a batch into another, and mix their targets by area.

    With a ~ U(0, 1), a permutation π and a center uniform over the pixels, the rectangle of `2 ⌊⌊H √(1 − a)⌋ / 2⌋`
    rows, alike for columns, clipped at the border, is taken from image π(i); `y_i ← r y_i + (1 − r) y_π(i)`, r being
    the part of the image that stays. One rectangle and one permutation serve a batch.

    Args:
        key: draws all of it; that of the batch's augmentation can be given, too, with which nothing is shared.
        examples: images `[B,H,W,K]` and target probabilities `[B,C]`; their weights stay.
        probability: that a batch is mixed at all; 0 is the identity.

    Returns:
        The mixed examples. A loss that is linear in the targets, as cross-entropy is, becomes the mix of two losses.

    Raises:
        SettingError: if the inputs are no images.

    References:
        [published] Yun et al. 2019, arXiv 1905.04899, as IDC's code computes it.
    """
    if not probability:
        return examples
    images, targets = examples.inputs, examples.targets
    if jnp.ndim(images) != 4:
        raise SettingError(f"inputs have shape {jnp.shape(images)}; cutmix needs images [B, H, W, K]: set it to 0")
    whether_key, area_key, order_key, *axis_keys = jax.random.split(jax.random.fold_in(key, CUTMIX_KEYS), 5)
    side = jnp.sqrt(1 - jax.random.uniform(area_key))
    order = jax.random.permutation(order_key, len(images))

    def inside(key: Array, size: int) -> Array:
        center, half = jax.random.randint(key, (), 0, size), jnp.floor(size * side) // 2
        position = jnp.arange(size)
        return (position >= center - half) & (position < center + half)

    rows, columns = (inside(key, size) for key, size in zip(axis_keys, images.shape[1:3], strict=True))
    pasted = rows[:, None] & columns[None, :] & (jax.random.uniform(whether_key) < probability)
    stays = (1 - jnp.mean(pasted)).astype(targets.dtype)
    return examples._replace(
        inputs=jnp.where(pasted[None, :, :, None], images[order], images),
        targets=stays * targets + (1 - stays) * targets[order],
    )
