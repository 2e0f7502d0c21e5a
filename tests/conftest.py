import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation of programs that run once: let LLVM not optimise them.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")

from jaxdd import data, models  # noqa: E402
from jaxdd.losses import cross_entropy  # noqa: E402
from jaxdd.models import ModelConfig  # noqa: E402
from jaxdd.types import Examples  # noqa: E402


@pytest.fixture
def x64():
    """Compute in float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def toy():
    """Build a small network, its losses and a batch of eight examples of three classes, in a given precision."""

    def build(dtype, *, name="convnet", norm="instance", activation="gelu"):
        # A smooth activation: finite differences of a ReLU network are off wherever a unit switches.
        config = ModelConfig(name=name, width=4, depth=1, norm=norm, activation=activation)
        model = models.build(config, (4, 4, 1), 3)
        key = jax.random.key(7)
        examples = Examples(
            images=jax.random.normal(key, (8, 4, 4, 1), dtype),
            targets=jax.nn.one_hot(jnp.arange(8) % 3, 3, dtype=dtype),
            weights=jnp.full((8,), 1 / 8, dtype),
            indices=jnp.arange(8),
        )
        return model, cross_entropy(model), examples

    return build


@pytest.fixture(scope="session")
def stripes():
    """A dataset that is learned in seconds: 8×8 images of three classes, stripes of three directions in noise."""
    rng = np.random.default_rng(0)
    pattern = np.zeros((3, 8, 8))
    pattern[0, ::2], pattern[1, :, ::2] = 1, 1
    pattern[2] = np.indices((8, 8)).sum(0) % 4 < 2

    def draw(count):
        labels = np.arange(count) % 3
        noisy = 128 * pattern[labels] + rng.normal(64, 40, (count, 8, 8))
        return noisy.clip(0, 255).astype(np.uint8), labels

    return data.from_arrays(*draw(240), *draw(90), name="stripes", validation=0.2)


def finite_difference(function, x, direction, step=1e-4):
    """Differentiate a scalar function of a tree along a direction, by a fourth-order central difference."""

    def at(t):
        return function(jax.tree.map(lambda a, d: a + t * d, x, direction))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def random_like(tree, seed=11):
    """Draw a standard normal tree of the same structure."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, jnp.shape(leaf), jnp.result_type(leaf)) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def dot(a, b):
    """Inner product of two trees."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
