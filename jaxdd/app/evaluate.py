"""Scoring saved distilled sets, on any networks: `jaxdd evaluate SET… --model convnet resnet18`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from jaxdd.app import captioned, sets
from jaxdd.app.common import Common
from jaxdd.app.sets import Given
from jaxdd.app.workdir import versions
from jaxdd.core.distilled_pairs import is_pairs
from jaxdd.data import DataConfig, pairs
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig, TableConfig, doubts, evaluate_table, over_seeds, robust_scores
from jaxdd.evaluation import evaluate as score
from jaxdd.formats import Reading
from jaxdd.io.files import plain, write_json
from jaxdd.models import ConvNet, ModelConfig, from_name
from jaxdd.report import table
from jaxdd.settings import Seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(TableConfig, Given, Common, path=""):
    """Score saved distilled sets beside random real images of their size."""

    out: str | None = None
    """A folder for the table, as JSON, CSV, Markdown and a figure, and for finished cells: a stopped call goes on. Of
    pairs, whose scores are made in one go, JSON alone."""
    seed: Annotated[int, Seed] = 0
    """Seed of the networks; the first set's by default."""
    model: ModelConfig = ConvNet()
    """The network to train on the sets; that of the first one by default."""
    data: DataConfig = DataConfig()
    """The dataset that the sets were distilled from."""
    text_encoder: str | None = None
    """Of pairs whose texts were embedded in a file: that file, `file:NPZ`. What a set names is not read unasked."""
    read: Reading = Reading()
    """What a file in a peer's format does not say of itself."""


def told(command: Evaluate) -> str:
    """Evaluate the sets of a command, and write what came of it for a terminal.

    Raises:
        SettingError, OSError: See `evaluate` and `evaluate_pairs`.
    """
    if any(map(is_pairs, command.sets)):
        results = evaluate_pairs(command)
        lines = [captioned.lines(scores, name) for name, scores in results["scores"].items()]
        head = f"{', '.join(command.sets)}: pairs of {results['dataset']}; recall on the test split in per cent"
        return "\n".join([head, *lines])
    results = evaluate(command)
    return f"{', '.join(command.sets)}: sets of {results['dataset']}; test accuracy in per cent\n{table.text(results)}"


def evaluate_pairs(command: Evaluate) -> dict[str, Any]:
    """Score distilled pairs beside random real ones, with the network and the text encoder that their cards name.

    Returns:
        `{"sets": {name: file}, "dataset": name, "network": settings, "scores": {name: see jaxdd.evaluate}, "config",
        "versions"}`.

    Raises:
        SettingError: A file holds no pairs, does not fit the data, or an option is for sets with classes, such as
            several networks.
        OSError: The folder cannot be made, before any training.
    """
    for name in ("labels", "coreset", "without_augmentation", "tune", "tune_networks", "attack", "points"):
        if (given := getattr(command, name)) != getattr(TableConfig(), name):
            raise SettingError(f"table.{name} is {plain(given)}, and it is for sets with classes; leave it out")
    if len(command.networks_named) > 1:
        raise SettingError(
            f"pairs are scored on one network at a time; name one of {', '.join(command.networks_named)}"
        )
    config = EvaluateConfig(
        networks=command.networks,
        recipe=command.recipe,
        full_recipe=command.full_recipe,
        random_real=command.random_real,
        full_data=command.full_data,
    )
    if command.out is not None:
        Path(command.out).mkdir(parents=True, exist_ok=True)
    found = {path: captioned.saved(path, command.text_encoder) for path in command.sets}
    encoders = {text.encoder for _, _, text, _ in found.values()}
    datasets = {encoder: pairs.load(command.data, encoder) for encoder in encoders}
    posed = {}
    for path, (distilled, card, text, retrieval) in found.items():
        dataset = datasets[text.encoder]
        task = captioned.posed(dataset, command.model, text, retrieval)
        posed[path] = task, dataset, captioned.fitted(path, distilled, card, dataset)
    scores = {path: score(*problem, config, seed=command.seed) for path, problem in posed.items()}
    results = {
        "sets": {path: path for path in command.sets},
        "dataset": next(iter(datasets.values())).name,
        "network": plain(command.model),
        "scores": scores,
        "config": plain(config),
        "versions": versions(),
    }
    if command.out is not None:
        write_json(Path(command.out) / "results.json", results)
    return results


def evaluate(command: Evaluate) -> dict[str, Any]:
    """Compute the table of a command, and write it if that is asked for.

    Returns:
        `{"sets": {name: file}, "dataset": name, "networks": {name: settings}, "cells": see
        jaxdd.evaluation.table.Cell, "scores": DD-Ranking's, "seeds": see jaxdd.evaluation.over_seeds, "doubts": lines,
        "config", "versions"}`.

    Raises:
        SettingError: No set is named, or one does not fit the dataset.
        OSError: The folder cannot be made, before any training.
    """
    if not command.sets:
        raise SettingError(
            "a saved set is needed: jaxdd evaluate runs/digits_infmatch/distilled.npz --model convnet mlp"
        )
    if command.out is not None:
        Path(command.out).mkdir(parents=True, exist_ok=True)
    dataset = sets.load(command.data)
    paths = [*dict.fromkeys(command.sets)]
    found = sets.read(paths, dataset, command.read)
    first, *others = command.networks_named or (str(command.model),)
    if command.networks_named and from_name(first) != command.model:  # its sizes are given besides
        first = str(command.model)
    networks = {first: command.model, **{name: from_name(name) for name in others}}
    config = TableConfig(**{field.name: getattr(command, field.name) for field in dataclasses.fields(TableConfig)})
    cells = evaluate_table(
        found, networks, dataset, config, out=command.out, seed=command.seed, progress=not command.quiet
    )
    cards = {name: card for name, (_, card) in found.items()}
    results = {
        "sets": dict(zip(found, paths, strict=True)),
        "dataset": dataset.name,
        "networks": {name: plain(network) for name, network in networks.items()},
        "cells": cells,
        "scores": robust_scores(cells),
        "seeds": over_seeds(cells, cards),
        "doubts": doubts(cells, cards, dataset.name),
        "config": plain(config),
        "versions": versions(),
    }
    if command.out is not None:
        table.write(Path(command.out), results)
    return results
