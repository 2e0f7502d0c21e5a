"""The commands, and how a command line becomes one of them."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, Union

import tyro

from jaxdd.app import sets
from jaxdd.app.cli import HELP, cli
from jaxdd.app.compare import Compare
from jaxdd.app.config import CommandLine, Config, command_line
from jaxdd.app.convert import Convert
from jaxdd.app.evaluate import Evaluate
from jaxdd.app.influence import Influence
from jaxdd.app.listing import List
from jaxdd.app.train import Train


class Command(NamedTuple):
    """What a command reads, what its options start from given the words behind its name, and what its help says."""

    kind: Any
    start: Callable[[Sequence[str]], Any]
    about: str


COMMANDS = {
    "run": Command(
        CommandLine[Config],
        partial(command_line, kind=Config),
        "Distill a dataset: train experts, learn the small set, evaluate it, write a report. This is what jaxdd does "
        "where no command is named.",
    ),
    "evaluate": Command(
        Evaluate,
        partial(sets.command_line, kind=Evaluate),
        "Score saved distilled sets, on any networks, beside random real images of their size.",
    ),
    "train": Command(
        Train,
        partial(sets.command_line, kind=Train),
        "Train a network on a saved set, and keep it, for jaxdd.predict.",
    ),
    "convert": Command(Convert, lambda words: Convert(), "Write a saved set in another format, with a card beside it."),
    "compare": Command(Compare, lambda words: Compare(), "Put several finished runs on one page."),
    "influence": Command(
        CommandLine[Influence],
        partial(command_line, kind=Influence),
        "Score every training example by its influence on the loss of another split, along the experts of a run, which "
        "are trained if they are not there. Settings of the run are given as for the run itself.",
    ),
    "list": Command(
        List, lambda words: List(), "List methods, presets, networks, data and the sets of the zoo, a line each."
    ),
}


def _at_home(word: str) -> str:
    """Read `--workdir=~/runs` as `--workdir ~/runs` is read: there the shell does it."""
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals and name.startswith("--") else word


def read(words: Sequence[str]) -> Config | Influence | Evaluate | Train | Convert | Compare | List:
    """Read a command line: a name of `COMMANDS` and its options; without a name it is a run.

    Raises:
        SettingError: A bad value.
        SystemExit: `--help`, or an unknown command or field.
    """
    words = [_at_home(word) for word in words]
    if not words or (words[0].startswith("-") and words[0] not in HELP):
        words = ["run", *words]
    choices = (
        Annotated[
            command.kind,
            tyro.conf.subcommand(
                name, default=command.start(words[1:] if name == words[0] else []), description=command.about
            ),
        ]
        for name, command in COMMANDS.items()
    )
    found = cli(
        Union[tuple(choices)],  # noqa: UP007
        args=words,
        prog="jaxdd",
        description="Dataset distillation. `jaxdd --version` says which version this is.",
    )
    return found.changed if isinstance(found, CommandLine) else found
