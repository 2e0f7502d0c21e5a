"""A task of a user's own: vectors in, vectors out, squared error, no classes. Nothing of the package knows of it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdd
from jaxdd.core import sampling
from jaxdd.methods import Optimizer, Weighting, dc, dm, infmatch, mtt, ncfm
from tests.helpers import finite_difference, random_like


def regression(inputs: int, outputs: int, width: int = 16) -> jaxdd.Task:
    """Fit vectors by a small network of plain JAX: squared error, judged by the part of the variance explained."""

    def init(key):
        keys = jax.random.split(key)
        return {
            "first": jax.random.normal(keys[0], (inputs, width)) / np.sqrt(inputs),
            "last": jax.random.normal(keys[1], (width, outputs)) / np.sqrt(width),
        }

    def features(params, x):
        return jnp.tanh(x @ params["first"])

    def apply(params, x):
        return features(params, x) @ params["last"]

    def losses(params, examples):
        return jnp.sum((apply(params, examples.inputs) - examples.targets) ** 2, -1)

    def items(distilled, indices):
        weights = jnp.full(indices.shape, 1 / indices.shape[-1])
        return jaxdd.Examples(distilled.inputs[indices], distilled.labels[indices], weights, indices)

    def measure(params, split):
        error = jnp.mean(sampling.over_all(lambda examples, params: losses(params, examples), split, params))
        return {"mean squared error": error, "explained": 1 - error / jnp.sum(jnp.var(jnp.asarray(split.targets), 0))}

    model = jaxdd.Model(init, apply, features)
    return jaxdd.Task("regression", model, losses, items, lambda targets: targets, measure, score="explained")


class Vectors(NamedTuple):
    """A smooth function of vectors, drawn for train, validation and test."""

    train: jaxdd.RealSet
    validation: jaxdd.RealSet
    test: jaxdd.RealSet

    def real_set(self):
        return self.train

    def validation_set(self):
        return self.validation

    def test_set(self):
        return self.test


TASK = regression(4, 2)
RECIPE = jaxdd.Recipe(epochs=60, batch=32, lr=0.05, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")
SCORING = jaxdd.EvaluateConfig(
    networks=3,
    recipe=dataclasses.replace(RECIPE, epochs=300),
    full_recipe=RECIPE,
    validate_every=50,
    validate_networks=3,
)
METHODS = {
    "mtt": mtt.Config(
        ipc=20,
        student_steps=16,
        student_lr=0.05,
        expert_snapshots=8,
        window=jaxdd.Window(start=60),
        labels="learned",
        image_optimizer=Optimizer("adam", 0.02),
        label_optimizer=Optimizer("adam", 0.02),
    ),
    "infmatch": infmatch.Config(
        ipc=10, steps=200, window=jaxdd.Window(start=100), image_optimizer=Optimizer("adam", 0.05)
    ),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 2))

    def draw(count):
        x = rng.normal(size=(count, 4)).astype(np.float32)
        return jaxdd.RealSet(x, np.sin(x @ mix).astype(np.float32))

    return Vectors(draw(256), draw(64), draw(64))


@pytest.fixture(scope="module")
def experts(data):
    config = jaxdd.ExpertsConfig(count=2, recipe=RECIPE, snapshot_every=2)
    return jaxdd.train_experts(TASK, data, config)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_distilled_and_evaluated(data, experts, name):
    outcome = jaxdd.distill(TASK, data, METHODS[name], experts, evaluate=SCORING)
    size = METHODS[name].ipc
    assert outcome.distilled.inputs.shape == (size, 4) and outcome.distilled.labels.shape == (size, 2)
    assert outcome.step > 0  # better than the random set that it began with
    results = jaxdd.evaluate(TASK, data, outcome.distilled, SCORING)
    assert list(results) == ["distilled", "random_real", "full_data"]
    assert results["distilled"]["mean"] > results["random_real"]["mean"] + 0.05
    assert results["full_data"]["mean"] > 0.8
    for found in results.values():
        assert len(found["runs"]) == len(found["mean squared error"]["runs"]) == 3
        variance = np.var(data.test.targets, 0).sum()
        np.testing.assert_allclose(
            found["runs"], 1 - np.array(found["mean squared error"]["runs"]) / variance, rtol=1e-4
        )


def test_gradient_of_trajectory_matching_is_that_of_finite_differences(x64, data):
    method = METHODS["mtt"].build(TASK)
    flat = jax.random.normal(jax.random.key(0), (2, 1, TASK.size))
    examples = sampling.take(data.train, np.arange(6))
    distilled = jaxdd.Distilled(*(jnp.asarray(x, float) for x in (examples.inputs, examples.targets, 0.05)))
    experts = jaxdd.influence.at(flat[0])
    state = method.init(jax.random.key(1), distilled, jaxdd.methods.Sources(trajectories=experts))
    batch = mtt.Pair(
        jaxdd.Snapshots(jnp.zeros(1, int), jnp.zeros(1, int), flat[0]),
        jaxdd.Snapshots(jnp.zeros(1, int), jnp.zeros(1, int), flat[1]),
        jnp.tile(jnp.arange(6), (1, 16, 1)),
        jax.random.split(jax.random.key(2), (1, 16)),
    )
    train = mtt.student_trainer(TASK, METHODS["mtt"])
    pair = jax.tree.map(lambda x: x[0], batch)

    def loss(inputs):
        student, _ = train(distilled._replace(inputs=inputs), pair)
        return mtt.unweighted((), student, pair)

    np.testing.assert_allclose(
        method.step(jax.random.key(3), state, batch)[1]["loss"], loss(distilled.inputs), rtol=1e-6
    )
    along = random_like(distilled.inputs)
    slope = jnp.vdot(jax.grad(loss)(distilled.inputs), along)
    np.testing.assert_allclose(slope, finite_difference(loss, distilled.inputs, along), rtol=1e-6)


def test_its_examples_are_scored_by_influence(data):
    # Full batches, every step recorded: the unrolled training knows what leaving an example out does.
    few = data._replace(train=jaxdd.RealSet(data.train.inputs[:24], data.train.targets[:24]))
    recipe = dataclasses.replace(RECIPE, batch=24, epochs=20)
    path = jaxdd.train_experts(TASK, few, jaxdd.ExpertsConfig(count=1, recipe=recipe, snapshot_every=1))
    found = {
        name: jaxdd.influence.scores(TASK, few.train, few.validation, path, jaxdd.InfluenceConfig(name))
        for name in ("tracin", "sgd_influence")
    }
    # The truth: trainings in which each example weighs a tenth less.
    weights = (1 - 0.1 * np.vstack([np.zeros(24), np.eye(24)])) / 24
    losses = jaxdd.influence.retrained(TASK, few.train, few.validation, path, weights, jaxdd.InfluenceConfig())
    truth = (losses[1:] - losses[0]) / (0.1 / 24)
    np.testing.assert_allclose(found["sgd_influence"], truth, rtol=0, atol=0.05 * np.abs(truth).max())
    assert np.corrcoef(found["sgd_influence"], truth)[0, 1] > 0.99 > np.corrcoef(found["tracin"], truth)[0, 1] > 0


@pytest.mark.parametrize("method", [dc, dm, ncfm])
@pytest.mark.parametrize("weighting", [None, Weighting()])
def test_methods_that_need_classes_refuse_it_by_name(data, method, weighting):
    name = method.Config.name
    message = f"{name} matches class by class, and the task 'regression' has no classes; choose mtt or infmatch"
    with pytest.raises(ValueError, match=message):
        jaxdd.distill(TASK, data, method.Config(weighting=weighting), evaluate=SCORING)


def test_images_that_an_expert_gets_right_are_refused(data, experts):
    with pytest.raises(ValueError, match="method.init is 'correct', but the task 'regression' has no classes"):
        jaxdd.distill(TASK, data, mtt.Config(init="correct"), experts, evaluate=SCORING)


def test_losses_that_are_not_separable_have_no_influence(data, experts):
    whole = dataclasses.replace(TASK, separable=False)
    with pytest.raises(ValueError, match="'regression' has losses that depend on the whole batch"):
        jaxdd.influence.scores(whole, data.train, data.validation, experts, jaxdd.InfluenceConfig())
