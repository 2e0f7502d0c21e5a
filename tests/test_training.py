import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import models
from jaxdd.core.tasks import cross_entropy
from jaxdd.core.training import Recipe, batching, shuffle, train
from jaxdd.models import MLP
from jaxdd.types import Examples

PLAIN = Recipe(epochs=3, batch=4, lr=0.2, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")


@pytest.mark.parametrize("size, batch", [(1, 1), (1, 5), (5, 1), (10, 3), (12, 4), (13, 4), (100, 64), (192, 128)])
def test_epoch_covers_everything_in_equal_batches(size, batch):
    steps, width = batching(size, batch)
    assert steps == math.ceil(size / batch)
    assert width <= batch
    assert 0 <= steps * width - size < steps
    rows = np.asarray(shuffle(jax.random.key(size), size, batch))
    assert rows.shape == (steps, width)
    counts = np.bincount(rows.ravel(), minlength=size)
    assert len(counts) == size
    assert counts.min() == 1
    assert np.sum(counts - 1) == steps * width - size
    assert all(len(set(row)) == width for row in rows)


def test_every_order_is_drawn():
    keys = jax.random.split(jax.random.key(0), 300)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: shuffle(key, 3, 2).ravel()[:3]))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 25  # 50 are expected, and 25 are almost 4 standard deviations below


def linear_problem(size=10):
    """Multinomial logistic regression on random images with soft targets."""
    model = models.build(MLP(depth=0), (3, 2, 1), 4)
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(size, 3, 2, 1)), rng.dirichlet(np.ones(4), size)

    def fetch(indices):
        weights = jnp.full(indices.shape, 1 / indices.shape[0])
        return Examples(jnp.asarray(images)[indices], jnp.asarray(targets)[indices], weights, indices)

    return model, cross_entropy(model), fetch, images, targets


@functools.cache
def run(recipe, *, size=10, key=3, image=lambda x: x, **options):
    """Train the linear problem; returns θ_0, the last parameters, the snapshots and the batches that were fetched."""
    model, losses, fetch, *_ = linear_problem(size)
    batches = []

    def watched(indices):
        jax.debug.callback(lambda rows: batches.append(np.asarray(rows)), indices, ordered=True)
        examples = fetch(indices)
        return examples._replace(inputs=image(examples.inputs))

    start = model.init(jax.random.key(1))
    trained = jax.jit(lambda key, params: train(key, params, losses, watched, size, recipe, **options))
    end, snapshots = trained(jax.random.key(key), start)
    jax.effects_barrier()
    return start, end, snapshots, batches


def numpy_sgd(start, batches, images, targets, recipe, lr):
    """torch.optim.SGD on a linear softmax classifier: parameters after every step, and the loss before it."""
    weight, bias = (np.asarray(start["linear"][name], np.float64) for name in ("kernel", "bias"))
    velocity = [np.zeros_like(weight), np.zeros_like(bias)]
    path, losses = [(weight, bias)], []
    for t, rows in enumerate(batches):
        x, y = images[rows].reshape(len(rows), -1), targets[rows]
        z = x @ weight + bias
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        losses.append(-np.mean(np.sum(y * np.log(p), axis=1)))
        gradients = [
            x.T @ (p - y) / len(rows) + recipe.weight_decay * weight,
            (p - y).mean(0) + recipe.weight_decay * bias,
        ]
        velocity = [recipe.momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        rate = {
            "constant": lr,
            "step": lr if t < len(batches) // 2 else lr / 10,
            "cosine": lr * (1 + math.cos(math.pi * t / len(batches))) / 2,
        }[recipe.schedule]
        weight, bias = (p - rate * v for p, v in zip((weight, bias), velocity, strict=True))
        path.append((weight, bias))
    # ravel_pytree orders a dict by its keys: the bias comes first.
    return np.stack([np.concatenate([bias, weight.ravel()]) for weight, bias in path]), np.array(losses)


@pytest.mark.parametrize(
    "schedule, momentum, decay, lr",
    [("constant", 0.0, 0.0, None), ("step", 0.9, 0.05, 0.03), ("cosine", 0.5, 0.1, None), ("cosine", 0.9, 0.0, 0.5)],
)
def test_training_is_sgd_as_pytorch_defines_it(x64, schedule, momentum, decay, lr):
    recipe = dataclasses.replace(PLAIN, schedule=schedule, momentum=momentum, weight_decay=decay)
    start, end, snapshots, batches = run(recipe, snapshots=5, every=2, lr=lr)
    *_, images, targets = linear_problem()
    assert len(batches) == 3 * 3
    for epoch in range(3):
        assert set(np.concatenate(batches[3 * epoch : 3 * epoch + 3])) == set(range(10))
    assert not np.array_equal(batches[:3], batches[3:6])  # every epoch is shuffled anew
    path, losses = numpy_sgd(start, batches, images, targets, recipe, lr or recipe.lr)
    np.testing.assert_allclose(ravel_pytree(end)[0], path[-1], rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(snapshots.params[0], ravel_pytree(start)[0])
    np.testing.assert_allclose(snapshots.params, path[0:10:2], rtol=1e-10, atol=1e-13)
    expected = [0, *losses[:8].reshape(4, 2).mean(1)]
    np.testing.assert_allclose(snapshots.losses, expected, rtol=1e-10)


def test_sharpness_takes_the_gradient_uphill(x64):
    # SAM by hand on the linear classifier: g at θ, then the step with the gradient at θ + ρ g / ‖g‖.
    recipe = dataclasses.replace(PLAIN, sharpness=0.3, momentum=0.5, weight_decay=0.1, epochs=2)
    start, end, _, batches = run(recipe)
    *_, images, targets = linear_problem()
    bias, weight = np.asarray(start["linear"]["bias"]), np.asarray(start["linear"]["kernel"])
    theta, velocity = np.concatenate([bias, weight.ravel()]), 0.0

    def gradient(theta, rows):
        x, y = images[rows].reshape(len(rows), -1), targets[rows]
        z = x @ theta[4:].reshape(weight.shape) + theta[:4]
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return np.concatenate([(p - y).mean(0), (x.T @ (p - y) / len(rows)).ravel()])

    for rows in batches:
        g = gradient(theta, rows)
        uphill = gradient(theta + 0.3 * g / np.linalg.norm(g), rows)
        velocity = 0.5 * velocity + uphill + 0.1 * theta
        theta = theta - 0.2 * velocity
    np.testing.assert_allclose(ravel_pytree(end)[0], theta, rtol=1e-10)
    assert not np.allclose(ravel_pytree(run(dataclasses.replace(recipe, sharpness=0.0))[1])[0], theta, rtol=1e-3)
    with pytest.raises(ValueError, match="sharpness is -0.1"):
        Recipe(sharpness=-0.1)


def test_snapshots_do_not_change_the_training_and_follow_its_path():
    _, end, every_step, _ = run(PLAIN, snapshots=10)
    _, alone, none, _ = run(PLAIN)
    _, longer_end, longer, _ = run(dataclasses.replace(PLAIN, epochs=5), snapshots=16)
    assert none is None
    assert every_step.params.shape == (10, 28)
    np.testing.assert_allclose(ravel_pytree(end)[0], ravel_pytree(alone)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(every_step.params, longer.params[:10])
    np.testing.assert_array_equal(every_step.params[-1], ravel_pytree(end)[0])
    assert not np.array_equal(ravel_pytree(longer_end)[0], ravel_pytree(end)[0])


def test_keys_decide_the_batches():
    assert np.array_equal(run(PLAIN)[3], run(PLAIN, snapshots=10)[3])
    assert not np.array_equal(run(PLAIN)[3], run(PLAIN, key=4)[3])


def test_images_are_augmented_at_every_step():
    def symmetric(images):
        return images + images[:, :, ::-1]

    flipped = dataclasses.replace(PLAIN, augment="flip")

    def gap(**options):
        ends = [ravel_pytree(run(recipe, **options)[1])[0] for recipe in (PLAIN, flipped)]
        return float(jnp.abs(ends[0] - ends[1]).max())

    # A mirrored image is another one, but for one that is its own mirror image.
    assert gap(image=symmetric) < 1e-6
    assert gap() > 1e-2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"schedule": "linear"}, "schedule is 'linear'.*cosine"),
        ({"augment": "flip_mirror"}, "'mirror'"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_impossible_recipes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)
