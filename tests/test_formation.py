"""Images stored as parts of one: cut and enlarged by hand, and methods on them against methods on what they make."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.core.distilled import Distilled
from jaxdd.core.normalization import fit
from jaxdd.core.sampling import real_set
from jaxdd.methods import Optimizer, cafe, dc, dm, infmatch, ncfm
from jaxdd.methods.formation import decode, encode
from jaxdd.types import Snapshots
from tests.helpers import class_batch, distilled_set
from tests.test_fused_features import released_batch
from tests.test_infmatch import windows_of


def test_decode_by_hand():
    # One image of 4 × 4 in two by two patches. Doubling two pixels a, b gives a, (3a + b) / 4, (a + 3b) / 4, b.
    image = np.arange(16.0).reshape(4, 4)
    doubling = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    stored = Distilled(jnp.asarray(image, jnp.float32)[None, ..., None], jnp.asarray([[1.0, 2.0]]), jnp.asarray(0.1))
    decoded = decode(stored, 2)
    patches = [image[:2, :2], image[:2, 2:], image[2:, :2], image[2:, 2:]]
    expected = np.stack([doubling @ patch @ doubling.T for patch in patches])[..., None]
    np.testing.assert_allclose(decoded.images, expected, rtol=1e-6)
    np.testing.assert_array_equal(decoded.labels, np.tile([[1, 2]], (4, 1)))
    assert decoded.lr == stored.lr
    assert decode(stored, 1) is stored


def test_encode_by_hand():
    images = np.random.default_rng(0).normal(size=(8, 6, 4, 2)).astype(np.float32)
    labels = np.repeat(np.eye(2, dtype=np.float32), 4, 0) * 128
    stored = encode(Distilled(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(0.1)), 2)
    assert stored.images.shape == (2, 6, 4, 2)
    # The patch whose enlargement, in rows a, (3a + b) / 4, (a + 3b) / 4, (3b + c) / 4, …, is nearest to the image.
    rows = np.array([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4
    columns = np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4
    for m in range(2):
        for k, (row, column) in enumerate([(0, 0), (0, 2), (3, 0), (3, 2)]):
            pixels = images[4 * m + k].reshape(24, 2)
            small = np.linalg.lstsq(np.kron(rows, columns), pixels, rcond=None)[0].reshape(3, 2, 2)
            np.testing.assert_allclose(stored.images[m, row : row + 3, column : column + 2], small, atol=1e-5)
    np.testing.assert_array_equal(stored.labels, 128 * np.eye(2))
    # What was stored comes back, pixel by pixel.
    again = encode(decode(stored, 2), 2)
    np.testing.assert_allclose(again.images, stored.images, atol=1e-5)
    np.testing.assert_array_equal(again.labels, stored.labels)


@pytest.mark.parametrize(("factor", "shape"), [(1, (4, 4, 1)), (2, (4, 4, 1)), (2, (6, 4, 3)), (3, (6, 9, 1))])
def test_a_stored_image_makes_f_squared_items(factor, shape):
    stored = Distilled(jnp.zeros((6, *shape)), jnp.zeros((6, 3)), jnp.asarray(0.1))
    decoded = decode(stored, factor)
    assert decoded.images.shape == (6 * factor**2, *shape)
    assert dm.Config(ipc=2, factor=factor).items_per_class == 2 * factor**2


def test_images_that_do_not_divide_are_refused(toy):
    method = dm.Config(ipc=1, factor=3).build(toy(jnp.float32)[0])
    distilled = Distilled(jnp.zeros((27, 4, 4, 1)), jnp.zeros((27, 3)), jnp.asarray(0.1))
    with pytest.raises(ValueError, match=r"method.factor is 3 and images are 4×4.*choose another factor"):
        method.init(jax.random.key(0), distilled, None)
    with pytest.raises(ValueError, match="method.factor is 3"):
        decode(distilled, 3)


def test_real_images_that_do_not_divide_are_refused_before_any_work():
    images = np.zeros((27, 6, 8, 1), np.uint8)
    real = real_set(images, np.repeat(np.arange(3), 9), 3, fit("standard", images))
    for config in (infmatch.Config, dm.Config):
        config(ipc=9).check(real)
        config(ipc=2, factor=2).check(real)
        with pytest.raises(ValueError, match="method.factor is 3 and images are 6×8.*choose another factor"):
            config(factor=3).check(real)
        with pytest.raises(ValueError, match="cannot draw 12 examples per class"):
            config(ipc=3, factor=2).check(real)


def draw_ncfm(task, queries):
    start, final = jax.vmap(lambda key: ravel_pytree(task.model.init(key))[0])(jax.random.split(jax.random.key(5)))
    keys = jax.random.split(jax.random.key(9), (3, 2))
    snapshot = Snapshots(jnp.int32(0), jnp.int32(0), start)
    return ncfm.Batch(class_batch(5, 3), keys, snapshot, final, jnp.asarray(0.3, jnp.float64))


KEYS = jax.random.split(jax.random.key(9), 3)
METHODS = {
    "dc": (
        dc.Config(labels="learned", augment="flip_color", outer_loop=2, inner_loop=1),
        lambda task, queries: dc.Batch(class_batch(5, 3), KEYS, jnp.asarray(False), None),
    ),
    "dm": (dm.Config(augment="flip"), lambda task, queries: dm.Batch(class_batch(5, 3), KEYS, jax.random.key(8))),
    "ncfm": (ncfm.Config(frequencies=7, augment="flip"), draw_ncfm),
    "cafe": (cafe.Config(longest=3), lambda task, queries: cafe.Batch(class_batch(5, 3), KEYS, queries)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_on_stored_images_is_that_on_what_they_make(x64, toy, name):
    task, queries = toy(jnp.float64)
    config, draw = METHODS[name]
    batch, key = draw(task, queries), jax.random.key(0)
    parts = dataclasses.replace(config, ipc=2, factor=2).build(task)
    plain = dataclasses.replace(config, ipc=8).build(task)
    begin = parts.init(key, distilled_set(8), None)
    stored, made = begin.distilled, decode(begin.distilled, 2)
    assert stored.size == 6
    for shown, expected in zip(parts.distilled(begin), made, strict=True):
        np.testing.assert_array_equal(shown, expected)
    alike = plain.init(key, made, None)
    value, slope = jax.jit(jax.value_and_grad(parts.objective))(stored, begin, batch)
    expected, along = jax.jit(jax.value_and_grad(plain.objective))(made, alike, batch)
    (pulled,) = jax.vjp(lambda stored: decode(stored, 2), stored)[1](along)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope.inputs, pulled.inputs, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(slope.labels, pulled.labels, rtol=1e-9, atol=1e-13)
    rate = config.image_optimizer.lr
    after, info = jax.jit(parts.step)(key, begin, batch)
    np.testing.assert_allclose(info["loss"], value, rtol=1e-12)
    np.testing.assert_allclose(info["image_gradient"], np.linalg.norm(slope.inputs), rtol=1e-12)
    if config.image_optimizer.name == "sgd":
        np.testing.assert_allclose(after.distilled.images, stored.images - rate * slope.inputs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["second_order", "released"])
def test_inf_match_on_stored_images_is_that_on_what_they_make(x64, toy, estimator):
    task = toy(jnp.float64)[0]
    rates = {"image_optimizer": Optimizer("sgd", 0.1, 0), "label_optimizer": Optimizer("sgd", 0.2, 0)}
    released = infmatch.Released(probes=7)
    config = infmatch.Config(estimator=estimator, released=released, checkpoints=2, labels="learned", **rates)

    def batch(items):
        if estimator == "released":
            return released_batch(task)
        return windows_of(estimator, 2, 1, task.size, items=items)

    key = jax.random.key(0)
    parts = dataclasses.replace(config, ipc=2, factor=2).build(task)
    plain = dataclasses.replace(config, ipc=8).build(task)
    begin = parts.init(key, distilled_set(8), None)
    stored, made = begin.distilled, decode(begin.distilled, 2)
    after, info = jax.jit(parts.step)(key, begin, batch(6))
    alike, expected = jax.jit(plain.step)(key, plain.init(key, made, None), batch(24))
    np.testing.assert_allclose(info["loss"], expected["loss"], rtol=1e-12)
    steps = jax.tree.map(jnp.subtract, alike.distilled, made)
    (pulled,) = jax.vjp(lambda stored: decode(stored, 2), stored)[1](steps)
    assert np.abs(pulled.inputs).max() > 1e-4
    assert np.abs(pulled.labels).max() > 1e-4
    np.testing.assert_allclose(after.distilled.inputs, stored.inputs + pulled.inputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after.distilled.labels, stored.labels + pulled.labels, rtol=1e-9, atol=1e-12)


def test_a_task_without_classes_is_refused(toy):
    task = dataclasses.replace(toy(jnp.float32)[0], classes=None)
    with pytest.raises(ValueError, match=r"method.factor is 2.*has no classes"):
        infmatch.Config(factor=2).build(task)
