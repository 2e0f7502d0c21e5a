"""Networks of a user's own: linen modules, nnx modules, or plain functions."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from jaxdd.errors import SettingError
from jaxdd.io.integrity import digest_of_file
from jaxdd.io.modules import import_file
from jaxdd.models.config import ModelConfig
from jaxdd.types import Array, Model, Params


@dataclasses.dataclass(frozen=True)
class Own(ModelConfig):
    """A network of your own, in one line: `Own("networks.py:small")`, or `--model networks.py:small`.

    What is named is a function `(image_shape, num_classes) -> network`, and a network is a linen module, a function
    `(rngs) -> nnx module`, or a `jaxdd.Model` of plain functions.
    """

    name: ClassVar[str] = "own"

    source: str = ""
    """Where the function is: FILE.py:NAME, or MODULE:NAME on the import path."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> Model:
        """Call the function, and turn what it returns into a Model.

        Raises:
            SettingError: if there is no such function, or it returns something else, or a network of other outputs than
                one logit for each class.
        """
        model = as_model(_find(self.source)(image_shape, num_classes), image_shape)
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.result_type(float))
        logits = jax.eval_shape(lambda key, images: model.apply(model.init(key), images), jax.random.key(0), images)
        if getattr(logits, "shape", None) != (1, num_classes):
            raise SettingError(
                f"{self} makes {getattr(logits, 'shape', logits)} of an image {list(image_shape)}, and "
                f"(1, {num_classes}) is needed: a logit for each class"
            )
        return model

    def identity(self) -> dict[str, Any]:
        """Return the settings and the sha256 of FILE.py; what that imports, and a MODULE, are known by name alone."""
        place = self.source.rpartition(":")[0]
        code = {"sha256": digest_of_file(Path(place))} if place.endswith(".py") else {}
        return {**super().identity(), **code}

    def __str__(self) -> str:
        """Name the network by its source."""
        return self.source


def as_model(network: Any, image_shape: tuple[int, int, int]) -> Model:
    """Turn a network into the functions that jaxdd knows it by.

    Args:
        network: a linen module `[B, H, W, K] -> [B, C]` whose only variables are parameters, a function
            `(nnx.Rngs) -> nnx.Module` that makes such a module, or a `Model`, which is returned as it is.
        image_shape: `(H, W, K)`.

    Returns:
        The functions. `features` calls the module's method of that name; methods that match features (DM, NCFM,
        coresets) need one, the others do not.

    Raises:
        SettingError: if it is nothing of these, or has other variables than parameters.
    """
    if isinstance(network, Model):
        return network
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.result_type(float))
    if isinstance(network, nn.Module):
        return _of_linen(network, images)
    if callable(network) and not isinstance(network, nnx.Module):
        return _of_nnx(network)
    raise SettingError(
        f"a network is a linen module, a function (rngs) -> nnx module, or a jaxdd.Model, not {type(network).__name__}"
    )


def _of_linen(module: nn.Module, images: jax.ShapeDtypeStruct) -> Model:
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(images.shape, images.dtype)))
    _only_parameters(type(module).__name__, [name for name in variables if name != "params"])

    def init(key: Array) -> Params:
        return module.lazy_init(key, images)["params"]

    def apply(params: Params, inputs: Array) -> Array:
        return cast(Array, module.apply({"params": params}, inputs))

    def features(params: Params, inputs: Array) -> Array:
        _has_features(module)
        return cast(Array, module.apply({"params": params}, inputs, method="features"))

    return Model(init, apply, features)


def _of_nnx(create: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    abstract = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    if not isinstance(abstract, nnx.Module):
        raise SettingError(
            "the function (rngs) -> nnx module returns no nnx module; a network is a linen module, "
            "such a function, or a jaxdd.Model"
        )
    graph, state = nnx.split(abstract)
    others = [type(value).__name__ for _, value in nnx.to_flat_state(state) if not isinstance(value, nnx.Param)]
    _only_parameters(type(abstract).__name__, sorted(set(others)))

    def init(key: Array) -> Params:
        return nnx.to_pure_dict(nnx.state(create(nnx.Rngs(key)), nnx.Param))

    def module(params: Params) -> Any:
        filled = jax.tree.map(lambda leaf: leaf, state)  # a copy
        nnx.replace_by_pure_dict(filled, params)
        return nnx.merge(graph, filled)

    def features(params: Params, inputs: Array) -> Array:
        _has_features(abstract)
        return cast(Array, module(params).features(inputs))

    return Model(init, lambda params, inputs: module(params)(inputs), features)


def _only_parameters(name: str, others: list[str]) -> None:
    if others:
        raise SettingError(
            f"{name} has {', '.join(others)} beside its parameters, and a network here is a pure function of these: "
            "use a normalization without running statistics and no dropout, or give a jaxdd.Model with functions"
        )


def _has_features(module: Any) -> None:
    if not hasattr(module, "features"):
        raise SettingError(
            f"{type(module).__name__} has no method features(images) -> [B, F], and features are asked for: give it one"
        )


def _find(source: str) -> Callable[[tuple[int, int, int], int], Any]:
    place, _, name = source.rpartition(":")
    if not place or not name:
        raise SettingError(f"model.source is {source!r}; give FILE.py:NAME or MODULE:NAME")
    try:
        found = vars(import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place))
    except (OSError, ImportError) as error:
        raise SettingError(f"model.source is {source!r}, and {place} cannot be read ({error})") from error
    if not callable(found.get(name)):
        its = found.get("__name__")
        functions = [key for key, value in found.items() if inspect.isfunction(value) and value.__module__ == its]
        raise SettingError(f"{place} has no function {name}; it has {', '.join(functions) or 'none'}")
    return cast(Callable[[tuple[int, int, int], int], Any], found[name])
