"""Saved sets on the command line: what they are called, and what a command takes from their cards."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from jaxdd import data, formats
from jaxdd.app.cli import HELP, cli
from jaxdd.core import distilled_pairs
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig, Dataset
from jaxdd.data.field import named_in
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.formats import Reading
from jaxdd.formats.pictures import CARD
from jaxdd.models import ConvNet, ModelConfig, Own, from_name, from_settings
from jaxdd.settings import Seed, check_value

OURS = ("npz", "safetensors", "torch", "tfds")
"""Formats that have a card; so has a folder of pictures with one in it."""
NETWORK = "NETWORK[:width=N]|FILE.py:NAME"


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a card says, for options that are not given.

    Attributes:
        model: The network that the set was distilled with.
        recipe: How to train on the set.
        full_recipe: How the run trained on all real data.
        data: The dataset, without the folder where its author kept it unless that is here.
        seed: The run's seed.
    """

    model: ModelConfig = ConvNet()
    recipe: Recipe = EvaluateConfig().recipe
    full_recipe: Recipe = EvaluateConfig().full_recipe
    data: DataConfig = DataConfig()
    seed: int = 0


def defaults(path: str) -> Defaults:
    """Take data, network and recipe from the card of a saved set; the dataset from its path where it has no card.

    Raises:
        SettingError: There is no such file, it cannot be read, or its card names settings that this jaxdd lacks.
    """
    try:
        pairs = distilled_pairs.is_pairs(path)
        if not pairs and formats.detect(path) not in OURS and not (Path(path) / CARD).exists():
            return Defaults(data=DataConfig(name=named_in(str(Path(path).absolute())) or DataConfig().name))
        card = distilled_pairs.load(path)[1] if pairs else formats.read(path)[1]
    except FileNotFoundError as error:
        raise SettingError(f"{path}: no such file; give the distilled.npz of a run") from error
    seed, full_recipe = card.config.get("seed", 0), card.settings("evaluate").get("full_recipe")
    try:
        check_value("seed", seed, Annotated[int, Seed])
        dataset = DataConfig(**(card.settings("data") or {"name": card.dataset}))
        if dataset.data_dir is not None and not Path(dataset.data_dir).expanduser().is_dir():
            dataset = dataclasses.replace(dataset, data_dir=None)
        return Defaults(
            data=dataset,
            model=from_settings(card.settings("model")),
            recipe=dataclasses.replace(EvaluateConfig().recipe, **card.recipe),
            full_recipe=Recipe(**full_recipe) if full_recipe else EvaluateConfig().full_recipe,
            seed=seed,
        )
    except (TypeError, SettingError) as error:
        raise SettingError(f"{path} was saved with settings that this jaxdd does not have ({error})") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What decides which further options there are."""

    sets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SET…")] = ()
    """Saved sets: the distilled.npz of a run, zoo:NAME for one that `jaxdd list` names, or a file or folder in a peer's
    format."""
    networks_named: Annotated[tuple[str, ...], tyro.conf.arg(name="model", metavar=NETWORK)] = ()
    """Other networks than the set was distilled with: convnet, mlp, resnet10, resnet18, resnet34, vgg11, alexnet,
    lenet, vit, or a function of your own that makes one."""


Command = TypeVar("Command", bound=Given)


def command_line(words: Sequence[str], *, kind: type[Command]) -> Command:
    """Build a command line without its options: the sets and networks named, and what the first set's card says.

    Args:
        words: The words behind the command's name.
        kind: What they will be read as.

    Raises:
        SettingError: The set cannot be read; it names a network of the user's own or a folder, and the command line
            does not; or sizes are given for several networks.
        SystemExit: An unknown field.
    """
    asked = any(word.partition("=")[0] in {"--data.name", *HELP} for word in words)
    words = [word for word in words if word not in HELP]
    found = cli(Given, args=words, prog="jaxdd", return_unknown_args=True)[0]
    sets = cli(kind, args=[*_without_networks(words)], prog="jaxdd").sets
    said = defaults(sets[0]) if sets else Defaults()
    named = found.networks_named
    if len(named) > 1 and (sized := [word for word in words if word.startswith("--model.")]):
        raise SettingError(f"{sized[0]} is for one network, and there are {len(named)}; give {named[0]}:width=16, …")
    if named:
        said = dataclasses.replace(said, model=from_name(named[0]))
    elif isinstance(said.model, Own):
        raise SettingError(
            f"{sets[0]} says that its network is {said.model}, and what a file says is not run unasked; name it by "
            f"--model {said.model}"
        )
    if said.data.name.startswith(("folder:", "pairs:")) and not asked:
        raise SettingError(
            f"{sets[0]} says that it was distilled from {said.data.name}, and what a file says is not read unasked; "
            f"name the folder by --data.name {said.data.name}"
        )
    fields = {field.name for field in dataclasses.fields(kind)}
    taken = {name: value for name, value in vars(said).items() if name in fields}
    return kind(sets=sets, networks_named=named, **taken)


def _without_networks(words: Sequence[str]) -> Iterator[str]:
    """Leave out `--model NETWORK…` and `--model.SETTING VALUE`: which settings there are, the set's card tells."""
    remaining, naming = iter(words), False
    for word in remaining:
        if word.startswith("--model."):
            naming = False
            if "=" not in word:
                next(remaining, None)
        elif word.startswith("--"):
            naming = word.partition("=")[0] == "--model"
            if not naming:
                yield word
        elif not naming:
            yield word


def read(paths: Sequence[str], dataset: Dataset | None, reading: Reading) -> dict[str, tuple[Distilled, Card]]:
    """Read saved sets, named by what tells them apart.

    Args:
        paths: The files or folders.
        dataset: The real data, for what a file in a peer's format does not say.
        reading: What else it does not say.

    Returns:
        Sets with their cards by name: `mtt` of `runs/mtt/distilled.npz`, or the whole path where two would be alike.

    Raises:
        SettingError: None is named, or one cannot be read.
    """
    if not paths:
        raise SettingError(
            "a saved set is needed, such as runs/digits_infmatch/distilled.npz; sets come before --model"
        )
    names = [path.parent.name or str(path) if path.stem == "distilled" else path.stem for path in map(Path, paths)]
    if len({*names}) < len({*paths}):
        names = [*paths]
    return {name: formats.read_as(path, "auto", reading, dataset) for name, path in zip(names, paths, strict=True)}


def load(config: DataConfig) -> Dataset:
    """Load a dataset by its settings."""
    return data.load(**dataclasses.asdict(config))
