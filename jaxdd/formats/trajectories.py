"""Sets of MTT and TESLA (`images_best.pt`, `labels_best.pt`) and of DATM (these, labels as logits, and `lr_best.pt`).

Bare tensors: images `[M, K, H, W]` float32, labels `[M]` int64 of MTT and TESLA, `[M, C]` float32 logits of DATM, a 0-d
learning rate of DATM. Images are standardized by the constants of DC's code, or with `--zca` whitened by kornia's ZCA
of pixels in [0, 1], ε = 0.1. Which of the two is in no file; MTT run with `--zca` leaves `images_zca_…pt` beside them.
"""

from pathlib import Path

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.formats.base import (
    File,
    Reader,
    Reading,
    array_of,
    as_images,
    as_set,
    classes_of,
    kornia_zca,
    source_of,
    standardized,
)


def _parts(file: File) -> dict[str, Path]:
    """Return the files of a set by what is in them, given its folder or its file of images."""
    which = file.path.stem.removeprefix("images_") if file.path.is_file() else "best"
    if file.path.is_file() and not file.path.name.startswith("images_"):
        return {}
    parts = {part: file.sibling(f"{part}_{which}.pt") for part in ("images", "labels", "lr")}
    return {part: path for part, path in parts.items() if path.is_file()}


def _matches_mtt(file: File) -> bool:
    return {*_parts(file)} == {"images", "labels"}


def _matches_datm(file: File) -> bool:
    return {*_parts(file)} == {"images", "labels", "lr"}


def read_mtt(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a set with hard labels; its learning rate is not in the files."""
    return _read(file, asked, data, "mtt")


def read_datm(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a set with labels that are logits, and its learning rate."""
    return _read(file, asked, data, "datm")


def _read(file: File, asked: Reading, data: Dataset | None, format: str) -> tuple[Distilled, Card]:
    parts = _parts(file)
    if missing := {"images", "labels"} - {*parts}:
        raise SettingError(f"there is no file of {' and '.join(sorted(missing))}; give images_best.pt, or its folder")
    images = as_images(torch_file.load(parts["images"]))
    labels = array_of(torch_file.load(parts["labels"]), "labels")
    if format == "mtt" and labels.ndim != 1:
        raise SettingError(
            f"labels are {list(labels.shape)}, and those of MTT are [M]; if they are logits, "
            "jaxdd.formats.read(path, 'datm') reads them"
        )
    source = source_of(file.path, asked, data, classes_of(labels))
    whitened = file.path.name.startswith("images_zca_")  # which the code has turned back into pixels
    if whitened:
        raise SettingError(f"{file.path.name} holds pixels for a look at them; give images_{file.path.stem[11:]}.pt")
    why = _why_zca(file, asked)
    normalization = standardized(source, asked, "vico") if why is None else kornia_zca(data, why)
    provenance = {"format": format, "file": str(Path(parts["images"]).name)}
    return as_set(images, labels, source, normalization, lr=_lr(parts, asked), provenance=provenance)


def _why_zca(file: File, asked: Reading) -> str | None:
    """Return what tells that images are whitened, None where they are not.

    Raises:
        SettingError: Nothing tells.
    """
    if asked.zca is not None:
        return "read.zca is True" if asked.zca else None
    if beside := sorted(file.sibling("").glob("images_zca_*.pt")):
        return f"{beside[0].name} lies beside it"
    if asked.mean is not None:
        return None
    raise SettingError(
        "nothing tells whether its images are ZCA-whitened: set read.zca to True if it was distilled with --zca, which "
        "most published sets of MTT and DATM on CIFAR were, else to False"
    )


def _lr(parts: dict[str, Path], asked: Reading) -> float | None:
    if asked.lr is not None or "lr" not in parts:
        return asked.lr
    value = np.asarray(array_of(torch_file.load(parts["lr"]), "the learning rate"), np.float32)
    if value.size != 1:
        raise SettingError(f"{parts['lr'].name} is {list(value.shape)}, and one learning rate is needed")
    return float(value.item())


READERS = {
    "mtt": Reader("MTT and TESLA: a folder with images_best.pt and labels_best.pt", _matches_mtt, read_mtt),
    "datm": Reader("DATM: images_best.pt, labels_best.pt (logits) and lr_best.pt", _matches_datm, read_datm),
}
