"""Files that are either the old one or the new one, never half of one."""

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How `plain` spells the floats that JSON cannot, and what each one means; `float` reads the same spelling."""


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a whole file, so that a reader or a kill at any moment finds the old content or the new one.

    The bytes go to a temporary file in the same folder, are forced to the disk, and take the place of `path` in one
    rename. Missing parent folders are made.

    Args:
        path: the file to write or replace.
        data: its whole content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: that makes files that only their owner may read, and the rename would keep it so.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself lives in the folder; elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


UNSAID = {"unsaid": True}
"""Metadata of a field that goes unsaid at its default: what was written before there was such a field stays the same,
experts and runs that know their settings by a digest among it."""


def _goes_unsaid(field: dataclasses.Field, value: Any) -> bool:
    return "unsaid" in field.metadata and value == field.default


def is_text(value: str) -> bool:
    """Return whether UTF-8 can write it: the names of files that are in another encoding hold lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """Return the same value in the types that strict JSON knows.

    Dataclasses and NamedTuples become objects, with the `name` of a class of settings that has one, and without the
    fields that are `UNSAID`; arrays become nested lists, paths become strings, and a float that is not finite becomes
    its name in `NOT_FINITE`. A value of any other type is returned as it is.

    Args:
        value: nested mappings, sequences, dataclasses, NamedTuples, arrays and scalars.

    Returns:
        Nested dicts, lists, strings, numbers, booleans and None.
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)  # a float64 of numpy is a float too
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        said = (field for field in dataclasses.fields(value) if not _goes_unsaid(field, getattr(value, field.name)))
        fields = {field.name: plain(getattr(value, field.name)) for field in said}
        kind = getattr(type(value), "name", None)
        return {"name": kind, **fields} if isinstance(kind, str) else fields
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return plain(value.tolist())
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as strict JSON, in the order of its keys.

    Args:
        value: anything that `plain` can take apart.
        indent: spaces per level; one line if None.

    Returns:
        The JSON text, without a newline at its end.

    Raises:
        TypeError: if the value holds an object that JSON has no form for.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as an indented JSON file, atomically.

    Args:
        path: the file to write or replace.
        value: anything that `to_json` takes.

    Raises:
        TypeError: if the value holds an object that JSON has no form for; the old file then stays.
    """
    atomic_write(path, (to_json(value, indent=2) + "\n").encode())


def differences(stored: Any, ours: Any) -> list[str]:
    """List where two JSON records differ, as `"name.of.field: … there, … here"`."""
    there, here = dict(_leaves(stored)), dict(_leaves(plain(ours)))
    return [
        f"{name}: {there.get(name, 'nothing')!r} there, {here.get(name, 'nothing')!r} here"
        for name in sorted({*there, *here})
        if there.get(name, ...) != here.get(name, ...)
    ]


def _leaves(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(record, dict):
        for name, value in record.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, record
