"""The multilayer perceptron."""

import flax.linen as nn

from jaxdd.models.config import ModelConfig
from jaxdd.models.layers import ACTIVATIONS, Linear, as_model
from jaxdd.types import Array, Model


class MLP(nn.Module):
    """Flattened images through linear layers, each followed by the activation.

    Attributes:
        width: units of every hidden layer.
        depth: number of hidden layers.
        activation: a key of `layers.ACTIVATIONS`.
    """

    width: int
    depth: int
    activation: str

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map `[B, H, W, K]` to `[B, F]`."""
        activation = ACTIVATIONS[self.activation]
        x = images.reshape(images.shape[0], -1)
        for layer in range(self.depth):
            x = activation(Linear(self.width, name=f"linear_{layer}")(x))
        return x


def mlp(config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Build a multilayer perceptron: flatten -> `depth` times [linear -> activation] -> linear.

    Args:
        config: `width`, `depth` and `activation` are used; `norm`, `pooling` and `convolution` do not apply and are
            ignored. Depth 0 is multinomial logistic regression.
        image_shape: `(H, W, K)`.
        num_classes: number of logits C.

    Returns:
        The network. `features` is the output of the last hidden layer (the flattened images for depth 0).
    """
    return as_model(MLP(config.width, config.depth, config.activation), image_shape, num_classes)
