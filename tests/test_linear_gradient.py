"""Linear gradient matching: its distance against a closed form, and heads on frozen features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core.tasks import all_items
from jaxdd.methods import Optimizer, Sources, linear_gradient
from tests.helpers import distilled_set, dot, finite_difference, random_like


@pytest.fixture
def probe(toy):
    """The toy's task with its network frozen, and its eight examples."""

    def build(dtype):
        task, examples = toy(dtype)
        params = task.model.init(jax.random.key(1))
        return classification(models.frozen(task.model, params, (4, 4, 1), 3), 3), examples, (task.model, params)

    return build


def head_gradient(features, targets, weights, kernel, bias):
    """∂/∂W Σ w CE, in NumPy: φᵀ (p − y), and the bias in a last row."""
    logits = features @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    residual = weights[:, None] * (p / p.sum(1, keepdims=True) - targets)
    return np.concatenate([(features.T @ residual).ravel(), residual.sum(0)])


@pytest.mark.parametrize("labels", ["hard", "learned"])
def test_a_step_descends_the_distance_in_closed_form(x64, probe, labels):
    task, examples, (backbone, params) = probe(jnp.float64)
    unit = Optimizer("sgd", 1.0, 0.0)
    config = linear_gradient.Config(ipc=2, heads=2, labels=labels, image_optimizer=unit, label_optimizer=unit)
    method, distilled = config.build(task), distilled_set(2)
    real = examples._replace(inputs=backbone.features(params, examples.inputs))
    keys = jax.random.split(jax.random.key(3), 2)
    batch = linear_gradient.Draw(
        keys, jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), real), jax.random.split(jax.random.key(8), (2, 2))
    )

    def distance(distilled):
        found = 0.0
        items = all_items(task, distilled)
        for key in keys:
            head = task.model.init(key)["linear"]
            parts = (np.asarray(head["kernel"]), np.asarray(head["bias"]))
            g, h = (
                head_gradient(*(np.asarray(x) for x in (features, e.targets, e.weights)), *parts)
                for features, e in ((backbone.features(params, items.inputs), items), (real.inputs, real))
            )
            found += (1 - g @ h / (np.linalg.norm(g) * np.linalg.norm(h) + 1e-6)) / 2
        return found

    state = method.init(jax.random.key(0), distilled, None)
    new, info = jax.jit(method.step)(jax.random.key(0), state, batch)
    np.testing.assert_allclose(info["loss"], distance(distilled), rtol=1e-10)
    moved = jax.tree.map(jnp.subtract, distilled, new.distilled)
    direction = random_like(distilled)._replace(lr=jnp.zeros(()))
    if labels == "hard":
        direction = direction._replace(labels=0 * direction.labels)
    np.testing.assert_allclose(dot(moved, direction), finite_difference(distance, distilled, direction), rtol=1e-6)


def test_features_are_computed_once_and_are_those_of_the_backbone(probe, stripes):
    model = models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3)
    params = model.init(jax.random.key(1))
    task = classification(models.frozen(model, params, (8, 8, 1), 3), 3)
    real = stripes.real_set()
    method = linear_gradient.Config(real_batch=10, heads=2).build(task)
    sources = Sources(real)
    sources = sources._replace(cache=method.prepare(jax.random.key(0), sources))
    assert sources.cache.shape == (real.size, 8)
    batch = method.sample(jax.random.key(2), jnp.int32(0), sources)
    images = stripes.normalization(jnp.asarray(real.inputs))
    for h in range(2):
        expected = model.features(params, images[batch.real.indices[h]])
        np.testing.assert_allclose(batch.real.inputs[h], expected, rtol=1e-4, atol=1e-5)
    # With augmentation they have to be computed anew, and copies of an image are seen differently.
    augmented = linear_gradient.Config(real_batch=10, augment="flip_crop", copies=4).build(task)
    assert augmented.prepare is None
    batch = augmented.sample(jax.random.key(2), jnp.int32(0), Sources(real))
    assert batch.real.inputs.shape == (1, 10, 8, 8, 1)
    with pytest.raises(ValueError, match="method.copies is 4, and without method.augment all copies are the same"):
        linear_gradient.Config(copies=4)


def test_a_frozen_network_has_the_parameters_of_its_head_alone(probe):
    task, examples, (backbone, params) = probe(jnp.float32)
    head = task.model.init(jax.random.key(4))
    features = backbone.features(params, examples.inputs)
    assert jax.tree.map(jnp.shape, head) == {"linear": {"kernel": (features.shape[1], 3), "bias": (3,)}}
    expected = np.asarray(features) @ np.asarray(head["linear"]["kernel"]) + np.asarray(head["linear"]["bias"])
    np.testing.assert_allclose(task.model.apply(head, examples.inputs), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(task.model.features(head, examples.inputs), features)
    assert task.size == features.shape[1] * 3 + 3


def test_a_network_that_is_not_frozen_is_refused(toy):
    task, _ = toy(jnp.float32)
    with pytest.raises(ValueError, match=r"build it by jaxdd.models.frozen\(network, params"):
        linear_gradient.Config().build(task)
    with pytest.raises(ValueError, match="has no classes"):
        linear_gradient.Config().build(dataclasses.replace(task, classes=None))
