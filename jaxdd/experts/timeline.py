"""When the snapshots of an expert are taken, and the settings of experts.

Axis letters: T snapshots.
"""

import dataclasses
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.training import Recipe, batching, schedule_of
from jaxdd.errors import SettingError
from jaxdd.experts.placement import Residency
from jaxdd.settings import AtLeast, Settings


@dataclasses.dataclass(frozen=True)
class ExpertsConfig(Settings, path="experts"):
    """How experts are trained, recorded and stored."""

    count: Annotated[int, AtLeast(1)] = 4
    """E, number of experts; more can be added to a store later."""
    recipe: Recipe = Recipe(
        epochs=20, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
    )
    """Training of one expert."""
    snapshot_every: Annotated[int | None, AtLeast(1)] = 2
    """SGD steps between snapshots, whatever a validation split makes of the length of an epoch (the field's epoch of
    CIFAR-10 has 196, in batches of 256); one snapshot per epoch if None."""
    keep: Annotated[int | None, AtLeast(1)] = None
    """Keep only this many snapshots, the earliest; all if None. The last parameters are kept always."""
    storage: Literal["float32", "bfloat16_delta"] = "float32"
    """float32; or the first snapshot in float32 and every other one's distance from it in bfloat16: half the size, each
    parameter's distance rounded to within a 256th. Experts that are kept in memory only are not rounded."""
    per_dispatch: Annotated[int | None, AtLeast(1)] = None
    """Experts trained per dispatch, the most that a kill can lose; one per device by default."""
    directory: str | None = None
    """Folder of the store, to share experts between runs; `experts` in the workdir by default."""
    residency: Residency = "auto"
    """Where distillation reads them: on the device; on the host, those of the next steps fetched while the devices
    compute; auto, on the devices if they take up at most half of the memory. The results are the same."""


class Timeline(NamedTuple):
    """When snapshots are taken, and the training time at each; what `Trajectories` says of the schedule, on the host.

    Attributes:
        every: SGD steps between snapshots.
        steps: `[T]` int32 SGD steps before each snapshot.
        lr: `[T]` learning rate of the step taken at each snapshot (of the last step, for one at the very end).
        time: `[T]` sum of the learning rates of the steps before each.
        total_time: sum of the learning rates of all steps.
    """

    every: int
    steps: np.ndarray
    lr: np.ndarray
    time: np.ndarray
    total_time: float


def timeline(config: ExpertsConfig, size: int) -> Timeline:
    """Lay out the snapshots of an expert that trains on `size` examples."""
    steps_per_epoch = batching(size, config.recipe.batch)[0]
    total = config.recipe.epochs * steps_per_epoch
    every = config.snapshot_every or steps_per_epoch
    count = min(total // every + 1, config.keep or total + 1)
    schedule = schedule_of(config.recipe, total)
    lr = np.array(jax.vmap(lambda t: jnp.asarray(schedule(t)))(jnp.arange(total)), np.float64)
    steps = np.arange(count, dtype=np.int32) * every
    elapsed = np.concatenate([[0.0], np.cumsum(lr)])
    return Timeline(every, steps, lr[np.minimum(steps, total - 1)], elapsed[steps], float(elapsed[-1]))


def check_length(config: ExpertsConfig, size: int, needed: int) -> None:
    """Refuse, before any training, experts that are too short for a method.

    Args:
        config: The experts to be trained.
        size: Number of training examples.
        needed: Snapshots that the method reads (`config.method.snapshots_needed`).

    Raises:
        ValueError: Fewer snapshots than needed, with the settings that change it.
    """
    line = timeline(config, size)
    have = len(line.steps)
    if have < needed:
        epochs = -(-(needed - 1) * line.every // batching(size, config.recipe.batch)[0])
        raise SettingError(
            f"the method reads {needed} snapshots of every expert, but experts of {config.recipe.epochs} epochs on "
            f"{size} training examples with "
            f"snapshot_every={config.snapshot_every} and keep={config.keep} have {have}; {epochs} epochs "
            f"(experts.recipe.epochs) with experts.keep of {needed} or more will do, or a lower method.window"
        )
