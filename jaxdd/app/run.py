"""The pipeline: data → experts → distill → evaluate → report. Every stage continues from what the workdir holds."""

import dataclasses
import json
import logging
import os
import platform
import signal
import threading
import time
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Self

import jax
import numpy as np

from jaxdd import data, models
from jaxdd.app.config import Config
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.parallel import over_devices
from jaxdd.core.ranking import mislabeled_auc
from jaxdd.core.tasks import classification
from jaxdd.data import Dataset
from jaxdd.driver import Interrupted, Outcome, distill
from jaxdd.evaluation import Measures, evaluate
from jaxdd.experts import Expert, ExpertStore, check_length, describe, train_experts
from jaxdd.experts.timeline import timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.files import differences, plain, write_json
from jaxdd.report.grid import image_grid
from jaxdd.report.metrics import Metrics, read
from jaxdd.report.run_page import write_report
from jaxdd.report.scores_page import write_scores
from jaxdd.types import Scores, Task

log = logging.getLogger("jaxdd")


@over_devices()
def run(config: Config) -> dict[str, Any]:
    """Run the whole pipeline, continuing whatever the workdir already holds, on all devices or those that are set.

    Args:
        config: The run.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: A setting that cannot work, before any training; or a workdir that holds another run.
        FloatingPointError: Training or distillation diverged; what was computed before is kept.
        Interrupted: SIGINT or SIGTERM; the same call continues.
    """
    workdir = Path(config.workdir)
    dataset = data.load(**dataclasses.asdict(config.data))
    model = models.build(config.model, dataset.image_shape, dataset.num_classes)
    task = classification(model, dataset.num_classes)
    check(config, dataset, task)
    claim(workdir, config)
    with Metrics(workdir, enabled=jax.process_index() == 0) as metrics, StopSignal() as stop:
        done = Progress(workdir / "progress.json")
        trajectories = None
        if config.method.needs_experts:
            trajectories = _experts(config, dataset, task, metrics, stop, done)
        outcome = _distill(config, workdir, dataset, task, trajectories, metrics, stop)
        scores = _evaluate(config, dataset, task, outcome, metrics, stop, done)
    results = {
        "dataset": dataset.name,
        "method": config.method.title,
        "ipc": config.method.ipc,
        "stored_pixels": outcome.distilled.images.size * config.method.ipc // config.method.items_per_class,
        **{name: scores.get(name) for name in ("distilled", "random_real", "full_data")},
        "selected_on": "last step" if np.isnan(outcome.score) else "validation",
        "selected_step": outcome.step,
        "steps": config.method.steps,
        "seconds": {**done.seconds, "distill": outcome.seconds},
        "versions": versions(),
    }
    if jax.process_index() == 0:
        _write_outputs(config, workdir, dataset, outcome, results)
    return results


def check(config: Config, dataset: Dataset, task: Task) -> None:
    """Refuse what cannot work, before any training.

    Raises:
        ValueError: Settings that the method refuses, more images per class than there are, a validation split that
            lacks a class and that the method learns from, an initial set that cannot be read, or experts too short for
            the method.
    """
    config.method.build(task)
    if config.method.needs_validation:
        data.sampling.check_validation(dataset.validation_set())
    if config.initial is not None:
        initial_set(config.initial, dataset)
    data.sampling.check_per_class(dataset.real_set(), config.method.items_per_class)
    if config.method.needs_experts:
        check_length(config.experts, len(dataset.train.labels), config.method.snapshots_needed)


def record(config: Config) -> dict[str, Any]:
    """Give the configuration as JSON, its method by name; without what does not change the results."""
    fields = plain(config)
    del fields["workdir"], fields["experts"]["residency"]
    return {**fields, "method": {"name": config.method.name, **fields["method"]}}


def expert_store(config: Config, dataset: Dataset) -> ExpertStore:
    """Open the store of a run's experts, or make it.

    Raises:
        ValueError: It holds other experts.
    """
    directory = Path(config.experts.directory or Path(config.workdir) / "experts")
    return ExpertStore(directory, describe(dataset, config.model, config.experts, config.seed))


def initial_set(path: str, dataset: Dataset) -> Distilled:
    """Read a distilled set to start from, its images normalized as the dataset's are.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        distilled, card = Distilled.load(path)
    except FileNotFoundError as error:
        raise ValueError(f"--initial {path}: no such file; give a distilled.npz") from error
    theirs, ours = (jax.tree.leaves(n) for n in (card.normalization, dataset.normalization))
    if card.normalization.kind != dataset.normalization.kind or not all(map(np.array_equal, theirs, ours)):
        pixels = card.normalization.inverse(distilled.images)
        distilled = distilled._replace(inputs=dataset.normalization(255 * pixels))
    return distilled


def claim(workdir: Path, config: Config) -> None:
    """Write `config.json`, or make sure that the run in the workdir is this one.

    Raises:
        ValueError: The workdir holds a run of another configuration; the differences are named.
    """
    path = workdir / "config.json"
    if not path.exists():
        if jax.process_index() == 0:
            write_json(path, record(config))
    elif found := differences(json.loads(path.read_text()), record(config)):
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(found)}); choose another --workdir, or delete "
            "that folder to start over"
        )


def versions() -> dict[str, str]:
    """Name what the numbers were computed with."""
    packages = {name: metadata.version(name) for name in ("jaxdd", "jax", "jaxlib", "flax", "optax", "numpy")}
    return {**packages, "python": platform.python_version(), "device": jax.devices()[0].device_kind}


class StopSignal:
    """Turns SIGINT and SIGTERM into a question that the stages ask: `stop()`. A second one ends the process at once."""

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Say whether the run was asked to stop."""
        return self._asked

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; a run on another one is stopped by whoever started it.
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked:
            # At once, as kill would: every file is written atomically, and unwinding would race with running kernels.
            os._exit(128 + number)
        self._asked = True
        log.warning("%s: stopping as soon as the work in progress is saved", signal.Signals(number).name)


class Progress:
    """What the run has computed besides experts and checkpoints, in a file: accuracies, and seconds spent."""

    def __init__(self, path: Path):
        self._path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
        self.accuracies: dict[str, Measures] = stored.get("accuracies", {})
        self.seconds: dict[str, float] = stored.get("seconds", {"experts": 0.0, "evaluate": 0.0})

    def add(self, stage: str, seconds: float, **accuracies: Measures) -> None:
        """Record time spent in a stage, and accuracies if it computed any."""
        self.seconds[stage] += seconds
        self.accuracies.update(accuracies)
        if jax.process_index() == 0:
            write_json(self._path, {"accuracies": self.accuracies, "seconds": self.seconds})


def _experts(
    config: Config,
    dataset: Dataset,
    task: Task,
    metrics: Metrics,
    stop: StopSignal,
    done: Progress,
) -> Trajectories:
    store = expert_store(config, dataset)
    missing = len(store.missing(config.experts.count))
    clock = time.monotonic()
    with metrics.progress("experts", config.experts.count, config.experts.count - missing) as bar:

        def on_expert(index: int, expert: Expert) -> None:
            nonlocal clock
            now = time.monotonic()
            done.add("experts", now - clock)
            clock = now
            bar.set_postfix(loss=float(expert.losses[-1]))
            bar.update()
            if stop():
                raise Interrupted(f"expert training stopped after expert {index + 1} of {config.experts.count}")

        trajectories = train_experts(
            task,
            dataset,
            config.experts,
            seed=config.seed,
            store=store,
            snapshots=max(config.method.snapshots_needed, 1),
            on_expert=on_expert,
        )
    steps = timeline(config.experts, len(dataset.train.labels)).steps
    _write_losses(metrics, steps.tolist(), store.losses(config.experts.count))
    return trajectories


def _write_losses(metrics: Metrics, steps: list[int], losses: np.ndarray) -> None:
    """Record the mean training loss of all experts over their SGD steps, from losses `[E, T]`, unless it is there."""
    # All at once: experts come one after another, and the lines of a stage follow its steps.
    if metrics.enabled and [line["step"] for line in read(metrics.path, "experts")] != steps[1:]:
        metrics.rewind("experts", -1)
        for step, loss in zip(steps[1:], losses.mean(0)[1:], strict=True):  # nothing precedes the first snapshot
            metrics.write(step, "experts", loss=loss)


def _distill(
    config: Config,
    workdir: Path,
    dataset: Dataset,
    task: Task,
    trajectories: Trajectories | None,
    metrics: Metrics,
    stop: StopSignal,
) -> Outcome:
    shown: dict[str, float] = {}
    bar: Any = None
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints"))

        def on_resume(step: int) -> None:
            nonlocal bar
            for stage in ("distill", "validate", "inspect"):
                metrics.rewind(stage, step)
            bar = stack.enter_context(metrics.progress("distill", config.method.steps, max(step, 0)))

        def on_metrics(step: int, stage: str, **values: Any) -> None:
            metrics.write(step, stage, **_by_label(values, dataset.mislabeled))
            if stage != "inspect":
                shown.update(values)
                bar.set_postfix(shown)
            bar.update(step - bar.n)

        return distill(
            task,
            dataset,
            config.method,
            trajectories,
            initial=None if config.initial is None else initial_set(config.initial, dataset),
            seed=config.seed,
            evaluate=config.evaluate,
            residency=config.experts.residency,
            checkpoints=checkpoints,
            on_resume=on_resume,
            on_metrics=on_metrics,
            on_warning=log.warning,
            stop=stop,
        )


def _by_label(values: dict[str, Any], mislabeled: np.ndarray | None) -> dict[str, Any]:
    """Give scalars and arrays, in place of `Scores` those of right and of wrong labels, if it is known which are."""
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


def _evaluate(
    config: Config,
    dataset: Dataset,
    task: Task,
    outcome: Outcome,
    metrics: Metrics,
    stop: StopSignal,
    done: Progress,
) -> dict[str, dict[str, Any]]:
    clock = time.monotonic()
    total = 1 + config.evaluate.random_real + config.evaluate.full_data
    with metrics.progress("evaluate", total, len(done.accuracies)) as bar:

        def leave(when: str) -> None:
            if stop() and len(done.accuracies) < total:
                raise Interrupted(f"evaluation stopped {when}")

        def on_result(name: str, measures: Measures) -> None:
            nonlocal clock
            now = time.monotonic()
            done.add("evaluate", now - clock, **{name: measures})
            clock = now
            bar.update()
            leave(f"after {name}")

        leave("before its start")
        return evaluate(
            task,
            dataset,
            outcome.distilled,
            config.evaluate,
            ipc=config.method.ipc,
            seed=config.seed,
            known=done.accuracies,
            on_result=on_result,
        )


def _write_outputs(config: Config, workdir: Path, dataset: Dataset, outcome: Outcome, results: dict[str, Any]) -> None:
    distilled = outcome.distilled
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
    write_report(
        workdir,
        distilled=distilled,
        card=card,
        results=results,
        config=record(config),
        metrics_path=workdir / "metrics.jsonl",
    )
