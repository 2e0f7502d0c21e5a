"""Two encoders for images and texts: an image network and a projection of embedded texts onto the same unit sphere."""

import dataclasses
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp

from jaxdd.core.matching import unit_norm
from jaxdd.models.layers import Linear, standardize
from jaxdd.settings import AtLeast, Settings, check_value
from jaxdd.types import Array, DualEncoder, Model, Params, PyTree

Head = Literal["linear", "residual"]


@dataclasses.dataclass(frozen=True)
class TextConfig(Settings, path="text"):
    """How captions enter a network."""

    encoder: str = "hashed"
    """What embeds them, once and for all: hashed, runs of their characters; wordllama (extra `text`); or file:NPZ,
    embeddings of any other, see `jaxdd.data.text`. What takes longer than a second is kept in ~/.cache/jaxdd/texts."""
    head: Head = "linear"
    """What is learned on top of it, see `dual`."""
    embedding: Annotated[int, AtLeast(1)] = 128
    """D, size of what images and texts are mapped onto."""


def dual(image: Model, text_features: int, embedding: int, *, head: Head = "linear") -> DualEncoder:
    """Pair an image network with a projection of texts.

    Args:
        image: the image network; its outputs `[B, D]` are the embeddings, as of `models.build(config, shape, D)`. With
            `image._replace(apply=image.features)` they are its features, as published (there of NFNet-l0).
        text_features: E, size of the embedded texts.
        embedding: D.
        head: of the texts; linear, or residual: `p = W₁ t + b₁`, `LayerNorm(p + W₂ gelu(p) + b₂)`, as published for
            VL-distill and LoRS, without their dropout.

    Returns:
        The encoder. Its parameters are `{"image": those of the network, "text": those of the projection}`, first drawn
        as in PyTorch; `features` are both embeddings, one behind the other.

    Raises:
        SettingError: if there is no such head.
    """
    check_value("head", head, Head)

    layer = Linear(embedding)

    def linear(key: Array, inputs: int) -> Params:
        return layer.lazy_init(key, jax.ShapeDtypeStruct((1, inputs), jnp.result_type(float)))["params"]

    def through(params: Params, x: Array) -> Array:
        return cast(Array, layer.apply({"params": params}, x))

    def init(key: Array) -> Params:
        image_key, first_key, second_key = jax.random.split(key, 3)
        text = {"linear_0": linear(first_key, text_features)}
        if head == "residual":
            one, zero = jnp.ones(embedding), jnp.zeros(embedding)
            text |= {"linear_1": linear(second_key, embedding), "norm": {"scale": one, "bias": zero}}
        return {"image": image.init(image_key), "text": text}

    def of_images(params: Params, images: Array) -> Array:
        return unit_norm(image.apply(params["image"], images))

    def of_texts(params: Params, texts: Array) -> Array:
        layers = params["text"]
        x = through(layers["linear_0"], texts)
        if head == "residual":
            x += through(layers["linear_1"], jax.nn.gelu(x, approximate=False))
            x = standardize(x, (1,)) * layers["norm"]["scale"][None] + layers["norm"]["bias"][None]
        return unit_norm(x)

    def apply(params: Params, inputs: PyTree) -> tuple[Array, Array]:
        return of_images(params, inputs["image"]), of_texts(params, inputs["text"])

    def features(params: Params, inputs: PyTree) -> Array:
        return jnp.concatenate(apply(params, inputs), axis=-1)

    return DualEncoder(Model(init, apply, features), of_images, of_texts)
