"""IADD: importance-aware adaptive distillation (Li et al. 2024, arXiv 2401.15863), MTT with a weight per parameter.

The distance between student and target counts each network parameter with a weight W, learned with the distilled set
by gradients of the same loss. As printed, nothing keeps W from growing where matching is easy and vanishing where it
is not, which lowers the loss without a better set: collapse. `Config.constraint` says what holds W.

Axis letters: P parameters, L tensors of the network, T starts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdd.core.matching import parameter_distance
from jaxdd.core.tasks import Task
from jaxdd.methods import mtt
from jaxdd.methods.base import Method, Optimizer
from jaxdd.methods.mtt import Metric, Pair, State
from jaxdd.settings import Above, Positive
from jaxdd.types import Array, Params, Scores

COLLAPSED = 0.01
"""W has collapsed if it counts less than this fraction of the parameters, or"""
UNCOUNTED = 0.1
"""if the weighted distance is less than this part of MTT's."""


@dataclasses.dataclass(frozen=True)
class Config(mtt.Config):
    """Settings of IADD: those of MTT, and how W is learned."""

    name: ClassVar[str] = "iadd"
    constraint: Literal["none", "mean_one", "log_barrier", "per_tensor", "ratio", "bounded"] = "bounded"
    """What keeps W from collapsing; see `CONSTRAINTS`. none is the published method."""
    importance_optimizer: Optimizer = Optimizer("sgd", 1e-3, 0.0)
    """Optimizer of W. Gradients are multiplied by the number of weights first, so that learning rates carry over
    between networks: with sgd, learning rate times steps of 0.05 to 0.5 changes W visibly and slowly."""
    per_start: bool = False
    """Learn a W of its own for every snapshot that a student may start from, in place of one for all. Each is learned
    in the few steps that start there: its learning rate has to be as many times higher. With adam or momentum, steps
    that start elsewhere move it too."""
    barrier: Annotated[float, Positive] = 1.0
    """β, strength of `log_barrier`."""
    bound: Annotated[float, Above(1)] = 2.0
    """w, `bounded` keeps every weight within 1/w … w."""

    def build(self, task: Task) -> Method:
        """Build IADD for a task: MTT in the weighted metric, with W logged and watched; see `importance_metric`."""
        return with_importance(task, self)


class Constraint(NamedTuple):
    """What W is as a function of the variables a that are learned.

    Attributes:
        weights: `(a, sizes [L], config) -> W [P]`.
        first: The value of every a at which W = 1.
        per_tensor: Whether there is one a for a tensor, in place of one for a parameter.
        relative: Whether W weighs the expert's path too, see `parameter_distance`.
        penalty: `(a, p [P], config) -> scalar`, added to the distance; p is each parameter's share of the expert's
            path, `Δ_j² / Σ Δ²`.
    """

    weights: Callable[[Array, np.ndarray, Config], Array]
    first: float = 0.0
    per_tensor: bool = False
    relative: bool = False
    penalty: Callable[[Array, Array, Config], Array | float] = lambda a, p, config: 0.0


def tensor_weights(a: Array, sizes: np.ndarray) -> Array:
    """Weight every parameter of tensor l by `P e^{a_l} / Σ_k P_k e^{a_k}`, one on average: `[L] -> [P]`."""
    p = jax.nn.softmax(a + jnp.log(sizes)) * (sizes.sum() / sizes)
    return jnp.repeat(p, sizes, total_repeat_length=int(sizes.sum()))


CONSTRAINTS: dict[str, Constraint] = {
    "none": Constraint(lambda a, sizes, config: a, first=1.0),
    "mean_one": Constraint(lambda a, sizes, config: a.size * jax.nn.softmax(a)),
    "log_barrier": Constraint(
        lambda a, sizes, config: jnp.exp(a), penalty=lambda a, p, config: -config.barrier * jnp.vdot(p, a)
    ),
    "per_tensor": Constraint(lambda a, sizes, config: tensor_weights(a, sizes), per_tensor=True),
    "ratio": Constraint(lambda a, sizes, config: a, first=1.0, relative=True),
    "bounded": Constraint(lambda a, sizes, config: config.bound ** jnp.tanh(a), relative=True),
}
"""The distance is `‖W ⊙ (θ̂ − θ*)‖² / ‖θ^t − θ*‖²`, with

- none:        W = a, as printed. Its optimum is W = 0: `∂/∂W_j = 2 W_j δ_j² / Σ Δ²` shrinks every weight, that of a
               parameter that is hard to match fastest.
- mean_one:    `W = P softmax(a)`. Its optimum has all of W on a parameter that does not move and so is matched, such as
               the bias of a convolution before a normalization.
- log_barrier: `W = e^a`, and `−β Σ_j p_j log W_j` added, where `p_j = Δ_j² / Σ Δ²` is the parameter's share of the
               expert's path: one that does not move is left alone. Its optimum is `W_j² = β Δ_j² / (2 δ_j²)`.
- per_tensor:  `W_l = P e^{a_l} / Σ_k P_k e^{a_k}`, one weight for every tensor, one on average over parameters.
- ratio:       W = a, and W in the denominator too: the scale of W does not matter.
- bounded:     `W = w^{tanh a}` in 1/w … w, and W in the denominator too: at least the fraction
               `4 w⁴ / (1 + w⁴)²` of the parameters counts (0.22 for w = 2), however W is learned.

[published] none. [our choice] the others. [derived] the gradient, the optima and the lower bound.
"""


def effective(weights: Array) -> Array:
    """Compute the fraction of the parameters that W counts, `(Σ W²)² / (P Σ W⁴)`: 1/P for one, 0 for none."""
    largest = jnp.maximum(jnp.max(jnp.abs(weights)), jnp.finfo(weights.dtype).tiny)
    squares = (weights / largest) ** 2  # of any scale, W⁴ would underflow
    return jnp.sum(squares) ** 2 / (weights.size * jnp.maximum(jnp.sum(squares**2), jnp.finfo(weights.dtype).tiny))


def top_share(values: Array) -> Array:
    """Compute the share of `Σ v²`, of `values [P]`, that its largest hundredth holds; 1 if all are 0."""
    squares = (values / jnp.maximum(jnp.max(jnp.abs(values)), jnp.finfo(values.dtype).tiny)) ** 2
    largest, total = jnp.sum(jax.lax.top_k(squares, -(-squares.size // 100))[0]), jnp.sum(squares)
    return jnp.where(total > 0, largest / jnp.where(total > 0, total, 1), 1)


def importance_metric(config: Config, sizes: np.ndarray) -> Metric:
    """Build IADD's metric, `‖W ⊙ (θ̂ − θ^{t+M})‖² / ‖θ^t − θ^{t+M}‖²` under a constraint of W, W = 1 at first.

    Args:
        config: Names the constraint.
        sizes: `[L]` sizes of the network's tensors.

    Returns:
        The metric; its importance is a, `[T, P]` or `[T, L]`, T = 1 unless `per_start`. It observes

        - distance: MTT's, as if W were 1;
        - counted: the weighted distance without penalty, in units of that: 1 for W = 1; where it falls and the distance
          does not, W hides what does not match;
        - effective: `(Σ W²)² / (P Σ W⁴)`, the fraction of the parameters that W counts;
        - top_share: the share of the weighted distance that a hundredth of the parameters holds.

    References:
        [published] arXiv 2401.15863 for no constraint.
    """
    constraint = CONSTRAINTS[config.constraint]
    learned = len(sizes) if constraint.per_tensor else int(sizes.sum())

    def at(importance: Params, pair: Pair) -> Array:
        return importance[pair.start.position if config.per_start else 0]

    def weighted(w: Array, student: Array, pair: Pair) -> Array:
        return parameter_distance(student, pair.target.params, pair.start.params, w, relative=constraint.relative)

    def distance(importance: Params, student: Array, pair: Pair) -> Array:
        a = at(importance, pair)
        path = (pair.start.params - pair.target.params) ** 2
        penalty = constraint.penalty(a, path / jnp.sum(path), config)
        return weighted(constraint.weights(a, sizes, config), student, pair) + penalty

    def observe(importance: Params, student: Array, pair: Pair) -> dict[str, Array]:
        w = constraint.weights(at(importance, pair), sizes, config)
        plain = mtt.unweighted(importance, student, pair)
        return {
            "distance": plain,
            "counted": weighted(w, student, pair) / jnp.maximum(plain, jnp.finfo(plain.dtype).tiny),
            "effective": effective(w),
            "top_share": top_share(w * (student - pair.target.params)),
        }

    return Metric(
        distance,
        lambda: jnp.full((config.window.last if config.per_start else 1, learned), constraint.first, float),
        optax.chain(optax.scale(learned), config.importance_optimizer.build()),
        observe,
    )


def with_importance(task: Task, config: Config) -> Method:
    """Build IADD for a task, see `mtt.matching_trajectories`."""
    named = task.tensors
    sizes = np.array(list(named.values()))
    base = mtt.matching_trajectories(task, config, importance_metric(config, sizes))

    def inspect(state: State) -> dict[str, Array | Scores]:
        learned = state.variables.importance[config.window.first if config.per_start else 0 :]
        w = jax.vmap(lambda a: CONSTRAINTS[config.constraint].weights(a, sizes, config))(learned)
        quantiles = jnp.quantile(w, jnp.array([0.01, 0.5, 0.99]))
        layers = zip(named, jnp.split(w, np.cumsum(sizes)[:-1], axis=1), strict=True)
        return {
            **dict(zip(("W_q01", "W_median", "W_q99"), quantiles, strict=True)),
            **{f"W {name}": part for name, part in layers},
        }

    remedy = "method.bound" if config.constraint == "bounded" else "choose method.constraint bounded"

    def warn(info: Mapping[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if info["effective"] < COLLAPSED or info["counted"] < UNCOUNTED:
            found["collapse"] = (
                f"the importance of the parameters has collapsed: it counts {info['effective']:.2%} of them and "
                f"{info['counted']:.2%} of the distance, so that the loss no longer tells how well students match; "
                f"lower method.importance_optimizer.lr or {remedy}"
            )
        return found

    return base._replace(warn=warn, inspect=inspect)
