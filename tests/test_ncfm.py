from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.core.augment import dsa
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import Optimizer, Sources, ncfm
from jaxdd.types import Snapshots
from tests.helpers import class_batch, distilled_set, dot, finite_difference, random_like


def setting(toy, name="mlp", **settings):
    task = toy(jnp.float64, name=name)[0]
    sgd = Optimizer("sgd", 0.01, 0.5)
    config = ncfm.Config(**{"ipc": 2, "real_batch": 5, "frequencies": 7, "image_optimizer": sgd, **settings})
    method = config.build(task)
    state = jax.jit(method.init)(jax.random.key(0), distilled_set(2), None)
    start, final = jax.vmap(lambda key: ravel_pytree(task.model.init(key))[0])(jax.random.split(jax.random.key(5)))
    batch = ncfm.Batch(
        real=class_batch(5, 3),
        keys=jax.random.split(jax.random.key(9), (3, 2)),
        start=Snapshots(jnp.int32(0), jnp.int32(0), start),
        final=final,
        progress=jnp.asarray(0.3, jnp.float64),
    )
    return SimpleNamespace(task=task, config=config, method=method, state=state, batch=batch)


def scaled(sampler, z, noise):
    """Frequencies of a sampler, in NumPy: each of the three distinct rows of noise is normalized among the three."""
    groups, first = np.unique(np.arange(len(noise)) // 16, return_index=True)
    assert len(groups) == 3
    x = noise[first]
    for i, layer in enumerate(sampler):
        y = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        y = (y - y.mean(0)) / np.sqrt(((y - y.mean(0)) ** 2).mean(0) + 1e-5)
        y = y * np.asarray(layer["scale"]) + np.asarray(layer["shift"])
        x = np.tanh(y) if i == 2 else np.where(y > 0, y, 0.2 * y)
    return z * x[np.arange(len(z)) // 16]


def oracle(s, weights):
    """The objective by complex numbers, frequency by frequency."""
    model, unravel, augment = s.task.model, s.task.unravel, dsa(s.config.augment, siamese=True)

    @jax.jit
    def network(images, keys):
        images, flat = augment(keys[0], images), 0.7 * s.batch.start.params + 0.3 * s.batch.final
        features, logits = model.features(unravel(flat), images), model.apply(unravel(s.batch.final), images)
        return features, logits, drawn(keys[1], features.shape[1])

    def drawn(key, features):
        if not s.state.sampler:
            return jax.random.normal(key, (s.config.frequencies, features), jnp.float64)
        normal_key, noise_key = jax.random.split(key)
        groups = jax.random.normal(noise_key, (3, features), jnp.float64)
        z = jax.random.normal(normal_key, (s.config.frequencies, features), jnp.float64)
        return jnp.stack([z, groups[np.arange(s.config.frequencies) // 16]])

    total = 0.0
    for c in range(3):
        mine = slice(2 * c, 2 * c + 2)
        both = np.concatenate([s.state.distilled.images[mine], s.batch.real.inputs[c]])
        phi, logits, t = map(np.asarray, network(both, s.batch.keys[c]))
        t = scaled(s.state.sampler, *t) if s.state.sampler else t
        phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
        terms = []
        for frequency in t:
            phi_s = np.mean(np.exp(1j * phi[:2] @ frequency))
            phi_r = np.sum(np.asarray(weights)[c] * np.exp(1j * phi[2:] @ frequency))
            amplitude = (abs(phi_r) - abs(phi_s)) ** 2
            phase = 2 * (abs(phi_r) * abs(phi_s) - (phi_r * np.conj(phi_s)).real)
            terms.append(np.sqrt(s.config.amplitude * amplitude + (1 - s.config.amplitude) * phase))
        log_p = logits[:2] - np.log(np.exp(logits[:2]).sum(1, keepdims=True))
        targets = np.asarray(s.state.distilled.targets[mine])
        total += 300 * np.mean(terms) - s.config.calibration * (targets * log_p).sum(1).mean()
    return total


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "convnet"},
        {"augment": "scale_flip", "amplitude": 0.3, "calibration": 20.0},
        {"frequencies": 40, "sampler": Optimizer("sgd", 0.5, 0.0)},
    ],
    ids=["published", "augmented", "adversarial"],
)
def test_objective_is_the_printed_formula(x64, toy, settings):
    s = setting(toy, **settings)

    @jax.jit
    def slopes(images, weights):
        def objective(images, weights):
            weighted = s.batch._replace(real=s.batch.real._replace(weights=weights))
            return s.method.objective(s.state.distilled._replace(inputs=images), s.state, weighted)

        return jax.value_and_grad(objective, (0, 1))(images, weights)

    point = (s.state.distilled.images, s.batch.real.weights)
    value, gradients = slopes(*point)
    np.testing.assert_allclose(value, oracle(s, point[1]), rtol=1e-9)
    for i, gradient in enumerate(gradients):
        along = random_like(gradient)
        slope = finite_difference(lambda x, i=i: slopes(*point[:i], x, *point[i + 1 :])[0], point[i], along)
        np.testing.assert_allclose(jnp.vdot(gradient, along), slope, rtol=1e-6)
    # Equal weights are the published mean.
    equal = np.full((3, 5), 1 / 5)
    published = oracle(s, equal)
    np.testing.assert_allclose(slopes(point[0], equal)[0], published, rtol=1e-9)
    assert abs(published - value) > 1e-6


def test_a_step_descends_the_objective(x64, toy):
    s = setting(toy)
    after, info = jax.jit(s.method.step)(jax.random.key(1), s.state, s.batch)
    value, slope = jax.jit(jax.value_and_grad(s.method.objective))(s.state.distilled, s.state, s.batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    np.testing.assert_allclose(info["image_gradient"], np.linalg.norm(slope.inputs), rtol=1e-12)
    expected = s.state.distilled.images - 0.01 * slope.inputs
    np.testing.assert_allclose(after.distilled.images, expected, rtol=1e-10, atol=1e-14)


def test_the_sampler_opposes_the_set(x64, toy):
    s = setting(toy, frequencies=40, sampler=Optimizer("sgd", 0.5, 0.0))

    def distance(sampler):
        return s.method.objective(s.state.distilled, s.state._replace(sampler=sampler), s.batch)

    slope = jax.jit(jax.value_and_grad(distance))

    after = jax.jit(s.method.step)(jax.random.key(1), s.state, s.batch)[0]
    value, gradient = slope(s.state.sampler)
    along = random_like(s.state.sampler)
    np.testing.assert_allclose(
        dot(gradient, along),
        finite_difference(lambda x: slope(x)[0], s.state.sampler, along, 1e-5),
        rtol=1e-6,
    )
    chex.assert_trees_all_close(
        after.sampler, jax.tree.map(lambda x, g: x + 0.5 * g, s.state.sampler, gradient), rtol=1e-10, atol=1e-14
    )
    assert slope(after.sampler)[0] > value
    assert s.method.objective(after.distilled, s.state, s.batch) < value


def test_networks_lie_between_the_start_and_the_end_of_one_expert(stripes, toy):
    method = ncfm.Config(real_batch=2).build(toy(jnp.float32)[0])
    final = jnp.arange(3.0)[:, None] * jnp.ones((1, 4))
    ones = jnp.ones(1)
    experts = Trajectories(jnp.zeros((3, 1, 4)), final, ones, ones, jnp.asarray(1.0), ones)
    sample, sources = jax.jit(method.sample), Sources(stripes.real_set(), experts)
    batches = [sample(jax.random.key(i), jnp.int32(0), sources) for i in range(20)]
    assert {int(b.start.expert) for b in batches} == {0, 1, 2}
    for b in batches:
        assert b.start.position == 0
        np.testing.assert_array_equal(b.final, final[b.start.expert])
    progress = [float(b.progress) for b in batches]
    assert 0 <= min(progress) < 0.3 and 0.7 < max(progress) < 1


def test_impossible_settings_are_refused():
    for settings, message in [
        ({"real_batch": 0}, "method.real_batch is 0"),
        ({"frequencies": 0}, "method.frequencies is 0"),
        ({"frequencies": 31, "sampler": Optimizer()}, "method.frequencies is 31; .* take 32 or more"),
        ({"amplitude": 1.5}, "method.amplitude is 1.5"),
        ({"calibration": -1.0}, "method.calibration is -1.0"),
        ({"labels": "learned"}, "only the calibration sees labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            ncfm.Config(**settings)
    assert ncfm.Config().snapshots_needed == 1 and ncfm.Config().needs_experts
