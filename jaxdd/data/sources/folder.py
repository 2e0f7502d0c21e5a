"""A folder of images, one sub-folder per class."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxdd.data.sources.decode import decode, stack
from jaxdd.data.splits import TEST_FRACTION, TEST_SEED, RawDataset, Split, hold_out


def read(path: Path, image_size: int | None = None) -> RawDataset:
    """Read a folder of images.

    Two layouts are read: `PATH/train/CLASS/…` with `PATH/test/CLASS/…`, or `PATH/CLASS/…`. Without `PATH/test`, 20% of
    every class become the test split, drawn with a fixed seed that does not depend on the validation split. Class names
    are folder names in alphabetical order; images may lie in folders below. Files that are no images by their suffix
    and hidden files are skipped. The set is grayscale if all its images are, else RGB; transparency is dropped.

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
        raise ValueError(f"the folder {path} does not exist; pass folder:PATH where PATH holds one folder per class")
    has_splits = bool(_subfolders(path / "train"))
    train_files = _files(path / "train" if has_splits else path)
    test_files = _files(path / "test") if has_splits and _subfolders(path / "test") else {}
    class_names = tuple(train_files)
    unknown = sorted(set(test_files) - set(class_names))
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is in {path / 'test'} but not in {path / 'train'}; add it there")

    # Decoded together: whether the set is grayscale or RGB is one decision for both splits.
    parts = (train_files, test_files)
    files = [file for part in parts for members in part.values() for file in members]
    labels = [class_names.index(name) for part in parts for name, members in part.items() for _ in members]
    images = stack(
        [decode(file.read_bytes(), str(file), image_size=image_size) for file in files], list(map(str, files))
    )
    everything = Split(images, np.array(labels, np.int32))
    if test_files:
        count = sum(map(len, train_files.values()))
        train, test = (Split(*(array[part] for array in everything)) for part in (slice(count), slice(count, None)))
    else:
        train, test = hold_out(everything, TEST_FRACTION, TEST_SEED)
    return RawDataset(path.resolve().name, class_names, train, test)


def _subfolders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path) -> dict[str, list[Path]]:
    """List the images of every class folder of `root`, in a fixed order."""
    suffixes = Image.registered_extensions()
    files = {
        folder.name: sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
        )
        for folder in _subfolders(root)
    }
    if not any(files.values()):
        raise ValueError(f"no images found in {root}; put the images of each class in a folder {root}/CLASS/")
    for name, members in files.items():
        if not members:
            raise ValueError(f"class {name!r} is empty: no images in {root / name}; add some or delete the folder")
    return files
