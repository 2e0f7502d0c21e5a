"""Solvers of `(H + λ) x = g` for the influence at the end point, and their settings.

Axis letters: Q targets, P parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core.autodiff import conjugate_gradient
from jaxdd.settings import AtLeast, NonNegative, Positive, Settings
from jaxdd.types import Array


@dataclasses.dataclass(frozen=True)
class Solver(Settings, path="influence.solver"):
    """How `(H + λ) x = g` is solved."""

    name: Literal["cg", "lissa", "arnoldi", "explicit"] = "cg"
    """Conjugate gradients; LiSSA, a Neumann series; Arnoldi, in the leading eigenvectors of a Krylov space; or the
    Hessian itself, for small networks."""
    damping: Annotated[float, NonNegative] = 0.01
    """λ, added to the diagonal; above the size of the most negative eigenvalue of H."""
    iterations: Annotated[int, AtLeast(1)] = 100
    """Hessian products: steps of cg and lissa (at most), dimension of the Krylov space of arnoldi."""
    tolerance: Annotated[float, Positive] = 1e-5
    """Relative residual at which cg stops."""
    scale: Annotated[float, Positive] = 10.0
    """Inverse step of lissa; above half of the largest eigenvalue of H + λ."""
    batch: Annotated[int | None, AtLeast(1)] = None
    """Examples in each Hessian product of lissa, drawn anew every time; all by default."""
    rank: Annotated[int | None, AtLeast(1)] = None
    """Eigenvectors that arnoldi keeps; all of its Krylov space by default."""


class Curvature(NamedTuple):
    """The damped Hessian `A = H + λ` at fixed parameters: `product(v)`, `sampled(key, v)` on a batch, and a key."""

    product: Callable[[Array], Array]
    sampled: Callable[[Array, Array], Array]
    key: Array


def solve_cg(curvature: Curvature, gradients: Array, solver: Solver) -> Array:
    """Solve `A x_q = g_q` by conjugate gradients, one target after another: `[Q, P]`."""

    def solve(gradient: Array) -> Array:
        return conjugate_gradient(
            curvature.product, gradient, iterations=solver.iterations, tolerance=solver.tolerance
        )[0]

    return jax.lax.map(solve, gradients)


def solve_lissa(curvature: Curvature, gradients: Array, solver: Solver) -> Array:
    """Solve `A x_q = g_q` by the Neumann series, `x ← x + (g − A x) / scale`, each A on fresh examples: `[Q, P]`.

    References:
        [published] LiSSA, Agarwal et al. 2017, arXiv 1602.03943, as Koh & Liang (arXiv 1703.04730) use it.
    """
    keys = jax.random.split(curvature.key, solver.iterations)

    def solve(gradient: Array) -> Array:
        def step(x: Array, key: Array) -> tuple[Array, None]:
            return x + (gradient - curvature.sampled(key, x)) / solver.scale, None

        return jax.lax.scan(step, jnp.zeros_like(gradient), keys)[0]

    return jax.lax.map(solve, gradients)


def solve_arnoldi(curvature: Curvature, gradients: Array, solver: Solver) -> Array:
    """Solve in the span of leading eigenvectors, `x_q = Σ_j r_j ⟨r_j, g_q⟩ / λ_j`: `[Q, P]`.

    The `r_j, λ_j` are eigenpairs of A projected on `span(v, A v, A² v, …)`, v random; those of largest `|λ_j|` are
    kept. One space serves all targets. What the targets' gradients have outside of it is dropped.

    References:
        [published] Schioppa et al. 2022, arXiv 2112.03052; [our choice] every vector is orthogonalized twice.
    """
    size = gradients.shape[-1]
    count = min(solver.iterations, size)

    def unit_beside(basis: Array, v: Array) -> Array:
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v / positive(jnp.linalg.norm(v))

    def extend(basis: Array, j: Array) -> tuple[Array, Array]:
        product = curvature.product(basis[j])
        # The second time matters where the space is exhausted and what remains of the product is rounding.
        following = unit_beside(basis, unit_beside(basis, product))
        return basis.at[j + 1].set(following), basis @ product

    first = jax.random.normal(curvature.key, (size,), gradients.dtype)
    basis = jnp.zeros((count + 1, size), gradients.dtype).at[0].set(first / jnp.linalg.norm(first))
    basis, columns = jax.lax.scan(extend, basis, jnp.arange(count))
    basis, upper = basis[:count], jnp.triu(columns.T[:count])  # rows below had not been filled when each was computed
    values, vectors = jnp.linalg.eigh(upper + jnp.triu(upper, 1).T)
    kept = jnp.argsort(-jnp.abs(values))[: solver.rank]
    directions = vectors[:, kept].T @ basis
    return (gradients @ directions.T / values[kept][None]) @ directions


def solve_explicit(curvature: Curvature, gradients: Array, solver: Solver) -> Array:
    """Solve `A x_q = g_q` by Cholesky factorization of A: `[Q, P]`, not finite if A is not positive definite."""
    del solver
    matrix = jax.lax.map(curvature.product, jnp.eye(gradients.shape[-1], dtype=gradients.dtype))
    factor = jax.scipy.linalg.cho_factor((matrix + matrix.T) / 2)
    return jax.scipy.linalg.cho_solve(factor, gradients.T).T


SOLVERS: dict[str, Callable[[Curvature, Array, Solver], Array]] = {
    "cg": solve_cg,
    "lissa": solve_lissa,
    "arnoldi": solve_arnoldi,
    "explicit": solve_explicit,
}


def positive(norm: Array) -> Array:
    """Return a norm to divide by: 1 in place of 0."""
    return jnp.where(norm > 0, norm, 1)
