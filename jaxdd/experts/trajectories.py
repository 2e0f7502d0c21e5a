"""Expert trajectories on the device, and which part of them a step of distillation looks at.

Axis letters: E experts, T snapshots, P parameters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.errors import SettingError
from jaxdd.settings import AtLeast, Settings
from jaxdd.types import AnyArray, Array, PyTree, Snapshots


class Trajectories(NamedTuple):
    """Recorded SGD trajectories of E networks on the real data, all under one learning rate schedule.

    Attributes:
        snapshots: `[E, T, P]` flattened parameters θ^t; None where they are kept elsewhere.
        final: `[E, P]` the parameters after the last epoch.
        lr: `[T]` learning rate η of the step taken at each snapshot.
        time: `[T]` training time so far, the sum of the learning rates of the steps before each snapshot.
        total_time: [] the sum of the learning rates of all steps.
        steps: `[T]` int32, the number of SGD steps before each snapshot.
    """

    snapshots: AnyArray | None
    final: AnyArray
    lr: AnyArray
    time: AnyArray
    total_time: AnyArray
    steps: AnyArray

    @property
    def recorded(self) -> AnyArray:
        """The snapshots `[E, T, P]`.

        Raises:
            ValueError: They are kept elsewhere.
        """
        if self.snapshots is None:
            raise SettingError(
                "this needs the experts' snapshots on the devices; set experts.residency to device if they fit"
            )
        return self.snapshots

    @property
    def num_experts(self) -> int:
        """E, the number of experts."""
        return self.final.shape[0]

    @property
    def num_snapshots(self) -> int:
        """T, the number of snapshots of each."""
        return self.lr.shape[0]

    def first(self, count: int) -> "Trajectories":
        """Keep the first snapshots only."""
        return self._replace(
            snapshots=self.recorded[:, :count], lr=self.lr[:count], time=self.time[:count], steps=self.steps[:count]
        )


def named_snapshots(batch: PyTree) -> list[Snapshots]:
    """List the `Snapshots` of a method's batch."""
    nodes = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, Snapshots))
    return [node for node in nodes if isinstance(node, Snapshots)]


def with_params(batch: PyTree, params: Sequence[Array]) -> PyTree:
    """Fill in the parameters of every `Snapshots` of a batch, in the order of `named_snapshots`."""
    given = iter(params)
    return jax.tree.map(
        lambda node: node._replace(params=next(given)) if isinstance(node, Snapshots) else node,
        batch,
        is_leaf=lambda node: isinstance(node, Snapshots),
    )


@dataclasses.dataclass(frozen=True)
class Window(Settings, path="window"):
    """Which snapshots a step may start from, and how that moves as distillation goes on.

    At step `it` starts are drawn uniformly from `lower … U − 1`, `U = min(start + ⌊(end − start) · it / grow⌋, end)`;
    `lower` stays at `first` (expanding), or keeps its distance to U (sliding).

    References:
        [published] expanding: DATM, Guo et al. 2024, arXiv 2310.05773, as its code computes it. [our choice] sliding,
        for the unpublished law of Inf-Match's progressive timestep sampling.
    """

    first: Annotated[int, AtLeast(0)] = 0
    """First snapshot that may be drawn."""
    start: Annotated[int, AtLeast(1)] = 16
    """Snapshots below this one may be drawn at the beginning."""
    end: Annotated[int | None, AtLeast(1)] = None
    """Snapshots below this one may be drawn in the end; `start` by default: the window stays as it is."""
    grow: Annotated[int | None, AtLeast(1)] = None
    """Outer step at which the window has reached its end; the last step by default."""
    kind: Literal["expanding", "sliding"] = "expanding"
    """expanding keeps the early snapshots in; sliding leaves them behind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first < self.start <= self.last:
            raise SettingError(
                f"window has first={self.first}, start={self.start}, end={self.end}; it needs 0 <= first < start <= end"
            )

    @property
    def last(self) -> int:
        """One past the last snapshot that is ever drawn."""
        return self.start if self.end is None else self.end

    def sample(self, key: Array, step: Array, steps: int, shape: tuple[int, ...] = ()) -> Array:
        """Draw snapshot indices for outer step `step` of `steps`, int32 of the given shape."""
        # In integers: XLA may divide floats by a constant inexactly, which moves the floor.
        moved = (self.last - self.start) * step // (self.grow or max(steps - 1, 1))
        upper = jnp.minimum(self.start + moved, self.last)
        lower = self.first if self.kind == "expanding" else upper - (self.start - self.first)
        return jax.random.randint(key, shape, lower, upper, jnp.int32)
