"""What the benchmarks share: rows of a table in Markdown, and runs of configs with flags."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.app.config import Config, parse


def header(*columns: str) -> None:
    """Print the head of a table."""
    row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def row(*cells: Any) -> None:
    """Print a row at once, for benchmarks take hours; a cell without a value, None, is a dash."""
    print(f"| {' | '.join('–' if cell is None else str(cell) for cell in cells)} |", flush=True)


def percent(accuracies: Sequence[float]) -> str:
    """Return mean ± standard deviation of accuracies of networks."""
    return f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies):.1f}"


def add_run_flags(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the flags of a benchmark whose rows are runs."""
    parser.add_argument("data", choices=["digits", "fashion_mnist"])
    parser.add_argument("--only", nargs="+", help="rows whose name has one of these in it")
    parser.add_argument("--add", default="", help="flags for every run")
    parser.add_argument("--out", default=out)


def wanted(name: str, arguments: argparse.Namespace) -> bool:
    """Return whether `--only` asks for a row."""
    return not arguments.only or any(part in name for part in arguments.only)


def configured(data: str, flags: str, workdir: Path) -> Config:
    """Return the settings of a row: those of a config, `mtt` in `mtt --method.ipc 1`, and the flags after it."""
    method, *others = flags.split()
    return parse(["--config", f"configs/{data}_{method}.py", *others, "--workdir", str(workdir)])
