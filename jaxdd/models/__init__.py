"""Networks behind `Model(init, apply, features)`; the only package of jaxdd that imports flax."""

from collections.abc import Callable

from jaxdd.errors import SettingError
from jaxdd.models import convnet, mlp
from jaxdd.models.config import ModelConfig
from jaxdd.settings import check_argument
from jaxdd.types import Model

__all__ = ["MODELS", "ModelConfig", "build"]

MODELS: dict[str, Callable[[ModelConfig, tuple[int, int, int], int], Model]] = {
    "convnet": convnet.convnet,
    "mlp": mlp.mlp,
}
"""Name to constructor `(config, image_shape, num_classes) -> Model`."""


def build(config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Build the network that a config names.

    Args:
        config: the network and its sizes.
        image_shape: `(H, W, K)` of the images that it will see.
        num_classes: number of logits C.

    Returns:
        Three pure functions. Parameters are a nested dict, with `conv_*` and `norm_*` (or `linear_*`) under `body` and
        the last layer under `linear`; kernels have their output axis last.

    Raises:
        ValueError: if a size is not positive, or the network cannot be built on such images.
    """
    check_argument("the model's config", config, ModelConfig, "give a jaxdd.ModelConfig")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise SettingError(f"image_shape is {image_shape}; give (height, width, channels), all positive")
    if num_classes < 1:
        raise SettingError(f"num_classes is {num_classes}; a classifier needs at least 1 class")
    return MODELS[config.name](config, image_shape, num_classes)
