"""Scoring a saved distilled set again, with any network and recipe: `python -m jaxdd.main evaluate DISTILLED.npz`."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxdd import data, models
from jaxdd.data import DataConfig
from jaxdd.distilled import Distilled
from jaxdd.evaluate import EvaluateConfig, evaluate
from jaxdd.models import ModelConfig
from jaxdd.training import Recipe


@dataclasses.dataclass(frozen=True)
class Rescore:
    """Score a saved distilled set beside random real images of its size."""

    distilled: Annotated[str, tyro.conf.Positional]
    """The distilled.npz."""
    data: DataConfig
    """The dataset that the set was distilled from."""
    model: ModelConfig
    """The network to train on the set."""
    recipe: Recipe
    """How to train it; the learning rate at the start is the set's own."""
    networks: int = 5
    """Fresh networks to train."""
    full_data: bool = False
    """Train on all real data as well, for reference."""
    seed: int = 0
    """Seed of the networks."""


def parse(arguments: Sequence[str]) -> Rescore:
    """Read the command line; defaults come from the set's own card.

    Raises:
        ValueError: The file cannot be read.
        SystemExit: `--help`, or an unknown field.
    """
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("distilled", nargs="?")
    path = file.parse_known_args(arguments)[0].distilled
    default = Rescore("", DataConfig(), ModelConfig(), Recipe())
    if path is not None and not path.startswith("-"):
        card = Distilled.load(path)[1]
        config = card.provenance.get("config", {})
        default = Rescore(
            path,
            DataConfig(**config.get("data", {"name": card.dataset})),
            ModelConfig(**config.get("model", {})),
            Recipe(**card.recipe),
        )
    return tyro.cli(
        Rescore, args=arguments, default=default, prog="python -m jaxdd.main evaluate", config=(tyro.conf.AvoidSubcommands,)
    )


def rescore(command: Rescore) -> dict[str, dict[str, Any]]:
    """Load the set and its dataset, and evaluate.

    Raises:
        ValueError: The set does not fit the dataset.
    """
    distilled, card = Distilled.load(command.distilled)
    dataset = data.load(**dataclasses.asdict(command.data))
    if distilled.images.shape[1:] != dataset.image_shape or distilled.labels.shape[1] != dataset.num_classes:
        raise ValueError(
            f"{command.distilled} holds images {distilled.images.shape[1:]} of {distilled.labels.shape[1]} classes, but "
            f"{dataset.name} has {dataset.image_shape} of {dataset.num_classes}; name its dataset with --data.name"
        )
    dataset = dataclasses.replace(dataset, normalisation=card.normalisation)
    model = models.build(command.model, dataset.image_shape, dataset.num_classes)
    full = EvaluateConfig().full_recipe if command.full_data else None
    config = EvaluateConfig(networks=command.networks, recipe=command.recipe, full_recipe=full)
    return evaluate(model, dataset, distilled, config, seed=command.seed)
