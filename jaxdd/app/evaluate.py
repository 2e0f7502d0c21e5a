"""Scoring a saved distilled set again, with any network and recipe: `jaxdd evaluate DISTILLED.npz`."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import tyro

from jaxdd import data, evaluation, models
from jaxdd.app.cli import HELP, cli
from jaxdd.core.distilled import Card, Distilled, has_lr_of_recipe
from jaxdd.core.tasks import classification
from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.io.files import plain, write_json
from jaxdd.models import ConvNet, ModelConfig, Own, from_name, from_settings
from jaxdd.settings import AtLeast, Seed, check_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What decides which further options there are, beside the set."""

    network: Annotated[str | None, tyro.conf.arg(name="model", metavar="NETWORK[:width=N]|FILE.py:NAME")] = None
    """Another network than the set was distilled with: convnet, mlp, resnet10, resnet18, resnet34, vgg11, alexnet,
    lenet, vit, or a function of your own that makes one."""


@dataclasses.dataclass(frozen=True)
class Evaluate(Choice):
    """Score a saved distilled set beside random real images of its size."""

    distilled: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DISTILLED.npz")] = ""
    """The set; its card gives the defaults below."""
    networks: int = 5
    """Fresh networks to train."""
    full_data: bool = False
    """Train on all real data as well, for reference."""
    seed: int = 0
    """Seed of the networks."""
    out: str | None = None
    """A JSON file for the scores and what they were computed with."""
    model: ModelConfig = ConvNet()
    """The network to train on the set."""
    recipe: Recipe = EvaluateConfig().recipe
    """How to train it; a learning rate that the method learned with the set takes precedence."""
    full_recipe: Recipe = EvaluateConfig().full_recipe
    """How to train on all real data."""
    data: DataConfig = DataConfig()
    """The dataset that the set was distilled from."""


def defaults(path: str) -> Evaluate:
    """Take data, network and recipe from the card of a distilled set.

    Raises:
        SettingError: There is no such file, or its card names settings that this jaxdd does not have.
        ValueError: It cannot be read.
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
        return Evaluate(
            path,
            data=DataConfig(**(_part(card, "data") or {"name": card.dataset})),
            model=from_settings(_part(card, "model")),
            recipe=Recipe(**card.recipe) if card.recipe else EvaluateConfig().recipe,
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


def command_line(words: Sequence[str]) -> Evaluate:
    """Build the command line without its options from what the set's own card says.

    Args:
        words: The words behind the command's name.

    Raises:
        SettingError: The set cannot be read, or its card names a folder and the command line no dataset.
        SystemExit: An unknown field.
    """
    given = [word for word in words if word not in HELP]
    chosen, _ = cli(Choice, args=given, prog="jaxdd evaluate", return_unknown_args=True)
    path = cli(Evaluate, args=[*_without_sizes(given)], prog="jaxdd evaluate").distilled
    command = defaults(path) if path else Evaluate()
    if chosen.network is not None:
        command = dataclasses.replace(command, network=chosen.network, model=from_name(chosen.network))
    elif isinstance(command.model, Own):
        raise SettingError(
            f"{path} says that its network is {command.model}, and what a file says is not run unasked; name it by "
            f"--model {command.model}"
        )
    asked = any(word.partition("=")[0] in {"--data.name", *HELP} for word in words)
    if command.data.name.startswith("folder:") and not asked:
        raise SettingError(
            f"{path} says that it was distilled from {command.data.name}, and what a file says is not read unasked; "
            f"name the folder by --data.name {command.data.name}"
        )
    return command


def _without_sizes(words: Sequence[str]) -> Iterator[str]:
    """Leave out `--model.SETTING VALUE`: which settings there are is known when the set's card is."""
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--model."):
            yield word
        elif "=" not in word:
            next(remaining, None)


def evaluate(command: Evaluate) -> dict[str, Any]:
    """Load the set and its dataset, score the set, and write the scores if that is asked for.

    Returns:
        `{"set": file, "dataset": name, "images": M, "model", "recipe": settings, "scores": see jaxdd.evaluate}`.

    Raises:
        SettingError: No set is named, or it does not fit the dataset.
        OSError: The folder of the JSON file cannot be made, before any training.
    """
    if not command.distilled:
        raise SettingError("evaluate needs a file: jaxdd evaluate DISTILLED.npz")
    if command.out is not None:
        Path(command.out).parent.mkdir(parents=True, exist_ok=True)
    distilled, card = Distilled.load(command.distilled)
    dataset = data.load(**dataclasses.asdict(command.data))
    if distilled.images.shape[1:] != dataset.image_shape or distilled.labels.shape[1] != dataset.num_classes:
        raise SettingError(
            f"{command.distilled} holds images {distilled.images.shape[1:]} of {distilled.labels.shape[1]} classes, "
            f"but {dataset.name} has {dataset.image_shape} of {dataset.num_classes}; name its dataset with --data.name"
        )
    dataset = dataclasses.replace(dataset, normalization=card.normalization)
    model = models.build(command.model, dataset.image_shape, dataset.num_classes)
    if has_lr_of_recipe(distilled, card):  # not a learned one: the recipe given decides
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
    results = {
        "set": command.distilled,
        "dataset": dataset.name,
        "images": len(distilled.images),
        "model": plain(command.model),
        "recipe": plain(command.recipe),
        "scores": evaluation.evaluate(task, dataset, distilled, config, ipc=ipc, seed=command.seed),
    }
    if command.out is not None:
        write_json(command.out, results)
    return results
