"""A folder of images, one sub-folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdd.data.sources.decode import check_memory, decode, stack
from jaxdd.data.splits import TEST_FRACTION, TEST_SEED, RawDataset, Split, draw_held_out, subset
from jaxdd.errors import SettingError
from jaxdd.io.files import is_text

NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
"""Formats whose suffixes pillow knows, but which are no images or which it cannot read by itself."""


def read(path: Path, image_size: int | None = None) -> RawDataset:
    """Read a folder of images.

    Two layouts are read: `PATH/train/CLASS/…` with `PATH/test/CLASS/…`, or `PATH/CLASS/…`. Without `PATH/test`, 20% of
    every class become the test split, drawn with a fixed seed that does not depend on the validation split; ImageNet's
    layout, `PATH/train` with `PATH/val`, is tested on the latter. Class names are folder names in alphabetical order;
    images may lie in folders below, and links are followed. Files that are no images by their suffix and hidden files
    and folders are skipped. The set is grayscale if all its images are, else RGB; transparency is dropped.

    Args:
        path: the folder.
        image_size: side in pixels to scale and center-crop to, or None where all images have one size.

    Returns:
        Train and test split; the name of the set is the name of the folder.

    Raises:
        ValueError: if the folder does not exist or has no images, a class is empty or only in the test split, an image
            cannot be decoded, or sizes differ and `image_size` is None.
    """
    path = path.expanduser()
    if not path.is_dir():
        raise SettingError(f"the folder {path} does not exist; pass folder:PATH where PATH holds one folder per class")
    _check_split_names(path)
    has_splits = bool(_subfolders(path / "train"))
    train_files = class_files(path / "train" if has_splits else path)
    held = [folder for folder in (path / "test", path / "val") if has_splits and _subfolders(folder)]
    test_files = class_files(held[0]) if held else {}
    class_names = tuple(train_files)
    unknown = sorted(set(test_files) - set(class_names))
    if unknown:
        raise SettingError(f"class {unknown[0]!r} is in {held[0]} but not in {path / 'train'}; add it there")

    # Decoded together: whether the set is grayscale or RGB is one decision for both splits.
    parts = (train_files, test_files)
    files = [file for part in parts for members in part.values() for file in members]
    check_memory(len(files), image_size)
    labels = [class_names.index(name) for part in parts for name, members in part.items() for _ in members]
    images = stack(
        [decode(file.read_bytes(), str(file), image_size=image_size) for file in files], list(map(str, files))
    )
    everything = Split(images, np.array(labels, np.int32))
    if test_files:
        held_out = np.arange(len(files)) >= sum(map(len, train_files.values()))
    else:
        held_out = draw_held_out(everything.labels, TEST_FRACTION, TEST_SEED)
        if not held_out.any():
            raise SettingError(
                f"the classes of {path} are too small to make a test split of {TEST_FRACTION:.0%} of each: add images, "
                f"or put train and test images in {path}/train/CLASS/ and {path}/test/CLASS/"
            )
    train, test = (subset(everything, np.flatnonzero(part)) for part in (~held_out, held_out))
    names = tuple(str(file.relative_to(path)) for file, held in zip(files, held_out, strict=True) if not held)
    return RawDataset(path.resolve().name, class_names, train, test, names)


def _check_split_names(path: Path) -> None:
    """Refuse `Train` beside `Test`, which would pass for two classes."""
    names = [folder.name for folder in _subfolders(path)]
    misspelled = [name for name in names if name.lower() in ("train", "test") and name != name.lower()]
    if misspelled and {name.lower() for name in names} <= {"train", "test", "val", "valid", "validation"}:
        raise SettingError(f"{path / misspelled[0]} looks like a split, not a class; rename it {misspelled[0].lower()}")


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _below(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and in those below it, links followed, but for what is hidden."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def class_files(root: Path) -> dict[str, list[Path]]:
    """List the images of every class folder of `root`, in a fixed order."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind not in NO_IMAGES}
    files = {
        folder.name: sorted(file for file in _below(folder) if file.suffix.lower() in suffixes and file.is_file())
        for folder in _subfolders(root)
    }
    if not any(files.values()):
        raise SettingError(f"no images found in {root}; put the images of each class in a folder {root}/CLASS/")
    for name in files:
        if not is_text(name):
            raise SettingError(f"a class folder of {root} has a name with broken characters, {name!r}; rename it")
    beside = sorted(entry.name for entry in root.iterdir() if entry.is_file() and entry.suffix.lower() in suffixes)
    if beside:
        raise SettingError(
            f"{len(beside)} images lie beside the class folders of {root}, the first {beside[0]}; move them into one, "
            "or elsewhere"
        )
    whole: dict[Path, str] = {}
    for name in files:
        same = whole.setdefault((root / name).resolve(), name)
        if same != name:
            raise SettingError(f"the classes {same!r} and {name!r} of {root} are one folder; delete the link to it")
    for name, members in files.items():
        if not members:
            raise SettingError(f"class {name!r} is empty: no images in {root / name}; add some or delete the folder")
    return files
