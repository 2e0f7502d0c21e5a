"""A method of a user's own: a file that is registered nowhere."""

import sys

import jax.numpy as jnp
import pytest

import jaxdd
from jaxdd.app.config import load_config
from jaxdd.methods import coresets

METHOD = """
import dataclasses
from typing import ClassVar
from jaxdd.methods import MethodConfig
from jaxdd.methods.base import Method

@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    name: ClassVar[str] = "fading"
    rate: float = 0.5

    def build(self, task):
        def step(key, state, batch):
            return state._replace(inputs=(1 - self.rate) * state.inputs), {"loss": (state.inputs**2).sum()}
        return Method(lambda key, s, sources: s, lambda key, step, sources: (), step, lambda state: state)
"""
CONFIG = """
import jaxdd, own_fading
def get_config():
    return jaxdd.Config(method=own_fading.Config(steps=3))
"""


def small(width):
    model = jaxdd.models.build(jaxdd.models.MLP(width=width, depth=1), (8, 8, 1), 3)
    return jaxdd.classification(model, 3)


RECIPE = jaxdd.Recipe(epochs=1, augment="none")


def test_a_method_beside_a_config_file_needs_no_registration(tmp_path, stripes, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_fading.py").write_text(METHOD)
    (tmp_path / "config.py").write_text(CONFIG)
    config = load_config(tmp_path / "config.py")
    assert config.method.name == "fading"
    task = small(4)
    unvalidated = jaxdd.data.from_arrays(*stripes.train, *stripes.test, validation=0.0)
    outcome = jaxdd.distill(task, unvalidated, config.method, evaluate=jaxdd.EvaluateConfig(recipe=RECIPE))
    start = jaxdd.distill(task, unvalidated, coresets.Config(), evaluate=jaxdd.EvaluateConfig(recipe=RECIPE))
    assert jnp.allclose(outcome.distilled.images, start.distilled.images / 8)


def test_a_config_without_a_method_is_refused(stripes):
    with pytest.raises(ValueError, match=r"MethodConfig belongs to no method: give it build\(task\) -> Method"):
        jaxdd.distill(small(4), stripes, jaxdd.methods.MethodConfig())


def test_a_bare_model_is_no_task(stripes):
    with pytest.raises(ValueError, match=r"this is a Model: say what the network does, such as jaxdd.classification"):
        jaxdd.distill(small(4).model, stripes, coresets.Config())


def test_a_config_file_that_fails_is_told_in_a_line(tmp_path):
    (tmp_path / "typo.py").write_text("from jaxdd import Confg")
    with pytest.raises(ValueError, match="typo.py:1 `from jaxdd import Confg` with ImportError: cannot"):
        load_config(tmp_path / "typo.py")


def test_experts_of_another_network_are_refused(stripes):
    experts = jaxdd.train_experts(small(4), stripes, jaxdd.ExpertsConfig(count=1, recipe=RECIPE, snapshot_every=1))
    config = jaxdd.methods.infmatch.Config(window=jaxdd.Window(start=1))
    message = f"experts have {small(4).size} parameters and the model {small(5).size}"
    with pytest.raises(ValueError, match=message):
        jaxdd.distill(small(5), stripes, config, experts)
