"""RaT-BPTT against loops written by hand, finite differences, and the law of its adaptive schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core.unroll import Unroll
from jaxdd.errors import SettingError
from jaxdd.methods import Optimizer
from jaxdd.methods.base import Sources
from jaxdd.methods.rat_bptt import Config, placed
from jaxdd.models import MLP
from tests.helpers import distilled_set, dot, finite_difference, random_like

T, LR = 4, 0.05
ADAM, SGD = Optimizer("adam", LR), Optimizer("sgd", LR, 0.5)


def build(stripes, **changes):
    """Build a method on 4×4 images, its first set, and the batch of a step."""
    settings = {"student_steps": T, "window": 2, "real_batch": 8, "ipc": 1, "steps": 10, "student_optimizer": ADAM}
    config = Config(**{**settings, "image_optimizer": Optimizer("sgd", 1.0, 0.0), "clip": None, **changes})
    task = classification(models.build(MLP(width=4, depth=1, activation="gelu"), (4, 4, 1), 3), 3)
    method = config.build(task)
    real = stripes.real_set()._replace(inputs=stripes.train.images[:, ::2, ::2])
    batch = method.sample(jax.random.key(3), jnp.int32(2), Sources(real))
    precise = jnp.result_type(float)
    batch = jax.tree.map(lambda x: x.astype(precise) if x.dtype == jnp.float32 else x, batch)
    return task, method, distilled_set(1, dtype=precise), batch


def gradient(method, distilled, batch):
    """The gradient that a step descends: its update by SGD at learning rate 1."""
    state = method.init(jax.random.key(0), distilled, Sources())
    new, observed = jax.jit(method.step)(jax.random.key(0), state, batch)
    return distilled.inputs - method.distilled(new).inputs, observed


def by_hand(task, distilled, draw, begin, size, optimizer=ADAM):
    """The loss at the end of a window, by a loop in Python over parameters and moments."""
    params = jax.tree.map(lambda x: x.astype(jnp.float64), task.model.init(draw.network))
    first = second = jax.tree.map(jnp.zeros_like, params)
    for n in range(begin + size):
        given = distilled if n >= begin else jax.lax.stop_gradient(distilled)
        images, targets = given.inputs[draw.indices[n]], jax.nn.softmax(given.labels[draw.indices[n]])

        def loss(params, images=images, targets=targets):
            return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(task.model.apply(params, images)), -1))

        grads = jax.grad(loss)(params)
        if optimizer.name == "sgd":
            first = jax.tree.map(lambda m, g: 0.5 * m + g, first, grads)
            params = jax.tree.map(lambda p, m: p - LR * m, params, first)
        else:
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)

            def moved(p, m, v, n=n):
                return p - LR * (m / (1 - 0.9 ** (n + 1))) / (jnp.sqrt(v / (1 - 0.999 ** (n + 1)) + 1e-12) + 1e-8)

            params = jax.tree.map(moved, params, first, second)
        if n + 1 == begin:
            params, first, second = jax.lax.stop_gradient((params, first, second))
    logits = task.model.apply(params, draw.real.inputs)
    return -jnp.mean(jnp.sum(draw.real.targets * jax.nn.log_softmax(logits), -1))


def slope_by_hand(task, distilled, draw, *window):
    """Value and gradient in the images of the loss by hand."""

    def loss(images):
        return by_hand(task, distilled._replace(inputs=images), draw, *window)

    return jax.jit(jax.value_and_grad(loss))(distilled.inputs)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("window", [2, T])
def test_gradient_is_that_of_a_loop_by_hand(x64, stripes, window, optimizer):
    task, method, distilled, batch = build(stripes, window=window, students=2, student_optimizer=optimizer)
    grads, observed = gradient(method, distilled, batch)
    losses, expected = [], []
    for r in range(2):
        draw = jax.tree.map(lambda x, r=r: x[r], batch)
        begin = int(jax.random.randint(draw.place, (), 0, T - window + 1))
        loss, slope = slope_by_hand(task, distilled, draw, begin, window, optimizer)
        losses.append(loss)
        expected.append(slope)
    np.testing.assert_allclose(observed["loss"], np.mean(losses), rtol=1e-6)
    # Students begin in float32, as all networks do.
    np.testing.assert_allclose(grads, np.mean(expected, 0), rtol=1e-4, atol=1e-9)
    assert float(jnp.abs(grads).max()) > 1e-6


def test_a_window_over_everything_gives_the_derivative_of_the_loss(x64, stripes):
    _, method, distilled, batch = build(stripes, window=T)
    direction = random_like(distilled.inputs)

    def loss(images):
        return gradient(method, distilled._replace(inputs=images), batch)[1]["loss"]

    expected = finite_difference(loss, distilled.inputs, direction, step=1e-3)
    np.testing.assert_allclose(dot(gradient(method, distilled, batch)[0], direction), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["steps", "segmented"])
def test_the_gradient_does_not_depend_on_how_it_is_stored(x64, stripes, mode):
    found = [gradient(*build(stripes, unroll=Unroll(m))[1:])[0] for m in ("full", mode)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_memory_is_that_of_the_window_however_long_the_training(stripes):
    def memory(steps, window):
        _, method, distilled, batch = build(stripes, student_steps=steps, window=window, unroll=Unroll("full"), batch=3)
        state = method.init(jax.random.key(0), distilled, Sources())
        compiled = jax.jit(method.step).lower(jax.random.key(0), state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long, wide = memory(20, 4), memory(200, 4), memory(200, 64)
    assert long < short + 20_000 < wide - 100_000  # keys and indices of the steps grow, activations do not


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_adaptive_windows_follow_their_law(stage):
    config = Config(schedule="adaptive", student_steps=20, window=6, window_range=3)
    norms = jnp.asarray(np.random.default_rng(0).uniform(0, 4, 20), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 4000)
    begins, sizes = jax.vmap(lambda key: placed(key, norms, jnp.int32(stage), config))(keys)
    begins, sizes = np.asarray(begins), np.asarray(sizes)
    assert begins.min() >= 0 and (begins + sizes).max() <= 20
    probability = np.exp(norms) / np.exp(norms).sum()
    changes = np.abs(np.diff(np.asarray(norms), prepend=norms[0]))
    expected = np.zeros((21, 21))  # of each begin and size
    for t in range(20):
        if stage == 0:
            size = int(6 - 3 + 2 * 3 * (sorted(changes).index(changes[t]) / 20))
            expected[min(t, 20 - size), size] += probability[t]
        elif stage == 2:
            expected[max(20 - t - 3, 0), 3] += probability[t]
    if stage == 1:
        expected[:12, 9] = 1 / 12
    found = np.zeros_like(expected)
    np.add.at(found, (begins, sizes), 1 / len(keys))
    assert np.abs(found - expected).max() < 0.03
    assert not found[expected == 0].any()


def test_an_adaptive_step_uses_the_window_that_its_norms_give(x64, stripes):
    task, method, distilled, batch = build(stripes, schedule="adaptive", window=2, window_range=1, ipc=1)
    grads, observed = gradient(method, distilled, batch)
    draw = jax.tree.map(lambda x: x[0], batch)
    slopes = {}
    for size in (1, 2, 3):
        for begin in range(T - size + 1):
            if begin + size == int(observed["window_end"]):
                slopes[size] = slope_by_hand(task, distilled, draw, begin, size)[1]
    near = {size: np.allclose(grads, slope, rtol=1e-4, atol=1e-9) for size, slope in slopes.items()}
    assert sum(near.values()) == 1, near


@pytest.mark.parametrize("stage", [0, 2])
def test_a_truncated_gradient_of_an_adaptive_window_is_that_of_its_last_steps(x64, stripes, stage):
    adaptive = {"schedule": "adaptive", "window": 4, "window_range": 2, "student_steps": 8}
    found = []
    for how in (Unroll("truncated", last=2), Unroll("full")):
        _, method, distilled, batch = build(stripes, **adaptive, unroll=how)
        found.append(gradient(method, distilled, batch._replace(stage=jnp.full_like(batch.stage, stage)))[0])
    truncated, full = found
    assert float(jnp.linalg.norm(truncated)) > 0.01 * float(jnp.linalg.norm(full)) > 0
    if stage == 2:  # windows of 4 − 2 steps: all of them
        np.testing.assert_allclose(truncated, full, rtol=1e-6, atol=1e-12)


def test_large_gradients_are_cut_to_twice_their_running_mean(x64, stripes):
    _, method, distilled, batch = build(stripes, clip=2.0, clip_memory=0.5)
    state = method.init(jax.random.key(0), distilled, Sources())
    plain, _ = gradient(build(stripes)[1], distilled, batch)
    size = float(jnp.linalg.norm(plain))
    for mean, expected in ((0.0, size), (size / 10, 1.1 * size), (size / 100, 1.01 * size)):
        new, _ = jax.jit(method.step)(jax.random.key(0), state._replace(norm=jnp.asarray(mean)), batch)
        moved = float(jnp.linalg.norm(distilled.inputs - new.distilled.inputs))
        np.testing.assert_allclose(moved, min(size, expected), rtol=1e-6)
        np.testing.assert_allclose(new.norm, size if mean == 0 else 0.5 * (mean + size), rtol=1e-6)
    _, method, *_ = build(stripes, clip=0.5, clip_memory=0.5)
    new, _ = jax.jit(method.step)(jax.random.key(0), state, batch)
    np.testing.assert_allclose(jnp.linalg.norm(distilled.inputs - new.distilled.inputs), 0.5 * size, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 300}, "method.window is 300.*300 steps of the 200"),
        ({"schedule": "adaptive", "window": 195}, "becomes 205 steps of the 200"),
        ({"schedule": "adaptive", "window": 10}, "method.window_range is 10, and method.window 10"),
        ({"second_stage": 0.8, "third_stage": 0.5}, "method.second_stage is 0.8, after method.third_stage 0.5"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Config(**settings)


def test_stages_follow_the_outer_steps(stripes):
    _, method, _, _ = build(stripes, schedule="adaptive", window=2, window_range=1, steps=10)
    real = stripes.real_set()
    stages = [int(method.sample(jax.random.key(0), jnp.int32(s), Sources(real)).stage[0]) for s in range(10)]
    assert stages == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
