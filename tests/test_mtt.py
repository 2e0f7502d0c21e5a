import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.augment import dsa
from jaxdd.distilled import Distilled
from jaxdd.methods import mtt
from jaxdd.trajectories import flattening
from jaxdd.unroll import Unroll
from tests.conftest import dot, finite_difference, random_like

MODES = [Unroll("full"), Unroll("segmented", segment=2), Unroll("truncated", last=100), Unroll("truncated", last=3)]


@pytest.fixture
def segment(x64, toy):
    """A distilled set of six items and a five-step student between two points of parameter space."""
    model, losses, examples = toy(jnp.float64)
    size, unravel = flattening(model)
    start = ravel_pytree(model.init(jax.random.key(1)))[0].astype(jnp.float64)
    target = start + 0.1 * jax.random.normal(jax.random.key(2), (size,), jnp.float64)
    labels = jax.random.normal(jax.random.key(3), (6, 3), jnp.float64)
    distilled = Distilled(examples.images[:6], labels, jnp.asarray(0.2, jnp.float64))
    keys = jax.random.split(jax.random.key(4), 5)
    indices = mtt.student_batches(jax.random.key(5), 6, 4, 5)
    return losses, distilled, mtt.Batch(unravel(start), unravel(target), indices, keys)


@pytest.mark.parametrize("how, augment", [*((how, "none") for how in MODES[:3]), (MODES[1], "color_crop_scale")])
def test_gradient_agrees_with_finite_differences(segment, how, augment):
    losses, distilled, batch = segment
    transform = dsa(augment, siamese=False)

    @jax.jit
    def objective(distilled):
        return mtt.matching_loss(losses, transform, distilled, batch, how)[0]

    grads = jax.jit(jax.grad(objective))(distilled)
    for field, value in distilled._asdict().items():
        direction = random_like(value)
        along = distilled._replace(**{name: jnp.zeros_like(x) for name, x in distilled._asdict().items()})
        along = along._replace(**{field: direction})
        expected = finite_difference(objective, distilled, along)
        np.testing.assert_allclose(dot(getattr(grads, field), direction), expected, rtol=2e-6)


def test_forward_mode_agrees_with_reverse_mode(segment):
    losses, distilled, batch = segment

    def objective(distilled):
        return mtt.matching_loss(losses, dsa("none", siamese=False), distilled, batch, Unroll("full"))[0]

    direction = random_like(distilled)
    slope = jax.jit(lambda s, d: jax.jvp(objective, (s,), (d,))[1])(distilled, direction)
    np.testing.assert_allclose(dot(jax.jit(jax.grad(objective))(distilled), direction), slope, rtol=1e-10)


def test_truncated_gradient_is_that_of_the_last_steps(segment):
    # The first steps as a constant start: an independent derivation of the truncated gradient.
    losses, distilled, batch = segment
    identity = dsa("none", siamese=False)
    truncated = jax.jit(jax.grad(lambda s: mtt.matching_loss(losses, identity, s, batch, MODES[3])[0]))(distilled)

    def student(distilled, start, steps):
        for row in batch.indices[steps]:

            def loss(params, row=row):
                targets = jax.nn.softmax(distilled.labels[row])
                examples = mtt.softened(distilled, row)._replace(targets=targets)
                return jnp.mean(losses(params, examples))

            start = jax.tree.map(lambda p, g: p - distilled.lr * g, start, jax.grad(loss)(start))
        return start

    middle = jax.jit(lambda s: student(s, batch.start, slice(0, 2)))(distilled)

    def objective(distilled):
        end = student(distilled, middle, slice(2, 5))
        gap = ravel_pytree(end)[0] - ravel_pytree(batch.target)[0]
        path = ravel_pytree(batch.start)[0] - ravel_pytree(batch.target)[0]
        return jnp.vdot(gap, gap) / jnp.vdot(path, path)

    expected = jax.jit(jax.grad(objective))(distilled)
    for ours, theirs in zip(truncated, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_loss_is_one_for_a_student_that_stays_and_zero_for_one_that_arrives(segment):
    losses, distilled, batch = segment

    @jax.jit
    def loss(distilled, batch):
        return mtt.matching_loss(losses, dsa("none", siamese=False), distilled, batch, Unroll())[0]

    np.testing.assert_allclose(loss(distilled._replace(lr=jnp.zeros(())), batch), 1, rtol=1e-12)

    @jax.jit
    def step(params, row):
        examples = mtt.softened(distilled, row)
        grads = jax.grad(lambda params: jnp.mean(losses(params, examples)))(params)
        return jax.tree.map(lambda p, g: p - distilled.lr * g, params, grads)

    params = batch.start
    for row in batch.indices:
        params = step(params, row)
    assert float(loss(distilled, batch._replace(target=params))) < 1e-20


def test_student_learning_rate_stays_positive_and_keeps_its_scale(x64):
    lr0 = 0.02
    for lr in (1e-4, 0.02, 0.5):
        np.testing.assert_allclose(mtt.positive_lr(mtt.raw_lr(jnp.asarray(lr), lr0), lr0), lr, rtol=1e-9)
    slopes = jax.vmap(jax.grad(lambda raw: mtt.positive_lr(raw, lr0)))(jnp.array([0.02, 0.05, 1.0]))
    assert np.all(np.abs(np.asarray(slopes) - 1) < 0.02)  # published learning rates of α carry over
    assert np.all(np.asarray(mtt.positive_lr(jnp.array([-0.1, -0.05, 0.0]), lr0)) > 0)


def test_student_batches_cover_the_set_without_replacement():
    rows = np.asarray(mtt.student_batches(jax.random.key(0), 12, 4, 6))
    assert rows.shape == (6, 4)
    assert sorted(rows[:3].ravel()) == sorted(rows[3:].ravel()) == list(range(12))


@pytest.mark.parametrize(
    "settings", [{"student_steps": 0}, {"student_lr": -0.1}, {"expert_snapshots": 0}, {"batch": 0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"method.{next(iter(settings))} is"):
        mtt.Config(**settings)
