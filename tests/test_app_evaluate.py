"""`jaxdd evaluate`: a saved set, scored again."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdd
from jaxdd import Card, Distilled, EvaluateConfig, Recipe, classification, data, formats, models, train_network
from jaxdd.app.command_line import read
from jaxdd.app.evaluate import Evaluate, evaluate
from jaxdd.core.distilled import hard_labels
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.io.files import plain
from jaxdd.main import main
from jaxdd.models import MLP

RECIPE = Recipe(epochs=20, lr=0.05, augment="none")


def parse(words):
    """Read a command line of `evaluate`."""
    return read(["evaluate", *words])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", data_dir=str(tmp_path_factory.mktemp("tfds")))


@pytest.fixture
def saved(digits, tmp_path):
    """A set of one real image of each digit, as a run saves it; other names and provenances on demand."""

    def save(images=None, provenance=None, **changes):
        firsts = [int(np.argmax(digits.train.labels == digit)) for digit in range(10)]
        images = digits.normalization(digits.train.images[firsts]) if images is None else images
        config = {"data": {"name": "digits"}, "model": {"name": "mlp", "width": 4, "depth": 1}, "method": {"ipc": 1}}
        card = Card(
            dataset="digits",
            class_names=digits.class_names,
            label_kind="hard",
            normalization=digits.normalization,
            recipe=plain(RECIPE),
            provenance={"config": config} if provenance is None else provenance,
        )
        path = tmp_path / "distilled.npz"
        distilled = Distilled(images, hard_labels(np.arange(10), 10), np.float32(0.05))
        distilled.save(path, dataclasses.replace(card, **changes))
        return str(path)

    return save


def test_a_saved_set_is_scored_with_another_network(saved, digits, tmp_path, capsys):
    path, out = saved(), tmp_path / "new" / "scores"
    flags = ["--model.width", "8", "--networks", "2", "--seed", "3", "--out", str(out)]
    assert main(["evaluate", *flags, path]) == 0
    task = classification(models.build(MLP(width=8, depth=1), digits.image_shape, 10), 10)
    config = jaxdd.EvaluateConfig(networks=2, recipe=RECIPE, full_data=False)
    expected = jaxdd.evaluate(task, digits, Distilled.load(path)[0], config, seed=3)
    for scores in expected.values():
        del scores["class_accuracy"]
    name = Path(path).parent.name
    results = json.loads((out / "table.json").read_text())
    assert [cell["accuracy"] for cell in results["cells"]] == [expected["distilled"], expected["random_real"]]
    assert results["sets"] == {name: path} and results["dataset"] == "digits"
    assert results["networks"] == {"mlp (width 8, depth 1)": plain(MLP(width=8, depth=1))}
    assert expected["distilled"]["mean"] > 0.2  # chance is a tenth
    head, titles, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{path}: sets of digits; test accuracy in per cent"
    assert titles.split("  ")[-1] == "mlp (width 8, depth 1)"
    for line, score, label in zip(lines, expected.values(), (name, "random real"), strict=False):
        assert line.startswith(label) and line.endswith(f"{100 * score['mean']:.1f} ± {100 * score['std']:.1f}")
    assert (out / "table.md").read_text().count("\n") == 4
    assert (out / "table.csv").read_text().splitlines()[1].startswith(f"{name},hard,none,1,257.0,")
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")


def test_defaults_are_those_of_the_card(saved):
    path = saved()
    expected = Evaluate(sets=(path,), model=MLP(width=4, depth=1), recipe=RECIPE)
    assert parse([path]) == expected
    assert parse(["--networks", "2", path, "--recipe.epochs", "7"]) == dataclasses.replace(
        expected, networks=2, recipe=dataclasses.replace(RECIPE, epochs=7)
    )
    assert parse([path, "other.npz", "--seed", "1"]).sets == (path, "other.npz")


def test_a_network_that_a_card_names_is_not_run_unasked(saved, tmp_path, capsys):
    source = tmp_path / "networks.py"
    source.write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    path = saved(provenance={"config": {"model": {"name": "own", "source": f"{source}:small"}}})
    assert main(["evaluate", path]) == 2
    assert f"is not run unasked; name it by --model {source}:small" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_network_is_a_word(saved):
    path = saved()
    chosen = parse([path, "--model", "resnet10:width=8", "--model.norm", "group"])
    assert chosen.model == jaxdd.models.ResNet(depth=10, width=8, norm="group") and chosen.recipe == RECIPE
    assert parse(["--model=resnet10:width=8", "--model.norm=group", path]) == dataclasses.replace(
        chosen, networks_named=("resnet10:width=8",)
    )
    several = parse([path, "--model", "mlp:width=2", "lenet"])
    assert several.networks_named == ("mlp:width=2", "lenet") and several.model == MLP(width=2)
    with pytest.raises(SettingError, match="--model.width is for one network, and there are 2; give mlp:width=16"):
        parse([path, "--model.width", "8", "--model", "mlp", "lenet"])
    with pytest.raises(SettingError, match="no network is called 'resnet19'"):
        parse([path, "--model", "resnet19"])


def test_the_network_of_a_card_has_options_of_its_own(saved):
    path = saved(provenance={"config": {"model": {"name": "vit", "width": 8, "patch": 4}}})
    assert parse([path, "--model.patch", "2", "--networks", "3"]).model == jaxdd.models.ViT(width=8, patch=2)
    assert parse(["--model.patch=8", path]).model == jaxdd.models.ViT(width=8, patch=8)


def test_help_shows_the_settings_of_the_set(saved, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["evaluate", saved(), "--help"])
    words = capsys.readouterr().out.split()
    assert leaving.value.code == 0
    for option, default in (("--model.width", "4"), ("--model.depth", "1"), ("--recipe.epochs", "20")):
        assert words[words.index("(default:", words.index(option)) + 1] == f"{default})"


def test_a_folder_that_a_card_names_is_not_read_unasked(saved, tmp_path, capsys):
    folder = f"folder:{tmp_path}/photographs"
    path = saved(provenance={"config": {"data": {"name": folder}}})
    assert main(["evaluate", path]) == 2
    assert f"is not read unasked; name the folder by --data.name {folder}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as leaving:  # help reads nothing
        main(["evaluate", path, "--help"])
    assert leaving.value.code == 0
    assert parse([path, "--data.name", folder]).data.name == parse([path, f"--data.name={folder}"]).data.name == folder
    assert parse([path, "--data.name", "digits"]).data.name == "digits"


def test_a_set_without_provenance_names_its_dataset_at_least(saved):
    path = saved(provenance={}, recipe={}, dataset="fashion_mnist")
    assert parse([path]) == Evaluate(sets=(path,), data=jaxdd.DataConfig("fashion_mnist"))


def test_images_of_another_shape_are_refused(saved, capsys):
    path = saved(images=jax.numpy.zeros((10, 4, 4, 1)))
    assert main(["evaluate", path]) == 2
    message = capsys.readouterr().err
    assert "(4, 4, 1)" in message and "digits has (8, 8, 1) of 10; name its dataset with --data.name" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the distilled.npz of a run"),
        (b"not a zip", "it is not an npz file"),
        (b"PK\x03\x04 cut off", "truncated or damaged"),
    ],
)
def test_a_broken_file_is_named(tmp_path, capsys, content, message):
    path = tmp_path / "broken.npz"
    if content is not None:
        path.write_bytes(content)
    assert main(["evaluate", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxdd: ") and str(path) in error and message in error


def test_settings_of_another_version_are_named(saved, capsys):
    path = saved(provenance={"config": {"model": {"name": "mlp", "dropout": 0.5}}})
    assert main(["evaluate", path]) == 2
    error = capsys.readouterr().err
    assert "settings that this jaxdd does not have" in error and "dropout" in error


def test_a_file_has_to_be_given(capsys):
    assert main(["evaluate"]) == 2
    assert "a saved set is needed: jaxdd evaluate runs/digits_infmatch/distilled.npz" in capsys.readouterr().err


@pytest.mark.parametrize("learned, used", [(0.05, 0.2), (0.013, 0.013)])
def test_the_recipes_learning_rate_gives_way_to_a_learned_one_only(saved, monkeypatch, learned, used):
    path = saved()
    distilled, card = Distilled.load(path)
    distilled._replace(lr=np.float32(learned)).save(path, card)
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=0.2)
    results = evaluate(dataclasses.replace(parse([path]), recipe=recipe, networks=1))
    np.testing.assert_allclose([cell["lr"] for cell in results["cells"]], [used, 0.2], rtol=1e-6)


def test_a_learning_rate_that_no_file_gave_is_the_recipes(digits, tmp_path):
    theirs, ours = tmp_path / "data.pt", tmp_path / "data.npz"
    torch_file.save(theirs, (np.random.default_rng(0).random((10, 1, 8, 8), np.float32), np.arange(10)))
    distilled, card = formats.read(theirs, data=digits, factor=1, mean=(0.5,), std=(0.5,))
    formats.write(ours, distilled, card)
    asked = "--data.name digits --model mlp:width=2 --networks 1 --recipe.epochs 1 --recipe.augment none --recipe.lr"
    command, converted = (parse([str(path), *asked.split(), "0.2"]) for path in (theirs, ours))
    recipe = dataclasses.replace(EvaluateConfig().recipe, epochs=1, augment="none", lr=0.2)
    assert command.recipe == converted.recipe == recipe
    assert [cell["lr"] for cell in evaluate(converted)["cells"]] == pytest.approx([0.2, 0.2])
    network = train_network(distilled, card, MLP(width=2), recipe)
    learned = train_network(distilled._replace(lr=np.float32(0.2)), card, MLP(width=2), recipe)
    jax.tree.map(np.testing.assert_array_equal, network.params, learned.params)


def test_a_set_that_is_named_twice_is_one_row(saved):
    path = saved()
    command = parse([path, path, "--recipe.epochs", "1", "--networks", "1"])
    results = evaluate(command)
    assert [*results["sets"].values()] == [path]
    assert [cell["row"]["name"] for cell in results["cells"]] == [*results["sets"], "random real"]


def test_another_folder_of_data_than_the_authors_is_made_nowhere(saved, tmp_path, monkeypatch):
    config = {"data": {"name": "digits", "data_dir": str(tmp_path / "theirs")}}
    path = saved(provenance={"config": config})
    assert parse([path]).data == jaxdd.DataConfig("digits") and not (tmp_path / "theirs").exists()
    (tmp_path / "theirs").mkdir()
    assert parse([path]).data.data_dir == str(tmp_path / "theirs")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = saved(provenance={"config": {"data": {"name": "digits", "data_dir": "~/theirs"}}})
    assert parse([path]).data.data_dir == "~/theirs"


def test_seed_and_reference_recipe_are_those_of_the_run(saved):
    full = Recipe(epochs=7, lr=0.3, augment="none")
    config = {"data": {"name": "digits"}, "seed": 5, "evaluate": {"full_recipe": plain(full)}}
    command = parse([saved(provenance={"config": config})])
    assert (command.seed, command.full_recipe) == (5, full)
