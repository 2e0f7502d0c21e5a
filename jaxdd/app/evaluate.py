"""Scoring a saved distilled set again, with any network and recipe: `python -m jaxdd.main evaluate DISTILLED.npz`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import tyro

from jaxdd import data, models
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.tasks import classification
from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig, evaluate
from jaxdd.models import ModelConfig
from jaxdd.settings import AtLeast, Seed, check_value


@dataclasses.dataclass(frozen=True)
class Rescore:
    """Score a saved distilled set beside random real images of its size."""

    distilled: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DISTILLED.npz")] = ""
    """The set; its card gives the defaults below."""
    data: DataConfig = DataConfig()
    """The dataset that the set was distilled from."""
    model: ModelConfig = ModelConfig()
    """The network to train on the set."""
    recipe: Recipe = EvaluateConfig().recipe
    """How to train it; a learning rate that the method learned with the set takes precedence."""
    networks: int = 5
    """Fresh networks to train."""
    full_data: bool = False
    """Train on all real data as well, for reference."""
    full_recipe: Recipe = EvaluateConfig().full_recipe
    """How to train on all real data."""
    seed: int = 0
    """Seed of the networks."""


def defaults(path: str) -> Rescore:
    """Take data, network and recipe from the card of a distilled set.

    Raises:
        ValueError: There is no such file, it cannot be read, or its card names settings that this jaxdd does not have.
    """
    try:
        card = Distilled.load(path)[1]
    except FileNotFoundError as error:
        raise SettingError(f"{path}: no such file; give the distilled.npz of a run") from error
    config = card.provenance.get("config")
    seed = config.get("seed", 0) if isinstance(config, dict) else 0
    full_recipe = _part(card, "evaluate").get("full_recipe")
    try:
        check_value("seed", seed, Annotated[int, Seed])
        return Rescore(
            path,
            DataConfig(**(_part(card, "data") or {"name": card.dataset})),
            ModelConfig(**_part(card, "model")),
            Recipe(**card.recipe) if card.recipe else EvaluateConfig().recipe,
            full_recipe=Recipe(**full_recipe) if full_recipe else EvaluateConfig().full_recipe,
            seed=seed,
        )
    except (TypeError, SettingError) as error:
        raise SettingError(f"{path} was saved with settings that this jaxdd does not have ({error})") from error


def _part(card: Card, name: str) -> dict[str, Any]:
    """Return a part of the configuration that a card tells of; none of it, where it tells something else."""
    config = card.provenance.get("config")
    part = config.get(name) if isinstance(config, dict) else None
    return dict(part) if isinstance(part, dict) else {}


def parse(arguments: Sequence[str]) -> Rescore:
    """Read the command line; defaults come from the set's own card.

    Raises:
        ValueError: No file is named, or it cannot be read.
        SystemExit: `--help`, or an unknown field.
    """
    read = partial(tyro.cli, Rescore, prog="python -m jaxdd.main evaluate", config=(tyro.conf.AvoidSubcommands,))
    # Once to learn which file it is, then with that file's defaults; --help shows them.
    path = read(args=[argument for argument in arguments if argument not in ("-h", "--help")]).distilled
    command = read(args=arguments, default=defaults(path) if path else Rescore())
    if not path:
        raise SettingError("evaluate needs a file: python -m jaxdd.main evaluate DISTILLED.npz")
    return command


def rescore(command: Rescore) -> dict[str, dict[str, Any]]:
    """Load the set and its dataset, and evaluate.

    Raises:
        ValueError: The set does not fit the dataset.
    """
    distilled, card = Distilled.load(command.distilled)
    dataset = data.load(**dataclasses.asdict(command.data))
    if distilled.images.shape[1:] != dataset.image_shape or distilled.labels.shape[1] != dataset.num_classes:
        raise SettingError(
            f"{command.distilled} holds images {distilled.images.shape[1:]} of {distilled.labels.shape[1]} classes, "
            f"but {dataset.name} has {dataset.image_shape} of {dataset.num_classes}; name its dataset with --data.name"
        )
    dataset = dataclasses.replace(dataset, normalization=card.normalization)
    model = models.build(command.model, dataset.image_shape, dataset.num_classes)
    if np.float32(card.recipe.get("lr", np.nan)) == distilled.lr:  # not a learned one: the recipe given decides
        distilled = distilled._replace(lr=jnp.float32(command.recipe.lr))
    config = EvaluateConfig(
        networks=command.networks,
        recipe=command.recipe,
        full_data=command.full_data,
        full_recipe=command.full_recipe,
    )
    ipc = _part(card, "method").get("ipc")
    check_value("the ipc of its card", ipc, Annotated[int | None, AtLeast(1)])
    task = classification(model, dataset.num_classes)
    return evaluate(task, dataset, distilled, config, ipc=ipc, seed=command.seed)
