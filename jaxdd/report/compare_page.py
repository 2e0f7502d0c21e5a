"""The page that puts several runs side by side: their scores, their curves on validation, their images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdd.core import distilled_pairs
from jaxdd.core.distilled import Distilled
from jaxdd.errors import SettingError
from jaxdd.io.files import atomic_write
from jaxdd.report import page, plots
from jaxdd.report.metrics import read
from jaxdd.report.pairs_page import pairs_figure
from jaxdd.report.run_page import grid_figure
from jaxdd.report.table import percent

COLUMNS = (
    "run",
    "dataset",
    "method",
    "images per class",
    "distilled, %",
    "random real, %",
    "full data, %",
    "distilled in",
)


class Run(NamedTuple):
    """What a finished run has left.

    Attributes:
        results: Its `results.json`.
        records: Its lines on validation.
        figure: Its set, drawn as HTML.
    """

    results: dict[str, Any]
    records: list[dict[str, Any]]
    figure: str


def finished(workdir: str | Path) -> Run:
    """Read a finished run.

    Raises:
        SettingError: The run has not finished, or is damaged.
    """
    folder = Path(workdir)
    path = folder / "results.json"
    if not path.exists():
        raise SettingError(
            f"{folder} holds no finished run: {path.name} is missing; run it to its end, or leave it out"
        )
    try:
        results = json.loads(path.read_text())
        row(str(folder), results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            f"{path} is damaged ({error!r}); run it again from its workdir, which computes nothing anew"
        ) from error
    metrics = folder / "metrics.jsonl"
    records = read(metrics, "validate") if metrics.exists() else []
    path, name = folder / "distilled.npz", folder.name
    if distilled_pairs.is_pairs(path):
        return Run(results, records, pairs_figure(*distilled_pairs.load(path), name))
    return Run(results, records, grid_figure(*Distilled.load(path), name, most=400_000))


def row(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the cells of a run, in the order of `COLUMNS`."""
    scores = [percent(results[key]) if results.get(key) else "–" for key in ("distilled", "random_real", "full_data")]
    seconds = float(results["seconds"]["distill"])
    took = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
    return [name, str(results["dataset"]), str(results["method"]), str(results["ipc"]), *scores, took]


def write_comparison(path: str | Path, workdirs: Sequence[str | Path]) -> Path:
    """Write a page about several finished runs that needs no other file and no network.

    Args:
        path: The page.
        workdirs: The runs' folders.

    Returns:
        The path.

    Raises:
        SettingError: A run has not finished, or is damaged.
    """
    names = [folder.name or str(folder) for folder in map(Path, workdirs)]
    if len({*names}) < len(names):
        names = [str(folder) for folder in workdirs]
    runs = {name: finished(folder) for name, folder in zip(names, workdirs, strict=True)}
    rows = sorted((row(name, run.results) for name, run in runs.items()), key=lambda cells: (cells[1], int(cells[3])))
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, run in runs.items():
        curves.setdefault(str(run.results["dataset"]), {})[name] = run.records
    title = f"{len(runs)} runs"
    body = "\n".join(
        [
            f"<h1>{title}</h1>",
            page.section("Test accuracy, or recall of pairs", _table(rows)),
            *(
                page.section(f"Validation, {dataset}", plots.compared_curves(score, found))
                for dataset, found in curves.items()
                for score in ("accuracy", "recall")
                if any(score in record for records in found.values() for record in records)
            ),
            *(page.section(name, run.figure) for name, run in runs.items()),
        ]
    )
    atomic_write(path, page.render(title, body).encode())
    return Path(path)


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{page.text(name)}</th>" for name in COLUMNS)
    lines = ("".join(f"<td>{page.text(cell)}</td>" for cell in cells) for cells in rows)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )
