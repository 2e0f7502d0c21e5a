"""The configuration of a run: nested frozen dataclasses, a preset or Python file, and typed overrides of its fields."""

import dataclasses
import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_type_hints

import tyro

from jaxdd.app.cli import HELP, cli
from jaxdd.app.common import Common
from jaxdd.app.hosts import Hosts
from jaxdd.core.retrieval import RetrievalConfig
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig
from jaxdd.io.modules import import_file
from jaxdd.methods import (
    MethodConfig,
    analytic_parameters,
    cafe,
    coresets,
    cross_covariance,
    datm,
    dc,
    ddpp,
    dm,
    iadd,
    infmatch,
    linear_gradient,
    mtt,
    ncfm,
    rat_bptt,
)
from jaxdd.models import ConvNet, ModelConfig, from_name
from jaxdd.models.dual import TextConfig
from jaxdd.settings import AtLeast, Seed, Settings, by_name, check_value, literal

IN_ORDER = (
    infmatch,
    mtt,
    datm,
    iadd,
    ddpp,
    dc,
    dm,
    cafe,
    ncfm,
    rat_bptt,
    linear_gradient,
    cross_covariance,
    analytic_parameters,
    coresets,
)
METHODS = {module.Config.name: module for module in IN_ORDER}
"""The methods of the package, by their names."""

PRESETS = {file.stem: file for file in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))}
"""The configuration files of the package, by their names."""


@dataclasses.dataclass(frozen=True)
class Config(Common):
    """A run of jaxdd. The defaults are the digits run: real 8×8 digits, one image per class, Inf-Match, two minutes."""

    method: MethodConfig = infmatch.Config()
    """The distillation method."""
    data: DataConfig = DataConfig()
    """The real data."""
    model: ModelConfig = ConvNet(width=32, depth=2)
    """The network of experts, distillation and evaluation; with captions, that of the images."""
    text: TextConfig = TextConfig()
    """With captions (data.name pairs:PATH), how they enter the network."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """With captions, the loss, and what is learned of what belongs to what."""
    experts: ExpertsConfig = ExpertsConfig()
    """Expert trajectories."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Scoring."""
    initial: str | None = None
    """A saved set to start from, such as a distilled.npz or zoo:NAME; by default method.init and method.labels say what
    the first set is. A learning rate that is learned starts from method.student_lr all the same."""
    stages: Annotated[int, AtLeast(1)] = 1
    """PDD: make the set in so many stages (published: 5) of method.ipc / stages images per class and method.steps
    steps each, for networks that the stages before have trained; networks learn it stage by stage, too."""
    seed: Annotated[int, Seed] = 0
    """Root of all randomness of the run, but for the validation split (data.split_seed)."""
    workdir: str = "runs/digits_infmatch"
    """Folder for everything that the run writes; the same command continues a run that was stopped."""
    deterministic: bool = True
    """Request deterministic GPU kernels from XLA, without which resuming is not bit-identical on a GPU."""

    hosts: Hosts = Hosts()
    """The processes that work on the run."""
    log: Literal["files", "wandb"] = "files"
    """Where curves and images go: to the workdir's files, metrics.jsonl and TensorBoard's, or to these and to Weights &
    Biases, whose client must be installed."""
    dry_run: bool = False
    """Train nothing and write nothing: print the memory that the run takes, and about how long it will take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workdir", "initial"):
            if (path := getattr(self, name)) is not None and (not path or "://" in path):
                raise SettingError(f"{name} is {path!r}; give a path on this machine's disks")
            if path is not None and path.startswith("~"):
                raise SettingError(f"{name} is {path!r}, which only a shell reads as a home; write it out")
        if self.stages > 1 and self.initial is not None:
            raise SettingError(f"initial is {self.initial!r}, and stages make their first sets; leave one of them out")


C = TypeVar("C", bound=Config)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the settings of a run come from; every option changes one of them."""

    config: Annotated[str | None, tyro.conf.arg(metavar="PRESET[:ipc=N]|FILE.py")] = None
    """A preset that `jaxdd list` names, or a Python file with get_config(); both take arguments, as in
    cifar10_mtt:ipc=10. By default the digits run."""
    method: Literal[tuple(METHODS)] | None = None  # type: ignore[valid-type]
    """A method with its own default settings, in place of a preset."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NETWORK[:width=N]|FILE.py:NAME")] = None
    """A network in its usual size, in place of the configuration's: convnet, mlp, resnet10, resnet18, resnet34, vgg11,
    alexnet, lenet, vit, or a function of your own that makes one."""

    def settings(self) -> Config:
        """Return the settings to start from.

        Raises:
            SettingError: A preset and a method are named, or the configuration cannot be had.
        """
        if self.method is None:
            config = Config() if self.config is None else load_config(self.config)
        elif self.config is not None:
            raise SettingError(
                f"--config {self.config} chooses a method as well as --method {self.method}; leave one of them out"
            )
        else:
            config = Config(method=METHODS[self.method].Config(), workdir=f"runs/{self.method}")
        return config if self.model is None else dataclasses.replace(config, model=from_name(self.model))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine(Start, Generic[C]):
    """A command that has the settings of a run among its own."""

    changed: Annotated[C, tyro.conf.arg(name="")]
    """The settings, as the options changed them."""


def command_line(words: Sequence[str], kind: type[C]) -> CommandLine[C]:
    """Build a command line without its options from what `--config` or `--method` start from.

    Args:
        words: The words behind the command's name.
        kind: Its settings: `Config`, or a dataclass that adds fields to it.

    Raises:
        SettingError: They name no configuration.
        SystemExit: A value is missing, or names no method.
    """
    start, others = cli(Start, args=[w for w in words if w not in HELP], prog="jaxdd", return_unknown_args=True)
    settings = start.settings()
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Config)}
    changed = kind(**{**fields, "method": _with_groups(settings.method, others, everything=bool({*words} & HELP))})
    return CommandLine(config=start.config, method=start.method, model=start.model, changed=changed)


def _with_groups(method: MethodConfig, words: Sequence[str], *, everything: bool) -> MethodConfig:
    """Put default settings for those groups of a method that are left out and that words set.

    tyro has options for groups that are there: `--method.weighting.temperature 2` turns the weighting on.
    """
    kinds, groups = get_type_hints(type(method)), dict[str, Any]()
    for field in dataclasses.fields(method):
        choices = get_args(kinds[field.name])
        group = next((kind for kind in choices if isinstance(kind, type) and issubclass(kind, Settings)), None)
        option = f"--method.{field.name.replace('_', '-')}."
        asked = everything or any(word.replace("_", "-").startswith(option) for word in words)
        if group is not None and getattr(method, field.name) is None and asked:
            groups[field.name] = group()
    return dataclasses.replace(method, **groups)


def parse(words: Sequence[str]) -> Config:
    """Read the command line of a run: `[--config PRESET|FILE.py] [--method NAME] [--field value …]`, dotted names.

    Raises:
        SettingError: A bad value.
        SystemExit: `--help`, or an unknown field.
    """
    default = command_line(words, Config)
    read: CommandLine[Config] = cli(CommandLine[Config], args=words, default=default, prog="jaxdd run")
    return read.changed


def load_config(source: str | Path) -> Config:
    """Read a configuration: a preset, or a Python file that defines `get_config()`, and arguments of that function.

    Args:
        source: `cifar10_mtt`, `cifar10_mtt:ipc=10`, `path.py`, or `path.py:ipc=10,name=value`.

    Returns:
        What `get_config` returns; arguments that were given end the name of its workdir, as `runs/cifar10_mtt_ipc10`.

    Raises:
        SettingError: There is no such preset or file, an argument is none that `get_config` is annotated to take, it
            fails, or what it returns is no `Config`.
    """
    name, words = re.fullmatch(r"(.*?)(?::(\w+=.*))?", str(source), re.DOTALL).groups()  # type: ignore[union-attr]
    path = _find(name)
    arguments = by_name(words or "")
    sys.path.insert(0, str(path.parent.absolute()))  # as for a script: a method of one's own may lie beside it
    try:
        get_config = getattr(import_file(path), "get_config", None)
        values = {key: literal(word) for key, word in arguments.items()}
        for key, value in values.items():
            check_value(key, value, getattr(get_config, "__annotations__", {}).get(key))
        config = get_config(**values) if callable(get_config) else None
    except Exception as error:
        raise SettingError(
            f"--config {source} fails{_place(error, path)} with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, Config):
        raise SettingError(f"--config {source} must define get_config() that returns a jaxdd.Config, not {config!r}")
    if type(config) is not Config:
        raise SettingError(
            f"--config {source} returns a {type(config).__name__}, whose further fields no command would read; return "
            "a jaxdd.Config, and give a method's settings to the Config of the method"
        )
    if arguments:
        ending = re.sub(r"[^\w.-]", "-", "_".join(key + word for key, word in arguments.items()))
        config = dataclasses.replace(config, workdir=f"{config.workdir}_{ending}")
    return config


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    if name in PRESETS:
        return PRESETS[name]
    if name.endswith(".py"):
        raise SettingError(
            f"--config {name}: no such file; give a Python file that defines get_config() -> jaxdd.Config"
        )
    near = difflib.get_close_matches(name, PRESETS, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SettingError(f"--config {name}: no such preset or file. {hint}There are {', '.join(PRESETS)}")


def _place(error: Exception, path: Path) -> str:
    """Return where in the file an error arose: its own last line that was running, with its text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" at {path}:{error.lineno} `{(error.text or '').strip()}`"
    return f" at {path}:{frames[-1].lineno} `{frames[-1].line}`" if frames else ""
