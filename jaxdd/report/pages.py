"""Pictures of a distilled set, one page that tells what a run did, and one about scores of training examples.

Matplotlib is imported where it draws, through its object interface: no display, no state of pyplot. Axis letters:
M distilled items, N training examples, C classes, H W K image height, width and channels.
"""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.normalization import ZCA
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.influence import mislabeled_auc, ranking
from jaxdd.io.files import atomic_write, plain
from jaxdd.report.metrics import read
from jaxdd.types import Array

SHOWN_PER_CLASS = 50
"""Images of a class that a grid shows, the first ones."""

SHOWN_EXTREMES = 10
"""Training examples of a class that a page shows of either end of their scores."""

DPI = 100
GRAY, BLUE, ORANGE = "#8b8f97", "#4a8fe7", "#e0782f"
"""Colors of text and of data that are legible on white and on black."""


def image_grid(
    images: Array | np.ndarray,
    classes: Array | np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str | None = None,
) -> None:
    """Draw images to a PNG file, one row per class, up to `SHOWN_PER_CLASS` each.

    Small images are enlarged by a whole factor, so that their pixels show. Where rows are short and classes many, the
    rows stand in several columns.

    Args:
        images: `[M, H, W, K]`, 0 black to 1 white; clipped to this range. Three channels are red, green and blue; of
            any other number the mean is drawn in gray.
        classes: `[M]` class indices; for soft labels, of the largest probability.
        class_names: C names; a class without images has an empty row.
        path: the PNG file to write or replace.
        title: a line above the grid.

    Raises:
        ValueError: if the shapes do not fit, or a class has no name.
    """
    atomic_write(path, _grid(np.asarray(images), np.asarray(classes), class_names, title=title))


def write_report(
    workdir: str | Path,
    *,
    distilled: Distilled,
    card: Card,
    results: Mapping[str, Any],
    config: Any,
    metrics_path: str | Path | None,
    histograms: Mapping[str, np.ndarray] | None = None,
    evaluate_command: str = "python -m jaxdd.main evaluate distilled.npz",
) -> Path:
    """Write `report.html`, one page that needs no other file and no network.

    Args:
        workdir: the folder to write to.
        distilled: the set that was evaluated.
        card: its card.
        results: `dataset`, `method`, `ipc` and `distilled`, and optionally `random_real`, `full_data`, `selected_on`,
            `steps`, `seconds` (stage to seconds) and `versions`. Each of the three accuracies is a mapping of `mean`,
            `std` and `runs`, as fractions, or None.
        config: the settings of the run, in any form that JSON can show.
        metrics_path: the `metrics.jsonl` whose scalars, and histograms over the steps, are plotted; nothing if it is
            None or absent.
        histograms: title to values of any shape, drawn as one histogram each; what is not finite is left out.
        evaluate_command: the shell command that evaluates the set again.

    Returns:
        The path of the page.

    Raises:
        ValueError: if `metrics_path` holds a broken line.
    """
    name = f"{results['dataset']} · {results['method']} · {_images_per_class(results['ipc'])}"
    body = "\n".join(
        [
            f"<h1>{_text(name)}</h1>",
            _summary(distilled, card, results),
            _section("Accuracy", _accuracies(results, card)),
            _section("Images", _grid_figure(distilled, card)),
            *_curves(metrics_path, card.provenance.get("step")),
            _section("Distributions", _histograms(distilled, card, histograms or {})),
            _section("Use the set", _usage(card, evaluate_command)),
            '<div class="columns">',
            _section("Recipe of the networks", _table(card.recipe)),
            _section("Time", _table({stage: _duration(s) for stage, s in (results.get("seconds") or {}).items()})),
            _section("Versions", _table(results.get("versions") or {})),
            "</div>",
            _section("Settings", _folded("config", config) + _folded("provenance", card.provenance)),
        ]
    )
    path = Path(workdir) / "report.html"
    atomic_write(path, _PAGE.format(title=_text(name), body=body).encode())
    return path


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
    spread is given; and mislabeled, where it is known which labels are wrong on purpose (`dataset.mislabeled`). The
    page marks those, and says how well the scores tell them from the others.

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
        ValueError: the table is neither kind, or scores are not finite or do not fit the dataset.
    """
    path = Path(path)
    check_table(path)
    table = ranking(scores, dataset.train.labels)
    atomic_write(path, _scores_table(table, dataset, spread, path.suffix))
    page = path.with_suffix(".html")
    atomic_write(page, _scores_page(np.asarray(scores), dataset, title, about, settings, ends).encode())
    return page


def check_table(path: str | Path) -> None:
    """Refuse a table that cannot be written.

    Raises:
        ValueError: the name ends neither in `.csv` nor in `.parquet`, or its page would be a run's report.
    """
    if Path(path).stem == "report":
        raise SettingError(
            f"the table of scores is called {path}, and its page would replace a run's report.html; rename it"
        )
    if Path(path).suffix not in TABLES:
        raise SettingError(f"the table of scores is called {path}; end its name in {' or '.join(TABLES)}")


def _scores_table(table: np.ndarray, dataset: Dataset, spread: np.ndarray | None, kind: str) -> bytes:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    columns = {"index": table["index"], "source_index": dataset.positions[table["index"]]}
    columns |= {"label": table["label"], "class": np.array(dataset.class_names)[table["label"]]}
    columns |= {name: table[name] for name in ("score", "rank")}
    if spread is not None:
        columns["std"] = spread[table["index"]]
    if dataset.mislabeled is not None:
        columns["mislabeled"] = dataset.mislabeled[table["index"]]
    buffer = io.BytesIO()
    write = {".csv": pyarrow.csv.write_csv, ".parquet": pyarrow.parquet.write_table}[kind]
    write(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _scores_page(
    scores: np.ndarray, dataset: Dataset, title: str, about: str, settings: Any, ends: tuple[str, str]
) -> str:
    labels, wrong = dataset.train.labels, dataset.mislabeled
    most = max(1, min(SHOWN_EXTREMES, 1000 // dataset.num_classes))
    order = np.argsort(-scores, kind="stable")
    rows = []
    for c, name in enumerate(dataset.class_names):
        members = order[labels[order] == c]
        high = members[: min(most, -(-len(members) // 2))]
        low = members[::-1][: min(most, len(members) // 2)]
        cells = "".join(f"<td>{_examples(end, scores, dataset)}</td>" for end in (high, low))
        rows.append(f"<tr><th>{_text(name)}</th>{cells}</tr>")
    groups, found = {"all": scores}, ""
    if wrong is not None:
        groups = {"label as given": scores[~wrong], "label replaced on purpose": scores[wrong]}
        area = mislabeled_auc(scores, wrong)
        caught = np.mean(wrong[order[::-1][: wrong.sum()]])
        found = (
            f"<p>{wrong.sum()} of the {len(wrong)} labels were replaced on purpose (outlined). A replaced label has a "
            f"lower score than another one with probability {area:.3f} (area under the ROC curve; 0.5 is chance). Of "
            f"the {wrong.sum()} lowest scores {caught:.0%} belong to replaced labels.</p>"
        )
    body = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            f'<p class="facts">{len(scores)} training examples of {_text(dataset.name)} · {_text(about)}</p>',
            _section("Scores", _scores_histogram(groups) + found),
            _section(
                f"{ends[0].capitalize()} and {ends[1]} of every class",
                f'<table class="examples"><thead><tr><th></th><th>{ends[0]}</th><th>{ends[1]}</th></tr></thead>'
                f"<tbody>{''.join(rows)}</tbody></table><p>Under every image its index in the table of scores.</p>",
            ),
            _section("Settings", _folded("config", settings)),
        ]
    )
    return _PAGE.format(title=_text(title), body=body)


def _examples(rows: np.ndarray, scores: np.ndarray, dataset: Dataset) -> str:
    """Show training examples side by side, their positions below."""
    wrong = dataset.mislabeled if dataset.mislabeled is not None else np.zeros(len(scores), bool)
    shown = []
    for row in rows:
        buffer = io.BytesIO()
        pixels = dataset.train.images[row]
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        image.thumbnail((96, 96))
        image.save(buffer, "png")
        kind, note = ("wrong", ", label replaced on purpose") if wrong[row] else ("", "")
        shown.append(_figure(buffer.getvalue(), str(row), kind, f"example {row}, score {scores[row]:.4g}{note}"))
    return f'<div class="examples">{"".join(shown)}</div>'


def _scores_histogram(groups: Mapping[str, np.ndarray]) -> str:
    figure, axes = _axes("number of examples by score")
    for (name, values), color in zip(groups.items(), (BLUE, ORANGE), strict=False):
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 60)
        axes.hist(values, edges, color=color, label=name, alpha=0.75)
    axes.set_yscale("log")
    if len(groups) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=GRAY)
    return f'<div class="plots">{_figure(_png(figure), alt="Histogram of the scores")}</div>'


# The grid


def _grid(
    images: np.ndarray,
    classes: np.ndarray,
    class_names: Sequence[str],
    *,
    title: str | None = None,
    per_class: int = SHOWN_PER_CLASS,
    pixels: int = 8_000_000,
    text: str = "black",
    background: str = "white",
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    if images.ndim != 4 or classes.shape != images.shape[:1]:
        raise SettingError(f"need images [M, H, W, K] and classes [M], got {images.shape} and {classes.shape}")
    if classes.size and not 0 <= classes.min() <= classes.max() < len(class_names):
        raise SettingError(f"classes run from {classes.min()} to {classes.max()}, with {len(class_names)} class names")
    rows = [np.flatnonzero(classes == c)[:per_class] for c in range(len(class_names))]
    widest = max([1, *map(len, rows)])
    height, width = _cell_size(images.shape[1], images.shape[2], widest, len(rows), pixels)
    gap = 1 if height < 24 else 2

    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    font = FontProperties(size=min(14.0, max(8.0, 0.7 * height)) * 72 / DPI)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in class_names]
    measure = canvas.get_renderer().get_text_width_height_descent
    label = 6 + math.ceil(max([0, *(measure(name, font, False)[0] for name in names)]))
    block = label + widest * (width + gap) + 10
    line = max(height + gap, math.ceil(font.get_size() * DPI / 72) + 2)
    columns = _columns(block, line, len(rows))
    lines = -(-len(rows) // columns)
    head = 26 if title else 4
    mosaic = np.zeros((head + lines * line + 4, columns * block + 4, 4), np.uint8)

    figure = canvas.figure
    figure.set_size_inches(mosaic.shape[1] / DPI, mosaic.shape[0] / DPI)
    figure.set_facecolor(background)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        left, top = number // lines * block + label + 4, number % lines * line + head
        for position, index in enumerate(row):
            x = left + position * (width + gap)
            mosaic[top : top + height, x : x + width] = _picture(images[index], height, width)
        figure.text(
            (left - 6) / mosaic.shape[1],
            1 - (top + height / 2) / mosaic.shape[0],
            name,
            fontproperties=font,
            color=text,
            ha="right",
            va="center_baseline",
            parse_math=False,
        )
    if title:
        figure.text(8 / mosaic.shape[1], 1 - 13 / mosaic.shape[0], title, color=text, va="center", parse_math=False)
    figure.figimage(mosaic, origin="upper")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=background)
    return buffer.getvalue()


def _cell_size(height: int, width: int, widest: int, rows: int, pixels: int) -> tuple[int, int]:
    """Return the size at which an image is drawn: enlarged by a whole factor, or reduced to what there is room for."""
    native = max(height, width)
    room = min(2400 / widest, math.sqrt(pixels / max(1, rows * widest)))
    side = max(1, round(48 / native)) * native
    while side > max(room, native):
        side -= native
    side = max(min(side, int(room)), min(native, 8))
    return max(1, round(height * side / native)), max(1, round(width * side / native))


def _columns(block: int, line: int, rows: int) -> int:
    """Return the number of columns that brings the grid closest to the proportions of a page, 4 : 3."""

    def distance(columns: int) -> float:
        return abs(math.log(columns * block / (-(-rows // columns) * line) / (4 / 3)))

    return min(range(1, rows + 1), key=distance, default=1)


def _picture(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return one image as `[height, width, 4]` uint8."""
    if image.shape[-1] != 3:
        image = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    levels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    filtering = Image.Resampling.NEAREST if height >= image.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(levels).resize((width, height), filtering).convert("RGBA"))


def _grid_figure(distilled: Distilled, card: Card, *, most: int = 1_100_000) -> str:
    """Return the grid for the page, of as many images per class as fit into so many bytes."""
    images = np.asarray(card.normalization.inverse(distilled.images))
    classes = np.asarray(distilled.labels).argmax(axis=1)
    largest = int(np.bincount(classes, minlength=1).max())
    # Fewer images whole before all of them reduced; only where one per class is too much are they made smaller.
    area = images.shape[1] * images.shape[2] * len(card.class_names)
    attempts = [(shown, max(600_000, shown * area)) for shown in (min(largest, 50), 20, 10, 5, 2, 1)]
    for shown, pixels in [*attempts, (1, 250_000), (1, 60_000)]:
        if shown > largest or pixels > 4_000_000:
            continue
        png = _grid(images, classes, card.class_names, per_class=shown, pixels=pixels, text=GRAY, background="none")
        if len(png) <= most:
            break
    parts = ["One row per class" if card.label_kind == "hard" else "One row per most probable class"]
    if shown < largest:
        parts.append(f"the first {shown} of up to {largest} images of each")
    parts.append("normalization undone and clipped to what a screen shows")
    return _figure(png, ", ".join(parts) + ".", "grid")


# Curves and histograms


def _curves(path: str | Path | None, saved_step: Any) -> list[str]:
    if path is None or not Path(path).exists():
        return []
    records = read(path)
    stages = list(dict.fromkeys(record["stage"] for record in records))
    order = {"distill": 0, "validate": 1, "inspect": 2, "experts": 3}
    titles = {"distill": "Distillation", "validate": "Validation", "inspect": "Inspection", "experts": "Experts"}
    sections = []
    for stage in sorted(stages, key=lambda stage: order.get(stage, len(order))):
        of_stage = [record for record in records if record["stage"] == stage]
        names = dict.fromkeys(name for record in of_stage for name in record if name not in ("step", "stage", "time"))
        mark = saved_step if stage != "experts" and isinstance(saved_step, int) else None
        plots = "".join(_curve(name, of_stage, mark) + _histogram_over_steps(name, of_stage) for name in names)
        note = "<p>The dashed line is the step that was saved.</p>" if mark is not None else ""
        sections.append(_section(titles.get(stage, stage), f'<div class="plots">{plots}</div>{note}' if plots else ""))
    return sections


def _curve(name: str, records: list[dict[str, Any]], mark: int | None) -> str:
    """Plot one scalar against the step: the mean of the values of a step, and their range where there are several."""
    pairs = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    if not pairs:
        return ""
    steps, values = np.asarray(pairs, np.float64).T
    finite = np.isfinite(values)
    lost = f"{np.sum(~finite)} of {len(values)} values are not finite" if not finite.all() else ""
    if not finite.any():
        return f"<p>{_text(name)}: {lost}</p>"
    steps, values = steps[finite], values[finite]
    unique, mean, low, high = _by_step(steps, values)

    figure, axes = _axes(name)
    few = len(unique) <= 40
    axes.plot(unique, mean, color=BLUE, linewidth=1.3, marker="o" if few else None, markersize=2.5)
    if (low < high).any():
        axes.fill_between(unique, low, high, color=BLUE, alpha=0.25, linewidth=0)
    if low.min() > 0 and high.max() > 100 * low.min() and "accuracy" not in name:
        axes.set_yscale("log")
    if mark is not None:
        axes.axvline(mark, color=GRAY, linewidth=1, linestyle="--")
    axes.set_xlabel("step", color=GRAY, fontsize=8)
    return _figure(_png(figure), lost, alt=f"{name} against step")


def _histogram_over_steps(name: str, records: list[dict[str, Any]]) -> str:
    """Plot the histograms of one name side by side in the order of their steps."""
    found = [(r["step"], r[name]) for r in records if isinstance(r.get(name), dict)]
    if not found:
        return ""
    edges, shares = _shares([counted for _, counted in found])
    steps = np.array([step for step, _ in found], np.float64)
    half = (steps[-1] - steps[0]) / max(1, 2 * (len(steps) - 1)) or 0.5
    sides = [steps[0] - half, *(steps[1:] + steps[:-1]) / 2, steps[-1] + half]
    figure, axes = _axes(name)
    axes.pcolormesh(sides, edges, np.ma.masked_less_equal(shares.T, 1e-6), cmap="viridis", norm="log")
    axes.set_xlabel("step", color=GRAY, fontsize=8)
    return _figure(_png(figure), "Brighter: more of the values.", alt=f"Histogram of {name} against step")


def _shares(histograms: list[dict[str, list[float]]], bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return common edges `[bins + 1]` of histograms, and the share of each one's values in each bin, `[n, bins]`."""
    filled = [h for h in histograms if any(h["counts"])] or histograms
    low, high = min(h["edges"][0] for h in filled), max(h["edges"][-1] for h in filled)
    edges = np.linspace(low, high, bins + 1)
    # The values are taken to be spread evenly within their own bins.
    below = [np.concatenate([[0], np.cumsum(h["counts"])]) / max(1, sum(h["counts"])) for h in histograms]
    return edges, np.array([np.diff(np.interp(edges, h["edges"], b)) for h, b in zip(histograms, below, strict=True)])


def _by_step(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the steps in order, each once, and the mean, the smallest and the largest of its values."""
    unique, place, counts = np.unique(steps, return_inverse=True, return_counts=True)
    low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(low, place, values)
    np.maximum.at(high, place, values)
    return unique, np.bincount(place, values) / counts, low, high


def _histograms(distilled: Distilled, card: Card, histograms: Mapping[str, np.ndarray]) -> str:
    plots = []
    if card.label_kind != "hard":
        title = "entropy of the labels, nats"
        plots.append(_histogram(title, _entropy(distilled), (0, math.log(max(2, len(card.class_names))))))
    plots += [_histogram(title, np.asarray(values)) for title, values in histograms.items()]
    return f'<div class="plots">{"".join(plots)}</div>' if plots else ""


def _entropy(distilled: Distilled) -> np.ndarray:
    p = np.asarray(distilled.targets, np.float64)
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)


def _histogram(title: str, values: np.ndarray, limits: tuple[float, float] | None = None) -> str:
    values = np.asarray(values, np.float64).ravel()
    finite = values[np.isfinite(values)]
    lost = f"{values.size - finite.size} of {values.size} values are not finite" if finite.size < values.size else ""
    if not finite.size:
        return f"<p>{_text(title)}: {lost or 'no values'}</p>"
    figure, axes = _axes(title)
    axes.hist(finite, bins=40, range=limits, color=BLUE)
    axes.set_ylabel("count", color=GRAY, fontsize=8)
    return _figure(_png(figure), lost, alt=f"Histogram: {title}")


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 2.15), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, color=GRAY, fontsize=9, parse_math=False)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=GRAY, labelsize=7, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(color=GRAY, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=160, transparent=True)
    return buffer.getvalue()


# The words


def _summary(distilled: Distilled, card: Card, results: Mapping[str, Any]) -> str:
    count, *shape = distilled.images.shape
    facts = [
        f"{count} images of {' × '.join(map(str, shape))}",
        "hard labels" if card.label_kind == "hard" else f"soft labels ({card.label_kind})",
    ]
    facts.append(f"learning rate {float(distilled.lr):.4g}")
    if results.get("steps") is not None:
        facts.append(f"{results['steps']} distillation steps")
    if results.get("selected_on"):
        facts.append(f"selected on {results['selected_on']}")
    return f'<p class="facts">{_text(" · ".join(facts))}</p>'


def _accuracies(results: Mapping[str, Any], card: Card) -> str:
    ipc = results["ipc"]
    rows = {
        "distilled": f"Distilled, {_images_per_class(ipc)}",
        "random_real": f"Random real, {_images_per_class(ipc)}",
        "full_data": "All of the real train set",
    }
    table = []
    for key, label in rows.items():
        accuracy = results.get(key)
        if not accuracy:
            continue
        runs = accuracy.get("runs") or []
        mean = accuracy.get("mean")
        share = 100 * float(mean) if mean is not None and math.isfinite(float(mean)) else 0.0
        table.append(
            f'<tr class="{key}"><th>{_text(label)}</th>'
            f'<td class="number">{_percent(mean)} ± {_percent(accuracy.get("std"))}</td>'
            f'<td class="bar"><div style="width:{min(100.0, max(0.0, share)):.2f}%"></div></td>'
            f'<td class="number">{len(runs)}</td>'
            f'<td class="runs">{" ".join(_percent(run) for run in runs)}</td></tr>'
        )
    return (
        "<table><thead><tr><th>Trained on</th><th>Test accuracy, %</th><th></th><th>Networks</th><th>Each network"
        f"</th></tr></thead><tbody>{''.join(table)}</tbody></table><p>{_comparison(results)}Mean ± standard deviation "
        "over networks that differ in their seed.</p>"
    )


def _comparison(results: Mapping[str, Any]) -> str:
    means = {
        key: float(results[key]["mean"])
        for key in ("distilled", "random_real", "full_data")
        if results.get(key) and results[key].get("mean") is not None
    }
    parts = []
    if {"distilled", "random_real"} <= means.keys():
        difference = 100 * (means["distilled"] - means["random_real"])
        parts.append(f"{difference:+.1f} points against random real images".replace("-", "−"))
    if {"distilled", "full_data"} <= means.keys() and means["full_data"] > 0:
        parts.append(f"{100 * means['distilled'] / means['full_data']:.0f} % of the accuracy of the full data")
    return ", ".join(parts) + ". " if parts else ""


def _usage(card: Card, evaluate_command: str) -> str:
    lines = ["import numpy as np", "", 'file = np.load("distilled.npz", allow_pickle=False)']
    lines.append('images, labels = file["images"], file["labels"]')
    if card.label_kind == "hard":
        lines.append('names = file["class_names"][labels]')
    else:
        lines.append('names = file["class_names"][labels.argmax(axis=1)]')
    if card.label_kind == "logits":
        lines.append("targets = np.exp(labels - labels.max(axis=1, keepdims=True))")
        lines.append("targets /= targets.sum(axis=1, keepdims=True)")
    if isinstance(card.normalization, ZCA):
        lines.append("flat = images.reshape(len(images), -1)")
        lines.append('pictures = flat @ file["normalization_unwhiten"] + file["normalization_mean"]')
        lines.append("pictures = pictures.clip(0, 1).reshape(images.shape)")
    else:
        lines.append('pictures = images * file["normalization_std"] + file["normalization_mean"]')
        lines.append("pictures = pictures.clip(0, 1)")
    code = "<p>With numpy alone; <code>images</code> are normalized as a network wants them, <code>pictures</code> "
    code += f"are for the eye:</p><pre>{_text(chr(10).join(lines))}</pre>"
    code += f"<p>Evaluate it again:</p><pre>{_text(evaluate_command)}</pre>"
    return code


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>" if content else ""


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{_text(key)}</th><td>{_text(value if isinstance(value, str) else _json(value, None))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="facts">{rows}</table>' if rows else ""


def _folded(title: str, value: Any) -> str:
    return f"<details><summary>{_text(title)}</summary><pre>{_text(_json(value, 2))}</pre></details>"


def _json(value: Any, indent: int | None) -> str:
    # A page is for reading: an object without a form in JSON must not cost the report of a long run.
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, default=repr)


def _figure(png: bytes, caption: str = "", kind: str = "plot", alt: str = "Images of the distilled set") -> str:
    data = base64.b64encode(png).decode()
    caption = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}"><img alt="{_text(alt)}" src="data:image/png;base64,{data}">{caption}</figure>'


def _text(value: Any) -> str:
    return html.escape(str(value))


def _percent(fraction: Any) -> str:
    return "–" if fraction is None else f"{100 * float(fraction):.1f}"


def _images_per_class(ipc: Any) -> str:
    return f"{ipc} image{'' if ipc == 1 else 's'} per class"


def _duration(seconds: Any) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #1d2126; --soft: #676d76; --line: #e2e5e9; --back: #fff; --code: #f5f6f8;
  --data: #4a8fe7; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e4e7eb; --soft: #9aa1ab; --line: #333941; --back: #16191d; --code: #1f2329; }} }}
body {{ max-width: 66rem; margin: 2.5rem auto; padding: 0 1.25rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.7rem; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
p, figcaption {{ color: var(--soft); margin: .5rem 0; }}
figcaption {{ font-size: .85rem; }}
p.facts {{ margin-top: .2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--line); font-weight: 400; }}
thead th, table.facts th {{ color: var(--soft); }}
thead th {{ font-size: .85rem; }}
.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
.distilled th, .distilled .number {{ font-weight: 650; }}
.runs {{ color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums; }}
.bar {{ width: 9rem; }}
.bar div {{ height: .6rem; background: var(--soft); opacity: .6; border-radius: 2px; }}
.distilled .bar div {{ background: var(--data); opacity: 1; }}
figure {{ margin: 0; }}
figure img {{ max-width: 100%; }}
.columns {{ display: flex; flex-wrap: wrap; gap: 0 4rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: .8rem; }}
.plot img {{ width: 100%; }}
table.examples th, table.examples td {{ vertical-align: middle; }}
div.examples {{ display: flex; flex-wrap: wrap; gap: 3px; }}
div.examples img {{ width: 32px; image-rendering: pixelated; border: 2px solid transparent; }}
div.examples .wrong img {{ border-color: #e0782f; }}
div.examples figcaption {{ font-size: .6rem; text-align: center; margin: 0; }}
pre {{ background: var(--code); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto;
  font: 13px/1.45 ui-monospace, monospace; }}
summary {{ cursor: pointer; margin: .4rem 0; }}
</style>
<body>
{body}
</body>
</html>
"""
