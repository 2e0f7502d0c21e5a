"""IWD: influence-weighted distillation (arXiv 2510.27253), a plug-in for methods that match statistics of real data.

A statistic of the real examples of a class, `Σ_i w_i φ_i`, has uniform weights in the method that is wrapped. Here they
are `w = softmax(s / τ)` within the class: an example counts the more, the more beneficial its influence s on the
objective is, and none is discarded.

`over(dm)` gives the settings of IWD around another method; `Config` are those around DC.

Axis letters: B real batch, C classes, N real examples, n steps of the evaluated network.
"""

import dataclasses
import functools
import math
import sys
from collections import namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.autodiff import hvp
from jaxdd.choices import check_choices
from jaxdd.data import sampling
from jaxdd.distilled import Distilled
from jaxdd.losses import cross_entropy, mean_loss
from jaxdd.methods import dc
from jaxdd.methods.base import MethodConfig, Sources, all_items
from jaxdd.types import Array, Examples, Method, Model, Scores
from jaxdd.unroll import Unroll, inner_sgd

COLLAPSED = 0.2
"""Weights have collapsed if they count fewer examples of a class than this fraction of its batch. [our choice] Of DC on
digits with 64 examples, the least class counts as 0.07 at τ = ½ and 7 points of accuracy are lost; 0.49 at τ = 1 and 2
points; 0.84 at τ = 2 and half a point (`tests/benchmark_statistics.py noise digits`)."""
OWN_KEYS = 0x1FD
"""Folded into a step's key for what IWD draws; small numbers would give the keys that a base gets by splitting."""


@dataclasses.dataclass(frozen=True)
class Weighting:
    """How real examples are weighted: what IWD adds to the settings of the method that it wraps."""

    score: Literal["explicit", "implicit", "both"] = "explicit"
    """Influence of an example: through the real statistic that it is part of; through the distilled set, on a network
    that is trained on it; or the sum, in which `damping` sets how much the second counts. [our choice] of the first as
    default: it needs no labels that can be trusted, and is the one that gained under asymmetric label noise."""
    sign: Literal["beneficial", "harmful"] = "beneficial"
    """Which examples count more: those whose weight lowers the objective, which resemble what the set has already; or
    those whose weight raises it, rare ones and wrong ones."""
    temperature: float = 2.0
    """τ, in standard deviations of the scores within a class: infinite for uniform weights, the base method. Below 1 a
    few examples have most of the weight."""
    selection: Literal["none", "random_select", "influence_select", "influence_prune"] = "none"
    """Ablations with weights 0 or equal ones in place of the softmax: keep a random half of each batch and class, or
    the half of highest score, or drop the lowest; `fraction` says how much."""
    fraction: float = 0.5
    """What random_select and influence_select keep, and influence_prune drops, of each class in a batch."""
    warm_up: int = 100
    """Steps with uniform weights at the beginning, long enough for the set to resemble most of each class: with wrong
    labels, a set that starts from wrong images finds these beneficial."""
    refresh: int = 1
    """R, steps between computations of scores; of a network that serves several steps, those at multiples of R."""
    decay: float = 0.9
    """Of the moving average of every example's scores: how much of the old value stays when it is scored again. The
    first score is taken as it is."""
    solver: Literal["identity", "cg"] = "identity"
    """Inverse of the objective's Hessian in the implicit score: 1/λ, or conjugate gradients with damping λ."""
    damping: float = 1.0
    """λ of the implicit score: added to the Hessian, or in place of it."""
    iterations: int = 10
    """Steps of conjugate gradients."""
    evaluation_steps: int = 10
    """n, SGD steps on the distilled set of the fresh network whose loss the implicit score is about."""
    evaluation_lr: float = 0.05
    """Learning rate of these steps."""
    evaluation_batch: int = 256
    """Real examples on which its loss is measured."""
    evaluated_on: Literal["train", "validation"] = "train"
    """Where they come from; validation makes use of labels that can be trusted where those of train cannot. As that
    split also chooses the set, its accuracy is optimistic then."""

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the settings that this is mixed into
        check_choices(self)
        for name in (
            "temperature",
            "refresh",
            "damping",
            "iterations",
            "evaluation_steps",
            "evaluation_lr",
            "evaluation_batch",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"method.{name} is {getattr(self, name)}; influence weights need a positive one")
        if self.warm_up < 0:
            raise ValueError(f"method.warm_up is {self.warm_up}; give 0 or more steps")
        steps: int = self.steps  # type: ignore[attr-defined]  # of the settings that this is mixed into
        if 0 < steps <= self.warm_up:
            raise ValueError(
                f"method.warm_up is {self.warm_up} and method.steps {steps}: all weights would stay uniform; lower the "
                "first (a third of the steps did well), or use the base method"
            )
        if not 0 < self.fraction < 1:
            raise ValueError(f"method.fraction is {self.fraction}; give one between 0 and 1")
        if not 0 <= self.decay < 1:
            raise ValueError(f"method.decay is {self.decay}; give one in [0, 1)")
        if self.score == "explicit" and self.evaluated_on == "validation":
            raise ValueError(
                "method.evaluated_on is 'validation', but the explicit score evaluates nothing; set method.score to "
                "implicit or both"
            )

    @property
    def name(self) -> str:
        """What the method is called: `iwd over` the one that it is around."""
        return f"iwd over {wrapped(self).__name__.rpartition('.')[2]}"  # type: ignore[arg-type]

    @property
    def needs_validation(self) -> bool:
        """Whether the validation split is sampled from."""
        of_base: bool = super().needs_validation  # type: ignore[misc]
        return of_base or self.evaluated_on == "validation"


@functools.cache
def over(base: ModuleType) -> type[Any]:
    """Give the settings of IWD around a method, those of the method and of `Weighting` in one: `over(dm)(ipc=10)`.

    Args:
        base: Its module, such as `jaxdd.methods.dc`. Its batches need a field `real`, examples `[C, B]` of one class a
            row, its states a field `distilled`, and its method an `objective`.

    Returns:
        A frozen dataclass.
    """
    text = f"Settings of IWD over {base.__name__.rpartition('.')[2]}."
    fields = {"__module__": __name__, "__doc__": text}
    return dataclasses.dataclass(frozen=True)(type("Config", (Weighting, base.Config), fields))


def wrapped(config: MethodConfig) -> ModuleType:
    """Find the module of the method that IWD's settings are around."""
    return sys.modules[next(c.__module__ for c in type(config).__mro__ if c.__module__ != __name__)]


@functools.cache
def info_over(base: ModuleType) -> type[Any]:
    """Give the class of what a step tells: what the base tells, and about weights and scores.

    - `effective`: the effective sample size, `mean_c 1 / (B Σ_i w_i²)`: 1 for uniform weights, 1/B if one example has
      all of it; `least_effective`: the least among the classes.
    - `largest_score`: of the batch, before standardisation; 0 in a step that does not score.
    - `residual`: of the linear system of conjugate gradients, relative; 0 where none is solved.
    """
    return namedtuple("Info", (*base.Info._fields, "effective", "least_effective", "largest_score", "residual"))  # type: ignore[misc]


Config = over(dc)
Info = info_over(dc)


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        base: State of the method that is wrapped.
        scores: `[N]` standardised score of every real example, a moving average; 0, the mean, if it was never seen.
        steps: [] int32, the number of steps so far.
    """

    base: Any
    scores: Array
    steps: Array


class Batch(NamedTuple):
    """What a step draws: the batch of the method that is wrapped, and examples for the implicit score (or None)."""

    base: Any
    evaluated: Examples | None


def standardise(scores: Array) -> Array:
    """Bring scores `[..., B]` to mean 0 and standard deviation 1 along B; equal ones to 0. [our choice]."""
    centred = scores - jnp.mean(scores, axis=-1, keepdims=True)
    deviation = jnp.std(scores, axis=-1, keepdims=True)
    differ = deviation > 1e-6 * jnp.max(jnp.abs(scores), axis=-1, keepdims=True)  # by more than the mean is rounded
    return jnp.where(differ, centred / jnp.where(differ, deviation, 1), 0)


def best(scores: Array, count: int) -> Array:
    """Weigh the `count` highest of scores `[..., B]` equally, `[..., B]` with sum 1."""
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
    return jnp.where(rank < count, 1 / count, 0.0)


SELECTIONS: dict[str, Callable[[Array, Array, Any], Array]] = {
    "none": lambda key, z, config: jax.nn.softmax(z / config.temperature, axis=-1),
    "random_select": lambda key, z, config: best(jax.random.uniform(key, z.shape), kept(config.fraction, z)),
    "influence_select": lambda key, z, config: best(z, kept(config.fraction, z)),
    "influence_prune": lambda key, z, config: best(z, kept(1 - config.fraction, z)),
}
"""`(key, z [..., B], config) -> w [..., B]`, weights from standardised scores, with sum 1 within a class."""


def kept(fraction: float, z: Array) -> int:
    """Say how many of B examples are a fraction of them, at least 1."""
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
        [derived] from arXiv 2510.27253 by the implicit function theorem, where S minimises O. [our choice] to use it on
        the way there.
    """
    curvature = functools.partial(hvp, lambda images: objective(images, weights), images)
    u, residual = solve(curvature, jax.grad(value)(images))

    def along(weights: Array) -> Array:
        return jax.jvp(lambda images: objective(images, weights), (images,), (u,))[1]

    return -jax.grad(along)(weights), residual


def solve_identity(config: Any, curvature: Callable[[Array], Array], v: Array) -> tuple[Array, Array]:
    """Take λ in place of the Hessian: `v / λ`, with no residual. [our choice]."""
    del curvature
    return v / config.damping, jnp.zeros((), v.dtype)


def solve_cg(config: Any, curvature: Callable[[Array], Array], v: Array) -> tuple[Array, Array]:
    """Solve `(H + λ) u = v` by some steps of conjugate gradients; `‖(H + λ) u − v‖ / ‖v‖` tells how well."""

    def damped(x: Array) -> Array:
        return curvature(x) + config.damping * x

    u = jax.scipy.sparse.linalg.cg(damped, v, maxiter=config.iterations)[0]
    return u, jnp.linalg.norm(damped(u) - v) / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)


SOLVERS: dict[str, Callable[..., tuple[Array, Array]]] = {"identity": solve_identity, "cg": solve_cg}
"""A `Solve`, with the settings before its arguments."""


def build(model: Model, config: Any) -> Method:
    """Build IWD around the method that the settings belong to.

    Every `refresh` steps the examples of the batch are scored where all weigh the same: `s = −(e + i)`, standardised
    within each class, moves the average of each. Then they are weighed by their averages, and the method takes its step
    with them.

    Args:
        model: The network.
        config: What `over` gave.

    Returns:
        The method. At infinite temperature it takes the steps of the one that it wraps.

    Raises:
        ValueError: That method has no objective to differentiate in the weights.
    """
    module = wrapped(config)
    base = module.build(model, config)
    if base.objective is None:
        raise ValueError(
            f"{module.__name__} has no objective that depends on weights of real examples; IWD wraps dc, dm and ncfm"
        )
    losses, info_class = cross_entropy(model), info_over(module)
    uniform = config.selection == "none" and math.isinf(config.temperature)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        scores = jnp.zeros(sources.real.labels.shape, distilled.images.dtype)
        return State(base.init(key, distilled, sources), scores, jnp.zeros((), jnp.int32))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        evaluated = None
        if config.score != "explicit":
            real = sources.validation if config.evaluated_on == "validation" else sources.real
            assert real is not None
            rows = sampling.uniform(jax.random.fold_in(key, OWN_KEYS), real, config.evaluation_batch)
            evaluated = sampling.take(real, rows)
        return Batch(base.sample(key, step, sources), evaluated)

    def influence(key: Array, state: State, batch: Batch) -> tuple[Array, Array]:
        stored, weights = state.base.distilled, batch.base.real.weights
        total, residual = jnp.zeros_like(weights), jnp.zeros((), weights.dtype)

        def objective(images: Array, weights: Array) -> Array:
            real = batch.base.real._replace(weights=weights)
            return base.objective(stored._replace(images=images), state.base, batch.base._replace(real=real))

        def value(images: Array) -> Array:
            made = base.distilled(state.base._replace(distilled=stored._replace(images=images)))
            loss, steps = mean_loss(losses, all_items(made)), jnp.arange(config.evaluation_steps)
            lr = jnp.asarray(config.evaluation_lr)
            params, _ = inner_sgd(lambda params, _: loss(params), model.init(key), steps, lr, how=Unroll())
            assert batch.evaluated is not None
            return mean_loss(losses, batch.evaluated)(params)

        if config.score != "implicit":
            total += explicit_scores(lambda w: objective(stored.images, w), weights)
        if config.score != "explicit":
            solve = functools.partial(SOLVERS[config.solver], config)
            through_set, residual = implicit_scores(objective, value, stored.images, weights, solve)
            total += through_set
        return total if config.sign == "harmful" else -total, residual

    def step(key: Array, state: State, batch: Batch) -> tuple[State, NamedTuple]:
        real = batch.base.real
        score_key, select_key = jax.random.split(jax.random.fold_in(key, OWN_KEYS))
        old = state.scores[real.indices]

        def refreshed() -> tuple[Array, Array, Array]:
            raw, residual = influence(score_key, state, batch)
            found = standardise(raw)
            moved = jnp.where(old == 0, found, config.decay * old + (1 - config.decay) * found)
            return moved, jnp.max(jnp.abs(raw)), residual

        none = jnp.zeros((), old.dtype)
        due = state.steps % config.refresh == 0
        scores, largest, residual = jax.lax.cond(due, refreshed, lambda: (old, none, none))
        weights = real.weights
        if not uniform:
            weighted = SELECTIONS[config.selection](select_key, scores, config)
            weights = jnp.where(state.steps < config.warm_up, weights, weighted)
        base_state, info = base.step(key, state.base, batch.base._replace(real=real._replace(weights=weights)))
        effective = 1 / (jnp.sum(weights**2, axis=-1) * weights.shape[-1])
        new = State(base_state, state.scores.at[real.indices].set(scores), state.steps + 1)
        return new, info_class(*info, jnp.mean(effective), jnp.min(effective), largest, residual)

    def warn(info: dict[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if config.selection == "none" and info["least_effective"] < COLLAPSED:
            found["effective"] = (
                f"the weights of a class count {info['least_effective']:.1%} of its real examples: a few decide its "
                f"statistic; raise method.temperature above {config.temperature:g}"
            )
        if info["residual"] > 1:
            found["residual"] = (
                f"conjugate gradients left a relative residual of {info['residual']:.2g}, so that scores are not to be "
                f"trusted; raise method.damping above {config.damping:g}"
            )
        return found

    def inspect(state: State) -> dict[str, Array | Scores]:
        return {**base.inspect(state.base), "scores": Scores(state.scores)}

    return Method(
        base.prepare,
        init,
        sample,
        step,
        distilled=lambda state: base.distilled(state.base),
        warn=warn,
        inspect=inspect,
    )
