"""What a set becomes where only pictures with one class each are stored: 8 bits, hard labels, a card beside them."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd.core.distilled import Card, Distilled, check_normalization, hard_labels
from jaxdd.core.normalization import from_arrays
from jaxdd.errors import SettingError
from jaxdd.formats.base import Source, as_set
from jaxdd.io import npz
from jaxdd.io.files import write_json
from jaxdd.io.integrity import read_json

CARD = "card.json"
MATRICES = "normalization.npz"


def write_card(path: Path, distilled: Distilled, card: Card, **about: Any) -> None:
    """Write what a set says of itself beside its pictures into `card.json`, and the matrices of a ZCA beside that."""
    arrays = card.normalization.to_arrays()
    matrices: dict[str, Any] = {name: arrays.pop(name) for name in [*arrays] if arrays[name].ndim > 1}
    if matrices:
        path.mkdir(parents=True, exist_ok=True)
        np.savez(path / MATRICES, **matrices)
    told = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    write_json(path / CARD, {**told, "lr": float(distilled.lr), "normalization": arrays, **about})


def read_card(path: Path) -> tuple[Card, float, dict[str, Any]]:
    """Read what `write_card` wrote: the card, the learning rate, and all that was told.

    Raises:
        SettingError: It is damaged.
    """
    told = read_json(path / CARD, "write the set again")
    try:
        arrays = {name: np.asarray(value) for name, value in told["normalization"].items()}
        if (path / MATRICES).exists():
            arrays |= npz.read(path / MATRICES, lambda name: True)
        arrays |= {name: array.astype(np.float32) for name, array in arrays.items() if array.dtype.kind in "if"}
        texts = [told["dataset"], *told["class_names"]]
        objects = [told["recipe"], told["provenance"]]
        lr = float(told["lr"])
    except SettingError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"
        raise SettingError(f"{path / CARD} is damaged ({what}); write the set again") from error
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(value, dict) for value in objects):
        raise SettingError(f"{path / CARD} is damaged: names are no texts, or recipe and provenance no objects")
    return Card(texts[0], tuple(texts[1:]), "hard", from_arrays(arrays), *objects), lr, told


def carded_set(pictures: np.ndarray, labels: np.ndarray, card: Card, lr: float) -> Distilled:
    """Build a set from pictures `[M, H, W, K]` uint8 and classes `[M]`, normalized as its card says.

    Raises:
        SettingError: They do not fit the card.
    """
    check_normalization(card.normalization, pictures.shape)
    inputs = np.asarray(card.normalization(pictures))
    source = Source(card.dataset, card.class_names, None)
    return as_set(inputs, labels, source, card.normalization, lr=lr, provenance={})[0]


def hardened(distilled: Distilled, card: Card, harden: bool) -> tuple[Distilled, Card]:
    """Return a set with hard labels.

    Raises:
        SettingError: Its labels are soft, and it is not to be hardened.
    """
    if card.label_kind == "hard":
        return distilled, card
    if not harden:
        raise SettingError(
            f"the labels of this set are {card.label_kind}, and this format has one class for each image: what the "
            "labels say besides would be lost. Write npz, safetensors or torch, or ask for it (harden=True)"
        )
    labels = np.asarray(distilled.labels)
    changed = distilled._replace(labels=hard_labels(labels.argmax(axis=1), labels.shape[1]))
    provenance = {**card.provenance, "hardened": f"from {card.label_kind}"}
    return changed, dataclasses.replace(card, label_kind="hard", provenance=provenance)


def eight_bits(distilled: Distilled, card: Card) -> tuple[np.ndarray, float]:
    """Return pictures `[M, H, W, K]` uint8, and the share of pixels that lay outside [0, 1]."""
    pixels = np.asarray(card.normalization.inverse(distilled.images))
    outside = float(np.mean((pixels < -0.5 / 255) | (pixels > 1 + 0.5 / 255)))
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8), outside


def png(picture: np.ndarray) -> bytes:
    """Encode a picture `[H, W, K]` uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()


def check_empty(path: Path) -> None:
    """Refuse a folder that has something in it, which would become a part of the set."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingError(f"{path} is there already; name a folder that is not, or delete it")
