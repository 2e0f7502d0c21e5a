"""Damage that is noticed: a checksum of every file of a folder, and JSON that carries a checksum of its own."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdd.errors import SettingError
from jaxdd.io.files import plain, write_json
from jaxdd.types import PyTree

SEAL = "sha256"


class DamagedError(SettingError):
    """A file of a run is not what was written; the message names it, the damage and the remedy."""


def digests(folder: Path) -> dict[str, str]:
    """Compute the sha256 of every file below a folder, by its path in it."""
    return {str(file.relative_to(folder)): digest_of_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def damaged(folder: Path, expected: dict[str, str]) -> list[str]:
    """List the files below a folder that are missing or are not those of these checksums."""
    found = digests(folder)
    return sorted(name for name in expected if expected[name] != found.get(name))


def digest(value: Any) -> str:
    """Compute the sha256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def digest_of_arrays(tree: PyTree) -> str:
    """Compute the sha256 of the arrays of a tree, their shapes and types included."""
    found = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        found.update(f"{leaf.dtype} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Raises:
        DamagedError: It is no JSON; the message ends with the remedy.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged ({error}); {remedy}") from error


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object with the checksum of its content, atomically."""
    write_json(path, {**record, SEAL: digest(record)})


def read_sealed(path: Path, remedy: str, *, seal_needed: bool = True) -> dict[str, Any]:
    """Read a JSON object that `write_sealed` wrote.

    Args:
        path: The file.
        remedy: What to do if it is damaged.
        seal_needed: Whether an object without a checksum is refused; those of older versions have none.

    Raises:
        DamagedError: It is no JSON object, or its checksum is another; the message ends with the remedy.
    """
    record = read_json(path, remedy)
    if not isinstance(record, dict):
        raise DamagedError(f"{path} is damaged (it holds no JSON object); {remedy}")
    if (SEAL in record or seal_needed) and record.pop(SEAL, None) != digest(record):
        raise DamagedError(f"{path} is damaged (its content does not have its checksum); {remedy}")
    return record


def digest_of_file(path: Path) -> str:
    """Compute the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
