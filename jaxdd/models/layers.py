"""The layers that the networks are made of, channels last, with PyTorch's default initialization.

Published learning rates of dataset distillation assume that initialization, so every layer follows it. Parameters are
created in JAX's default float type and a layer computes in the promoted type of its parameters and inputs: nothing
here fixes float32.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from jaxdd.errors import SettingError
from jaxdd.models.config import Convolution
from jaxdd.types import STATISTICS, Array, Model, Params, PyTree

INTERMEDIATES = "intermediates"
"""The collection, flax's own, in which networks show their `Model.maps`."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
    "gelu": lambda features: jax.nn.gelu(features, approximate=False),
}
"""Name to elementwise nonlinearity; leaky_relu has slope 0.01 and gelu is the exact one, as in PyTorch."""


WINOGRAD_CHANNELS, WINOGRAD_TILES = 64, 512
"""Channels and tiles of 2x2 pixels in a batch from which on Winograd's convolution is the faster one on CPUs; with less
to do its products are too small, and it takes longer to compile. An epoch of 2560 images of 32x32, in batches of 256,
on a ConvNet of width 128 and depth 3 took 5.27 s against 7.48 s with patches, and 3 s against 1 s to compile (2 idle
CPU cores, jax 0.10.2, `python -m tests.benchmarks.speed --only expert`, with `--convolution patches`); ten student
steps of MTT on ten images 1.4 s against 1.8 s, and 15 s against 9 s to compile. [our choice]"""


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """Initialize weights and biases as PyTorch does by default: `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`. [published].

    For weights this is kaiming-uniform with a = sqrt(5) (He et al. 2015, arXiv 1502.01852); for biases it is what
    `torch.nn.Linear` and `torch.nn.Conv2d` draw.

    Args:
        fan_in: number of inputs of one output unit, `kernel height * kernel width * input channels`.

    Returns:
        `(key, shape, dtype) -> array`.
    """
    bound = 1 / math.sqrt(fan_in)

    def initialize(key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def convolve(
    images: Array, kernel: Array, *, stride: int = 1, padding: int | None = None, convolution: Convolution = "auto"
) -> Array:
    """Cross-correlate images with an odd kernel under zero padding. [published].

    `out[b, h, w, o] = sum_{i, j, k} images[b, h s + i - p, w s + j - p, k] kernel[i, j, k, o]`, with s the stride and
    p the padding.

    `direct` is XLA's convolution. `patches` concatenates the shifted images and multiplies once, which takes more
    memory. On CPUs it is about as fast for one gradient, 2 to 3 times faster for the gradient of a gradient and for
    networks under `vmap`, and 10 to 25 times for derivatives of gradients inside `lax.scan`, unrolled training above
    all, where XLA falls back to slow convolutions.
    `winograd` needs 2.25 times fewer multiplications than either, see `winograd`. [our choice]

    Args:
        images: `[B, H, W, K]`.
        kernel: `[I, J, K, O]`, I and J odd.
        stride: step of the output grid, in pixels.
        padding: p, pixels of zeros on each side; by default half the kernel, rounded down.
        convolution: `direct`, `patches`, `winograd` (`patches` where that cannot be), or `auto`: if JAX's default
            backend is the CPU, `winograd` from WINOGRAD_CHANNELS and WINOGRAD_TILES on and `patches` for less.

    Returns:
        `[B, (H + 2p - I) // s + 1, (W + 2p - J) // s + 1, O]`, which is `[B, ceil(H / s), ceil(W / s), O]` by default.
    """
    images, kernel = promote_dtype(images, kernel)
    rows, columns, channels, width = kernel.shape
    sides = [side // 2 if padding is None else padding for side in (rows, columns)]
    margins = tuple((side, side) for side in sides)
    if convolution == "auto" and jax.default_backend() == "cpu":
        large = min(channels, width) >= WINOGRAD_CHANNELS and math.prod(images.shape[:3]) >= 4 * WINOGRAD_TILES
        convolution = "winograd" if large else "patches"
    if convolution == "winograd" and (rows, columns, *sides, stride) == (3, 3, 1, 1, 1) and _is_even(images):
        return winograd(images, kernel)
    if convolution in ("auto", "direct"):
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), margins, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    padded = jnp.pad(images, ((0, 0), *margins, (0, 0)))
    height, breadth = padded.shape[1] - rows + 1, padded.shape[2] - columns + 1
    shifted = [
        padded[:, i : i + height : stride, j : j + breadth : stride] for i in range(rows) for j in range(columns)
    ]
    patches = jnp.concatenate(shifted, axis=-1)
    out = patches.reshape(-1, rows * columns * channels) @ kernel.reshape(-1, width)
    return out.reshape(*patches.shape[:-1], width)


def _is_even(images: Array) -> bool:
    return images.shape[1] % 2 == 0 and images.shape[2] % 2 == 0


def winograd(images: Array, kernel: Array) -> Array:
    """Cross-correlate images with a 3x3 kernel under one pixel of zeros, with 16 products for 2x2 pixels, not 36.

    With `t` the 4x4 tiles of the padded images that overlap by two, `out = Aᵀ [(G k Gᵀ) ∘ (Bᵀ t B)] A`, where the
    product ∘ is one of matrices over the channels for each of the 16 places of a tile. Exact up to rounding.

    Args:
        images: `[B, H, W, K]`, H and W even.
        kernel: `[3, 3, K, O]`.

    Returns:
        `[B, H, W, O]`.

    References:
        [published] F(2x2, 3x3) of Fast Algorithms for Convolutional Neural Networks, Lavin & Gray 2016, arXiv
        1509.09308. [our choice] tiles are cut by reshaping: the transposes of strided slices are slow.
    """
    batch, height, breadth, channels = images.shape
    # [B, block row, row in it, block column, column in it, K]: a tile is a block and its next ones, right and below.
    blocks = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(
        batch, height // 2 + 1, 2, breadth // 2 + 1, 2, channels
    )
    of_kernel = _kernel_of_tile(_kernel_of_tile(kernel), axis=1)
    products = [
        [tile.reshape(-1, channels) @ of_kernel[i, j] for j, tile in enumerate(_of_tile(rows, axis=2))]
        for i, rows in enumerate(_of_tile(blocks, axis=1))
    ]
    columns = [jnp.stack(_pair_of_tile(row), 1) for row in products]
    out = jnp.stack(_pair_of_tile(columns), 1)
    out = out.reshape(batch, height // 2, breadth // 2, 2, 2, -1)
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, breadth, -1)


def _of_tile(blocks: Array, axis: int) -> list[Array]:
    """Apply Bᵀ along an axis of blocks and the next one, of the two pixels in each."""
    here = lax.slice_in_dim(blocks, 0, -1, axis=axis)
    below = lax.slice_in_dim(blocks, 1, None, axis=axis)
    first, second = (lax.index_in_dim(here, at, axis + 1, keepdims=False) for at in (0, 1))
    third, fourth = (lax.index_in_dim(below, at, axis + 1, keepdims=False) for at in (0, 1))
    return [first - third, second + third, third - second, second - fourth]


def _kernel_of_tile(kernel: Array, axis: int = 0) -> Array:
    """Apply G along an axis, `[3] -> [4]`."""
    first, second, third = (lax.index_in_dim(kernel, at, axis, keepdims=False) for at in range(3))
    return jnp.stack([first, (first + second + third) / 2, (first - second + third) / 2, third], axis)


def _pair_of_tile(products: list[Array]) -> list[Array]:
    """Apply Aᵀ, `[4] -> [2]`."""
    first, second, third, fourth = products
    return [first + second + third, second - third - fourth]


class Conv(nn.Module):
    """Convolution with zero padding and PyTorch's default initialization.

    Attributes:
        width: output channels.
        size: side of the square kernel, odd.
        stride: step of the output grid, in pixels.
        padding: pixels of zeros on each side; by default half the kernel, rounded down.
        bias: whether to add one.
        convolution: see `convolve`.
    """

    width: int
    size: int = 3
    stride: int = 1
    padding: int | None = None
    bias: bool = True
    convolution: Convolution = "auto"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, H', W', width]`, see `convolve`."""
        channels, dtype = images.shape[-1], jnp.result_type(float)
        initialize = uniform_fan_in(self.size**2 * channels)
        kernel = self.param("kernel", initialize, (self.size, self.size, channels, self.width), dtype)
        out = convolve(images, kernel, stride=self.stride, padding=self.padding, convolution=self.convolution)
        if not self.bias:
            return out
        return out + self.param("bias", initialize, (self.width,), dtype)[None, None, None, :]


class Linear(nn.Module):
    """Affine map of the last axis with PyTorch's default initialization.

    Attributes:
        width: output features.
    """

    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Map `[B, ..., F]` to `[B, ..., width]`."""
        fan_in, dtype = features.shape[-1], jnp.result_type(float)
        initialize = uniform_fan_in(fan_in)
        kernel = self.param("kernel", initialize, (fan_in, self.width), dtype)
        bias = self.param("bias", initialize, (self.width,), dtype)
        return features @ kernel + jnp.expand_dims(bias, range(features.ndim - 1))


GROUPS = 4
"""Groups of group normalization in the published ConvNet."""

_EPSILON = 1e-5


def standardize(features: Array, axes: tuple[int, ...]) -> Array:
    """Subtract the mean over axes and divide by the standard deviation: `(x - m) / sqrt(mean((x - m)^2) + 1e-5)`.

    The variance is the mean of squared deviations, not `E[x^2] - m^2`, which cancels for images that are far from zero
    or nearly constant; the difference in speed is within the noise of the measurement. [our choice]

    Args:
        features: any shape.
        axes: what to take the statistics over.

    Returns:
        An array like `features`.
    """
    deviations = features - features.mean(axes, keepdims=True)
    return deviations * lax.rsqrt(jnp.square(deviations).mean(axes, keepdims=True) + _EPSILON)


def _standardize_groups(features: Array) -> Array:
    grouped = features.reshape(*features.shape[:-1], GROUPS, -1)
    return standardize(grouped, (1, 2, 4)).reshape(features.shape)


def check_groups(norm: str, width: int) -> None:
    """Refuse a width that group normalization cannot cut into its groups.

    Raises:
        SettingError: it does not divide.
    """
    if norm == "group" and width % GROUPS:
        raise SettingError(f"width {width} does not divide into {GROUPS} groups; use a multiple of {GROUPS}")


NORMS: dict[str, Callable[[Array], Array] | None] = {
    "instance": lambda features: standardize(features, (1, 2)),
    "batch": lambda features: standardize(features, (0, 1, 2)),
    "group": _standardize_groups,
    "none": None,
}
"""Name to normalization of `[B, H, W, K]`, before the affine map; None for no normalization and no affine map."""


class Normalize(nn.Module):
    """Normalization followed by a learned scale and bias per channel, initially one and zero.

    Attributes:
        kind: a key of `NORMS`.
    """

    kind: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Map `[B, H, W, K]` to the same shape."""
        normalize = NORMS[self.kind]
        if normalize is None:
            return features
        shape, dtype = (features.shape[-1],), jnp.result_type(float)
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        if self.kind == "batch" and self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            self.put_variable(STATISTICS, "mean", features.mean((0, 1, 2)))
            self.put_variable(STATISTICS, "var", features.var((0, 1, 2), ddof=1))
        elif self.has_variable(STATISTICS, "mean"):
            mean, variance = (jnp.asarray(self.get_variable(STATISTICS, name)) for name in ("mean", "var"))
            normalize = functools.partial(_standardize_by, mean, variance)
        return normalize(features) * scale[None, None, None, :] + bias[None, None, None, :]


def _standardize_by(mean: Array, variance: Array, features: Array) -> Array:
    return (features - mean[None, None, None, :]) * lax.rsqrt(variance + _EPSILON)[None, None, None, :]


def average_pool(features: Array) -> Array:
    """Average 2x2 windows, dropping an odd last row or column: `[B, H, W, K] -> [B, H // 2, W // 2, K]`."""
    # nn.avg_pool lowers to reduce_window, which on CPUs beats the mean of a reshaped array.
    return nn.avg_pool(features, (2, 2), (2, 2))


def max_pool(features: Array) -> Array:
    """Take the maximum of 2x2 windows, dropping an odd last row or column: `[B, H, W, K] -> [B, H // 2, W // 2, K]`.

    Among equal maxima the first in row-major order gets the gradient, as in PyTorch.
    """
    # Comparisons, because jnp.max marks its maxima by equality with the result: when XLA recomputes the features with
    # another rounding nothing is equal, and derivatives of gradients come out wrong without a warning. The maximum by
    # reduce_window is right but slower.
    batch, height, breadth, channels = features.shape
    even = features[:, : height // 2 * 2, : breadth // 2 * 2]
    windows = even.reshape(batch, height // 2, 2, breadth // 2, 2, channels)
    rows = _larger(windows[:, :, :, :, 0], windows[:, :, :, :, 1])
    return _larger(rows[:, :, 0], rows[:, :, 1])


def max_pool_3(features: Array) -> Array:
    """Take the maximum of 3x3 windows of stride 2, one pixel outside the image included.

    `[B, H, W, K] -> [B, ceil(H / 2), ceil(W / 2), K]`; gradients as in `max_pool`.
    """
    height, breadth = features.shape[1:3]
    padded = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    windows = [padded[:, i : i + height : 2, j : j + breadth : 2] for i in range(3) for j in range(3)]
    return functools.reduce(_larger, windows)


def _larger(first: Array, second: Array) -> Array:
    return jnp.where((first >= second) | jnp.isnan(first), first, second)


POOLINGS: dict[str, Callable[[Array], Array]] = {
    "avg": average_pool,
    "max": max_pool,
    "none": lambda features: features,
}
"""Name to pooling of `[B, H, W, K]`."""


class Classifier(nn.Module):
    """A body that maps images to features, followed by a linear layer.

    Attributes:
        body: module `[B, H, W, K] -> [B, F]`.
        num_classes: number of logits.
    """

    body: nn.Module
    num_classes: int

    def setup(self) -> None:
        """Create the last layer."""
        self.linear = Linear(self.num_classes)

    def features(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to the input of the last linear layer, `[B, F]`."""
        return self.body(images)

    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to logits `[B, C]`."""
        return self.linear(self.features(images))


def shown(module: nn.Module, x: Array) -> Array:
    """Return x, and show it among the network's `Model.maps`."""
    module.sow(INTERMEDIATES, "maps", x)
    return x


def as_model(body: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Turn a linen module that computes features into a Model with a linear last layer.

    Args:
        body: module `[B, H, W, K] -> [B, F]` whose only variables are parameters, and the statistics of `Normalize`.
        image_shape: `(H, W, K)`.
        num_classes: number of logits C.

    Returns:
        The functions. `init` computes no forward pass; `apply` and `features` raise a ValueError if the images
        are not `[B, *image_shape]`.
    """
    module = Classifier(body, num_classes)

    def check(images: Array) -> Array:
        if images.ndim != 4 or images.shape[1:] != tuple(image_shape):
            raise SettingError(
                f"images have shape {images.shape}; the network was built for [B, H, W, K] = B, {image_shape}"
            )
        return images

    def variables(params: Params) -> dict[str, Params]:
        learned = {name: values for name, values in params.items() if name != STATISTICS}
        return {"params": learned} | ({STATISTICS: params[STATISTICS]} if STATISTICS in params else {})

    def init(key: Array) -> Params:
        return module.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.result_type(float)))["params"]

    def apply(params: Params, images: Array) -> Array:
        return cast(Array, module.apply(variables(params), check(images)))

    def features(params: Params, images: Array) -> Array:
        return cast(Array, module.apply(variables(params), check(images), method="features"))

    def observe(params: Params, images: Array) -> PyTree:
        return module.apply({"params": params}, check(images), mutable=[STATISTICS])[1][STATISTICS]

    def maps(params: Params, images: Array) -> tuple[Array, ...]:
        seen = module.apply(variables(params), check(images), method="features", mutable=[INTERMEDIATES])[1]
        return cast(tuple[Array, ...], seen.get(INTERMEDIATES, {}).get("body", {}).get("maps", ()))

    return Model(init, apply, features, observe if getattr(body, "norm", None) == "batch" else None, maps)
