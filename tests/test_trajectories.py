import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.experts.trajectories import Trajectories, Window

EXPANDING = Window(first=2, start=5, end=15)
SLIDING = Window(first=2, start=5, end=15, kind="sliding")
EARLY = Window(first=2, start=5, end=15, grow=20)


@pytest.mark.parametrize(
    "window, step, lower, upper",
    [
        (EXPANDING, 0, 2, 5),
        (EXPANDING, 50, 2, 10),
        (EXPANDING, 99, 2, 15),
        (EXPANDING, 100, 2, 15),
        (EARLY, 9, 2, 9),
        (EARLY, 20, 2, 15),
        (EARLY, 99, 2, 15),
        (SLIDING, 0, 2, 5),
        (SLIDING, 50, 7, 10),
        (SLIDING, 100, 12, 15),
        (Window(start=4), 0, 0, 4),
        (Window(start=4), 99, 0, 4),
        (Window(first=3, start=4), 50, 3, 4),
    ],
)
def test_window_draws_all_of_its_range_and_nothing_else(window, step, lower, upper):
    draws = jax.jit(lambda key, step: window.sample(key, step, 100, (500, 4)))(jax.random.key(step), jnp.int32(step))
    assert draws.dtype == jnp.int32
    assert draws.shape == (500, 4)
    values, counts = np.unique(np.asarray(draws), return_counts=True)
    assert values.tolist() == list(range(lower, upper))
    expected = 2000 / (upper - lower)
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize("span, steps", [(10, 7), (10, 100), (37, 300), (100, 100), (83, 5000)])
def test_window_moves_by_the_floor_of_the_formula(span, steps):
    # Sliding with one snapshot in the window: the draw is U − 1.
    window = Window(first=0, start=1, end=1 + span, kind="sliding")
    every = jnp.arange(steps + 3)
    draws = jax.jit(jax.vmap(lambda step: window.sample(jax.random.key(0), step, steps)))(every)
    expected = [min(1 + span * step // (steps - 1), 1 + span) - 1 for step in range(steps + 3)]
    np.testing.assert_array_equal(draws, expected)
    assert draws[steps - 1] == span  # the last step has the whole window


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"first": -1}, "window.first is -1; give 0 or more"),
        ({"first": 5, "start": 5}, "first=5, start=5"),
        ({"start": 5, "end": 4}, "end=4"),
        ({"start": 5, "end": 9, "grow": 0}, "window.grow is 0"),
    ],
)
def test_impossible_windows_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Window(**settings)


def test_flattening_round_trip(toy):
    task, _ = toy(jnp.float32)
    params = task.model.init(jax.random.key(2))
    flat = ravel_pytree(params)[0]
    assert task.size == flat.size == sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(task.tensors.values())
    shaped = task.unravel(flat)
    assert jax.tree.structure(shaped) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(shaped), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_trajectories_know_their_sizes():
    zeros = np.zeros((3, 5, 7), np.float32)
    line = zeros[0, :, 0]
    trajectories = Trajectories(zeros, zeros[:, 0], line, line, np.float32(0), line.astype(np.int32))
    assert (trajectories.num_experts, trajectories.num_snapshots) == (3, 5)
    early = trajectories.first(2)
    assert (early.num_experts, early.num_snapshots, early.recorded.shape) == (3, 2, (3, 2, 7))
    hollow = early._replace(snapshots=None)
    assert (hollow.num_experts, hollow.num_snapshots) == (3, 2)
    for read in (lambda: hollow.recorded, lambda: hollow.first(1)):
        with pytest.raises(ValueError, match="needs the experts' snapshots on the devices"):
            read()
