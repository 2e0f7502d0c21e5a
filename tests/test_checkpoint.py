import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxdd.core.distilled import Distilled
from jaxdd.io import checkpoint
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.methods import Optimizer
from jaxdd.methods.base import outer_optimizer


def a_state(seed):
    """A distilled set, the state of its optimizers after two updates, and numbers on the host."""
    keys = jax.random.split(jax.random.key(seed), 2)
    images, labels = jax.random.normal(keys[0], (3, 4, 4, 1)), jax.random.normal(keys[1], (3, 3))
    distilled = Distilled(images, labels, jnp.float32(seed))
    optimizer = outer_optimizer(Optimizer("adam"), Optimizer("sgd", momentum=0.9))
    state = optimizer.init(distilled)
    for _ in range(2):
        updates, state = optimizer.update(distilled, state)
        distilled = optax.apply_updates(distilled, updates)
    return {"state": (distilled, state), "best_step": np.int64(seed), "best_score": np.float64(np.nan)}


@pytest.fixture(scope="module")
def states():
    return {step: a_state(step) for step in (10, 20, 30)}


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_newest_of_the_two_that_are_kept_comes_back(tmp_path, states):
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore(states[10]) is None
        for step, state in states.items():
            checkpoints.save(step, state)
        found, state = checkpoints.restore(states[10])
    assert found == 30
    assert_same(state, states[30])
    assert sorted(int(path.name) for path in (tmp_path / "run").iterdir() if path.name.isdigit()) == [20, 30]
    with Checkpoints(tmp_path / "run") as again:
        found, state = again.restore(states[10])
    assert found == 30
    assert_same(state, states[30])


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder):
    os.truncate(largest_file(folder), 10)


def flip_bytes(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "d" in path.relative_to(folder).parts[:-1]:
            path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


def empty_all(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def remove_data(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "d" in path.relative_to(folder).parts[:-1]:
            path.unlink()


def remove_metadata(folder):
    for path in folder.rglob("_METADATA"):
        path.unlink()


# Reads that Orbax gives up on end after the event loop that they report to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip_bytes, empty_all, remove_data, remove_metadata])
def test_damaged_newest_is_passed_over(tmp_path, states, damage):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, states[step])
    damage(tmp_path / "20")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match="checkpoint 20 cannot be read and is now"):
            found, state = checkpoints.restore(states[30])
        assert found == 10
        assert_same(state, states[10])
        assert len(list(tmp_path.glob("unreadable_20_*"))) == 1  # set aside, not deleted
        # The run goes on from 10 and reaches 20 again.
        checkpoints.save(20, states[30])
        found, state = checkpoints.restore(states[10])
    assert found == 20
    assert_same(state, states[30])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_readable_is_no_checkpoint(tmp_path, states):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, states[10])
    truncate(tmp_path / "10")
    with Checkpoints(tmp_path) as checkpoints, pytest.warns(UserWarning, match="checkpoint 10"):
        assert checkpoints.restore(states[10]) is None


def test_named_arrays_are_read_exactly_and_alone(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{i:05d}": rng.normal(size=(7, i + 1)).astype(np.float32) for i in range(5)}
    arrays["half"] = rng.normal(size=9).astype(ml_dtypes.bfloat16)
    checkpoint.save(tmp_path / "old", {"00001": np.zeros(3), "other": np.zeros(3)})
    checkpoint.save(tmp_path / "old", arrays)  # replaces what was there
    found = checkpoint.load(tmp_path / "old", ["00003", "half"])
    assert set(found) == {"00003", "half"}
    for name, array in found.items():
        assert type(array) is np.ndarray
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts read bytes in /proc")
def test_reading_one_array_leaves_the_others_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i:05d}" for i in range(20)]
    checkpoint.save(tmp_path / "store", {name: rng.normal(size=100_000).astype(np.float32) for name in names})

    def bytes_read(wanted):
        def counter():
            return int(Path("/proc/self/io").read_text().split()[1])

        before = counter()
        checkpoint.load(tmp_path / "store", wanted)
        return counter() - before

    whole = bytes_read(names)
    assert whole > 0.8 * 20 * 400_000  # the measure sees what is read
    assert bytes_read(names[7:8]) < whole / 5
