"""Distances against plain NumPy, and where their gradients could fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.core import matching
from tests.helpers import dot, finite_difference, random_like

SHAPES = {
    "conv": {"kernel": jnp.zeros((3, 2, 4, 5)), "bias": jnp.zeros(5)},
    "norm": {"scale": jnp.zeros(5)},
    "linear": {"kernel": jnp.zeros((6, 3)), "bias": jnp.zeros(3)},
}


@pytest.fixture
def gradients(x64):
    like = jax.tree.map(lambda x: x.astype(jnp.float64), SHAPES)
    return random_like(like, seed=1), random_like(like, seed=2)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6)


def test_layerwise_cosine_is_a_sum_over_output_units(gradients):
    g, h = jax.tree.map(np.asarray, gradients)
    expected = sum(
        1 - cosine(g["conv"]["kernel"][..., j].ravel(), h["conv"]["kernel"][..., j].ravel()) for j in range(5)
    )
    expected += sum(1 - cosine(g["linear"]["kernel"][:, j], h["linear"]["kernel"][:, j]) for j in range(3))
    np.testing.assert_allclose(matching.layerwise_cosine_distance(g, h), expected, rtol=1e-12)
    # The scale of a gradient does not matter, nor do biases.
    scaled = {**g, "norm": h["norm"], "conv": {"kernel": 7 * g["conv"]["kernel"], "bias": h["conv"]["bias"]}}
    np.testing.assert_allclose(matching.layerwise_cosine_distance(scaled, h), expected, rtol=1e-6)
    assert abs(matching.layerwise_cosine_distance(g, g)) < 1e-5


def test_other_distances_are_their_formulas(gradients):
    g, h = jax.tree.map(np.asarray, gradients)
    flat_g, flat_h = (np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (g, h))
    np.testing.assert_allclose(matching.cosine_distance(g, h), 1 - cosine(flat_g, flat_h), rtol=1e-12)
    np.testing.assert_allclose(matching.squared_distance(g, h), ((flat_g - flat_h) ** 2).sum(), rtol=1e-12)
    expected = ((g["conv"]["kernel"] - h["conv"]["kernel"]) ** 2).sum()
    np.testing.assert_allclose(matching.convolution_distance(g, h), expected, rtol=1e-12)


def test_convolutions_are_not_compared_where_there_are_none(gradients):
    g, h = ({"linear": tree["linear"]} for tree in gradients)
    with pytest.raises(ValueError, match="the network has none; choose cosine"):
        matching.convolution_distance(g, h)


@pytest.mark.parametrize("name", matching.GRADIENT_DISTANCES)
def test_gradients_of_distances_are_those_of_finite_differences(gradients, name):
    g, h = gradients
    distance = jax.jit(lambda g: matching.GRADIENT_DISTANCES[name](g, h))
    along = random_like(g)
    np.testing.assert_allclose(dot(jax.jit(jax.grad(distance))(g), along), finite_difference(distance, g, along), 1e-7)


@pytest.mark.parametrize("name", matching.GRADIENT_DISTANCES)
def test_a_dead_unit_leaves_gradients_finite(gradients, name):
    g, h = (jax.tree.map(lambda x: x.at[..., 0].set(0), tree) for tree in gradients)
    slope = jax.jit(jax.grad(matching.GRADIENT_DISTANCES[name]))(g, h)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_mean_distance_is_that_of_weighted_means(x64):
    rng = np.random.default_rng(0)
    phi_s, phi_r = rng.normal(size=(4, 6)), rng.normal(size=(9, 6))
    v, w = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(9))
    expected = ((np.average(phi_s, 0, v) - np.average(phi_r, 0, w)) ** 2).sum()
    np.testing.assert_allclose(matching.mean_distance(phi_s, phi_r, v, w), expected, rtol=1e-12)


def complex_functions(seed=0):
    """Characteristic functions at 11 frequencies by complex numbers, and what they are of."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=(11, 6))
    drawn = [(rng.normal(size=(n, 6)), rng.dirichlet(np.ones(n))) for n in (4, 9)]
    return t, drawn, [np.array([sum(w * np.exp(1j * phi @ f)) for f in t]) for phi, w in drawn]


def test_characteristic_function_is_the_mean_of_exponentials(x64):
    t, drawn, expected = complex_functions()
    for (phi, w), value in zip(drawn, expected, strict=True):
        ours = np.asarray(matching.characteristic_function(phi, w, t))
        np.testing.assert_allclose(ours[:, 0] + 1j * ours[:, 1], value, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_characteristic_distance_is_the_printed_formula(x64, alpha):
    *_, (s, r) = complex_functions()
    amplitude = (np.abs(r) - np.abs(s)) ** 2
    phase = 2 * (np.abs(r) * np.abs(s) - (r * s.conj()).real)
    expected = 300 * np.sqrt(alpha * amplitude + (1 - alpha) * phase).mean()
    pairs = [np.stack([x.real, x.imag], -1) for x in (s, r)]
    np.testing.assert_allclose(matching.characteristic_distance(*pairs, amplitude=alpha), expected, rtol=1e-10)
    if alpha == 0.5:
        np.testing.assert_allclose(expected, 300 / np.sqrt(2) * np.abs(r - s).mean(), rtol=1e-12)

    distance = jax.jit(lambda s: matching.characteristic_distance(s, pairs[1], amplitude=alpha))
    along = random_like(jnp.asarray(pairs[0]))
    slope = finite_difference(distance, jnp.asarray(pairs[0]), along)
    np.testing.assert_allclose(jnp.vdot(jax.grad(distance)(jnp.asarray(pairs[0])), along), slope, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_characteristic_distance_of_equals_is_zero_with_a_finite_gradient(alpha):
    same = jnp.asarray([[0.3, -0.2], [0.0, 0.0], [1.0, 0.0]])
    value, slope = jax.value_and_grad(matching.characteristic_distance)(same, same, amplitude=alpha)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_unit_norm_of_nothing_is_nothing():
    features = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(matching.unit_norm(features), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    slope = jax.grad(lambda x: matching.unit_norm(x).sum())(features)
    assert np.isfinite(slope).all()
