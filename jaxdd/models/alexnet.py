"""AlexNet in its CIFAR form (Krizhevsky et al. 2012; as the code of DC, arXiv 2006.05929, has it)."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from jaxdd.errors import SettingError
from jaxdd.models.config import Convolution, ModelConfig, Width
from jaxdd.models.layers import Conv, as_model, max_pool, shown
from jaxdd.types import Array, Model


@dataclasses.dataclass(frozen=True)
class AlexNet(ModelConfig):
    """AlexNet as the field evaluates on it, without normalization. [published].

    Convolutions 5x5, 5x5, 3x3, 3x3, 3x3 with bias and relu, 2x2 max pooling after the first, second and last, then
    flatten -> linear: 1 872 202 parameters with `width` 128 on CIFAR-10. The first convolution pads images of one
    channel by 4 instead of 2, which makes 28x28 images 32x32.
    """

    name: ClassVar[str] = "alexnet"

    width: Width = 128
    """Channels of the first convolution; the others have 1.5, 2, 1.5 and 1.5 times as many, rounded down."""
    convolution: Convolution = "auto"
    """How XLA computes a convolution, see the convnet's."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the flattened output of the last pooling.

        Raises:
            SettingError: if the three poolings leave no pixel.
        """
        height, breadth, channels = image_shape
        side = min(height, breadth) + 4 * (channels == 1)
        if side < 8:
            raise SettingError(f"alexnet halves images three times; {height}x{breadth} pixels leave nothing of them")
        return as_model(Convolutions(self.width, self.convolution), image_shape, num_classes)


class Convolutions(nn.Module):
    """Five convolutions with max pooling between them.

    Attributes:
        width: channels of the first convolution.
        convolution: see `layers.convolve`.
    """

    width: int
    convolution: Convolution

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, F]`."""

        def conv(x: Array, index: int, halves: int, size: int, padding: int) -> Array:
            width = halves * self.width // 2
            x = Conv(width, size, padding=padding, convolution=self.convolution, name=f"conv_{index}")(x)
            return shown(self, nn.relu(x))

        x = max_pool(conv(images, 0, 2, 5, 4 if images.shape[-1] == 1 else 2))
        x = max_pool(conv(x, 1, 3, 5, 2))
        x = conv(x, 2, 4, 3, 1)
        x = conv(x, 3, 3, 3, 1)
        x = max_pool(conv(x, 4, 3, 3, 1))
        return x.reshape(x.shape[0], -1)
