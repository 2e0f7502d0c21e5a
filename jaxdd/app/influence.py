"""Scoring the training examples by their influence: `jaxdd influence --target validation`."""

import dataclasses
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdd.app.config import Config
from jaxdd.app.run import expert_store, kind_of
from jaxdd.app.signals import StopSignal
from jaxdd.app.workdir import record
from jaxdd.core.tasks import Task
from jaxdd.data import Data, RealSet
from jaxdd.errors import Interrupted, SettingError
from jaxdd.experts import Expert, ExpertStore, Timeline, train_experts
from jaxdd.experts.timeline import timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.influence import ESTIMATORS, InfluenceConfig, check, scores, settled
from jaxdd.io.hosts import anywhere, from_first
from jaxdd.io.progress import progress_bar
from jaxdd.report.scores_page import check_table

log = logging.getLogger("jaxdd")

OF_RUNS = ("dry_run", "initial", "log", "stages")
"""Settings of a run that scores have no use for."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How training examples are scored."""

    target: Literal["validation", "test"] = "validation"
    """The split whose mean loss they help or harm."""
    out: str | None = None
    """The table of scores, .csv or .parquet, and beside it the page, .html; influence.csv in the workdir by default."""
    influence: InfluenceConfig = InfluenceConfig()
    """The estimator. Weight decay and momentum are those of the experts, whatever is said here."""


@dataclasses.dataclass(frozen=True)
class Influence(Config, Scoring):
    """How training examples are scored, and the run whose data and experts are used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in OF_RUNS:
            if (value := getattr(self, name)) != getattr(Config, name):
                raise SettingError(f"{name} is {value!r}, which only `jaxdd run` reads; leave it out")
        check_table(self.table)

    @property
    def table(self) -> Path:
        """Where the table goes."""
        return Path(self.out or Path(self.workdir) / "influence.csv")


def influence(command: Influence) -> dict[str, Any]:
    """Train the experts that are missing, score the training examples, and write the table and the page.

    Args:
        command: The settings.

    Returns:
        `{"scores": [N], "page": path, "auc": how well they find wrong labels}`; no auc where none are known.

    Raises:
        SettingError: A setting that cannot work, before any training.
        Diverged: An expert or an estimate diverged.
        Interrupted: SIGINT or SIGTERM during the training of experts; those trained so far are kept.
        OSError: The table cannot be written, before any training.
    """
    kind = kind_of(command)
    dataset, task = kind.problem(command)
    size = dataset.real_set().size
    target = _target(dataset, command.target)
    line, recipe = timeline(command.experts, size), command.experts.recipe
    config = dataclasses.replace(command.influence, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
    along_path = ESTIMATORS[config.estimator].along_path
    if along_path and len(line.steps) == 1:
        raise SettingError(
            f"experts record one snapshot (experts.keep {command.experts.keep}), but {config.estimator} reads the way; "
            "raise experts.keep or leave it out, in another workdir, or choose --influence.estimator endpoint"
        )
    config = settled(config, line.time, line.total_time, recorded=along_path)
    if not task.separable and config.batch is None:  # each loss in batches as large as those of the experts
        config = dataclasses.replace(config, batch=max(min(recipe.batch, size), 2))
    check(task, config, size, line.time, line.total_time)
    try:
        from_first(lambda: _check_room(command.table.parent))
    except OSError as error:
        raise SettingError(
            f"--out {command.table} cannot be written ({error.strerror}); name a file in a folder of yours"
        ) from error
    store, ignored = expert_store(command, dataset), []
    if recipe.augment != "none":
        ignored.append("their augmentation")
    if recipe.cutmix:
        ignored.append("their CutMix")
    if recipe.sharpness:
        ignored.append("their sharpness-aware steps")
    if ignored:
        log.warning(
            "influence takes the experts for plain SGD on the examples as they are, without %s", " and ".join(ignored)
        )
    _train(command, dataset, task, store)
    # A snapshot that no estimator reads need not be loaded: of long trainings there are gigabytes.
    rows = range(0, len(line.steps), config.stride) if along_path else range(1)
    if config.end == "last":
        rows = range(0, len(line.steps) - 1, config.stride)
    found, count = [], command.experts.count
    with progress_bar(f"influence along {len(rows)} snapshots", count, enabled=not command.quiet) as bar:
        for expert in range(count):
            read = [*rows, *([len(line.steps) - 1] if config.end == "last" else [])]
            path = from_first(partial(_path, store, expert, line, read))
            one = dataclasses.replace(config, stride=1)
            found.append(scores(task, dataset.real_set(), target, path, one))
            bar.update()
    mean = np.mean(found, axis=0)
    judged = {"final": "the end of their training", "last": "their last snapshot"}[config.end]
    about = (
        f"{config.estimator} along {len(rows)} snapshots of each of {count} experts, on the loss of "
        f"{target.size} {command.target} examples at {judged}"
        + f", in batches of {config.batch}" * (not task.separable)
        + f", without {' and '.join(ignored)}" * bool(ignored)
        + ". A positive score says that more weight on the example lowers that loss."
    )

    def write() -> tuple[Path, dict[str, float]]:
        return kind.write_scores(
            command.table,
            mean,
            dataset,
            title=f"{dataset.name}: influence on the {command.target} loss",
            about=about,
            settings=_settings(dataclasses.replace(command, influence=config)),
            ends=("most helpful", "most harmful"),
            spread=np.std(found, axis=0) if count > 1 else None,
        )

    page, found_wrong = from_first(write)
    return {"scores": mean, "page": page, **found_wrong}


def _check_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _target(dataset: Data, name: str) -> RealSet:
    target = dataset.test_set() if name == "test" else dataset.validation_set()
    if target is None:
        raise SettingError("the validation split is empty; raise data.validation, or choose --target test")
    return target


def _train(command: Influence, dataset: Data, task: Task, store: ExpertStore) -> None:
    count = command.experts.count
    with StopSignal() as stop:

        def on_expert(index: int, _: Expert) -> None:
            if anywhere(stop()):
                raise Interrupted(f"expert training stopped after expert {index + 1} of {count}")

        train_experts(
            task,
            dataset,
            command.experts,
            seed=command.seed,
            store=store,
            snapshots=1,
            on_expert=on_expert,
            progress=not command.quiet,
        )


def _path(store: ExpertStore, expert: int, line: Timeline, rows: list[int]) -> Trajectories:
    """Read some snapshots of one expert, and its end."""
    return Trajectories(
        snapshots=store.read(expert, rows)[None],
        final=store.final(expert)[None],
        lr=line.lr[rows],
        time=line.time[rows],
        total_time=np.asarray(line.total_time),
        steps=line.steps[rows],
    )


def _settings(command: Influence) -> dict[str, Any]:
    """Return the settings that the scores depend on."""
    return {name: value for name, value in record(command).items() if name not in ("method", "evaluate")}
