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


@pytest.mark.parametrize("augment", ["none", "color_crop_cutout_flip_scale_rotate"])
@pytest.mark.parametrize("how", MODES[:3])
@pytest.mark.parametrize("variable", ["images", "labels", "lr"])
def test_gradient_agrees_with_finite_differences(segment, variable, how, augment):
    losses, distilled, batch = segment
    transform = dsa(augment, siamese=False)

    @jax.jit
    def objective(value):
        return mtt.matching_loss(losses, transform, distilled._replace(**{variable: value}), batch, how)[0]

    value = getattr(distilled, variable)
    direction = random_like(value)
    expected = finite_difference(objective, value, direction)
    np.testing.assert_allclose(dot(jax.grad(objective)(value), direction), expected, rtol=2e-6)
    if how.mode == "full":
        np.testing.assert_allclose(jax.jvp(objective, (value,), (direction,))[1], expected, rtol=2e-6)


def test_truncated_gradient_is_that_of_the_last_steps(segment):
    # The first steps as a constant start: an independent derivation of the truncated gradient.
    losses, distilled, batch = segment
    identity = dsa("none", siamese=False)
    truncated = jax.grad(lambda s: mtt.matching_loss(losses, identity, s, batch, MODES[3])[0])(distilled)

    def student(distilled, start, steps):
        for row in batch.indices[steps]:
            def loss(params, row=row):
                targets = jax.nn.softmax(distilled.labels[row])
                examples = mtt.softened(distilled, row)._replace(targets=targets)
                return jnp.mean(losses(params, examples))

            start = jax.tree.map(lambda p, g: p - distilled.lr * g, start, jax.grad(loss)(start))
        return start

    middle = student(distilled, batch.start, slice(0, 2))

    def objective(distilled):
        end = student(distilled, middle, slice(2, 5))
        gap = ravel_pytree(end)[0] - ravel_pytree(batch.target)[0]
        path = ravel_pytree(batch.start)[0] - ravel_pytree(batch.target)[0]
        return jnp.vdot(gap, gap) / jnp.vdot(path, path)

    expected = jax.grad(objective)(distilled)
    for ours, theirs in zip(truncated, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_loss_is_one_for_a_student_that_stays_and_zero_for_one_that_arrives(segment):
    losses, distilled, batch = segment
    identity = dsa("none", siamese=False)
    still = mtt.matching_loss(losses, identity, distilled._replace(lr=jnp.zeros(())), batch, Unroll())[0]
    np.testing.assert_allclose(still, 1, rtol=1e-12)
    params = batch.start
    for row in batch.indices:
        examples = mtt.softened(distilled, row)
        grads = jax.grad(lambda p, examples=examples: jnp.mean(losses(p, examples)))(params)
        params = jax.tree.map(lambda p, g: p - distilled.lr * g, params, grads)
    arrived = mtt.matching_loss(losses, identity, distilled, batch._replace(target=params), Unroll())[0]
    assert float(arrived) < 1e-20


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


@pytest.mark.parametrize("settings", [{"student_steps": 0}, {"student_lr": -0.1}, {"expert_snapshots": 0}, {"batch": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"method.{next(iter(settings))} is"):
        mtt.Config(**settings)
