"""The ConvNet of dataset distillation (Gidaris & Komodakis 2018, arXiv 1804.09458; Zhao et al., arXiv 2006.05929)."""

import dataclasses
from typing import Annotated, ClassVar

import flax.linen as nn

from jaxdd.errors import SettingError
from jaxdd.models.config import Activation, Convolution, ModelConfig, Norm, Pooling, Width
from jaxdd.models.layers import ACTIVATIONS, POOLINGS, Conv, Normalize, as_model, check_groups, shown
from jaxdd.settings import Between
from jaxdd.types import Array, Model


@dataclasses.dataclass(frozen=True)
class ConvNet(ModelConfig):
    """The field's ConvNet; depth 3 and width 128 on 32x32x3, the default, is its ConvNet-D3. [published].

    `depth` times [3x3 convolution with bias, padding 1 -> normalization with affine map -> activation -> 2x2 pooling],
    then flatten -> linear. 320 010 parameters for CIFAR-10. The published code pads one-channel inputs by 3 in the
    first convolution, which makes 28x28 images 32x32; here the padding is always 1. [our choice]
    """

    name: ClassVar[str] = "convnet"

    width: Width = 128
    """Channels of every convolution."""
    depth: Annotated[int, Between(1, 2**10)] = 3
    """Number of convolution blocks."""
    norm: Norm = "instance"
    """Normalization after each convolution."""
    pooling: Pooling = "avg"
    """2x2 pooling of stride 2 that ends each convolution block."""
    activation: Activation = "relu"
    """Elementwise nonlinearity after each normalization."""
    convolution: Convolution = "auto"
    """How XLA computes a convolution: its own (direct), a matrix product over patches, or Winograd's products of tiles;
    the numbers are the same but for rounding. auto: on CPUs patches, whose derivatives of gradients are many times
    faster, or winograd where there is much to do; direct elsewhere."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the flattened input of the last linear layer.

        Args:
            image_shape: `(H, W, K)`.
            num_classes: number of logits C.

        Raises:
            SettingError: if pooling leaves no pixel, the width does not divide into groups, or instance normalization
                would see feature maps of a single pixel.
        """
        height, breadth, _ = image_shape
        largest = min(height, breadth).bit_length() - 1
        if self.pooling != "none" and self.depth > largest:
            raise SettingError(
                f"depth {self.depth} halves {height}x{breadth} images to nothing; "
                f"the largest depth with pooling is {largest}, or set pooling to none"
            )
        check_groups(self.norm, self.width)
        if self.norm == "instance" and height * breadth == 1:
            raise SettingError("instance normalization turns images of one pixel into a constant; set norm to none")
        body = Blocks(self.width, self.depth, self.norm, self.pooling, self.activation, self.convolution)
        return as_model(body, image_shape, num_classes)


class Blocks(nn.Module):
    """Blocks of 3x3 convolution, normalization, activation and pooling, flattened to features.

    Attributes:
        width: channels of every convolution.
        depth: number of blocks.
        norm: a key of `layers.NORMS`.
        pooling: a key of `layers.POOLINGS`.
        activation: a key of `layers.ACTIVATIONS`.
        convolution: see `layers.convolve`.
    """

    width: int
    depth: int
    norm: str
    pooling: str
    activation: str
    convolution: Convolution

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, F]`."""
        activation, pool = ACTIVATIONS[self.activation], POOLINGS[self.pooling]
        x = images
        for block in range(self.depth):
            x = Conv(self.width, convolution=self.convolution, name=f"conv_{block}")(x)
            x = Normalize(self.norm, name=f"norm_{block}")(x)
            x = pool(shown(self, activation(x)))
        return x.reshape(x.shape[0], -1)
