"""Sets of this package: its own npz, the same arrays as safetensors, and as a file of PyTorch.

All three carry everything: images, labels of any kind, learning rate, normalization, recipe and provenance, by the
names that `jaxdd.core.distilled` lists.

- npz: `Distilled.save`.
- safetensors: numbers are tensors, texts a JSON object under `card` in its metadata.
- torch: a dict of tensors and texts for `torch.load(path, weights_only=True)`. Images are `[M, K, H, W]` and hard
  labels int64, as PyTorch wants them; the arrays of a ZCA are reordered alike, so that `(x.flatten(1) - mean) @ whiten`
  holds.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.core.distilled import Card, Distilled, from_arrays, to_arrays
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.formats.base import File, Reader, Reading, Writer
from jaxdd.io.files import atomic_write


def _read_npz(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    del asked, data  # it says everything of itself
    return Distilled.load(file.path)


def _write_npz(path: Path, distilled: Distilled, card: Card) -> None:
    distilled.save(path, card)


def texts_apart(arrays: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Part the arrays of a set into numbers and texts; a list of texts is told as JSON."""
    numbers = {name: np.asarray(array) for name, array in arrays.items()}
    texts = {name: numbers.pop(name) for name in [*numbers] if numbers[name].dtype.kind == "U"}
    return numbers, {name: json.dumps(text.tolist()) if text.ndim else str(text) for name, text in texts.items()}


def texts_joined(numbers: dict[str, np.ndarray], texts: dict[str, str]) -> dict[str, np.ndarray]:
    """Put back together what `texts_apart` parted.

    Raises:
        SettingError: They are no texts, or the class names no JSON list of texts.
    """
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise SettingError("its card is no JSON object of texts")
    arrays = {**numbers, **{name: np.asarray(text) for name, text in texts.items()}}
    if "class_names" in texts:
        try:
            names = json.loads(texts["class_names"])
        except (ValueError, RecursionError) as error:
            raise SettingError(f"class_names is no JSON ({error})") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SettingError("class_names is no list of texts")
        arrays["class_names"] = np.asarray(names, np.str_)
    return arrays


def _write_safetensors(path: Path, distilled: Distilled, card: Card) -> None:
    numbers, texts = texts_apart(to_arrays(distilled, card))
    atomic_write(path, _safetensors().save(numbers, metadata={"card": json.dumps(texts)}))


def _read_safetensors(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    del asked, data
    library = _safetensors()
    content = file.path.read_bytes()
    try:
        numbers = library.load(content)
        length = int.from_bytes(content[:8], "little")
        texts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["card"])
    except Exception as error:  # its own errors, and those of JSON
        raise SettingError(f"the safetensors file is truncated or damaged ({error})") from error
    return from_arrays(texts_joined({name: np.asarray(array) for name, array in numbers.items()}, texts))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise SettingError("safetensors is not installed; pip install 'jaxdd[formats]'") from error
    return safetensors.numpy


def _matches_safetensors(file: File) -> bool:
    return file.path.suffix == ".safetensors"


def channels_first(arrays: dict[str, Any]) -> dict[str, Any]:
    """Reorder images and the arrays of a ZCA from `[H, W, K]` to `[K, H, W]`."""
    return _reordered(arrays, (2, 0, 1))


def channels_last(arrays: dict[str, Any]) -> dict[str, Any]:
    """Undo `channels_first`."""
    return _reordered(arrays, (1, 2, 0))


def _reordered(arrays: dict[str, Any], axes: tuple[int, int, int]) -> dict[str, Any]:
    shape = arrays["images"].shape[1:]
    order = np.arange(math.prod(shape)).reshape(shape).transpose(axes).ravel()

    def reorder(name: str, array: np.ndarray) -> np.ndarray:
        if name == "images":
            array = array.transpose(0, *(1 + axis for axis in axes))
        elif name.startswith("normalization_") and array.shape == (order.size, order.size):
            array = array[np.ix_(order, order)]
        elif name == "normalization_mean" and array.shape == (order.size,) != shape[-1:]:
            array = array[order]
        return np.ascontiguousarray(array).reshape(array.shape)

    numbers = {name: reorder(name, array) for name, array in arrays.items() if np.asarray(array).dtype.kind != "U"}
    return {**arrays, **numbers}


def _write_torch(path: Path, distilled: Distilled, card: Card) -> None:
    numbers, texts = texts_apart(channels_first(to_arrays(distilled, card)))
    if card.label_kind == "hard":
        numbers["labels"] = numbers["labels"].astype(np.int64)
    torch_file.save(path, {**numbers, **texts})


def _matches_torch(file: File) -> bool:
    return isinstance(file.saved, dict) and {"format_version", "images"} <= {*file.saved}


def _read_torch(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    del asked, data
    if not _matches_torch(file):
        raise SettingError("it is no dict with 'format_version' and 'images'")
    numbers = {name: value for name, value in file.saved.items() if isinstance(value, np.ndarray)}
    texts = {name: value for name, value in file.saved.items() if isinstance(value, str)}
    if "images" not in numbers or numbers["images"].ndim != 4:
        raise SettingError("its images are no tensor [M, K, H, W]")
    return from_arrays(texts_joined(channels_last(numbers), texts))


READERS = {
    "npz": Reader("jaxdd's own distilled.npz", lambda file: {"format_version", "images"} <= file.arrays, _read_npz),
    "safetensors": Reader("the same as safetensors", _matches_safetensors, _read_safetensors),
    "torch": Reader("the same as a dict for torch.load", _matches_torch, _read_torch),
}
WRITERS = {
    "npz": Writer(_write_npz),
    "safetensors": Writer(_write_safetensors),
    "torch": Writer(_write_torch),
}
