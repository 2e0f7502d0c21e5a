"""The dry run: what a run takes in memory and about how long, from a little of each stage, with nothing written.

Axis letters: E experts, T snapshots, P parameters.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdd.app.config import Config
from jaxdd.app.memory import Need, check_program, estimate, mebibytes, of_program
from jaxdd.app.run import kind_of, problem
from jaxdd.core.distilled import Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import device_memory, host_memory, over_devices, replicate
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.core.training import Recipe, batching
from jaxdd.data import Data
from jaxdd.driver import STEPS_PER_DISPATCH, advance, built, draw, for_steps, gather, with_cache
from jaxdd.evaluation import distilled_scorer, full_data_scorer, stacked
from jaxdd.experts.placement import Fetcher
from jaxdd.experts.timeline import timeline
from jaxdd.experts.training import trainer
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import initial_distilled

MORE_EPOCHS = 10
"""Epochs on a distilled set that are timed beyond the first."""
BATCHES = 5
"""Of real data, as many at most are an epoch that is timed: a step on them takes as long as one on all of it."""
PATIENCE = 0.3
"""Seconds after which a timed call is not repeated."""


class Timed(NamedTuple):
    """A stage: seconds that it will take by estimate, and what that rests on."""

    stage: str
    seconds: float
    basis: str


@over_devices()
def rehearse(config: Config) -> str:
    """Measure what a run takes in memory, and estimate how long it will take.

    Args:
        config: The run. Its workdir is neither read nor made.

    Returns:
        Two small tables, to be printed.

    Raises:
        SettingError: A setting that cannot work, or something does not fit into memory.
    """
    dataset, task = problem(config)
    needs = estimate(config, dataset, task)
    trajectories = untrained(config, dataset, task) if config.method.needs_experts else None
    sources, snapshots = gather(dataset, config.method, trajectories, config.experts.residency)
    if config.initial is None:
        key, lr = stage_key(config.seed, "initial"), config.evaluate.recipe.lr
        distilled = initial_distilled(key, task, sources, config.method, lr=lr)
    else:
        distilled = kind_of(config).initial_set(config.initial, dataset)
    times = [time_experts(config, dataset, task)] if config.method.needs_experts else []
    compiling = 0.0
    if config.method.steps:
        call, program, compiling = first_dispatch(config, task, distilled, for_steps(config.method, sources), snapshots)
        needs.append(of_program(config, program))
        check_program(needs[-1])
        share = config.method.steps / min(config.method.steps, STEPS_PER_DISPATCH)
        times.append(Timed("distillation", share * seconds_of(call), "one dispatch"))
    times = [each._replace(seconds=config.stages * each.seconds) for each in times]  # at most: the last one is largest
    times += time_scores(config, dataset, task, replicate(distilled))
    return "\n".join([*memory_lines(config, dataset, needs), "", *time_lines(config, times, compiling)])


def untrained(config: Config, dataset: Data, task: Task) -> Trajectories:
    """Make experts of the shapes of trained ones, on the host: first parameters that shrink from snapshot to snapshot.

    Were they all the same, distances between them would be zero and objectives divide by them.
    """
    line = timeline(config.experts, dataset.real_set().size)
    read = max(config.method.snapshots_needed, 1)
    keys = jax.random.split(stage_key(config.seed, "experts"), config.experts.count)
    start = np.asarray(jax.lax.map(lambda key: ravel_pytree(task.model.init(key))[0], keys))
    shrinking = np.linspace(1, 0.9, read, dtype=np.float32)
    return Trajectories(
        start[:, None] * shrinking[None, :, None],
        start * np.float32(0.9),
        line.lr[:read].astype(np.float32),
        line.time[:read].astype(np.float32),
        np.array(line.total_time, np.float32),
        line.steps[:read],
    )


def first_dispatch(
    config: Config, task: Task, distilled: Distilled, sources: Any, snapshots: np.ndarray | None
) -> tuple[Callable[[], Any], Any, float]:
    """Compile a stretch of outer steps as distillation does.

    Returns:
        What runs the first one, the compiled program, and the seconds that compilation took.
    """
    method = built(config.method, task)
    prepare_key, init_key, key = jax.random.split(stage_key(config.seed, "distill"), 3)
    state = jax.jit(method.init)(init_key, replicate(distilled), sources)
    if method.prepare is not None:
        sources = with_cache(method.prepare, prepare_key, sources)
    fetcher = Fetcher(partial(draw, method), snapshots, STEPS_PER_DISPATCH)
    names = fetcher.names(key, sources, 0)
    last = jnp.int32(min(config.method.steps, STEPS_PER_DISPATCH))

    def arguments() -> tuple[Any, ...]:  # the state is donated: each call needs its own
        return key, jax.tree.map(jnp.copy, state), sources, jnp.int32(0), last, fetcher.fetch(names)

    began = time.monotonic()
    program = compiled(advance(method), *arguments())
    return lambda: program(*arguments()), program, time.monotonic() - began


def time_experts(config: Config, dataset: Data, task: Task) -> Timed:
    """Estimate the training of all experts from a little of that of one on each device."""
    experts, devices = config.experts, jax.sharding.get_mesh().size
    real, longer = few(dataset.real_set(), experts.recipe.batch)
    keys = jax.random.split(stage_key(config.seed, "experts"), devices)

    def short(recipe: Recipe) -> float:
        line = timeline(dataclasses.replace(experts, recipe=recipe), real.size)
        return timed(trainer(task, recipe, real.size, len(line.steps), line.every), keys, real)

    group = experts.per_dispatch or devices
    rounds = -(-experts.count // group) * -(-group // devices)
    return Timed("experts", rounds * extrapolate(short, experts.recipe, 1, longer), two_epochs(real, experts.recipe))


def time_scores(config: Config, dataset: Data, task: Task, distilled: Distilled) -> list[Timed]:
    """Estimate validation and evaluation from epochs of one network on each device."""
    scoring, devices = config.evaluate, jax.sharding.get_mesh().size
    keys = jax.random.split(stage_key(config.seed, "evaluate"), devices)
    test, (real, longer) = replicate(dataset.test_set()), few(dataset.real_set(), scoring.full_recipe.batch)

    def small(recipe: Recipe) -> float:
        return timed(distilled_scorer(task, recipe), keys, stacked(distilled, devices), test)

    def full(recipe: Recipe) -> float:
        return timed(full_data_scorer(task, recipe), keys, real, test)

    rounds, stages = -(-scoring.networks // devices), config.stages
    one = extrapolate(small, scoring.recipe, MORE_EPOCHS)
    basis = f"{1 + MORE_EPOCHS} of {scoring.recipe.epochs} epochs"
    learned = (stages + 1) / 2  # of the whole set, by a network that learns every union: Σ p / P
    times = [Timed("evaluation", (learned + scoring.random_real) * rounds * one, basis)]
    if dataset.validation_set() is not None:
        asked = (1 + math.ceil(config.method.steps / scoring.validate_every)) * learned * (stages + 2) / 3
        times.insert(0, Timed("validation", asked * -(-scoring.validate_networks // devices) * one, basis))
    if scoring.full_data:
        seconds = rounds * extrapolate(full, scoring.full_recipe, 1, longer)
        times.append(Timed("full data", seconds, two_epochs(real, scoring.full_recipe)))
    return times


def few(real: RealSet, batch: int) -> tuple[RealSet, float]:
    """Put an epoch of `BATCHES` batches of real examples on the devices, and say how many of them make a whole one."""
    steps, each = batching(real.size, batch)
    inputs, targets = (jax.tree.map(lambda x: x[: BATCHES * each], tree) for tree in (real.inputs, real.targets))
    part = real._replace(inputs=inputs, targets=targets)
    return replicate(part), steps / batching(part.size, batch)[0]


def two_epochs(real: RealSet, recipe: Recipe) -> str:
    """Say what was timed."""
    return f"2 epochs of {batching(real.size, recipe.batch)[0]} batches"


def extrapolate(seconds: Callable[[Recipe], float], recipe: Recipe, more: int, longer: float = 1.0) -> float:
    """Estimate the seconds of a recipe.

    Args:
        seconds: Time some epochs of it.
        recipe: The recipe.
        more: Epochs that are timed beyond the first.
        longer: How many of the epochs that are timed make one.

    Returns:
        The seconds of the first, and for the others what those beyond it took.
    """
    first, many = (seconds(dataclasses.replace(recipe, epochs=epochs)) for epochs in (1, 1 + more))
    return first + (longer * recipe.epochs - 1) * max(many - first, 0) / more


def compiled(function: Any, *arguments: Any) -> Any:
    """Compile a jitted function for such arguments."""
    return function.lower(*arguments).compile()


def timed(function: Any, *arguments: Any) -> float:
    """Time a call of a jitted function, in seconds, its compilation left out."""
    return seconds_of(partial(compiled(function, *arguments), *arguments))


def seconds_of(call: Callable[[], Any]) -> float:
    """Time a call of a compiled program: the fastest one of `PATIENCE` seconds, for the first of short ones is slow."""
    found: list[float] = []
    while sum(found) < PATIENCE:
        began = time.monotonic()
        jax.block_until_ready(call())
        found.append(time.monotonic() - began)
    return min(found)


def memory_lines(config: Config, dataset: Data, needs: list[Need]) -> list[str]:
    """Write what takes up how much, beside the limits."""
    rows = [(need.what, mebibytes(need.device), mebibytes(need.host)) for need in needs]
    rows.append(("limit", mebibytes(device_memory()), mebibytes(host_memory())))
    return [
        f"dry run of {config.method.title} on {dataset.name}: nothing is trained, nothing is written",
        "",
        f"{'memory, MiB':24} {'device':>12} {'host':>12}",
        *(f"{what:24} {device:>12} {host:>12}" for what, device, host in rows),
        "A device holds the data beside all else; what an outer step takes up includes data and experts.",
    ]


def time_lines(config: Config, times: list[Timed], compiling: float) -> list[str]:
    """Write what takes how long."""
    rows = [f"{stage:24} {seconds:>12.1f}  from {basis}" for stage, seconds, basis in times]
    staged = f", in each of {config.stages} stages" if config.stages > 1 else ""
    return [
        f"{config.method.steps} outer steps{staged}, compiled in {compiling:.1f} s",
        "",
        f"{'time, s':24} {'about':>12}",
        *rows,
        f"{'in all':24} {compiling + sum(each.seconds for each in times):>12.1f}",
        "Not counted: compilation of the other stages, checkpoints, the report. Experts that are there take no time.",
    ]
