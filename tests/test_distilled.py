import dataclasses
import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.app.sets import defaults
from jaxdd.core.distilled import HARD_LABEL_SCALE, Card, Distilled, hard_labels
from jaxdd.core.normalization import ZCA, Standardize
from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig
from jaxdd.evaluation import EvaluateConfig
from jaxdd.io.files import atomic_write, plain, to_json, write_json
from jaxdd.models import ConvNet

NAMES = ("cat", "dog", "größe")
VERSION_1 = {kind: Path(__file__).parent / "data" / f"distilled_v1_{kind}.npz" for kind in ("logits", "hard")}


def real_images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)


def a_card(label_kind="logits", normalization=None, **changes):
    card = Card(
        dataset="pets",
        class_names=NAMES,
        label_kind=label_kind,
        normalization=normalization or Standardize.fit(real_images()),
        recipe={"epochs": 1000, "lr": 0.01, "augment": "color_crop"},
        provenance={"method": "mtt", "seed": 3, "step": 40, "config": {"ipc": 2, "image_lr": None}},
    )
    return dataclasses.replace(card, **changes)


def a_set(labels=None, M=6):
    images, labels_key = jax.random.split(jax.random.key(0))
    if labels is None:
        labels = jax.random.normal(labels_key, (M, 3))
    return Distilled(jax.random.normal(images, (M, 4, 5, 3)), labels, jnp.asarray(0.0123))


def resave(path, **changes):
    """Write the file again with some arrays replaced, or left out where the value is None."""
    with np.load(path) as file:
        arrays = {**dict(file), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_hard_labels_are_exactly_one_hot(num_classes):
    classes = np.arange(num_classes)[::-1].copy()
    labels = hard_labels(classes, num_classes)
    one_hot = np.eye(num_classes, dtype=np.float32)[classes]
    np.testing.assert_array_equal(labels, HARD_LABEL_SCALE * one_hot)
    distilled = Distilled(jnp.zeros((num_classes, 1, 1, 1)), labels, jnp.asarray(0.1))
    np.testing.assert_array_equal(distilled.targets, one_hot)
    np.testing.assert_array_equal(jax.jit(lambda d: d.targets)(distilled), one_hot)
    # numpy keeps the subnormal numbers that XLA flushes to zero
    scores = np.asarray(labels)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(exponentials / exponentials.sum(axis=1, keepdims=True), one_hot)
    assert np.isfinite(jax.nn.log_softmax(labels)).all()


def test_a_hard_label_does_not_move():
    labels = hard_labels(np.array([0, 2]), 3)
    gradient = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * jnp.arange(6.0).reshape(2, 3)))(labels)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_is_a_pytree():
    distilled = a_set()
    assert len(jax.tree.leaves(distilled)) == 3
    doubled = jax.jit(lambda d: jax.tree.map(lambda x: 2 * x, d))(distilled)
    np.testing.assert_array_equal(doubled.images, 2 * distilled.images)


def test_items_are_counted_and_cut_by_class():
    distilled = a_set()
    assert distilled.size == 6
    by_class = distilled.by_class(3)
    assert by_class.images.shape == (3, 2, 4, 5, 3)
    np.testing.assert_array_equal(by_class.images.reshape(6, 4, 5, 3), distilled.images)
    np.testing.assert_array_equal(by_class.labels[1], distilled.labels[2:4])
    np.testing.assert_array_equal(by_class.lr, np.full(3, distilled.lr))


def test_inputs_and_labels_may_be_trees():
    tree = {"x": jnp.arange(12.0).reshape(6, 2), "t": jnp.arange(6.0)}
    distilled = Distilled(tree, {"y": jnp.zeros((6, 4))}, jnp.asarray(0.1))
    assert distilled.size == 6
    by_class = distilled.by_class(2)
    assert {name: x.shape for name, x in by_class.inputs.items()} == {"x": (2, 3, 2), "t": (2, 3)}
    np.testing.assert_array_equal(by_class.inputs["t"], [[0, 1, 2], [3, 4, 5]])
    assert by_class.labels["y"].shape == (2, 3, 4) and by_class.lr.shape == (2,)


@pytest.mark.parametrize("kind", [Standardize, ZCA])
def test_logits_round_trip_exactly(tmp_path, kind):
    distilled, card = a_set(), a_card(normalization=kind.fit(real_images()))
    distilled.save(tmp_path / "distilled.npz", card)
    loaded, loaded_card = Distilled.load(tmp_path / "distilled.npz")
    for ours, theirs in zip(distilled, loaded, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert theirs.dtype == jnp.float32
    for field in ("dataset", "class_names", "label_kind", "recipe", "provenance"):
        assert getattr(loaded_card, field) == getattr(card, field)
    assert type(loaded_card.normalization) is kind
    for ours, theirs in zip(card.normalization, loaded_card.normalization, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_hard_labels_round_trip_exactly(tmp_path):
    distilled = a_set(hard_labels(np.array([0, 0, 1, 2, 2, 1]), 3))
    distilled.save(tmp_path / "d.npz", a_card("hard"))
    with np.load(tmp_path / "d.npz", allow_pickle=False) as file:
        assert file["labels"].dtype == np.int32
        assert file["labels"].tolist() == [0, 0, 1, 2, 2, 1]
    loaded, card = Distilled.load(tmp_path / "d.npz")
    assert card.label_kind == "hard"
    np.testing.assert_array_equal(loaded.labels, distilled.labels)


def test_probabilities_come_back_as_the_same_targets(tmp_path):
    labels = jnp.asarray([[0.0, 1.0, -2.0], [0.0, 200.0, 0.0], [-90.0, 3.0, 3.0]])
    distilled = a_set(labels, M=3)
    distilled.save(tmp_path / "d.npz", a_card("probabilities"))
    with np.load(tmp_path / "d.npz") as file:
        exponentials = np.exp(np.asarray(labels, np.float64) - np.asarray(labels).max(axis=1, keepdims=True))
        oracle = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(file["labels"], oracle, rtol=1e-5, atol=1e-37)
    loaded, _ = Distilled.load(tmp_path / "d.npz")
    assert np.isfinite(loaded.labels).all()
    np.testing.assert_allclose(loaded.targets, oracle, rtol=1e-5, atol=1e-37)
    np.testing.assert_array_equal(loaded.targets[1], [0, 1, 0])


def test_saving_twice_makes_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        a_set().save(tmp_path / name, a_card())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def names_in(tree):
    """List the keys of nested dicts."""
    return [] if not isinstance(tree, dict) else [*tree, *(name for value in tree.values() for name in names_in(value))]


@pytest.mark.parametrize("kind", VERSION_1)
def test_a_set_saved_by_version_1_loads(kind):
    with np.load(VERSION_1[kind], allow_pickle=False) as file:
        stored = dict(file)
    assert stored["format_version"] == 1 and "normalisation_mean" in stored
    distilled, card = Distilled.load(VERSION_1[kind])
    np.testing.assert_array_equal(distilled.images, stored["images"])
    np.testing.assert_array_equal(distilled.lr, stored["lr"])
    hard = HARD_LABEL_SCALE * np.eye(10, dtype=np.float32)
    expected = hard[stored["labels"]] if kind == "hard" else stored["labels"]
    np.testing.assert_array_equal(distilled.labels, expected)
    assert all(array.dtype == jnp.float32 for array in distilled)
    assert (card.dataset, card.class_names, card.label_kind) == ("digits", tuple("0123456789"), kind)
    assert type(card.normalization) is Standardize
    np.testing.assert_array_equal(card.normalization.mean, stored["normalisation_mean"])
    np.testing.assert_array_equal(card.normalization.std, stored["normalisation_std"])
    assert card.recipe == json.loads(str(stored["recipe"]))


@pytest.mark.parametrize(("kind", "method", "step"), [("logits", "datm", 20), ("hard", "infmatch", 20)])
def test_the_provenance_of_version_1_is_spelled_as_now(kind, method, step):
    written = json.loads(str(np.load(VERSION_1[kind])["provenance"]))
    provenance = Distilled.load(VERSION_1[kind])[1].provenance
    assert provenance["config"]["data"]["normalization"] == "standard"
    assert provenance["config"]["method"]["name"] == method and provenance["step"] == step
    old = written["config"]["method"]
    assert provenance["config"]["method"]["image_optimizer"] == old["image_optimiser"]
    assert provenance["config"]["method"]["label_optimizer"] == old["label_optimiser"]
    # Names are spelled anew, nothing else is changed.
    respelled = to_json(written).replace("normalisation", "normalization").replace("optimiser", "optimizer")
    assert provenance == json.loads(respelled)
    assert any("optimiser" in name for name in names_in(written))
    assert not any("isation" in name or "optimiser" in name for name in names_in(provenance))


@pytest.mark.parametrize("kind", VERSION_1)
def test_a_set_saved_by_version_1_can_be_scored_as_it_was(kind):
    command = defaults(str(VERSION_1[kind]))
    assert command.data == DataConfig(name="digits", validation=0.1, normalization="standard")
    assert command.model == ConvNet(width=32, depth=2)
    assert command.recipe == Recipe(epochs=20, lr=0.01, augment="color_crop_cutout_scale_rotate")
    assert command.full_recipe == EvaluateConfig().full_recipe
    assert command.seed == 0


@pytest.mark.parametrize("kind", VERSION_1)
def test_a_set_of_version_1_is_saved_in_the_present_format(tmp_path, kind):
    distilled, card = Distilled.load(VERSION_1[kind])
    distilled.save(tmp_path / "d.npz", card)
    with np.load(tmp_path / "d.npz", allow_pickle=False) as file:
        assert file["format_version"] == 2
        assert not any(name.startswith("normalisation") for name in file)
    again, again_card = Distilled.load(tmp_path / "d.npz")
    for ours, theirs in zip(again, distilled, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again_card.recipe, again_card.provenance) == (card.recipe, card.provenance)


READ_WITH_NUMPY = """
import sys
import numpy as np
file = np.load(sys.argv[1], allow_pickle=False)
images, labels = file["images"], file["labels"]
names = file["class_names"][labels]
if file["normalization_kind"] == "standard":
    pictures = np.clip(images * file["normalization_std"] + file["normalization_mean"], 0, 1)
else:
    flat = images.reshape(len(images), -1)
    pictures = (flat @ file["normalization_unwhiten"] + file["normalization_mean"]).clip(0, 1).reshape(images.shape)
np.savez(sys.argv[2], names=names, pictures=pictures)
assert not any(name.startswith("jax") for name in sys.modules)
"""


@pytest.mark.parametrize("kind", [Standardize, ZCA])
def test_the_file_is_readable_with_numpy_alone(tmp_path, kind):
    pictures = real_images(1)[:6]
    card = a_card("hard", kind.fit(real_images()))
    distilled = Distilled(card.normalization(pictures), hard_labels(np.array([0, 1, 2, 0, 1, 2]), 3), jnp.asarray(0.1))
    distilled.save(tmp_path / "d.npz", card)
    subprocess.run(
        [sys.executable, "-c", READ_WITH_NUMPY, tmp_path / "d.npz", tmp_path / "read.npz"], check=True, cwd=tmp_path
    )
    with np.load(tmp_path / "read.npz") as read:
        assert read["names"].tolist() == [*NAMES, *NAMES]
        np.testing.assert_allclose(read["pictures"], pictures / 255, atol=1e-5)


def test_saving_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "d.npz"
    with pytest.raises(ValueError, match="the first at 0.*label_kind 'logits'"):
        a_set().save(path, a_card("hard"))
    almost = hard_labels(np.array([0, 0, 1, 2, 2, 1]), 3).at[4, 0].set(1e-3)
    with pytest.raises(ValueError, match="1 of 6 images, the first at 4"):
        a_set(almost).save(path, a_card("hard"))
    with pytest.raises(ValueError, match="label_kind is 'soft'; choose one of hard, logits, probabilities"):
        a_set().save(path, a_card("soft"))
    with pytest.raises(ValueError, match=r"2 class names need labels \[6, 2\], got \[6, 3\]"):
        a_set().save(path, a_card(class_names=("a", "b")))
    with pytest.raises(ValueError, match=r"images must be \[M, H, W, K\]"):
        a_set()._replace(inputs=jnp.zeros((6, 60))).save(path, a_card())
    with pytest.raises(ValueError, match="lr must be one number"):
        a_set()._replace(lr=jnp.zeros((2,))).save(path, a_card())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None, "recipe": None}, r"lacks the arrays \['images', 'recipe'\]"),
        ({"format_version": None}, "no array 'format_version'"),
        ({"format_version": np.int32(7)}, "format version is 7"),
        ({"normalization_std": None}, "'standard' normalization lacks"),
        ({"normalization_kind": np.str_("pca")}, "normalization is 'pca'; choose one of standard, zca"),
        ({"label_kind": np.str_("fuzzy")}, "label_kind is 'fuzzy'; choose one of hard, logits, probabilities"),
        ({"label_kind": np.str_("hard")}, r"hard labels must be \[M\] class indices"),
        ({"label_kind": np.str_("hard"), "labels": np.array([0, 1, 2, 3, 0, 0])}, "labels run from 0 to 3"),
        ({"labels": np.zeros((5, 3), np.float32)}, r"got \[5, 3\]"),
        ({"images": np.zeros((6, 3), np.float32)}, "images must be"),
        ({"images": np.array([None])}, "damaged"),
        ({"recipe": np.str_("{")}, "Expecting property name"),
    ],
)
def test_loading_names_the_file_and_what_is_wrong(tmp_path, changes, message):
    path = tmp_path / "broken.npz"
    a_set().save(path, a_card())
    resave(path, **changes)
    with pytest.raises(ValueError, match=r"broken\.npz: .*" + message):
        Distilled.load(path)


def test_loading_refuses_files_of_other_kinds(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("images")
    (tmp_path / "empty.npz").touch()
    for name in ("array.npy", "text.npz", "empty.npz"):
        with pytest.raises(ValueError, match=f"{name}: it is not an npz file"):
            Distilled.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Distilled.load(tmp_path / "absent.npz")


def test_a_damaged_file_is_never_taken_for_a_set(tmp_path):
    whole, path = tmp_path / "whole.npz", tmp_path / "damaged.npz"
    a_set().save(whole, a_card())
    content = whole.read_bytes()
    for length in range(2, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"damaged\.npz: the npz file is truncated or damaged"):
            Distilled.load(path)
    start = content.index(np.asarray(a_set().images).tobytes())
    for position in range(start, start + 1000, 97):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ValueError, match="truncated or damaged"):
            Distilled.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "d.npz"
    a_set().save(path, a_card())
    old = path.read_bytes()

    def full_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        a_set(M=3).save(path, a_card())
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_makes_folders_and_files_that_others_may_read(tmp_path):
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    plain_file = tmp_path / "plain.txt"
    plain_file.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain_file.stat().st_mode)


class Pair(NamedTuple):
    a: float
    b: object


@dataclasses.dataclass
class Settings:
    lr: float
    inner: object


def test_plain_takes_everything_a_config_holds():
    value = {
        1: Pair(float("inf"), np.float32(0.5)),
        "settings": Settings(np.float64("nan"), (Path("a/b"), jnp.arange(2))),
        "array": np.array([-np.inf, 1]),
        "flags": [True, np.bool_(False), None, "NaN"],
    }
    assert plain(value) == {
        "1": {"a": "Infinity", "b": 0.5},
        "settings": {"lr": "NaN", "inner": ["a/b", [0, 1]]},
        "array": ["-Infinity", 1.0],
        "flags": [True, False, None, "NaN"],
    }
    assert json.loads(to_json(value)) == plain(value)


def test_write_json_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"mean": 0.5, "name": "größe"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"mean": 0.5, "name": "größe"}
    with pytest.raises(TypeError):
        write_json(path, {"mean": io.BytesIO()})
    assert json.loads(path.read_text(encoding="utf-8"))["mean"] == 0.5
