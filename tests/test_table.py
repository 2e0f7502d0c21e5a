"""Evaluation tables: rows, labels, attacks, DD-Ranking's scores, and what is doubted."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import Card, Distilled, Recipe, classification, evaluate, models
from jaxdd.core import sampling
from jaxdd.core.distilled import hard_labels
from jaxdd.core.keys import stage_key
from jaxdd.core.normalization import fit
from jaxdd.core.parallel import make_mesh
from jaxdd.core.training import train
from jaxdd.errors import Diverged, SettingError
from jaxdd.evaluation import (
    Attack,
    EvaluateConfig,
    TableConfig,
    augmentation_robust_score,
    balanced_accuracy,
    distilled_scorer,
    doubts,
    evaluate_table,
    label_robust_score,
    over_seeds,
    per_class_accuracy,
    robust_scores,
    table,
)
from jaxdd.evaluation.attack import accuracy_under_attack, confusion
from jaxdd.evaluation.rows import check_fits, per_class, rows
from jaxdd.io.lock import in_use
from jaxdd.methods.coresets import GREEDY
from jaxdd.models import MLP, Own, ViT
from jaxdd.report.table import write
from jaxdd.types import Model

RECIPE = Recipe(epochs=12, batch=4, lr=0.02, augment="flip")
FULL = Recipe(epochs=6, batch=64, lr=0.05, schedule="cosine", augment="none")
NETWORK = MLP(width=4, depth=1)
CONFIG = TableConfig(
    networks=2,
    labels=("own", "hard", "teacher"),
    coreset=True,
    full_data=True,
    without_augmentation=True,
    points=2,
    recipe=RECIPE,
    full_recipe=FULL,
)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def sets(stripes):
    """One real image of each class with its class, and two with soft labels of their own and a learned rate."""

    def card(kind):
        return Card("stripes", stripes.class_names, kind, stripes.normalization, {"lr": 0.02}, {})

    images, labels = stripes.train
    rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(3)])
    two = jnp.asarray(stripes.normalization(jnp.asarray(images[rows])))
    soft = 2.0 * jax.nn.one_hot(labels[rows], 3) + 0.5
    return {
        "hard": (Distilled(two[::2], hard_labels(labels[rows[::2]], 3), jnp.float32(0.02)), card("hard")),
        "soft": (Distilled(two, soft, jnp.float32(0.05)), card("logits")),
    }


@pytest.fixture(scope="module")
def cells(sets, stripes, tmp_path_factory):
    out = tmp_path_factory.mktemp("table")
    return evaluate_table(sets, {"small": NETWORK}, stripes, CONFIG, out=out, seed=3), out


def cell_of(cells, name, labels, augment="flip", count=None):
    [found] = [
        cell
        for cell in cells
        if (cell["row"]["name"], cell["row"]["labels"], cell["row"]["augment"]) == (name, labels, augment)
        and count in (None, cell["row"]["per_class"])
    ]
    return found


def test_rows_are_sets_and_what_they_are_compared_with(cells):
    rows = [tuple(cell["row"][key] for key in ("name", "labels", "augment", "per_class")) for cell in cells[0]]
    expected = []
    for augment in ("flip", "none"):
        expected += [("hard", labels, augment, 1) for labels in ("hard", "teacher")]
    for augment in ("flip", "none"):
        expected += [("soft", labels, augment, 2) for labels in ("own", "hard", "teacher")]
    for count in (1, 2):
        for name in ("random real", "coreset"):
            for augment in ("flip", "none"):
                expected += [(name, labels, augment, count) for labels in ("hard", "teacher")]
    assert rows == [*expected, ("full data", "hard", "none", 64)]


def test_what_cannot_be_is_refused_before_any_training(sets, stripes, monkeypatch, tmp_path):
    def compute(*args):
        raise AssertionError("trained")

    monkeypatch.setattr("jaxdd.evaluation.table._Column.compute", compute)
    with pytest.raises(SettingError, match="patches of 5 pixels do not tile"):
        evaluate_table(sets, {"small": NETWORK, "vit": ViT(patch=5)}, stripes, CONFIG)
    many = {"hard": (sets["hard"][0], dataclasses.replace(sets["hard"][1], provenance={"stored_images": 3000}))}
    with pytest.raises(SettingError, match="cannot draw 1000 examples .*; leave random real and coreset images out"):
        evaluate_table(many, {"small": NETWORK}, stripes, CONFIG)
    bare = Model(lambda key: jnp.zeros((64, 3)), lambda params, x: x.reshape(len(x), -1) @ params, None)
    monkeypatch.setattr("jaxdd.evaluation.rows.models.build", lambda *args: bare)
    with pytest.raises(SettingError, match="the network has no features, and features are asked for"):
        evaluate_table(sets, {"small": NETWORK}, stripes, CONFIG)


def test_two_tables_at_a_time_do_not_share_a_folder(sets, stripes, tmp_path):
    with (
        in_use(tmp_path / ".cells.lock", ""),
        pytest.raises(SettingError, match="is in use by process .*; wait until it is done, or name another folder"),
    ):
        evaluate_table(sets, {"small": NETWORK}, stripes, CONFIG, out=tmp_path)


def test_a_set_of_fewer_images_than_classes_is_compared_with_one_of_each(sets, stripes):
    distilled, card = sets["hard"]
    two = distilled._replace(inputs=distilled.images[:2], labels=distilled.labels[:2])
    assert per_class(two, card) == 1


def test_accuracies_are_those_of_evaluate(cells, sets, stripes):
    task = classification(models.build(NETWORK, stripes.image_shape, 3), 3)
    config = EvaluateConfig(networks=2, recipe=RECIPE, full_recipe=FULL)
    expected = evaluate(task, stripes, sets["soft"][0], config, seed=3)
    for name, found in (
        ("distilled", cell_of(cells[0], "soft", "own")),
        ("random_real", cell_of(cells[0], "random real", "hard", count=2)),
        ("full_data", cell_of(cells[0], "full data", "hard", "none")),
    ):
        of_class = expected[name].pop("class_accuracy")["mean"]
        assert found["accuracy"] == expected[name]
        np.testing.assert_allclose(per_class_accuracy(found), of_class, rtol=1e-6)


def test_labels_are_classes_or_those_of_one_teacher(cells, sets, stripes):
    model = models.build(NETWORK, stripes.image_shape, 3)
    task = classification(model, 3)
    real, split = stripes.real_set(), stripes.test_set()
    init_key, train_key = jax.random.split(stage_key(3, "teacher"))
    fetch = lambda rows: sampling.take(real, rows)  # noqa: E731
    teacher, _ = train(train_key, model.init(init_key), task.losses, fetch, real.size, FULL)
    soft = sets["soft"][0]
    keys = jax.random.split(stage_key(3, "evaluate"), 2)
    score = distilled_scorer(task, RECIPE)
    for labels, logits in (
        ("hard", hard_labels(soft.labels.argmax(1), 3)),
        ("teacher", model.apply(teacher, soft.images)),
    ):
        both = jax.tree.map(lambda x: jnp.stack([x, x]), soft._replace(labels=logits))
        found = cell_of(cells[0], "soft", labels)["accuracy"]["runs"]
        np.testing.assert_allclose(score(keys, both, split)["accuracy"], found, atol=0.012)  # one of 90 images


def test_the_coreset_is_the_better_one_on_validation(stripes, sets, monkeypatch):
    """With one image a class, herding and k-center begin alike; made to differ, the better one is taken."""
    mislabeled = {"herding": lambda features, valid, count: jnp.argsort(valid, descending=True)[:count]}
    config = dataclasses.replace(CONFIG, labels=("hard",), without_augmentation=False, full_data=False)
    reached = {}
    for names in ([*GREEDY], ["herding"], ["k_center"]):
        choices = {**GREEDY, **mislabeled}
        monkeypatch.setattr("jaxdd.evaluation.rows.GREEDY", {name: choices[name] for name in names})
        monkeypatch.setattr("jaxdd.methods.coresets.GREEDY", choices)
        cells = evaluate_table({"hard": sets["hard"]}, {"small": NETWORK}, stripes, config)
        reached[tuple(names)] = cell_of(cells, "coreset", "hard")["accuracy"]["runs"]
    assert reached["herding",] != reached["k_center",]
    assert reached["herding", "k_center"] in (reached["herding",], reached["k_center",])


def test_a_cell_says_what_it_cost_and_how_it_went(cells):
    for cell in cells[0]:
        counts = np.array(cell["confusion"])
        assert counts.shape == (3, 3) and counts.sum() == 2 * 90
        np.testing.assert_allclose(np.trace(counts) / counts.sum(), cell["accuracy"]["mean"], rtol=1e-6)
        np.testing.assert_allclose(per_class_accuracy(cell), np.diag(counts) / counts.sum(1))
        np.testing.assert_allclose(balanced_accuracy(cell), np.mean(np.diag(counts) / counts.sum(1)))
        assert cell["memory"] > 90 * 64 and cell["seconds"] > 0
        if cell["row"]["name"] != "full data":
            curve = np.array(cell["curve"])
            assert curve.shape == (2, 3)
            np.testing.assert_array_equal(curve[:, -1], cell["accuracy"]["runs"])
            np.testing.assert_array_equal(curve.max(1), cell["best"]["runs"])
    starts = {tuple(np.array(cell["curve"])[:, 0]) for cell in cells[0] if "curve" in cell}
    assert len(starts) == 1  # all begin with the same networks


def test_bytes_are_those_of_images_and_labels(cells):
    found = {
        (c["row"]["name"], c["row"]["labels"], c["row"]["per_class"]): c["row"]["bytes_per_class"] for c in cells[0]
    }
    assert found["hard", "hard", 1] == 4 * 64 + 1 and found["hard", "teacher", 1] == 4 * 64 + 12
    assert found["soft", "own", 2] == 2 * (4 * 64 + 12) and found["random real", "hard", 2] == 2 * (64 + 1)
    assert found["full data", "hard", 64] == 64 * 65


@pytest.mark.parametrize("provenance", [{"config": {"method": {"ipc": 1}}}, {"format": "idc", "stored_images": 3}, {}])
def test_a_set_counts_as_the_images_that_it_stores(sets, stripes, provenance):
    distilled, card = sets["hard"]
    items = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), distilled._replace(lr=None))._replace(lr=distilled.lr)
    card = dataclasses.replace(card, provenance=provenance)
    config = dataclasses.replace(CONFIG, labels=("hard", "teacher"), coreset=False, without_augmentation=False)
    found = [entry.row for entry in rows({"a": (items, card)}, stripes, config, NETWORK, 3)]
    stored = 1 if provenance else 4
    assert [row.per_class for row in found[:-1]] == 4 * [stored]
    hard, teacher, *_ = (row.bytes_per_class for row in found)
    assert hard == stored * (4 * 64 + 1) and teacher == stored * 4 * 64 + 4 * 12


def test_a_stopped_table_goes_on(cells, sets, stripes, monkeypatch, capfd):
    found, out = cells
    monkeypatch.setattr(table._Column, "compute", lambda *_: pytest.fail("computed again"))
    assert evaluate_table(sets, {"small": NETWORK}, stripes, CONFIG, out=out, seed=3) == found
    fewer = dataclasses.replace(CONFIG, labels=("teacher",), coreset=False, without_augmentation=False)
    assert capfd.readouterr().err == ""
    again = evaluate_table({"soft": sets["soft"]}, {"small": NETWORK}, stripes, fewer, out=out, seed=3, progress=True)
    assert capfd.readouterr().err.splitlines()[-1].startswith("evaluate full data, hard labels, on small: 6/6")
    assert [cell["row"]["name"] for cell in again] == ["soft", "random real", "full data"]
    spelled = evaluate_table({"soft": sets["soft"]}, {"a": NETWORK, "b": NETWORK}, stripes, fewer, out=out, seed=3)
    assert spelled == [{**cell, "network": name} for cell in again for name in "ab"]
    with pytest.raises(pytest.fail.Exception):
        evaluate_table(sets, {"small": NETWORK}, stripes, CONFIG, out=out, seed=4)
    corrected = stripes.test._replace(labels=stripes.test.labels[::-1].copy())
    with pytest.raises(pytest.fail.Exception):
        evaluate_table(sets, {"small": NETWORK}, dataclasses.replace(stripes, test=corrected), CONFIG, out=out, seed=3)


def test_cells_of_an_edited_network_are_computed_again(sets, stripes, tmp_path, monkeypatch):
    source, computed = tmp_path / "networks.py", []

    def compute(column, entry, _):
        computed.append(entry.row.name)
        return {"row": entry.row._asdict()}

    monkeypatch.setattr(table._Column, "compute", compute)
    for width, count in ((4, 1), (4, 1), (5, 2)):
        source.write_text(f"from jaxdd.models import MLP\nsmall = MLP(width={width}, depth=1).build\n")
        config = TableConfig(random_real=False)
        evaluate_table({"soft": sets["soft"]}, {"own": Own(f"{source}:small")}, stripes, config, out=tmp_path)
        assert len(computed) == count


def test_the_learning_rate_is_the_best_on_validation_for_every_row(sets, stripes):
    config = dataclasses.replace(
        CONFIG, labels=("hard",), coreset=False, without_augmentation=False, tune=(1e-6, 0.2), attack=Attack(0.05)
    )
    cells = evaluate_table({"soft": sets["soft"]}, {"small": NETWORK}, stripes, config, seed=3)
    task = classification(models.build(NETWORK, stripes.image_shape, 3), 3)
    keys = jax.random.split(stage_key(3, "validate"), 2)
    soft = sets["soft"][0]._replace(labels=hard_labels(sets["soft"][0].labels.argmax(1), 3))
    score, reached = distilled_scorer(task, RECIPE), {}
    for lr in (0.05, 1e-6, 0.2):
        both = jax.tree.map(lambda x: jnp.stack([x, x]), soft._replace(lr=jnp.float32(lr)))
        reached[lr] = np.mean(score(keys, both, stripes.validation_set())["accuracy"])
    assert cell_of(cells, "soft", "hard")["lr"] == pytest.approx(max(reached, key=reached.get))
    assert cell_of(cells, "random real", "hard")["lr"] in (0.02, 1e-6, 0.2)
    assert all(cell["attacked"]["mean"] < cell["accuracy"]["mean"] for cell in cells)
    assert cell_of(cells, "full data", "hard", "none")["lr"] == FULL.lr


def test_an_attack_on_a_linear_network_is_the_closed_form(stripes):
    """With logits ±w·x/2 it is right under attack iff its margin exceeds ε Σ|w / std|, as no pixel is clipped."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 156, (40, 8, 8, 1), np.uint8)  # within [0.39, 0.61]: far from black and white
    labels = rng.integers(0, 2, 40).astype(np.int32)
    split = sampling.real_set(images, labels, 2, stripes.normalization)
    w = rng.normal(size=64).astype(np.float32)
    bias = np.float32(-np.median(np.asarray(stripes.normalization(images)).reshape(40, -1) @ w))

    def apply(params, inputs):
        score = inputs.reshape(len(inputs), -1) @ params["w"] + bias
        return jnp.stack([-score / 2, score / 2], 1)

    task = classification(Model(init=lambda key: {"w": jnp.asarray(w)}, apply=apply, features=None), 2)
    margin = (2 * labels - 1) * (np.asarray(stripes.normalization(images)).reshape(40, -1) @ w + bias)
    slope = np.abs(w / np.asarray(stripes.normalization.std)).sum()
    seen = set()
    for radius in (0.0, 0.001, 0.01, 0.05):
        attack = Attack(radius=radius, steps=4, images=30)
        found = accuracy_under_attack(task, {"w": jnp.asarray(w)}, split, attack)
        expected = np.mean(margin[:30] > radius * slope)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        seen.add(round(float(expected), 3))
    assert len(seen) >= 3
    counts = confusion(task, {"w": jnp.asarray(w)}, split)
    predicted = np.where(margin > 0, labels, 1 - labels)
    np.testing.assert_array_equal(counts, [[np.sum((labels == i) & (predicted == j)) for j in (0, 1)] for i in (0, 1)])


def test_an_attack_stays_within_pixels_and_radius(cells, stripes):
    from jaxdd.evaluation.attack import attacked

    model = models.build(NETWORK, stripes.image_shape, 3)
    task, real = classification(model, 3), stripes.test_set()
    examples = sampling.take(real, jnp.arange(10))
    moved = attacked(task, model.init(jax.random.key(0)), examples, real.normalization, Attack(radius=0.1, steps=5))
    before, after = (np.asarray(real.normalization.inverse(x)) for x in (examples.inputs, moved))
    assert after.min() >= -1e-5 and after.max() <= 1 + 1e-5
    assert 0.09 < np.abs(after - before).max() <= 0.1 + 1e-5


def test_scores_are_those_of_dd_ranking():
    """Computed by `compute_metrics` of ddranking 0.2.0, given these accuracies for those that it would train for."""
    soft = label_robust_score(full=0.848, hard=0.31, own=0.469, random=0.224, weight=0.3)
    assert soft == pytest.approx(0.1576946147548829, abs=1e-15)
    assert label_robust_score(full=0.848, hard=0.463, own=0.463, random=0.144) == pytest.approx(0.25513040731276854)
    augmented = augmentation_robust_score(
        augmented=0.463, random_augmented=0.153, plain=0.412, random_plain=0.149, weight=0.7
    )
    assert augmented == pytest.approx(0.4154421730714366, abs=1e-15)
    assert label_robust_score(full=0.5, hard=0.5, own=0.3, random=0.3) == pytest.approx(
        (1 - 1 / math.e) / (math.e - 1 / math.e)
    )
    with pytest.raises(SettingError, match="weight is 2"):
        label_robust_score(full=0.5, hard=0.5, own=0.3, random=0.3, weight=2.0)


def test_sets_are_compared_with_real_images_in_their_own_normalization(sets, stripes):
    distilled, card = sets["hard"]
    other = dataclasses.replace(
        card, normalization=type(card.normalization)(card.normalization.mean, 2 * card.normalization.std)
    )
    config = dataclasses.replace(CONFIG, labels=("hard",), coreset=False, without_augmentation=False)
    both = {"a": (distilled, card), "b": (distilled._replace(inputs=distilled.images / 2), other)}
    cells = evaluate_table(both, {"small": NETWORK}, stripes, config, seed=3)
    assert [cell["row"]["name"] for cell in cells] == ["a", "random real", "full data", "b", "random real", "full data"]
    a, random, full, b, other_random, other_full = (cell["accuracy"]["mean"] for cell in cells)
    assert (
        len({cell["row"]["normalization"] for cell in cells[:3]} ^ {cell["row"]["normalization"] for cell in cells[3:]})
        == 2
    )
    scores = [record["lrs"] for record in robust_scores(cells)]
    assert scores == [
        label_robust_score(full=full, hard=a, own=a, random=random),
        label_robust_score(full=other_full, hard=b, own=b, random=other_random),
    ]
    alone = evaluate_table({"b": both["b"]}, {"small": NETWORK}, stripes, config, seed=3)
    assert [cell["accuracy"] for cell in alone] == [cell["accuracy"] for cell in cells[3:]]


def test_a_whitened_set_stands_beside_a_standardized_one(sets, stripes):
    distilled, card = sets["hard"]
    whitened = fit("zca", stripes.train.images)
    config = dataclasses.replace(CONFIG, labels=("hard",), coreset=False, full_data=False, without_augmentation=False)
    both = {"a": (distilled, card), "b": (distilled, dataclasses.replace(card, normalization=whitened))}
    cells = evaluate_table(both, {"small": NETWORK}, stripes, config, seed=3)
    assert [cell["row"]["normalization"].split()[0] for cell in cells] == ["standard"] * 2 + ["zca"] * 2


def test_scores_of_a_table_take_the_rows_that_they_need(cells):
    mean = {
        (*(c["row"][key] for key in ("name", "labels", "augment", "per_class")),): c["accuracy"]["mean"]
        for c in cells[0]
    }
    hard, soft = robust_scores(cells[0])
    full = mean["full data", "hard", "none", 64]
    assert robust_scores([c for c in cells[0] if c["row"]["labels"] == "teacher"]) == []
    assert hard == {
        "name": "hard",
        "network": "small",
        "lrs": label_robust_score(
            full=full,
            hard=mean["hard", "hard", "flip", 1],
            own=mean["hard", "hard", "flip", 1],
            random=mean["random real", "hard", "flip", 1],
        ),
        "ars": augmentation_robust_score(
            augmented=mean["hard", "hard", "flip", 1],
            random_augmented=mean["random real", "hard", "flip", 1],
            plain=mean["hard", "hard", "none", 1],
            random_plain=mean["random real", "hard", "none", 1],
        ),
    }
    assert soft["lrs"] == label_robust_score(
        full=full,
        hard=mean["soft", "hard", "flip", 2],
        own=mean["soft", "own", "flip", 2],
        random=mean["random real", "teacher", "flip", 2],
    )


def test_sets_of_other_seeds_are_put_together():
    def card(seed, lr=1.0, dataset="d"):
        return Card(dataset, ("x",), "hard", None, {}, {"config": {"seed": seed, "method": {"lr": lr}}})

    def cell(name, network, mean):
        return {
            "row": {"name": name, "labels": "hard", "augment": "none"},
            "network": network,
            "accuracy": {"mean": mean},
        }

    cards = {"a": card(0), "b": card(1), "other": card(2, lr=2.0), "foreign": Card("d", ("x",), "hard", None)}
    cards |= {"a again": card(0), "of other data": card(3, dataset="e")}
    cells = [cell("a", "n", 0.2), cell("b", "n", 0.4), cell("a", "m", 0.5), cell("b", "m", 0.5)]
    cells += [cell(name, "n", 0.9) for name in ("other", "a again", "of other data", "random real")]
    about = {"names": ["a", "b"], "labels": "hard", "augment": "none"}
    assert over_seeds(cells, cards) == [
        {**about, "network": "n", "mean": pytest.approx(0.3), "std": pytest.approx(0.1)},
        {**about, "network": "m", "mean": 0.5, "std": 0.0},
    ]
    assert over_seeds(cells, {"a": card(0), "a again": card(0)}) == []


def test_what_is_implausible_is_said():
    def cell(name, mean, std=0.01, curve=((0.3,) * 11,)):
        row = {"name": name, "labels": "hard", "augment": "none", "per_class": 1, "normalization": "standard"}
        return {"row": row, "network": "n", "accuracy": {"mean": mean, "std": std, "runs": [mean]}, "curve": curve}

    fine = [cell("a", 0.3), cell("full data", 0.8)]
    assert doubts(fine) == []
    found = doubts(
        [
            cell("a", 0.9),
            cell("b", 0.3, std=0.2),
            cell("c", 0.3, curve=((0.1,) * 10 + (0.3,),)),
            cell("d", 0.3, curve=((0.1, 0.3),)),  # too few points to tell
            cell("full data", 0.8),
        ]
    )
    assert [line.split(":")[0] for line in found] == [f"{name}, hard labels, none, on n" for name in "abc"]
    assert "better than all real data" in found[0] and "differ by 20 points" in found[1]
    assert "give recipe.epochs more" in found[2]
    card = Card("d", ("x",), "hard", None, {}, {"step": 0})
    assert doubts(fine, {"a": card}) == [
        "a: the best set on validation was the first one; distillation improved nothing"
    ]
    cards = {"a": Card("mnist", ("x",), "hard", None), "b": Card("unknown", ("x",), "hard", None)}
    assert doubts(fine, cards, "mnist") == []
    assert doubts(fine, cards, "digits") == ["a: its card says that it is of mnist, and the data are digits"]


def test_a_cell_that_diverged_is_named_and_the_others_stand(sets, stripes, tmp_path, monkeypatch):
    soft, card = sets["soft"]
    both = {"wild": (soft._replace(lr=jnp.float32(1e30)), card), "soft": sets["soft"]}
    config = dataclasses.replace(CONFIG, labels=("own",), coreset=False, full_data=False, without_augmentation=False)
    found = evaluate_table(both, {"small": NETWORK}, stripes, config, out=tmp_path, seed=3)
    wild, tame, random = found
    said = "wild, own labels, on small: the outputs of 2 of 2 networks are not finite"
    assert wild["diverged"].startswith(said) and "accuracy" not in wild
    assert 0 < tame["accuracy"]["mean"] < 1 and 0 < random["accuracy"]["mean"] < 1
    assert doubts(found)[0] == wild["diverged"]
    assert [record["name"] for record in robust_scores([{**wild}, tame])] == []
    results = {"networks": {"small": {}}, "cells": found, "scores": [], "seeds": [], "doubts": doubts(found)}
    write(tmp_path, results)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[1].startswith("wild,own") and len(lines) == 4
    assert "| diverged |" in (tmp_path / "table.md").read_text().splitlines()[2]
    monkeypatch.setattr(table._Column, "compute", lambda *_: pytest.fail("computed again"))
    alone = dataclasses.replace(config, random_real=False)
    with pytest.raises(Diverged, match=said):
        evaluate_table({"wild": both["wild"]}, {"small": NETWORK}, stripes, alone, out=tmp_path, seed=3)


def test_a_set_of_other_classes_is_refused(sets, stripes):
    distilled, card = sets["hard"]
    named = dataclasses.replace(stripes, class_names=("cat", "dog", "eel"))
    other = dataclasses.replace(card, class_names=("cat", "eel", "dog"))
    with pytest.raises(SettingError, match="class 1 of b is 'eel', but that of stripes is 'dog'; name its dataset"):
        evaluate_table({"b": (distilled, other)}, {"small": NETWORK}, named)
    for names in (named.class_names, ("0", "1", "2")):  # numbers are no names
        check_fits("b", distilled, dataclasses.replace(card, class_names=names), named)
    check_fits("b", distilled, other, stripes)


def test_what_cannot_be_computed_is_refused(sets, stripes):
    bare = dataclasses.replace(
        stripes,
        validation=stripes.validation._replace(
            images=stripes.validation.images[:0], labels=stripes.validation.labels[:0]
        ),
    )
    for config in (dataclasses.replace(CONFIG, coreset=False, tune=(0.1,)), CONFIG):
        with pytest.raises(SettingError, match="there is none; set data.validation"):
            evaluate_table(sets, {"small": NETWORK}, bare, config)
    with pytest.raises(SettingError, match="needs sets and networks, and it was given 0 and 1"):
        evaluate_table({}, {"small": NETWORK}, stripes)
    distilled, card = sets["hard"]
    small = {"tiny": (distilled._replace(inputs=distilled.images[:, :4]), card)}
    with pytest.raises(SettingError, match="tiny holds images"):
        evaluate_table(small, {"small": NETWORK}, stripes)
    for provenance, said in (({"config": {"method": {"ipc": 0}}}, "ipc"), ({"stored_images": 0}, "stored_images")):
        with pytest.raises(SettingError, match=f"the {said} of its card is 0"):
            per_class(distilled, dataclasses.replace(card, provenance=provenance))
    for changes, message in (
        ({"labels": ("soft",)}, "labels"),
        ({"tune": (-1.0,)}, "tune"),
        ({"points": 1}, "table.points is 1"),
        ({"networks": 0}, "table.networks is 0"),
    ):
        with pytest.raises(SettingError, match=message):
            TableConfig(**changes)
