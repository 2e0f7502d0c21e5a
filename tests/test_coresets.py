import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import classification, models
from jaxdd.core import sampling
from jaxdd.core.distilled import hard_labels
from jaxdd.core.normalization import fit
from jaxdd.core.parallel import make_mesh
from jaxdd.core.sampling import real_set
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import MethodConfig, Sources, coresets, initial_distilled
from jaxdd.models import MLP

SIZES = (7, 11, 9)  # examples of each class: classes of different size are padded


def greedy_herding(features, count):
    mean, chosen = features.mean(0), []
    for _ in range(count):
        gaps = {
            i: np.linalg.norm(mean - features[[*chosen, i]].mean(0)) for i in range(len(features)) if i not in chosen
        }
        chosen.append(min(gaps, key=gaps.get))
    return chosen


def greedy_k_center(features, count):
    chosen = [int(np.argmin(np.linalg.norm(features - features.mean(0), axis=1)))]
    while len(chosen) < count:
        gaps = [min(np.linalg.norm(f - features[j]) for j in chosen) for f in features]
        gaps = [-1 if i in chosen else gap for i, gap in enumerate(gaps)]
        chosen.append(int(np.argmax(gaps)))
    return chosen


GREEDY = {"herding": greedy_herding, "k_center": greedy_k_center}


@pytest.fixture(scope="module")
def problem():
    """Random images of three classes, a network and three random experts of it."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), SIZES))
    images = rng.integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
    model = models.build(MLP(width=5, depth=1), (4, 4, 1), 3)
    size = ravel_pytree(model.init(jax.random.key(0)))[0].size
    final = rng.normal(size=(3, size)).astype(np.float32)
    line = np.zeros(2, np.float32)
    experts = Trajectories(np.zeros((3, 2, size), np.float32), final, line, line, line[0], line.astype(np.int32))
    return classification(model, 3), real_set(images, labels, 3, fit("standard", images)), experts


@pytest.mark.parametrize("name", GREEDY)
@pytest.mark.parametrize("count", [1, 4, 10])
def test_greedy_selection_is_that_of_numpy(name, count):
    rng = np.random.default_rng(count)
    for size in (10, 13):
        features = rng.normal(size=(size, 3))
        padded = np.concatenate([features, 100 * rng.normal(size=(15 - size, 3))]).astype(np.float32)
        valid = jnp.arange(15) < size
        chosen = np.asarray(select_rows(name, padded, valid, count))
        assert chosen.dtype == np.int32
        assert chosen.tolist() == GREEDY[name](padded[:size].astype(np.float64), count)


@functools.partial(jax.jit, static_argnames=("name", "count"))
def select_rows(name, features, valid, count):
    return coresets.GREEDY[name](features, valid, count)


@pytest.mark.parametrize("name", GREEDY)
def test_equal_examples_are_not_chosen_twice(name):
    # Two images four times each: six of eight cannot be told apart by their distances.
    features = jnp.repeat(jnp.array([[0.0, 1.0], [2.0, 0.0]]), 4, axis=0)
    features = jnp.concatenate([features, jnp.zeros((2, 2))])
    chosen = np.asarray(select_rows(name, features, jnp.arange(10) < 8, 6))
    assert len(set(chosen.tolist())) == 6
    assert chosen.max() < 8


@pytest.mark.parametrize("features_of", ["expert", "pixels"])
@pytest.mark.parametrize("name", GREEDY)
def test_selection_is_in_the_features_of_each_class(problem, name, features_of):
    task, real, experts = problem
    unravel = ravel_pytree(task.model.init(jax.random.key(0)))[1]
    images = real.normalization(jnp.asarray(real.inputs))
    if features_of == "expert":
        features = task.model.features(unravel(jnp.asarray(experts.final[0])), images)
    else:
        features, experts = images.reshape(len(images), -1), None
    features = np.asarray(features, np.float64)
    chosen = jax.jit(lambda key: coresets.select(name, key, task, Sources(real, experts), 5))(jax.random.key(0))
    for label, rows in enumerate(np.asarray(chosen)):
        members = np.flatnonzero(real.targets == label)
        assert rows.tolist() == members[GREEDY[name](features[members], 5)].tolist()


@pytest.mark.parametrize("chunk", [4, 27, 500])
def test_features_do_not_depend_on_the_chunk(problem, monkeypatch, chunk):
    task, real, _ = problem
    monkeypatch.setattr(sampling, "over_all", functools.partial(sampling.over_all, largest=chunk))
    features = coresets.real_features(task, real, None)
    expected = np.asarray(real.normalization(jnp.asarray(real.inputs))).reshape(27, -1)
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_features_of_a_batch_normalized_network_do_not_depend_on_the_devices(problem):
    _, real, _ = problem
    model = models.build(models.ConvNet(width=4, depth=1, norm="batch"), (4, 4, 1), 3)
    task, params = classification(model, 3), model.init(jax.random.key(1))
    images = real.normalization(jnp.asarray(real.inputs))
    for devices in (1, 8):
        with jax.set_mesh(make_mesh(jax.devices()[:devices])):
            found = coresets.real_features(task, real, params)
        np.testing.assert_allclose(found, model.features(params, images), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def start(problem):
    """First distilled set of three images per class."""
    task, real, experts = problem

    @functools.cache
    def build(init, labels, seed=0):
        config = MethodConfig(ipc=3, init=init, labels=labels)
        sources = Sources(real, experts)
        first = jax.jit(lambda key: initial_distilled(key, task, sources, config, lr=0.03))
        return first(jax.random.key(seed))

    return build


@pytest.mark.parametrize("init", ["real", "correct", "herding", "k_center"])
def test_first_images_are_real_ones_of_their_class_each_once(problem, start, init):
    _, real, _ = problem
    distilled = start(init, "hard")
    images = np.asarray(real.normalization(jnp.asarray(real.inputs)))
    chosen = np.asarray(distilled.images)
    found = [np.flatnonzero((np.abs(images - image) < 1e-6).all((1, 2, 3))).item() for image in chosen]
    assert len(set(found)) == 9
    assert real.targets[found].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(distilled.labels, hard_labels(np.repeat(np.arange(3), 3), 3))
    np.testing.assert_allclose(distilled.lr, 0.03, rtol=1e-6)


def test_random_images_follow_the_key(start):
    assert not np.array_equal(start("real", "hard", 0).images, start("real", "hard", 1).images)
    np.testing.assert_array_equal(start("herding", "hard", 0).images, start("herding", "hard", 1).images)


def test_images_that_the_expert_classifies_right_come_first(problem):
    task, real, experts = problem
    unravel = ravel_pytree(task.model.init(jax.random.key(0)))[1]
    images = real.normalization(jnp.asarray(real.inputs))
    right = np.argmax(task.model.apply(unravel(jnp.asarray(experts.final[0])), images), -1) == real.targets
    choose = jax.jit(
        lambda key, ipc: coresets.select("correct", key, task, Sources(real, experts), ipc), static_argnums=1
    )
    seen = set()
    for seed in range(20):
        for label, rows in enumerate(np.asarray(choose(jax.random.key(seed), 5))):
            assert np.all(real.targets[rows] == label) and len(set(rows.tolist())) == 5
            assert right[rows].sum() == min(5, right[real.targets == label].sum())
            seen.update(rows[right[rows]].tolist())
    assert seen == set(np.flatnonzero(right))  # all that are right, and some classes have too few and some enough
    counts = np.bincount(real.targets[right], minlength=3)
    assert counts.min() < 5 <= counts.max()


@pytest.mark.parametrize("labels", ["soft", "learned"])
def test_soft_labels_are_the_mean_logits_of_the_last_experts(problem, start, labels):
    task, _, experts = problem
    distilled = start("real", labels)
    unravel = ravel_pytree(task.model.init(jax.random.key(0)))[1]
    logits = [np.asarray(task.model.apply(unravel(jnp.asarray(flat)), distilled.images)) for flat in experts.final]
    np.testing.assert_allclose(distilled.labels, np.mean(logits, axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(distilled.images, start("real", "hard").images, rtol=1e-5, atol=1e-5)


def test_labels_are_those_of_the_experts_that_are_right(problem):
    task, real, experts = problem
    config = MethodConfig(ipc=8, labels="soft", teachers="right")
    build = jax.jit(lambda key: initial_distilled(key, task, Sources(real, experts), config, lr=0.1))
    distilled = build(jax.random.key(0))
    unravel = ravel_pytree(task.model.init(jax.random.key(0)))[1]
    logits = np.stack([task.model.apply(unravel(jnp.asarray(flat)), distilled.images) for flat in experts.final])
    counts = []
    for i, label in enumerate(np.repeat(np.arange(3), 8)):
        mine = [of_expert[i] for of_expert in logits if of_expert[i].argmax() == label]
        np.testing.assert_allclose(distilled.labels[i], np.mean(mine or logits[:, i], axis=0), rtol=1e-5, atol=1e-5)
        counts.append(len(mine))
    assert {0, len(logits)} < set(counts)  # none, some and all are right


def test_noise_is_standard_normal(start):
    images = np.asarray(start("noise", "hard").images)
    assert images.shape == (9, 4, 4, 1)
    assert abs(images.mean()) < 4 / np.sqrt(images.size)
    assert 0.8 < images.std() < 1.2
    assert len(np.unique(images)) == images.size


def test_soft_labels_need_experts(problem):
    task, real, _ = problem
    with pytest.raises(ValueError, match="method.labels='soft' .* train experts first"):
        initial_distilled(jax.random.key(0), task, Sources(real), MethodConfig(labels="soft"), lr=0.1)


def test_coreset_is_made_of_real_images_and_says_what_it_needs():
    with pytest.raises(ValueError, match="method.init is 'noise'"):
        coresets.Config(init="noise")
    assert not coresets.Config(init="real").needs_experts
    assert coresets.Config(init="herding").needs_experts
    assert coresets.Config(labels="soft").needs_experts
    assert coresets.Config(init="correct").needs_experts
    assert coresets.Config().steps == coresets.Config().snapshots_needed == 0
