"""A method of a user's own: a file that is registered nowhere."""

import sys

import jax
import jax.numpy as jnp
import pytest

import jaxdd
from jaxdd.config import load_config
from jaxdd.methods import build, coresets, name_of

METHOD = """
import dataclasses
from typing import NamedTuple
from jaxdd.distilled import Distilled
from jaxdd.methods import MethodConfig
from jaxdd.types import Array, Method

@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    rate: float = 0.5

class Info(NamedTuple):
    loss: Array

def build(model, config):
    def step(key, state, batch):
        return state._replace(images=(1 - config.rate) * state.images), Info((state.images**2).sum())
    return Method(
        lambda key, sources: None, lambda key, s, sources: s, lambda key, step, sources: (), step, lambda state: state
    )
"""
CONFIG = """
import jaxdd, own_fading
def get_config():
    return jaxdd.Config(method=own_fading.Config(steps=3))
"""
RECIPE = jaxdd.Recipe(epochs=1, augment="none")


def test_a_method_beside_a_config_file_needs_no_registration(tmp_path, stripes, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_fading.py").write_text(METHOD)
    (tmp_path / "config.py").write_text(CONFIG)
    config = load_config(tmp_path / "config.py")
    assert name_of(config.method) == "own_fading"
    model = jaxdd.models.build(jaxdd.ModelConfig(name="mlp", width=4, depth=1), (8, 8, 1), 3)
    unvalidated = jaxdd.data.from_arrays(*stripes.train, *stripes.test, validation=0.0)
    outcome = jaxdd.distill(model, unvalidated, config.method, evaluate=jaxdd.EvaluateConfig(recipe=RECIPE))
    start = jaxdd.distill(model, unvalidated, coresets.Config(), evaluate=jaxdd.EvaluateConfig(recipe=RECIPE))
    assert jnp.allclose(outcome.distilled.images, start.distilled.images / 8)


def test_a_config_without_a_method_is_refused(toy):
    from jaxdd.methods import MethodConfig

    with pytest.raises(ValueError, match="belongs to no method: define Config in an importable module"):
        build(toy(jnp.float32)[0], MethodConfig())


def test_a_config_file_that_fails_is_told_in_a_line(tmp_path):
    (tmp_path / "typo.py").write_text("from jaxdd import Confg")
    with pytest.raises(ValueError, match="typo.py fails with ImportError: cannot import name 'Confg'"):
        load_config(tmp_path / "typo.py")


def test_experts_of_another_network_are_refused(stripes):
    def model(width):
        return jaxdd.models.build(jaxdd.ModelConfig(name="mlp", width=width, depth=1), (8, 8, 1), 3)

    experts = jaxdd.train_experts(model(4), stripes, jaxdd.ExpertsConfig(count=1, recipe=RECIPE, snapshot_every=1))
    size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model(5).init, jax.random.key(0))))
    config = jaxdd.methods.infmatch.Config(window=jaxdd.Window(start=1))
    with pytest.raises(ValueError, match=f"experts have {experts.snapshots.shape[-1]} parameters and the model {size}"):
        jaxdd.distill(model(5), stripes, config, experts)
