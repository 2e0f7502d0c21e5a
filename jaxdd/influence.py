"""Influence: how much every training example helps or harms a target, from recorded trajectories.

The network was trained on `L(θ) = Σ_i w_i ℓ_i(θ) + (weight_decay/2) ‖θ‖²` with `w_i = 1/N`, and is judged by targets
`L_q(θ) = Σ_b W_qb ℓ_b(θ)`, such as the mean loss on a validation split. All estimators score the same quantity,

    s_qi ≈ − d L_q(θ(w)) / d w_i,    θ(w) the parameters that training with the weights w ends at.

**The sign: a positive score means that up-weighting the example lowers the target loss.** The unit is loss per unit of
weight: leaving example i out raises the target by about `w_i s_qi`, and by exactly that with the scores of
`leave_one_out`. The other weights stay as they are when one is moved: to let them make up for it, so that the sum stays
one, would to first order add the same constant to all scores of a target.

Scores are estimates, and how good they are depends on the network and on how long it was trained: compare with
`leave_one_out` or `retrained` on a small problem before trusting them on a large one.

    scores = influence.scores(model, dataset.real_set(), validation, experts, InfluenceConfig("sgd_influence"))
    kept = influence.subset(scores, dataset.train.labels, per_class=50)

Axis letters: N training examples, B target examples, Q targets, E experts, T snapshots, P parameters, C classes.
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg as conjugate_gradient

from jaxdd import autodiff
from jaxdd.choices import check_choices
from jaxdd.data import sampling
from jaxdd.data.sampling import RealSet
from jaxdd.losses import cross_entropy
from jaxdd.training import batching
from jaxdd.trajectories import Trajectories, flattening
from jaxdd.types import AnyArray, Array, Examples, Losses, Model

Data: TypeAlias = Examples | RealSet
"""Labelled examples: a `RealSet` (uint8, normalised a chunk at a time) or `Examples` that fit into memory as floats."""

Retrain = Callable[[Array, Array], Array]
"""`(weights [N], start [P]) -> [P]`: the flat parameters after training on `Σ_i w_i ℓ_i` from `start`, in JAX."""

LARGEST_DENSE = 10_000  # parameters up to which the Hessian is formed
LARGEST_RETRAINED = 5_000  # examples up to which each is left out once
LARGEST_GROWTH, DOUBTFUL_GROWTH = 100.0, 3.0  # of the adjoint of sgd_influence
log = logging.getLogger("jaxdd")


@dataclasses.dataclass(frozen=True)
class Solver:
    """How `(H + λ) x = g` is solved."""

    name: Literal["cg", "lissa", "arnoldi", "explicit"] = "cg"
    """Conjugate gradients; LiSSA, a Neumann series; Arnoldi, in the leading eigenvectors of a Krylov space; or the
    Hessian itself, for small networks."""
    damping: float = 0.01
    """λ, added to the diagonal; above the size of the most negative eigenvalue of H."""
    iterations: int = 100
    """Hessian products: steps of cg and lissa (at most), dimension of the Krylov space of arnoldi."""
    tolerance: float = 1e-5
    """Relative residual at which cg stops."""
    scale: float = 10.0
    """Inverse step of lissa; above half of the largest eigenvalue of H + λ."""
    batch: int | None = None
    """Examples in each Hessian product of lissa, drawn anew every time; all by default."""
    rank: int | None = None
    """Eigenvectors that arnoldi keeps; all of its Krylov space by default."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("iterations", "tolerance", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"solver.{name} is {getattr(self, name)}; give a positive one")
        for name in ("batch", "rank"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"solver.{name} is {value}; give 1 or more, or leave it out")
        if not self.damping >= 0:
            raise ValueError(f"solver.damping is {self.damping}; give 0 or more")


@dataclasses.dataclass(frozen=True)
class InfluenceConfig:
    """How training examples are scored."""

    estimator: Literal["tracin", "second_order", "bracket", "sgd_influence", "endpoint", "leave_one_out"] = "tracin"
    """First order along the path; with the first-order effect of the curvature; that correction alone; the whole
    backward unroll; inverse Hessian at the last parameters; retraining without each example (small problems)."""
    solver: Solver = Solver()
    """Solver of endpoint."""
    stride: int = 1
    """Use every n-th snapshot; each stands for the training time up to the next one in use."""
    end: Literal["auto", "final", "last"] = "auto"
    """The network that is judged: after the last epoch, or at the last snapshot; auto, after the last epoch if it was
    recorded up to there, or if the estimator reads nothing else."""
    weight_decay: float = 0.0
    """Weight decay that the networks were trained with."""
    momentum: float = 0.0
    """Momentum that they were trained with: their effective learning rate is η / (1 − momentum), [derived] for
    gradients that change slowly."""
    curvature: int | None = None
    """Training examples that Hessians and G_D are taken on, drawn once; all by default."""
    chunk: int = 500
    """Examples that are on the device at a time: memory grows with it, results do not depend on it."""
    seed: int = 0
    """Seed of what is drawn: the examples of `curvature`, the batches of lissa, the first vector of arnoldi."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("stride", "chunk", "curvature"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"influence.{name} is {value}; give 1 or more")
        if not self.weight_decay >= 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"influence has weight_decay={self.weight_decay}, momentum={self.momentum}; "
                "needs weight_decay >= 0, 0 <= momentum < 1"
            )


class Path(NamedTuple):
    """One recorded training, as the estimators read it.

    Attributes:
        snapshots: `[T, P]` θ_t.
        steps: `[T]` η_t, the training time (sum of learning rates) from each snapshot to the next, the last to `end`.
        end: `[P]` θ_T, the parameters that are judged.
    """

    snapshots: Array
    steps: Array
    end: Array


class Problem(NamedTuple):
    """What the estimators compute with; functions of flat parameters θ `[P]`, evaluated in chunks of examples.

    Attributes:
        targets: `θ -> [Q]`, the L_q.
        target_gradients: `θ -> [Q, P]`, the ∇L_q.
        dots: `(θ, v [Q,P]) -> [Q, N]`, `⟨∇ℓ_i, v_q⟩`, one forward-mode pass for every q.
        forms: `(θ, u [Q,P], v [P]) -> [Q, N]`, `u_qᵀ ∇²ℓ_i v`, likewise.
        gradient: `θ -> [P]`, ∇L on the examples of `curvature`.
        product: `(θ, v [P]) -> [P]`, `∇²L v` on the examples of `curvature`.
        sampled_product: `(key, θ, v [P]) -> [P]`, the same on examples drawn with the key.
        retrain: `(weights [N], path) -> [P]`; gradient descent along the path's training time by default.
        weights: `[N]` w_i.
        solver: The solver of endpoint.
        key: For what is drawn.
    """

    targets: Callable[[Array], Array]
    target_gradients: Callable[[Array], Array]
    dots: Callable[[Array, Array], Array]
    forms: Callable[[Array, Array, Array], Array]
    gradient: Callable[[Array], Array]
    product: Callable[[Array, Array], Array]
    sampled_product: Callable[[Array, Array, Array], Array]
    retrain: Callable[[Array, Path], Array]
    weights: Array
    solver: Solver
    key: Array


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
    """Score by unrolling the linearised training backwards, `s_qi = Σ_t η_t ⟨u_t, ∇ℓ_i(θ_t)⟩`.

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
    return Estimate(scores, largest / _positive(_norms(start)))


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
        product=lambda v: problem.product(path.end, v) + problem.solver.damping * v,
        sampled=lambda key, v: problem.sampled_product(key, path.end, v) + problem.solver.damping * v,
        key=problem.key,
    )
    solutions = SOLVERS[problem.solver.name](curvature, gradients, problem.solver)
    products = jax.lax.map(curvature.product, solutions)
    residual = _norms(gradients - products) / _positive(_norms(gradients))
    fault = jnp.where(jnp.sum(solutions * products, axis=-1) < 0, jnp.inf, residual)
    return Estimate(problem.dots(path.end, solutions), fault)


def leave_one_out(problem: Problem, path: Path) -> Estimate:
    """Score by retraining without each example, `s_qi = (L_q(θ(w − w_i e_i)) − L_q(θ(w))) / w_i`.

    The truth that the others estimate, for the price of N + 1 trainings, one after another.

    References:
        [our choice] the other weights stay as they are, see the top of this file.
    """
    base = problem.targets(problem.retrain(problem.weights, path))

    def without(i: Array) -> Array:
        weights = problem.weights.at[i].set(0)
        return (problem.targets(problem.retrain(weights, path)) - base) / problem.weights[i]

    return _healthy(jax.lax.map(without, jnp.arange(problem.weights.shape[0])).T)


class Estimator(NamedTuple):
    """An estimator, and what a person is told where it fails.

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


class Curvature(NamedTuple):
    """The damped Hessian `A = H + λ` at fixed parameters: `product(v)`, `sampled(key, v)` on a batch, and a key."""

    product: Callable[[Array], Array]
    sampled: Callable[[Array, Array], Array]
    key: Array


def solve_cg(curvature: Curvature, gradients: Array, solver: Solver) -> Array:
    """Solve `A x_q = g_q` by conjugate gradients, one target after another: `[Q, P]`."""

    def solve(gradient: Array) -> Array:
        return conjugate_gradient(curvature.product, gradient, tol=solver.tolerance, maxiter=solver.iterations)[0]

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
        [published] Schioppa et al. 2022, arXiv 2112.03052; [our choice] every vector is orthogonalised twice.
    """
    size = gradients.shape[-1]
    count = min(solver.iterations, size)

    def unit_beside(basis: Array, v: Array) -> Array:
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v / _positive(jnp.linalg.norm(v))

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
    """Solve `A x_q = g_q` by Cholesky factorisation of A: `[Q, P]`, not finite if A is not positive definite."""
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


def scores(
    model: Model,
    train: Data,
    target: Data,
    trajectories: Trajectories,
    config: InfluenceConfig,
    *,
    target_weights: AnyArray | None = None,
    retrain: Retrain | None = None,
    losses: Losses | None = None,
) -> np.ndarray:
    """Score every training example for one target or several, averaged over the experts.

    The gradient of a target is summed first; one forward-mode pass over the training set then scores all examples.

    Args:
        model: The network of the trajectories.
        train: What it was trained on, N examples.
        target: The B examples that the targets are made of.
        trajectories: The recorded training; `at` makes one of mere parameters, for endpoint.
        config: Estimator and settings.
        target_weights: `[B]`, one target `Σ_b W_b ℓ_b`; or `[Q, B]`, several targets on the same examples, such as
            `per_class(labels, C)`, or the identity for every example by itself. By default the mean, or what `target`
            gives as weights.
        retrain: Training for leave_one_out; by default gradient descent from each first snapshot along the recorded
            training time, one step per snapshot in use.
        losses: Per-example losses; cross-entropy by default.

    Returns:
        `[N]` for one target, `[Q, N]` for several; positive: up-weighting the example lowers the target.

    Raises:
        ValueError: The trajectories do not record what the estimator reads, or the target weights do not fit.
        FloatingPointError: The estimate diverged; the message says what to change.
    """
    weights = _target_weights(target, target_weights)
    estimator = ESTIMATORS[config.estimator]
    if retrain is not None and config.estimator != "leave_one_out":
        raise ValueError(f"retrain was given with estimator={config.estimator!r}; only leave_one_out retrains")
    if config.estimator == "leave_one_out" and isinstance(train, Examples) and not np.all(train.weights):
        first = int(np.argmin(np.abs(train.weights)))
        raise ValueError(f"training example {first} has weight 0: leaving it out changes nothing; give all some weight")
    if retrain is None:
        check(model, config, _size(train), trajectories.time, trajectories.total_time)
    constants = jax.device_put((train, target, weights.astype(trajectories.final.dtype)))

    # What the path was made with does not change the program.
    program = dataclasses.replace(config, stride=1, end="final", momentum=0.0)

    def of_expert(path: Path) -> Array:
        result = jax.device_get(_estimate(model, program, retrain, losses, *constants, path))
        _check(result, estimator, config)
        return result.scores

    mean = _mean_over_experts(of_expert, trajectories, config, recorded=estimator.along_path and retrain is None)
    return _as_asked(mean, target_weights)


def retrained(
    model: Model,
    train: Data,
    target: Data,
    trajectories: Trajectories,
    weights: AnyArray,
    config: InfluenceConfig,
    *,
    target_weights: AnyArray | None = None,
    retrain: Retrain | None = None,
    losses: Losses | None = None,
) -> np.ndarray:
    """Compute the targets after training with other weights: the truth for groups of examples.

    Args:
        model: See `scores`.
        train: See `scores`.
        target: See `scores`.
        trajectories: See `scores`.
        weights: `[G, N]` the weights of each of G trainings, in place of 1/N.
        config: See `scores`.
        target_weights: See `scores`.
        retrain: See `scores`.
        losses: See `scores`.

    Returns:
        `[G]` for one target, `[Q, G]` for several, averaged over the experts. To first order,
        `L_q(θ(w')) − L_q(θ(w)) = −Σ_i (w'_i − w_i) s_qi`.
    """
    if np.ndim(weights) != 2 or np.shape(weights)[1] != _size(train):
        raise ValueError(f"weights are {np.shape(weights)} for {_size(train)} training examples; give [G, N]")
    if retrain is None:
        check(model, config, _size(train), trajectories.time, trajectories.total_time)
    dtype = trajectories.final.dtype
    of_target = _target_weights(target, target_weights).astype(dtype)
    constants = jax.device_put((train, target, of_target, jnp.asarray(weights, dtype)))

    def of_expert(path: Path) -> Array:
        return _retrained(model, config, retrain, losses, *constants, path)

    mean = _mean_over_experts(of_expert, trajectories, config, recorded=retrain is None)
    return _as_asked(mean, target_weights)


def self_influence(
    model: Model, train: Data, trajectories: Trajectories, config: InfluenceConfig, *, losses: Losses | None = None
) -> np.ndarray:
    """Score every example by its influence on its own loss, `Σ_t η_t ‖∇ℓ_i(θ_t)‖²`, averaged over the experts.

    It is large for examples that are hard to fit: rare ones, and mislabelled ones. Needs the gradient of every example,
    `config.chunk` of which are in memory at a time.

    Args:
        model: See `scores`.
        train: See `scores`.
        trajectories: See `scores`.
        config: Of it `stride`, `end`, `momentum` and `chunk` are used.
        losses: See `scores`.

    Returns:
        `[N]`, never negative.

    References:
        [published] TracInCP, Pruthi et al. 2020, arXiv 2002.08484, section 4.1.
    """
    train = jax.device_put(train)

    def of_expert(path: Path) -> Array:
        return _squared_gradients(model, config, losses, train, path)

    return _mean_over_experts(of_expert, trajectories, config, recorded=True)


def at(params: AnyArray) -> Trajectories:
    """Make trajectories of parameters alone, `[P]` or `[E, P]`: nothing recorded but where training ended."""
    params = jnp.atleast_2d(jnp.asarray(params))
    zero = jnp.zeros((1,), params.dtype)
    return Trajectories(params[:, None], params, zero, zero, zero[0], jnp.zeros((1,), jnp.int32))


def per_class(labels: AnyArray, num_classes: int) -> np.ndarray:
    """Give target weights `[C, B]` that make one target of the mean loss of every class (0 for an empty class)."""
    members = np.asarray(labels)[None] == np.arange(num_classes)[:, None]
    return members / np.maximum(members.sum(axis=1, keepdims=True), 1)


def problem_of(
    model: Model,
    train: Data,
    target: Data,
    target_weights: Array,
    config: InfluenceConfig,
    retrain: Retrain | None = None,
    losses: Losses | None = None,
) -> Problem:
    """Build what the estimators compute with, from training examples and targets `[Q, B]`; in jit."""
    flat_losses = _flat(model, losses)
    size, decay = _size(train), config.weight_decay
    draw_key, key = jax.random.split(jax.random.key(config.seed))
    weights = train.weights if isinstance(train, Examples) else jnp.full((size,), 1 / size, target_weights.dtype)
    rows = jnp.arange(size)
    if config.curvature is not None and config.curvature < size:
        rows = jax.random.permutation(draw_key, rows)[: config.curvature]
    curvature_weights = weights[rows] * (jnp.sum(weights) / jnp.sum(weights[rows]))

    def on(data: Data, rows: Array) -> Callable[[Array], Array]:
        examples = take(data, rows)
        return lambda params: flat_losses(params, examples)

    def summed(data: Data, rows: Array, weights: Array, term: Callable[..., Array]) -> Array:
        """Sum `term(losses [B'], weights [..., B'])` over chunks of the examples at `rows`."""
        positions, valid = _chunked(rows.shape[0], config.chunk)

        def of_chunk(positions: Array, valid: Array) -> Array:
            masked = weights[..., positions] * valid.astype(weights.dtype).reshape((1,) * (weights.ndim - 1) + (-1,))
            return term(on(data, rows[positions]), masked)

        def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
            return total + of_chunk(*chunk), None

        shape = jax.eval_shape(of_chunk, positions[0], valid[0])
        return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), (positions, valid))[0]

    def each(function: Callable[[Callable[[Array], Array]], Array]) -> Array:
        """Compute `function(losses [B']) -> [Q, B']` for chunks of all training examples: `[Q, N]`."""
        positions, _ = _chunked(size, config.chunk)
        found = jax.lax.map(lambda rows: function(on(train, rows)), positions)
        return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], -1)[:, :size]

    def gradient(params: Array, rows: Array, weights: Array) -> Array:
        return decay * params + summed(train, rows, weights, lambda f, w: autodiff.grad_combine(f, params, w))

    def product(params: Array, v: Array, rows: Array, weights: Array) -> Array:
        def term(f: Callable[[Array], Array], w: Array) -> Array:
            return autodiff.hvp(lambda p: jnp.vdot(w, f(p)), params, v)

        return decay * v + summed(train, rows, weights, term)

    def sampled_product(key: Array, params: Array, v: Array) -> Array:
        if config.solver.batch is None:
            return product(params, v, rows, curvature_weights)
        drawn = jax.random.randint(key, (config.solver.batch,), 0, size)
        return product(params, v, drawn, weights[drawn] * (size / config.solver.batch))

    def descend(weights: Array, path: Path) -> Array:
        everything = jnp.arange(size)

        def step(params: Array, lr: Array) -> tuple[Array, None]:
            return params - lr * gradient(params, everything, weights), None

        return jax.lax.scan(step, path.snapshots[0], path.steps)[0]

    def target_gradients(params: Array) -> Array:
        def term(f: Callable[[Array], Array], w: Array) -> Array:
            return jax.lax.map(lambda w: autodiff.grad_combine(f, params, w), w)

        return summed(target, jnp.arange(_size(target)), target_weights, term)

    return Problem(
        targets=lambda params: summed(target, jnp.arange(_size(target)), target_weights, lambda f, w: w @ f(params)),
        target_gradients=target_gradients,
        dots=lambda params, v: each(lambda f: jax.lax.map(lambda v: autodiff.grad_dot(f, params, v), v)),
        forms=lambda params, u, v: each(
            lambda f: jax.lax.map(lambda u: autodiff.grad_dot(lambda p: autodiff.grad_dot(f, p, v), params, u), u)
        ),
        gradient=lambda params: gradient(params, rows, curvature_weights),
        product=lambda params, v: product(params, v, rows, curvature_weights),
        sampled_product=sampled_product,
        retrain=descend if retrain is None else lambda weights, path: retrain(weights, path.snapshots[0]),
        weights=weights,
        solver=config.solver,
        key=key,
    )


def take(data: Data, rows: Array) -> Examples:
    """Take the examples at `rows`."""
    if isinstance(data, Examples):
        return jax.tree.map(lambda x: x[rows], data)
    return sampling.take(data, rows)


def weights(scores: AnyArray, labels: AnyArray, temperature: float = 1.0) -> np.ndarray:
    """Weigh the examples of each class by the softmax of their standardised scores.

    `w_i = exp(z_i / τ) / Σ_{j of the class} exp(z_j / τ)`, `z_i = (s_i − mean) / std` over the class.

    Args:
        scores: `[N]`.
        labels: `[N]` classes.
        temperature: τ; towards infinity all examples of a class weigh the same, towards 0 the best takes all.

    Returns:
        `[N]` float64, of sum one in every class; uniform in a class of equal scores.

    Raises:
        ValueError: Scores that are not finite or do not fit the labels, or a temperature that is not positive.

    References:
        [published] softmax with temperature: influence-weighted distillation, arXiv 2510.27253; [our choice] the
        standardisation per class.
    """
    scores, labels = _scored(scores, labels)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give a positive one")
    result = np.empty(len(scores))
    for label in np.unique(labels):
        members = labels == label
        z = standardised(scores[members]) / temperature
        exponential = np.exp(z - z.max())
        result[members] = exponential / exponential.sum()
    return result


def standardised(values: np.ndarray) -> np.ndarray:
    """Shift and scale values to mean 0 and standard deviation 1; zeros if all of them are equal."""
    if np.ptp(values) == 0:
        return np.zeros_like(values)
    return (values - values.mean()) / values.std()


def subset(
    scores: AnyArray, labels: AnyArray, per_class: int, keep: Literal["helpful", "harmful"] = "helpful"
) -> np.ndarray:
    """Choose the examples of highest or of lowest score in every class.

    Args:
        scores: `[N]`.
        labels: `[N]` classes.
        per_class: How many of each class.
        keep: Which end.

    Returns:
        `[C', per_class]` int32 positions, a row for each class that has examples, in the order of the classes, the most
        helpful or most harmful one first; of equal scores the earlier example.

    Raises:
        ValueError: A class has fewer examples, `keep` is neither, or the scores do not fit the labels.

    References:
        [our choice] equally many of every class, as distilled sets have.
    """
    scores, labels = _scored(scores, labels)
    signs = {"helpful": -1, "harmful": 1}
    if keep not in signs:
        raise ValueError(f"keep is {keep!r}; choose one of {', '.join(signs)}")
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= per_class <= counts.min():
        raise ValueError(
            f"per_class is {per_class}, but class {classes[counts.argmin()]} has {counts.min()} examples; "
            f"choose 1 to {counts.min()}"
        )
    order = np.argsort(signs[keep] * scores, kind="stable").astype(np.int32)
    return np.stack([order[labels[order] == label][:per_class] for label in classes])


def ranking(scores: AnyArray, labels: AnyArray) -> np.ndarray:
    """Rank the examples, the most helpful first.

    Args:
        scores: `[N]`.
        labels: `[N]` classes.

    Returns:
        A structured array `[N]` with the columns index (position in the training set), label, score and rank (1 for the
        highest score; of equal scores the earlier example first), in the order of rank.

    Raises:
        ValueError: The scores are not finite or do not fit the labels.
    """
    scores, labels = _scored(scores, labels)
    order = np.argsort(-scores, kind="stable")
    columns = [("index", np.int32), ("label", np.int32), ("score", np.float64), ("rank", np.int32)]
    table = np.empty(len(scores), columns)
    table["index"], table["label"], table["score"] = order, labels[order], scores[order]
    table["rank"] = np.arange(1, len(scores) + 1)
    return table


def mislabelled_auc(scores: AnyArray, mislabelled: AnyArray) -> float:
    """Say how well low scores find wrong labels: the area under the ROC curve.

    Args:
        scores: `[N]`.
        mislabelled: `[N]` bool, which labels are known to be wrong; some, not all.

    Returns:
        The probability that a wrong label has a lower score than a right one, ties counted half; 0.5 is chance.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(mislabelled), -np.asarray(scores, np.float64)))


def _scored(scores: AnyArray, labels: AnyArray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ValueError(f"scores are {list(scores.shape)} and labels {list(labels.shape)}; both must be [N], N >= 1")
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of example {first} is {scores[first]}; scores must be finite")
    return scores, labels


# What defines the program is static: to score again, with other data or targets of the same shapes, compiles nothing.
@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _estimate(
    model: Model,
    config: InfluenceConfig,
    retrain: Retrain | None,
    losses: Losses | None,
    train: Data,
    target: Data,
    target_weights: Array,
    path: Path,
) -> Estimate:
    problem = problem_of(model, train, target, target_weights, config, retrain, losses)
    return ESTIMATORS[config.estimator].estimate(problem, path)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _retrained(
    model: Model,
    config: InfluenceConfig,
    retrain: Retrain | None,
    losses: Losses | None,
    train: Data,
    target: Data,
    target_weights: Array,
    weights: Array,
    path: Path,
) -> Array:
    problem = problem_of(model, train, target, target_weights, config, retrain, losses)
    return jax.lax.map(lambda w: problem.targets(problem.retrain(w, path)), weights).T


@partial(jax.jit, static_argnums=(0, 1, 2))
def _squared_gradients(model: Model, config: InfluenceConfig, losses: Losses | None, train: Data, path: Path) -> Array:
    flat_losses, size = _flat(model, losses), _size(train)

    def square(params: Array, row: Array) -> Array:
        gradient = jax.grad(lambda p: flat_losses(p, take(train, row[None]))[0])(params)
        return jnp.vdot(gradient, gradient)

    def add(total: Array, snapshot: tuple[Array, Array]) -> tuple[Array, None]:
        params, lr = snapshot
        squares = jax.lax.map(lambda row: square(params, row), jnp.arange(size), batch_size=min(config.chunk, size))
        return total + lr * squares, None

    return jax.lax.scan(add, jnp.zeros(size, path.end.dtype), (path.snapshots, path.steps))[0]


def _mean_over_experts(
    function: Callable[[Path], AnyArray], trajectories: Trajectories, config: InfluenceConfig, *, recorded: bool
) -> np.ndarray:
    """Average `function(path)` over the experts; `recorded`: refuse snapshots that do not lead to the end."""
    snapshots, end = trajectories.snapshots, trajectories.final
    config = settled(config, trajectories.time, trajectories.total_time, recorded=recorded)
    if config.end == "last":
        snapshots, end = snapshots[:, :-1], snapshots[:, -1]
    steps = intervals(trajectories.time, trajectories.total_time, config, recorded=recorded)
    snapshots = snapshots[:, :: config.stride]
    effective = jnp.asarray(steps / (1 - config.momentum), end.dtype)
    experts = range(trajectories.num_experts)
    found = [function(Path(jnp.asarray(snapshots[e]), effective, jnp.asarray(end[e]))) for e in experts]
    return np.mean([np.asarray(values, np.float64) for values in found], axis=0)


def settled(
    config: InfluenceConfig, time: AnyArray, total_time: AnyArray | float, *, recorded: bool = True
) -> InfluenceConfig:
    """Replace `end="auto"` by what it stands for; arguments as for `intervals`."""
    if config.end != "auto":
        return config
    steps = np.diff(np.append(np.asarray(time, np.float64), float(total_time)))
    whole = not recorded or len(steps) == 1 or steps[-1] <= 2 * steps[:-1].max()
    return dataclasses.replace(config, end="final" if whole else "last")


def intervals(
    time: AnyArray, total_time: AnyArray | float, config: InfluenceConfig, *, recorded: bool = True
) -> np.ndarray:
    """Give the training time from each snapshot in use to the next, the last to the parameters that are judged.

    Args:
        time: `[T]` training time at each snapshot, a sum of learning rates.
        total_time: [] that at the end of the training.
        config: Of it `stride` and `end` are used.
        recorded: Whether the estimator reads what happened on the way.

    Returns:
        `[T']`.

    Raises:
        ValueError: Nothing is recorded before the end, or the recording stops long before it.
    """
    config = settled(config, time, total_time, recorded=recorded)
    times, total = np.asarray(time, np.float64), float(total_time)
    if config.end == "last":
        times, total = times[:-1], float(times[-1])
    steps = np.diff(np.append(times, total))
    if recorded and not steps.sum() > 0:
        raise ValueError(
            f"the trajectories record no training time before the parameters that are judged (end={config.end!r}), but "
            "the snapshots on the way are needed; only endpoint does without"
        )
    if recorded and len(steps) > 1 and steps[-1] > 2 * steps[:-1].max():
        raise ValueError(
            f"the last snapshot was taken at training time {times[-1]:.4g} of {total:.4g}, too early to stand for all "
            "that follows; judge the last snapshot (influence.end 'last'), or record the whole training (experts.keep)"
        )
    return np.diff(np.append(times[:: config.stride], total))


def check(model: Model, config: InfluenceConfig, size: int, time: AnyArray, total_time: AnyArray | float) -> None:
    """Refuse what cannot be computed, before the networks are trained.

    Args:
        model: The network.
        config: Estimator and settings.
        size: N.
        time: See `intervals`.
        total_time: See `intervals`.

    Raises:
        ValueError: See `intervals`; or a dense Hessian of too many parameters, or leave_one_out of too many examples
            or with a stride.
    """
    parameters = flattening(model)[0]
    if config.estimator == "leave_one_out" and size > LARGEST_RETRAINED:
        raise ValueError(
            f"leave_one_out would train {size} times and more; choose another estimator, or at most "
            f"{LARGEST_RETRAINED} examples"
        )
    if config.estimator == "leave_one_out" and config.stride > 1:
        raise ValueError(
            f"influence.stride is {config.stride}, but leave_one_out trains again with the steps of the recorded "
            "training; set it to 1"
        )
    if config.estimator == "endpoint" and config.solver.name == "explicit" and parameters > LARGEST_DENSE:
        raise ValueError(
            f"solver.name is 'explicit' for a network of {parameters} parameters, whose Hessian would have that many "
            f"rows; it is formed up to {LARGEST_DENSE}, use cg beyond"
        )
    intervals(time, total_time, config, recorded=ESTIMATORS[config.estimator].along_path)


def _target_weights(target: Data, weights: AnyArray | None) -> Array:
    """Give the target weights as `[Q, B]`."""
    size = _size(target)
    if weights is None:
        weights = target.weights if isinstance(target, Examples) else np.full(size, 1 / size)
    if np.ndim(weights) not in (1, 2) or np.shape(weights)[-1] != size:
        raise ValueError(f"target_weights are {np.shape(weights)} for {size} target examples; give [B] or [Q, B]")
    return jnp.atleast_2d(jnp.asarray(weights))


def _as_asked(values: np.ndarray, target_weights: AnyArray | None) -> np.ndarray:
    """Give `[Q, …]` as it is, or its only row where one target was asked for."""
    return values if target_weights is not None and np.ndim(target_weights) == 2 else values[0]


def _check(result: Estimate, estimator: Estimator, config: InfluenceConfig) -> None:
    worst, advice = float(np.max(result.fault)), estimator.advice(config.solver.name)
    if not np.isfinite(result.scores).all():
        raise FloatingPointError(f"{config.estimator} gave scores that are not finite; {advice}")
    if not worst <= estimator.limit:
        raise FloatingPointError(f"{config.estimator} diverged, {estimator.measure} {worst:.2g}; {advice}")
    if worst > estimator.doubtful:
        log.warning("%s is doubtful, %s %.2g; %s", config.estimator, estimator.measure, worst, advice)


def _flat(model: Model, losses: Losses | None) -> Callable[[Array, Examples], Array]:
    unravel, losses = flattening(model)[1], losses or cross_entropy(model)
    return lambda params, examples: losses(unravel(params), examples)


def _size(data: Data) -> int:
    return data.images.shape[0]


def _chunked(size: int, chunk: int) -> tuple[Array, Array]:
    """Cut `0 … size − 1` into equal chunks, filled up from the start: positions `[n, B']`, and which are no filling."""
    count, length = batching(size, min(chunk, size))
    positions = jnp.arange(count * length).reshape(count, length)
    return positions % size, positions < size


def _products(problem: Problem, params: Array, vectors: Array) -> Array:
    return jax.lax.map(lambda v: problem.product(params, v), vectors)


def _zero_scores(problem: Problem, path: Path) -> Array:
    targets = jax.eval_shape(problem.targets, path.end)
    return jnp.zeros((targets.shape[0], problem.weights.shape[0]), targets.dtype)


def _healthy(scores: Array) -> Estimate:
    return Estimate(scores, jnp.zeros(scores.shape[0], scores.dtype))


def _norms(vectors: Array) -> Array:
    return jnp.linalg.norm(vectors, axis=-1)


def _positive(norm: Array) -> Array:
    return jnp.where(norm > 0, norm, 1)
