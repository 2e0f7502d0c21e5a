"""Residual networks of basic blocks (He et al. 2016, arXiv 1512.03385), in the sizes that the field evaluates on."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn

from jaxdd.models.config import Convolution, ModelConfig, Norm, Width
from jaxdd.models.layers import Conv, Normalize, as_model, check_groups, max_pool_3, shown
from jaxdd.types import Array, Model

Stem = Literal["small", "large"]

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Depth to basic blocks in each of the four stages."""


@dataclasses.dataclass(frozen=True)
class ResNet(ModelConfig):
    """ResNet-10, -18 or -34. [published].

    Stem -> four stages of basic blocks with 1, 2, 4 and 8 times `width` channels, all but the first halving the image
    -> mean over the pixels -> linear. A basic block is `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`, where the
    shortcut is a 1x1 convolution and a normalization if the shape changes. Convolutions have no bias.

    With `width` 64 and 10 classes, ResNet-18 has 11 173 962 parameters on CIFAR, as in the field's code (DC, MTT), and
    ResNet-10 4 903 242. That code takes the mean over windows of 4x4 pixels, the same on 32x32. A stage does not halve
    images that are down to 2 pixels, since a normalization of single pixels makes them constant. [our choice]
    """

    name: ClassVar[str] = "resnet"

    depth: Literal[10, 18, 34] = 18
    """Layers with weights."""
    width: Width = 64
    """Channels of the first stage."""
    norm: Norm = "instance"
    """Normalization after each convolution."""
    stem: Stem = "small"
    """small: a 3x3 convolution, for CIFAR and smaller images; large: a 7x7 convolution of stride 2 and 3x3 max pooling
    of stride 2, for images of 64 pixels and more."""
    convolution: Convolution = "auto"
    """How XLA computes a convolution, see the convnet's."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the mean over the pixels of the last stage, `[B, 8 width]`.

        Raises:
            SettingError: if the width does not divide into groups.
        """
        check_groups(self.norm, self.width)
        body = Stages(STAGES[self.depth], self.width, self.norm, self.stem, self.convolution)
        return as_model(body, image_shape, num_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Attributes:
        width: output channels.
        stride: of the first convolution and the shortcut.
        norm: a key of `layers.NORMS`.
        convolution: see `layers.convolve`.
    """

    width: int
    stride: int
    norm: str
    convolution: Convolution

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, ceil(H / stride), ceil(W / stride), width]`."""

        def conv_norm(x: Array, index: str, size: int, stride: int) -> Array:
            x = Conv(self.width, size, stride, bias=False, convolution=self.convolution, name=f"conv_{index}")(x)
            return Normalize(self.norm, name=f"norm_{index}")(x)

        y = nn.relu(conv_norm(x, "0", 3, self.stride))
        y = conv_norm(y, "1", 3, 1)
        changes = self.stride > 1 or x.shape[-1] != self.width
        return nn.relu(y + (conv_norm(x, "shortcut", 1, self.stride) if changes else x))


class Stages(nn.Module):
    """The stem and four stages of basic blocks, averaged over the pixels.

    Attributes:
        blocks: basic blocks in each stage.
        width: channels of the first stage.
        norm: a key of `layers.NORMS`.
        stem: `small` or `large`.
        convolution: see `layers.convolve`.
    """

    blocks: tuple[int, ...]
    width: int
    norm: str
    stem: Stem
    convolution: Convolution

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, 8 width]`."""
        size, stride = {"small": (3, 1), "large": (7, 2)}[self.stem]
        x = Conv(self.width, size, stride, bias=False, convolution=self.convolution, name="conv")(images)
        x = nn.relu(Normalize(self.norm, name="norm")(x))
        if self.stem == "large":
            x = max_pool_3(x)
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                halves = stage > 0 and block == 0 and min(x.shape[1:3]) > 2
                name = f"stage_{stage}_block_{block}"
                x = BasicBlock(self.width * 2**stage, 1 + halves, self.norm, self.convolution, name=name)(x)
            x = shown(self, x)
        return x.mean((1, 2))
