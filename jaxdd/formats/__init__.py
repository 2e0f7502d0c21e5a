"""Distilled sets in the files of others: readers and writers, each under the name of its format.

`read(path)` finds out which format a file is in; `write(path, distilled, card)` goes by the ending of the path. None of
them needs torch. A reader says what it needs to know beside the file, and refuses to guess: see `Reading`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.normalization import ZCA, Unfitted
from jaxdd.data import Dataset
from jaxdd.data.splits import Carved
from jaxdd.errors import SettingError
from jaxdd.formats import ddranking, folders, formations, frepo, native, tfds_folder, trajectories, vico
from jaxdd.formats.base import File, Reader, Reading, Writer
from jaxdd.formats.hub import how_to_use, markdown
from jaxdd.formats.pictures import hardened
from jaxdd.settings import check_argument, check_choice
from jaxdd.zoo import located

__all__ = ["READERS", "WRITERS", "Reading", "detect", "how_to_use", "markdown", "read", "read_as", "write"]

READERS: dict[str, Reader] = {
    **native.READERS,
    **vico.READERS,
    **trajectories.READERS,
    **formations.READERS,
    **frepo.READERS,
    **tfds_folder.READERS,
    **ddranking.READERS,
    **folders.READERS,
}
"""In the order in which `detect` tries them."""
WRITERS: dict[str, Writer] = {**native.WRITERS, **folders.WRITERS, **tfds_folder.WRITERS, **ddranking.WRITERS}
ENDINGS = {".npz": "npz", ".safetensors": "safetensors", ".pt": "torch", ".pth": "torch"}
"""What `write` writes where no format is named."""


def read(
    path: str | Path, format: str = "auto", *, data: Dataset | None = None, **options: Any
) -> tuple[Distilled, Card]:
    """Read a distilled set of any format.

    Args:
        path: The file or folder, or zoo:NAME for a set that comes with the package, see `jaxdd.zoo`.
        format: A name of `READERS`; `"auto"` to find out from the content.
        data: The real data, which a ZCA-whitened set needs, and whose class names are then those of the set.
        options: Fields of `Reading`, such as `dataset="cifar10"`.

    Returns:
        The set and its card, its normalization among it.

    Raises:
        FileNotFoundError: There is no such file or folder.
        SettingError: It is of no format known, is damaged, or does not say enough of itself; the file is named.
    """
    known = [field.name for field in dataclasses.fields(Reading)]
    if unknown := options.keys() - {*known}:
        raise SettingError(f"read has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return read_as(path, format, Reading(**options), data)


def read_as(path: str | Path, format: str, asked: Reading, data: Dataset | None = None) -> tuple[Distilled, Card]:
    """Read a distilled set as `read` does, of settings.

    Args:
        path: The file or folder.
        format: A name of `READERS`, or `"auto"`.
        asked: What the file does not say of itself.
        data: The real data.

    Raises:
        FileNotFoundError: There is no such file or folder.
        SettingError: See `read`.
    """
    check_choice("format", format, ("auto", *READERS))
    if data is not None:
        check_argument("data", data, Dataset, "give what jaxdd.data.load returns")
    file = File(located(path))
    file.path.stat()  # raises FileNotFoundError
    try:
        distilled, card = READERS[_detected(file) if format == "auto" else format].read(file, asked, data)
        return distilled, card if data is None else _fitted(card, data)
    except IsADirectoryError:
        raise SettingError(f"{path} is a folder, and the format {format} is a file") from None
    except SettingError as error:
        told = str(error)
        raise SettingError(told if str(path) in told else f"cannot load a distilled set from {path}: {told}") from error


def _fitted(card: Card, data: Dataset) -> Card:
    """Put the normalization in place that a file leaves out; that of the data if it is of its kind."""
    if not isinstance(card.normalization, Unfitted):
        return card
    if data.name != card.dataset:
        raise SettingError(f"its images are whitened by those of {card.dataset}, and the data given are {data.name}")
    said = card.settings("data")
    theirs = Carved(**{name: said[name] for name in Carved._fields if name in said})
    if theirs != data.carved:
        raise SettingError(
            f"its images are whitened by the train split of {theirs}, and the data given have {data.carved}"
        )
    ours = data.normalization
    return dataclasses.replace(card, normalization=ours if isinstance(ours, ZCA) else ZCA.fit(data.train.images))


def detect(path: str | Path) -> str:
    """Return the name of the format that a file or folder is in.

    Raises:
        FileNotFoundError: There is no such file or folder.
        SettingError: It is none of them, or is damaged.
    """
    file = File(located(path))
    file.path.stat()
    return _detected(file)


def _detected(file: File) -> str:
    if (inside := file.path / "distilled.npz").exists():
        raise SettingError(f"{file.path} is the folder of a run; give its set, {inside}")
    for name, reader in READERS.items():
        if reader.matches(file):
            return name
    if file.path.suffix == ".npz" or file.arrays:
        return "npz"  # whose reader says what is missing
    raise SettingError(
        f"{file.path} looks like no distilled set; jaxdd.formats.read({str(file.path)!r}, FORMAT) reads it as one of "
        f"{', '.join(READERS)}"
    )


def write(
    path: str | Path, distilled: Distilled, card: Card, format: str | None = None, *, harden: bool = False
) -> None:
    """Write a distilled set in any format of `WRITERS`.

    Args:
        path: The file, which is replaced; or the folder, which must not be there.
        distilled: The set.
        card: What it says of itself.
        format: A name of `WRITERS`; by default what the ending of the path says: .npz, .safetensors, .pt.
        harden: Whether soft labels may become classes in formats of pictures (png, tfds), which refuse them otherwise.

    Raises:
        SettingError: The format is unknown, or cannot carry the set.
    """
    path = Path(path)
    if format is None and path.suffix not in ENDINGS:
        raise SettingError(f"{path}: its ending names no format; name one of {', '.join(WRITERS)}")
    format = format or ENDINGS[path.suffix]
    check_choice("format", format, WRITERS)
    writer = WRITERS[format]
    if writer.hard:
        distilled, card = hardened(distilled, card, harden)
    writer.write(path, distilled, card)
