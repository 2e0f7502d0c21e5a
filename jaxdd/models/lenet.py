"""LeNet-5 with relu and max pooling (LeCun et al. 1998; as the code of DC, arXiv 2006.05929, has it)."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from jaxdd.errors import SettingError
from jaxdd.models.config import Convolution, ModelConfig
from jaxdd.models.layers import Conv, Linear, as_model, max_pool, shown
from jaxdd.types import Array, Model


@dataclasses.dataclass(frozen=True)
class LeNet(ModelConfig):
    """LeNet as the field evaluates on it. [published].

    5x5 convolution of 6 channels (padding 2 for images of one channel, else 0) -> relu -> max pooling -> 5x5
    convolution of 16 channels without padding -> relu -> max pooling -> linear layers of 120 and 84 units with relu ->
    linear: 62 006 parameters on CIFAR-10, 61 706 on MNIST.
    """

    name: ClassVar[str] = "lenet"

    convolution: Convolution = "auto"
    """How XLA computes a convolution, see the convnet's."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Build the network. `features` is the output of the layer of 84 units.

        Raises:
            SettingError: if the convolutions leave no pixel.
        """
        height, breadth, channels = image_shape
        side = min(height, breadth) - 4 * (channels > 1)
        if (side // 2 - 4) // 2 < 1:
            least = 12 if channels == 1 else 16
            raise SettingError(f"lenet needs images of {least} pixels or more a side; these are {height}x{breadth}")
        return as_model(Convolutions(self.convolution), image_shape, num_classes)


class Convolutions(nn.Module):
    """Two convolutions and two linear layers.

    Attributes:
        convolution: see `layers.convolve`.
    """

    convolution: Convolution

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, 84]`."""
        padding = 2 if images.shape[-1] == 1 else 0
        x = Conv(6, 5, padding=padding, convolution=self.convolution, name="conv_0")(images)
        x = max_pool(shown(self, nn.relu(x)))
        x = Conv(16, 5, padding=0, convolution=self.convolution, name="conv_1")(x)
        x = max_pool(shown(self, nn.relu(x)))
        x = x.reshape(x.shape[0], -1)
        x = shown(self, nn.relu(Linear(120, name="linear_0")(x)))
        return shown(self, nn.relu(Linear(84, name="linear_1")(x)))
