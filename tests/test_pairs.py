"""Images with captions: the layout of Karpathy's files, what is wrong with some, and text encoders."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxdd.core import sampling
from jaxdd.data import pairs, text

ENTRIES = [
    ("a.png", "train", ["A red ball.", "Une balle rouge."]),
    ("b.png", "train", ["A blue box."]),
    ("c.png", "restval", ["A green tree.", "Trees."]),
    ("d.png", "val", ["A red box."]),
    ("e.png", "test", ["A blue ball.", "Balls."]),
]


def entry(name, split, captions, **more):
    return {"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions], **more}


def written(folder, entries=ENTRIES, size=8, **described):
    """Write a folder of pictures, each of one color, and its description."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, (name, *_) in enumerate(entries):
        Image.new("RGB", (size, size), (20 * i, 30, 40)).save(folder / "images" / name)
    text = json.dumps({"dataset": "toys", "images": [entry(*e) for e in entries], **described})
    (folder / "dataset.json").write_text(text)
    return folder


def test_the_splits_and_captions_are_those_of_the_file(tmp_path):
    found = pairs.read(written(tmp_path))
    assert (found.name, found.image_shape, found.text_features) == ("toys", (8, 8, 3), 512)
    assert found.train.names == ("a.png", "b.png", "c.png")  # restval is part of train
    assert found.train.texts == ["A red ball.", "Une balle rouge.", "A blue box.", "A green tree.", "Trees."]
    assert found.train.owners.tolist() == [0, 0, 1, 2, 2]
    assert found.validation.names == ("d.png",) and found.test.captions == (("A blue ball.", "Balls."),)
    real = found.real_set()
    examples = sampling.take(real, np.array([1, 4]))
    assert examples.inputs["image"].shape == (2, 8, 8, 3) and examples.targets.tolist() == [0, 2]
    pixels = found.normalization.inverse(examples.inputs["image"]) * 255
    np.testing.assert_allclose(pixels[:, 0, 0, 0], [0, 40], atol=1e-3)
    np.testing.assert_allclose(examples.inputs["text"], found.embedded(["Une balle rouge.", "Trees."]), rtol=1e-6)
    np.testing.assert_allclose(found.embedded(found.train.texts).std(), 1, rtol=1e-5)
    assert found.nearest(1.7 * found.embedded(["A blue box.", "Trees."])) == ["A blue box.", "Trees."]


def test_images_are_found_beside_the_file_and_scaled(tmp_path):
    folder = written(tmp_path, size=12)
    (folder / "images" / "a.png").rename(folder / "a.png")
    (folder / "images" / "b.png").rename(folder / "images" / "b.jpg")
    (folder / "deep").mkdir()
    (folder / "images" / "c.png").rename(folder / "deep" / "c.png")
    described = json.loads((folder / "dataset.json").read_text())
    described["images"][1]["filename"] = "b.jpg"
    described["images"][2]["filepath"] = "deep"
    (folder / "dataset.json").write_text(json.dumps(described))
    found = pairs.read(folder, image_size=6)
    assert found.image_shape == (6, 6, 3) and found.train.names == ("a.png", "b.jpg", "deep/c.png")
    assert found.train.images[:, 0, 0, 0].tolist() == [0, 20, 40]


def test_without_validation_there_is_none(tmp_path):
    found = pairs.read(written(tmp_path, [e for e in ENTRIES if e[1] != "val"]))
    assert found.validation is None and found.validation_set() is None


@pytest.mark.parametrize("at", [3, 4], ids=["validation", "test"])
def test_the_held_out_splits_have_a_fingerprint_of_their_own(tmp_path, at):
    plain = pairs.read(written(tmp_path))
    name, split, _ = ENTRIES[at]
    other = pairs.read(written(tmp_path, [*ENTRIES[:at], (name, split, ["Another."]), *ENTRIES[at + 1 :]]))
    assert other.fingerprint() == plain.fingerprint()
    assert other.held_out_fingerprint() != plain.held_out_fingerprint()


def changed(folder, change):
    described = json.loads((folder / "dataset.json").read_text())
    change(described["images"])
    (folder / "dataset.json").write_text(json.dumps(described))


WRONG = {
    "no captions": (lambda e: e[1].update(sentences=[]), "image 1, b.png, has no caption"),
    "captions missing": (lambda e: e[1].pop("sentences"), "image 1, b.png, has no caption"),
    "an empty caption": (lambda e: e[0]["sentences"].append({"raw": "  "}), "image 0, a.png, has an empty caption"),
    "a caption of no text": (lambda e: e[0].update(sentences=[{"raw": 3}]), "image 0, a.png, has an empty caption"),
    "an unknown split": (lambda e: e[2].update(split="dev"), "image 2, c.png, is of split 'dev'; give one of train"),
    "two splits": (lambda e: e.append(entry("a.png", "test", ["x"])), "a.png is listed twice, in test and train"),
    "no name": (lambda e: e[0].pop("filename"), "image 0 has no 'filename'"),
    "no file": (lambda e: e[0].update(filename="z.png"), "names z.png, which is neither in"),
    "a file elsewhere": (lambda e: e[0].update(filename="../z.png"), "image 0 lies outside the folder: '../z.png'"),
    "no test image": (lambda e: e.pop(), "has no image of the split test"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path, name):
    change, message = WRONG[name]
    changed(written(tmp_path), change)
    with pytest.raises(ValueError, match=message):
        pairs.read(tmp_path)


def test_damaged_files_are_named(tmp_path):
    written(tmp_path)
    (tmp_path / "images" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(ValueError, match=r"cannot decode the image .*b\.png"):
        pairs.read(tmp_path)
    Image.new("RGB", (9, 8)).save(tmp_path / "images" / "b.png")
    with pytest.raises(ValueError, match=r"images differ in size .*data\.image_size"):
        pairs.read(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json is no JSON"):
        pairs.read(tmp_path)
    (tmp_path / "dataset.json").write_text('{"images": 3}')
    with pytest.raises(ValueError, match="has no list 'images'"):
        pairs.read(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"dataset\.json does not exist; pass pairs:PATH"):
        pairs.read(tmp_path)


def test_arrays_that_do_not_fit_are_refused():
    images, captions = np.zeros((2, 4, 4, 1), np.uint8), [["a"], ["b", "c"]]
    assert pairs.from_arrays((images, captions), (images, captions)).train.owners.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="test has 2 images and captions of 1"):
        pairs.from_arrays((images, captions), (images, captions[:1]))
    with pytest.raises(ValueError, match=r"test images are float64 \[2, 4, 4, 1\]; give uint8"):
        pairs.from_arrays((images, captions), (images / 2, captions))
    with pytest.raises(ValueError, match="train image 1 has no caption"):
        pairs.from_arrays((images, [["a"], "text"]), (images, captions))


def test_hashed_captions_are_near_where_they_share_words():
    a, b, c, same = text.embed("hashed", ["a red ball", "the red ball", "green trees", "A  RED ball"])
    assert a @ b > 0.5 > 0.2 > a @ c
    np.testing.assert_array_equal(a, same)
    np.testing.assert_allclose(np.linalg.norm(np.stack([a, b, c]), axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="no text encoder is called 'bert'; choose hashed, wordllama, or file:NPZ"):
        text.embed("bert", ["a"])


def test_captions_are_embedded_once(tmp_path, monkeypatch):
    calls = []

    def counting(captions):
        calls.append(len(captions))
        return np.full((len(captions), 2), len(calls), np.float32)

    monkeypatch.setitem(text.ENCODERS, "counting", counting)
    monkeypatch.setattr(text, "KEPT", str(tmp_path / "texts"))
    np.testing.assert_array_equal(text.embed("counting", ["a", "b"]), np.ones((2, 2)))
    assert not (tmp_path / "texts").exists()  # what took a moment is not kept
    monkeypatch.setattr(text, "KEPT_ABOVE", 0.0)
    first = text.embed("counting", ["a", "b"])
    np.testing.assert_array_equal(text.embed("counting", ["a", "b"]), first)
    assert calls == [2, 2]
    text.embed("counting", ["b", "a"])  # other captions, and so are those of another order
    assert calls == [2, 2, 2]
    for file in (tmp_path / "texts").iterdir():
        file.write_bytes(file.read_bytes()[:-50])
    np.testing.assert_array_equal(text.embed("counting", ["a", "b"]), np.full((2, 2), 4))
    monkeypatch.setattr(text, "KEPT", str(tmp_path / "texts" / file.name / "below a file"))
    np.testing.assert_array_equal(text.embed("counting", ["a", "b"]), np.full((2, 2), 5))


def test_embeddings_of_ones_own_are_looked_up(tmp_path):
    path, rows = tmp_path / "bert.npz", np.random.default_rng(0).normal(size=(3, 5))
    np.savez(path, captions=["a", "b", "c"], embeddings=rows)
    np.testing.assert_allclose(text.embed(f"file:{path}", ["c", "a", "c"]), rows[[2, 0, 2]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"no embedding of the caption 'd' \(2 are missing\)"):
        text.embed(f"file:{path}", ["a", "d", "e"])
    np.savez(path, captions=["a", "b"], embeddings=rows)
    with pytest.raises(ValueError, match=r"2 captions and embeddings float64 \[3, 5\]"):
        text.embed(f"file:{path}", ["a"])
    np.savez(path, captions=["a"])
    with pytest.raises(ValueError, match="has no array embeddings"):
        text.embed(f"file:{path}", ["a"])
    with pytest.raises(FileNotFoundError):
        text.embed(f"file:{tmp_path / 'none.npz'}", ["a"])


def test_wordllama_is_read_from_its_wheel():
    pytest.importorskip("tokenizers")
    dog, puppy, truck = text.embed("wordllama", ["a dog", "a puppy", "a fire truck"])
    assert dog.shape == (256,) and dog @ puppy > dog @ truck
    np.testing.assert_allclose(np.linalg.norm(dog), 1, rtol=1e-5)


def test_an_encoder_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wordllama is not installed: pip install 'jaxdd\[text\]', or choose hashed"):
        text.embed("wordllama", ["a"])
