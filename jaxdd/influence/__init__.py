"""Influence: how much every training example helps or harms a target, from recorded trajectories.

The network was trained on `L(θ) = Σ_i w_i ℓ_i(θ) + (weight_decay/2) ‖θ‖²` with `w_i = 1/N`, and is judged by targets
`L_q(θ) = Σ_b W_qb ℓ_b(θ)`, such as the mean loss on a validation split. All estimators score the same quantity,

    s_qi ≈ − d L_q(θ(w)) / d w_i,    θ(w) the parameters that training with the weights w ends at.

**The sign: a positive score means that up-weighting the example lowers the target loss.** The unit is loss per unit of
weight: leaving example i out raises the target by about `w_i s_qi`, and by exactly that with the scores of
`leave_one_out`. The other weights stay as they are when one is moved: to let them make up for it, so that the sum stays
one, would to first order add the same constant to all scores of a target.

Where a loss depends on the batch, as that of pairs does, ℓ_i is the example's own term in a batch of
`InfluenceConfig.batch` examples: training and target examples are each shuffled and cut into batches once, with a seed.
More weight on a pair is more weight on its own term; that it is also an answer that the others of its batch should not
give stays as it is. [our choice]

Scores are estimates, and how good they are depends on the network and on how long it was trained: compare with
`leave_one_out` or `retrained` on a small problem before trusting them on a large one.

    scores = influence.scores(task, dataset.real_set(), validation, experts, InfluenceConfig("sgd_influence"))
    kept = influence.subset(scores, dataset.train.labels, per_class=50)

Axis letters: N training examples, B target examples, Q targets, E experts, T snapshots, P parameters, C classes.
"""

import dataclasses
import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core import sampling
from jaxdd.core.parallel import map_over, over_devices, replicate
from jaxdd.core.ranking import mislabeled_auc, per_class, ranking, subset, weights
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.errors import Diverged, SettingError
from jaxdd.experts.trajectories import Trajectories
from jaxdd.influence.config import InfluenceConfig
from jaxdd.influence.estimators import ESTIMATORS, Estimate, Estimator
from jaxdd.influence.paths import at, check, check_separable, intervals, mean_over_experts, settled
from jaxdd.influence.problem import Data, Path, Problem, Retrain, problem_of
from jaxdd.influence.solvers import SOLVERS, Solver
from jaxdd.settings import check_argument
from jaxdd.types import AnyArray, Array, Examples

__all__ = [
    "ESTIMATORS",
    "SOLVERS",
    "InfluenceConfig",
    "Solver",
    "at",
    "check",
    "intervals",
    "mislabeled_auc",
    "per_class",
    "ranking",
    "retrained",
    "scores",
    "self_influence",
    "settled",
    "subset",
    "weights",
]

log = logging.getLogger("jaxdd")


@over_devices()
def scores(
    task: Task,
    train: Data,
    target: Data,
    trajectories: Trajectories,
    config: InfluenceConfig,
    *,
    target_weights: AnyArray | None = None,
    retrain: Retrain | None = None,
) -> np.ndarray:
    """Score every training example for one target or several, averaged over the experts.

    The gradient of a target is summed first; one forward-mode pass over the training set then scores all examples.

    Args:
        task: What the networks of the trajectories do; its losses are separable, or `config.batch` says how many share
            one.
        train: What it was trained on, N examples.
        target: The B examples that the targets are made of.
        trajectories: The recorded training; `at` makes one of mere parameters, for endpoint.
        config: Estimator and settings.
        target_weights: `[B]`, one target `Σ_b W_b ℓ_b`; or `[Q, B]`, several targets on the same examples, such as
            `per_class(labels, C)`, or the identity for every example by itself. By default the mean, or what `target`
            gives as weights.
        retrain: Training for leave_one_out; by default gradient descent from each first snapshot along the recorded
            training time, one step per snapshot in use.

    Returns:
        `[N]` for one target, `[Q, N]` for several; positive: up-weighting the example lowers the target.

    Raises:
        ValueError: The trajectories do not record what the estimator reads, or the target weights do not fit.
        FloatingPointError: The estimate diverged; the message says what to change.
    """
    check_separable(task, config.batch)
    for name, given in (("train", train), ("target", target)):
        check_argument(name, given, (RealSet, Examples), "give a set of real examples, such as dataset.real_set()")
    check_argument("trajectories", trajectories, Trajectories, "give what jaxdd.train_experts returns")
    check_argument("config", config, InfluenceConfig, "give a jaxdd.InfluenceConfig")
    of_target = _target_weights(target, target_weights)
    estimator = ESTIMATORS[config.estimator]
    if retrain is not None and config.estimator != "leave_one_out":
        raise SettingError(f"retrain was given with estimator={config.estimator!r}; only leave_one_out retrains")
    if config.estimator == "leave_one_out" and isinstance(train, Examples) and not np.all(train.weights):
        first = int(np.argmin(np.abs(train.weights)))
        raise SettingError(
            f"training example {first} has weight 0: leaving it out changes nothing; give all some weight"
        )
    if retrain is None:
        check(task, config, sampling.size_of(train), trajectories.time, trajectories.total_time)
    if not task.separable:
        order = orders(train, target, config, retrain)
        train, target, of_target = _in_batches(order, train, target, of_target)
    constants = replicate((train, target, of_target.astype(trajectories.final.dtype)))

    # What the path was made with does not change the program.
    program = dataclasses.replace(config, stride=1, end="final", momentum=0.0)

    def of_expert(path: Path) -> Array:
        result = jax.device_get(_estimate(task, program, retrain, *constants, path))
        _check(result, estimator, config)
        return result.scores

    mean = mean_over_experts(of_expert, trajectories, config, recorded=estimator.along_path and retrain is None)
    if not task.separable:
        mean = mean[:, np.argsort(order[0])]
    return _as_asked(mean, target_weights)


def orders(
    train: Data, target: Data, config: InfluenceConfig, retrain: Retrain | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the orders `[N]` and `[B]` in which examples are cut into batches of `config.batch`, the last one filled up.

    Training examples stay in place for a `retrain`, which has batches of its own.
    """
    of_train, of_target = (
        np.random.default_rng((config.seed, which)).permutation(sampling.size_of(data))
        for which, data in enumerate((train, target))
    )
    return (of_train if retrain is None else np.arange(len(of_train))), of_target


def _in_batches(
    order: tuple[np.ndarray, np.ndarray], train: Data, target: Data, of_target: Array
) -> tuple[Data, Data, Array]:
    return sampling.in_order(train, order[0]), sampling.in_order(target, order[1]), of_target[:, order[1]]


@over_devices()
def retrained(
    task: Task,
    train: Data,
    target: Data,
    trajectories: Trajectories,
    weights: AnyArray,
    config: InfluenceConfig,
    *,
    target_weights: AnyArray | None = None,
    retrain: Retrain | None = None,
) -> np.ndarray:
    """Compute the targets after training with other weights: the truth for groups of examples.

    Args:
        task: See `scores`.
        train: See `scores`.
        target: See `scores`.
        trajectories: See `scores`.
        weights: `[G, N]` the weights of each of G trainings, in place of 1/N.
        config: See `scores`.
        target_weights: See `scores`.
        retrain: See `scores`.

    Returns:
        `[G]` for one target, `[Q, G]` for several, averaged over the experts. To first order,
        `L_q(θ(w')) − L_q(θ(w)) = −Σ_i (w'_i − w_i) s_qi`.
    """
    check_separable(task, config.batch)
    if np.ndim(weights) != 2 or np.shape(weights)[1] != sampling.size_of(train):
        raise SettingError(
            f"weights are {np.shape(weights)} for {sampling.size_of(train)} training examples; give [G, N]"
        )
    if retrain is None:
        check(task, config, sampling.size_of(train), trajectories.time, trajectories.total_time)
    dtype = trajectories.final.dtype
    of_target = _target_weights(target, target_weights).astype(dtype)
    if not task.separable:
        order = orders(train, target, config, retrain)
        train, target, of_target = _in_batches(order, train, target, of_target)
        weights = np.asarray(weights)[:, order[0]]
    constants = replicate((train, target, of_target, jnp.asarray(weights, dtype)))

    def of_expert(path: Path) -> Array:
        return _retrained(task, config, retrain, *constants, path)

    mean = mean_over_experts(of_expert, trajectories, config, recorded=retrain is None)
    return _as_asked(mean, target_weights)


@over_devices()
def self_influence(task: Task, train: Data, trajectories: Trajectories, config: InfluenceConfig) -> np.ndarray:
    """Score every example by its influence on its own loss, `Σ_t η_t ‖∇ℓ_i(θ_t)‖²`, averaged over the experts.

    It is large for examples that are hard to fit: rare ones, and mislabeled ones. Needs the gradient of every example,
    `config.chunk` of which are in memory at a time.

    Args:
        task: See `scores`.
        train: See `scores`.
        trajectories: See `scores`.
        config: Of it `stride`, `end`, `momentum` and `chunk` are used.

    Returns:
        `[N]`, never negative.

    References:
        [published] TracInCP, Pruthi et al. 2020, arXiv 2002.08484, section 4.1.
    """
    check_separable(task)
    train = replicate(train)

    def of_expert(path: Path) -> Array:
        return _squared_gradients(task, config, train, path)

    return mean_over_experts(of_expert, trajectories, config, recorded=True)


# What defines the program is static: to score again, with other data or targets of the same shapes, compiles nothing.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _estimate(
    task: Task,
    config: InfluenceConfig,
    retrain: Retrain | None,
    train: Data,
    target: Data,
    target_weights: Array,
    path: Path,
) -> Estimate:
    problem = problem_of(task, train, target, target_weights, config, retrain)
    return ESTIMATORS[config.estimator].estimate(problem, path)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _retrained(
    task: Task,
    config: InfluenceConfig,
    retrain: Retrain | None,
    train: Data,
    target: Data,
    target_weights: Array,
    weights: Array,
    path: Path,
) -> Array:
    problem = problem_of(task, train, target, target_weights, config, retrain)

    def targets(weights: Array, problem: Problem, path: Path) -> Array:
        return problem.targets(problem.retrain(weights, path))

    found: Array = map_over(targets, weights, problem, path)
    return found.T


@partial(jax.jit, static_argnums=(0, 1))
def _squared_gradients(task: Task, config: InfluenceConfig, train: Data, path: Path) -> Array:
    def square(params: Array, example: Examples) -> Array:
        alone = jax.tree.map(lambda x: x[None], example)
        gradient = jax.grad(lambda p: task.losses(task.unravel(p), alone)[0])(params)
        return jnp.vdot(gradient, gradient)

    def squares_of(examples: Examples, params: Array) -> Array:
        return jax.vmap(partial(square, params))(examples)

    def add(total: Array, snapshot: tuple[Array, Array]) -> tuple[Array, None]:
        params, lr = snapshot
        squares = sampling.over_all(squares_of, train, params, largest=config.chunk)
        return total + lr * squares, None

    zero = jnp.zeros(sampling.size_of(train), path.end.dtype)
    return jax.lax.scan(add, zero, (path.snapshots, path.steps))[0]


def _target_weights(target: Data, weights: AnyArray | None) -> Array:
    """Return the target weights as `[Q, B]`."""
    size = sampling.size_of(target)
    if weights is None:
        weights = target.weights if isinstance(target, Examples) else np.full(size, 1 / size)
    if np.ndim(weights) not in (1, 2) or np.shape(weights)[-1] != size:
        raise SettingError(f"target_weights are {np.shape(weights)} for {size} target examples; give [B] or [Q, B]")
    return jnp.atleast_2d(jnp.asarray(weights))


def _as_asked(values: np.ndarray, target_weights: AnyArray | None) -> np.ndarray:
    """Return `[Q, …]` as it is, or its only row where one target was asked for."""
    return values if target_weights is not None and np.ndim(target_weights) == 2 else values[0]


def _check(result: Estimate, estimator: Estimator, config: InfluenceConfig) -> None:
    worst, advice = float(np.max(result.fault)), estimator.advice(config.solver.name)
    if not np.isfinite(result.scores).all():
        raise Diverged(f"{config.estimator} gave scores that are not finite; {advice}")
    if not worst <= estimator.limit:
        raise Diverged(f"{config.estimator} diverged, {estimator.measure} {worst:.2g}; {advice}")
    if worst > estimator.doubtful:
        log.warning("%s is doubtful, %s %.2g; %s", config.estimator, estimator.measure, worst, advice)
