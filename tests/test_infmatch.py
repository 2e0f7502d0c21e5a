import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import Window, classification, influence, models
from jaxdd.core import autodiff, sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.tasks import mean_loss, softened
from jaxdd.methods import infmatch
from jaxdd.methods.base import Sources
from jaxdd.models import MLP
from jaxdd.types import Examples, Snapshots
from tests.helpers import dot, finite_difference, random_like

ESTIMATORS = ["published", "first_order", "second_order", "unroll"]


def real_batch(key, leading, dtype):
    images_key, labels_key = jax.random.split(key)
    shape = (*leading, 10)
    labels = jax.random.randint(labels_key, shape, 0, 3)
    return Examples(
        inputs=jax.random.normal(images_key, (*shape, 4, 4, 1), dtype),
        targets=jax.nn.one_hot(labels, 3, dtype=dtype),
        weights=jnp.full(shape, 1 / 10, dtype),
        indices=jnp.zeros(shape, jnp.int32),
    )


def windows_of(estimator, m, horizon, size, dtype=jnp.float64, items=6):
    """Draw m windows of checkpoints with real batches, independent for gradients and Hessians; all items are in use."""
    length = horizon if estimator == "unroll" else 1
    keys = jax.random.split(jax.random.key(20), 4)
    lr = 0.05 + 0.05 * jax.random.uniform(keys[0], (m, length), dtype)
    a, b = infmatch.coefficients(estimator, lr, 1 - lr, 0.1)
    return infmatch.Checkpoint(
        snapshot=Snapshots(None, None, 0.5 * jax.random.normal(keys[1], (m, length, size), dtype)),
        a=a,
        b=b,
        for_gradient=real_batch(keys[2], (m, length), dtype),
        for_hessian=real_batch(keys[3], (m, length), dtype),
        cached=None,
        key=jax.random.split(jax.random.key(21), (m, length)),
        items=jnp.broadcast_to(jnp.arange(items), (m, length, items)),
    )


@pytest.fixture
def setting(x64, toy):
    task, examples = toy(jnp.float64)
    losses, unravel = task.losses, task.unravel
    labels = jax.random.normal(jax.random.key(3), (6, 3), jnp.float64)
    distilled = Distilled(examples.inputs[:6], labels, jnp.asarray(0.1, jnp.float64))

    def landscape_of(distilled, *, hvp=autodiff.hvp, hessian_form=autodiff.hessian_form):
        def on(examples):
            loss = mean_loss(losses, examples)
            return lambda flat: loss(unravel(flat))

        return lambda c: infmatch.Landscape(
            on(softened(distilled, jnp.arange(6))), on(c.for_gradient), on(c.for_hessian), hvp, hessian_form
        )

    return task.size, distilled, landscape_of


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_pass_gradient_is_that_of_autodiff_and_of_finite_differences(setting, estimator):
    size, distilled, landscape_of = setting
    windows, displacement = windows_of(estimator, 3, 4, size), infmatch.DISPLACEMENTS[estimator]

    @jax.jit
    def objective(distilled):
        return infmatch.objective(displacement, landscape_of, distilled, windows)

    value, grads = jax.jit(lambda s: infmatch.two_pass(displacement, landscape_of, s, windows))(distilled)
    np.testing.assert_allclose(value, objective(distilled), rtol=1e-12)
    expected = jax.jit(jax.grad(objective))(distilled)
    for field in ("inputs", "labels"):
        ours, theirs = getattr(grads, field), getattr(expected, field)
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12 * float(jnp.abs(theirs).max()))
        along = jax.tree.map(jnp.zeros_like, distilled)._replace(**{field: random_like(ours)})
        slope = finite_difference(objective, distilled, along)
        np.testing.assert_allclose(dot(grads, along), slope, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["second_order", "unroll"])
def test_forward_mode_agrees_with_two_pass(setting, estimator):
    size, distilled, landscape_of = setting
    windows, displacement = windows_of(estimator, 2, 3, size), infmatch.DISPLACEMENTS[estimator]
    direction = random_like(distilled)

    @jax.jit
    def slope(distilled):
        return jax.jvp(
            lambda s: infmatch.objective(displacement, landscape_of, s, windows), (distilled,), (direction,)
        )[1]

    grads = jax.jit(lambda s: infmatch.two_pass(displacement, landscape_of, s, windows)[1])(distilled)
    np.testing.assert_allclose(dot(grads, direction), slope(distilled), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["published", "second_order"])
def test_finite_difference_products_give_nearly_the_same_gradient(setting, estimator):
    size, distilled, landscape_of = setting
    windows, displacement = windows_of(estimator, 2, 1, size), infmatch.DISPLACEMENTS[estimator]
    approximate = {"hvp": autodiff.finite_difference_hvp, "hessian_form": autodiff.finite_difference_hessian_form}
    exact = jax.jit(lambda s: infmatch.two_pass(displacement, landscape_of, s, windows)[1])(distilled)
    near = jax.jit(lambda s: infmatch.two_pass(displacement, lambda s: landscape_of(s, **approximate), s, windows)[1])(
        distilled
    )
    gap = np.linalg.norm(near.inputs - exact.inputs) / np.linalg.norm(exact.inputs)
    assert 0 < gap < 1e-4


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_residual_is_the_printed_formula_with_dense_hessians(setting, estimator):
    size, distilled, landscape_of = setting
    window = jax.tree.map(lambda x: x[0], windows_of(estimator, 1, 3, size))
    landscape_at, expected = landscape_of(distilled), np.zeros(size)

    @jax.jit
    def dense(c):
        landscape = landscape_at(c)
        g_s, g_d = jax.grad(landscape.synthetic)(c.params), jax.grad(landscape.real_gradient)(c.params)
        return g_s, g_d, jax.hessian(landscape.synthetic)(c.params), jax.hessian(landscape.real_hessian)(c.params)

    for k in range(window.a.shape[0]):
        c = jax.tree.map(lambda x, k=k: x[k], window)
        g_s, g_d, h_s, h_d = dense(c)
        if estimator == "unroll":
            expected = expected + c.a * h_d @ expected + c.a * (g_s - g_d)
        else:
            expected = c.a * (g_s - g_d) + c.b * (h_d @ g_s + h_s @ g_d - 2 * h_d @ g_d)
    residual, _ = jax.jit(lambda w: infmatch.DISPLACEMENTS[estimator].residual(landscape_at, w))(window)
    np.testing.assert_allclose(residual, expected, rtol=1e-9, atol=1e-12)


def test_bracket_is_the_gradient_of_an_inner_product(setting):
    # H_D G_S + H_S G_D − 2 H_D G_D = ∇_θ ⟨G_D, G_S − G_D⟩ where both factors see the same real batch.
    size, distilled, landscape_of = setting
    window = jax.tree.map(lambda x: x[0], windows_of("published", 1, 1, size))
    window = window._replace(for_hessian=window.for_gradient, a=jnp.zeros(1), b=jnp.ones(1))
    landscape, params = landscape_of(distilled)(jax.tree.map(lambda x: x[0], window)), window.params[0]

    def inner(params):
        g_d = jax.grad(landscape.real_gradient)(params)
        return jnp.vdot(g_d, jax.grad(landscape.synthetic)(params) - g_d)

    residual, _ = jax.jit(lambda w: infmatch.DISPLACEMENTS["published"].residual(landscape_of(distilled), w))(window)
    np.testing.assert_allclose(residual, jax.jit(jax.grad(inner))(params), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_memory_of_two_pass_does_not_grow_with_the_checkpoints(toy):
    task, examples = toy(jnp.float32)
    losses, unravel = task.losses, task.unravel
    distilled = Distilled(jnp.tile(examples.inputs, (32, 1, 1, 1)), jnp.zeros((256, 3)), jnp.asarray(0.1))

    def landscape_of(distilled):
        def on(examples):
            loss = mean_loss(losses, examples)
            return lambda flat: loss(unravel(flat))

        return lambda c: infmatch.Landscape(
            on(softened(distilled, jnp.arange(256))),
            on(c.for_gradient),
            on(c.for_hessian),
            autodiff.hvp,
            autodiff.hessian_form,
        )

    def memory(function, m):
        windows = windows_of("second_order", m, 1, task.size, jnp.float32)
        compiled = jax.jit(lambda s, w: function(infmatch.DISPLACEMENTS["second_order"], landscape_of, s, w))
        return compiled.lower(distilled, windows).compile().memory_analysis().temp_size_in_bytes

    def autodiff_gradient(*args):
        return jax.grad(lambda s: infmatch.objective(args[0], args[1], s, args[3]))(args[2])

    for gradient in (infmatch.two_pass, autodiff_gradient):
        assert memory(gradient, 16) < 1.1 * memory(gradient, 2)

    def stored_gradient(displacement, landscape_of, distilled, windows):
        def objective(distilled):
            residuals = jax.lax.map(lambda w: displacement.residual(landscape_of(distilled), w), windows)
            residual, empty = (jnp.linalg.norm(x.sum(0)) for x in residuals)
            return residual / empty

        return jax.grad(objective)(distilled)

    # The same measure sees the growth of what stores the activations of every window.
    assert memory(stored_gradient, 16) > 2 * memory(stored_gradient, 2)


def cosine(x, y):
    return float(jnp.vdot(x, y) / (jnp.linalg.norm(x) * jnp.linalg.norm(y)))


def displacement_cosines(toy, steps, lr):
    """Compare every estimate of a displacement with true retraining: a tenth of the data is removed."""
    task, _ = toy(jnp.float64)
    losses, unravel = task.losses, task.unravel
    full = jax.tree.map(lambda x: x.reshape(40, *x.shape[2:]), real_batch(jax.random.key(1), (4,), jnp.float64))
    full = full._replace(weights=jnp.full((40,), 1 / 40))
    kept = jax.tree.map(lambda x: x[:36], full)._replace(weights=jnp.full((36,), 1 / 36))

    def flat_loss(examples):
        loss = mean_loss(losses, examples)
        return lambda flat: loss(unravel(flat))

    def descend(loss, start):
        def step(params, _):
            return params - lr * jax.grad(loss)(params), params

        return jax.lax.scan(step, start, length=steps)

    start = ravel_pytree(task.model.init(jax.random.key(5)))[0].astype(jnp.float64)
    end, path = jax.jit(lambda start: descend(flat_loss(full), start))(start)
    truth = jax.jit(lambda start: descend(flat_loss(kept), start)[0])(start) - end

    def estimate(estimator):
        length = steps if estimator == "unroll" else 1
        many = 1 if estimator in ("unroll", "second_order") else steps
        rates = jnp.full((many, length), lr)
        remaining = lr * (steps - 1 - jnp.arange(many))[:, None] * jnp.ones((1, length))
        a, b = infmatch.coefficients(estimator, rates, remaining, lr * steps)
        broadcast = jax.tree.map(lambda x: jnp.broadcast_to(x, (many, length, *x.shape)), full)
        windows = infmatch.Checkpoint(
            snapshot=Snapshots(None, None, path[: many * length].reshape(many, length, task.size)),
            a=a,
            b=b,
            for_gradient=broadcast,
            for_hessian=broadcast,
            cached=None,
            key=jax.random.split(jax.random.key(0), (many, length)),
            items=jnp.zeros((many, length, 0), jnp.int32),
        )

        def landscape_of(c):
            return infmatch.Landscape(
                flat_loss(kept),
                flat_loss(c.for_gradient),
                flat_loss(c.for_hessian),
                autodiff.hvp,
                autodiff.hessian_form,
            )

        displacement = infmatch.DISPLACEMENTS[estimator]
        return jax.jit(lambda w: jnp.sum(jax.lax.map(lambda w: displacement.residual(landscape_of, w)[0], w), axis=0))(
            windows
        )

    return {estimator: cosine(estimate(estimator), truth) for estimator in ESTIMATORS}


@pytest.mark.parametrize("cache", [190, 5000])
def test_a_cache_reads_as_many_examples_as_it_says(stripes, cache):
    task = classification(models.build(MLP(width=4, depth=1), (8, 8, 1), 3), 3)
    real, params = stripes.real_set(), ravel_pytree(task.model.init(jax.random.key(1)))[0]
    config = infmatch.Config(estimator="first_order", cache=cache, real_batch=190, window=Window(start=1, end=1))
    experts = influence.at(params)
    method = config.build(task)
    cached = method.prepare(jax.random.key(0), Sources(real, experts))
    examples = sampling.take(real, jnp.arange(real.size))  # of 192, in two batches of 96
    whole = jax.grad(lambda flat: mean_loss(task.losses, examples)(task.unravel(flat)))(params)
    np.testing.assert_allclose(cached.gradient[0, 0], whole, rtol=1e-4, atol=1e-6)


def test_displacements_against_true_retraining(x64, toy, record_property):
    short, long = displacement_cosines(toy, 5, 0.05), displacement_cosines(toy, 60, 0.05)
    for name, cosines in (("short", short), ("long", long)):
        record_property(name, {k: round(v, 4) for k, v in cosines.items()})
        print(name, {k: round(v, 4) for k, v in cosines.items()})
    assert short["second_order"] > 0.999
    assert short["unroll"] > 0.999
    assert long["unroll"] > 0.98
    assert long["unroll"] > long["first_order"]
    # The bracket alone is the correction that opposes the displacement, not the displacement.
    assert short["published"] < 0


def test_impossible_settings_are_refused():
    for settings, message in [
        ({"tau": 0.0}, "method.tau is 0.0"),
        ({"checkpoints": 0}, "method.checkpoints is 0"),
        ({"batch": 0}, "method.batch is 0"),
        ({"cache": 10, "real_batch": 64}, "method.cache is 10"),
        ({"cache": 128, "augment": "flip"}, "cannot share"),
        ({"ipc": 0}, "method.ipc is 0"),
        ({"steps": -1}, "method.steps is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            infmatch.Config(**settings)


def test_unrolled_residual_that_blows_up_is_told(toy):
    task, _ = toy(jnp.float32)
    config = infmatch.Config(estimator="unroll")
    method = config.build(task)
    assert method.warn({"loss": 0.7, "image_gradient": 1.0}) == {}
    assert "method.horizon" in method.warn({"loss": 3.0, "image_gradient": 1.0})["residual"]
    assert dataclasses.replace(config, estimator="published").build(task).warn({"loss": 3.0}) == {}
