import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.core.unroll import Footprint, Unroll, choose, footprint, inner_sgd, segmented_scan
from tests.helpers import finite_difference, random_like

MODES = [
    Unroll("full"),
    Unroll("segmented"),
    Unroll("segmented", segment=3),
    Unroll("segmented", segment=100),
    Unroll("steps"),
    Unroll(),
]


@pytest.mark.parametrize("how", MODES)
def test_sgd_on_a_quadratic_follows_the_closed_form(x64, how):
    # L(θ) = ½ (θ − b)ᵀ A (θ − b): θ_N = b + (I − α A)^N (θ_0 − b), differentiated in α by hand.
    a = jnp.diag(jnp.array([1.0, 2.0, 5.0])) + 0.1
    b, start, lr, steps = jnp.array([1.0, -2.0, 0.5]), jnp.array([3.0, 1.0, -1.0]), 0.07, 11

    def loss(params, _):
        return 0.5 * jnp.vdot(params - b, a @ (params - b))

    def run(lr):
        return inner_sgd(loss, start, jnp.zeros(steps), lr, how=how)[0]

    step = jnp.eye(3) - lr * a
    np.testing.assert_allclose(run(lr), b + jnp.linalg.matrix_power(step, steps) @ (start - b), rtol=1e-12)
    slope = -steps * a @ jnp.linalg.matrix_power(step, steps - 1) @ (start - b)
    np.testing.assert_allclose(jax.jacrev(run)(lr), slope, rtol=1e-10)
    np.testing.assert_allclose(jax.jacfwd(run)(lr), slope, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 50])
@pytest.mark.parametrize("segment", [None, 1, 4, 7])
def test_segmented_scan_is_scan(x64, length, segment):
    xs = jnp.linspace(0.1, 1.0, length)

    def step(carry, x):
        return jnp.sin(carry) + x, carry * x

    def total(scan):
        def objective(init, xs):
            carry, ys = scan(step, init, xs)
            return carry**2 + jnp.sum(ys)

        return objective

    plain = total(jax.lax.scan)
    segmented = total(lambda *args: segmented_scan(*args, segment=segment))
    np.testing.assert_allclose(plain(0.3, xs), segmented(0.3, xs), rtol=1e-14)
    for argument in (0, 1):
        expected = jax.grad(plain, argument)(0.3, xs)
        np.testing.assert_allclose(jax.grad(segmented, argument)(0.3, xs), expected, rtol=1e-12)


def test_truncated_is_the_gradient_of_the_last_steps_alone(x64):
    target = jnp.array([1.0, 2.0])

    def student(scale, start, steps, how):
        return inner_sgd(lambda p, _: jnp.sum((scale * p - target) ** 4), start, jnp.zeros(steps), 0.01, how=how)[0]

    start, scale = jnp.array([0.2, -0.1]), 0.9
    truncated = jax.jacrev(lambda s: student(s, start, 9, Unroll("truncated", last=4)))(scale)
    middle = student(scale, start, 5, Unroll("full"))
    expected = jax.jacrev(lambda s: student(s, middle, 4, Unroll("full")))(scale)
    np.testing.assert_allclose(truncated, expected, rtol=1e-12)
    whole = jax.jacrev(lambda s: student(s, start, 9, Unroll("truncated", last=9)))(scale)
    np.testing.assert_allclose(whole, jax.jacrev(lambda s: student(s, start, 9, Unroll("full")))(scale), rtol=1e-12)


def test_tesla_is_the_gradient_at_constant_parameters(x64):
    images, target = jax.random.normal(jax.random.key(0), (5, 3)), jnp.ones((3, 2))

    def loss(params, row, images):
        return jnp.sum(jnp.tanh(images[row] @ params) ** 2)

    def objective(variables, steps, how):
        images, lr = variables
        rows = jnp.arange(steps) % 5
        end = inner_sgd(lambda p, row: loss(p, row, images), jnp.full((3, 2), 0.5), rows, lr, how=how)[0]
        return jnp.sum((end - target) ** 2)

    def by_hand(variables, steps):
        # The student's path first, as numbers; then one sum of gradients at those numbers.
        images, lr = jax.lax.stop_gradient(variables)
        path = [jnp.full((3, 2), 0.5)]
        for n in range(steps):
            path.append(path[-1] - lr * jax.grad(loss)(path[-1], n % 5, images))
        images, lr = variables
        end = path[0] - lr * sum(jax.grad(loss)(path[n], n % 5, images) for n in range(steps))
        return jnp.sum((end - target) ** 2)

    variables = (images, jnp.asarray(0.3))
    for steps in (1, 6):
        ours = jax.jit(jax.grad(lambda v, n=steps: objective(v, n, Unroll("tesla"))))(variables)
        theirs = jax.jit(jax.grad(lambda v, n=steps: by_hand(v, n)))(variables)
        exact = jax.jit(jax.grad(lambda v, n=steps: objective(v, n, Unroll("full"))))(variables)
        for a, b, c in zip(ours, theirs, exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
            assert np.allclose(a, c, rtol=1e-8) == (steps == 1)  # exact for one step, biased beyond
    value = objective(variables, 6, Unroll("tesla"))
    np.testing.assert_allclose(value, objective(variables, 6, Unroll("full")), rtol=1e-13)


def gradient_memory(how, steps=64, width=256):
    """Temporary bytes of the outer gradient of a student with wide activations."""
    images = jnp.ones((32, width))

    def objective(images):
        def loss(params, _):
            return jnp.mean(jnp.tanh(jnp.tanh(images @ params) @ params) ** 2)

        return jnp.sum(inner_sgd(loss, jnp.eye(width), jnp.zeros(steps), 0.1, how=how)[0] ** 2)

    return jax.jit(jax.grad(objective)).lower(images).compile().memory_analysis().temp_size_in_bytes


def test_segments_bound_the_memory_of_unrolling():
    full, segmented, truncated = (
        gradient_memory(how) for how in (Unroll("full"), MODES[1], Unroll("truncated", last=8))
    )
    assert segmented < full / 3
    assert truncated < full / 3


def stored_by_student(steps, width=256):
    """The footprint of the student of `gradient_memory`, as it is while the outer gradient is taken."""
    found = []

    def objective(images):
        def step(params, _):
            loss, slope = jax.value_and_grad(lambda p: jnp.mean(jnp.tanh(jnp.tanh(images @ p) @ p) ** 2))(params)
            return params - 0.1 * slope, loss

        found.append(footprint(step, jnp.eye(width), jnp.zeros(steps)))
        return jnp.sum(images)

    jax.eval_shape(jax.grad(objective), jnp.ones((32, width)))
    return found[0]


@pytest.mark.parametrize("steps", [32, 64])
def test_footprint_bounds_what_the_compiled_program_holds(steps):
    stored = stored_by_student(steps)
    assert stored.steps == steps * 256 * 256 * 4
    for how, bound in (("full", stored.full), ("steps", stored.steps)):
        # Beside what is stored, the work of a step or two.
        held, of_step = gradient_memory(Unroll(how), steps), stored.full // steps
        assert held <= bound + 3 * of_step
        assert held >= 0.3 * bound


def test_auto_is_the_fastest_that_fits():
    stored = Footprint(full=4000, steps=40)
    assert [choose(stored, memory) for memory in (40_000, 39_999, 400, 399)] == ["full", "steps", "steps", "segmented"]
    of_student = stored_by_student(64)
    for memory, mode in ((10 * of_student.full, "full"), (10 * of_student.steps, "steps"), (1e6, "segmented")):
        assert gradient_memory(Unroll(memory=memory)) == gradient_memory(Unroll(mode))
    # With the memory of this machine the small student is unrolled in full.
    assert gradient_memory(Unroll()) == gradient_memory(Unroll("full"))


def test_memory_of_steps_is_that_of_their_parameters():
    per_step = (gradient_memory(Unroll("steps"), 128) - gradient_memory(Unroll("steps"), 64)) / 64
    assert per_step < 1.3 * 256 * 256 * 4


def test_memory_of_tesla_does_not_grow_with_the_steps():
    assert gradient_memory(Unroll("tesla"), steps=256) < 1.05 * gradient_memory(Unroll("tesla"), steps=64)
    assert gradient_memory(Unroll("tesla")) < gradient_memory(MODES[1])


def test_memory_of_segments_grows_with_the_root_of_the_steps():
    assert gradient_memory(MODES[1], steps=256) < 2.5 * gradient_memory(MODES[1], steps=64)


def test_gradients_of_a_student_agree_with_finite_differences(x64):
    images = jax.random.normal(jax.random.key(0), (5, 3))
    direction = random_like(images)

    def objective(images):
        def loss(params, row):
            return jnp.sum(jnp.tanh(images[row] @ params) ** 2)

        return jnp.sum(inner_sgd(loss, jnp.ones((3, 2)), jnp.arange(7) % 5, 0.3, how=Unroll())[0] ** 3)

    expected = finite_difference(objective, images, direction)
    np.testing.assert_allclose(jnp.vdot(jax.grad(objective)(images), direction), expected, rtol=1e-8)


@pytest.mark.parametrize("field, value", [("segment", 0), ("last", 0), ("memory", 0)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"unroll.{field} is 0"):
        Unroll(**{field: value})


@pytest.mark.parametrize("how", [Unroll("steps", offload=True), Unroll("segmented", segment=3, offload=True)])
def test_carries_on_the_host_leave_the_gradient_as_it_is(x64, how):
    start, xs = jnp.linspace(-1.0, 1.0, 6), jnp.linspace(0.1, 1.0, 8)

    def student(scale, how):
        loss = lambda p, x: jnp.sum(jnp.cos(scale * p) * x)  # noqa: E731
        return jnp.sum(inner_sgd(loss, start, xs, scale / 3, how=how)[0] ** 2)

    slope = jax.jit(jax.grad(lambda scale: student(scale, how)))
    np.testing.assert_allclose(slope(0.9), jax.grad(lambda scale: student(scale, Unroll("full")))(0.9), rtol=1e-12)

    def for_gpus(function):
        return function.trace(0.9).lower(lowering_platforms=("cuda",)).as_text()

    assert for_gpus(slope).count("pinned_host") > 0
    plain = jax.jit(jax.grad(lambda scale: student(scale, dataclasses.replace(how, offload=False))))
    assert "pinned_host" not in for_gpus(plain)


def test_only_what_is_stored_can_be_kept_on_the_host():
    with pytest.raises(ValueError, match=r"unroll.offload .* unroll.mode is 'auto'; choose one of these"):
        Unroll(offload=True)
