"""What was compiled serves again: another seed or another set of the same shapes, in the same process."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import jaxdd
from jaxdd.errors import SettingError
from jaxdd.methods import MethodConfig, Optimizer, Weighting, dc, fused_features, infmatch, mtt

RECIPE = jaxdd.Recipe(epochs=2, batch=16, lr=0.05, augment="none")
EXPERTS = jaxdd.ExpertsConfig(count=2, recipe=RECIPE, snapshot_every=1)
SCORING = jaxdd.EvaluateConfig(networks=2, recipe=RECIPE, full_recipe=RECIPE, validate_every=2)
IMAGES = Optimizer("sgd", 0.1, 0.0)
METHODS = {
    "mtt": mtt.Config(steps=3, student_steps=2, expert_snapshots=1, image_optimizer=IMAGES),
    "dc with iwd": dc.Config(steps=3, real_batch=4, image_optimizer=IMAGES, weighting=Weighting(warm_up=1)),
    "infmatch, released": infmatch.Config(
        estimator="released",
        checkpoints=2,
        real_batch=4,
        image_optimizer=IMAGES,
        released=fused_features.Released(probes=8),
    ),
}


@pytest.fixture
def compiled():
    """Names of the events of compilation so far, an entry each; cleared by the test."""
    events, measuring = [], [True]

    def on_event(name, seconds, **kwargs):
        if measuring and name.endswith("backend_compile_duration"):
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(on_event)
    yield events
    measuring.clear()  # listeners cannot be taken off one by one


@pytest.fixture(scope="module")
def task():
    return jaxdd.classification(jaxdd.models.build(jaxdd.models.MLP(width=4, depth=1), (8, 8, 1), 3), 3)


def everything(task, dataset, config, seed):
    experts = jaxdd.train_experts(task, dataset, EXPERTS, seed=seed)
    outcome = jaxdd.distill(task, dataset, config, experts, seed=seed, evaluate=SCORING)
    return outcome.distilled, jaxdd.evaluate(task, dataset, outcome.distilled, SCORING, seed=seed)


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_compiles_nothing(name, task, stripes, compiled):
    first = everything(task, stripes, METHODS[name], seed=0)
    assert compiled
    compiled.clear()
    second = everything(task, stripes, METHODS[name], seed=1)
    assert not compiled
    assert not np.array_equal(first[0].images, second[0].images)


@dataclasses.dataclass(frozen=True)
class Own(MethodConfig):
    name = "own"
    layers: Any = ()


def test_a_setting_that_cannot_be_hashed_is_refused(task, stripes):
    with pytest.raises(SettingError, match="a setting of own cannot be hashed .*list.* give a tuple"):
        jaxdd.distill(task, stripes, Own(layers=[1, 2]), evaluate=SCORING)
