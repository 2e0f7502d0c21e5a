"""IWD: influence-weighted distillation (arXiv 2510.27253), a plug-in for methods that match statistics of real data.

A statistic of the real examples of a class, `Σ_i w_i φ_i`, has uniform weights in the method that is wrapped. Here they
are `w = softmax(s / τ)` within the class: an example counts the more, the more beneficial its influence s on the
objective is, and none is discarded.

`weighted(task, method, Weighting())` wraps a method; the settings of DC, DM, NCFM and CAFE have a field for it.

Axis letters: B real batch, C classes, N real examples, n steps of the evaluated network.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.autodiff import conjugate_gradient, hvp
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import split
from jaxdd.core.ranking import standardize
from jaxdd.core.tasks import Task, all_items, mean_loss
from jaxdd.core.unroll import Unroll, inner_sgd
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, Sources
from jaxdd.settings import Above, AtLeast, Fraction, Positive, Range, Settings
from jaxdd.types import Array, Examples, Scalars, Scores

COLLAPSED = 0.2
"""Weights have collapsed if they count fewer examples of a class than this fraction of its batch. [our choice] Of DC on
digits with 64 examples, the least class counts as 0.07 at τ = ½ and 7 points of accuracy are lost; 0.49 at τ = 1 and 2
points; 0.84 at τ = 2 and half a point (`python -m tests.benchmarks.statistics noise digits`)."""
OWN_KEYS = 0x1FD
"""Folded into a step's key for what IWD draws; small numbers would give the keys that a base gets by splitting."""


@dataclasses.dataclass(frozen=True)
class Weighting(Settings, path="method.weighting"):
    """How real examples are weighed by their influence (IWD); any of these options turns it on."""

    score: Literal["explicit", "implicit", "both"] = "explicit"
    """Influence of an example: through the real statistic that it is part of; through the distilled set, on a network
    that is trained on it; or the sum, in which `damping` sets how much the second counts. [our choice] of the first as
    default: it needs no labels that can be trusted, and is the one that gained under asymmetric label noise."""
    sign: Literal["beneficial", "harmful"] = "beneficial"
    """Which examples count more: those whose weight lowers the objective, which resemble what the set has already; or
    those whose weight raises it, rare ones and wrong ones."""
    temperature: Annotated[float, Above(0, infinite=True)] = 2.0
    """τ, in standard deviations of a class's scores of one step: infinite for uniform weights, the base method. Below 1
    a few examples have most of the weight. What is weighed are their moving averages, which spread less: 0.5 to 0.9 of
    it within a class of digits."""
    selection: Literal["none", "random_select", "influence_select", "influence_prune"] = "none"
    """Ablations with weights 0 or equal ones in place of the softmax: keep a random half of each batch and class, or
    the half of highest score, or drop the lowest; `fraction` says how much."""
    fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    """What random_select and influence_select keep, and influence_prune drops, of each class in a batch."""
    warm_up: Annotated[int, AtLeast(0)] = 100
    """Steps with uniform weights at the beginning, long enough for the set to resemble most of each class: with wrong
    labels, a set that starts from wrong images finds these beneficial."""
    refresh: Annotated[int, AtLeast(1)] = 1
    """R, steps between computations of scores; of a network that serves several steps, those at multiples of R."""
    decay: Annotated[float, Fraction] = 0.9
    """Of the moving average of every example's scores: how much of the old value stays when it is scored again. The
    first score is taken as it is."""
    solver: Literal["identity", "cg"] = "identity"
    """Inverse of the objective's Hessian in the implicit score: 1/λ, or conjugate gradients with damping λ."""
    damping: Annotated[float, Positive] = 1.0
    """λ of the implicit score: added to the Hessian, or in place of it."""
    iterations: Annotated[int, AtLeast(1)] = 10
    """Steps of conjugate gradients."""
    evaluation_steps: Annotated[int, AtLeast(1)] = 10
    """n, SGD steps on the distilled set of the fresh network whose loss the implicit score is about."""
    evaluation_lr: Annotated[float, Positive] = 0.05
    """Learning rate of these steps."""
    evaluation_batch: Annotated[int, AtLeast(1)] = 256
    """Real examples on which its loss is measured."""
    evaluated_on: Literal["train", "validation"] = "train"
    """Where they come from; validation makes use of labels that can be trusted where those of train cannot. As that
    split also chooses the set, its accuracy is optimistic then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "explicit" and self.evaluated_on == "validation":
            raise SettingError(
                "method.weighting.evaluated_on is 'validation', but the explicit score evaluates nothing; set "
                "method.weighting.score to implicit or both"
            )


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        base: State of the method that is wrapped.
        scores: `[N]` standardized score of every real example, a moving average; 0, the mean, if it was never scored.
        counts: `[N]` int32, how often each was scored.
        steps: [] int32, the number of steps so far.
    """

    base: Any
    scores: Array
    counts: Array
    steps: Array


class Batch(NamedTuple):
    """What a step draws: the batch of the method that is wrapped, and examples for the implicit score (or None)."""

    base: Any
    evaluated: Examples | None


def best(scores: Array, count: int) -> Array:
    """Weigh the `count` highest of scores `[..., B]` equally, `[..., B]` with sum 1."""
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
    return jnp.where(rank < count, 1 / count, 0.0)


SELECTIONS: dict[str, Callable[[Array, Array, Weighting], Array]] = {
    "none": lambda key, z, how: jax.nn.softmax(z / how.temperature, axis=-1),
    "random_select": lambda key, z, how: best(jax.random.uniform(key, z.shape), kept(how.fraction, z)),
    "influence_select": lambda key, z, how: best(z, kept(how.fraction, z)),
    "influence_prune": lambda key, z, how: best(z, kept(1 - how.fraction, z)),
}
"""`(key, z [..., B], weighting) -> w [..., B]`, weights from standardized scores, with sum 1 within a class."""


def kept(fraction: float, z: Array) -> int:
    """Count how many of B examples a fraction of them is, at least 1."""
    return max(1, round(fraction * z.shape[-1]))


def explicit_scores(objective: Callable[[Array], Array], weights: Array) -> Array:
    """Compute the influence of every example through the real statistic, `e_i = ∂O/∂w_i`.

    Args:
        objective: `weights [C, B] -> O`.
        weights: `[C, B]`.

    Returns:
        `[C, B]`; negative for an example whose weight lowers the objective.

    References:
        [derived] from arXiv 2510.27253, in one gradient for all examples.
    """
    return jax.grad(objective)(weights)


Solve = Callable[[Callable[[Array], Array], Array], tuple[Array, Array]]
"""`(x -> H x, v) -> ((H + λ)⁻¹ v, relative residual)`."""


def implicit_scores(
    objective: Callable[[Array, Array], Array],
    value: Callable[[Array], Array],
    images: Array,
    weights: Array,
    solve: Solve,
) -> tuple[Array, Array]:
    """Compute the influence of every example through the distilled set on an evaluation V of it.

    `i_i = −⟨(∂²O/∂S² + λ)⁻¹ ∇_S V, ∂²O/∂S∂w_i⟩`, one mixed derivative for all examples.

    Args:
        objective: `(images, weights [C, B]) -> O`.
        value: `images -> V`. Not O itself, whose gradient vanishes at its minimum and with it the score.
        images: S.
        weights: `[C, B]`.
        solve: With `H = ∂²O/∂S²`.

    Returns:
        `[C, B]`, negative for an example whose weight lowers V; and the residual.

    References:
        [derived] from arXiv 2510.27253 by the implicit function theorem, where S minimizes O. [our choice] to use it on
        the way there.
    """
    curvature = functools.partial(hvp, lambda images: objective(images, weights), images)
    u, residual = solve(curvature, jax.grad(value)(images))

    def along(weights: Array) -> Array:
        return jax.jvp(lambda images: objective(images, weights), (images,), (u,))[1]

    return -jax.grad(along)(weights), residual


def solve_identity(how: Weighting, curvature: Callable[[Array], Array], v: Array) -> tuple[Array, Array]:
    """Take λ in place of the Hessian: `v / λ`, with no residual. [our choice]."""
    del curvature
    return v / how.damping, jnp.zeros((), v.dtype)


def solve_cg(how: Weighting, curvature: Callable[[Array], Array], v: Array) -> tuple[Array, Array]:
    """Solve `(H + λ) u = v` by some steps of conjugate gradients."""

    def damped(x: Array) -> Array:
        return curvature(x) + how.damping * x

    return conjugate_gradient(damped, v, iterations=how.iterations)


SOLVERS: dict[str, Callable[..., tuple[Array, Array]]] = {"identity": solve_identity, "cg": solve_cg}
"""A `Solve`, with the settings before its arguments."""


def weighted(task: Task, base: Method, weighting: Weighting) -> Method:
    """Wrap a method that matches class by class: its real examples are weighed by their influence.

    Every `refresh` steps the examples of the batch are scored where all weigh the same: `s = −(e + i)`, standardized
    within each class, moves the average of each. Then they are weighed by their averages, and the method takes its step
    with them. Beside what the method logs,

    - effective: the effective sample size, `mean_c 1 / (B Σ_i w_i²)`: 1 for uniform weights, 1/B if one example has
      all of it; least_effective: the least among the classes.
    - largest_score: of the batch, before standardization; 0 in a step that does not score.
    - residual: of the linear system of conjugate gradients, relative; 0 where none is solved.

    Args:
        task: What the evaluated network does.
        base: The method. Its batches need a field `real`, examples `[C, B]` of one class a row, its states a field
            `distilled`, and it needs an `objective`.
        weighting: How to score and weigh.

    Returns:
        The method. At infinite temperature it takes the steps of the one that it wraps.

    Raises:
        ValueError: The method has no objective to differentiate in the weights.
    """
    base_objective = base.objective
    if base_objective is None:
        raise SettingError(
            "this method has no objective that depends on weights of real examples; wrap dc, dm, ncfm or cafe"
        )
    uniform = weighting.selection == "none" and math.isinf(weighting.temperature)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        size = sources.examples.size
        scores, counts = jnp.zeros(size, distilled.lr.dtype), jnp.zeros(size, jnp.int32)
        return State(base.init(key, distilled, sources), scores, counts, jnp.zeros((), jnp.int32))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        evaluated = None
        if weighting.score != "explicit":
            real = sources.examples
            if weighting.evaluated_on == "validation":
                assert sources.validation is not None
                real = sources.validation
            rows = sampling.uniform(jax.random.fold_in(key, OWN_KEYS), real, weighting.evaluation_batch)
            evaluated = sampling.take(real, rows)
        return Batch(base.sample(key, step, sources), evaluated)

    def influence(key: Array, state: State, batch: Batch) -> tuple[Array, Array]:
        stored, weights = state.base.distilled, batch.base.real.weights
        total, residual = jnp.zeros_like(weights), jnp.zeros((), weights.dtype)

        def objective(inputs: Array, weights: Array) -> Array:
            real = batch.base.real._replace(weights=weights)
            return base_objective(stored._replace(inputs=inputs), state.base, batch.base._replace(real=real))

        def value(inputs: Array) -> Array:
            made = base.distilled(state.base._replace(distilled=stored._replace(inputs=inputs)))
            loss, steps = mean_loss(task.losses, split(all_items(task, made))), jnp.arange(weighting.evaluation_steps)
            lr = jnp.asarray(weighting.evaluation_lr)
            params, _ = inner_sgd(lambda params, _: loss(params), task.model.init(key), steps, lr, how=Unroll())
            assert batch.evaluated is not None
            return mean_loss(task.losses, split(batch.evaluated))(params)

        if weighting.score != "implicit":
            total += explicit_scores(lambda w: objective(stored.inputs, w), weights)
        if weighting.score != "explicit":
            solve = functools.partial(SOLVERS[weighting.solver], weighting)
            through_set, residual = implicit_scores(objective, value, stored.inputs, weights, solve)
            total += through_set
        return total if weighting.sign == "harmful" else -total, residual

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        real = batch.base.real
        rows = real.indices
        score_key, select_key = jax.random.split(jax.random.fold_in(key, OWN_KEYS))
        old, counts = state.scores[rows], state.counts[rows]

        def refreshed() -> tuple[Array, Array, Array, Array]:
            raw, residual = influence(score_key, state, batch)
            found = standardize(raw)
            moved = jnp.where(counts == 0, found, weighting.decay * old + (1 - weighting.decay) * found)
            return moved, counts + 1, jnp.max(jnp.abs(raw)), residual

        none = jnp.zeros((), old.dtype)
        due = state.steps % weighting.refresh == 0
        scores, counts, largest, residual = jax.lax.cond(due, refreshed, lambda: (old, counts, none, none))
        weights = real.weights
        if not uniform:
            by_score = SELECTIONS[weighting.selection](select_key, scores, weighting)
            weights = jnp.where(state.steps < weighting.warm_up, weights, by_score)
        base_state, logged = base.step(key, state.base, batch.base._replace(real=real._replace(weights=weights)))
        effective = 1 / (jnp.sum(weights**2, axis=-1) * weights.shape[-1])
        new = State(base_state, state.scores.at[rows].set(scores), state.counts.at[rows].set(counts), state.steps + 1)
        return new, {
            **logged,
            "effective": jnp.mean(effective),
            "least_effective": jnp.min(effective),
            "largest_score": largest,
            "residual": residual,
        }

    def warn(info: Mapping[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if weighting.selection == "none" and info["least_effective"] < COLLAPSED:
            found["effective"] = (
                f"the weights of a class count {info['least_effective']:.1%} of its real examples: a few decide its "
                f"statistic; raise method.weighting.temperature above {weighting.temperature:g}"
            )
        if info["residual"] > 1:
            found["residual"] = (
                f"conjugate gradients left a relative residual of {info['residual']:.2g}, so that scores are not to be "
                f"trusted; raise method.weighting.damping above {weighting.damping:g}"
            )
        return found

    def inspect(state: State) -> dict[str, Array | Scores]:
        return {**base.inspect(state.base), "scores": Scores(state.scores)}

    return base._replace(
        init=init,
        sample=sample,
        step=step,
        distilled=lambda state: base.distilled(state.base),
        warn=warn,
        inspect=inspect,
        objective=None,
    )
