import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd.core import autodiff
from jaxdd.types import Examples


@pytest.fixture
def problem(x64, toy):
    task, examples = toy(jnp.float64)
    params = task.model.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    flat, unravel = ravel_pytree(params)
    directions = [unravel(jax.random.normal(jax.random.key(i), flat.shape, jnp.float64)) for i in (1, 2)]
    return task.losses, params, unravel, examples, directions


def per_example(losses, examples: Examples):
    return lambda params: losses(params, examples)


def mean(losses, examples):
    return lambda params: jnp.mean(losses(params, examples))


def dense_hessian(loss, params, unravel):
    return jax.hessian(lambda flat: loss(unravel(flat)))(ravel_pytree(params)[0])


def test_hvp_is_the_dense_hessian_times_the_vector(problem):
    losses, params, unravel, examples, (v, _) = problem
    loss = mean(losses, examples)
    expected = dense_hessian(loss, params, unravel) @ ravel_pytree(v)[0]
    np.testing.assert_allclose(ravel_pytree(autodiff.hvp(loss, params, v))[0], expected, rtol=1e-9, atol=1e-12)


def test_hessian_form_is_the_dense_bilinear_form(problem):
    losses, params, unravel, examples, (u, v) = problem
    loss = mean(losses, examples)
    expected = ravel_pytree(u)[0] @ dense_hessian(loss, params, unravel) @ ravel_pytree(v)[0]
    np.testing.assert_allclose(autodiff.hessian_form(loss, params, u, v), expected, rtol=1e-9)
    by_difference = autodiff.finite_difference_hessian_form(loss, params, u, v)
    np.testing.assert_allclose(by_difference, expected, rtol=1e-5)


def test_finite_difference_hvp_agrees_with_the_exact_one(problem):
    losses, params, _, examples, (v, _) = problem
    loss = mean(losses, examples)
    exact = ravel_pytree(autodiff.hvp(loss, params, v))[0]
    approximate = ravel_pytree(autodiff.finite_difference_hvp(loss, params, v))[0]
    assert np.linalg.norm(approximate - exact) < 1e-5 * np.linalg.norm(exact)


def test_finite_difference_hvp_in_float32_is_good_to_a_thousandth(toy):
    task, examples = toy(jnp.float32)
    params = task.model.init(jax.random.key(0))
    v = jax.tree.map(lambda p: jax.random.normal(jax.random.key(3), p.shape), params)
    loss = mean(task.losses, examples)
    exact = ravel_pytree(autodiff.hvp(loss, params, v))[0]
    approximate = ravel_pytree(autodiff.finite_difference_hvp(loss, params, v))[0]
    assert np.linalg.norm(approximate - exact) < 1e-3 * np.linalg.norm(exact)


def test_finite_difference_hvp_of_a_zero_direction_is_zero(problem):
    losses, params, _, examples, (v, _) = problem
    zero = jax.tree.map(jnp.zeros_like, v)
    product = autodiff.finite_difference_hvp(mean(losses, examples), params, zero)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(product))


@pytest.mark.parametrize("shape", [(9,), (3, 3)])
def test_conjugate_gradients_solve_a_dense_system(x64, shape):
    root, v = (jax.random.normal(jax.random.key(i), s, jnp.float64) for i, s in ((5, (9, 9)), (6, shape)))
    matrix = root @ root.T + 0.5 * jnp.eye(9)

    def product(x):
        return (matrix @ x.ravel()).reshape(shape)

    x, residual = jax.jit(lambda v: autodiff.conjugate_gradient(product, v, iterations=60, tolerance=1e-12))(v)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, v.ravel()).reshape(shape), rtol=1e-8)
    assert residual < 1e-11
    early, left = autodiff.conjugate_gradient(product, v, iterations=2)
    expected = np.linalg.norm((product(early) - v).ravel()) / np.linalg.norm(v.ravel())
    np.testing.assert_allclose(left, expected, rtol=1e-10)
    assert left > 1e-3  # two products do not do, and it says so
    zero, none = autodiff.conjugate_gradient(product, jnp.zeros(shape, jnp.float64), iterations=3)
    assert np.all(np.asarray(zero) == 0) and none == 0


def test_grad_dot_and_grad_combine_are_those_of_per_example_gradients(problem):
    losses, params, _, examples, (v, _) = problem
    function = per_example(losses, examples)
    jacobian = jax.vmap(lambda tree: ravel_pytree(tree)[0])(jax.jacrev(function)(params))  # [B, P]
    dots = autodiff.grad_dot(function, params, v)
    np.testing.assert_allclose(dots, jacobian @ ravel_pytree(v)[0], rtol=1e-10)
    weights = jax.random.normal(jax.random.key(4), (jacobian.shape[0],), jnp.float64)
    combined = ravel_pytree(autodiff.grad_combine(function, params, weights))[0]
    np.testing.assert_allclose(combined, weights @ jacobian, rtol=1e-9, atol=1e-12)
