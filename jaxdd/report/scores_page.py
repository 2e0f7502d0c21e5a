"""Scores of the training examples, as a ranked table and as a page with both ends of every class.

Axis letter: N training examples.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd.core.ranking import mislabeled_auc, ranking
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.io.files import atomic_write
from jaxdd.report import page, plots

SHOWN_EXTREMES = 10
"""Training examples of a class that a page shows of either end of their scores."""

TABLES = (".csv", ".parquet")


def write_scores(
    path: str | Path,
    scores: np.ndarray,
    dataset: Dataset,
    *,
    title: str,
    about: str,
    settings: Any,
    ends: tuple[str, str] = ("highest", "lowest"),
    spread: np.ndarray | None = None,
) -> Path:
    """Write scores of the training examples: a ranked table, and beside it a page with both ends of every class.

    The table has the columns index (position in `dataset.train`), source_index (`dataset.positions`, in the data as
    they were before the validation split was taken), label, class, score and rank, the highest score first; std, if a
    spread is given; mislabeled and true_class, where it is known which labels are wrong on purpose
    (`dataset.mislabeled`); and file, where the images are files. The page marks wrong labels, says how well the scores
    tell them from the others, and names the files.

    Args:
        path: the table to write or replace, `.csv` or `.parquet`; the page has the same name with `.html`.
        scores: `[N]` a finite score for every example of `dataset.train`.
        dataset: the examples.
        title: the headline.
        about: what the scores are, and what a high one means.
        settings: how they came about, in any form that JSON can show.
        ends: what examples of high and of low scores are called.
        spread: `[N]` the standard deviation of each score.

    Returns:
        The path of the page.

    Raises:
        SettingError: the table is neither kind, or scores are not finite or do not fit the dataset.
    """
    table = ranking(scores, dataset.train.labels)
    columns = _columns(table, dataset, spread, named=name_of(path))
    sections = _sections(np.asarray(scores), dataset, ends)
    facts = f"{len(scores)} training examples of {dataset.name} · {about}"
    return write_table_and_page(path, columns, title, facts, sections, settings)


def write_table_and_page(
    path: str | Path, columns: dict[str, Any], title: str, facts: str, sections: list[str], settings: Any
) -> Path:
    """Write scores as a table of columns, and beside it, as `.html`, a page: title, facts, sections, settings.

    Raises:
        SettingError: see `check_table`.
    """
    path = Path(path)
    check_table(path)
    atomic_write(path, _table_bytes(columns, path.suffix))
    head = [f"<h1>{page.text(title)}</h1>", f'<p class="facts">{page.text(facts)}</p>']
    body = "\n".join([*head, *sections, page.section("Settings", page.folded("config", settings))])
    place = path.with_suffix(".html")
    atomic_write(place, page.render(title, body).encode())
    return place


def check_table(path: str | Path) -> None:
    """Refuse a table that cannot be written.

    Raises:
        SettingError: the name ends neither in `.csv` nor in `.parquet`, or its page would be a run's report.
    """
    if Path(path).stem == "report":
        raise SettingError(
            f"the table of scores is called {path}, and its page would replace a run's report.html; rename it"
        )
    if Path(path).suffix not in TABLES:
        raise SettingError(f"the table of scores is called {path}; end its name in {' or '.join(TABLES)}")


def name_of(path: str | Path) -> Callable[[str], str]:
    """Return how a table writes a name: as it is, or where a spreadsheet would take it for a formula, after a `'`."""
    if Path(path).suffix != ".csv":
        return str
    return lambda name: f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _columns(
    table: np.ndarray, dataset: Dataset, spread: np.ndarray | None, named: Callable[[str], str]
) -> dict[str, Any]:
    names = [named(name) for name in dataset.class_names]
    columns = {"index": table["index"], "source_index": dataset.positions[table["index"]]}
    columns |= {"label": table["label"], "class": np.array(names)[table["label"]]}
    columns |= {name: table[name] for name in ("score", "rank")}
    if spread is not None:
        columns["std"] = spread[table["index"]]
    if dataset.mislabeled is not None:
        columns["mislabeled"] = dataset.mislabeled[table["index"]]
    if dataset.true_labels is not None:
        columns["true_class"] = np.array(names)[dataset.true_labels[table["index"]]]
    if dataset.files is not None:
        columns["file"] = np.array([named(file) for file in dataset.files[table["index"]].tolist()])
    return columns


def _table_bytes(columns: dict[str, Any], kind: str) -> bytes:
    """Return columns as the content of a `.csv` or `.parquet`."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    buffer = io.BytesIO()
    write = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}[kind]
    write(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _sections(scores: np.ndarray, dataset: Dataset, ends: tuple[str, str]) -> list[str]:
    labels, wrong = dataset.train.labels, dataset.mislabeled
    most = max(1, min(SHOWN_EXTREMES, 1000 // dataset.num_classes))
    order = np.argsort(-scores, kind="stable")
    rows = []
    for c, name in enumerate(dataset.class_names):
        members = order[labels[order] == c]
        high = members[: min(most, -(-len(members) // 2))]
        low = members[::-1][: min(most, len(members) // 2)]
        cells = "".join(f"<td>{_examples(end, scores, dataset)}</td>" for end in (high, low))
        rows.append(f"<tr><th>{page.text(name)}</th>{cells}</tr>")
    groups, found, truth = {"all": scores}, "", ""
    named = "" if dataset.files is None else ", the name of its file"
    if wrong is not None:
        groups = {"label as given": scores[~wrong], "label replaced on purpose": scores[wrong]}
        truth = ", and its true class where the label was replaced"
        area = mislabeled_auc(scores, wrong)
        caught = np.mean(wrong[order[::-1][: wrong.sum()]])
        found = (
            f"<p>{wrong.sum()} of the {len(wrong)} labels were replaced on purpose (outlined). A replaced label has a "
            f"lower score than another one with probability {area:.3f} (area under the ROC curve; 0.5 is chance). Of "
            f"the {wrong.sum()} lowest scores {caught:.0%} belong to replaced labels.</p>"
        )
    return [
        page.section("Scores", plots.compared_histograms(groups) + found),
        page.section(
            f"{ends[0].capitalize()} and {ends[1]} of every class",
            f'<table class="examples"><thead><tr><th></th><th>{ends[0]}</th><th>{ends[1]}</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>"
            f"<p>Under every image its index in the table of scores{named}{truth}.</p>",
        ),
    ]


def _examples(rows: np.ndarray, scores: np.ndarray, dataset: Dataset) -> str:
    """Show training examples side by side, their positions below, and the true class where the label is wrong."""
    shown = []
    for row in rows:
        kind, caption, note = "", str(row), ""
        if dataset.files is not None:
            caption = f"{row} {Path(dataset.files[row]).name}"
        if dataset.true_labels is not None and dataset.true_labels[row] != dataset.train.labels[row]:
            truth = dataset.class_names[dataset.true_labels[row]]
            kind, note = "wrong", f", label replaced on purpose, truly {truth}"
            caption += f", truly {truth}"
        alt = f"example {row}, score {scores[row]:.4g}{note}"
        shown.append(page.figure(thumbnail(dataset.train.images[row]), caption, kind, alt))
    return f'<div class="examples">{"".join(shown)}</div>'


def thumbnail(pixels: np.ndarray) -> bytes:
    """Return an image `[H, W, K]` uint8 as a small PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    image.thumbnail((96, 96))
    image.save(buffer, "png")
    return buffer.getvalue()
