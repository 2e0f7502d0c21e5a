"""Runs on captioned images, from the command line to the page, and the file of distilled pairs."""

import csv
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdd
from jaxdd.app import captioned
from jaxdd.app.command_line import read
from jaxdd.app.config import load_config
from jaxdd.app.influence import Influence
from jaxdd.app.rehearsal import rehearse
from jaxdd.core import distilled_pairs
from jaxdd.core.distilled import Distilled
from jaxdd.core.distilled_pairs import PairsCard
from jaxdd.core.normalization import Standardize
from jaxdd.core.retrieval import RetrievalConfig
from jaxdd.data import pairs
from jaxdd.main import main
from jaxdd.methods import coresets, cross_covariance, mtt
from jaxdd.models import ConvNet
from jaxdd.models.dual import TextConfig

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230), "gray": (120, 120, 120)}
SHAPES = ("top", "left", "whole")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two colors each, named by their captions."""
    home = tmp_path_factory.mktemp("pictures")
    (home / "images").mkdir()
    rng, entries = np.random.default_rng(0), []
    for i in range(48):
        color, shape = [*COLORS][i % 4], SHAPES[i // 4 % 3]
        pixels = np.full((8, 8, 3), 255) - rng.integers(0, 40, (8, 8, 3))
        part = {"top": np.s_[:4], "left": np.s_[:, :4], "whole": np.s_[:]}[shape]
        pixels[part] = COLORS[color]
        Image.fromarray(pixels.astype(np.uint8)).save(home / "images" / f"{i}.png")
        captions = [f"{color} on the {shape}", f"a picture that is {color} at its {shape}"]
        split = "test" if i % 4 == 3 else "val" if i % 8 == 2 else "train"
        sentences = [{"raw": caption} for caption in captions]
        entries.append({"filename": f"{i}.png", "split": split, "sentences": sentences})
    (home / "dataset.json").write_text(json.dumps({"dataset": "colors", "images": entries}))
    return home


PRESETS = ["stamps_mtt", "stamps_iadd", "stamps_infmatch", "flickr30k_mtt", "flickr30k_infmatch"]
PLAIN = jaxdd.Recipe(epochs=2, batch=16, augment="none")
EXPERTS = jaxdd.ExpertsConfig(count=2, recipe=dataclasses.replace(PLAIN, schedule="constant"), snapshot_every=1)
START = jaxdd.Window(start=2)


def small(folder, workdir, method, **changes):
    config = jaxdd.Config(
        data=jaxdd.DataConfig(name=f"pairs:{folder}"),
        model=ConvNet(width=8, depth=1),
        text=TextConfig(embedding=6),
        retrieval=RetrievalConfig(temperature=0.2),
        method=method,
        experts=EXPERTS,
        evaluate=jaxdd.EvaluateConfig(networks=2, recipe=PLAIN, full_recipe=PLAIN, validate_every=2),
        workdir=str(workdir),
        quiet=True,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    config = small(folder, tmp_path_factory.mktemp("run"), cross_covariance.Config(ipc=5, steps=4, window=START))
    return config, jaxdd.run(config)


def test_a_run_tells_recalls_and_leaves_a_page_and_a_file(finished):
    config, results = finished
    found = results["distilled"]
    assert results["dataset"] == "colors" and results["stored_pixels"] == 5 * 8 * 8 * 3
    assert results["stored_text_features"] == 5 * 512 and results["stored_similarities"] == 0
    assert 0 <= found["mean"] <= 1 and {"IR@1", "TR@10"} <= {*found} and results["full_data"]["IR@1"]["runs"]
    page = (Path(config.workdir) / "report.html").read_text()
    assert "mean recall" in page and "Pairs before the first step" in page
    with Image.open(f"{config.workdir}/grid.png") as picture:
        assert picture.size[0] > 50
    distilled, card = distilled_pairs.load(f"{config.workdir}/distilled.npz")
    dataset = pairs.load(config.data)
    assert card.captions == tuple(dataset.nearest(distilled.inputs["text"])) and card.text_encoder == "hashed"
    assert set(card.captions) <= set(dataset.train.texts)
    assert card.settings("text")["embedding"] == 6 and card.settings("retrieval")["temperature"] == 0.2
    assert jaxdd.run(config)["distilled"] == found  # it is there


def test_saved_pairs_are_evaluated_to_the_same_recalls(finished, folder, capsys, tmp_path):
    config, results = finished
    file = f"{config.workdir}/distilled.npz"
    words = ["evaluate", file, "--data.name", f"pairs:{folder}", "--networks", "2", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "table")]) == 0
    stored = json.loads((tmp_path / "table" / "results.json").read_text())
    assert np.isclose(stored["scores"][file]["distilled"]["mean"], results["distilled"]["mean"])
    shown = capsys.readouterr().out
    mean, std = (100 * results["distilled"][name] for name in ("mean", "std"))
    assert f"{mean:5.1f} ± {std:.1f}" in shown and "pairs of colors" in shown
    assert main(words[:2]) == 2 and "--data.name pairs:" in capsys.readouterr().err
    assert main([*words, "--coreset"]) == 2 and "table.coreset is True" in capsys.readouterr().err
    assert main([*words, "--model", "mlp", "lenet"]) == 2
    assert "pairs are scored on one network at a time; name one of mlp, lenet" in capsys.readouterr().err
    assert read(words).model == ConvNet(width=8, depth=1)


@pytest.fixture
def elsewhere(finished, folder, tmp_path):
    """Save the pairs as if their texts had been embedded in a file of another machine, and that file in another place.

    Returns:
        The words that evaluate them, and those that name the file.
    """
    dataset = pairs.read(folder)
    captions = sorted({text for part in (dataset.train, dataset.validation, dataset.test) for text in part.texts})
    np.savez(tmp_path / "own.npz", captions=captions, embeddings=dataset.embedded(captions) / dataset.text_scale)
    distilled, card = distilled_pairs.load(f"{finished[0].workdir}/distilled.npz")
    encoder = f"file:{tmp_path / 'gone.npz'}"
    config = {**card.config, "text": {**card.settings("text"), "encoder": encoder}}
    card = dataclasses.replace(card, text_encoder=encoder, provenance={**card.provenance, "config": config})
    distilled_pairs.save(tmp_path / "set.npz", distilled, card)
    words = ["evaluate", str(tmp_path / "set.npz"), "--data.name", f"pairs:{folder}", "--networks", "2", "--quiet"]
    return words, ["--text-encoder", f"file:{tmp_path / 'own.npz'}"]


def test_embeddings_in_a_file_are_read_where_the_file_is_given(finished, elsewhere, capsys):
    words, given = elsewhere
    assert main(words) == 2 and "is not read unasked; give --text-encoder file:NPZ" in capsys.readouterr().err
    assert main(["evaluate", f"{finished[0].workdir}/distilled.npz", *words[2:], *given]) == 2
    assert "has texts of the encoder hashed; it is for pairs whose texts" in capsys.readouterr().err


def test_pairs_of_embeddings_in_a_file_have_the_same_recalls(finished, elsewhere, capsys):
    words, given = elsewhere
    assert main([*words, *given]) == 0
    mean, std = (100 * finished[1]["distilled"][name] for name in ("mean", "std"))
    assert f"{mean:5.1f} ± {std:.1f}" in capsys.readouterr().out


def test_runs_on_pairs_are_compared(finished, tmp_path):
    config, results = finished
    assert main(["compare", config.workdir, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Validation, colors" in page and f"{100 * results['distilled']['mean']:.1f}" in page


@pytest.mark.slow
def test_experts_and_learned_similarities_go_through_the_launcher(folder, tmp_path):
    method = mtt.Config(ipc=4, steps=2, student_steps=2, expert_snapshots=1, window=START, labels="learned")
    retrieval = RetrievalConfig(temperature=0.2, loss="wbce", rank=2)
    config = small(folder, tmp_path / "run", method, retrieval=retrieval)
    assert "an outer step" in rehearse(config)
    results = jaxdd.run(config)
    assert results["stored_similarities"] == 4 + 2 * 4 * 2
    distilled, card = distilled_pairs.load(f"{config.workdir}/distilled.npz")
    brighter = card.normalization._replace(mean=card.normalization.mean + np.float32(0.25))
    scaled = dataclasses.replace(card, normalization=brighter, text_scale=2 * card.text_scale)
    inputs = {
        "image": np.asarray(distilled.inputs["image"]) - 0.25 / card.normalization.std,
        "text": 2 * distilled.inputs["text"],
    }
    same = captioned.fitted("pairs", distilled._replace(inputs=inputs), scaled, pairs.load(config.data))
    np.testing.assert_allclose(same.inputs["image"], distilled.inputs["image"], atol=1e-5)
    np.testing.assert_allclose(same.inputs["text"], distilled.inputs["text"], rtol=1e-5)
    again = small(
        folder,
        tmp_path / "again",
        coresets.Config(ipc=4),
        initial=f"{config.workdir}/distilled.npz",
        retrieval=retrieval,
    )
    assert jaxdd.run(again)["ipc"] == 4
    first = distilled_pairs.load(tmp_path / "run" / "distilled.npz")[0]
    second = distilled_pairs.load(tmp_path / "again" / "distilled.npz")[0]
    assert np.array_equal(first.inputs["image"], second.inputs["image"])


def test_settings_of_labeled_images_are_refused(folder, tmp_path):
    config = small(folder, tmp_path, coresets.Config())
    with pytest.raises(ValueError, match=r"data.label_noise is 0.1, and it is for labeled images"):
        jaxdd.run(dataclasses.replace(config, data=dataclasses.replace(config.data, label_noise=0.1)))
    with pytest.raises(ValueError, match=r"retrieval is RetrievalConfig.*rank=2.*it is for captioned images"):
        jaxdd.run(jaxdd.Config(retrieval=RetrievalConfig(rank=2), workdir=str(tmp_path / "run")))
    with pytest.raises(ValueError, match="captioned images, which belong to no classes"):
        jaxdd.data.load(f"pairs:{folder}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"init": "correct"}, "method.init is 'correct'"), ({"labels": "soft"}, "method.labels is 'soft'")],
)
def test_what_pairs_do_not_have_is_refused_before_experts_are_trained(changes, message, folder, tmp_path):
    method = mtt.Config(ipc=2, expert_snapshots=1, window=START, **changes)
    with pytest.raises(ValueError, match=message):
        jaxdd.run(small(folder, tmp_path / "run", method))
    assert not (tmp_path / "run").exists()


def test_experts_of_other_heads_are_others(folder, tmp_path):
    config = small(folder, tmp_path, coresets.Config())
    keys = {
        str(captioned.network(c))
        for c in (
            config,
            dataclasses.replace(config, text=TextConfig(embedding=7)),
            dataclasses.replace(config, retrieval=RetrievalConfig(temperature=0.3)),
        )
    }
    assert len(keys) == 3
    one, other = (pairs.load(config.data, encoder).fingerprint() for encoder in ("hashed", "hashed"))
    assert one == other


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_a_number_of_pairs(name):
    config = load_config(f"{name}:pairs=50")
    assert config.method.ipc == 50 and config.workdir == f"runs/{name}_pairs50"


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_of_every_preset(name, folder, tmp_path):
    config = load_config(f"{name}:pairs=4")
    source = jaxdd.DataConfig(name=f"pairs:{folder}")
    recipe = dataclasses.replace(config.experts.recipe, batch=10, epochs=8)
    scoring = dataclasses.replace(config.evaluate, networks=1, recipe=PLAIN, full_recipe=PLAIN)
    changes = {"steps": 2, "window": jaxdd.Window(start=2)}
    config = dataclasses.replace(
        config,
        data=source,
        model=ConvNet(width=4, depth=1),
        experts=dataclasses.replace(config.experts, count=2, recipe=recipe, snapshot_every=5),
        method=dataclasses.replace(config.method, **changes),
        evaluate=scoring,
        workdir=str(tmp_path),
    )
    results = jaxdd.run(config)
    assert results["steps"] == 2 and np.isfinite(results["distilled"]["mean"])


@pytest.mark.slow
def test_pairs_are_ranked_by_their_influence_on_retrieval(finished, folder, tmp_path):
    config, _ = finished
    out = tmp_path / "scores.csv"
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    found = jaxdd.app.influence.influence(Influence(**shared, out=str(out)))
    dataset = pairs.read(folder)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(1, len(dataset.train.texts) + 1))
    assert found["page"] == out.with_suffix(".html") and "auc" not in found
    task = captioned.posed(dataset, config.model, config.text, config.retrieval)
    experts = jaxdd.train_experts(task, dataset, EXPERTS)
    how = jaxdd.InfluenceConfig(batch=16, weight_decay=PLAIN.weight_decay, momentum=PLAIN.momentum)
    expected = jaxdd.influence.scores(task, dataset.real_set(), dataset.validation_set(), experts, how)
    for row in rows:
        index = int(row["index"])
        owner = dataset.train.owners[index]
        assert (row["caption"], row["image"]) == (dataset.train.texts[index], dataset.train.names[owner])
        np.testing.assert_allclose(float(row["score"]), expected[index], rtol=1e-3, atol=1e-5)
    page = found["page"].read_text()
    assert "in batches of 16" in page and page.count("<figure") == 1 + 2 * 24
    first = rows[0]["caption"]
    assert f"{rows[0]['index']} {first}" in page


def drawn(count=3, rank=0):
    rng = np.random.default_rng(1)
    labels = {"diagonal": jnp.ones(count)}
    if rank:
        labels |= {side: jnp.asarray(rng.normal(size=(count, rank)), jnp.float32) for side in ("left", "right")}
    images, texts = rng.normal(size=(count, 4, 4, 3)), rng.normal(size=(count, 5))
    inputs = {"image": jnp.asarray(images, jnp.float32), "text": jnp.asarray(texts, jnp.float32)}
    normalization = Standardize(np.full(3, 0.5, np.float32), np.full(3, 0.2, np.float32))
    card = PairsCard("toys", ("a", "b", "ç"), "hashed", 0.3, normalization, {"epochs": 2}, {"step": 7})
    return Distilled(inputs, labels, jnp.float32(0.1)), card


@pytest.mark.parametrize(("rank", "rates"), [(0, "one"), (2, "two")])
def test_pairs_come_back_as_they_were_saved(tmp_path, rank, rates):
    distilled, card = drawn(rank=rank)
    if rates == "two":
        distilled = distilled._replace(lr={"image": jnp.float32(0.2), "text": jnp.float32(0.1)})
    distilled_pairs.save(tmp_path / "set.npz", distilled, card)
    again, same = distilled_pairs.load(tmp_path / "set.npz")
    assert jnp.array_equal(again.inputs["text"], distilled.inputs["text"])
    assert again.labels.keys() == distilled.labels.keys() and again.lr == distilled.lr
    assert (same.captions, same.recipe, same.provenance) == (card.captions, card.recipe, card.provenance)
    assert np.float32(same.text_scale) == np.float32(0.3)
    before = (tmp_path / "set.npz").read_bytes()
    distilled_pairs.save(tmp_path / "set.npz", again, same)
    assert (tmp_path / "set.npz").read_bytes() == before
    with pytest.raises(ValueError, match="holds pairs of images and texts"):
        Distilled.load(tmp_path / "set.npz")


WRONG = {
    "texts": (lambda a: a | {"texts": a["texts"][:2]}, "not of as many pairs"),
    "numbers": (lambda a: a | {"images": a["images"] * np.nan}, "images holds 144 numbers that are not finite"),
    "rate": (lambda a: a | {"lr": np.float32(-1)}, r"lr is -1.0, and a positive number is needed"),
    "rates": (lambda a: a | {"lr_text": np.float32(1)}, r"the learning rates \['lr', 'lr_text'\], and lr is needed"),
    "missing": (lambda a: {n: x for n, x in a.items() if n != "captions"}, r"lacks the arrays \['captions'\]"),
    "version": (lambda a: a | {"format_version": np.int32(9)}, "its format version is 9"),
    "sides": (lambda a: {n: x for n, x in a.items() if n != "left"}, "not of as many pairs"),
    "name": (lambda a: a | {"dataset": np.float32(3)}, "one text is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_files_of_pairs_are_refused(tmp_path, name):
    change, message = WRONG[name]
    distilled, card = drawn(rank=2)
    distilled_pairs.save(tmp_path / "set.npz", distilled, card)
    with np.load(tmp_path / "set.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "set.npz", **change(arrays))
    with pytest.raises(ValueError, match=message):
        distilled_pairs.load(tmp_path / "set.npz")
