"""Curves and histograms, as figures of a page.

Matplotlib is imported where it draws, through its object interface: no display, no state of pyplot.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdd.report import page

GRAY, BLUE, ORANGE = "#8b8f97", "#4a8fe7", "#e0782f"
"""Colors of text and of data that are legible on white and on black."""

NAMES = {
    "image_gradient": "gradient norm",
    "lr": "learning rate",
    "student_lr": "student's learning rate",
    "student_loss": "student's loss",
    "train_loss": "training loss",
}
"""How metrics are called where their own names do not read well."""


def curve(name: str, records: list[dict[str, Any]], mark: int | None, levels: Mapping[str, float] | None = None) -> str:
    """Plot one scalar against the step: the mean of the values of a step, and their range where there are several.

    Args:
        name: The scalar.
        records: Lines of the metrics that may hold it.
        mark: A step to mark.
        levels: Names of other values of it, drawn as horizontal lines.
    """
    pairs = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    if not pairs:
        return ""
    steps, values = np.asarray(pairs, np.float64).T
    finite = np.isfinite(values)
    lost = f"{np.sum(~finite)} of {len(values)} values are not finite" if not finite.all() else ""
    if not finite.any():
        return f"<p>{page.text(readable(name))}: {lost}</p>"
    steps, values = steps[finite], values[finite]
    percent = "accuracy" in name
    unique, mean, low, high = by_step(steps, 100 * values if percent else values)

    figure, axes = _axes(readable(name))
    few = len(unique) <= 40
    axes.plot(unique, mean, color=BLUE, linewidth=1.3, marker="o" if few else None, markersize=2.5)
    if (low < high).any():
        axes.fill_between(unique, low, high, color=BLUE, alpha=0.25, linewidth=0)
    unit = ", %" if percent else ""
    if low.min() > 0 and high.max() > 100 * low.min() and not percent:
        axes.set_yscale("log")
        unit = ", log scale"
    if mark is not None:
        axes.axvline(mark, color=GRAY, linewidth=1, linestyle="--")
    for at, (level, value) in enumerate((levels or {}).items()):
        axes.axhline(
            100 * value if percent else value, color=ORANGE, linewidth=1, linestyle=("-", ":")[at % 2], label=level
        )
    if levels:
        axes.legend(fontsize=6.5, frameon=False, labelcolor=GRAY)
    _label(axes, "step", readable(name) + unit)
    return page.figure(_png(figure), lost, alt=f"{readable(name)} against step")


def compared_curves(name: str, runs: Mapping[str, list[dict[str, Any]]]) -> str:
    """Plot one scalar of several runs against the step."""
    figure, axes = _axes(readable(name))
    percent = "accuracy" in name
    for run, records in runs.items():
        pairs = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
        if pairs:
            steps, mean, *_ = by_step(*np.asarray(pairs, np.float64).T)
            axes.plot(steps, 100 * mean if percent else mean, linewidth=1.3, label=run)
    figure.set_figwidth(6)
    figure.legend(loc="outside right upper", fontsize=6.5, frameon=False, labelcolor=GRAY)
    _label(axes, "step", readable(name) + (", %" if percent else ""))
    return f'<div class="plots">{page.figure(_png(figure), alt=f"{readable(name)} of all runs against step")}</div>'


def histogram_over_steps(name: str, records: list[dict[str, Any]]) -> str:
    """Plot the histograms of one name side by side in the order of their steps."""
    found = [(r["step"], r[name]) for r in records if isinstance(r.get(name), dict)]
    if not found:
        return ""
    edges, parts = shares([counted for _, counted in found])
    steps = np.array([step for step, _ in found], np.float64)
    half = (steps[-1] - steps[0]) / max(1, 2 * (len(steps) - 1)) or 0.5
    sides = [steps[0] - half, *(steps[1:] + steps[:-1]) / 2, steps[-1] + half]
    figure, axes = _axes(readable(name))
    axes.pcolormesh(sides, edges, np.ma.masked_less_equal(parts.T, 1e-6), cmap="viridis", norm="log")
    _label(axes, "step", "value")
    return page.figure(_png(figure), "Brighter: more of the values.", alt=f"Histogram of {readable(name)} against step")


def shares(histograms: list[dict[str, list[float]]], bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return common edges `[bins + 1]` of histograms, and the share of each one's values in each bin, `[n, bins]`."""
    filled = [h for h in histograms if any(h["counts"])] or histograms
    low, high = min(h["edges"][0] for h in filled), max(h["edges"][-1] for h in filled)
    edges = np.linspace(low, high, bins + 1)
    # The values are taken to be spread evenly within their own bins.
    below = [np.concatenate([[0], np.cumsum(h["counts"])]) / max(1, sum(h["counts"])) for h in histograms]
    return edges, np.array([np.diff(np.interp(edges, h["edges"], b)) for h, b in zip(histograms, below, strict=True)])


def by_step(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the steps in order, each once, and the mean, the smallest and the largest of its values."""
    unique, place, counts = np.unique(steps, return_inverse=True, return_counts=True)
    low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(low, place, values)
    np.maximum.at(high, place, values)
    return unique, np.bincount(place, values) / counts, low, high


def histogram(title: str, values: np.ndarray, limits: tuple[float, float] | None = None) -> str:
    """Plot how often values of any shape occur, between limits if they have some."""
    values = np.asarray(values, np.float64).ravel()
    finite = values[np.isfinite(values)]
    lost = f"{values.size - finite.size} of {values.size} values are not finite" if finite.size < values.size else ""
    if not finite.size:
        return f"<p>{page.text(title)}: {lost or 'no values'}</p>"
    figure, axes = _axes(title)
    axes.hist(finite, bins=40, range=limits, color=BLUE)
    _label(axes, "value", "count")
    return page.figure(_png(figure), lost, alt=f"Histogram: {title}")


def compared_histograms(groups: Mapping[str, np.ndarray]) -> str:
    """Plot the scores of one group of examples, or of two, over common bins."""
    figure, axes = _axes("number of examples by score")
    for (name, values), color in zip(groups.items(), (BLUE, ORANGE), strict=False):
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 60)
        axes.hist(values, edges, color=color, label=name, alpha=0.75)
    axes.set_yscale("log")
    _label(axes, "score", "examples, log scale")
    if len(groups) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=GRAY)
    return f'<div class="plots">{page.figure(_png(figure), alt="Histogram of the scores")}</div>'


def readable(name: str) -> str:
    """Return the name of a metric in words; a tensor's name, which has slashes, is left alone."""
    return NAMES.get(name, name if "/" in name else name.replace("_", " "))


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=GRAY, fontsize=8, parse_math=False)
    axes.set_ylabel(y, color=GRAY, fontsize=8, parse_math=False)


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
