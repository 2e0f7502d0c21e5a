"""Scoring the training examples by their influence: `python -m jaxdd.main influence --target validation`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdd import data, influence, models
from jaxdd.choices import check_choices
from jaxdd.config import Config, parse
from jaxdd.data import sampling
from jaxdd.distill import Interrupted
from jaxdd.experts import Expert, timeline, train_experts
from jaxdd.files import plain
from jaxdd.influence import InfluenceConfig
from jaxdd.mesh import make_mesh
from jaxdd.metrics import progress
from jaxdd.report import check_table, write_scores
from jaxdd.run import StopSignal, expert_store


@dataclasses.dataclass(frozen=True)
class Audit(Config):
    """The settings of a run, whose data and experts are used, and how its training examples are scored."""

    influence: InfluenceConfig = InfluenceConfig()
    """How they are scored. Weight decay and momentum are those of the experts, whatever is said here."""
    target: Literal["validation", "test"] = "validation"
    """The split whose mean loss they help or harm."""
    out: str | None = None
    """The table of scores, .csv or .parquet, and beside it the page, .html; influence.csv in the workdir by default."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_table(self.table)

    @property
    def table(self) -> Path:
        """Where the table goes."""
        return Path(self.out or Path(self.workdir) / "influence.csv")


def read_command(arguments: Sequence[str]) -> Audit:
    """Read the command line: that of a run, and the fields of `Audit`.

    Raises:
        ValueError: A bad value.
        SystemExit: `--help`, or an unknown field.
    """
    text = (
        "Score every training example by its influence on the loss of another split, along the experts of a run, which "
        "are trained if they are not there. Settings of the run are given as for the run itself."
    )
    return parse(arguments, Audit, command="python -m jaxdd.main influence", description=text)


def audit(command: Audit) -> dict[str, Any]:
    """Train the experts that are missing, score the training examples, and write the table and the page.

    Args:
        command: The settings.

    Returns:
        `{"scores": [N], "page": path, "auc": how well they find wrong labels}`; no auc where none are known.

    Raises:
        ValueError: A setting that cannot work, before any training.
        FloatingPointError: An expert or an estimate diverged.
        Interrupted: SIGINT or SIGTERM; the experts trained so far are kept.
    """
    dataset = data.load(**dataclasses.asdict(command.data))
    split = getattr(dataset, command.target)
    if not len(split.labels):
        raise ValueError("the validation split is empty; raise data.validation, or choose --target test")
    model, mesh = models.build(command.model, dataset.image_shape, dataset.num_classes), make_mesh()
    target = sampling.real_set(split.images, split.labels, dataset.num_classes, dataset.normalisation)
    store, count, recipe = expert_store(command, dataset), command.experts.count, command.experts.recipe
    config = dataclasses.replace(command.influence, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
    line = timeline(command.experts, len(dataset.train.labels))
    influence.check(model, config, line.time, line.total_time)
    with StopSignal() as stop, progress("experts", count, count - len(store.missing(count))) as bar:

        def on_expert(index: int, expert: Expert) -> None:
            bar.update()
            if stop():
                raise Interrupted(f"expert training stopped after expert {index + 1} of {count}")

        experts = train_experts(
            model, dataset, command.experts, seed=command.seed, mesh=mesh, store=store, on_expert=on_expert
        )
    found = []
    with progress("influence", count) as bar:
        for e in range(count):
            one = experts._replace(snapshots=experts.snapshots[e : e + 1], final=experts.final[e : e + 1])
            found.append(influence.scores(model, dataset.real_set(), target, one, config))
            bar.update()
    scores = np.mean(found, axis=0)
    settings = {name: value for name, value in plain(command).items() if name not in ("method", "evaluate")}
    page = write_scores(
        command.table,
        scores,
        dataset,
        title=f"{dataset.name}: influence on the {command.target} loss",
        about=f"{config.estimator}, {count} experts; the highest scores are the most helpful, which lower that loss, "
        "and the lowest the most harmful",
        settings=settings,
    )
    auc = {} if dataset.mislabelled is None else {"auc": influence.mislabelled_auc(scores, dataset.mislabelled)}
    return {"scores": scores, "page": page, **auc}
