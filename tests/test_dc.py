import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled, hard_labels
from jaxdd.core.tasks import cross_entropy
from jaxdd.methods import Optimizer, Sources, dc, formation
from jaxdd.models import MLP, ConvNet
from jaxdd.types import Examples
from tests.helpers import class_batch, distilled_set, finite_difference, random_like


def setting(toy, name="mlp", **settings):
    task = toy(jnp.float64, name=name)[0]
    config = dc.Config(**{"ipc": 2, "real_batch": 5, "labels": "learned", **settings})
    method = config.build(task)
    state = jax.jit(method.init)(jax.random.key(0), distilled_set(config.items_per_class), None)
    batch = dc.Batch(class_batch(5, 3), jax.random.split(jax.random.key(9), 3), jnp.asarray(False), None)
    return SimpleNamespace(model=task.model, config=config, method=method, state=state, batch=batch)


def oracle(model, config, state, batch):
    """The objective in NumPy, from the gradient of every example on its own."""
    losses, augment = cross_entropy(model), dsa(config.augment, siamese=True)

    @jax.jit
    def per_example(images, targets, key):
        def loss(params, image, target):
            one = Examples(image[None], target[None], jnp.ones(1), jnp.zeros(1, int))
            return losses(params, one)[0]

        return jax.vmap(jax.grad(loss), (None, 0, 0))(state.network, augment(key, images), targets)

    total = 0.0
    decoded = jax.jit(lambda stored: formation.decode(stored, config.factor))(state.distilled)
    images, targets = (np.asarray(x) for x in (decoded.images, decoded.targets))
    size = config.items_per_class
    for c in range(3):
        mine = slice(c * size, (c + 1) * size)
        both = (
            np.concatenate([images[mine], batch.real.inputs[c]]),
            np.concatenate([targets[mine], batch.real.targets[c]]),
        )
        gradients = [np.asarray(g) for g in jax.tree.leaves(per_example(*both, batch.keys[c]))]
        weights = np.asarray(batch.real.weights[c])
        pairs = [(g[:size].mean(0), np.tensordot(weights, g[size:], 1)) for g in gradients]
        for g, h in pairs:
            if config.distance == "mse" or (config.distance == "convolution_mse" and g.ndim == 4):
                total += ((g - h) ** 2).sum()
            if config.distance == "convolution_l1" and g.ndim == 4:
                total += np.abs(g - h).sum()
            if config.distance == "cosine" and g.ndim > 1:
                for j in range(g.shape[-1]):
                    a, b = g[..., j].ravel(), h[..., j].ravel()
                    total += 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)
    return total


VARIANTS = {
    "dc": {"name": "convnet"},
    "dsa": {"augment": "scale_flip", "distance": "mse"},
    "idc": {"name": "convnet", "distance": "convolution_mse", "factor": 2, "network": "real", "ipc": 1},
    "idc, absolute": {"name": "convnet", "distance": "convolution_l1", "factor": 2, "network": "real", "ipc": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_objective_is_that_of_explicit_per_layer_gradients(x64, toy, name):
    s = setting(toy, **VARIANTS[name])

    @jax.jit
    def slopes(images, labels, weights):
        def objective(images, labels, weights):
            batch = s.batch._replace(real=s.batch.real._replace(weights=weights))
            return s.method.objective(s.state.distilled._replace(inputs=images, labels=labels), s.state, batch)

        return jax.value_and_grad(objective, (0, 1, 2))(images, labels, weights)

    point = (s.state.distilled.images, s.state.distilled.labels, s.batch.real.weights)
    value, gradients = slopes(*point)
    np.testing.assert_allclose(value, oracle(s.model, s.config, s.state, s.batch), rtol=1e-9)
    for i, gradient in enumerate(gradients):
        along = random_like(gradient)
        slope = finite_difference(lambda x, i=i: slopes(*point[:i], x, *point[i + 1 :])[0], point[i], along)
        np.testing.assert_allclose(jnp.vdot(gradient, along), slope, rtol=1e-6)
        assert float(jnp.abs(gradient).max()) > 0


def test_equal_weights_give_the_published_mean(x64, toy):
    s = setting(toy)
    equal = s.batch.real._replace(weights=jnp.full_like(s.batch.real.weights, 1 / 5))
    losses = cross_entropy(s.model)

    @jax.jit
    def published(images):
        total = 0.0
        for c in range(3):
            mine, real = images[2 * c : 2 * c + 2], jax.tree.map(lambda x, c=c: x[c], equal)
            targets = s.state.distilled.targets[2 * c : 2 * c + 2]
            g_s = jax.grad(lambda p: losses(p, Examples(mine, targets, None, None)).mean())(s.state.network)  # noqa: B023
            g_r = jax.grad(lambda p: losses(p, real).mean())(s.state.network)  # noqa: B023
            for g, h in zip(jax.tree.leaves(g_s), jax.tree.leaves(g_r), strict=True):
                if g.ndim > 1:
                    norms = jnp.linalg.norm(g, axis=0) * jnp.linalg.norm(h, axis=0)
                    total += jnp.sum(1 - (g * h).sum(0) / (norms + 1e-6))
        return total

    value = jax.jit(s.method.objective)(s.state.distilled, s.state, s.batch._replace(real=equal))
    np.testing.assert_allclose(value, published(s.state.distilled.images), rtol=1e-10)


@pytest.mark.parametrize(("factor", "labels"), [(1, "hard"), (2, "learned")])
def test_a_step_descends_the_objective(x64, toy, factor, labels):
    rates = {"image_optimizer": Optimizer("sgd", 0.3, 0.5), "label_optimizer": Optimizer("sgd", 0.2, 0.0)}
    s = setting(toy, factor=factor, labels=labels, ipc=1, **rates)
    after, info = jax.jit(s.method.step)(jax.random.key(1), s.state, s.batch)
    before = s.state.distilled
    value, slope = jax.jit(jax.value_and_grad(s.method.objective))(before, s.state, s.batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    np.testing.assert_allclose(info["image_gradient"], np.linalg.norm(slope.inputs), rtol=1e-12)
    np.testing.assert_allclose(after.distilled.images, before.images - 0.3 * slope.inputs, rtol=1e-10, atol=1e-14)
    moved = 0.2 * slope.labels if labels == "learned" else 0
    np.testing.assert_allclose(after.distilled.labels, before.labels - moved, rtol=1e-10, atol=1e-14)
    assert np.abs(slope.labels).max() > 0


@pytest.mark.parametrize(("network", "momentum", "decay"), [("distilled", 0.0, 0.0), ("real", 0.9, 0.1)])
def test_loops_are_those_written_by_hand(stripes, network, momentum, decay):
    # Three steps a network, two rounds of training between them; the network is drawn anew exactly every three steps.
    model = models.build(MLP(width=4, depth=1), (8, 8, 1), 3)
    config = dc.Config(ipc=2, real_batch=6, outer_loop=3, inner_loop=2, network=network, network_batch=6)
    assert config.network_optimizer == Optimizer("sgd", 0.01, 0.0)  # published for DC
    config = dataclasses.replace(config, network_optimizer=Optimizer("sgd", 0.01, momentum), network_weight_decay=decay)
    method, sources = config.build(classification(model, 3)), Sources(stripes.real_set())
    images = jax.random.normal(jax.random.key(2), (6, 8, 8, 1))
    first = Distilled(images, hard_labels(jnp.repeat(jnp.arange(3), 2), 3), jnp.asarray(0.01))
    init, step, sample, fresh = (jax.jit(f) for f in (method.init, method.step, method.sample, model.init))
    losses = cross_entropy(model)

    @jax.jit
    def sgd(params, velocity, images, targets):
        def loss(params):
            squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
            return losses(params, Examples(images, targets, None, None)).mean() + decay / 2 * squares

        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, jax.grad(loss)(params))
        return jax.tree.map(lambda p, v: p - 0.01 * v, params, velocity), velocity

    state, replaced = init(jax.random.key(0), first, None), []
    network_now = state.network
    velocity = jax.tree.map(jnp.zeros_like, network_now)
    for it in range(7):
        batch, key = sample(jax.random.key(100 + it), jnp.int32(it), sources), jax.random.key(200 + it)
        for ours, theirs in zip(jax.tree.leaves(state.network), jax.tree.leaves(network_now), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
        state, _ = step(key, state, batch)
        if bool(batch.last):
            replaced.append(it)
            network_now = fresh(key)
            velocity = jax.tree.map(jnp.zeros_like, network_now)
            continue
        for i in range(2):
            if network == "real":
                drawn = jax.tree.map(lambda x, i=i: x[i], batch.training)
                training = drawn.inputs, drawn.targets
            else:  # the whole set fits into one batch
                training = state.distilled.images, state.distilled.targets
            network_now, velocity = sgd(network_now, velocity, *training)
    assert replaced == [2, 5]


@pytest.mark.parametrize("ipc", sorted(dc.PUBLISHED_LOOPS))
def test_loops_are_published_where_they_are(ipc):
    expected = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    assert dc.Config(ipc=ipc).loops == expected[ipc]


def test_loops_in_between_and_as_set():
    assert [dc.published_loops(ipc) for ipc in (2, 5, 15, 45, 100)] == [(2, 6), (5, 23), (15, 38), (45, 12), (50, 10)]
    assert dc.Config(ipc=10, outer_loop=3).loops == (3, 50)
    assert dc.Config(ipc=10, inner_loop=0).loops == (10, 0)
    assert dc.Config(ipc=10, network="real").loops == (100, 8)


@pytest.mark.parametrize("network", ["distilled", "real"])
def test_a_network_may_stay_untrained(stripes, network):
    model = models.build(MLP(width=2, depth=1), (8, 8, 1), 3)
    config = dc.Config(ipc=1, real_batch=2, outer_loop=5, inner_loop=0, network=network, network_batch=2)
    method = config.build(classification(model, 3))
    first = Distilled(jnp.ones((3, 8, 8, 1)), hard_labels(jnp.arange(3), 3), jnp.asarray(0.01))

    @jax.jit
    def one(key):
        state = method.init(key, first, None)
        batch = method.sample(key, jnp.int32(0), Sources(stripes.real_set()))
        return state, method.step(key, state, batch)[0]

    before, after = one(jax.random.key(0))
    for x, y in zip(jax.tree.leaves(before.network), jax.tree.leaves(after.network), strict=True):
        np.testing.assert_array_equal(x, y)


def test_impossible_settings_are_refused():
    for settings, message in [
        ({"real_batch": 0}, "method.real_batch is 0"),
        ({"network_batch": 0}, "method.network_batch is 0"),
        ({"factor": 0}, "method.factor is 0"),
        ({"outer_loop": 0}, "method.outer_loop is 0"),
        ({"inner_loop": -1}, "method.inner_loop is -1"),
        ({"distance": "angle"}, "distance is 'angle'; choose one of cosine"),
        ({"network": "expert"}, "network is 'expert'; choose one of distilled, real"),
    ]:
        with pytest.raises(ValueError, match=message):
            dc.Config(**settings)


def test_the_memory_of_a_gradient_in_the_weights_is_that_of_one_class():
    def memory(classes):
        model = models.build(ConvNet(width=8, depth=1), (8, 8, 1), classes)
        method = dc.Config(ipc=1).build(classification(model, classes))
        network = model.init(jax.random.key(0))
        images = jnp.zeros((classes, 64, 8, 8, 1))
        targets = jax.nn.one_hot(jnp.zeros((classes, 64), int), classes)
        real = Examples(images, targets, jnp.full((classes, 64), 1 / 64), jnp.zeros((classes, 64), int))
        keys = jax.random.split(jax.random.key(1), classes)
        batch = dc.Batch(real, keys, jnp.asarray(False), None)
        distilled = Distilled(jnp.zeros((classes, 8, 8, 1)), jnp.zeros((classes, classes)), jnp.asarray(0.1))

        def objective(weights):
            state = dc.State(distilled, None, network, None)
            return method.objective(distilled, state, batch._replace(real=real._replace(weights=weights)))

        return jax.jit(jax.grad(objective)).lower(real.weights).compile().memory_analysis().temp_size_in_bytes

    assert memory(10) < 1.3 * memory(2)


def test_the_recipe_of_the_networks_training_reaches_it(stripes):
    # The network sees images that are augmented and mixed as asked, whatever the matching does.
    model = models.build(MLP(width=4, depth=1), (8, 8, 1), 3)
    base = dc.Config(ipc=2, real_batch=6, outer_loop=3, inner_loop=1, network="real", network_batch=6)
    sources = Sources(stripes.real_set())
    first = Distilled(
        jax.random.normal(jax.random.key(2), (6, 8, 8, 1)), hard_labels(jnp.arange(6) % 3, 3), jnp.asarray(0.01)
    )

    def after(**changes):
        method = dataclasses.replace(base, **changes).build(classification(model, 3))
        state, batch = method.init(jax.random.key(0), first, None), method.sample(jax.random.key(1), 0, sources)
        state, info = jax.jit(method.step)(jax.random.key(3), state, batch)
        return jax.flatten_util.ravel_pytree(state.network)[0], info["loss"]

    plain, loss = after()
    for changes in ({"network_cutmix": 1.0}, {"network_augment": "flip+crop"}):
        network, same = after(**changes)
        assert same == loss and np.abs(network - plain).max() > 1e-4
    matched = after(augment="color", network_augment="none")
    np.testing.assert_array_equal(matched[0], plain)
    assert matched[1] != loss
    with pytest.raises(ValueError, match="unknown operation 'shear'"):
        dc.Config(network_augment="shear")
