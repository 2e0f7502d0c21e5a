import dataclasses
import io
import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdd import data, influence
from jaxdd.core import normalization, sampling
from jaxdd.core.parallel import make_mesh
from jaxdd.data import splits
from jaxdd.data.sources import digits
from jaxdd.errors import SettingError


def random_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(per_class=10, num_classes=3, shape=(4, 4, 3)):
    labels = np.repeat(np.arange(num_classes), per_class)
    images = random_images(0, len(labels), *shape)
    return images, labels, images[::2], labels[::2]


# --- normalization -------------------------------------------------------------------------------------------------


def test_standardize_matches_numpy_and_inverts():
    images = random_images(0, 50, 6, 5, 3) // np.array([1, 2, 4], np.uint8)
    fitted = normalization.Standardize.fit(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(fitted.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(fitted.std, scaled.std((0, 1, 2)), rtol=1e-6)
    normalized = fitted(images)
    assert normalized.dtype == jnp.float32
    expected = (scaled - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2))
    np.testing.assert_allclose(normalized, expected, atol=1e-5)
    np.testing.assert_allclose(fitted.inverse(normalized), scaled, atol=1e-6)


def test_constant_channel_normalizes_to_zero():
    images = random_images(0, 20, 4, 4, 3)
    images[..., 1] = 77
    fitted = normalization.Standardize.fit(images)
    assert fitted.std[1] == 1
    np.testing.assert_allclose(fitted(images)[..., 1], 0, atol=1e-6)


def correlated_images(count, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, 4 * 3 * 2))
    pixels = 0.5 + 0.1 * rng.normal(size=(count, 3)) @ mixing
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8).reshape(count, 4, 3, 2)


def test_zca_whitens_to_the_regularized_spectrum_and_inverts(monkeypatch):
    monkeypatch.setattr(normalization, "CHUNK", 64)
    images = correlated_images(300)
    flat = images.reshape(300, -1) / 255
    spectrum = np.linalg.eigvalsh(np.cov(flat, rowvar=False, bias=True))
    fitted = normalization.ZCA.fit(images)
    whitened = np.asarray(fitted(images), np.float64).reshape(300, -1)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-5)
    covariance = np.cov(whitened, rowvar=False, bias=True)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), spectrum / (spectrum + 0.1), atol=1e-5)
    # ZCA, not PCA: among all whitenings the symmetric one, closest to the original.
    np.testing.assert_allclose(fitted.whiten, fitted.whiten.T, atol=1e-6)
    np.testing.assert_allclose(fitted.inverse(fitted(images)), images / 255, atol=1e-5)


def test_zca_refuses_images_whose_covariance_is_too_large():
    with pytest.raises(ValueError, match="image_size"):
        normalization.ZCA.fit(np.zeros((2, 128, 128, 3), np.uint8))


@pytest.mark.parametrize("kind", ["standard", "zca"])
def test_normalization_travels_through_jit_and_keeps_leading_axes(kind):
    images = correlated_images(30)
    fitted = normalization.fit(kind, images)
    expected = np.asarray(fitted(images))
    stacked = images.reshape(5, 6, *images.shape[1:])
    forward, back = jax.jit(lambda n, x: (n(x), n.inverse(n(x))))(fitted, stacked)
    np.testing.assert_allclose(forward.reshape(expected.shape), expected, atol=1e-5)
    np.testing.assert_allclose(back, stacked / 255, atol=1e-5)
    np.testing.assert_allclose(fitted(images[0]), expected[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "zca"])
def test_normalization_survives_a_file(kind, tmp_path):
    fitted = normalization.fit(kind, correlated_images(30))
    np.savez(tmp_path / "file.npz", **fitted.to_arrays())
    with np.load(tmp_path / "file.npz") as stored:
        restored = normalization.from_arrays(dict(stored))
    assert type(restored) is type(fitted)
    for before, after in zip(fitted, restored, strict=True):
        np.testing.assert_array_equal(before, after)


def test_normalization_from_arrays_names_what_is_wrong():
    stored = normalization.fit("zca", correlated_images(30)).to_arrays()
    with pytest.raises(ValueError, match="'kind'"):
        normalization.from_arrays({"mean": stored["mean"]})
    with pytest.raises(ValueError, match="whiten"):
        normalization.from_arrays({"kind": stored["kind"], "mean": stored["mean"]})
    with pytest.raises(ValueError, match="normalization is 'pca'; choose one of standard, zca"):
        normalization.from_arrays({**stored, "kind": np.asarray("pca")})


@pytest.mark.parametrize(
    "images", [np.zeros((2, 3, 3, 1)), np.zeros((0, 3, 3, 1), np.uint8), np.zeros((3, 3), np.uint8)]
)
def test_normalization_is_fitted_on_uint8_images_only(images):
    with pytest.raises(ValueError, match="uint8 images"):
        normalization.fit("standard", images)


# --- sampling ------------------------------------------------------------------------------------------------------


@pytest.fixture
def real():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(3), [5, 9, 7]))
    images = random_images(2, len(labels), 4, 4, 3)
    return sampling.real_set(images, labels, 3, normalization.fit("standard", images))


def test_real_set_indexes_every_class(real):
    np.testing.assert_array_equal(real.classes.sizes, [5, 9, 7])
    for label, (row, size) in enumerate(zip(*real.classes, strict=True)):
        np.testing.assert_array_equal(np.sort(row[:size]), np.flatnonzero(real.targets == label))
        assert (real.targets[row] == label).all()  # the padding too
    assert real.classes.table.shape == (3, 9) and real.classes.table.dtype == np.int32
    assert real.size == 21 and real.groups is real.classes


def test_take_gathers_normalizes_and_labels(real):
    indices = np.array([[0, 3], [7, 7], [20, 1]])
    examples = jax.jit(sampling.take)(real, indices)
    np.testing.assert_allclose(examples.inputs, np.asarray(real.normalization(real.inputs))[indices], atol=1e-6)
    np.testing.assert_array_equal(examples.targets, np.eye(3)[real.targets[indices]])
    np.testing.assert_allclose(examples.weights, np.full((3, 2), 0.5))
    np.testing.assert_array_equal(examples.indices, indices)


def test_balanced_draws_each_class_without_replacement_and_fairly(real):
    draws = 4000
    keys = jax.random.split(jax.random.key(0), draws)
    indices = np.asarray(jax.jit(jax.vmap(lambda key: sampling.balanced(key, real, 4)))(keys))
    assert indices.shape == (draws, 3, 4)
    assert (real.targets[indices] == np.arange(3)[None, :, None]).all()
    ordered = np.sort(indices, axis=-1)
    assert (ordered[..., 1:] != ordered[..., :-1]).all()
    for label, size in enumerate([5, 9, 7]):
        counts = np.bincount(indices[:, label].ravel(), minlength=21)[real.targets == label]
        # Without replacement a count varies less than a binomial one, so its standard score is small.
        p = 4 / size
        scores = (counts - draws * p) / np.sqrt(draws * p * (1 - p))
        assert np.abs(scores).max() < 4
        assert np.sum(scores**2) * (size - 1) / size < 27  # chi-square, ≤ 8 degrees of freedom, p = 0.001


def test_balanced_may_take_a_whole_class(real):
    rows = np.asarray(sampling.balanced(jax.random.key(3), real, 5))
    np.testing.assert_array_equal(np.sort(rows[0]), np.flatnonzero(real.targets == 0))


def test_classwise_goes_through_each_class_before_it_repeats(real):
    for batch in (4, 7, 20):
        rows = np.asarray(jax.jit(sampling.classwise, static_argnums=2)(jax.random.key(batch), real, batch))
        assert rows.shape == (3, batch) and rows.dtype == np.int32
        for label, size in enumerate([5, 9, 7]):
            assert (real.targets[rows[label]] == label).all()
            counts = np.bincount(rows[label], minlength=21)[real.targets == label]
            assert len(counts) == size and set(counts) <= {batch // size, -(-batch // size)}
    draws = jax.vmap(lambda key: sampling.classwise(key, real, 8))(jax.random.split(jax.random.key(0), 4000))
    for label, size in enumerate([5, 9, 7]):
        counts = np.bincount(np.asarray(draws[:, label]).ravel(), minlength=21)[real.targets == label]
        np.testing.assert_allclose(counts, 4000 * 8 / size, rtol=0.05)


def test_uniform_covers_the_set_evenly(real):
    draws = np.asarray(sampling.uniform(jax.random.key(0), real, 21_000))
    counts = np.bincount(draws, minlength=21)
    assert len(counts) == 21 and draws.dtype == np.int32
    assert np.sum((counts - 1000) ** 2 / 1000) < 46  # chi-square, 20 degrees of freedom, p = 0.001


def test_per_class_is_checked(real):
    sampling.check_per_class(real, 5)
    for per_class in (0, 6):
        with pytest.raises(ValueError, match="class 0 has 5"):
            sampling.check_per_class(real, per_class)
    with pytest.raises(ValueError, match="1..9"):
        sampling.balanced(jax.random.key(0), real, 10)
    with pytest.raises(ValueError, match="batch"):
        sampling.uniform(jax.random.key(0), real, 0)
    with pytest.raises(ValueError, match="batch"):
        sampling.classwise(jax.random.key(0), real, 0)


def test_real_set_refuses_what_it_cannot_index():
    images = random_images(0, 4, 2, 2, 1)
    fitted = normalization.fit("standard", images)
    with pytest.raises(ValueError, match="labels span 0..3"):
        sampling.real_set(images, np.array([0, 1, 2, 3]), 3, fitted)
    with pytest.raises(ValueError, match="4 images but 3 labels"):
        sampling.real_set(images, np.array([0, 1, 2]), 3, fitted)


def test_a_class_without_examples_is_refused_where_it_is_drawn_from():
    images = random_images(0, 4, 2, 2, 1)
    fitted = normalization.fit("standard", images)
    real = sampling.real_set(images, np.array([0, 0, 2, 2]), 3, fitted)
    np.testing.assert_array_equal(real.classes.sizes, [2, 0, 2])
    with pytest.raises(ValueError, match="class 1 has 0"):
        sampling.check_per_class(real, 1)
    with pytest.raises(ValueError, match="no example of class 1: raise data.validation"):
        sampling.check_validation(real)
    with pytest.raises(ValueError, match="validation split, which is empty; raise data.validation"):
        sampling.check_validation(None)
    # Scores of a set do not depend on the classes that it has.
    np.testing.assert_array_equal(sampling.take(real, np.arange(4)).targets, np.eye(3)[[0, 0, 2, 2]])


def test_a_validation_split_with_every_class_is_accepted(real):
    assert sampling.check_validation(real) is real


@pytest.fixture
def unlabeled():
    """A set without classes or normalization, of trees of arrays."""
    rng = np.random.default_rng(4)
    inputs = {"x": rng.normal(size=(13, 2)).astype(np.float32), "t": np.arange(13, dtype=np.float32)}
    return sampling.RealSet(inputs, rng.normal(size=(13, 3)).astype(np.float32))


def test_examples_without_classes_are_one_group(unlabeled):
    assert unlabeled.size == 13
    table, sizes = unlabeled.groups
    np.testing.assert_array_equal(table, [np.arange(13)])
    np.testing.assert_array_equal(sizes, [13])
    examples = jax.jit(sampling.take)(unlabeled, np.array([4, 0]))
    np.testing.assert_array_equal(examples.inputs["x"], unlabeled.inputs["x"][[4, 0]])
    np.testing.assert_array_equal(examples.inputs["t"], [4, 0])
    np.testing.assert_array_equal(examples.targets, unlabeled.targets[[4, 0]])
    np.testing.assert_allclose(examples.weights, [0.5, 0.5])
    for draw in (sampling.balanced, sampling.classwise):
        rows = np.asarray(draw(jax.random.key(0), unlabeled, 13))
        np.testing.assert_array_equal(np.sort(rows), [np.arange(13)])
    sampling.check_per_class(unlabeled, 13)
    with pytest.raises(ValueError, match="the set has 13; choose 1 to 13"):
        sampling.check_per_class(unlabeled, 14)
    assert sampling.check_validation(unlabeled) is unlabeled


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("size, largest", [(1, 8), (5, 500), (13, 4), (90, 30), (33, 32)])
def test_chunks_hold_every_example_once_and_are_shared_evenly(size, largest, devices):
    with jax.set_mesh(make_mesh(jax.devices()[:devices])):
        positions, valid = jax.jit(lambda: sampling.chunks_of(size, largest))()
    count, length = positions.shape
    np.testing.assert_array_equal(np.asarray(positions)[np.asarray(valid)], np.arange(size))
    assert 0 <= positions.min() and positions.max() < size and length <= largest
    assert count % devices == 0 or count == size


@pytest.mark.parametrize("devices", [1, 8])
def test_over_all_gives_a_row_for_every_example(real, unlabeled, devices):
    with jax.set_mesh(make_mesh(jax.devices()[:devices])):
        brightness = jax.jit(lambda data: sampling.over_all(lambda e: e.inputs.mean((1, 2)), data, largest=4))(real)
        found = jax.jit(lambda data: sampling.over_all(lambda e: (e.indices, e.inputs["t"]), data, largest=4))(
            unlabeled
        )
        taken = sampling.take(unlabeled, np.arange(2, 9))
        again = jax.jit(lambda data: sampling.over_all(lambda e: e.indices, data, largest=4))(taken)
    np.testing.assert_allclose(brightness, real.normalization(real.inputs).mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0], np.arange(13))
    np.testing.assert_array_equal(found[1], np.arange(13))
    assert sampling.size_of(taken) == 7 and sampling.size_of(real) == 21
    np.testing.assert_array_equal(again, np.arange(2, 9))


# --- splits and arrays ---------------------------------------------------------------------------------------------


def test_what_is_held_out_is_stratified_and_seeded():
    labels = np.repeat(np.arange(4), [40, 20, 10, 1])
    held_out = splits.draw_held_out(labels, 0.2, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held_out], minlength=4), [8, 4, 2, 0])
    np.testing.assert_array_equal(splits.draw_held_out(labels, 0.2, seed=0), held_out)
    assert not np.array_equal(splits.draw_held_out(labels, 0.2, seed=1), held_out)
    # However large the fraction, every class keeps an example to train on.
    np.testing.assert_array_equal(np.bincount(labels[~splits.draw_held_out(labels, 0.99, seed=0)]), [1, 1, 1, 1])


def test_from_arrays_keeps_what_it_is_given():
    images, labels, test_images, test_labels = arrays()
    dataset = data.from_arrays(images, labels, test_images, test_labels, validation=0.2, class_names=["a", "b", "c"])
    assert (dataset.name, dataset.class_names, dataset.num_classes) == ("arrays", ("a", "b", "c"), 3)
    assert dataset.image_shape == (4, 4, 3)
    assert len(dataset.train.labels) == 24 and len(dataset.validation.labels) == 6
    np.testing.assert_array_equal(dataset.test.images, test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    assert dataset.train.labels.dtype == np.int32
    # Statistics come from what is left after the validation split was carved off.
    scaled = dataset.train.images / 255
    np.testing.assert_allclose(dataset.normalization.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    real = dataset.real_set()
    np.testing.assert_array_equal(real.inputs, dataset.train.images)
    np.testing.assert_array_equal(real.classes.sizes, [8, 8, 8])


def test_every_split_is_indexed_with_the_normalization_of_train():
    dataset = data.from_arrays(*arrays(), validation=0.2)
    sets = {"train": dataset.real_set(), "validation": dataset.validation_set(), "test": dataset.test_set()}
    for name, real in sets.items():
        split = getattr(dataset, name)
        np.testing.assert_array_equal(real.inputs, split.images)
        np.testing.assert_array_equal(real.targets, split.labels)
        np.testing.assert_array_equal(real.classes.sizes, np.bincount(split.labels, minlength=3))
        assert real.normalization is dataset.normalization
    assert data.from_arrays(*arrays(), validation=0).validation_set() is None
    lacking = dataclasses.replace(dataset, validation=splits.subset(dataset.validation, np.arange(4)))
    np.testing.assert_array_equal(lacking.validation_set().classes.sizes, [2, 2, 0])


def test_from_arrays_accepts_gray_images_without_a_channel_axis():
    images, labels, test_images, test_labels = arrays(shape=(4, 4))
    dataset = data.from_arrays(images, labels, test_images, test_labels, validation=0)
    assert dataset.image_shape == (4, 4, 1)
    assert dataset.validation.images.shape == (0, 4, 4, 1)
    np.testing.assert_array_equal(dataset.train.images[..., 0], images)


def test_the_held_out_splits_have_a_fingerprint_of_their_own():
    images, labels, test_images, test_labels = arrays()
    plain = data.from_arrays(images, labels, test_images, test_labels)
    changed, relabeled, image = test_images.copy(), test_labels.copy(), plain.validation.images.copy()
    changed[-1, 0, 0, 0] ^= 1
    relabeled[0] = 1
    image[0, 0, 0, 0] ^= 1
    others = [
        data.from_arrays(images, labels, changed, test_labels),
        data.from_arrays(images, labels, test_images, relabeled),
        dataclasses.replace(plain, validation=plain.validation._replace(images=image)),
    ]
    assert {other.fingerprint() for other in others} == {plain.fingerprint()}
    assert len({dataset.held_out_fingerprint() for dataset in (plain, *others)}) == 4
    zca = data.from_arrays(images, labels, test_images, test_labels, normalization="zca")
    assert zca.held_out_fingerprint() == plain.held_out_fingerprint()


def test_fingerprint_is_that_of_the_train_split():
    images, labels, test_images, test_labels = arrays()

    def fingerprint(images=images, labels=labels, **options):
        return data.from_arrays(images, labels, test_images, test_labels, **options).fingerprint()

    assert fingerprint() == fingerprint()
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    swapped = labels.copy()
    swapped[[0, -1]] = swapped[[-1, 0]]
    different = [
        fingerprint(changed, validation=0),
        fingerprint(images, swapped, validation=0),
        fingerprint(validation=0),
        fingerprint(validation=0, name="other"),
        fingerprint(validation=0, normalization="zca"),
        fingerprint(split_seed=1),
        fingerprint(),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_label_noise_replaces_an_exact_part_of_every_class(kind):
    images, labels, test_images, test_labels = random_images(0, 300, 4, 4, 1), np.arange(300) % 3, *arrays()[2:]
    test_images = random_images(1, len(test_labels), 4, 4, 1)

    def dataset(**options):
        return data.from_arrays(images, labels, test_images, test_labels, validation=0.2, **options)

    clean, noisy = dataset(), dataset(label_noise=0.3, noise_kind=kind)
    wrong = clean.train.labels != noisy.train.labels
    assert clean.mislabeled is None and clean.true_labels is None
    np.testing.assert_array_equal(noisy.mislabeled, wrong)
    np.testing.assert_array_equal(noisy.true_labels, clean.train.labels)
    assert np.bincount(clean.train.labels[wrong]).tolist() == [24, 24, 24]
    shift = (noisy.train.labels - clean.train.labels)[wrong] % 3
    assert set(shift) == ({1} if kind == "asymmetric" else {1, 2})
    for split in ("validation", "test"):
        np.testing.assert_array_equal(getattr(noisy, split).labels, getattr(clean, split).labels)
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    assert noisy.fingerprint() == dataset(label_noise=0.3, noise_kind=kind).fingerprint() != clean.fingerprint()
    assert noisy.fingerprint() != dataset(label_noise=0.3, noise_kind=kind, noise_seed=1).fingerprint()


def test_a_long_tail_is_the_published_law():
    labels = np.repeat(np.arange(5), 100)
    images = random_images(0, 500, 4, 4, 1)
    test_images, test_labels = random_images(1, 50, 4, 4, 1), np.arange(50) % 5

    def dataset(**options):
        return data.from_arrays(images, labels, test_images, test_labels, **options)

    tail = dataset(imbalance=100, validation=0.2, split_seed=3)
    counts = np.bincount(tail.train.labels) + np.bincount(tail.validation.labels, minlength=5)
    assert counts.tolist() == [round(100 * 100 ** (-c / 4)) for c in range(5)] == [100, 32, 10, 3, 1]
    assert np.bincount(tail.train.labels).min() == 1 and np.bincount(tail.test.labels).tolist() == [10] * 5
    np.testing.assert_array_equal(images[tail.positions], tail.train.images)
    assert tail.fingerprint() != dataset(imbalance=100, validation=0.2, split_seed=4).fingerprint()
    plain = dataset(validation=0.2, split_seed=3)
    assert dataset(imbalance=1, validation=0.2, split_seed=3).fingerprint() == plain.fingerprint()
    with pytest.raises(ValueError, match=r"data.imbalance is 0.5; give 1 or more"):
        dataset(imbalance=0.5)


def test_some_examples_are_a_dataset_with_all_that_is_known_of_them():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (30, 4, 4, 1), np.uint8), np.arange(30) % 3
    dataset = data.from_arrays(images, labels, images, labels, label_noise=0.4, validation=0.1)
    chosen = influence.subset(rng.normal(size=len(dataset.train.labels)), dataset.train.labels, 2)
    part = dataset.only(chosen)
    kept = np.sort(chosen.ravel())
    for ours, theirs in zip(part.train, dataset.train, strict=True):
        np.testing.assert_array_equal(ours, theirs[kept])
    np.testing.assert_array_equal(part.train.images, images[part.positions])
    np.testing.assert_array_equal(part.true_labels, labels[part.positions])
    np.testing.assert_array_equal(part.mislabeled, part.true_labels != part.train.labels)
    assert part.normalization is dataset.normalization and part.test is dataset.test
    assert part.real_set().size == 6 and part.fingerprint() != dataset.fingerprint()
    alike = data.from_arrays(*part.train, images, labels, validation=0)  # but in a normalization of their own
    assert alike.fingerprint() != part.fingerprint()
    for wrong in ([], [0, 0], [27], [-1], [0.5]):
        with pytest.raises(ValueError, match="examples are"):
            dataset.only(wrong)
    with pytest.raises(ValueError, match="none of the class 2; every class needs one"):
        dataset.only(np.flatnonzero(dataset.train.labels != 2))


def test_label_noise_that_changes_nothing_is_said(caplog):
    images, labels = random_images(0, 12, 4, 4, 1), np.arange(12) % 3
    data.from_arrays(images, labels, images, labels, label_noise=0.1, validation=0)
    assert "no label is replaced: every class has too few examples for 0.1 of them" in caplog.text


def test_label_noise_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="label_noise is 1.0; give one in"):
        data.from_arrays(*arrays(), label_noise=1.0)
    with pytest.raises(ValueError, match="noise_kind is 'pairs'; choose one of symmetric, asymmetric"):
        data.from_arrays(*arrays(), label_noise=0.1, noise_kind="pairs")
    with pytest.raises(ValueError, match="at least 2 classes"):
        data.from_arrays(
            random_images(0, 9, 4, 4, 1),
            np.zeros(9, int),
            random_images(0, 9, 4, 4, 1),
            np.zeros(9, int),
            label_noise=0.1,
        )


def replaced(position, value):
    given = list(arrays())
    given[position] = value
    return given


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (replaced(0, np.random.default_rng(0).random((30, 4, 4, 3))), {}, r"float64 and range \[0\..*images \* 255\)"),
        (replaced(0, np.full((30, 4, 4, 3), 255.0)), {}, r"range \[255.0, 255.0\].*np.round\(images\).astype"),
        (replaced(0, random_images(0, 30, 4, 4, 4)), {}, "1 or 3 channels"),
        (replaced(0, random_images(0, 30, 3, 4, 4)), {}, "transpose"),
        (replaced(2, random_images(0, 15, 5, 5, 3)), {}, r"train images are \[4, 4, 3\] but test images \[5, 5, 3\]"),
        (replaced(2, random_images(0, 15, 4, 4)), {}, r"train images are \[4, 4, 3\] but test images \[4, 4, 1\]"),
        (replaced(1, np.arange(29) % 3), {}, "train has 30 images but 29 labels"),
        (replaced(1, np.eye(3)[np.arange(30) % 3]), {}, "argmax"),
        (replaced(1, np.arange(30) % 3 - 1), {}, "train labels span -1..1"),
        (replaced(3, np.arange(15) % 4), {}, "test labels span 0..3, but 3 classes"),
        (arrays(), {"class_names": ["a", "b"]}, "train labels span 0..2, but 2 classes"),
        (arrays(), {"class_names": ["a", "b", "c", "d"]}, "class 3 .'d'. has no train example"),
        (replaced(1, np.repeat([0, 2], 15)), {}, "class 1 .'1'. has no train example"),
        ([array[:0] for array in arrays()], {}, "train split has no examples"),
        (arrays(), {"validation": 1.0}, r"data.validation is 1.0; give one in \[0, 1\)"),
        (arrays(), {"validation": -0.1}, r"data.validation is -0.1; give one in \[0, 1\)"),
        (arrays(), {"validation": float("nan")}, r"data.validation is nan; give one in \[0, 1\)"),
        (arrays(), {"normalization": "pca"}, "normalization is 'pca'; choose one of standard, zca"),
    ],
)  # fmt: skip
def test_from_arrays_says_what_is_wrong(given, options, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(*given, **options)


# --- digits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    digits.prepare(path)
    return path


def test_digits_are_those_of_scikit_learn(digits_dir):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    dataset = data.load("digits", data_dir=digits_dir)
    assert dataset.image_shape == (8, 8, 1) and dataset.class_names == tuple("0123456789")
    parts = (dataset.train, dataset.validation, dataset.test)

    def rows(images, labels):
        return sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))

    stored = [row for part in parts for row in rows(*part)]
    assert sorted(stored) == rows(np.rint(pixels / 16 * 255).astype(np.uint8), labels)
    whole = np.bincount(labels)
    np.testing.assert_allclose(np.bincount(dataset.test.labels), whole / 5, atol=1)
    np.testing.assert_allclose(np.bincount(dataset.validation.labels), whole * 0.8 * 0.1, atol=1)
    fifths = np.concatenate([np.flatnonzero(labels == digit)[4::5] for digit in range(10)])
    assert rows(*dataset.test) == rows(np.rint(pixels / 16 * 255).astype(np.uint8)[fifths], labels[fifths])


def test_digits_prepare_quietly_and_once(tmp_path, capfd, monkeypatch):
    digits.prepare(str(tmp_path))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert os.listdir(tmp_path) == ["digits"]

    def fail(self, dl_manager):
        raise AssertionError("prepared twice")

    monkeypatch.setattr(digits.Digits, "_split_generators", fail)
    assert digits.prepare(str(tmp_path)) == str(tmp_path)


def test_digits_survive_another_process_that_is_faster(tmp_path, monkeypatch, digits_dir):
    split_generators = digits.Digits._split_generators

    def overtaken(self, dl_manager):
        monkeypatch.setattr(digits.Digits, "_split_generators", split_generators)
        digits.prepare(str(tmp_path))  # another process finishes while this one still writes
        return split_generators(self, dl_manager)

    monkeypatch.setattr(digits.Digits, "_split_generators", overtaken)
    raced = data.load("digits", data_dir=str(tmp_path))
    assert raced.fingerprint() == data.load("digits", data_dir=digits_dir).fingerprint()
    assert os.listdir(tmp_path) == ["digits"]


def test_digits_leave_nothing_behind_when_interrupted(tmp_path, monkeypatch):
    def interrupted(self, dl_manager):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(digits.Digits, "_split_generators", interrupted)
        with pytest.raises(KeyboardInterrupt):
            digits.prepare(str(tmp_path))
    assert os.listdir(tmp_path) == []
    assert len(data.load("digits", data_dir=str(tmp_path)).test.labels) == 355


def test_tensorflow_is_never_imported_and_tfds_only_when_needed(digits_dir, tmp_path):
    # A tensorflow that is installed but must not be touched.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise AssertionError('tensorflow was imported')")
    program = textwrap.dedent(f"""
        import sys
        from jaxdd import data
        assert "tensorflow_datasets" not in sys.modules
        data.load("digits", data_dir={digits_dir!r})
        assert "tensorflow_datasets" in sys.modules
    """)
    path = os.pathsep.join([str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_config_holds_the_arguments_of_load(digits_dir):
    config = data.DataConfig(data_dir=digits_dir, validation=0.25, normalization="zca", image_size=6)
    dataset = data.load(**dataclasses.asdict(config))
    assert dataset.image_shape == (6, 6, 1)
    assert isinstance(dataset.normalization, data.ZCA)
    np.testing.assert_allclose(len(dataset.validation.labels), 0.25 * 1442, atol=10)


# --- TFDS ----------------------------------------------------------------------------------------------------------


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    out.seek(0)
    return out


class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """RGB images with a mask beside them and other names than image and label."""

    name = "tiny_set"
    VERSION = tfds.core.Version("1.0.0")
    splits_to_write: dict = {}
    extra: dict = {"mask": tfds.features.Image(shape=(None, None, 1))}

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "species": tfds.features.ClassLabel(names=["cat", "dog"]),
            **self.extra,
        }
        keys = ("picture", "species") if "mask" in self.extra else None
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*arrays) for split, arrays in self.splits_to_write.items()}

    def _generate_examples(self, images, labels):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            example = {"picture": png(image), "species": int(label)}
            yield index, {**example, **{key: png(image[..., 0]) for key in self.extra}}


def write_tiny_set(path, extra=None, **splits_to_write):
    attributes = {"splits_to_write": splits_to_write}
    if extra is not None:
        attributes["extra"] = extra
    subclass = type("TinySet", (TinySet,), {**attributes, "name": "tiny_set"}, skip_registration=True)
    tfds.disable_progress_bar()
    subclass(data_dir=str(path), file_format="array_record").download_and_prepare()
    return str(path)


def as_set(images, labels):
    return {(int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)}


def cats_and_dogs(count, seed, shape=(5, 5, 3)):
    return random_images(seed, count, *shape), np.arange(count) % 2


@pytest.mark.parametrize("extra", [None, {}], ids=["supervised keys", "the only features"])
def test_tfds_set_is_read_as_written(tmp_path, extra):
    train, test = cats_and_dogs(20, 0), cats_and_dogs(6, 1)
    path = write_tiny_set(tmp_path, extra=extra, train=train, test=test)
    dataset = data.load("tiny_set", data_dir=path, validation=0)
    assert dataset.class_names == ("cat", "dog")
    assert as_set(*dataset.train) == as_set(*train)
    assert as_set(*dataset.test) == as_set(*test)


def test_tfds_validation_stands_in_for_a_missing_or_unlabeled_test(tmp_path):
    train, held_out = cats_and_dogs(20, 0), cats_and_dogs(6, 1)
    missing = write_tiny_set(tmp_path / "missing", train=train, validation=held_out)
    assert as_set(*data.load("tiny_set", data_dir=missing).test) == as_set(*held_out)
    unlabeled = (held_out[0], np.full(6, -1))
    withheld = write_tiny_set(tmp_path / "withheld", train=train, validation=held_out, test=unlabeled)
    assert as_set(*data.load("tiny_set", data_dir=withheld).test) == as_set(*held_out)


def test_tfds_set_with_train_only_gets_a_test_split_that_ignores_the_seed(tmp_path):
    train = cats_and_dogs(20, 0)
    path = write_tiny_set(tmp_path, train=train)
    first, second = (data.load("tiny_set", data_dir=path, split_seed=seed, validation=0.25) for seed in (0, 1))
    np.testing.assert_array_equal(np.bincount(first.test.labels), [2, 2])
    assert as_set(*first.test) == as_set(*second.test)
    assert as_set(*first.train) != as_set(*second.train)
    parts = [as_set(*part) for part in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == 20 and set().union(*parts) == as_set(*train)
    stored = splits.Split(*(x[first.positions] for x in tfds_order(path)))
    for ours, theirs in zip(first.train, stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def tfds_order(path):
    """The train split of a tiny set as it lies there, nothing held out."""
    import tensorflow_datasets as tfds

    records = [*tfds.data_source("tiny_set", data_dir=path, split="train")]
    return np.stack([record["picture"] for record in records]), np.array([record["species"] for record in records])


def test_a_folder_of_the_name_of_a_set_is_not_in_its_way(tmp_path, monkeypatch):
    path = write_tiny_set(tmp_path / "sets", train=cats_and_dogs(20, 0))
    for name in ("tiny_set", "nothing"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert data.load("tiny_set", data_dir=path).name == "tiny_set"
    with pytest.raises(ValueError, match="data.name is 'nothing', a folder; to read its images give folder:nothing"):
        data.load("nothing", data_dir=path)


def test_tfds_images_of_different_sizes_must_be_resized(tmp_path):
    images = [random_images(seed, 6 + seed, 8, 3) for seed in range(4)]
    path = write_tiny_set(tmp_path, train=(images, [0, 1, 0, 1]), test=(images[:2], [0, 1]))
    with pytest.raises(ValueError, match=r"tiny_set train\[0\] is .* set data.image_size"):
        data.load("tiny_set", data_dir=path)
    dataset = data.load("tiny_set", data_dir=path, image_size=4, validation=0)
    assert dataset.train.images.shape == (4, 4, 4, 3)


def test_tfds_set_without_one_image_and_one_label_is_refused(tmp_path):
    extra = {"second": tfds.features.Image(shape=(None, None, 1)), "third": tfds.features.Image(shape=(None, None, 1))}
    path = write_tiny_set(tmp_path, extra=extra, train=cats_and_dogs(4, 0))
    with pytest.raises(ValueError, match="tiny_set is no image-classification set"):
        data.load("tiny_set", data_dir=path)


def test_tfds_set_in_another_format_says_how_to_prepare_again(tmp_path):
    path = write_tiny_set(tmp_path, train=cats_and_dogs(4, 0))
    info = tmp_path / "tiny_set" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"prepared as tfrecord .*delete .*file_format='array_record'"):
        data.load("tiny_set", data_dir=path)


def test_tfds_set_without_train_is_refused(tmp_path):
    path = write_tiny_set(tmp_path, test=cats_and_dogs(4, 0))
    with pytest.raises(ValueError, match=r"no train split, only \['test'\]"):
        data.load("tiny_set", data_dir=path)


def test_unprepared_set_names_the_command(tmp_path):
    with pytest.raises(ValueError) as error:
        data.load("cifar10", data_dir=str(tmp_path))
    code = f"tfds.builder('cifar10', data_dir={str(tmp_path)!r}, file_format='array_record').download_and_prepare()"
    assert code in str(error.value) and "pip install 'jaxdd[prepare]'" in str(error.value)


def test_unknown_name_names_near_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'cifar01'; did you mean .*cifar10"):
        data.load("cifar01", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="did you mean .*digits"):
        data.load("digit", data_dir=str(tmp_path))


@pytest.mark.parametrize("image_size", [0, -1])
def test_image_size_is_checked_before_reading(image_size):
    with pytest.raises(ValueError, match=f"data.image_size is {image_size}; give 1 or more"):
        data.load("digits", image_size=image_size)


# --- folder --------------------------------------------------------------------------------------------------------


def write_folder(root, counts, size=(6, 6), mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    written = []
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            shape = size + {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
            written.append(pixels)
    return np.stack(written)


def test_folder_with_train_and_test(tmp_path):
    train = write_folder(tmp_path / "train", {"ant": 4, "bee": 3})
    test = write_folder(tmp_path / "test", {"ant": 1, "bee": 2}, seed=1)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "ant" / ".hidden.png").write_text("not an image either")
    dataset = data.load(f"folder:{tmp_path}", validation=0)
    assert dataset.class_names == ("ant", "bee") and dataset.name == tmp_path.name
    np.testing.assert_array_equal(dataset.train.images, train)
    np.testing.assert_array_equal(dataset.train.labels, [0] * 4 + [1] * 3)
    assert dataset.files[0].startswith("train/ant/") and dataset.files[-1].startswith("train/bee/")
    np.testing.assert_array_equal(dataset.test.images, test)
    np.testing.assert_array_equal(dataset.test.labels, [0, 1, 1])


@pytest.mark.parametrize("below", ["", "train"])
def test_folder_without_test_is_split_by_class(tmp_path, below):
    written = write_folder(tmp_path / below, {"ant": 20, "bee": 10})
    dataset = data.load(f"folder:{tmp_path}", validation=0.25)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [4, 2])
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [4, 2])
    parts = [as_set(*part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert set().union(*parts) == as_set(written, np.repeat([0, 1], [20, 10])) and sum(map(len, parts)) == 30
    assert len(dataset.files) == len(dataset.train.labels)
    for file, image in zip(dataset.files, dataset.train.images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / file)), image)
    other = data.load(f"folder:{tmp_path}", validation=0.25, split_seed=7)
    assert as_set(*other.test) == parts[2] and as_set(*other.train) != parts[0]


def test_folder_with_val_in_place_of_test(tmp_path):
    write_folder(tmp_path / "train", {"ant": 4, "bee": 3})
    held = write_folder(tmp_path / "val", {"ant": 1, "bee": 2}, seed=1)
    dataset = data.load(f"folder:{tmp_path}", validation=0)
    assert len(dataset.train.labels) == 7
    np.testing.assert_array_equal(dataset.test.images, held)


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path):
    write_folder(tmp_path / "data" / "train", {"ant": 2, "bee": 2, "ant/.@thumbs": 2})
    elsewhere = write_folder(tmp_path / "elsewhere", {"more": 3}, seed=1)
    write_folder(tmp_path / "data" / "test", {"ant": 1, "bee": 1}, seed=2)
    (tmp_path / "data" / "train" / "bee" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "data" / "train" / "bee" / "again").symlink_to(tmp_path / "data" / "train" / "bee")
    dataset = data.load(f"folder:{tmp_path / 'data'}", validation=0)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [2, 5])
    assert as_set(elsewhere, np.ones(3)) <= as_set(*dataset.train)


def test_a_class_folder_that_is_not_named_in_utf8_is_refused(tmp_path):
    write_folder(tmp_path, {"ant": 2, os.fsdecode(b"caf\xe9"): 2})
    with pytest.raises(ValueError, match="has a name with broken characters, 'caf.*'; rename it"):
        data.load(f"folder:{tmp_path}")


def test_folder_of_gray_images_has_one_channel(tmp_path):
    written = write_folder(tmp_path, {"ant": 5, "bee": 5}, mode="L")
    dataset = data.load(f"folder:{tmp_path}", validation=0)
    assert dataset.image_shape == (6, 6, 1)
    labels = np.repeat([0, 1], 5)
    assert as_set(*dataset.train) | as_set(*dataset.test) == as_set(written, labels)


def test_folder_of_mixed_modes_becomes_rgb(tmp_path):
    gray = write_folder(tmp_path / "train", {"ant": 2}, mode="L")
    transparent = write_folder(tmp_path / "train", {"bee": 2}, mode="RGBA")
    write_folder(tmp_path / "test", {"ant": 1}, mode="L")
    dataset = data.load(f"folder:{tmp_path}", validation=0)
    np.testing.assert_array_equal(dataset.train.images[:2], np.stack([gray] * 3, axis=-1))
    np.testing.assert_array_equal(dataset.train.images[2:], transparent[..., :3])
    assert dataset.test.images.shape == (1, 6, 6, 3)


def test_folder_of_different_sizes_is_scaled_and_cropped(tmp_path):
    for name, shade in (("dark", 40), ("light", 200)):
        for index, size in enumerate([(8, 16), (16, 8), (8, 8)]):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.full(size, shade, np.uint8)
            if size == (8, 16):
                pixels[:, :4] = pixels[:, -4:] = 0  # what a center crop cuts off
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    with pytest.raises(ValueError, match="images differ in size .*0.png is 8×16.*1.png is 16×8.*image_size"):
        data.load(f"folder:{tmp_path}")
    dataset = data.load(f"folder:{tmp_path}", image_size=4, validation=0)
    assert dataset.image_shape == (4, 4, 1)
    for images, labels in (dataset.train, dataset.test):
        expected = np.array([40, 200])[labels]
        # A border pixel may be blended with the one beyond the crop.
        np.testing.assert_array_equal(
            images[:, 1:3, 1:3, 0], np.broadcast_to(expected[:, None, None], (len(labels), 2, 2))
        )


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])  # which a .jpg with a preview in it is to pillow
def test_photographs_are_turned_upright(kind, tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90° clockwise
    for name in ("ant", "bee"):
        for index in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            preview = {"save_all": True, "append_images": [Image.new("RGB", (4, 2))]} if kind == "MPO" else {}
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.jpg", kind, exif=exif, quality=100, **preview)
    with Image.open(tmp_path / "ant" / "0.jpg") as stored:
        assert stored.format == kind
    image = data.load(f"folder:{tmp_path}").train.images[0]
    assert image.shape == (16, 8, 3)
    assert image[:4].max() < 10 and image[-4:].min() > 245


def test_folder_errors_name_the_culprit(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="no images found in"):
        data.load(f"folder:{tmp_path}")
    write_folder(tmp_path, {"ant": 5, "bee": 5})
    (tmp_path / "wasp").mkdir()
    with pytest.raises(ValueError, match="class 'wasp' is empty"):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize("damage", [lambda good: b"no image", lambda good: good[: len(good) // 2], lambda good: b""])
def test_corrupt_image_is_named(tmp_path, damage):
    write_folder(tmp_path, {"ant": 5, "bee": 5}, size=(32, 32))
    file = tmp_path / "bee" / "003.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot decode the image .*bee.003\.png"):
        data.load(f"folder:{tmp_path}")


def test_sixteen_bit_image_is_refused(tmp_path):
    write_folder(tmp_path, {"ant": 5, "bee": 5}, mode="L")
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / "ant" / "deep.png")
    with pytest.raises(ValueError, match="deep.png has mode I;16"):
        data.load(f"folder:{tmp_path}")


def test_class_of_the_test_split_alone_is_named(tmp_path):
    write_folder(tmp_path / "train", {"ant": 2, "bee": 2})
    write_folder(tmp_path / "test", {"ant": 2, "wasp": 2})
    with pytest.raises(ValueError, match="class 'wasp' is in"):
        data.load(f"folder:{tmp_path}")


def test_folder_too_small_to_split_says_so(tmp_path):
    write_folder(tmp_path, {"ant": 1, "bee": 1})
    with pytest.raises(ValueError, match="too small to make a test split of 20% of each: add images"):
        data.load(f"folder:{tmp_path}")


# --- real data -----------------------------------------------------------------------------------------------------

needs_real_data = pytest.mark.skipif(
    "JAXDD_DATA_DIR" not in os.environ, reason="set JAXDD_DATA_DIR to a TFDS directory with cifar10 and fashion_mnist"
)


@needs_real_data
@pytest.mark.parametrize(
    ("name", "shape", "mean", "counts"),
    [
        ("cifar10", (32, 32, 3), [0.4914, 0.4822, 0.4465], (50_000, 10_000)),
        ("fashion_mnist", (28, 28, 1), [0.2860], (60_000, 10_000)),
    ],
)
def test_real_sets_have_their_published_mean(name, shape, mean, counts):
    dataset = data.load(name, data_dir=os.environ["JAXDD_DATA_DIR"], validation=0)
    assert dataset.image_shape == shape
    assert (len(dataset.train.labels), len(dataset.test.labels)) == counts
    np.testing.assert_allclose(dataset.normalization.mean, mean, atol=1e-4)
    source = tfds.builder(name, data_dir=os.environ["JAXDD_DATA_DIR"]).as_data_source("train")
    for index in (0, 12_345, counts[0] - 1):
        np.testing.assert_array_equal(dataset.train.images[index], source[index]["image"])
        assert dataset.train.labels[index] == source[index]["label"]


def test_published_constants_take_the_place_of_fitted_ones():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (20, 4, 4, 3), np.uint8), np.arange(20) % 2] * 2
    fitted = data.from_arrays(*arrays, name="cifar10")
    published = data.from_arrays(*arrays, name="cifar10", normalization="published")
    np.testing.assert_allclose(published.normalization.std, [0.2023, 0.1994, 0.2010], rtol=1e-6)
    np.testing.assert_allclose(published.normalization.mean, [0.4914, 0.4822, 0.4465], rtol=1e-6)
    assert published.fingerprint() != fitted.fingerprint()  # experts trained on one are not those of the other
    np.testing.assert_array_equal(published.train.images, fitted.train.images)


@pytest.mark.parametrize(("name", "channels"), [("digits", 1), ("cifar10", 1)])
def test_constants_that_nobody_published_are_refused(name, channels):
    arrays = [np.zeros((4, 4, 4, channels), np.uint8), np.arange(4) % 2] * 2
    with pytest.raises(SettingError, match=f"no constants for {name} with {channels} channels.*choose standard or zca"):
        data.from_arrays(*arrays, name=name, normalization="published")
