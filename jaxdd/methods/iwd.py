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
from jaxdd.methods.base import MethodConfig, Sources, softened
from jaxdd.types import Array, Examples, Method, Model, Scores
from jaxdd.unroll import Unroll, inner_sgd

COLLAPSED = 0.05
"""Weights have collapsed if a batch counts as fewer examples of a class than this fraction of it."""


@dataclasses.dataclass(frozen=True)
class Weighting:
    """How real examples are weighted: what IWD adds to the settings of the method that it wraps."""

    score: Literal["explicit", "implicit", "both"] = "explicit"
    """Influence of an example: through the real statistic that it is part of; through the distilled set, on a network
    that is trained on it; or the sum."""
    sign: Literal["beneficial", "harmful"] = "beneficial"
    """Which examples count more: those whose weight lowers the objective, or, those whose weight raises it."""
    temperature: float = 2.0
    """τ, in standard deviations of the scores within a class: infinite for uniform weights, the base method."""
    selection: Literal["none", "random_select", "influence_select", "influence_prune"] = "none"
    """Ablations with weights 0 or equal ones in place of the softmax: keep a random half of each batch and class, or
    the half of highest score, or drop the lowest; `fraction` says how much."""
    fraction: float = 0.5
    """What random_select and influence_select keep, and influence_prune drops, of each class in a batch."""
    warm_up: int = 100
    """Steps with uniform weights at the beginning, long enough for the set to resemble most of each class: with wrong
    labels, a set that starts from wrong images finds these beneficial."""
    refresh: int = 1
    """R, steps between computations of scores."""
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
    """Where they come from; validation makes use of labels that can be trusted where those of train cannot."""

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
        for name in ("fraction", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"method.{name} is {getattr(self, name)}; give a fraction in [0, 1)")

    @property
    def name(self) -> str:
        """What the method is called: `iwd over` the one that it is around."""
        return f"iwd over {wrapped(self).__name__.rpartition('.')[2]}"  # type: ignore[arg-type]

    @property
    def needs_validation(self) -> bool:
        """Whether the validation split is sampled from."""
        return self.score != "explicit" and self.evaluated_on == "validation"


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
    """Give the class of what a step tells: what the base tells, and `effective`, the effective sample size.

    `effective = mean_c 1 / (B Σ_i w_i²)`: 1 for uniform weights, 1/B if one example has all of it.
    """
    return namedtuple("Info", (*base.Info._fields, "effective"))  # type: ignore[misc]


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
    return jnp.where(deviation > 0, centred / jnp.where(deviation > 0, deviation, 1), 0)


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


def implicit_scores(
    objective: Callable[[Array, Array], Array],
    value: Callable[[Array], Array],
    images: Array,
    weights: Array,
    solve: Callable[[Callable[[Array], Array], Array], Array],
) -> Array:
    """Compute the influence of every example through the distilled set on an evaluation V of it.

    `i_i = −⟨(∂²O/∂S² + λ)⁻¹ ∇_S V, ∂²O/∂S∂w_i⟩`, one mixed derivative for all examples.

    Args:
        objective: `(images, weights [C, B]) -> O`.
        value: `images -> V`. Not O itself, whose gradient vanishes at its minimum and with it the score.
        images: S.
        weights: `[C, B]`.
        solve: `(x -> (∂²O/∂S²) x, v) -> (∂²O/∂S² + λ)⁻¹ v`.

    Returns:
        `[C, B]`; negative for an example whose weight lowers V.

    References:
        [derived] from arXiv 2510.27253 by the implicit function theorem.
    """
    curvature = functools.partial(hvp, lambda images: objective(images, weights), images)
    u = solve(curvature, jax.grad(value)(images))

    def along(weights: Array) -> Array:
        return jax.jvp(lambda images: objective(images, weights), (images,), (u,))[1]

    return -jax.grad(along)(weights)


SOLVERS: dict[str, Callable[[Any], Callable[[Callable[[Array], Array], Array], Array]]] = {
    "identity": lambda config: lambda curvature, v: v / config.damping,
    "cg": lambda config: (
        lambda curvature, v: jax.scipy.sparse.linalg.cg(
            lambda x: curvature(x) + config.damping * x, v, maxiter=config.iterations
        )[0]
    ),
}
"""Approximations of `(H + λ)⁻¹ v`. [our choice]"""


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
            real = sources.validation if config.needs_validation else sources.real
            assert real is not None
            # The base draws from the key itself, as it does alone.
            rows = sampling.uniform(jax.random.fold_in(key, 1), real, config.evaluation_batch)
            evaluated = sampling.take(real, rows)
        return Batch(base.sample(key, step, sources), evaluated)

    def influence(key: Array, state: State, batch: Batch) -> Array:
        stored, weights = state.base.distilled, batch.base.real.weights

        def objective(images: Array, weights: Array) -> Array:
            real = batch.base.real._replace(weights=weights)
            return base.objective(stored._replace(images=images), state.base, batch.base._replace(real=real))

        def value(images: Array) -> Array:
            made = base.distilled(state.base._replace(distilled=stored._replace(images=images)))
            loss = mean_loss(losses, softened(made, jnp.arange(len(made.images))))
            steps = jnp.arange(config.evaluation_steps)
            lr = jnp.asarray(config.evaluation_lr)
            params, _ = inner_sgd(lambda params, _: loss(params), model.init(key), steps, lr, how=Unroll())
            assert batch.evaluated is not None
            return mean_loss(losses, batch.evaluated)(params)

        parts = {
            "explicit": lambda: explicit_scores(lambda w: objective(stored.images, w), weights),
            "implicit": lambda: implicit_scores(
                objective, value, stored.images, weights, SOLVERS[config.solver](config)
            ),
        }
        asked = list(parts) if config.score == "both" else [config.score]
        total = jnp.sum(jnp.stack([standardise(parts[name]()) for name in asked]), axis=0)
        return total if config.sign == "harmful" else -total

    def step(key: Array, state: State, batch: Batch) -> tuple[State, NamedTuple]:
        real = batch.base.real
        score_key, select_key = jax.random.split(jax.random.fold_in(key, 1))
        old = state.scores[real.indices]

        def refreshed() -> Array:
            found = standardise(influence(score_key, state, batch))
            return jnp.where(old == 0, found, config.decay * old + (1 - config.decay) * found)

        scores = jax.lax.cond(state.steps % config.refresh == 0, refreshed, lambda: old)
        weights = real.weights
        if not uniform:
            weighted = SELECTIONS[config.selection](select_key, scores, config)
            weights = jnp.where(state.steps < config.warm_up, weights, weighted)
        base_state, info = base.step(key, state.base, batch.base._replace(real=real._replace(weights=weights)))
        effective = jnp.mean(1 / jnp.sum(weights**2, axis=-1)) / weights.shape[-1]
        new = State(base_state, state.scores.at[real.indices].set(scores), state.steps + 1)
        return new, info_class(*info, effective)

    def warn(info: dict[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if info["effective"] < COLLAPSED:
            found["effective"] = (
                f"the weights of the real examples count {info['effective']:.1%} of them: a few decide the objective; "
                f"raise method.temperature above {config.temperature:g}"
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
        objective=lambda distilled, state, batch: base.objective(distilled, state.base, batch.base),
    )
