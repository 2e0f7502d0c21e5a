"""Networks behind `Model(init, apply, features)`, a family a file; the only package of jaxdd that imports flax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdd.errors import SettingError
from jaxdd.models.alexnet import AlexNet
from jaxdd.models.config import ModelConfig
from jaxdd.models.convnet import ConvNet
from jaxdd.models.dual import dual
from jaxdd.models.frozen import frozen
from jaxdd.models.lenet import LeNet
from jaxdd.models.mlp import MLP
from jaxdd.models.own import Own, as_model
from jaxdd.models.precision import in_precision
from jaxdd.models.resnet import ResNet
from jaxdd.models.vgg import VGG
from jaxdd.models.vit import ViT
from jaxdd.settings import by_name, check_argument, literal
from jaxdd.types import Model

__all__ = [
    "MLP",
    "MODELS",
    "VGG",
    "AlexNet",
    "ConvNet",
    "LeNet",
    "ModelConfig",
    "Own",
    "ResNet",
    "ViT",
    "as_model",
    "build",
    "dual",
    "from_name",
    "from_settings",
    "frozen",
    "in_precision",
]

MODELS: dict[str, ModelConfig] = {
    "convnet": ConvNet(),
    "mlp": MLP(),
    "resnet10": ResNet(depth=10),
    "resnet18": ResNet(depth=18),
    "resnet34": ResNet(depth=34),
    "vgg11": VGG(),
    "alexnet": AlexNet(),
    "lenet": LeNet(),
    "vit": ViT(),
}
"""Networks by the names that the command line knows, in the sizes of the field."""

FAMILIES: dict[str, type[ModelConfig]] = {
    kind.name: kind for kind in (ConvNet, MLP, ResNet, VGG, AlexNet, LeNet, ViT, Own)
}
"""The classes of settings by the names that files know."""


def build(config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int) -> Model:
    """Build the network that settings describe.

    Args:
        config: the network and its sizes.
        image_shape: `(H, W, K)` of the images that it will see.
        num_classes: number of logits C.

    Returns:
        Pure functions. Parameters of the networks of jaxdd are a nested dict, with the layers under `body` and the last
        one under `linear`; kernels have their output axis last.

    Raises:
        ValueError: if a size is not positive, or the network cannot be built on such images.
    """
    check_argument("the model's config", config, ModelConfig, "give settings of jaxdd.models, such as ConvNet()")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise SettingError(f"image_shape is {image_shape}; give (height, width, channels), all positive")
    if num_classes < 1:
        raise SettingError(f"num_classes is {num_classes}; a classifier needs at least 1 class")
    return in_precision(config.build(image_shape, num_classes), config.precision)


def from_name(name: str) -> ModelConfig:
    """Return the settings that a word on the command line means.

    Args:
        name: a name of `MODELS`, such as `resnet18`; one with other sizes, `resnet18:width=16,norm=batch`; or
            `FILE.py:NAME` of your own.

    Raises:
        SettingError: if it is none of these.
    """
    known, _, sizes = name.partition(":")
    if known in MODELS:
        changes = by_name(sizes)
        if unknown := changes.keys() - vars(MODELS[known]):
            fields = ", ".join(field.name for field in MODELS[known].fields())
            raise SettingError(f"{name} names {', '.join(sorted(unknown))}, and {MODELS[known].name} has {fields}")
        return dataclasses.replace(MODELS[known], **{field: literal(word) for field, word in changes.items()})
    if sizes:
        return Own(name)
    raise SettingError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}, or FILE.py:NAME of your own")


def from_settings(settings: Mapping[str, Any]) -> ModelConfig:
    """Return the settings that a file has written down, `{"name": family, field: value}`.

    Raises:
        SettingError: if there is no such family, or it has no such field or value.
        TypeError: if it has no such field.
    """
    fields = dict(settings)
    family = fields.pop("name", ConvNet.name)
    if family not in FAMILIES:
        raise SettingError(f"no family of networks is called {family!r}; there are {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    known = {field.name for field in dataclasses.fields(kind)}
    if kind is MLP:  # files of version 0.1 told of every network what the convnet has
        fields = {name: value for name, value in fields.items() if name in known | (fields.keys() - vars(ConvNet()))}
    return kind(**fields)
