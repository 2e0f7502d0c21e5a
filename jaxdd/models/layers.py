"""The layers that the networks are made of, channels last, with PyTorch's default initialization.

Published learning rates of dataset distillation assume that initialization, so every layer follows it. Parameters are
created in JAX's default float type and a layer computes in the promoted type of its parameters and inputs: nothing
here fixes float32.
"""

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
from jaxdd.types import Array, Model, Params

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
    "gelu": lambda features: jax.nn.gelu(features, approximate=False),
}
"""Name to elementwise nonlinearity; leaky_relu has slope 0.01 and gelu is the exact one, as in PyTorch."""


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


def convolve(images: Array, kernel: Array, *, stride: int = 1, convolution: Convolution = "auto") -> Array:
    """Cross-correlate images with an odd kernel under zero padding of half the kernel. [published].

    `out[b, h, w, o] = sum_{i, j, k} images[b, h s + i - p, w s + j - p, k] kernel[i, j, k, o]`, with s the stride and
    p half the kernel, rounded down.

    `direct` is XLA's convolution. `patches` concatenates the shifted images and multiplies once, which takes more
    memory. On CPUs it is about as fast for one gradient, 2 to 3 times faster for the gradient of a gradient and for
    networks under `vmap`, and 10 to 25 times for derivatives of gradients inside `lax.scan`, unrolled training above
    all, where XLA falls back to slow convolutions. [our choice]

    Args:
        images: `[B, H, W, K]`.
        kernel: `[I, J, K, O]`, I and J odd.
        stride: step of the output grid, in pixels.
        convolution: `direct`, `patches`, or `auto`: `patches` if JAX's default backend is the CPU.

    Returns:
        `[B, ceil(H / s), ceil(W / s), O]`.
    """
    images, kernel = promote_dtype(images, kernel)
    rows, columns, channels, width = kernel.shape
    padding = ((rows // 2, rows // 2), (columns // 2, columns // 2))
    if convolution == "auto":
        convolution = "patches" if jax.default_backend() == "cpu" else "direct"
    if convolution == "direct":
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    _, height, breadth, _ = images.shape
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + breadth : stride] for i in range(rows) for j in range(columns)
    ]
    patches = jnp.concatenate(shifted, axis=-1)
    out = patches.reshape(-1, rows * columns * channels) @ kernel.reshape(-1, width)
    return out.reshape(*patches.shape[:-1], width)


class Conv(nn.Module):
    """Convolution with bias, zero padding of half the kernel and PyTorch's default initialization.

    Attributes:
        width: output channels.
        size: side of the square kernel, odd.
        stride: step of the output grid, in pixels.
        convolution: see `convolve`.
    """

    width: int
    size: int = 3
    stride: int = 1
    convolution: Convolution = "auto"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, H / stride, W / stride, width]`."""
        channels, dtype = images.shape[-1], jnp.result_type(float)
        initialize = uniform_fan_in(self.size**2 * channels)
        kernel = self.param("kernel", initialize, (self.size, self.size, channels, self.width), dtype)
        bias = self.param("bias", initialize, (self.width,), dtype)
        out = convolve(images, kernel, stride=self.stride, convolution=self.convolution)
        return out + bias[None, None, None, :]


class Linear(nn.Module):
    """Affine map of the last axis with PyTorch's default initialization.

    Attributes:
        width: output features.
    """

    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Map `[B, F]` to `[B, width]`."""
        fan_in, dtype = features.shape[-1], jnp.result_type(float)
        initialize = uniform_fan_in(fan_in)
        kernel = self.param("kernel", initialize, (fan_in, self.width), dtype)
        bias = self.param("bias", initialize, (self.width,), dtype)
        return features @ kernel + bias[None, :]


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


NORMS: dict[str, Callable[[Array], Array] | None] = {
    "instance": lambda features: standardize(features, (1, 2)),
    "batch": lambda features: standardize(features, (0, 1, 2)),
    "group": _standardize_groups,
    "none": None,
}
"""Name to normalization of `[B, H, W, K]`, before the affine map; None for no normalization and no affine map.

`batch` takes the statistics of the current batch in training and evaluation alike and keeps no running averages, so
that a network stays a pure function of its parameters; its logits for one image depend on the rest of the batch.
[our choice]
"""


class Norm(nn.Module):
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
        return normalize(features) * scale[None, None, None, :] + bias[None, None, None, :]


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


def as_model(body: nn.Module, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Turn a linen module that computes features into a Model with a linear last layer.

    Args:
        body: module `[B, H, W, K] -> [B, F]` whose only variables are parameters.
        image_shape: `(H, W, K)`.
        num_classes: number of logits C.

    Returns:
        The three functions. `init` computes no forward pass; `apply` and `features` raise a ValueError if the images
        are not `[B, *image_shape]`.
    """
    module = Classifier(body, num_classes)

    def check(images: Array) -> Array:
        if images.ndim != 4 or images.shape[1:] != tuple(image_shape):
            raise SettingError(
                f"images have shape {images.shape}; the network was built for [B, H, W, K] = B, {image_shape}"
            )
        return images

    def init(key: Array) -> Params:
        return module.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.result_type(float)))["params"]

    def apply(params: Params, images: Array) -> Array:
        return cast(Array, module.apply({"params": params}, check(images)))

    def features(params: Params, images: Array) -> Array:
        return cast(Array, module.apply({"params": params}, check(images), method="features"))

    return Model(init, apply, features)
