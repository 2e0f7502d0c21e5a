"""The pipeline: data → experts → distill → evaluate → report. Every stage continues from what the workdir holds."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdd.app import captioned, labeled
from jaxdd.app.config import Config
from jaxdd.app.kind import Finished, Kind
from jaxdd.app.memory import check_fits, estimate
from jaxdd.app.signals import StopSignal
from jaxdd.app.workdir import Progress, identity, opened, record, versions
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import over_devices
from jaxdd.core.progressive import check_stages
from jaxdd.core.tasks import Task
from jaxdd.data import Data
from jaxdd.data.pairs import PREFIX
from jaxdd.driver import Outcome, check_initial, distill, method_for
from jaxdd.errors import Interrupted, SettingError
from jaxdd.evaluation import Measures, evaluate
from jaxdd.experts import Expert, ExpertStore, check_length, describe, train_experts
from jaxdd.experts.timeline import timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.files import write_json
from jaxdd.io.hosts import anywhere, from_first, is_first
from jaxdd.io.integrity import digest_of_arrays
from jaxdd.report.metrics import Metrics, read
from jaxdd.report.tracking import Wandb
from jaxdd.stages import Stage, StagedOutcome, in_stages

log = logging.getLogger("jaxdd")


class Job(NamedTuple):
    """A run under way: what it works on, where it writes, and whether it should stop.

    Attributes:
        config: Its settings.
        dataset: The real data.
        task: What the networks do.
        run: The sha256 of all that determines its results, see `jaxdd.app.workdir.identity`.
        metrics: Where curves go.
        done: What was computed before.
        stop: Whether a signal asked it to stop.
    """

    config: Config
    dataset: Data
    task: Task
    run: str
    metrics: Metrics
    done: Progress
    stop: StopSignal

    @property
    def workdir(self) -> Path:
        """The folder that it writes into."""
        return Path(self.config.workdir)


@over_devices()
def run(config: Config) -> dict[str, Any]:
    """Run the whole pipeline, continuing whatever the workdir already holds, on all devices or those that are set.

    Args:
        config: The run.

    Returns:
        The content of `results.json`.

    Raises:
        SettingError: A setting that cannot work, before any training; or a workdir that holds another run, or that
            another process uses.
        Diverged: Training or distillation diverged; what was computed before is kept.
        Interrupted: SIGINT or SIGTERM; the same call continues.
        OSError: The workdir cannot be written to, or the disk is full; what was computed before is kept.
    """
    if config.dry_run:
        raise SettingError("dry_run is True, and this is the run itself; call jaxdd.app.rehearsal.rehearse(config)")
    workdir = Path(config.workdir)
    dataset, task = problem(config)
    known_by = identity(config, dataset)
    with (
        opened(workdir, config, known_by),
        _metrics(config, known_by) as metrics,
        StopSignal() as stop,
    ):
        done = Progress(workdir / "progress.json", known_by)
        job = Job(config, dataset, task, known_by, metrics, done, stop)
        log.info("%r; a network of %d parameters; %d devices", dataset, task.size, jax.sharding.get_mesh().size)
        found = in_stages(task, config.method, config.stages, config.evaluate.recipe, partial(_distill, job))
        results = _results(job, found, _evaluate(job, found))
        from_first(lambda: _write_outputs(job, found.outcomes[-1], results))
    return results


def _metrics(config: Config, run: str) -> Metrics:
    first, workdir = is_first(), Path(config.workdir)
    tracker = Wandb(workdir, run, record(config)) if first and config.log == "wandb" else None
    return Metrics(workdir, enabled=first, tracker=tracker)


def kind_of(config: Config) -> Kind:
    """Return what runs on the data of a configuration do in their own way."""
    return captioned if config.data.name.startswith(PREFIX) else labeled


def problem(config: Config) -> tuple[Data, Task]:
    """Load the data of a run and say what its networks do, all of it checked.

    Raises:
        SettingError: A setting that cannot work.
    """
    dataset, task = kind_of(config).problem(config)
    check(config, dataset, task)
    return dataset, task


def check(config: Config, dataset: Data, task: Task) -> None:
    """Refuse what cannot work, before any training.

    Raises:
        SettingError: Settings that the method refuses, more images per class than there are, a validation split that
            lacks a class and that the method learns from, an initial set that cannot be read, experts too short for
            the method, or more data or experts than the memory holds.
    """
    check_fits(estimate(config, dataset, task))
    check_stages(config.stages, config.method.ipc, "method.ipc is that of all")
    method_for(config.method, task, dataset)
    if config.initial is not None:
        check_initial(kind_of(config).initial_set(config.initial, dataset), config.method, task)
    if config.method.needs_experts:
        check_length(config.experts, dataset.real_set().size, config.method.snapshots_needed)


def expert_store(config: Config, dataset: Data) -> ExpertStore:
    """Open the store of a run's experts, or make it.

    Raises:
        SettingError: It holds other experts.
    """
    directory = Path(config.experts.directory or Path(config.workdir) / "experts")
    return ExpertStore(directory, describe(dataset, kind_of(config).network(config), config.experts, config.seed))


def _store_of(job: Job, stage: Stage) -> ExpertStore:
    """Open the store of a stage's experts: the run's in the first one, and in a later one a folder in the workdir."""
    config = job.config
    if stage.earlier is None:
        return expert_store(config, job.dataset)
    description = {
        **describe(job.dataset, kind_of(config).network(config), config.experts, stage.seed(config.seed)),
        "after": {"set": digest_of_arrays(stage.earlier), "stages": stage.number - 1, "recipe": config.evaluate.recipe},
    }
    return ExpertStore(job.workdir / "experts" / _folder(stage), description)


def _folder(stage: Stage) -> str:
    return f"stage_{stage.number}"


def _experts(job: Job, stage: Stage) -> Trajectories:
    config, count = job.config, job.config.experts.count
    store = _store_of(job, stage)
    clock = time.monotonic()

    def on_expert(index: int, _: Expert) -> None:
        nonlocal clock
        now = time.monotonic()
        job.done.add("experts", now - clock)
        clock = now
        if anywhere(job.stop()):
            raise Interrupted(f"expert training stopped after expert {index + 1} of {count}")

    log.info("experts: %d of %d are in %s", count - len(store.missing(count)), count, store.directory)
    trajectories = train_experts(
        stage.task,
        job.dataset,
        config.experts,
        seed=stage.seed(config.seed),
        store=store,
        snapshots=max(config.method.snapshots_needed, 1),
        on_expert=on_expert,
        progress=not config.quiet,
    )
    steps = timeline(config.experts, job.dataset.real_set().size).steps
    if stage.earlier is None:
        _write_losses(job.metrics, steps.tolist(), store.losses(count))
    return trajectories


def _write_losses(metrics: Metrics, steps: list[int], losses: np.ndarray) -> None:
    """Record the mean training loss of all experts over their SGD steps, from losses `[E, T]`, unless it is there."""
    # All at once: experts come one after another, and the lines of a stage follow its steps.
    if metrics.enabled and [line["step"] for line in read(metrics.path, "experts")] != steps[1:]:
        metrics.rewind("experts", -1)
        for step, loss in zip(steps[1:], losses.mean(0)[1:], strict=True):  # nothing precedes the first snapshot
            metrics.write(step, "experts", loss=loss)


def _distill(job: Job, stage: Stage) -> Outcome:
    config, metrics, kind = job.config, job.metrics, kind_of(job.config)
    steps, checkpoints = config.method.steps, job.workdir / "checkpoints"
    trajectories = _experts(job, stage) if config.method.needs_experts else None
    before = (stage.number - 1) * (steps + 1)  # curves go on from stage to stage, each from its first set on
    initial = None if config.initial is None else kind.initial_set(config.initial, job.dataset)
    if stage.earlier is not None:
        checkpoints = checkpoints / _folder(stage)
        choosing = None
        if trajectories is not None:
            line = timeline(config.experts, job.dataset.real_set().size)
            choosing = expert_store(config, job.dataset).load(1, line, 1)  # those of the first stage
        initial = stage.first_set(job.dataset, trajectories, config.seed, config.evaluate.recipe.lr, choosing)

    def on_resume(step: int) -> None:
        where = f" of stage {stage.number}" if config.stages > 1 else ""
        log.info("distill: %s%s", "from the first step" if step < 0 else f"from the checkpoint of step {step}", where)
        for curve in ("distill", "validate", "inspect", "set"):
            if step < steps:  # else what follows is of later stages
                metrics.rewind(curve, before + step)

    def on_metrics(step: int, curve: str, **values: Any) -> None:
        metrics.write(before + step, curve, **kind.inspected(job.dataset, values))

    def on_set(step: int, distilled: Distilled) -> None:
        numbers, png = kind.shown(job.dataset, stage.config, distilled)
        metrics.write(before + step, "set", **numbers)
        metrics.show(before + step, "set", "images", png)

    outcome = distill(
        stage.task,
        job.dataset,
        stage.config,
        trajectories,
        initial=initial,
        seed=config.seed,
        evaluate=config.evaluate,
        residency=config.experts.residency,
        checkpoints=Checkpoints(checkpoints, job.run),
        on_resume=on_resume,
        on_metrics=on_metrics,
        on_set=on_set,
        on_warning=log.warning,
        stop=job.stop,
        progress=not config.quiet,
    )
    if outcome.step == 0 < config.method.steps:
        log.warning(
            "the best set on the validation split is that of step 0: distillation never improved on the first set, "
            "which is what was kept; lower the method's learning rates, or give it more steps, in a new workdir"
        )
    return outcome


def _evaluate(job: Job, found: StagedOutcome) -> dict[str, dict[str, Any]]:
    config, done = job.config.evaluate, job.done
    done.score(digest_of_arrays(found.distilled))
    clock = time.monotonic()
    total = 1 + config.random_real + config.full_data

    def leave(when: str) -> None:
        if anywhere(job.stop()) and len(done.accuracies) < total:
            raise Interrupted(f"evaluation stopped {when}")

    def on_result(name: str, measures: Measures) -> None:
        nonlocal clock
        now = time.monotonic()
        done.add("evaluate", now - clock, **{name: measures})
        clock = now
        leave(f"after {name}")

    leave("before its start")
    return evaluate(
        found.task,
        job.dataset,
        found.distilled,
        config,
        compared=job.task,
        ipc=job.config.method.ipc,
        seed=job.config.seed,
        known=done.accuracies,
        on_result=on_result,
        progress=not job.config.quiet,
    )


def _results(job: Job, found: StagedOutcome, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    method, outcome, title = job.config.method, found.outcomes[-1], job.config.method.title
    staged: dict[str, Any] = {}
    if job.config.stages > 1:
        title, staged = f"PDD around {title}", {"learning_rates": [float(lr) for lr in found.learning_rates]}
    return {
        "dataset": job.dataset.name,
        "method": title,
        "ipc": method.ipc,
        **kind_of(job.config).stored(method, outcome.distilled),
        **{name: scores.get(name) for name in ("distilled", "random_real", "full_data")},
        "selected_on": "last step" if np.isnan(outcome.score) else "validation",
        "selected_step": outcome.step,
        "steps": method.steps,
        **staged,
        "seconds": {**job.done.seconds, "distill": sum(outcome.seconds for outcome in found.outcomes)},
        "versions": versions(),
    }


def _write_outputs(job: Job, outcome: Outcome, results: dict[str, Any]) -> None:
    done = Finished(job.workdir, outcome, results, job.metrics.path)
    kind_of(job.config).write(job.dataset, job.config, done)
    write_json(job.workdir / "results.json", results)
