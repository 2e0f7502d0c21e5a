import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation of programs that run once: let LLVM not optimize them.
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

# Programs compiled before, by another worker, in another session or another clone, are read back.
cache = os.environ.get("JAXDD_TEST_CACHE") or os.path.expanduser("~/.cache/jaxdd/tests")
jax.config.update("jax_compilation_cache_dir", os.path.abspath(cache))  # some tests change the folder
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

from jaxdd import classification, data, models  # noqa: E402
from jaxdd.models import ModelConfig  # noqa: E402
from jaxdd.types import Examples  # noqa: E402


def pytest_collection_modifyitems(items):
    """Keep the tests of a case on one worker (--dist loadgroup): they share what it compiles."""
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if item.path.stem == "test_methods" and case:
            item.add_marker(pytest.mark.xdist_group(case))


@pytest.fixture
def x64():
    """Compute in float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def toy():
    """Build the task of a small network, and a batch of eight examples of three classes, in a given precision."""

    def build(dtype, *, name="convnet", norm="instance", activation="gelu"):
        # A smooth activation: finite differences of a ReLU network are off wherever a unit switches.
        config = ModelConfig(name=name, width=4, depth=1, norm=norm, activation=activation)
        model = models.build(config, (4, 4, 1), 3)
        key = jax.random.key(7)
        examples = Examples(
            inputs=jax.random.normal(key, (8, 4, 4, 1), dtype),
            targets=jax.nn.one_hot(jnp.arange(8) % 3, 3, dtype=dtype),
            weights=jnp.full((8,), 1 / 8, dtype),
            indices=jnp.arange(8),
        )
        return classification(model, 3), examples

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
