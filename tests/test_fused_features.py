"""What Inf-Match's released code runs, against NumPy."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.core.augment import dsa
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.methods import Optimizer, Sources, infmatch
from jaxdd.methods.fused_features import Batch, fused_features
from jaxdd.types import Snapshots
from tests.helpers import class_batch, distilled_set, dot, finite_difference, random_like


def released_batch(task):
    networks = jax.vmap(lambda key: ravel_pytree(task.model.init(key))[0])(jax.random.split(jax.random.key(5), 3))
    where, keys = jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(9), 3)
    states = Snapshots(where, where, networks[:2])
    return Batch(class_batch(5, 3), keys, jax.random.key(10), states, networks[2])


def setting(toy, name="mlp", influence=0.2, calibration=1.0, **settings):
    task = toy(jnp.float64, name=name)[0]
    released = infmatch.Released(influence=influence, probes=7, calibration=calibration)
    config = infmatch.Config(
        estimator="released",
        released=released,
        ipc=2,
        checkpoints=2,
        image_optimizer=Optimizer("sgd", 0.01),
        **settings,
    )
    method = config.build(task)
    state = jax.jit(method.init)(jax.random.key(0), distilled_set(2), None)
    return SimpleNamespace(task=task, config=config, method=method, state=state, batch=released_batch(task))


def oracle(s, weights):
    """The objective with gradients of the last layer taken example by example."""
    model, released = s.task.model, s.config.released
    augment = dsa(s.config.augment, siamese=True)
    targets = [np.asarray(s.state.distilled.targets), np.asarray(s.batch.real.targets)]
    total = 0.0
    for c in range(3):
        mine = slice(2 * c, 2 * c + 2)
        means = []
        for images, y, w in [
            (s.state.distilled.images[mine], targets[0][mine], np.full(2, 0.5)),
            (s.batch.real.inputs[c], targets[1][c], np.asarray(weights)[c]),
        ]:
            images, parts = augment(s.batch.keys[c], images), []
            for flat in s.batch.states.params:
                params = s.task.unravel(flat)
                phi, z = np.asarray(model.features(params, images)), np.asarray(model.apply(params, images))
                rows = []
                for f, logits, target in zip(phi, z, y, strict=True):
                    p = np.exp(logits - logits.max())
                    gradient = np.outer(p / p.sum() - target, f)  # of the cross-entropy in the last layer's weights
                    fused = (np.tile(f, (3, 1)) + released.influence * gradient).ravel()
                    rows.append(fused / np.linalg.norm(fused))
                parts.append(np.average(rows, axis=0, weights=w) * np.sum(w))
            means.append(np.concatenate(parts))
        probes = np.asarray(jax.random.normal(s.batch.probes, (7, len(means[0])), jnp.float64))
        a, b = (probes / np.linalg.norm(probes, axis=1, keepdims=True) @ mean for mean in means)
        total += 100 * np.mean((a - b) ** 2 / (a**2 + b**2 + 1e-8))
        logits = np.asarray(
            model.apply(s.task.unravel(s.batch.final), augment(s.batch.keys[c], s.state.distilled.images[mine]))
        )
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        total -= released.calibration * (targets[0][mine] * log_p).sum(1).mean()
    return total


@pytest.mark.parametrize(
    "settings", [{}, {"augment": "scale_flip", "influence": 3.0, "calibration": 0.0, "name": "convnet"}]
)
def test_objective_is_that_of_the_released_code(x64, toy, settings):
    s = setting(toy, **settings)
    slopes = jax.jit(
        jax.value_and_grad(
            lambda images, weights: s.method.objective(
                s.state.distilled._replace(inputs=images),
                s.state,
                s.batch._replace(real=s.batch.real._replace(weights=weights)),
            ),
            (0, 1),
        )
    )
    point = (s.state.distilled.images, s.batch.real.weights)
    value, gradients = slopes(*point)
    np.testing.assert_allclose(value, oracle(s, point[1]), rtol=1e-9)
    along = random_like(point)
    slope = finite_difference(lambda x: slopes(*x)[0], point, along, 1e-5)
    np.testing.assert_allclose(dot(gradients, along), slope, rtol=1e-5)


def test_the_feature_is_the_embedding_where_nothing_is_asked_of_the_last_layer(x64, toy):
    # A network that is right about an example has no gradient there; without ρ there is none either.
    s = setting(toy)

    params, real = s.task.unravel(s.batch.final), jax.tree.map(lambda x: x[0], s.batch.real)
    phi = s.task.model.features(params, real.inputs)
    tiled = jnp.tile(phi / jnp.linalg.norm(phi, axis=1, keepdims=True), (1, 3)) / np.sqrt(3)
    chex.assert_trees_all_close(fused_features(s.task, params, real, 0.0), tiled, rtol=1e-12)
    sure = real._replace(targets=jax.nn.softmax(s.task.model.apply(params, real.inputs)))
    chex.assert_trees_all_close(fused_features(s.task, params, sure, 0.2), tiled, rtol=1e-12)


def test_a_step_descends_the_objective(x64, toy):
    s = setting(toy, labels="learned", label_optimizer=Optimizer("sgd", 0.02))
    after, info = jax.jit(s.method.step)(jax.random.key(1), s.state, s.batch)
    value, slope = jax.jit(jax.value_and_grad(s.method.objective))(s.state.distilled, s.state, s.batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    before = s.state.distilled
    np.testing.assert_allclose(after.distilled.images, before.images - 0.01 * slope.inputs, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(after.distilled.labels, before.labels - 0.02 * slope.labels, rtol=1e-10, atol=1e-14)
    assert np.abs(slope.labels).max() > 0


def test_checkpoints_are_those_of_one_expert_within_the_window(stripes, toy):
    config = infmatch.Config(estimator="released", real_batch=2, checkpoints=3, window=Window(start=2))
    method, ones = config.build(toy(jnp.float32)[0]), jnp.ones(4)
    final = jnp.arange(3.0)[:, None] * jnp.ones((1, 4))
    experts = Trajectories(jnp.zeros((3, 4, 4)), final, ones, ones, jnp.asarray(1.0), ones)
    sample, sources = jax.jit(method.sample), Sources(stripes.real_set(), experts)
    batches = [sample(jax.random.key(i), jnp.int32(0), sources) for i in range(20)]
    assert {int(b.states.expert[0]) for b in batches} == {0, 1, 2}
    assert {int(p) for b in batches for p in b.states.position} == {0, 1}
    for b in batches:
        assert len(set(b.states.expert.tolist())) == 1
        np.testing.assert_array_equal(b.final, final[b.states.expert[0]])


def test_impossible_settings_are_refused():
    for settings, message in [
        ({"cache": 64}, "method.cache is 64; estimator released"),
        ({"batch": 5}, "method.batch is 5; estimator released"),
        ({"released": {"probes": 0}}, "probes is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            released = infmatch.Released(**settings.pop("released", {}))
            infmatch.Config(estimator="released", released=released, **settings)
    assert infmatch.Config(estimator="released").needs_experts
