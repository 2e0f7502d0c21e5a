"""The configuration of a run: nested frozen dataclasses, a Python file, and typed overrides from the command line."""

import argparse
import dataclasses
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig
from jaxdd.methods import ClasswiseConfig, MethodConfig, Weighting, infmatch
from jaxdd.models import ModelConfig
from jaxdd.settings import Seed, Settings


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """A run of jaxdd. The defaults are the digits run: real 8×8 digits, one image per class, Inf-Match, two minutes."""

    data: DataConfig = DataConfig()
    """The real data."""
    model: ModelConfig = ModelConfig(width=32, depth=2)
    """The network of experts, distillation and evaluation."""
    experts: ExpertsConfig = ExpertsConfig()
    """Expert trajectories."""
    method: MethodConfig = infmatch.Config()
    """The distillation method; which one it is, the config file says."""
    evaluate: EvaluateConfig = EvaluateConfig(recipe=Recipe(epochs=300, augment="color_crop_cutout_scale_rotate"))
    """Scoring."""
    initial: str | None = None
    """A distilled.npz to start from; by default method.init and method.labels say what the first set is."""
    seed: Annotated[int, Seed] = 0
    """Root of all randomness of the run, but for the validation split (data.split_seed)."""
    workdir: str = "runs/digits_infmatch"
    """Folder for everything that the run writes; the same command continues a run that was stopped."""
    deterministic: bool = True
    """Have the launcher ask XLA for deterministic GPU kernels, without which resuming is not bit-identical on a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workdir", "initial"):
            if (path := getattr(self, name)) is not None and (not path or "://" in path):
                raise SettingError(f"{name} is {path!r}; give a path on this machine's disks")


C = TypeVar("C", bound=Config)


def load_config(path: str | Path) -> Config:
    """Read a configuration file: Python that defines `get_config()`.

    Args:
        path: The file.

    Returns:
        What its `get_config()` returns.

    Raises:
        SettingError: There is no such file, it fails, or it defines no `get_config()` that returns a `Config`.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingError(
            f"--config {path}: no such file; give a Python file that defines get_config() -> jaxdd.Config"
        )
    sys.path.insert(0, str(path.parent.absolute()))  # as for a script: a method of one's own may lie beside it
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
    except Exception as error:
        raise SettingError(
            f"--config {path} fails{_place(error, path)} with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, Config):
        raise SettingError(f"--config {path} must define get_config() that returns a jaxdd.Config, not {config!r}")
    return config


def _place(error: Exception, path: Path) -> str:
    """Return where in the file an error arose: its own last line that was running, with its text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" at {path}:{error.lineno} `{(error.text or '').strip()}`"
    return f" at {path}:{frames[-1].lineno} `{frames[-1].line}`" if frames else ""


def parse(
    arguments: Sequence[str],
    kind: type[C] = Config,  # type: ignore[assignment]
    *,
    command: str = "python -m jaxdd.main",
    description: str = "Distill a dataset: train experts, learn the small set, evaluate it, write a report. "
    "`python -m jaxdd.main evaluate DISTILLED.npz` scores a saved set again, and "
    "`python -m jaxdd.main influence` the training examples.",
) -> C:
    """Read the command line: `[--config FILE.py] [--field value …]`, the fields of `Config` by their dotted names.

    Args:
        arguments: The words of the command line.
        kind: What to read: `Config`, or a dataclass that adds fields to it.
        command: How the command line begins.
        description: What the command does.

    Raises:
        SettingError: A bad value.
        SystemExit: `--help`, or an unknown field.
    """
    file = argparse.ArgumentParser(command, add_help=False, allow_abbrev=False)
    file.add_argument("--config")
    known, overrides = file.parse_known_args(arguments)
    default = kind()
    if known.config is not None:
        default = kind(**vars(load_config(known.config)))
        command += f" --config {known.config}"
    method = default.method
    asked = any(word in ("-h", "--help") or word.startswith("--method.weighting.") for word in overrides)
    if isinstance(method, ClasswiseConfig) and asked:
        weighting = method.weighting or Weighting()
        default = dataclasses.replace(default, method=dataclasses.replace(method, weighting=weighting))
    return tyro.cli(
        kind,
        args=overrides,
        default=default,
        prog=command,
        description=f"{description} --config FILE.py names a Python file whose get_config() gives the method and the "
        "defaults below.",
        config=(tyro.conf.AvoidSubcommands,),
    )
