"""Files of `torch.save`, read and written without torch; reading executes nothing that a file says.

A file is a zip archive, of a pickle `data.pkl` and the bytes of each storage, or, written before torch 1.6 or on
request, a row of pickles with the bytes behind them. `jaxdd.formats.pickles` interprets them: numbers, text,
containers, and what `_KNOWN` names, which are functions of this module.
"""

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdd.errors import SettingError
from jaxdd.formats import pickles
from jaxdd.io import npz
from jaxdd.io.files import atomic_write

DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
"""The types of numbers by torch's names of their storages."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that the first pickle of a file of the older kind holds."""
Storages = Callable[[str, np.dtype, int], np.ndarray]
"""`(key, type, count) -> [count]`, the numbers of a storage."""


def load(path: str | Path) -> Any:
    """Read what `torch.save` wrote: containers, numbers and text, tensors as read-only arrays.

    Args:
        path: The file.

    Returns:
        What was saved. Tensors are views of their storages, so that shared ones take no memory of their own; those of
        bfloat16 have the type of `ml_dtypes`.

    Raises:
        FileNotFoundError: There is no such file.
        SettingError: It is no such file, is damaged, or holds other things than named above; the file is named.
    """
    content = Path(path).read_bytes()
    read = _read_zip if content[:2] == b"PK" else _read_legacy
    try:
        return read(content)
    except SettingError as error:
        raise SettingError(f"cannot read {path} as a file of torch.save: {error}") from error


def is_torch_file(path: Path) -> bool:
    """Return whether a file begins as those of `torch.save` do."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return _magic(file.read(32))
        try:
            return any(name.endswith("data.pkl") for name in zipfile.ZipFile(file).namelist())
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError):
            return False


def _magic(start: bytes) -> bool:
    encoded = LEGACY_MAGIC.to_bytes(10, "little")
    return start[:1] == b"\x80" and encoded in start


def _read_zip(content: bytes) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            programs = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(programs) != 1:
                raise SettingError(f"the archive has {len(programs)} members data.pkl, and one is needed")
            folder = programs[0].removesuffix("data.pkl")
            packed = [name for name, member in members.items() if member.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise SettingError(f"its member {packed[0]!r} is compressed, which torch.save never does")
            # Members may be made to lie upon each other; honest ones have no more bytes than the file.
            if sum(member.file_size for member in members.values()) > len(content):
                raise SettingError("its members claim more bytes than the file has: it is damaged")
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
            found: dict[str, np.ndarray] = {}

            def storages(key: str, dtype: np.dtype, count: int) -> np.ndarray:
                if key not in found:
                    name = f"{folder}data/{key}"
                    if name not in members:
                        raise SettingError(f"it lacks the storage {key!r}")
                    found[key] = _numbers(archive.read(name), dtype.newbyteorder(">") if order == b"big" else dtype)
                return _checked(found[key], key, dtype, count)

            return _unpickle(archive.read(programs[0]), storages)
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"it is truncated or damaged ({error})") from error


def _read_legacy(content: bytes) -> Any:
    if not _magic(content[:32]):
        raise SettingError("it is neither a zip archive nor a file of an older torch")
    stream = io.BytesIO(content)

    def none(*storage: Any) -> np.ndarray:
        raise SettingError(f"the storage {storage} is named where none can be")

    header = [_unpickle(pickles.cut(stream), none) for _ in range(3)]
    if header[1] != 1001 or not isinstance(header[2], dict) or not header[2].get("little_endian", False):
        raise SettingError("its header is another; load it with torch and save it again")
    program = pickles.cut(stream)
    types: dict[str, np.dtype] = {}

    def noted(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        types[key] = dtype
        return np.broadcast_to(np.zeros((), dtype), min(count, len(content)))

    _unpickle(program, noted)  # which says of what type the storages are that follow it
    keys = _unpickle(pickles.cut(stream), none)
    if not isinstance(keys, list) or {*map(str, keys)} != {*types}:
        raise SettingError("its list of storages is another than what its tensors need: it is damaged")
    found: dict[str, np.ndarray] = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        data = stream.read(min(count * types[key].itemsize, len(content)))
        found[key] = _numbers(data, types[key])

    return _unpickle(program, lambda key, dtype, count: _checked(found[key], key, dtype, count))


def _numbers(data: bytes, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def _checked(storage: np.ndarray, key: str, dtype: np.dtype, count: int) -> np.ndarray:
    if storage.dtype.newbyteorder("=") != dtype.newbyteorder("=") or len(storage) != count:
        raise SettingError(f"the storage {key!r} is not the {count} numbers of type {dtype} that it is said to be")
    return storage


class _DType(pickles.Built):
    """A type of numpy under construction: only its byte order can be changed by the pickle."""

    def __init__(self, name: str, *_: Any):
        self.value = np.dtype(name)
        if self.value.kind not in "biuf":
            raise SettingError(f"an array of numpy holds {self.value}, and only numbers are admitted")

    def fill(self, state: Any) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array(pickles.Built):
    """An array of numpy under construction; `np.asarray` turns it into one."""

    def __init__(self, *_: Any):
        self.value = np.zeros(0)

    def fill(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype)


class _Storage(NamedTuple):
    numbers: np.ndarray


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """View a storage as torch does: element i of a tensor is the number at `offset + Σ_a i_a strides_a`."""
    if not isinstance(storage, _Storage):
        raise SettingError("a tensor without a storage")
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise SettingError(f"a tensor of shape {shape}, strides {strides} and offset {offset}: the file is damaged")
    numbers = storage.numbers
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.zeros(shape, numbers.dtype)
    if last >= len(numbers):
        raise SettingError(f"a tensor reaches to number {last} of a storage of {len(numbers)}: the file is damaged")
    if math.prod(shape) > npz.LARGEST_RATIO * len(numbers):
        raise SettingError(f"a tensor of shape {shape} repeats a storage of {len(numbers)} numbers: it is damaged")
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)


def _scalar(dtype: Any, data: bytes) -> Any:
    return np.frombuffer(data, dtype.value)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise SettingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes: tuple(sizes),
    "collections.OrderedDict": lambda items=(): OrderedDict(items),
    "numpy.dtype": lambda *arguments: _DType(*arguments),
    "numpy.ndarray": None,  # an argument of _reconstruct
    "_codecs.encode": _encode,
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
}
"""What a pickle may name, and what it gets: functions of this module, and types of numbers."""


def _unpickle(program: bytes, storages: Storages) -> Any:
    def persistent(identity: Any) -> _Storage:
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or not isinstance(dtype, pickles.Named) or not isinstance(key, str) or any(view):
            raise SettingError("it names a storage in an unknown way; load it with torch and save it again")
        if type(count) is not int or count < 0:
            raise SettingError(f"a storage of {count} numbers: the file is damaged")
        return _Storage(storages(key, np.dtype(dtype.value), count))

    return pickles.read(program, _KNOWN, persistent)


def save(path: str | Path, tree: Any) -> None:
    """Write a file that `torch.load(path, weights_only=True)` reads, atomically; equal values make equal bytes.

    Args:
        path: The file.
        tree: Dicts and tuples of arrays, which become tensors, and of text, Python's numbers, booleans and None.

    Raises:
        SettingError: An array has a type that torch has not.
    """
    storages: list[np.ndarray] = []
    program = b"\x80\x02" + _pickled(tree, storages) + b"."
    members = {"data.pkl": program, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{index}": array.tobytes() for index, array in enumerate(storages)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)  # dated 1980: the clock has no say
    atomic_write(path, buffer.getvalue())


def _pickled(value: Any, storages: list[np.ndarray]) -> bytes:
    """Spell a value as a pickle of protocol 2, without its end; arrays are appended to `storages`."""
    if isinstance(value, np.ndarray | np.generic):
        return _pickled_tensor(np.asarray(value), storages)
    if isinstance(value, Mapping):
        pairs = (_pickled(key, storages) + _pickled(item, storages) for key, item in value.items())
        return b"}(" + b"".join(pairs) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(_pickled(item, storages) for item in value) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def _pickled_tensor(array: np.ndarray, storages: list[np.ndarray]) -> bytes:
    array = np.ascontiguousarray(array).reshape(array.shape)
    names = [name for name, dtype in DTYPES.items() if dtype == array.dtype]
    if not names:
        raise SettingError(f"an array of {array.dtype} cannot be a tensor of torch")
    strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    parts = ("storage", names[0], str(len(storages)), "cpu", array.size)
    storages.append(array)
    kind, name, key, device, count = parts
    identity = (
        _pickled(kind, storages)
        + f"ctorch\n{name}\n".encode()
        + b"".join(_pickled(part, storages) for part in (key, device, count))
    )
    layout = b"".join(_pickled(part, storages) for part in (0, array.shape, strides, False))
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + identity + b"tQ" + layout + hooks + b"tR"
