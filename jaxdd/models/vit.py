"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

import dataclasses
import math
from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdd.errors import SettingError
from jaxdd.models.config import ModelConfig, Width
from jaxdd.models.layers import ACTIVATIONS, Linear, as_model, shown, standardize
from jaxdd.settings import AtLeast, Between
from jaxdd.types import Array, Model


@dataclasses.dataclass(frozen=True)
class ViT(ModelConfig):
    """Vision transformer with pre-normalization and the mean over the patches as features. [published] in its parts.

    Patches -> linear + learned positions -> `depth` times [x + attention(norm(x)); x + mlp(norm(x))] -> norm -> mean
    over the patches -> linear. The mlp has `expansion` times `width` units and gelu. No dropout, so that it is a
    pure function, and no class token; sizes for 32x32 images, 810 890 parameters on CIFAR-10. [our choice]
    """

    name: ClassVar[str] = "vit"

    width: Width = 128
    """Features of a patch."""
    depth: Annotated[int, Between(1, 2**10)] = 6
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads; they divide the width."""
    patch: Annotated[int, AtLeast(1)] = 4
    """Side of a patch, in pixels; it divides the image's."""
    expansion: Annotated[int, AtLeast(1)] = 2
    """Units of the hidden layer of a block, in multiples of the width."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the mean over the patches, `[B, width]`.

        Raises:
            SettingError: if patches do not tile the image, or heads do not divide the width.
        """
        height, breadth, _ = image_shape
        if height % self.patch or breadth % self.patch:
            raise SettingError(f"patches of {self.patch} pixels do not tile images of {height}x{breadth}")
        if self.width % self.heads:
            raise SettingError(f"width {self.width} does not divide into {self.heads} heads; use a multiple of them")
        body = Transformer(self.width, self.depth, self.heads, self.patch, self.expansion)
        return as_model(body, image_shape, num_classes)


class LayerNorm(nn.Module):
    """Standardize every patch, then scale and shift its features, initially by one and zero."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, N, D]` to the same shape."""
        shape, dtype = (x.shape[-1],), jnp.result_type(float)
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        return standardize(x, (2,)) * scale[None, None, :] + bias[None, None, :]


class Attention(nn.Module):
    """Multi-head self-attention, `softmax(Q Kᵀ / sqrt(d)) V` for each head of d features.

    Attributes:
        heads: number of heads.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, N, D]` to the same shape."""
        width = x.shape[-1]

        def by_head(name: str) -> Array:
            return Linear(width, name=name)(x).reshape(*x.shape[:2], self.heads, -1)

        query, key, value = by_head("query"), by_head("key"), by_head("value")
        scores = jnp.einsum("bnhd,bmhd->bhnm", query, key) / math.sqrt(width // self.heads)
        out = jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores), value)
        return Linear(width, name="out")(out.reshape(x.shape))


class Transformer(nn.Module):
    """Patches through transformer blocks, averaged.

    Attributes:
        width: features of a patch.
        depth: blocks.
        heads: attention heads.
        patch: side of a patch, in pixels.
        expansion: units of a block's hidden layer, in multiples of the width.
    """

    width: int
    depth: int
    heads: int
    patch: int
    expansion: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, width]`."""
        batch, height, breadth, channels = images.shape
        tiles = images.reshape(batch, height // self.patch, self.patch, breadth // self.patch, self.patch, channels)
        patches = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, self.patch**2 * channels)
        shape, dtype = (patches.shape[1], self.width), jnp.result_type(float)
        positions = self.param("positions", nn.initializers.normal(0.02), shape, dtype)
        x = Linear(self.width, name="embedding")(patches) + positions[None]
        for block in range(self.depth):
            attended = Attention(self.heads, name=f"attention_{block}")(LayerNorm(name=f"norm_{block}_0")(x))
            x = x + attended
            hidden = Linear(self.expansion * self.width, name=f"linear_{block}_0")(LayerNorm(name=f"norm_{block}_1")(x))
            x = shown(self, x + Linear(self.width, name=f"linear_{block}_1")(ACTIVATIONS["gelu"](hidden)))
        return LayerNorm(name="norm")(x).mean(1)
