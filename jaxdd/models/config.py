"""The choice of a network, as a frozen dataclass that the launcher shows option by option."""

import dataclasses
from typing import Annotated, Literal

from jaxdd.settings import Between, Settings

Norm = Literal["instance", "batch", "group", "none"]
Pooling = Literal["avg", "max", "none"]
Activation = Literal["relu", "leaky_relu", "sigmoid", "swish", "gelu"]
Convolution = Literal["auto", "direct", "patches"]


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings, path="model"):
    """Which network to train and distill with; the default is the field's ConvNet-D3."""

    name: Literal["convnet", "mlp"] = "convnet"
    """Architecture: convnet (blocks of convolution, normalization, activation, pooling) or mlp."""

    width: Annotated[int, Between(1, 2**16)] = 128
    """Channels of every convolution, or units of every hidden layer of the mlp."""

    depth: Annotated[int, Between(0, 2**10)] = 3
    """Number of convolution blocks, or of hidden layers of the mlp (0: logistic regression)."""

    norm: Norm = "instance"
    """Normalization after each convolution. The mlp has none and ignores this."""

    pooling: Pooling = "avg"
    """2x2 pooling of stride 2 that ends each convolution block. The mlp ignores this."""

    activation: Activation = "relu"
    """Elementwise nonlinearity after each normalization or hidden layer."""

    convolution: Convolution = "auto"
    """How XLA computes a convolution: its own (direct), or a matrix product over patches; the numbers are the same.
    auto: patches on CPUs, where derivatives of gradients are many times faster, direct elsewhere."""
