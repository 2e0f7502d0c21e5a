"""The pipeline: data → experts → distill → evaluate → report. Every stage continues from what the workdir holds."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdd import data, formats, models
from jaxdd.app.config import Config
from jaxdd.app.memory import check_fits, estimate
from jaxdd.app.signals import StopSignal
from jaxdd.app.workdir import Progress, identity, opened, record, versions
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.parallel import over_devices
from jaxdd.core.ranking import mislabeled_auc
from jaxdd.core.tasks import Task, classification
from jaxdd.data import Dataset
from jaxdd.driver import Outcome, distill
from jaxdd.errors import Interrupted, SettingError
from jaxdd.evaluation import Measures, evaluate
from jaxdd.experts import Expert, ExpertStore, check_length, describe, train_experts
from jaxdd.experts.timeline import timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.files import atomic_write, plain, write_json
from jaxdd.io.hosts import anywhere, from_first, is_first
from jaxdd.io.integrity import digest_of_arrays
from jaxdd.report.grid import draw, image_grid
from jaxdd.report.metrics import Metrics, read
from jaxdd.report.run_page import entropy, write_report
from jaxdd.report.scores_page import write_scores
from jaxdd.report.tracking import Wandb
from jaxdd.types import Scores

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
    dataset: Dataset
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
        trajectories = _experts(job) if config.method.needs_experts else None
        outcome = _distill(job, trajectories)
        scores = _evaluate(job, outcome)
        results = _results(job, outcome, scores)
        from_first(lambda: _write_outputs(job, outcome, results))
    return results


def _metrics(config: Config, run: str) -> Metrics:
    first, workdir = is_first(), Path(config.workdir)
    tracker = Wandb(workdir, run, record(config)) if first and config.log == "wandb" else None
    return Metrics(workdir, enabled=first, tracker=tracker)


def problem(config: Config) -> tuple[Dataset, Task]:
    """Load the data of a run and say what its networks do, all of it checked.

    Raises:
        SettingError: A setting that cannot work.
    """
    dataset = data.load(**dataclasses.asdict(config.data))
    model = models.build(config.model, dataset.image_shape, dataset.num_classes)
    task = classification(model, dataset.num_classes)
    check(config, dataset, task)
    return dataset, task


def check(config: Config, dataset: Dataset, task: Task) -> None:
    """Refuse what cannot work, before any training.

    Raises:
        SettingError: Settings that the method refuses, more images per class than there are, a validation split that
            lacks a class and that the method learns from, an initial set that cannot be read, experts too short for
            the method, or more data or experts than the memory holds.
    """
    check_fits(estimate(config, dataset, task))
    config.method.build(task)
    if config.method.needs_validation:
        data.sampling.check_validation(dataset.validation_set())
    if config.initial is not None:
        initial_set(config.initial, dataset)
    data.sampling.check_per_class(dataset.real_set(), config.method.items_per_class)
    if config.method.needs_experts:
        check_length(config.experts, len(dataset.train.labels), config.method.snapshots_needed)


def expert_store(config: Config, dataset: Dataset) -> ExpertStore:
    """Open the store of a run's experts, or make it.

    Raises:
        SettingError: It holds other experts.
    """
    directory = Path(config.experts.directory or Path(config.workdir) / "experts")
    return ExpertStore(directory, describe(dataset, config.model, config.experts, config.seed))


def initial_set(path: str, dataset: Dataset) -> Distilled:
    """Read a distilled set to start from, its images normalized as the dataset's are.

    Raises:
        SettingError: It cannot be read.
    """
    try:
        distilled, card = Distilled.load(path)
    except FileNotFoundError as error:
        raise SettingError(f"--initial {path}: no such file; give a distilled.npz") from error
    theirs, ours = (jax.tree.leaves(n) for n in (card.normalization, dataset.normalization))
    if card.normalization.kind != dataset.normalization.kind or not all(map(np.array_equal, theirs, ours)):
        pixels = card.normalization.inverse(distilled.images)
        distilled = distilled._replace(inputs=dataset.normalization(255 * pixels))
    return distilled


def _experts(job: Job) -> Trajectories:
    config, count = job.config, job.config.experts.count
    store = expert_store(config, job.dataset)
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
        job.task,
        job.dataset,
        config.experts,
        seed=config.seed,
        store=store,
        snapshots=max(config.method.snapshots_needed, 1),
        on_expert=on_expert,
        progress=not config.quiet,
    )
    steps = timeline(config.experts, len(job.dataset.train.labels)).steps
    _write_losses(job.metrics, steps.tolist(), store.losses(count))
    return trajectories


def _write_losses(metrics: Metrics, steps: list[int], losses: np.ndarray) -> None:
    """Record the mean training loss of all experts over their SGD steps, from losses `[E, T]`, unless it is there."""
    # All at once: experts come one after another, and the lines of a stage follow its steps.
    if metrics.enabled and [line["step"] for line in read(metrics.path, "experts")] != steps[1:]:
        metrics.rewind("experts", -1)
        for step, loss in zip(steps[1:], losses.mean(0)[1:], strict=True):  # nothing precedes the first snapshot
            metrics.write(step, "experts", loss=loss)


def _distill(job: Job, trajectories: Trajectories | None) -> Outcome:
    config, metrics = job.config, job.metrics
    inverse, names = job.dataset.normalization.inverse, job.dataset.class_names

    def on_resume(step: int) -> None:
        log.info("distill: %s", "from the first step" if step < 0 else f"from the checkpoint of step {step}")
        for stage in ("distill", "validate", "inspect", "set"):
            metrics.rewind(stage, step)

    def on_metrics(step: int, stage: str, **values: Any) -> None:
        metrics.write(step, stage, **_by_label(values, job.dataset.mislabeled))

    def on_set(step: int, distilled: Distilled) -> None:
        images, classes = np.asarray(inverse(distilled.images)), np.argmax(distilled.labels, -1)
        shown: dict[str, Any] = {"pixels": images}
        if config.method.labels != "hard":
            shown["entropy of the labels, nats"] = entropy(distilled)
        metrics.write(step, "set", **shown)
        metrics.show(step, "set", "images", draw(images, classes, names, per_class=10, pixels=400_000).png)

    outcome = distill(
        job.task,
        job.dataset,
        config.method,
        trajectories,
        initial=None if config.initial is None else initial_set(config.initial, job.dataset),
        seed=config.seed,
        evaluate=config.evaluate,
        residency=config.experts.residency,
        checkpoints=Checkpoints(job.workdir / "checkpoints", job.run),
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


def _by_label(values: dict[str, Any], mislabeled: np.ndarray | None) -> dict[str, Any]:
    """Return scalars and arrays, in place of `Scores` those of right and of wrong labels, if it is known which are."""
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Scores):
            shown[name] = value
        elif mislabeled is None:
            shown[name] = value.values
        else:
            shown[f"{name}, AUC of wrong labels"] = mislabeled_auc(value.values, mislabeled)
            shown |= {f"{name}, right labels": value.values[~mislabeled], f"{name}, wrong": value.values[mislabeled]}
    return shown


def _evaluate(job: Job, outcome: Outcome) -> dict[str, dict[str, Any]]:
    config, done = job.config.evaluate, job.done
    done.score(digest_of_arrays(outcome.distilled))
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
        job.task,
        job.dataset,
        outcome.distilled,
        config,
        ipc=job.config.method.ipc,
        seed=job.config.seed,
        known=done.accuracies,
        on_result=on_result,
        progress=not job.config.quiet,
    )


def _results(job: Job, outcome: Outcome, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    method = job.config.method
    return {
        "dataset": job.dataset.name,
        "method": method.title,
        "ipc": method.ipc,
        "stored_pixels": outcome.distilled.images.size * method.ipc // method.items_per_class,
        **{name: scores.get(name) for name in ("distilled", "random_real", "full_data")},
        "selected_on": "last step" if np.isnan(outcome.score) else "validation",
        "selected_step": outcome.step,
        "steps": method.steps,
        "seconds": {**job.done.seconds, "distill": outcome.seconds},
        "versions": versions(),
    }


def _write_outputs(job: Job, outcome: Outcome, results: dict[str, Any]) -> None:
    config, workdir, dataset, distilled = job.config, job.workdir, job.dataset, outcome.distilled
    card = Card(
        dataset=dataset.name,
        class_names=dataset.class_names,
        label_kind="hard" if config.method.labels == "hard" else "logits",
        normalization=dataset.normalization,
        recipe=plain(config.evaluate.recipe),
        provenance={"config": record(config), "step": outcome.step, "versions": versions()},
    )
    distilled.save(workdir / "distilled.npz", card)
    display = np.asarray(dataset.normalization.inverse(distilled.images))
    image_grid(display, np.argmax(distilled.labels, -1), dataset.class_names, workdir / "grid.png")
    for name, scores in outcome.inspected.items():
        if isinstance(scores, Scores):
            about = f"scores of {results['method']} after step {results['steps']}: the higher, the more weight"
            title = f"{dataset.name} · {results['method']} · {name}"
            path = workdir / f"{name}.csv"
            write_scores(path, np.asarray(scores.values), dataset, title=title, about=about, settings=record(config))
    write_json(workdir / "results.json", results)
    atomic_write(workdir / "README.md", formats.markdown(distilled, card, results=results).encode())
    write_report(
        workdir,
        distilled=distilled,
        first=outcome.first,
        card=card,
        results=results,
        config=record(config),
        metrics_path=job.metrics.path,
    )
