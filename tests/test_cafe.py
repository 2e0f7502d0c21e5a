"""CAFE against loops written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.core.tasks import all_items
from jaxdd.methods import Optimizer, cafe
from jaxdd.methods.cafe import Recent
from jaxdd.types import Model
from tests.helpers import class_batch, distilled_set, dot, finite_difference, random_like

CLASSES, PER_CLASS, BATCH = 3, 2, 5
SETTINGS = dict(ipc=PER_CLASS, real_batch=BATCH, early_weight=0.2, discrimination=0.03, image_optimizer=Optimizer(lr=1))


class Setting:
    """CAFE on a small network in float64, its state, and a batch with weights that are not equal."""

    def __init__(self, toy, **changes):
        self.task, queries = toy(jnp.float64)
        self.config = cafe.Config(**SETTINGS | changes)
        self.method = self.config.build(self.task)
        self.state = self.method.init(jax.random.key(2), distilled_set(PER_CLASS), None)
        keys = jax.random.split(jax.random.key(5), CLASSES)
        self.batch = cafe.Batch(class_batch(BATCH, CLASSES), keys, queries)

    def objective(self, distilled, batch=None):
        return self.method.objective(distilled, self.state, batch or self.batch)

    @functools.cached_property
    def jitted(self):
        return jax.jit(self.method.step)

    def step(self, state=None, key=0):
        return self.jitted(jax.random.key(key), state or self.state, self.batch)


@pytest.fixture
def setting(x64, toy):
    return lambda **changes: Setting(toy, **changes)


def test_objective_is_that_of_explicit_loops(setting):
    made = setting()
    model, network = made.task.model, made.state.network
    synthetic, real = all_items(made.task, made.state.distilled), made.batch.real

    def seen(images):
        (block,) = (np.asarray(x) for x in model.maps(network, images))  # the one activation of a network of depth one
        return block, np.asarray(model.features(network, images))

    total, centers = 0.0, []
    for c in range(CLASSES):
        block, features = seen(synthetic.inputs[c * PER_CLASS : (c + 1) * PER_CLASS])
        real_block, real_features = seen(real.inputs[c])
        weights = np.asarray(real.weights[c])
        mean_block = sum(w * x for w, x in zip(weights, real_block, strict=True))
        mean_features = sum(w * x for w, x in zip(weights, real_features, strict=True))
        total += np.sum((block.mean(0) - mean_block) ** 2) + 2 * np.sum((features.mean(0) - mean_features) ** 2)
        centers.append(features.mean(0))
    for c in range(CLASSES):
        for w, x in zip(np.asarray(real.weights[c]), seen(real.inputs[c])[1], strict=True):
            logits = np.array([x @ center for center in centers])
            total -= 0.03 * BATCH * w * (logits[c] - np.log(np.exp(logits).sum()))
    np.testing.assert_allclose(made.objective(made.state.distilled), total, rtol=1e-12)


def test_early_maps_weigh_less(x64):
    rng = np.random.default_rng(0)

    def images(count):
        maps = tuple(jnp.asarray(rng.normal(size=(CLASSES, size))) for size in (4, 3, 2))
        features = jnp.asarray(rng.normal(size=(CLASSES, count, 2)))
        return cafe.Aligned(maps, features, jnp.full((CLASSES, count), 1 / count))

    a, b = images(2), images(6)
    apart = [float(jnp.sum((x - y) ** 2)) for x, y in zip(a.maps, b.maps, strict=True)]
    ours = cafe.feature_loss(a, b, early_weight=0.1, discrimination=0)
    features = np.sum((np.asarray(a.features).mean(1) - np.asarray(b.features).mean(1)) ** 2)
    none = cafe.feature_loss(a._replace(maps=()), b._replace(maps=()), early_weight=0.1, discrimination=0)
    np.testing.assert_allclose(none, 2 * features, rtol=1e-12)  # of logistic regression there are no maps
    np.testing.assert_allclose(ours, 0.1 * apart[0] + 0.1 * apart[1] + apart[2] + 2 * features, rtol=1e-12)


def test_a_step_descends_the_objective(setting):
    made = setting(longest=1)
    state, info = made.step()
    step = jax.tree.map(jnp.subtract, made.state.distilled, state.distilled)
    direction = random_like(made.state.distilled)._replace(labels=0 * step.labels, lr=0 * step.lr)
    slope = finite_difference(jax.jit(made.objective), made.state.distilled, direction)
    np.testing.assert_allclose(dot(step, direction), slope, rtol=1e-6)
    np.testing.assert_allclose(info["loss"], made.objective(made.state.distilled), rtol=1e-12)
    np.testing.assert_allclose(info["image_gradient"], np.linalg.norm(step.inputs), rtol=1e-12)


def test_the_learning_rate_is_halved_three_times(setting):
    made = setting(steps=10, longest=1, image_optimizer=Optimizer("sgd", 1.0, 0.0))
    rates, state = [], made.state
    slope = jax.jit(jax.grad(made.method.objective))
    for _ in range(10):
        gradient = slope(state.distilled, state, made.batch).inputs
        new, _ = made.step(state)
        rates.append(np.vdot(state.distilled.inputs - new.distilled.inputs, gradient) / np.vdot(gradient, gradient))
        state = new
    np.testing.assert_allclose(rates, [1] * 6 + [0.5] * 2 + [0.25] + [0.125], rtol=1e-9)


def by_hand(made, state, key):
    """What a step does with the network: every loop in Python."""
    accuracy = lambda network: np.mean(  # noqa: E731
        np.argmax(made.task.model.apply(network, made.batch.queries.inputs), -1) == np.arange(8) % 3
    )
    recent = [accuracy(state.network), *np.asarray(state.accuracies.values)[: int(state.accuracies.seen)]][:10]
    if len(recent) == 10 and max(recent) - min(recent) < made.config.settled:
        return made.task.model.init(key), 0, recent
    distilled = made.step(state)[0].distilled
    items, network, seen = all_items(made.task, distilled), state.network, []
    slope_of = jax.jit(jax.grad(lambda p: items.weights @ made.task.losses(p, items)))
    lr = made.config.network_optimizer.lr
    while len(seen) < made.config.longest and not (
        len(seen) >= 10 and max(seen[:10]) - min(seen[:10]) > made.config.moved
    ):
        slope = slope_of(network)
        network = jax.tree.map(lambda p, g: p - lr * g, network, slope)
        seen.insert(0, accuracy(network))
    return network, len(seen), recent


@pytest.mark.parametrize("moved", [0.2, 2.0])
def test_networks_are_trained_until_they_move(setting, moved):
    made = setting(moved=moved, longest=40, network_optimizer=Optimizer("sgd", 0.2, 0.0))
    network, epochs, recent = by_hand(made, made.state, jax.random.key(0))
    state, info = made.step()
    assert epochs == info["network_epochs"] == {2.0: 40}.get(moved, epochs)
    assert moved == 2.0 or 10 <= epochs < 40
    for ours, theirs in zip(jax.tree.leaves(state.network), jax.tree.leaves(network), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert info["query_accuracy"] == recent[0] == state.accuracies.values[0]
    assert state.accuracies.seen == 1


@pytest.mark.parametrize("latest, replaced", [(0.5, True), (0.9, False)])
def test_a_network_that_has_settled_is_replaced(setting, latest, replaced):
    made = setting(settled=0.3, longest=1)
    now = float(made.step()[1]["query_accuracy"])
    others = jnp.full(10, now).at[3].add(0.29 if replaced else 0.31)
    made.state = made.state._replace(accuracies=Recent(others, jnp.int32(9)))
    state, info = made.step(key=4)
    assert info["network_epochs"] == (0 if replaced else 1)
    assert state.accuracies.seen == (0 if replaced else 10)
    fresh = made.task.model.init(jax.random.key(4))
    same = [np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (state.network, fresh)), strict=True)]
    assert all(same) == replaced


def test_what_cannot_be_aligned_is_refused(toy):
    task, _ = toy(jnp.float32)
    bare = Model(task.model.init, task.model.apply, task.model.features)
    with pytest.raises(ValueError, match="cafe aligns the feature maps of a network, and this one has none"):
        cafe.Config().build(task.__class__(**{**vars(task), "model": bare}))
    with pytest.raises(ValueError, match="features do not depend on labels"):
        cafe.Config(labels="learned")
