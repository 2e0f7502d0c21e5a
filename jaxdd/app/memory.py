"""Whether a run fits into memory, asked before any work: data and experts by shapes, an outer step by its program.

Axis letters: E experts, T snapshots, P parameters.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdd.app.config import Config
from jaxdd.core.parallel import device_memory, host_memory, over_devices, program_memory
from jaxdd.core.tasks import Task
from jaxdd.data import Data
from jaxdd.errors import SettingError
from jaxdd.experts.placement import resolve
from jaxdd.experts.timeline import timeline

FLOAT = 4
"""Bytes of a parameter."""


class Need(NamedTuple):
    """What something takes up.

    Attributes:
        what: What it is.
        device: Bytes on every device.
        host: Bytes in the memory of the machine.
        remedy: The settings that lower it.
    """

    what: str
    device: int
    host: int
    remedy: str


def estimate(config: Config, dataset: Data, task: Task) -> list[Need]:
    """Estimate what a run takes up besides its outer step, from shapes alone.

    Returns:
        The data first, which is there all the time; then what joins it for a while: a network in training, and for a
        method with experts the experts while they are trained, and while they are read.
    """
    needs = [_data(dataset), _network(task)]
    if config.method.needs_experts:
        needs += [_experts_in_training(config, dataset, task), _experts_read(config, task)]
    return needs


def _data(dataset: Data) -> Need:
    splits = (dataset.real_set(), dataset.validation_set(), dataset.test_set())
    arrays = {id(x): x for x in jax.tree.leaves(splits)}  # the splits share their normalization
    size = sum(x.nbytes for x in arrays.values())
    return Need("data", size, size, "data.image_size")


def _network(task: Task) -> Need:
    size = 3 * FLOAT * _parameters(task)  # itself, its gradient and its momentum
    return Need("a network in training", size, 0, "model.width or model.depth")


def _experts_in_training(config: Config, dataset: Data, task: Task) -> Need:
    """Measure the experts `[n, T, P]` of a dispatch."""
    with over_devices() as mesh:
        group = config.experts.per_dispatch or mesh.size
        rounds = -(-group // mesh.size)
    recorded = len(timeline(config.experts, dataset.real_set().size).steps) + 1  # and the last parameters
    expert = FLOAT * recorded * _parameters(task)
    remedy = "experts.keep, experts.per_dispatch or model.width, or raise experts.snapshot_every"
    return Need("experts in training", rounds * expert, rounds * mesh.size * expert, remedy)


def _experts_read(config: Config, task: Task) -> Need:
    """Measure the snapshots `[E, T, P]` that the method reads, wherever they are kept."""
    count, read = config.experts.count, max(config.method.snapshots_needed, 1)
    snapshots = np.broadcast_to(np.float32(0), (count, read, _parameters(task)))  # takes up nothing
    final = FLOAT * count * _parameters(task)
    with over_devices() as mesh:
        on_device = resolve(config.experts.residency, snapshots, mesh) == "device"
        held = snapshots.nbytes if count % mesh.size else snapshots.nbytes // mesh.size
    remedy = "experts.count, model.width" + (" or the method's window" if hasattr(config.method, "window") else "")
    if on_device:
        remedy += ", or set experts.residency to host"
    return Need("experts in distillation", final + on_device * held, final + snapshots.nbytes, remedy)


def _parameters(task: Task) -> int:
    """Count P from shapes: `task.size` would make an array of that many."""
    return sum(task.tensors.values())


def of_program(config: Config, compiled: Any) -> Need:
    """Measure a compiled stretch of outer steps, its data and experts included: what it reads, gives and needs between.

    Args:
        config: The run.
        compiled: What `jaxdd.driver.advance(method).lower(…).compile()` gives.
    """
    names = [
        name for name in ("ipc", "real_batch", "batch", "unroll") if getattr(config.method, name, None) is not None
    ]
    settings = [f"method.{name}" for name in names] + ["model.width"]
    return Need("an outer step", program_memory(compiled), 0, f"{', '.join(settings[:-1])} or {settings[-1]}")


def check_fits(needs: Sequence[Need]) -> None:
    """Refuse what does not fit into memory beside the data.

    Args:
        needs: The data first.

    Raises:
        SettingError: Naming what takes up how much of how much, and the settings that lower it.
    """
    data = needs[0]
    for need in needs:
        if need is not data:
            need = Need(f"{need.what} and the data", need.device + data.device, need.host + data.host, need.remedy)
        _check(need, need.device, device_memory(), "on a device of")
        _check(need, need.host, host_memory(), "in this machine's memory of")


def check_program(need: Need) -> None:
    """Refuse a compiled program that does not fit, see `of_program`.

    Raises:
        SettingError: As for `check_fits`.
    """
    _check(need, need.device, device_memory(), "on a device of")


def _check(need: Need, size: int, limit: int, where: str) -> None:
    if size > limit:
        raise SettingError(
            f"{need.what} would take up {mebibytes(size)} MiB {where} {mebibytes(limit)} MiB; lower {need.remedy}"
        )


def mebibytes(size: int) -> str:
    """Write bytes as MiB: 0.3, 12.0, 4096.0."""
    return f"{size / 2**20:.1f}"
