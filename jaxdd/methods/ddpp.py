"""DDPP: dataset distillation using parameter pruning (Li et al. 2023, arXiv 2209.14609), MTT with a mask.

Parameters that the student cannot match are left out of the distance.

Axis letters: P parameters.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.matching import parameter_distance
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.methods import mtt
from jaxdd.methods.base import Method
from jaxdd.methods.mtt import Metric, Pair
from jaxdd.settings import Range
from jaxdd.types import Array, Params

LEAST_KEPT = 0.1
"""A mask that keeps less than this fraction of the parameters is warned of."""


@dataclasses.dataclass(frozen=True)
class Config(mtt.Config):
    """Settings of DDPP: those of MTT, and the mask."""

    name: ClassVar[str] = "ddpp"
    rule: Literal["quantile", "threshold", "depth"] = "quantile"
    """Which parameters are dropped. quantile: the fraction `amount` that is hardest to match, largest |θ̂ − θ*|.
    threshold: those with |θ̂ − θ*| above `amount` times the root mean square of |θ^t − θ*|. depth: the first fraction
    `amount` in the order of the layers, however well they match, as a control."""
    amount: Annotated[float | None, Range(0, infinite=True)] = None
    """How much is dropped, see `rule`; 0 (for threshold, infinity) drops nothing. By default 0.05, for threshold 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "threshold" and not self.dropped > 0:
            raise SettingError(f"method.amount is {self.amount}; a threshold of 0 drops every parameter, raise it")
        if self.rule != "threshold" and not 0 <= self.dropped < 1:
            raise SettingError(f"method.amount is {self.amount}; the fraction of dropped parameters must lie in [0, 1)")

    @property
    def dropped(self) -> float:
        """`amount`, or its default for the rule."""
        if self.amount is None:
            return 3.0 if self.rule == "threshold" else 0.05
        return self.amount

    def build(self, task: Task) -> Method:
        """Build DDPP for a task: MTT on the parameters that the mask keeps; see `pruned_distance`."""
        return with_mask(task, self)


Mask = Callable[[Array, Array], Array]
"""`(δ = θ̂ − θ* [P], Δ = θ^t − θ* [P]) -> m [P]`, 1 for parameters that are kept and 0 for others."""


def by_quantile(task: Task, amount: float) -> Mask:
    """Keep the fraction 1 − amount of the parameters with the smallest |δ|."""
    del task

    def mask(gap: Array, path: Array) -> Array:
        del path
        return (jnp.abs(gap) <= jnp.quantile(jnp.abs(gap), 1 - amount)).astype(gap.dtype)

    return mask


def by_threshold(task: Task, amount: float) -> Mask:
    """Keep the parameters with `|δ| ≤ amount · rms(Δ)`."""
    del task

    def mask(gap: Array, path: Array) -> Array:
        return (jnp.abs(gap) <= amount * jnp.sqrt(jnp.mean(path**2))).astype(gap.dtype)

    return mask


def by_depth(task: Task, amount: float) -> Mask:
    """Keep all but the first fraction `amount` of the parameters in the order of the layers.

    The first number in the name of a tensor is taken for its depth, as in the networks of this package. The last linear
    layer comes after them, and what else has no number before, such as the first convolution of a ResNet.
    """
    sizes = task.tensors

    def depth(name: str) -> float:
        number = re.search(r"\d+", name)
        return int(number.group()) if number else np.inf if re.search(r"(^|/)linear/", name) else -1

    layer = np.repeat([depth(name) for name in sizes], list(sizes.values()))
    rank = np.empty(len(layer), int)
    rank[np.argsort(layer, kind="stable")] = np.arange(len(layer))
    kept = (rank >= round(amount * len(layer))).astype(np.float32)

    def mask(gap: Array, path: Array) -> Array:
        del path
        return jnp.asarray(kept, gap.dtype)

    return mask


RULES: dict[str, Callable[[Task, float], Mask]] = {
    "quantile": by_quantile,
    "threshold": by_threshold,
    "depth": by_depth,
}
"""Name to `(task, amount) -> mask`."""


def pruned_distance(mask: Mask) -> Callable[[Params, Array, Pair], Array]:
    """Build the distance `‖m ⊙ (θ̂ − θ*)‖² / ‖m ⊙ (θ^t − θ*)‖²` with a mask m of 0 and 1 that is constant to gradients.

    Args:
        mask: Gives m.

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


def with_mask(task: Task, config: Config) -> Method:
    """Build DDPP for a task, see `mtt.matching_trajectories`. It logs the distance on all parameters, and `kept`."""
    mask = RULES[config.rule](task, config.dropped)

    def observe(importance: Params, student: Array, pair: Pair) -> dict[str, Array]:
        start, target = pair.start.params, pair.target.params
        kept = jnp.mean(mask(student - target, start - target))
        return {"distance": mtt.unweighted(importance, student, pair), "kept": kept}

    base = mtt.matching_trajectories(task, config, Metric(pruned_distance(mask), observe=observe))

    def warn(info: Mapping[str, float]) -> dict[str, str]:
        found = base.warn(info)
        if info["kept"] < LEAST_KEPT:
            found["kept"] = (
                f"only {info['kept']:.1%} of the parameters are matched; with method.rule={config.rule!r} "
                f"{'raise' if config.rule == 'threshold' else 'lower'} method.amount={config.dropped:g}"
            )
        return found

    return base._replace(warn=warn)
