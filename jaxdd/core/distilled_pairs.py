"""Distilled pairs of images and texts, and the file that carries them; it needs nothing but numpy.

    file = np.load("distilled.npz", allow_pickle=False)
    images, texts = file["images"], file["texts"]  # [M,H,W,K] and [M,E] float32, as the encoders want them
    pictures = np.clip(images * file["normalization_std"] + file["normalization_mean"], 0, 1)
    embeddings = texts / file["text_scale"]  # as the text encoder makes them; captions[i] is the real one nearest to i

Its arrays:

| name | content |
|---|---|
| `format_version` | 1 |
| `kind` | `"pairs"` |
| `images` | `[M,H,W,K]` float32, normalized |
| `texts` | `[M,E]` float32, embedded texts times `text_scale` |
| `captions` | `[M]` strings, the caption of the real train split that is nearest in angle |
| `diagonal`, and with a rank `left`, `right` | `[M]`, `[M,r]`, `[M,r]`: the similarity of `retrieval.similarity_of` |
| `lr`, or `lr_image` and `lr_text` | `[]` float32, the learning rate that they were made for, or of each encoder |
| `dataset`, `text_encoder`, `text_scale` | a string, a string, `[]` float32 |
| `normalization_kind`, `normalization_…` | the normalization and its arrays |
| `recipe`, `provenance` | JSON objects: how to train on the pairs; how they were made |

Axis letters: M distilled pairs, E text features, r rank, H W K image height, width and channels.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdd.core import normalization as normalizations
from jaxdd.core.distilled import Distilled, Made, check_normalization, check_numbers, json_object, named_lr
from jaxdd.core.normalization import Normalization
from jaxdd.errors import SettingError
from jaxdd.io import npz
from jaxdd.io.files import atomic_write, to_json

FORMAT_VERSION = 1
SIMILARITY = ("diagonal", "left", "right")
TEXTS = ("dataset", "text_encoder", "recipe", "provenance", "kind")
NAMES = ("format_version", "images", "texts", "captions", "diagonal", "text_scale", *TEXTS)
RATES = ("lr", "lr_image", "lr_text")


@dataclass(frozen=True)
class PairsCard(Made):
    """What distilled pairs say of themselves beside their arrays.

    Attributes:
        dataset: name of the real dataset.
        captions: M, for each pair the real caption that is nearest to its text.
        text_encoder: what embeds texts, see `jaxdd.data.text.embed`.
        text_scale: what embeddings are multiplied by before a network sees them.
        normalization: the normalization that the images are in, fitted on the real train images.
        recipe: how to train on the pairs, as JSON-able values.
        provenance: how they were made (config, method, seed, step, versions), as JSON-able values.
    """

    dataset: str
    captions: tuple[str, ...]
    text_encoder: str
    text_scale: float
    normalization: Normalization
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def is_pairs(path: str | Path) -> bool:
    """Return whether a file holds pairs, by the names of its arrays."""
    return Path(path).is_file() and {"images", "texts", "captions"} <= npz.names(path)


def save(path: str | Path, distilled: Distilled, card: PairsCard) -> None:
    """Write pairs as one npz file that numpy alone can read, atomically; equal pairs make equal bytes.

    Args:
        path: the file, `distilled.npz` by custom; replaced if it exists.
        distilled: the pairs, as `jaxdd.retrieval` has them.
        card: what to say of them.

    Raises:
        SettingError: if arrays and card do not fit each other.
    """
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "kind": np.str_("pairs"),
        "images": np.asarray(distilled.inputs["image"], np.float32),
        "texts": np.asarray(distilled.inputs["text"], np.float32),
        "captions": np.asarray(card.captions, np.str_),
        **{name: np.asarray(distilled.labels[name], np.float32) for name in SIMILARITY if name in distilled.labels},
        **{name: np.asarray(rate, np.float32) for name, rate in named_lr(distilled.lr).items()},
        "dataset": np.str_(card.dataset),
        "text_encoder": np.str_(card.text_encoder),
        "text_scale": np.float32(card.text_scale),
        **{f"normalization_{name}": array for name, array in card.normalization.to_arrays().items()},
        "recipe": np.str_(to_json(card.recipe)),
        "provenance": np.str_(to_json(card.provenance)),
    }
    _check(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    atomic_write(path, buffer.getvalue())


def load(path: str | Path) -> tuple[Distilled, PairsCard]:
    """Read a file that `save` wrote.

    Args:
        path: the file.

    Returns:
        The pairs and their card.

    Raises:
        FileNotFoundError: if there is no such file.
        SettingError: if it is no npz, is damaged, lacks an array, or has one that no pairs have; the file is named.
    """
    try:
        wanted = {*NAMES, *SIMILARITY, *RATES}
        arrays = npz.read(path, lambda name: name in wanted or name.startswith("normalization_"))
        return _from_arrays(arrays)
    except ValueError as error:
        raise SettingError(f"cannot load distilled pairs from {path}: {error}") from error


def _from_arrays(arrays: dict[str, np.ndarray]) -> tuple[Distilled, PairsCard]:
    if missing := [name for name in NAMES if name not in arrays]:
        raise SettingError(f"it lacks the arrays {missing}")
    if arrays["format_version"].shape != () or arrays["format_version"] != FORMAT_VERSION:
        raise SettingError(
            f"its format version is {arrays['format_version']}, and this jaxdd reads {FORMAT_VERSION}: use a newer one"
        )
    for name in TEXTS:
        if arrays[name].dtype.kind != "U" or arrays[name].ndim:
            raise SettingError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, and one text is needed")
    _check(arrays)
    prefix = "normalization_"
    fitted = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    card = PairsCard(
        str(arrays["dataset"]),
        tuple(arrays["captions"].tolist()),
        str(arrays["text_encoder"]),
        float(arrays["text_scale"]),
        normalizations.from_arrays(fitted),
        json_object("recipe", arrays),
        json_object("provenance", arrays),
    )
    check_normalization(card.normalization, arrays["images"].shape)
    inputs = {"image": jnp.asarray(arrays["images"], jnp.float32), "text": jnp.asarray(arrays["texts"], jnp.float32)}
    labels = {name: jnp.asarray(arrays[name], jnp.float32) for name in SIMILARITY if name in arrays}
    rates = {name: jnp.asarray(arrays[name], jnp.float32) for name in RATES if name in arrays}
    lr = rates["lr"] if "lr" in rates else {name.removeprefix("lr_"): rate for name, rate in rates.items()}
    return Distilled(inputs, labels, lr), card


def _check(arrays: dict[str, Any]) -> None:
    """Refuse arrays that do not fit each other, or are not finite."""
    rates = [name for name in RATES if name in arrays]
    if rates not in (["lr"], ["lr_image", "lr_text"]):
        raise SettingError(f"it has the learning rates {rates}, and lr is needed, or lr_image and lr_text")
    numbers = [name for name in ("images", "texts", "text_scale", *rates, *SIMILARITY) if name in arrays]
    for name in numbers:
        check_numbers(name, np.asarray(arrays[name]))
    count = len(arrays["captions"])
    ranks = {np.shape(arrays[name])[-1:] for name in ("left", "right") if name in arrays}
    axes = {"images": 4, "texts": 2, "captions": 1, "diagonal": 1, "left": 2, "right": 2}
    shapes = {name: list(np.shape(arrays[name])) for name in axes if name in arrays}
    fits = all(len(shape) == axes[name] and shape[0] == count for name, shape in shapes.items())
    if not count or not fits or len(ranks) > 1 or ("left" in arrays) != ("right" in arrays):
        raise SettingError(f"its arrays are not of as many pairs: {shapes}")
    for name in (*rates, "text_scale"):
        if np.shape(arrays[name]) != () or not arrays[name] > 0:
            raise SettingError(f"{name} is {arrays[name]}, and a positive number is needed")
