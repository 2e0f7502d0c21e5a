"""The ConvNet of dataset distillation (Gidaris & Komodakis 2018, arXiv 1804.09458; Zhao et al., arXiv 2006.05929)."""

import flax.linen as nn

from jaxdd.errors import SettingError
from jaxdd.models.config import Convolution, ModelConfig
from jaxdd.models.layers import ACTIVATIONS, GROUPS, POOLINGS, Conv, Norm, as_model
from jaxdd.types import Array, Model


class ConvNet(nn.Module):
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
            x = Norm(self.norm, name=f"norm_{block}")(x)
            x = pool(activation(x))
        return x.reshape(x.shape[0], -1)


def convnet(config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Build a ConvNet; depth 3 and width 128 on 32x32x3 is the ConvNet-D3 of the literature. [published].

    `depth` times [3x3 convolution with bias, padding 1 -> normalization with affine map -> activation -> 2x2 pooling],
    then flatten -> linear. 320 010 parameters for CIFAR-10. The published code pads one-channel inputs by 3 in the
    first convolution, which makes 28x28 images 32x32; here the padding is always 1. [our choice]

    Args:
        config: `width`, `depth`, `norm`, `pooling`, `activation` and `convolution` are used.
        image_shape: `(H, W, K)`.
        num_classes: number of logits C.

    Returns:
        The network. `features` is the flattened input of the last linear layer.

    Raises:
        ValueError: if the depth is 0, pooling leaves no pixel, the width does
            not divide into groups, or instance normalization would see feature maps of a single pixel.
    """
    height, breadth, _ = image_shape
    if config.depth < 1:
        raise SettingError(f"depth is {config.depth}; a convnet needs at least 1 block")
    largest = min(height, breadth).bit_length() - 1
    if config.pooling != "none" and config.depth > largest:
        raise SettingError(
            f"depth {config.depth} halves {height}x{breadth} images to nothing; "
            f"the largest depth with pooling is {largest}, or set pooling to none"
        )
    if config.norm == "group" and config.width % GROUPS:
        raise SettingError(f"width {config.width} does not divide into {GROUPS} groups; use a multiple of {GROUPS}")
    if config.norm == "instance" and height * breadth == 1:
        raise SettingError("instance normalization turns images of one pixel into a constant; set norm to none")
    body = ConvNet(config.width, config.depth, config.norm, config.pooling, config.activation, config.convolution)
    return as_model(body, image_shape, num_classes)
