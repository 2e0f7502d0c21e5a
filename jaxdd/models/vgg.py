"""VGG-11 in its CIFAR form (Simonyan & Zisserman 2015, arXiv 1409.1556), as in DC, arXiv 2006.05929."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from jaxdd.models.config import Convolution, ModelConfig, Norm, Width
from jaxdd.models.layers import Conv, Normalize, as_model, check_groups, max_pool, shown
from jaxdd.types import Array, Model

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of each stage, in multiples of the width; a 2x2 max pooling ends each stage."""


@dataclasses.dataclass(frozen=True)
class VGG(ModelConfig):
    """VGG-11. [published].

    Five stages of [3x3 convolution with bias -> normalization -> relu], each ended by 2x2 max pooling, then flatten ->
    linear: 9 231 114 parameters with `width` 64 on CIFAR-10. As in the field's code the first convolution pads images
    of one channel by 3, which makes 28x28 images 32x32. A pooling is left out if it would leave single pixels to a
    normalization, as it would on 8x8 images. [our choice]
    """

    name: ClassVar[str] = "vgg"

    width: Width = 64
    """Channels of the first stage."""
    norm: Norm = "instance"
    """Normalization after each convolution."""
    convolution: Convolution = "auto"
    """How XLA computes a convolution, see the convnet's."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the flattened output of the last stage, `[B, 8 width]` for 32x32 images.

        Raises:
            SettingError: if the width does not divide into groups.
        """
        check_groups(self.norm, self.width)
        return as_model(Stages(self.width, self.norm, self.convolution), image_shape, num_classes)


class Stages(nn.Module):
    """Stages of convolutions, normalizations and max pooling.

    Attributes:
        width: channels of the first stage.
        norm: a key of `layers.NORMS`.
        convolution: see `layers.convolve`.
    """

    width: int
    norm: str
    convolution: Convolution

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, F]`."""
        x, index = images, 0
        for stage, multiples in enumerate(STAGES):
            for multiple in multiples:
                padding = 3 if index == 0 and images.shape[-1] == 1 else 1
                width = multiple * self.width
                x = Conv(width, padding=padding, convolution=self.convolution, name=f"conv_{index}")(x)
                x = shown(self, nn.relu(Normalize(self.norm, name=f"norm_{index}")(x)))
                index += 1
            least = 2 if stage == len(STAGES) - 1 else 4  # so that a normalization that follows has pixels to see
            if min(x.shape[1:3]) >= least:
                x = max_pool(x)
        return x.reshape(x.shape[0], -1)
