import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from jaxdd import Network, data, formats, train_network, zoo
from jaxdd.app import labeled, sets
from jaxdd.app.command_line import read
from jaxdd.app.evaluate import evaluate
from jaxdd.core.distilled import Distilled
from jaxdd.core.normalization import Standardize, Unfitted, renormalized
from jaxdd.errors import SettingError
from jaxdd.main import main
from jaxdd.models import MLP
from tests.benchmarks.zoo import pack, without_paths

LARGEST = 5_000_000
"""Bytes of all sets together."""
DIGITS = [name for name in zoo.FILES if name.startswith("digits")]


def test_all_sets_together_are_small():
    assert 10 <= len(zoo.FILES)
    assert sum(file.stat().st_size for file in zoo.FILES.values()) < LARGEST


@pytest.mark.parametrize("name", zoo.FILES)
def test_a_card_tells_its_accuracy_and_no_path(name):
    distilled, card = zoo.load(name)
    accuracy = card.provenance["test_accuracy"]
    assert np.isclose(accuracy["mean"], np.mean(accuracy["runs"])) and len(accuracy["runs"]) == 5
    assert accuracy["mean"] > 2 / len(card.class_names)
    method = card.settings("method")
    assert distilled.size == method["ipc"] * method.get("factor", 1) ** 2 * len(card.class_names)
    assert card.dataset == name.split("-")[0] and name.endswith(f"ipc{method['ipc']}")
    assert "/" not in str({**card.config, "git": None}).replace("runs/", "")


def test_a_set_is_named_wherever_a_path_is():
    first = DIGITS[0]
    distilled, card = zoo.load(first)
    again, same = formats.read(f"zoo:{first}")
    assert np.array_equal(distilled.images, again.images) and card.provenance == same.provenance
    assert formats.detect(f"zoo:{first}") == "npz"
    assert sets.defaults(f"zoo:{first}").data.name == "digits"
    assert np.array_equal(zoo.load(f"zoo:{first}")[0].images, distilled.images)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(SettingError, match=f"did you mean .*{DIGITS[0]}"):
        zoo.load(DIGITS[0] + "0")
    with pytest.raises(SettingError, match="zoo:nothing: no set is called so. There are"):
        formats.read("zoo:nothing")


def test_the_list_names_every_set_and_its_accuracy(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in zoo.FILES:
        mean = 100 * zoo.load(name)[1].provenance["test_accuracy"]["mean"]
        assert any(line.split()[0] == name and f"{mean:.1f} ±" in line for line in shown.splitlines() if line.strip())


def test_a_packed_set_comes_back_rounded_and_without_paths(tmp_path):
    distilled, card = zoo.load(DIGITS[0])
    images = distilled.images + 1e-5
    pack(distilled._replace(inputs=images), card, tmp_path / "set.npz")
    again, same = Distilled.load(tmp_path / "set.npz")
    assert np.array_equal(again.images, np.asarray(images).astype(np.float16).astype(np.float32))
    assert same.provenance == card.provenance
    given = {"config": {"data": {"data_dir": "/x", "name": "digits"}, "experts": {"directory": "/y"}, "seed": 0}}
    assert without_paths(given)["config"] == {
        "data": {"data_dir": None, "name": "digits"},
        "experts": {"directory": None},
        "seed": 0,
    }
    assert given["config"]["data"]["data_dir"] == "/x"
    assert isinstance(same.normalization, Standardize)


@pytest.fixture(scope="module")
def whitened(tmp_path_factory):
    """A packed set in whitened images of digits, and these, in whose folder it lies."""
    folder = tmp_path_factory.mktemp("whitened")
    dataset = data.load("digits", data_dir=str(folder), normalization="zca")
    distilled, card = zoo.load(DIGITS[0])
    images = renormalized(distilled.images, card.normalization, dataset.normalization)
    pack(
        distilled._replace(inputs=images),
        dataclasses.replace(card, normalization=dataset.normalization),
        folder / "set.npz",
    )
    return folder / "set.npz", dataset


def test_a_packed_whitened_set_takes_its_matrices_from_the_data(whitened):
    path, dataset = whitened
    assert path.stat().st_size < 10_000
    again, same = formats.read(path)
    assert isinstance(same.normalization, Unfitted) and same.normalization.kind == "zca"
    for use in (same.normalization, same.normalization.inverse, lambda images: train_network(again, same, MLP())):
        with pytest.raises(SettingError, match="leaves out the matrix, which is fitted on the real train images again"):
            use(again.images)
    for given in (dataset, data.load("digits", data_dir=str(path.parent))):
        fitted = formats.read(path, data=given)[1].normalization
        for ours, theirs in zip(fitted, dataset.normalization, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(SettingError, match="whitened by those of digits, and the data given are stripes"):
        formats.read(path, data=dataclasses.replace(dataset, name="stripes"))
    other = data.load("digits", data_dir=str(path.parent), validation=0.2, split_seed=1)
    with pytest.raises(SettingError, match="split of validation 0.1, split_seed 0, .* have validation 0.2"):
        formats.read(path, data=other)
    np.testing.assert_array_equal(labeled.initial_set(str(path), dataset).images, again.images)


def test_the_card_of_a_packed_whitened_set_says_where_its_matrices_come_from(whitened, tmp_path, monkeypatch):
    path, dataset = whitened
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(path), "set.npz"]) == 0
    text = Path("set.npz.md").read_text()
    assert "times a matrix, fitted on the training images of digits, not in the file." in text
    [code] = re.findall("```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setattr("jaxdd.data.load", {"digits": dataset}.__getitem__)
    found = {}
    exec(code, found)
    np.testing.assert_array_equal(found["images"], formats.read(path)[0].images)
    pictures = dataset.test.images[:3]
    np.testing.assert_array_equal(found["normalize"](pictures), dataset.normalization(pictures))


@pytest.mark.slow
def test_a_packed_whitened_set_is_scored_as_a_file_that_has_its_matrices(whitened, tmp_path):
    path, dataset = whitened
    whole, (again, fitted) = tmp_path / "whole.npz", formats.read(path, data=dataset)
    again.save(whole, fitted)
    options = ["--no-random-real", "--networks", "1", "--quiet", "--data.normalization", "zca"]
    options += ["--data.data-dir", str(path.parent), "--recipe.epochs", "20"]
    one, other = (evaluate(read(["evaluate", str(file), *options]))["cells"][0] for file in (path, whole))
    assert one["accuracy"] == other["accuracy"] and one["row"]["normalization"] == other["row"]["normalization"]


def test_the_network_of_a_packed_whitened_set_has_its_matrices_where_nothing_is_scored(whitened, tmp_path):
    path, dataset = whitened
    options = ["--no-score", "--data.data-dir", str(path.parent), "--recipe.epochs", "2"]
    assert main(["train", str(path), *options, "--out", str(tmp_path / "net")]) == 0
    for ours, theirs in zip(Network.load(tmp_path / "net").normalization, dataset.normalization, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_digits_score_what_their_cards_say():
    (first, *others) = [f"zoo:{name}" for name in DIGITS if name.endswith("ipc1")]
    results = evaluate(read(["evaluate", first, *others, "--no-random-real", "--quiet"]))
    for cell, name in zip(results["cells"], [first, *others], strict=True):
        said = zoo.load(name)[1].provenance["test_accuracy"]
        assert abs(cell["accuracy"]["mean"] - said["mean"]) <= max(said["std"], 0.005), name


def test_the_smallest_set_scores_what_its_card_says():
    name = min(zoo.FILES, key=lambda name: zoo.FILES[name].stat().st_size)
    assert name in DIGITS  # whose data need no download
    results = evaluate(read(["evaluate", f"zoo:{name}", "--no-random-real", "--networks", "2", "--quiet"]))
    said = zoo.load(name)[1].provenance["test_accuracy"]
    # The first two networks of the five of the card.
    assert np.allclose(results["cells"][0]["accuracy"]["runs"], said["runs"][:2], atol=0.01)
