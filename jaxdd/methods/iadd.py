"""IADD: importance-aware adaptive distillation (Li et al. 2024, arXiv 2401.15863), MTT with a weight per parameter.

The distance between student and target counts each network parameter with a weight W, learned with the distilled set
by gradients of the same loss. As printed, nothing keeps W from growing where matching is easy and vanishing where it
is not, which lowers the loss without a better set: collapse. `Config.constraint` says what holds W.

Axis letters: P parameters, L tensors of the network, T starts.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdd.core.matching import parameter_distance
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.methods import mtt
from jaxdd.methods.base import Method, Optimizer
from jaxdd.methods.mtt import Metric, Pair, State
from jaxdd.settings import Above, AtLeast, Positive
from jaxdd.types import Array, Params, Scores

COLLAPSED = 0.01
"""W has collapsed if it counts less than this fraction of the parameters, or"""
UNCOUNTED = 0.1
"""if the weighted distance is less than this part of MTT's."""


@dataclasses.dataclass(frozen=True)
class Config(mtt.Config):
    """Settings of IADD: those of MTT, and how W is learned."""

    name: ClassVar[str] = "iadd"
    constraint: Literal["none", "mean_one", "log_barrier", "per_tensor", "ratio", "bounded", "low_rank"] = "bounded"
    """What keeps W from collapsing; see `CONSTRAINTS`. none is the published method. per_tensor and low_rank learn far
    fewer numbers than there are parameters, for large networks."""
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
    """w, `bounded` and `low_rank` keep every weight within 1/w … w."""
    rank: Annotated[int, AtLeast(1)] = 1
    """r of `low_rank`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_start and self.path == "chord":
            raise SettingError(
                "method.per_start learns a W for every recorded snapshot, and method.path is 'chord', where starts "
                "lie between them: leave one of the two out"
            )

    def build(self, task: Task) -> Method:
        """Build IADD for a task: MTT in the weighted metric, with W logged and watched; see `importance_metric`."""
        return with_importance(task, self)


Shapes = Sequence[tuple[int, ...]]


class Constraint(NamedTuple):
    """What W is as a function of the variables a that are learned.

    Attributes:
        weights: `(a, shapes, config) -> W [P]`, with the L shapes of the network's tensors.
        first: `(shapes, config) -> a` at which W = 1.
        relative: Whether W weighs the expert's path too, see `parameter_distance`.
        penalty: `(a, p [P], config) -> scalar`, added to the distance; p is each parameter's share of the expert's
            path, `Δ_j² / Σ Δ²`.
    """

    weights: Callable[[Array, Shapes, Config], Array]
    first: Callable[[Shapes, Config], Array] = lambda shapes, config: jnp.zeros(sizes_of(shapes).sum())
    relative: bool = False
    penalty: Callable[[Array, Array, Config], Array | float] = lambda a, p, config: 0.0


def sizes_of(shapes: Shapes) -> np.ndarray:
    """Return the sizes `[L]` of tensors."""
    return np.array([math.prod(shape) for shape in shapes])


def tensor_weights(a: Array, shapes: Shapes) -> Array:
    """Weight every parameter of tensor l by `P e^{a_l} / Σ_k P_k e^{a_k}`, one on average: `[L] -> [P]`."""
    sizes = sizes_of(shapes)
    p = jax.nn.softmax(a + jnp.log(sizes)) * (sizes.sum() / sizes)
    return jnp.repeat(p, sizes, total_repeat_length=int(sizes.sum()))


def low_rank(a: Array, shapes: Shapes, rank: int) -> Array:
    """Multiply factors `U_l [m_l, r]` and `V_l [n_l, r]` of every tensor l: `[r Σ (m_l + n_l)] -> [P]`.

    A tensor is a matrix `[m, n]` whose columns are its last axis, the outputs.
    """
    products, start = [], 0
    for rows, columns in map(_as_matrix, shapes):
        middle, end = start + rank * rows, start + rank * (rows + columns)
        products.append((a[start:middle].reshape(rows, rank) @ a[middle:end].reshape(columns, rank).T).ravel())
        start = end
    return jnp.concatenate(products)


def first_factors(shapes: Shapes, config: Config) -> Array:
    """Return factors whose product is 0 and moves: U = 0, and V the first r cosines over the columns."""
    parts: list[np.ndarray] = []
    for rows, columns in map(_as_matrix, shapes):
        angles = np.pi * np.outer(np.arange(columns) + 0.5, np.arange(config.rank)) / columns
        parts += [np.zeros(rows * config.rank), np.cos(angles).ravel()]
    return jnp.asarray(np.concatenate(parts), float)


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = shape[-1] if shape else 1
    return math.prod(shape) // columns, columns


CONSTRAINTS: dict[str, Constraint] = {
    "none": Constraint(lambda a, shapes, config: a, first=lambda shapes, config: jnp.ones(sizes_of(shapes).sum())),
    "mean_one": Constraint(lambda a, shapes, config: a.size * jax.nn.softmax(a)),
    "log_barrier": Constraint(
        lambda a, shapes, config: jnp.exp(a), penalty=lambda a, p, config: -config.barrier * jnp.vdot(p, a)
    ),
    "per_tensor": Constraint(
        lambda a, shapes, config: tensor_weights(a, shapes), first=lambda shapes, config: jnp.zeros(len(shapes))
    ),
    "ratio": Constraint(
        lambda a, shapes, config: a, first=lambda shapes, config: jnp.ones(sizes_of(shapes).sum()), relative=True
    ),
    "bounded": Constraint(lambda a, shapes, config: config.bound ** jnp.tanh(a), relative=True),
    "low_rank": Constraint(
        lambda a, shapes, config: config.bound ** jnp.tanh(low_rank(a, shapes, config.rank)),
        first=first_factors,
        relative=True,
    ),
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
- low_rank:    the same, with `a = U Vᵀ` of rank r in every tensor, taken for a matrix whose columns are the outputs.

What is learned takes as many float32 as there are parameters, P, beside experts that take P for every snapshot; L for
per_tensor; r Σ (m_l + n_l) for low_rank. Of the default `ViT` on CIFAR-10 that is 810 890, 103 and, for r = 1,
20 164: 3.2 MB, 0.4 kB and 81 kB; of ResNet-18 11 173 962, 62 and 45 976. Times 2 with momentum, 3 with adam, and times
the starts with `per_start`.

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


def importance_metric(config: Config, shapes: Shapes) -> Metric:
    """Build IADD's metric, `‖W ⊙ (θ̂ − θ^{t+M})‖² / ‖θ^t − θ^{t+M}‖²` under a constraint of W, W = 1 at first.

    Args:
        config: Names the constraint.
        shapes: Of the network's L tensors.

    Returns:
        The metric; its importance is a with a leading axis T, which is 1 unless `per_start`. It observes

        - distance: MTT's, as if W were 1;
        - counted: the weighted distance without penalty, in units of that: 1 for W = 1; where it falls and the distance
          does not, W hides what does not match;
        - effective: `(Σ W²)² / (P Σ W⁴)`, the fraction of the parameters that W counts;
        - top_share: the share of the weighted distance that a hundredth of the parameters holds.

    References:
        [published] arXiv 2401.15863 for no constraint.
    """
    constraint = CONSTRAINTS[config.constraint]
    first = constraint.first(shapes, config)

    def at(importance: Params, pair: Pair) -> Array:
        return importance[pair.start.position if config.per_start else 0]

    def weighted(w: Array, student: Array, pair: Pair) -> Array:
        return parameter_distance(student, pair.target.params, pair.start.params, w, relative=constraint.relative)

    def distance(importance: Params, student: Array, pair: Pair) -> Array:
        a = at(importance, pair)
        path = (pair.start.params - pair.target.params) ** 2
        penalty = constraint.penalty(a, path / jnp.sum(path), config)
        return weighted(constraint.weights(a, shapes, config), student, pair) + penalty

    def observe(importance: Params, student: Array, pair: Pair) -> dict[str, Array]:
        w = constraint.weights(at(importance, pair), shapes, config)
        plain = mtt.unweighted(importance, student, pair)
        return {
            "distance": plain,
            "counted": weighted(w, student, pair) / jnp.maximum(plain, jnp.finfo(plain.dtype).tiny),
            "effective": effective(w),
            "top_share": top_share(w * (student - pair.target.params)),
        }

    return Metric(
        distance,
        lambda: jnp.tile(constraint.first(shapes, config), (config.window.last if config.per_start else 1, 1)),
        optax.chain(optax.scale(first.size), config.importance_optimizer.build()),
        observe,
    )


def with_importance(task: Task, config: Config) -> Method:
    """Build IADD for a task, see `mtt.matching_trajectories`."""
    shapes = [*task.shapes.values()]
    base = mtt.matching_trajectories(task, config, importance_metric(config, shapes))

    def inspect(state: State) -> dict[str, Array | Scores]:
        learned = state.variables.importance[config.window.first if config.per_start else 0 :]
        w = jax.vmap(lambda a: CONSTRAINTS[config.constraint].weights(a, shapes, config))(learned)
        quantiles = jnp.quantile(w, jnp.array([0.01, 0.5, 0.99]))
        layers = zip(task.shapes, jnp.split(w, np.cumsum(sizes_of(shapes))[:-1], axis=1), strict=True)
        return {
            **dict(zip(("W_q01", "W_median", "W_q99"), quantiles, strict=True)),
            **{f"W {name}": part for name, part in layers},
        }

    remedy = "method.bound" if config.constraint in ("bounded", "low_rank") else "choose method.constraint bounded"

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
