import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.core.augment import dsa
from jaxdd.methods import Optimizer, Sources, dm
from tests.helpers import class_batch, distilled_set, finite_difference, random_like


def setting(toy, name="mlp", augment="none"):
    task = toy(jnp.float64, name=name)[0]
    config = dm.Config(ipc=2, real_batch=5, augment=augment, image_optimizer=Optimizer("sgd", 0.3, 0.5))
    method = config.build(task)
    state = jax.jit(method.init)(jax.random.key(0), distilled_set(2), None)
    batch = dm.Batch(class_batch(5, 3), jax.random.split(jax.random.key(9), 3), jax.random.key(8))
    return task.model, method, state, batch


def oracle(model, augment, state, batch, weights):
    @jax.jit
    def features(images, key):
        return model.features(model.init(batch.network), augment(key, images))

    total = 0.0
    for c in range(3):
        both = np.concatenate([state.distilled.images[2 * c : 2 * c + 2], batch.real.inputs[c]])
        phi = np.asarray(features(both, batch.keys[c]))
        total += ((phi[:2].sum(0) / 2 - np.asarray(weights)[c] @ phi[2:]) ** 2).sum()
    return total


@pytest.mark.parametrize(("name", "augment"), [("convnet", "none"), ("mlp", "scale_flip")])
def test_objective_is_that_of_explicit_features(x64, toy, name, augment):
    model, method, state, batch = setting(toy, name, augment)

    @jax.jit
    def slopes(images, weights):
        def objective(images, weights):
            weighted = batch._replace(real=batch.real._replace(weights=weights))
            return method.objective(state.distilled._replace(inputs=images), state, weighted)

        return jax.value_and_grad(objective, (0, 1))(images, weights)

    point = (state.distilled.images, batch.real.weights)
    value, gradients = slopes(*point)
    transform = dsa(augment, siamese=True)
    np.testing.assert_allclose(value, oracle(model, transform, state, batch, point[1]), rtol=1e-10)
    for i, gradient in enumerate(gradients):
        along = random_like(gradient)
        slope = finite_difference(lambda x, i=i: slopes(*point[:i], x, *point[i + 1 :])[0], point[i], along)
        np.testing.assert_allclose(jnp.vdot(gradient, along), slope, rtol=1e-6)
    # Equal weights are the published mean.
    equal = np.full((3, 5), 1 / 5)
    published = oracle(model, transform, state, batch, equal)
    np.testing.assert_allclose(slopes(point[0], equal)[0], published, rtol=1e-10)
    assert abs(published - value) > 1e-6


def test_a_step_descends_the_objective(x64, toy):
    _, method, state, batch = setting(toy)
    after, info = jax.jit(method.step)(jax.random.key(1), state, batch)
    value, slope = jax.jit(jax.value_and_grad(method.objective))(state.distilled, state, batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    np.testing.assert_allclose(info["image_gradient"], np.linalg.norm(slope.inputs), rtol=1e-12)
    expected = state.distilled.images - 0.3 * slope.inputs
    np.testing.assert_allclose(after.distilled.images, expected, rtol=1e-10, atol=1e-14)


def test_every_step_has_its_own_network(stripes, toy):
    method = dm.Config(real_batch=2).build(toy(jnp.float32)[0])
    sample, sources = jax.jit(method.sample), Sources(stripes.real_set())
    keys = [jax.random.key_data(sample(jax.random.key(i), jnp.int32(0), sources).network) for i in range(3)]
    assert len({tuple(np.asarray(key)) for key in keys}) == 3


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="method.real_batch is 0"):
        dm.Config(real_batch=0)
    with pytest.raises(ValueError, match="features do not depend on labels; choose hard or soft"):
        dm.Config(labels="learned")
