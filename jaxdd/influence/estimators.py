"""The estimators of influence: functions of a `Problem` and the `Path` that a network was trained along.

Axis letters: N training examples, Q targets, T snapshots, P parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.parallel import map_over
from jaxdd.influence.problem import Path, Problem
from jaxdd.influence.solvers import SOLVERS, Curvature, positive
from jaxdd.types import Array

LARGEST_GROWTH, DOUBTFUL_GROWTH = 100.0, 3.0  # of the adjoint of sgd_influence


class Estimate(NamedTuple):
    """Scores, and a sign of health for each target that should not be above the estimator's limit.

    Attributes:
        scores: `[Q, N]`.
        fault: `[Q]` the relative residual of endpoint's linear system, infinite where H + λ has negative curvature; the
            largest growth of the adjoint of sgd_influence; 0 for the others.
    """

    scores: Array
    fault: Array


def tracin(problem: Problem, path: Path) -> Estimate:
    """Score to first order along the path, `s_qi = Σ_t η_t ⟨∇L_q(θ_t), ∇ℓ_i(θ_t)⟩`.

    The sum of all the decreases of the target that the example's own gradient steps made, each seen from where it was
    made.

    References:
        [published] TracInCP, Pruthi et al. 2020, arXiv 2002.08484; [our choice] η_t summed up to the next snapshot.
    """

    def add(total: Array, snapshot: tuple[Array, Array]) -> tuple[Array, None]:
        params, lr = snapshot
        return total + lr * problem.dots(params, problem.target_gradients(params)), None

    scores = jax.lax.scan(add, _zero_scores(problem, path), (path.snapshots, path.steps))[0]
    return _healthy(scores)


def sgd_influence(problem: Problem, path: Path) -> Estimate:
    """Score by unrolling the linearized training backwards, `s_qi = Σ_t η_t ⟨u_t, ∇ℓ_i(θ_t)⟩`.

    `u_T = ∇L_q(θ_T)`, then for t = T−1 … 0: score with u, and `u ← (I − η_t H_t) u`, H_t the Hessian of L. Exact to
    first order in the weights for gradient descent of which every step was recorded; an interval of several steps
    counts as one step of their summed learning rate, and mini-batches as the mean of the data.

    References:
        [published] Hara, Nitanda & Maehara 2019, arXiv 1906.08473; [our choice] the mean Hessian in place of each
        step's batch.
    """
    start = problem.target_gradients(path.end)

    def back(
        carry: tuple[Array, Array, Array], snapshot: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array, Array], None]:
        (u, total, largest), (params, lr) = carry, snapshot
        total = total + lr * problem.dots(params, u)
        u = u - lr * _products(problem, params, u)
        return (u, total, jnp.maximum(largest, _norms(u))), None

    carry = (start, _zero_scores(problem, path), _norms(start))
    (_, scores, largest), _ = jax.lax.scan(back, carry, (path.snapshots, path.steps), reverse=True)
    return Estimate(scores, largest / positive(_norms(start)))


def second_order(problem: Problem, path: Path) -> Estimate:
    """Score like `sgd_influence`, up to first order in the curvature.

    `s_qi = Σ_t η_t ⟨g − Σ_{k>t} η_k H_k g, ∇ℓ_i(θ_t)⟩` with `g = ∇L_q(θ_T)`: of the product of the `I − η_k H_k` only
    the first two terms are kept, which is enough while training time times the largest eigenvalue stays below one, and
    worse than nothing (a negative correlation with retraining) when it is well above.

    [derived]
    """
    gradients = problem.target_gradients(path.end)

    def back(carry: tuple[Array, Array], snapshot: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (correction, total), (params, lr) = carry, snapshot
        total = total + lr * problem.dots(params, gradients - correction)
        return (correction + lr * _products(problem, params, gradients), total), None

    carry = (jnp.zeros_like(gradients), _zero_scores(problem, path))
    (_, scores), _ = jax.lax.scan(back, carry, (path.snapshots, path.steps), reverse=True)
    return _healthy(scores)


def bracket(problem: Problem, path: Path) -> Estimate:
    """Score by the bracket of Inf-Match's Theorem 1 alone, `s_qi = −Σ_t c_t ⟨g, H_D ∇ℓ_i + ∇²ℓ_i G_D⟩` at θ_t.

    `g = ∇L_q(θ_T)`, `c_t = η_t Σ_{k>t} η_k`. It is the second-order correction of the displacement of the parameters,
    without the first-order term that it corrects, `−(Σ η) ∇ℓ_i(θ_0)`: as an estimate of influence it is expected to
    point the wrong way. It is here to be compared.

    References:
        [published: bracket and sign; derived: coefficient] Inf-Match, Theorem 1 (CVPR 2026).
    """
    gradients = problem.target_gradients(path.end)
    remaining = jnp.sum(path.steps) - jnp.cumsum(path.steps)

    def add(total: Array, snapshot: tuple[Array, Array]) -> tuple[Array, None]:
        params, coefficient = snapshot
        of_data = problem.dots(params, _products(problem, params, gradients))
        of_example = problem.forms(params, gradients, problem.gradient(params))
        return total - coefficient * (of_data + of_example), None

    scores = jax.lax.scan(add, _zero_scores(problem, path), (path.snapshots, path.steps * remaining))[0]
    return _healthy(scores)


def endpoint(problem: Problem, path: Path) -> Estimate:
    """Score at the last parameters, `s_qi = ⟨(H + λ)⁻¹ ∇L_q(θ_T), ∇ℓ_i(θ_T)⟩`.

    The influence on a minimum of a convex loss. Where training stopped before a minimum, or the loss has many, it is
    the influence on the minimum of the damped quadratic model around θ_T.

    References:
        [published] Koh & Liang 2017, arXiv 1703.04730.
    """
    gradients = problem.target_gradients(path.end)
    curvature = Curvature(
        product=lambda v: problem.product(path.end, v) + problem.config.solver.damping * v,
        sampled=lambda key, v: problem.sampled_product(key, path.end, v) + problem.config.solver.damping * v,
        key=problem.key,
    )
    solutions = SOLVERS[problem.config.solver.name](curvature, gradients, problem.config.solver)
    products = jax.lax.map(curvature.product, solutions)
    residual = _norms(gradients - products) / positive(_norms(gradients))
    fault = jnp.where(jnp.sum(solutions * products, axis=-1) < 0, jnp.inf, residual)
    return Estimate(problem.dots(path.end, solutions), fault)


def leave_one_out(problem: Problem, path: Path) -> Estimate:
    """Score by retraining without each example, `s_qi = (L_q(θ(w − w_i e_i)) − L_q(θ(w))) / w_i`.

    The truth that the others estimate, for the price of N + 1 trainings, one after another.

    References:
        [our choice] the other weights stay as they are, see the top of this file.
    """
    base = problem.targets(problem.retrain(problem.weights, path))

    def without(i: Array, problem: Problem, path: Path, base: Array) -> Array:
        weights = problem.weights.at[i].set(0)
        return (problem.targets(problem.retrain(weights, path)) - base) / problem.weights[i]

    return _healthy(map_over(without, jnp.arange(problem.weights.shape[0]), problem, path, base).T)


class Estimator(NamedTuple):
    """An estimator, and what to say where it fails.

    Attributes:
        estimate: `(problem, path) -> Estimate`.
        along_path: Whether it reads the snapshots, and not only the last parameters.
        measure: What its fault is.
        limit: The fault above which it has diverged.
        doubtful: The fault above which a warning is due.
        advice: `(solver name) -> text`, what to do then.
    """

    estimate: Callable[[Problem, Path], Estimate]
    along_path: bool = True
    measure: str = "fault"
    limit: float = np.inf
    doubtful: float = np.inf
    advice: Callable[[str], str] = lambda solver: "check the experts, their training may have diverged"


SOLVER_ADVICE = {
    "cg": "raise solver.damping above the size of the most negative eigenvalue, or solver.iterations",
    "lissa": "raise solver.scale above half of the largest eigenvalue of H + damping, or solver.damping or iterations",
    "arnoldi": "raise solver.damping or solver.iterations, or lower solver.rank to the leading eigenvectors",
    "explicit": "raise solver.damping until H + damping is positive definite",
}
ESTIMATORS: dict[str, Estimator] = {
    "tracin": Estimator(tracin),
    "second_order": Estimator(second_order),
    "bracket": Estimator(bracket),
    "sgd_influence": Estimator(
        sgd_influence,
        measure="growth of its adjoint",
        limit=LARGEST_GROWTH,
        doubtful=DOUBTFUL_GROWTH,
        advice=lambda solver: (
            "training time between snapshots times the largest eigenvalue of the Hessian must stay below 2: record "
            "snapshots more often (experts.snapshot_every), lower stride, or use tracin"
        ),
    ),
    "endpoint": Estimator(
        endpoint,
        along_path=False,
        measure="relative residual",
        limit=1.0,
        doubtful=0.1,
        advice=lambda solver: SOLVER_ADVICE[solver],
    ),
    "leave_one_out": Estimator(leave_one_out),
}


def _products(problem: Problem, params: Array, vectors: Array) -> Array:
    return jax.lax.map(lambda v: problem.product(params, v), vectors)


def _zero_scores(problem: Problem, path: Path) -> Array:
    targets = jax.eval_shape(problem.targets, path.end)
    return jnp.zeros((targets.shape[0], problem.weights.shape[0]), targets.dtype)


def _healthy(scores: Array) -> Estimate:
    return Estimate(scores, jnp.zeros(scores.shape[0], scores.dtype))


def _norms(vectors: Array) -> Array:
    return jnp.linalg.norm(vectors, axis=-1)
