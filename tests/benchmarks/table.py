"""What the benchmarks share: rows of a table in Markdown, and runs of configs with flags."""

import argparse
import json
from collections.abc import Callable, Sequence
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


class Cells:
    """Cells of a table that takes hours: lines of OUT/cells.jsonl; those that are there are not computed again."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "cells.jsonl"
        self.cells = [json.loads(line) for line in self.path.open()] if self.path.exists() else []

    def of(self, **key: Any) -> list[dict[str, Any]]:
        """Return the cells that are there and have these values."""
        return [cell for cell in self.cells if all(cell[name] == value for name, value in key.items())]

    def computed(self, compute: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """Return the cell of these values, computed if it is not there, and kept."""
        if not self.of(**key):
            self.cells.append(key | compute())
            with self.path.open("a") as file:
                file.write(json.dumps(self.cells[-1]) + "\n")
        return self.of(**key)[0]


def configured(data: str, flags: str, workdir: Path) -> Config:
    """Return the settings of a row: those of a config, `mtt` in `mtt --method.ipc 1`, and the flags after it."""
    method, *others = flags.split()
    return parse(["--config", f"configs/{data}_{method}.py", *others, "--workdir", str(workdir)])
