"""The recorded trainings that influence is estimated along: which snapshots, how far apart, and where they end.

Axis letters: E experts, T snapshots, P parameters.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxdd.core.tasks import Task, check_task
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Trajectories
from jaxdd.influence.config import InfluenceConfig
from jaxdd.influence.estimators import ESTIMATORS
from jaxdd.influence.problem import Path
from jaxdd.types import AnyArray

LARGEST_DENSE = 10_000  # parameters up to which the Hessian is formed
LARGEST_RETRAINED = 5_000  # examples up to which each is left out once


def at(params: AnyArray) -> Trajectories:
    """Make trajectories of parameters alone, `[P]` or `[E, P]`: nothing recorded but where training ended."""
    params = jnp.atleast_2d(jnp.asarray(params))
    zero = jnp.zeros((1,), params.dtype)
    return Trajectories(params[:, None], params, zero, zero, zero[0], jnp.zeros((1,), jnp.int32))


def mean_over_experts(
    function: Callable[[Path], AnyArray], trajectories: Trajectories, config: InfluenceConfig, *, recorded: bool
) -> np.ndarray:
    """Average `function(path)` over the experts; `recorded`: refuse snapshots that do not lead to the end."""
    snapshots, end = trajectories.recorded, trajectories.final
    config = settled(config, trajectories.time, trajectories.total_time, recorded=recorded)
    if config.end == "last":
        snapshots, end = snapshots[:, :-1], snapshots[:, -1]
    steps = intervals(trajectories.time, trajectories.total_time, config, recorded=recorded)
    snapshots = snapshots[:, :: config.stride]
    effective = jnp.asarray(steps / (1 - config.momentum), end.dtype)
    experts = range(trajectories.num_experts)
    found = [function(Path(jnp.asarray(snapshots[e]), effective, jnp.asarray(end[e]))) for e in experts]
    return np.mean([np.asarray(values, np.float64) for values in found], axis=0)


def settled(
    config: InfluenceConfig, time: AnyArray, total_time: AnyArray | float, *, recorded: bool = True
) -> InfluenceConfig:
    """Replace `end="auto"` by what it stands for; arguments as for `intervals`."""
    if config.end != "auto":
        return config
    steps = np.diff(np.append(np.asarray(time, np.float64), float(total_time)))
    whole = not recorded or len(steps) == 1 or steps[-1] <= 2 * steps[:-1].max()
    return dataclasses.replace(config, end="final" if whole else "last")


def intervals(
    time: AnyArray, total_time: AnyArray | float, config: InfluenceConfig, *, recorded: bool = True
) -> np.ndarray:
    """Return the training time from each snapshot in use to the next, the last to the parameters that are judged.

    Args:
        time: `[T]` training time at each snapshot, a sum of learning rates.
        total_time: [] that at the end of the training.
        config: Of it `stride` and `end` are used.
        recorded: Whether the estimator reads what happened on the way.

    Returns:
        `[T']`.

    Raises:
        ValueError: Nothing is recorded before the end, one snapshot alone is read, or the recording stops long before
            the end.
    """
    config = settled(config, time, total_time, recorded=recorded)
    times, total = np.asarray(time, np.float64), float(total_time)
    if recorded and total > 0 and config.end == "final" and len(times[:: config.stride]) == 1:
        raise SettingError(
            f"one of {len(times)} snapshots of each expert is read (influence.stride {config.stride}), but the "
            "estimator reads the way from the first parameters to the last; record more (experts.keep), lower the "
            "stride, or choose endpoint"
        )
    if config.end == "last":
        times, total = times[:-1], float(times[-1])
    steps = np.diff(np.append(times, total))
    if recorded and not steps.sum() > 0:
        raise SettingError(
            f"the trajectories record no training time before the parameters that are judged (end={config.end!r}), but "
            "the snapshots on the way are needed; only endpoint does without"
        )
    if recorded and len(steps) > 1 and steps[-1] > 2 * steps[:-1].max():
        raise SettingError(
            f"the last snapshot was taken at training time {times[-1]:.4g} of {total:.4g}, too early to stand for all "
            "that follows; judge the last snapshot (influence.end 'last'), or record the whole training (experts.keep)"
        )
    return np.diff(np.append(times[:: config.stride], total))


def check_separable(task: Task, batch: int | None = None) -> None:
    """Refuse what is no task, or one whose examples have no losses of their own and no batch to have them in.

    Raises:
        ValueError: It is either; or examples with losses of their own are to share batches.
    """
    check_task(task)
    if not task.separable and batch is None:
        raise SettingError(
            f"the task {task.name!r} has losses that depend on the whole batch; set influence.batch to the batch that "
            "the experts were trained with (self_influence needs a task whose losses are separable)"
        )
    if task.separable and batch is not None:
        raise SettingError(
            f"influence.batch is {batch}, and in the task {task.name!r} the loss of an example does not depend on the "
            "others; leave it out"
        )


def check(task: Task, config: InfluenceConfig, size: int, time: AnyArray, total_time: AnyArray | float) -> None:
    """Refuse what cannot be computed, before the networks are trained.

    Args:
        task: What the network does.
        config: Estimator and settings.
        size: N.
        time: See `intervals`.
        total_time: See `intervals`.

    Raises:
        ValueError: See `intervals`; or losses that are not separable; a dense Hessian of too many parameters; or
            leave_one_out of too many examples or with a stride.
    """
    check_separable(task, config.batch)
    if config.batch is not None and config.batch > size:
        raise SettingError(f"influence.batch is {config.batch} for {size} training examples; set it to {size} or less")
    if config.batch is not None and config.curvature is not None:
        raise SettingError(
            f"influence.curvature is {config.curvature}, and among fewer examples batches are others; leave it out"
        )
    if config.batch is not None and config.solver.batch is not None:
        raise SettingError(
            f"solver.batch is {config.solver.batch}, and the Hessian is that of whole batches of {config.batch}; leave "
            "it out"
        )
    if config.estimator == "leave_one_out" and size > LARGEST_RETRAINED:
        raise SettingError(
            f"leave_one_out would train {size} times and more; choose another estimator, or at most "
            f"{LARGEST_RETRAINED} examples"
        )
    if config.estimator == "leave_one_out" and config.stride > 1:
        raise SettingError(
            f"influence.stride is {config.stride}, but leave_one_out trains again with the steps of the recorded "
            "training; set it to 1"
        )
    if config.estimator == "endpoint" and config.solver.name == "explicit" and task.size > LARGEST_DENSE:
        raise SettingError(
            f"solver.name is 'explicit' for a network of {task.size} parameters, whose Hessian would have that many "
            f"rows; it is formed up to {LARGEST_DENSE}, use cg beyond"
        )
    intervals(time, total_time, config, recorded=ESTIMATORS[config.estimator].along_path)
