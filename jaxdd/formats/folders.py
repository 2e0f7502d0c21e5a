"""Folders of images, one folder a class: of RDED and SRe2L, of anyone, and a writer of PNGs.

RDED: `00000/class00000_id00000.jpg`. SRe2L and CDA: `new000/class000_id000.jpg`. Their soft labels come from a teacher
while networks train, so that the labels here are the classes: hard. Pixels are real ones, of 8 bits.

The writer's folder holds pictures, and in `card.json` all else that a set says of itself. It cannot hold pixels outside
[0, 1], which are clipped, nor more than 8 bits of them, and its labels are hard: soft ones are refused unless a set may
be hardened.
"""

import re
from pathlib import Path

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.normalization import Normalization
from jaxdd.data import Dataset
from jaxdd.data.sources import folder
from jaxdd.data.sources.decode import decode, stack
from jaxdd.errors import SettingError
from jaxdd.formats.base import File, Reader, Reading, Source, Writer, as_set, source_of, standardized
from jaxdd.formats.pictures import CARD, carded_set, check_empty, eight_bits, png, read_card, write_card
from jaxdd.io.files import atomic_write

NUMBERED = re.compile(r"(new)?(\d{2,})")


def _numbered(path: Path) -> list[re.Match[str]]:
    """Return the names of the class folders as numbers, none unless all of them are; nor where a card says more."""
    if (path / CARD).exists():
        return []
    names = [entry.name for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []
    found = [NUMBERED.fullmatch(name) for name in names]
    return [match for match in found if match] if all(found) else []


def _matches_rded(file: File) -> bool:
    return bool(found := _numbered(file.path)) and not any(match[1] for match in found)


def _matches_sre2l(file: File) -> bool:
    return bool(found := _numbered(file.path)) and all(match[1] for match in found)


def _matches_folder(file: File) -> bool:
    return file.path.is_dir() and any(entry.is_dir() and any(entry.iterdir()) for entry in file.path.iterdir())


def read_numbered(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a folder whose class folders are named by the numbers of the classes."""
    matches = _numbered(file.path)
    if not matches:
        raise SettingError("its folders are not named by the numbers of classes, such as 00000 or new000")
    classes = {match[0]: int(match[2]) for match in matches}
    return _by_number(file, asked, data, *_images(file.path), classes)


def read_folder(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a folder whose class folders are named by the classes, or by their numbers where these are no names.

    `card.json` in it tells the rest, if it is there.
    """
    images, names = _images(file.path)
    folders = sorted({*names})
    if (file.path / CARD).exists():
        return _with_card(file.path, images, names)
    source = source_of(file.path, asked, data, len(folders))
    named = {*folders} <= {*source.class_names}
    if not named and all(map(str.isdecimal, folders)):
        return _by_number(file, asked, data, images, names, {name: int(name) for name in folders})
    classes = source.class_names if named else tuple(folders)
    source = source._replace(class_names=classes)
    return _as_set(file, asked, data, source, images, np.array([classes.index(name) for name in names]))


def _images(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read all images, and the folder of each."""
    if not path.is_dir():
        raise SettingError("it is no folder")
    files = [(name, file) for name, members in folder.class_files(path).items() for file in members]
    paths = [str(file) for _, file in files]
    return stack([decode(file.read_bytes(), str(file)) for _, file in files], paths), [name for name, _ in files]


def _by_number(
    file: File, asked: Reading, data: Dataset | None, images: np.ndarray, names: list[str], classes: dict[str, int]
) -> tuple[Distilled, Card]:
    """Build a set of images and the folder of each, given the number of the class of every folder."""
    if max(classes.values()) >= 10**5:
        raise SettingError(f"a folder is named {max(classes, key=lambda name: classes[name])}; classes count from 0")
    source = source_of(file.path, asked, data, max(classes.values()) + 1)
    return _as_set(file, asked, data, source, images, np.array([classes[name] for name in names]))


def _as_set(
    file: File, asked: Reading, data: Dataset | None, source: Source, images: np.ndarray, labels: np.ndarray
) -> tuple[Distilled, Card]:
    known = source.known is not None or asked.mean is not None
    normalization: Normalization = (
        data.normalization if data is not None and not known else standardized(source, asked, "vico")
    )
    provenance = {"format": "folder", "folder": file.path.name}
    inputs = np.asarray(normalization(images))
    return as_set(inputs, labels, source, normalization, lr=asked.lr, provenance=provenance)


def write_png(path: Path, distilled: Distilled, card: Card) -> None:
    """Write `CLASS/00000.png` for each image, and `card.json`; a ZCA's matrices go to `normalization.npz`.

    Class folders are named by the classes where their alphabetical order is that of the classes, else by their numbers
    and names.

    Args:
        path: The folder, which must not be there or be empty.
        distilled: The set, with hard labels.
        card: What it says of itself.

    Raises:
        SettingError: The folder has something in it.
    """
    check_empty(path)
    labels = np.asarray(distilled.labels).argmax(axis=1)
    names = _folder_names(card.class_names)
    pictures, clipped = eight_bits(distilled, card)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        atomic_write(path / names[label] / f"{index:05}.png", png(picture))
    write_card(path, distilled, card, folders=names, clipped=clipped)


def _with_card(path: Path, images: np.ndarray, names: list[str]) -> tuple[Distilled, Card]:
    card, lr, told = read_card(path)
    folders = told.get("folders")
    if not isinstance(folders, list) or not {*names} <= {name for name in folders if isinstance(name, str)}:
        raise SettingError(f"{path / CARD} does not name the folders that are there")
    return carded_set(images, np.array([folders.index(name) for name in names]), card, lr), card


def _folder_names(class_names: tuple[str, ...]) -> list[str]:
    safe = [re.sub(r"[^\w \-]", "-", name).strip() or "class" for name in class_names]
    if safe == sorted({*safe}) and safe == [*class_names]:
        return safe
    digits = len(str(len(safe) - 1))
    return [f"{index:0{digits}}_{name}" for index, name in enumerate(safe)]


READERS = {
    "rded": Reader("RDED: folders 00000/class00000_id00000.jpg", _matches_rded, read_numbered),
    "sre2l": Reader("SRe2L and CDA: folders new000/class000_id000.jpg", _matches_sre2l, read_numbered),
    "folder": Reader("a folder of images for each class, hard labels", _matches_folder, read_folder),
}
WRITERS = {"png": Writer(write_png, hard=True)}
