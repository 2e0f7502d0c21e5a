"""Arrays of npz files that someone else wrote: numbers and text alone, none larger than its file explains."""

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from jaxdd.errors import SettingError

LARGEST_RATIO = 100
"""How many times the size of its file an array may have; what numpy's `savez` writes is not compressed at all."""


def read(path: str | Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file that are wanted, and no others.

    Args:
        path: The file.
        wanted: Whether to read the array of a name.

    Raises:
        FileNotFoundError: There is no such file.
        SettingError: It is no npz file, is damaged, or one of these arrays holds neither numbers nor text.
    """
    with open(path, "rb") as file:
        return _read_arrays(file, wanted)


def names(path: str | Path) -> set[str]:
    """Return the names of the arrays of a file, none if it is no npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError):
        return set()


def _read_arrays(file: IO[bytes], wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    if file.read(2) != b"PK":
        raise SettingError("it is not an npz file")
    size = file.seek(0, os.SEEK_END)
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if wanted(name):
                    with archive.open(member) as content:
                        arrays[name] = _read_array(name, content, min(member.file_size, LARGEST_RATIO * size))
    except SettingError:
        raise
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise SettingError(f"the npz file is truncated or damaged ({error})") from error
    return arrays


def _read_array(name: str, content: IO[bytes], largest: int) -> np.ndarray:
    """Read one array, after a look at how large its header says it is."""
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(content)
    if dtype.kind not in "biufcU":
        raise SettingError(f"the array {name!r} holds {dtype}, neither numbers nor text: the file is damaged")
    announced = math.prod(shape) * dtype.itemsize
    if announced > largest:
        raise SettingError(f"the array {name!r} claims {announced} bytes, more than the file can hold: it is damaged")
    data = content.read(announced + 1)  # to the end, where the checksum is compared
    if len(data) != announced:
        raise SettingError(f"the array {name!r} claims {announced} bytes and has others: the file is damaged")
    if not announced:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
