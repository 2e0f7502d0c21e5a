import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxdd.errors import SettingError
from jaxdd.formats import pickles, torch_file
from tests.helpers import damaged

DATA = Path(__file__).parent / "data"
BASE = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_what_torch_wrote_is_read_without_torch(kind):
    path = DATA / f"torch_{kind}.pt"
    assert torch_file.is_torch_file(path)
    found = torch_file.load(path)
    expected = {
        "plain": BASE,
        "transposed": BASE.transpose(2, 1, 0),
        "sliced": BASE[:, 1:, ::2],
        "expanded": np.tile(np.float32([1, 2, 3]), (4, 1)),
        "float64": np.array([0.1, -2.0]),
        "float16": np.float16([0.5, -2]),
        "bfloat16": np.array([0.5, -2, 1], ml_dtypes.bfloat16),
        **{name: np.array([0, 1, 2], name) for name in ("int64", "int32", "int16")},
        "int8": np.int8([-1, 1]),
        "uint8": np.uint8([0, 255]),
        "bool": np.array([True, False]),
        "scalar": np.float32(0.25),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones(2, np.float32),
    }
    for name, array in expected.items():
        assert (found[name].dtype == array.dtype and not found[name].flags.writeable) or 0 in array.shape
        np.testing.assert_array_equal(found[name], array)
    assert np.shares_memory(found["plain"], found["sliced"])
    scalar, rows, turned = found["numpy"]
    assert scalar == 1.5
    np.testing.assert_array_equal(np.asarray(rows), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(np.asarray(turned), [[1, 3], [2, 4]])
    python = [1, 2.5, -3, 2**70, "text", None, True, (1, (2, 3)), OrderedDict(a=1), (2, 3, 4)]
    assert found["python"] == python and type(found["python"][6]) is bool


def test_written_without_torch_and_read_back(tmp_path):
    tree = {"images": BASE, "labels": np.arange(3), "lr": np.asarray(0.5, np.float32), "empty": np.zeros((0, 2)),
            "text": "größe", "number": 0.25, "none": None, "flag": True, "names": ("a", "b"),
            "inner": {"x": np.uint8([1])},
            "half": np.array([1, 2], ml_dtypes.bfloat16)}  # fmt: skip
    torch_file.save(tmp_path / "a.pt", tree)
    found = torch_file.load(tmp_path / "a.pt")
    assert found.keys() == tree.keys()
    for name, value in tree.items():
        if isinstance(value, np.ndarray):
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(found[name], value)
    assert [found[name] for name in ("text", "number", "none", "flag", "names")] == [
        "größe",
        0.25,
        None,
        True,
        ("a", "b"),
    ]
    torch_file.save(tmp_path / "b.pt", tree)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    with pytest.raises(SettingError, match="complex128"):
        torch_file.save(tmp_path / "c.pt", np.zeros(2, complex))


def test_torch_reads_what_is_written_and_the_other_way_round(tmp_path):
    torch = pytest.importorskip("torch")
    torch_file.save(
        tmp_path / "a.pt", {"x": BASE, "lr": np.asarray(0.5, np.float32), "e": np.zeros((0, 2)), "s": "text"}
    )
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    np.testing.assert_array_equal(found["x"].numpy(), BASE)
    assert found["lr"].shape == () and found["lr"] == 0.5 and found["e"].shape == (0, 2) and found["s"] == "text"
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:]
    for zipped in (True, False):
        torch.save([tensor, tensor[0].half()], tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
        ours = torch_file.load(tmp_path / "b.pt")
        np.testing.assert_array_equal(ours[0], tensor.numpy())
        np.testing.assert_array_equal(ours[1], tensor[0].half().numpy())


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


PROGRAMS = {
    "os.system": pickle.dumps(Call(os.system, "touch executed")),
    "eval": pickle.dumps(Call(eval, "open('executed', 'w')"), 2),
    "exec, inside": pickle.dumps({"data": [1, Call(exec, "open('executed', 'w')")]}, 4),
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nX\x00\x00\x00\x00tR.",
    "a method of a known name": b"ccollections\nOrderedDict.fromkeys\n(]tR.",
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x0e_utils.os.name\x93.",
    "INST": b"(S'touch executed'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch executed'\no.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "call of a number": b"K\x01)R.",
    "call of a type of numbers": b"ctorch\nFloatStorage\n)R.",
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__)sb.",
    "attributes of a list": b"]}X\x01\x00\x00\x00a)sb.",
    "objects of numpy": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
    "memory of numpy": b"cnumpy\nndarray\n(K\x7ftR.",
    "a table of 2^31 entries": b"\x80\x02Kar\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",
    "an empty stack": b"\x80\x020.",
    "two values": b"K\x01K\x02.",
    "no end": b"K\x01",
    "nothing": b"",
}


def archive(program, members=(), compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for name, content in dict(members).items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_pickle_executes_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    legacy = pickle.dumps(torch_file.LEGACY_MAGIC, 2) + pickle.dumps(1001, 2)
    legacy += pickle.dumps({"little_endian": True}, 2) + PROGRAMS[name] + pickle.dumps([], 2)
    for content in (archive(PROGRAMS[name]), legacy):
        path.write_bytes(content)
        if name == "a table of 2^31 entries":
            assert torch_file.load(path) == 97  # a dictionary here, which takes no room
        else:
            with pytest.raises(SettingError, match="evil.pt"):
                torch_file.load(path)
    assert [*tmp_path.iterdir()] == [path]


def tensor_program(offset, shape, strides, count=6, kind="FloatStorage", key="0"):
    storages = []

    def text(value):
        return torch_file._pickled(value, storages)

    identity = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + text(count) + b"tQ"
    layout = b"".join(map(text, (offset, shape, strides, False)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + layout + b"ccollections\nOrderedDict\n)RtR."


NUMBERS = {"data/0": np.arange(6, dtype="<f4").tobytes()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "reaches to number 6 of a storage of 6"),
        ({"strides": (4, 1)}, "reaches to number 6"),
        ({"strides": (-3, 1)}, "strides"),
        ({"offset": -1}, "offset -1"),
        ({"shape": (2, -3)}, "shape"),
        ({"shape": (2**40, 3)}, "reaches to number"),
        ({"shape": (2, 3, 1)}, "strides"),
        ({"shape": (2.0, 3)}, "shape"),
        ({"count": 7}, "is not the 7 numbers"),
        ({"count": -6}, "-6 numbers"),
        ({"kind": "DoubleStorage"}, "is not the 6 numbers"),
        ({"kind": "QInt8Storage"}, "names torch.QInt8Storage"),
        ({"key": "1"}, "lacks the storage '1'"),
        ({"key": "../data.pkl"}, "lacks the storage"),
    ],
)
def test_a_tensor_stays_in_its_storage(tmp_path, changes, message):
    path = tmp_path / "a.pt"
    right = {"offset": 0, "shape": (2, 3), "strides": (3, 1)}
    path.write_bytes(archive(tensor_program(**right), NUMBERS))
    np.testing.assert_array_equal(torch_file.load(path), np.arange(6.0).reshape(2, 3))
    path.write_bytes(archive(tensor_program(**{**right, **changes}), NUMBERS))
    with pytest.raises(SettingError, match=message):
        torch_file.load(path)


def test_a_file_takes_no_more_memory_than_it_has_bytes(tmp_path):
    path = tmp_path / "bomb.pt"
    path.write_bytes(archive(pickle.dumps(1), {"data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(SettingError, match="compressed"):
        torch_file.load(path)
    content = bytearray(archive(pickle.dumps(1), {"data/0": bytes(100)}))
    central = content.rindex(b"PK\x01\x02")
    content[central + 20 : central + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(content)
    with pytest.raises(SettingError, match="more bytes than the file has"):
        torch_file.load(path)
    path.write_bytes(archive(tensor_program(0, (10**6, 10**6), (0, 0)), NUMBERS))  # six numbers, seen often
    with pytest.raises(SettingError, match="repeats a storage of 6 numbers"):
        torch_file.load(path)


def test_numbers_of_the_other_byte_order(tmp_path):
    path = tmp_path / "big.pt"
    members = {"byteorder": b"big", "data/0": np.arange(6, dtype=">f4").tobytes()}
    path.write_bytes(archive(tensor_program(0, (2, 3), (3, 1)), members))
    np.testing.assert_array_equal(torch_file.load(path), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\x03\x04", b"\x80\x02", b"text", archive(b"N.", {"x/data.pkl": b"N."})]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="other.pt"):
        torch_file.load(path)
    with pytest.raises(FileNotFoundError):
        torch_file.load(tmp_path / "absent.pt")


def test_damage_is_one_error(tmp_path):
    path, random = tmp_path / "damaged.pt", np.random.default_rng(0)
    for name in ("torch_zip.pt", "torch_legacy.pt"):
        whole = (DATA / name).read_bytes()
        for trial in range(150):
            path.write_bytes(damaged(whole, random, trial))
            try:
                torch_file.load(path)
            except SettingError as error:
                assert "damaged.pt" in str(error)


def test_a_pickle_as_data():
    value = {"a": [1, (2.5, "x"), None], "b": {"c": True}}
    for protocol in range(6):
        assert pickles.read(pickle.dumps(value, protocol), {}, lambda identity: identity) == value
