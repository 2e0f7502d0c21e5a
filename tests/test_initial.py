"""Distillation that goes on from a given set: noise, a coreset, a saved file."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxdd
from jaxdd.app.labeled import initial_set
from jaxdd.app.run import run
from jaxdd.core.distilled import hard_labels
from jaxdd.driver import check_initial
from jaxdd.methods import Optimizer, coresets, dc, dm, formation, infmatch

SCORING = jaxdd.EvaluateConfig(recipe=jaxdd.Recipe(epochs=2, augment="none"), networks=1, full_data=False)
CONFIG = dm.Config(ipc=2, steps=2, real_batch=4, image_optimizer=Optimizer("sgd", 0.1, 0.0))


@pytest.fixture(scope="module")
def task():
    return jaxdd.classification(jaxdd.models.build(jaxdd.models.MLP(width=4, depth=1), (8, 8, 1), 3), 3)


def test_it_begins_with_the_given_set(task, stripes):
    chosen = jaxdd.distill(task, stripes, coresets.Config(ipc=2), seed=4, evaluate=SCORING).last
    still = dataclasses.replace(CONFIG, steps=0)
    assert not np.array_equal(jaxdd.distill(task, stripes, still, evaluate=SCORING).last.images, chosen.images)
    outcome = jaxdd.distill(task, stripes, still, initial=chosen, evaluate=SCORING)
    jax.tree.map(np.testing.assert_array_equal, outcome.last, chosen)
    moved = jaxdd.distill(task, stripes, CONFIG, initial=chosen, evaluate=SCORING).last
    assert 0 < np.abs(moved.images - chosen.images).max() < 1


def test_noise_of_a_users_own_is_a_start_like_any_other(task, stripes):
    noise = jaxdd.Distilled(
        np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32),
        np.asarray(hard_labels(np.repeat(np.arange(3), 2), 3)),
        np.float32(0.01),
    )
    first = jaxdd.distill(task, stripes, CONFIG, initial=noise, evaluate=SCORING).last
    again = jaxdd.distill(task, stripes, CONFIG, initial=first, seed=1, evaluate=SCORING).last
    steps = [np.abs(x.images - y.images).max() for x, y in ((first, noise), (again, first))]
    assert all(0 < step < 1 for step in steps)
    np.testing.assert_array_equal(again.labels, noise.labels)


def test_a_set_of_another_size_is_refused(task, stripes):
    given = jaxdd.distill(task, stripes, coresets.Config(ipc=1), evaluate=SCORING).last
    with pytest.raises(ValueError, match="initial set has 3 items, but the method makes 6"):
        jaxdd.distill(task, stripes, CONFIG, initial=given, evaluate=SCORING)
    labels = given._replace(labels=given.labels[:, :2])
    with pytest.raises(ValueError, match=r"labels of shape \(3, 2\)"):
        jaxdd.distill(task, stripes, dataclasses.replace(CONFIG, ipc=1), initial=labels, evaluate=SCORING)


def test_items_with_hard_labels_are_put_into_the_order_of_the_classes(task, stripes):
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    mixed = jaxdd.Distilled(images, np.asarray(hard_labels(labels, 3)), np.float32(0.01))
    order = np.argsort(labels, kind="stable")
    ordered = mixed._replace(inputs=images[order], labels=mixed.labels[order])
    found, expected = (
        jaxdd.distill(task, stripes, CONFIG, initial=given, evaluate=SCORING).last for given in (mixed, ordered)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    uneven = mixed._replace(labels=np.asarray(hard_labels(np.array([0, 0, 0, 1, 2, 2]), 3)))
    with pytest.raises(ValueError, match="has 3 items of class 0 and 1 of class 1; give equally many of each"):
        jaxdd.distill(task, stripes, CONFIG, initial=uneven, evaluate=SCORING)


def test_items_of_several_are_stored_as_one(task, stripes):
    config = dc.Config(ipc=1, steps=0, factor=2, network="real")
    given = jaxdd.distill(task, stripes, coresets.Config(ipc=4), evaluate=SCORING).last
    last = jaxdd.distill(task, stripes, config, initial=given, evaluate=SCORING).last
    np.testing.assert_allclose(last.images, formation.decode(formation.encode(given, 2), 2).images, atol=1e-6)


@pytest.fixture
def saved(tmp_path):
    """A run's configuration, and the set that it saved."""
    config = jaxdd.Config(
        model=jaxdd.models.MLP(width=4, depth=1),
        method=dataclasses.replace(CONFIG, ipc=1),
        evaluate=dataclasses.replace(SCORING, random_real=False),
        workdir=str(tmp_path / "first"),
    )
    run(config)
    return config, tmp_path / "first" / "distilled.npz"


def test_a_run_goes_on_from_a_saved_set(saved, tmp_path):
    config, path = saved
    method = dataclasses.replace(config.method, steps=0)
    run(dataclasses.replace(config, method=method, initial=str(path), workdir=str(tmp_path / "second")))
    ours, theirs = (jaxdd.Distilled.load(p)[0] for p in (tmp_path / "second" / "distilled.npz", path))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_keeps_the_soft_labels_that_it_starts_from(saved, tmp_path):
    config, path = saved
    given, card = jaxdd.Distilled.load(path)
    given = given._replace(labels=np.asarray(given.labels / 64 + 1, np.float32))
    given.save(tmp_path / "soft.npz", dataclasses.replace(card, label_kind="logits"))
    assert config.method.labels == card.label_kind == "hard"
    run(dataclasses.replace(config, initial=str(tmp_path / "soft.npz"), workdir=str(tmp_path / "second")))
    ours, about = jaxdd.Distilled.load(tmp_path / "second" / "distilled.npz")
    np.testing.assert_array_equal(ours.labels, given.labels)
    assert about.label_kind == "logits"
    assert "soft labels, as logits" in (tmp_path / "second" / "README.md").read_text()


def test_a_saved_set_in_another_normalization_is_brought_to_that_of_the_data(saved):
    _, path = saved
    dataset = jaxdd.data.load("digits", normalization="zca")
    theirs, card = jaxdd.Distilled.load(path)
    ours = initial_set(str(path), dataset)
    pixels = dataset.normalization.inverse(ours.images)
    np.testing.assert_allclose(pixels, card.normalization.inverse(theirs.images), atol=1e-4)
    assert np.abs(ours.images - theirs.images).max() > 0.1


def test_a_missing_file_is_refused_before_any_work(saved, tmp_path):
    config, _ = saved
    with pytest.raises(ValueError, match="--initial .*none.npz: no such file"):
        run(dataclasses.replace(config, initial=str(tmp_path / "none.npz"), workdir=str(tmp_path / "third")))
    assert not (tmp_path / "third").exists()


def test_a_set_of_other_classes_is_refused(saved, tmp_path):
    _, path = saved
    dataset = jaxdd.data.load("digits")
    given, card = jaxdd.Distilled.load(path)
    renamed = tuple(f"{name} drawn" for name in card.class_names)
    given.save(path, dataclasses.replace(card, class_names=renamed))
    assert initial_set(str(path), dataset).size == 10  # names that are numbers alone fit any others
    named = dataclasses.replace(dataset, class_names=("none", *renamed[1:]))
    with pytest.raises(ValueError, match="class 0 of --initial .* is '0 drawn', but that of digits is 'none'"):
        initial_set(str(path), named)


def test_hard_labels_that_would_be_learned_are_refused(task, stripes):
    given = jaxdd.distill(task, stripes, coresets.Config(ipc=2), evaluate=SCORING).last
    learned = infmatch.Config(ipc=2, steps=1, labels="learned", window=jaxdd.Window(start=1))
    with pytest.raises(ValueError, match=r"labels is 'learned', and the labels of the initial set are hard"):
        check_initial(given, learned, task)
    check_initial(given._replace(labels=given.labels / 32), learned, task)
    check_initial(given, dataclasses.replace(learned, labels="hard"), task)
    free = dataclasses.replace(task, classes=None)  # whose labels may be anything
    check_initial(given._replace(labels={"y": np.zeros(6)}), dataclasses.replace(learned, ipc=6), free)
