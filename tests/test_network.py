"""Networks that are trained on a set and kept; sets from one format to another."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxdd
from jaxdd import Card, Distilled, Recipe, data, formats
from jaxdd.app import sets
from jaxdd.core.distilled import hard_labels
from jaxdd.errors import SettingError
from jaxdd.io.files import plain
from jaxdd.io.integrity import DamagedError
from jaxdd.main import main
from jaxdd.models import MLP, ConvNet

RECIPE = Recipe(epochs=20, lr=0.05, augment="none")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", data_dir=str(tmp_path_factory.mktemp("tfds")))


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """A set of two real images of each digit, as a run saves it."""
    rows = np.concatenate([np.flatnonzero(digits.train.labels == digit)[:2] for digit in range(10)])
    config = {"data": {"name": "digits"}, "model": {"name": "mlp", "width": 8, "depth": 1}, "seed": 4}
    card = Card("digits", digits.class_names, "hard", digits.normalization, plain(RECIPE), {"config": config})
    path = tmp_path_factory.mktemp("set") / "distilled.npz"
    images = digits.normalization(digits.train.images[rows])
    Distilled(images, hard_labels(digits.train.labels[rows], 10), np.float32(0.05)).save(path, card)
    return path


@pytest.mark.parametrize(
    "config", [MLP(width=8, depth=1), ConvNet(width=4, depth=1, norm="batch")], ids=["mlp", "batch"]
)
def test_a_network_comes_back_from_its_folder(saved, digits, tmp_path, config):
    network = jaxdd.train_network(*Distilled.load(saved), config, seed=1)
    network.save(tmp_path / "net", accuracy=0.5)
    again = jaxdd.Network.load(tmp_path / "net")
    assert again.config == config and again.class_names == digits.class_names and again.image_shape == (8, 8, 1)
    assert jax.tree.structure(again.params) == jax.tree.structure(network.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, network.params)
    logits = network.model.apply(network.params, digits.normalization(digits.test.images))
    odds = np.exp(np.asarray(logits, np.float64))
    found = jaxdd.predict(tmp_path / "net", digits.test.images)
    np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    right = np.mean(found.argmax(1) == digits.test.labels)
    assert right > 0.4 and again.accuracy(digits.test_set()) == pytest.approx(right)
    assert json.loads((tmp_path / "net" / "network.json").read_text())["accuracy"] == 0.5
    network.save(tmp_path / "net")  # over itself


@pytest.mark.parametrize(("flag", "told"), [("--quiet", ""), ("", "evaluate")])
def test_a_quiet_command_tells_results_alone(saved, flag, told, capfd):
    words = ["evaluate", str(saved), "--networks", "1", "--recipe.epochs", "1", "--no-random-real", *flag.split()]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "sets of digits" in out and err.startswith(told) and bool(err) == bool(told)


def test_the_command_trains_the_network_of_the_set_and_says_how_good_it_is(saved, digits, tmp_path, capsys):
    assert main(["train", str(saved), "--out", str(tmp_path / "net")]) == 0
    network = jaxdd.Network.load(tmp_path / "net")
    assert network.config == MLP(width=8, depth=1)
    expected = jaxdd.train_network(*Distilled.load(saved), network.config, seed=4)
    jax.tree.map(np.testing.assert_array_equal, network.params, expected.params)
    right = np.mean(jaxdd.predict(network, digits.test.images).argmax(1) == digits.test.labels)
    out = capsys.readouterr().out
    assert f"mlp (width 8, depth 1), trained on {saved}: {100 * right:.1f} % of the test images right" in out
    assert main(["train", str(saved), "--out", str(tmp_path / "other"), "--model", "mlp:width=2", "--no-score"]) == 0
    assert jaxdd.Network.load(tmp_path / "other").config == MLP(width=2)
    assert json.loads((tmp_path / "other" / "network.json").read_text())["accuracy"] is None


@pytest.mark.parametrize("words", [["train"], ["evaluate", "--networks", "1", "--no-random-real"]])
def test_a_set_of_another_dataset_is_doubted(saved, tmp_path, caplog, capsys, words):
    distilled, card = Distilled.load(saved)
    distilled.save(tmp_path / "d.npz", dataclasses.replace(card, dataset="mnist"))
    assert main([*words, str(tmp_path / "d.npz"), "--recipe.epochs", "1", "--out", str(tmp_path / "out")]) == 0
    assert "d: its card says that it is of mnist, and the data are digits" in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize("damage", ["network.json", "arrays"])
def test_a_damaged_network_is_refused(saved, tmp_path, damage):
    jaxdd.train_network(*Distilled.load(saved), MLP(width=2, depth=1), Recipe(epochs=1)).save(tmp_path / "net")
    if damage == "arrays":
        path = tmp_path / "net" / "network.json"
        record = json.loads(path.read_text())
        other = jaxdd.train_network(*Distilled.load(saved), MLP(width=2, depth=1), Recipe(epochs=1), seed=1)
        other.save(tmp_path / "other")
        (tmp_path / "net" / "arrays").rename(tmp_path / "aside")
        (tmp_path / "other" / "arrays").rename(tmp_path / "net" / "arrays")
        assert record["names"]
    else:
        path = tmp_path / "net" / "network.json"
        path.write_text(path.read_text().replace("digits", "digits").replace('"width": 2', '"width": 3'))
    with pytest.raises(DamagedError, match="train it again"):
        jaxdd.Network.load(tmp_path / "net")


def test_a_network_of_ones_own_is_run_only_where_it_is_named(saved, digits, tmp_path):
    source = tmp_path / "networks.py"
    code = "import flax.linen as nn\nsmall = lambda shape, classes: nn.Sequential([lambda x: x.reshape(len(x), -1), "
    source.write_text(code + "nn.Dense(classes)])\n")
    own = jaxdd.models.Own(f"{source}:small")
    jaxdd.train_network(*Distilled.load(saved), own, Recipe(epochs=1)).save(tmp_path / "net")
    source.write_text("raise SystemExit('run')\n")
    with pytest.raises(SettingError, match="what a file says is not run unasked; give jaxdd.Network.load.*Own"):
        jaxdd.predict(tmp_path / "net", digits.test.images)
    with pytest.raises(SettingError, match="networks.py:small has changed since .*net was written"):
        jaxdd.Network.load(tmp_path / "net", own)
    source.write_text(code + "nn.Dense(classes)])\n")
    with pytest.raises(SettingError, match=r"holds the network .*networks.py:small, not mlp"):
        jaxdd.Network.load(tmp_path / "net", MLP())
    found = jaxdd.predict(jaxdd.Network.load(tmp_path / "net", own), digits.test.images)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_what_a_killed_training_left_is_written_over(saved, tmp_path):
    network = jaxdd.train_network(*Distilled.load(saved), MLP(width=2, depth=1), Recipe(epochs=1))
    (tmp_path / "net" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "net" / ".network.json.0a1b2c3d.partial").write_text("{")
    network.save(tmp_path / "net")
    assert jaxdd.Network.load(tmp_path / "net").config == network.config


@pytest.mark.parametrize("to", ["set.pt", "png"])
def test_other_formats_of_a_set_tell_its_network_as_well(saved, tmp_path, to):
    out = str(tmp_path / to)
    assert main(["convert", str(saved), out, *(["--to", "png"] if to == "png" else [])]) == 0
    said = sets.defaults(out)
    assert said == sets.defaults(str(saved)) and said.model == MLP(width=8, depth=1) and said.seed == 4


def test_a_tfds_directory_keeps_its_own_readme(saved, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert main(["convert", str(saved), str(tmp_path), "--to", "tfds"]) == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "digits" in (tmp_path / "digits_distilled" / "1.0.0" / "README.md").read_text()
    assert formats.detect(tmp_path) == "tfds"


def test_the_folder_of_a_run_is_told_from_a_set(saved):
    with pytest.raises(SettingError, match="is the folder of a run; give its set, .*distilled.npz"):
        formats.detect(saved.parent)


def test_what_is_no_network_or_no_image_is_refused(saved, tmp_path, capsys):
    network = jaxdd.train_network(*Distilled.load(saved), MLP(width=2, depth=1), Recipe(epochs=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for folder, message in (("full", "holds something else"), ("full/thesis.tex", "is a file")):
        with pytest.raises(SettingError, match=message):
            network.save(tmp_path / folder)
        assert main(["train", str(saved), "--out", str(tmp_path / folder)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SettingError, match="holds no network; give the folder that jaxdd train --out wrote"):
        jaxdd.predict(tmp_path, np.zeros((1, 8, 8, 1), np.uint8))
    for images in (np.zeros((1, 8, 8, 1)), np.zeros((1, 9, 8, 1), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)):
        with pytest.raises(SettingError, match="this network takes uint8 images"):
            jaxdd.predict(network, images)
    with pytest.raises(SettingError, match=r"not finite; lower recipe.lr"):
        jaxdd.train_network(*Distilled.load(saved), MLP(width=2, depth=1), Recipe(epochs=30, lr=1e30))
    for words in ([], [str(saved), str(saved)], [str(saved), "--model", "mlp", "lenet"]):
        assert main(["train", *words]) == 2
        assert "train needs one set and one network" in capsys.readouterr().err


def test_a_set_is_converted_and_comes_back(saved, tmp_path, capsys):
    there, back = tmp_path / "new" / "set.safetensors", tmp_path / "back.npz"
    assert main(["convert", str(saved), str(there)]) == 0 and main(["convert", str(there), str(back)]) == 0
    assert back.read_bytes() == saved.read_bytes()
    card = (tmp_path / "new" / "set.safetensors.md").read_text()
    assert card.startswith("---\n") and "set.safetensors" in card
    assert f"card: {there}.md, set: {there}" in capsys.readouterr().out
    assert main(["convert", str(saved), str(tmp_path / "pictures"), "--to", "png"]) == 0
    assert len([*(tmp_path / "pictures").glob("*/*.png")]) == 20 and (tmp_path / "pictures" / "README.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert", "convert needs a set and a file"),
        ("convert SET set.xyz", "its ending names no format; name one of npz"),
        ("convert SET set --to gif", "format is 'gif'; choose one of npz"),
        ("convert nothing.npz set.npz", "nothing.npz: No such file"),
        ("convert SET pictures --to png --read.factor 0", "read.factor is 0"),
    ],
)
def test_what_cannot_be_converted_is_refused(saved, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([str(saved) if word == "SET" else word for word in words.split()]) == 2
    assert message in capsys.readouterr().err
