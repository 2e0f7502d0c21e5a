"""What the settings of all networks share: each family's is a class of its own, with `build`."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, cast

from jaxdd.errors import SettingError
from jaxdd.io.files import UNSAID, plain
from jaxdd.models.precision import Precision
from jaxdd.settings import Between, Settings
from jaxdd.types import Model

Norm = Literal["instance", "batch", "group", "none"]
Pooling = Literal["avg", "max", "none"]
Activation = Literal["relu", "leaky_relu", "sigmoid", "swish", "gelu"]
Convolution = Literal["auto", "direct", "patches", "winograd"]
Width = Annotated[int, Between(1, 2**16)]


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings, path="model"):
    """Base of the settings of a network. A network is a subclass with a `name`, fields of its own, and `build`."""

    name: ClassVar[str] = "none"

    precision: Precision = dataclasses.field(default="auto", kw_only=True, metadata=UNSAID)
    """What the network computes in, parameters and distilled set staying in float32: auto (as the device likes: TF32 on
    recent GPUs), float32, tf32, or bfloat16."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:  # noqa: ARG002
        """Build the network, see `jaxdd.models.build`, which checks the arguments.

        Args:
            image_shape: `(H, W, K)` of the images that it will see.
            num_classes: number of logits C.

        Raises:
            SettingError: if it cannot be built on such images.
        """
        raise SettingError(
            f"{type(self).__qualname__} belongs to no network: give it build(image_shape, num_classes) -> Model, and a "
            "name; jaxdd.models has ConvNet, ResNet and others"
        )

    def identity(self) -> dict[str, Any]:
        """Return all that determines the network, JSON-able: what is computed with it is kept by that."""
        return cast(dict[str, Any], plain(self))

    @classmethod
    def fields(cls) -> list[dataclasses.Field]:
        """List the settings: a network's own first, then those that all networks share."""
        return sorted(dataclasses.fields(cls), key=lambda field: bool(field.kw_only))

    def __str__(self) -> str:
        """Name the network by its settings: convnet (width 32, depth 2)."""
        fields = ((field, getattr(self, field.name)) for field in self.fields())
        told = [f"{field.name} {value}" for field, value in fields if field.default != value]
        return f"{self.name} ({', '.join(told)})" if told else self.name
