"""IADD: what holds the importance of parameters, and how it is watched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.experts.trajectories import Window
from jaxdd.methods import Optimizer, iadd
from jaxdd.types import Snapshots
from tests.helpers import random_like

SHAPES = [(3,), (5, 1), (1, 2)]


@pytest.fixture
def pair(x64):
    start, target, student = jax.random.normal(jax.random.key(0), (3, 10), jnp.float64)
    at = jnp.asarray(1, jnp.int32)
    return student, iadd.Pair(Snapshots(at, at, start), Snapshots(at, at + 2, target), None, None)


def distance(pair, importance, **settings):
    return iadd.importance_metric(iadd.Config(**settings), SHAPES).distance(importance, *pair)


def test_distance_is_the_printed_formula(pair):
    student, p = pair
    w = np.asarray(random_like(jnp.zeros((1, 10))))
    gap, path = student - p.target.params, p.start.params - p.target.params
    printed = np.sum((w[0] * student - w[0] * p.target.params) ** 2) / np.sum(path**2)
    np.testing.assert_allclose(distance(pair, w, constraint="none"), printed, rtol=1e-13)
    # And the gradient that explains the collapse, ∂L/∂W_j = 2 W_j δ_j² / Σ Δ².
    gradient = jax.grad(lambda w: distance(pair, w, constraint="none"))(w)
    np.testing.assert_allclose(gradient[0], 2 * w[0] * gap**2 / np.sum(path**2), rtol=1e-12)


def test_every_start_has_its_own_weights(pair):
    w = random_like(jnp.zeros((4, 10)))
    per_start = dict(constraint="none", per_start=True)
    np.testing.assert_allclose(distance(pair, w, **per_start), distance(pair, w[1:2], constraint="none"), rtol=1e-13)
    gradient = jax.grad(lambda w: distance(pair, w, **per_start))(w)
    assert np.flatnonzero(np.abs(gradient).sum(1)).tolist() == [1]


def test_ratio_does_not_depend_on_the_scale_of_the_weights(pair):
    w = random_like(jnp.zeros((1, 10)))
    for constraint, same in (("ratio", True), ("none", False)):
        values = [float(distance(pair, scale * w, constraint=constraint)) for scale in (1e-3, 1.0, 50.0)]
        assert np.allclose(values, values[0], rtol=1e-12) == same
    # Its gradient is therefore orthogonal to W.
    gradient = jax.grad(lambda w: distance(pair, w, constraint="ratio"))(w)
    assert abs(jnp.vdot(gradient, w)) < 1e-13 * jnp.linalg.norm(gradient) * jnp.linalg.norm(w)


def weights(constraint, a, **settings):
    return iadd.CONSTRAINTS[constraint].weights(a, SHAPES, iadd.Config(**settings))


def test_constraints_hold_what_they_promise(x64):
    a = 3 * random_like(jnp.zeros(10))
    np.testing.assert_allclose(jnp.mean(weights("mean_one", a)), 1, rtol=1e-12)
    assert np.all(weights("mean_one", a) > 0) and np.all(weights("log_barrier", a) > 0)
    tensor = weights("per_tensor", a[:3])
    np.testing.assert_allclose(jnp.mean(tensor), 1, rtol=1e-12)
    assert [len(set(part.tolist())) for part in np.split(np.asarray(tensor), [3, 8])] == [1, 1, 1]
    np.testing.assert_allclose(tensor[0] / tensor[3], jnp.exp(a[0] - a[1]), rtol=1e-12)
    bounded = np.asarray(weights("bounded", a, bound=3.0))
    assert 1 / 3 <= bounded.min() < 0.4 < 2.5 < bounded.max() <= 3
    for name, constraint in iadd.CONSTRAINTS.items():
        first = constraint.first(SHAPES, iadd.Config(rank=2))
        np.testing.assert_allclose(weights(name, first, rank=2), jnp.ones(10), rtol=1e-12)


def test_low_rank_weights_are_products_of_factors(x64):
    shapes, rank = [(2, 3, 4), (5,), ()], 2
    length = sum(rank * (m + n) for m, n in ((6, 4), (1, 5), (1, 1)))
    config = iadd.Config(constraint="low_rank", rank=rank, bound=3.0)
    first = iadd.first_factors(shapes, config)
    assert first.shape == (length,)
    a = first + random_like(first)
    expected, rest = [], np.asarray(a)
    for shape, (m, n) in zip(shapes, ((6, 4), (1, 5), (1, 1)), strict=True):
        u, v, rest = rest[: m * rank].reshape(m, rank), rest[m * rank : (m + n) * rank], rest[(m + n) * rank :]
        matrix = sum(np.outer(u[:, k], v.reshape(n, rank)[:, k]) for k in range(rank))
        expected.append(3.0 ** np.tanh(matrix.reshape(shape)).ravel())
    found = iadd.CONSTRAINTS["low_rank"].weights(a, shapes, config)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-12)
    # At first all factors can move, though the product is 0, and no two in the same way.
    target = jax.random.normal(jax.random.key(3), (30,), jnp.float64)
    weighted = lambda a: jnp.vdot(target, iadd.CONSTRAINTS["low_rank"].weights(a, shapes, config))  # noqa: E731
    u = np.asarray(jax.grad(weighted)(first))[:12].reshape(6, 2)
    assert (np.abs(u) > 1e-6).all() and np.abs(np.corrcoef(u.T)[0, 1]) < 0.99


def test_barrier_has_its_optimum_where_weight_and_gap_balance(pair):
    # W_j² = β Δ_j² / (2 δ_j²)
    student, p = pair
    gap, path = student - p.target.params, p.start.params - p.target.params
    a = jnp.log(0.7 * path**2 / (2 * gap**2))[None] / 2
    settings = dict(constraint="log_barrier", barrier=0.7)
    assert np.abs(jax.grad(lambda a: distance(pair, a, **settings))(a)).max() < 1e-14
    assert np.abs(jax.grad(lambda a: distance(pair, a, **settings))(a + 0.1)).max() > 1e-4


@pytest.mark.parametrize("constraint", ["none", "log_barrier", "ratio", "bounded"])
def test_a_parameter_that_does_not_move_is_left_alone(pair, constraint):
    student, p = pair
    still = p._replace(target=p.target._replace(params=p.target.params.at[4].set(student[4])))
    still = still._replace(start=p.start._replace(params=p.start.params.at[4].set(student[4])))
    gradient = jax.grad(lambda a: distance((student, still), a, constraint=constraint))(0.5 * jnp.ones((1, 10)))
    assert np.flatnonzero(gradient[0] == 0).tolist() == [4]


def test_effective_count_and_top_share():
    rng = np.random.default_rng(0)
    w = rng.normal(size=500)
    found = iadd.effective(jnp.asarray(w))
    np.testing.assert_allclose(found, np.sum(w**2) ** 2 / np.sum(w**4) / 500, rtol=1e-5)
    np.testing.assert_allclose(iadd.effective(jnp.asarray(1e-12 * w)), found, rtol=1e-5)  # W⁴ would underflow
    assert float(iadd.effective(jnp.ones(500))) == 1
    np.testing.assert_allclose(iadd.effective(jnp.eye(500)[3]), 1 / 500, rtol=1e-6)
    assert float(iadd.top_share(jnp.asarray(1e-30 * w))) == pytest.approx(
        float(iadd.top_share(jnp.asarray(w))), rel=1e-4
    )
    assert float(iadd.top_share(jnp.zeros(500))) == 1 and float(iadd.effective(jnp.zeros(500))) == 0
    # No W between 1/w and w can count less than 4 w⁴ / (1 + w⁴)².
    worst = min(iadd.effective(jnp.where(jnp.arange(500) < k, 2.0, 0.5)) for k in range(1, 500))
    assert 4 * 16 / 17**2 <= worst < 4 * 16 / 17**2 + 1e-3
    np.testing.assert_allclose(iadd.top_share(jnp.asarray(w)), np.sort(w**2)[-5:].sum() / np.sum(w**2), rtol=1e-5)


def collapse(toy, constraint, steps=60, **settings):
    """Let a large learning rate act on W, the images at rest; returns the infos, the warnings and the last state."""
    task = toy(jnp.float32)[0]
    config = iadd.Config(
        ipc=2,
        student_steps=3,
        constraint=constraint,
        window=Window(start=1),
        importance_optimizer=Optimizer("sgd", 0.05, 0.0),
        image_optimizer=Optimizer("sgd", 0.0, 0.0),
        lr_optimizer=Optimizer("sgd", 0.0, 0.0),
        **settings,
    )
    method, size = config.build(task), task.size
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (6, 4, 4, 1))
    state = method.init(keys[0], iadd.mtt.Distilled(images, 4 * jnp.eye(3)[jnp.arange(6) % 3], jnp.float32(0.1)), None)
    start = 0.5 * jax.random.normal(keys[1], (1, size))
    at = jnp.zeros(1, jnp.int32)
    pairs = iadd.Pair(
        Snapshots(at, at, start),
        Snapshots(at, at, start + 0.1 * jax.random.normal(keys[2], start.shape)),
        jnp.tile(jnp.arange(6), (1, 3, 1)),
        jax.random.split(keys[0], (1, 3)),
    )
    step, infos, topics = jax.jit(method.step), [], []
    for _ in range(steps):
        state, info = step(keys[0], state, pairs)
        infos.append(jax.tree.map(float, info))
        topics += [topic for topic in method.warn(infos[-1]) if topic not in topics]
    return infos, topics, jax.jit(method.inspect)(state), task


def test_collapse_is_measured_and_told(toy):
    infos, topics, _, _ = collapse(toy, "none", steps=100)
    assert topics == ["collapse"]
    assert infos[0]["effective"] > 0.5 and infos[0]["counted"] > 0.5
    # The loss has fallen, but the student has not come closer.
    np.testing.assert_allclose(infos[-1]["distance"], infos[0]["distance"], rtol=1e-6)
    assert infos[-1]["loss"] < 0.1 * infos[0]["loss"]
    for info in infos:
        np.testing.assert_allclose(info["counted"], info["loss"] / info["distance"], rtol=1e-5)
    infos, topics, _, _ = collapse(toy, "bounded", steps=100)
    assert infos[-1]["effective"] > 0.22 and topics == []
    warn = iadd.Config().build(toy(jnp.float32)[0]).warn
    sound = {"student_lr": 0.1, "effective": 0.5, "counted": 0.5}
    assert warn(sound) == {}
    for field, value in (("effective", 0.009), ("counted", 0.09)):
        assert "importance_optimizer.lr or method.bound" in warn(sound | {field: value})["collapse"]


def test_inspection_shows_the_weights_by_tensor(toy):
    infos, _, seen, task = collapse(toy, "mean_one")
    sizes = task.tensors
    layers = {name.removeprefix("W "): x for name, x in seen.items() if name.startswith("W ")}
    assert {name: x.size for name, x in layers.items()} == sizes
    w = np.concatenate([np.asarray(layers[name]).ravel() for name in sizes])
    np.testing.assert_allclose(w.mean(), 1, rtol=1e-5)
    np.testing.assert_allclose(
        [seen["W_q01"], seen["W_median"], seen["W_q99"]], np.quantile(w, [0.01, 0.5, 0.99]), 1e-4
    )
    np.testing.assert_allclose(
        infos[-1]["effective"], np.sum(w**2) ** 2 / np.sum(w**4) / w.size, rtol=0.02
    )  # a step ago
    assert 0.01 <= infos[-1]["top_share"] <= 1


@pytest.mark.parametrize("settings", [{"barrier": 0.0}, {"bound": 1.0}, {"constraint": "ration"}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        iadd.Config(**settings)
