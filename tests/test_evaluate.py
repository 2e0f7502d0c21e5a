import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, evaluate, models
from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled, hard_labels
from jaxdd.core.keys import stage_key
from jaxdd.core.normalization import fit
from jaxdd.core.parallel import make_mesh, over_devices
from jaxdd.core.tasks import accuracies, cross_entropy, softened
from jaxdd.core.training import Recipe, train
from jaxdd.data import from_arrays
from jaxdd.evaluation import (
    EvaluateConfig,
    distilled_scorer,
    random_real,
    stacked,
    summary,
    validator,
)
from jaxdd.models import MLP

MODULE = sys.modules["jaxdd.evaluation.scores"]
RECIPE = Recipe(epochs=15, batch=4, lr=0.02, momentum=0.9, weight_decay=5e-4, schedule="step", augment="none")
FULL = Recipe(epochs=15, batch=64, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none")
CONFIG = EvaluateConfig(networks=9, recipe=RECIPE, full_recipe=FULL, validate_networks=2)


def one_device():
    return jax.set_mesh(make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def model():
    return models.build(MLP(width=4, depth=1), (8, 8, 1), 3)


@pytest.fixture(scope="module")
def task(model):
    return classification(model, 3)


@pytest.fixture(scope="module")
def distilled(stripes):
    """Two real images of each class, which teach more than nothing."""
    images, labels = stripes.train
    rows = np.concatenate([np.flatnonzero(labels == label)[:2] for label in range(3)])
    images = np.asarray(stripes.normalization(jnp.asarray(images[rows])))
    return Distilled(images, np.asarray(hard_labels(labels[rows], 3)), np.float32(0.03))


@pytest.fixture(scope="module")
def scored(task, stripes, distilled):
    """Scores of nine networks on eight devices, as they were reported and as they were returned."""
    reported = []
    result = evaluate(task, stripes, distilled, CONFIG, on_result=lambda *found: reported.append(found))
    return reported, result


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("size, chunk", [(90, 500), (90, 32), (90, 30), (1, 8), (33, 32)])
def test_accuracy_counts_every_image_once(model, stripes, monkeypatch, size, chunk, devices):
    monkeypatch.setattr(sampling, "over_all", functools.partial(sampling.over_all, largest=chunk))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (size, 8, 8, 1), np.uint8), rng.integers(0, 3, size).astype(np.int32)
    params = model.init(jax.random.key(1))
    split = sampling.real_set(images, labels, 3, fit("standard", stripes.train.images))
    with jax.set_mesh(make_mesh(jax.devices()[:devices])):
        found = jax.jit(lambda params, split: accuracies(model, 3, params, split))(params, split)
    pixels = (images / 255 - np.mean(stripes.train.images / 255)) / np.std(stripes.train.images / 255)
    hidden, last = (jax.tree.map(np.asarray, params[name]) for name in ("body", "linear"))
    hidden = np.maximum(pixels.reshape(size, -1) @ hidden["linear_0"]["kernel"] + hidden["linear_0"]["bias"], 0)
    logits = hidden @ last["kernel"] + last["bias"]
    right = logits.argmax(1) == labels
    np.testing.assert_allclose(found["accuracy"], np.mean(right), rtol=1e-6)
    of_class = [np.mean(right[labels == c]) if (labels == c).any() else np.nan for c in range(3)]
    np.testing.assert_allclose(found["class_accuracy"], of_class, rtol=1e-6)


def test_network_is_trained_on_the_set_with_its_learning_rate(model, task, stripes, distilled):
    keys = jax.random.split(jax.random.key(0), 2)
    slow = distilled._replace(lr=np.float32(1e-6))
    sets = jax.tree.map(lambda *x: jnp.stack(x), distilled, slow)
    with one_device():
        measures = distilled_scorer(task, RECIPE)(keys, sets, stripes.test_set())
    found = measures["accuracy"]

    @jax.jit
    def expected(key, distilled, split):
        init_key, train_key = jax.random.split(key)
        recipe = dataclasses.replace(RECIPE, lr=0.03)
        start = model.init(init_key)
        trained, _ = train(train_key, start, cross_entropy(model), lambda i: softened(distilled, i), 6, recipe)
        return [accuracies(model, 3, params, split)["accuracy"] for params in (trained, start)]

    trained, _ = expected(keys[0], distilled, stripes.test_set())
    _, untrained = expected(keys[1], distilled, stripes.test_set())
    # An image on the border of two classes may fall either way.
    np.testing.assert_allclose(found, [trained, untrained], atol=1.5 / 90)
    assert float(found[0]) > 0.6


def test_scores_have_the_documented_form(scored):
    reported, result = scored
    assert list(result) == ["distilled", "random_real", "full_data"] == [name for name, _ in reported]
    for name, measures in reported:
        assert list(measures) == ["accuracy", "class_accuracy"]
        runs = measures["accuracy"]
        assert set(result[name]) == {"mean", "std", "runs", "class_accuracy"}
        assert np.shape(result[name]["class_accuracy"]["mean"]) == (3,)
        assert result[name]["runs"] == runs
        assert len(runs) == 9
        np.testing.assert_allclose(np.array(runs) * 90, np.round(np.array(runs) * 90), atol=1e-4)  # of 90 test images
        np.testing.assert_allclose(result[name]["mean"], sum(runs) / 9)
        spread = (sum((run - sum(runs) / 9) ** 2 for run in runs) / 9) ** 0.5
        np.testing.assert_allclose(result[name]["std"], spread)
    assert len(set(result["distilled"]["runs"])) > 1  # every network is another one
    # Of three classes; the whole set teaches more than two images of each.
    assert result["full_data"]["mean"] > max(result["distilled"]["mean"], result["random_real"]["mean"])
    assert min(result["distilled"]["mean"], result["random_real"]["mean"]) > 0.5


def test_summary_of_known_numbers():
    runs = [0.5, 0.75, 1.0]
    assert summary(np.array(runs)) == {"mean": 0.75, "std": pytest.approx((1 / 24) ** 0.5), "runs": runs}


def test_known_accuracies_are_not_computed_again(task, stripes, distilled, scored, monkeypatch):
    def refuse(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(MODULE, "full_data_scorer", refuse)
    monkeypatch.setattr(MODULE, "distilled_scorer", lambda *args: refuse)
    known = dict(scored[0])
    assert evaluate(task, stripes, distilled, CONFIG, known=known, on_result=refuse) == scored[1]
    for name in known:
        with pytest.raises(AssertionError, match="computed again"):
            evaluate(task, stripes, distilled, CONFIG, known={n: runs for n, runs in known.items() if n != name})
    only_small = dataclasses.replace(CONFIG, full_data=False)
    assert list(evaluate(task, stripes, distilled, only_small, known=known)) == ["distilled", "random_real"]
    alone = dataclasses.replace(only_small, random_real=False)
    assert list(evaluate(task, stripes, distilled, alone, known=known)) == ["distilled"]


def test_known_accuracies_of_a_class_without_test_examples_are_read_from_json(task, stripes, distilled):
    alone = dataclasses.replace(CONFIG, random_real=False, full_data=False)
    measures = {"accuracy": [0.5] * CONFIG.networks, "class_accuracy": [[0.0, 1.0, "NaN"]] * CONFIG.networks}
    result = evaluate(task, stripes, distilled, alone, known={"distilled": measures})["distilled"]
    assert result["mean"] == 0.5
    np.testing.assert_array_equal(result["class_accuracy"]["mean"], [0.0, 1.0, np.nan])


def test_more_items_than_a_class_has_real_ones_are_refused_at_once(task, stripes, distilled):
    def refuse(*args):
        raise AssertionError("trained")

    with pytest.raises(ValueError, match=r"cannot draw 1000 .*; leave random real examples out \(evaluate.random_real"):
        evaluate(task, stripes, distilled, CONFIG, ipc=1000, on_result=refuse)


def test_nine_networks_on_eight_devices_score_as_on_one(task, stripes, distilled, scored):
    # Each network is computed whole on one device; at most an image on the border of two classes may fall either way.
    known = {"full_data": {"accuracy": scored[1]["full_data"]["runs"]}}
    with one_device():
        one = evaluate(task, stripes, distilled, CONFIG, known=known)
    for name in ("distilled", "random_real"):
        np.testing.assert_allclose(one[name]["runs"], scored[1][name]["runs"], atol=1.5 / 90)


def test_random_real_draws_are_images_of_their_class(task, stripes):
    with over_devices():
        draws = random_real(jax.random.key(0), task, stripes.real_set(), 4, 3, 0.02)
    assert draws.images.shape == (3, 12, 8, 8, 1)
    np.testing.assert_allclose(draws.lr, [0.02] * 3, rtol=1e-6)
    every = np.asarray(stripes.normalization(jnp.asarray(stripes.train.images)))
    seen = []
    for images, labels in zip(np.asarray(draws.images), draws.labels, strict=True):
        np.testing.assert_array_equal(labels, hard_labels(np.repeat(np.arange(3), 4), 3))
        found = [np.flatnonzero((np.abs(every - image) < 1e-5).all((1, 2, 3))).item() for image in images]
        assert len(set(found)) == 12
        assert stripes.train.labels[found].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        seen.append(tuple(found))
    assert len(set(seen)) == 3


def test_validation_scores_every_set_with_the_same_networks(task, stripes, distilled):
    score = validator(task, stripes, CONFIG, seed=4)
    first = score(distilled)
    noise = distilled._replace(inputs=np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32))
    assert score(noise) < first
    assert score(distilled) == first
    keys = jax.random.split(stage_key(4, "validate"), 2)
    with one_device():
        runs = distilled_scorer(task, RECIPE)(keys, stacked(distilled, 2), stripes.validation_set())["accuracy"]
    np.testing.assert_allclose(first, np.mean(runs), atol=1.5 / 48)


def test_nothing_is_validated_without_a_validation_split(task, stripes):
    whole = from_arrays(*stripes.train, *stripes.test, validation=0.0)
    assert validator(task, whole, CONFIG) is None


@pytest.mark.parametrize("field", ["networks", "validate_every", "validate_networks"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ValueError, match=f"evaluate.{field} is 0"):
        EvaluateConfig(**{field: 0})
