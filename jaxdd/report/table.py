"""An evaluation table as text, Markdown, CSV and figure."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.io.files import atomic_write, write_json
from jaxdd.report.plots import GRAY

HEAD = ("set", "labels", "augmentation", "per class", "normalization", "bytes per class")


def lines(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the head of a table, and its lines: a row for each set and labels, a column for each network.

    Args:
        results: As `jaxdd.app.evaluate.evaluate` returns them.
    """
    networks = [*results["networks"]]
    rows: dict[Any, tuple[list[str], dict[str, str]]] = {}
    attacked = any("attacked" in cell for cell in results["cells"])
    for cell in results["cells"]:
        row = cell["row"]
        key = tuple(row.values())
        about = [
            *(str(row[key]) for key in ("name", "labels", "augment", "per_class", "normalization")),
            f"{row['bytes_per_class']:.0f}",
        ]
        columns = rows.setdefault(key, (about, {}))[1]
        columns[cell["network"]] = "diverged" if "diverged" in cell else percent(cell["accuracy"])
        if "attacked" in cell:
            columns[f"{cell['network']}, attacked"] = percent(cell["attacked"])
    named = [head for name in networks for head in ([name, f"{name}, attacked"] if attacked else [name])]
    return [*HEAD, *named], [[*about, *(columns.get(name, "") for name in named)] for about, columns in rows.values()]


def percent(accuracy: dict[str, Any]) -> str:
    """Write an accuracy in per cent, with the standard deviation over networks where there are several."""
    spread = f" ± {100 * accuracy['std']:.1f}" if len(accuracy["runs"]) > 1 else ""
    return f"{100 * accuracy['mean']:.1f}{spread}"


def text(results: dict[str, Any]) -> str:
    """Write a table for a terminal: what differs, and no more; then DD-Ranking's scores and what to doubt."""
    head, rows = lines(results)
    shown = [at for at in range(len(head)) if at < 2 or at >= len(HEAD) or len({row[at] for row in rows}) > 1]
    table = [[row[at] for at in shown] for row in [head, *rows]]
    widths = [max(len(row[at]) for row in table) for at in range(len(shown))]
    out = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table]
    for score in results["scores"]:
        values = ", ".join(f"{name.upper()} {score[name]:.3f}" for name in ("lrs", "ars") if name in score)
        out.append(f"DD-Ranking of {score['name']} on {score['network']}: {values}")
    for found in results["seeds"]:
        about = f"{', '.join(found['names'])}, {found['labels']} labels, {found['augment']}, on {found['network']}"
        out.append(f"over seeds of distillation, {about}: {100 * found['mean']:.1f} ± {100 * found['std']:.1f}")
    return "\n".join([*out, *(f"doubtful: {line}" for line in results["doubts"])])


def markdown(results: dict[str, Any]) -> str:
    """Write a table in Markdown, accuracies in per cent, and what to doubt below it."""
    head, rows = lines(results)
    table = [head, ["---"] * len(head), *rows]
    out = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([*out, "", *(f"- doubtful: {line}" for line in results["doubts"])]).strip() + "\n"


def as_csv(results: dict[str, Any]) -> str:
    """Write a line for every cell, numbers as they are."""
    out = io.StringIO()
    rows = []
    for cell in results["cells"]:
        own = {key: cell[key] for key in ("network", "lr", "seconds", "memory")}
        scores = {
            f"{name}_{part}": cell[name][part]
            for name in ("accuracy", "best", "attacked")
            if name in cell
            for part in ("mean", "std")
        }
        rows.append({**cell["row"], **own, **scores})
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, [*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def figure(results: dict[str, Any]) -> bytes:
    """Draw the table as PNG: a group of bars for each network, a bar for each row."""
    from matplotlib.figure import Figure

    networks = [*results["networks"]]
    rows: dict[Any, dict[str, Any]] = {}
    for cell in results["cells"]:
        row = cell["row"]
        rows.setdefault(tuple(row.values()), {})[cell["network"]] = cell.get("accuracy", {"mean": np.nan, "std": 0.0})
    width = 0.8 / len(rows)
    drawn = Figure(figsize=(2.5 + 0.35 * len(rows) * len(networks), 3.6), layout="constrained", dpi=150)
    axes = drawn.subplots()
    for at, (row, scores) in enumerate(rows.items()):
        x = np.arange(len(networks)) + (at - (len(rows) - 1) / 2) * width
        mean, std = (np.array([100 * scores[name][part] for name in networks]) for part in ("mean", "std"))
        axes.bar(x, mean, 0.9 * width, yerr=std, ecolor=GRAY, label=", ".join(row[:3]))
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=2)
    out = io.BytesIO()
    drawn.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write `table.json`, `table.csv`, `table.md` and `table.png` into a folder."""
    write_json(folder / "table.json", results)
    atomic_write(folder / "table.csv", as_csv(results).encode())
    atomic_write(folder / "table.md", markdown(results).encode())
    atomic_write(folder / "table.png", figure(results))
