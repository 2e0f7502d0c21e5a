"""DDPP: dataset distillation using parameter pruning (Li et al. 2023, arXiv 2209.14609), MTT with a mask.

Parameters that the student cannot match are left out of the distance.

Axis letters: P parameters.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.matching import parameter_distance
from jaxdd.methods import mtt
from jaxdd.methods.mtt import Metric, Pair, State
from jaxdd.trajectories import tensors
from jaxdd.types import Array, Method, Model, Params

LEAST_KEPT = 0.1
"""A mask that keeps less than this fraction of the parameters is warned of."""


@dataclasses.dataclass(frozen=True)
class Config(mtt.Config):
    """Settings of DDPP: those of MTT, and the mask."""

    rule: Literal["quantile", "threshold", "depth"] = "quantile"
    """Which parameters are dropped. quantile: the fraction `amount` that is hardest to match, largest |θ̂ − θ*|.
    threshold: those with |θ̂ − θ*| above `amount` times the root mean square of |θ^t − θ*|. depth: the first fraction
    `amount` in the order of the layers, however well they match, as a control."""
    amount: float | None = None
    """How much is dropped, see `rule`; 0 (for threshold, infinity) drops nothing. By default 0.05, for threshold 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "threshold" and not self.dropped > 0:
            raise ValueError(f"method.amount is {self.amount}; a threshold of 0 drops every parameter, raise it")
        if self.rule != "threshold" and not 0 <= self.dropped < 1:
            raise ValueError(f"method.amount is {self.amount}; the fraction of dropped parameters must lie in [0, 1)")

    @property
    def dropped(self) -> float:
        """`amount`, or its default for the rule."""
        if self.amount is None:
            return 3.0 if self.rule == "threshold" else 0.05
        return self.amount


class Info(NamedTuple):
    """What a person wants to see at each step.

    Attributes:
        loss: The distance on the parameters that are kept.
        student_lr: α.
        student_loss: The student's loss before step N.
        distance: The distance on all parameters.
        kept: The fraction of them that is kept.
    """

    loss: Array
    student_lr: Array
    student_loss: Array
    distance: Array
    kept: Array


def by_quantile(gap: Array, path: Array, amount: float) -> Array:
    """Keep the fraction 1 − amount of the parameters with the smallest |δ|: `[P]` of 0 and 1."""
    del path
    return (jnp.abs(gap) <= jnp.quantile(jnp.abs(gap), 1 - amount)).astype(gap.dtype)


def by_threshold(gap: Array, path: Array, amount: float) -> Array:
    """Keep the parameters with `|δ| ≤ amount · rms(Δ)`: `[P]` of 0 and 1."""
    return (jnp.abs(gap) <= amount * jnp.sqrt(jnp.mean(path**2))).astype(gap.dtype)


def depth_mask(model: Model, amount: float) -> np.ndarray:
    """Keep all but the first fraction `amount` of the parameters in the order of the layers: `[P]` of 0 and 1.

    The first number in the name of a tensor is taken for its depth, as in the networks of this package; what has none,
    the last linear layer, comes after them.
    """
    sizes = tensors(model)
    layer = np.repeat(
        [int(n.group()) if (n := re.search(r"\d+", name)) else np.iinfo(int).max for name in sizes],
        list(sizes.values()),
    )
    rank = np.empty(len(layer), int)
    rank[np.argsort(layer, kind="stable")] = np.arange(len(layer))
    return (rank >= round(amount * len(layer))).astype(np.float32)


def pruned_distance(mask: Callable[[Array, Array], Array]) -> Callable[[Params, Array, Pair], Array]:
    """Build the distance `‖m ⊙ (θ̂ − θ*)‖² / ‖m ⊙ (θ^t − θ*)‖²` with a mask m of 0 and 1 that is constant to gradients.

    Args:
        mask: `(δ = θ̂ − θ* [P], Δ = θ^t − θ* [P]) -> m [P]`.

    Returns:
        A metric's `distance`.

    References:
        [published] the idea: parameters that are hard to match are pruned from both, arXiv 2209.14609. [our choice]
        the rules by which they are found.
    """

    def distance(importance: Params, student: Array, pair: Pair) -> Array:
        del importance
        start, target = pair.start.params, pair.target.params
        kept = jax.lax.stop_gradient(mask(student - target, start - target))
        return parameter_distance(student, target, start, kept, relative=True)

    return distance


def build(model: Model, config: Config) -> Method:
    """Build DDPP for a model: MTT on the parameters that the mask keeps; see `mtt.build`."""
    rules: dict[str, Callable[[], Callable[[Array, Array], Array]]] = {
        "quantile": lambda: lambda gap, path: by_quantile(gap, path, config.dropped),
        "threshold": lambda: lambda gap, path: by_threshold(gap, path, config.dropped),
        "depth": lambda: partial(
            lambda kept, gap, path: jnp.asarray(kept, gap.dtype), depth_mask(model, config.dropped)
        ),
    }
    mask = rules[config.rule]()

    def observe(importance: Params, student: Array, pair: Pair) -> dict[str, Array]:
        start, target = pair.start.params, pair.target.params
        kept = jnp.mean(mask(student - target, start - target))
        return {"distance": mtt.unweighted(importance, student, pair), "kept": kept}

    base = mtt.build(model, config, Metric(pruned_distance(mask), observe=observe, info=Info))

    def warn(info: dict[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if info["kept"] < LEAST_KEPT:
            found["kept"] = (
                f"only {info['kept']:.1%} of the parameters are matched; with method.rule={config.rule!r} "
                f"{'raise' if config.rule == 'threshold' else 'lower'} method.amount={config.dropped:g}"
            )
        return found

    return base._replace(warn=warn)


__all__ = ["Config", "Info", "State", "build"]
