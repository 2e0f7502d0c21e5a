"""The page that shows what a run did: its accuracies, its images, its curves, and how to use the set."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.normalization import ZCA
from jaxdd.io.files import atomic_write
from jaxdd.report import page, plots
from jaxdd.report.grid import draw
from jaxdd.report.metrics import read

BEFORE = "Images before the first step"


def write_report(
    workdir: str | Path,
    *,
    distilled: Distilled,
    card: Card,
    results: Mapping[str, Any],
    config: Any,
    first: Distilled | None = None,
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
            `selected_step`, `steps`, `seconds` (stage to seconds) and `versions`. Each of the three accuracies
            is a mapping of `mean`, `std` and `runs`, as fractions, or None.
        config: the settings of the run, in any form that JSON can show.
        first: the set before the first step, shown beside it.
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
            f"<h1>{page.text(name)}</h1>",
            _summary(distilled, card, results),
            page.section("Accuracy", _accuracies(results)),
            page.section("Accuracy of each class", _class_accuracies(card, results)),
            page.section("Images", grid_figure(distilled, card)),
            "" if first is None else page.section(BEFORE, grid_figure(first, card, BEFORE, most=400_000)),
            *curves(metrics_path, card.provenance.get("step"), results),
            page.section("Distributions", _histograms(distilled, card, histograms or {})),
            page.section("Use the set", _usage(card, evaluate_command)),
            '<div class="columns">',
            page.section("Recipe of the networks", page.table(card.recipe)),
            page.section(
                "Time", page.table({stage: duration(s) for stage, s in (results.get("seconds") or {}).items()})
            ),
            page.section("Versions", page.table(results.get("versions") or {})),
            "</div>",
            page.section("Settings", page.folded("config", config) + page.folded("provenance", card.provenance)),
        ]
    )
    path = Path(workdir) / "report.html"
    atomic_write(path, page.render(name, body).encode())
    return path


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
    return f'<p class="facts">{page.text(" · ".join(facts))}</p>{_warning(results)}'


def _warning(results: Mapping[str, Any]) -> str:
    """Return a paragraph if all the steps were in vain."""
    if results.get("selected_step") != 0 or not results.get("steps") or results.get("selected_on") != "validation":
        return ""
    return "<p>Distillation never improved on the first set: this is the set of step 0, as it was initialized.</p>"


def _accuracies(results: Mapping[str, Any]) -> str:
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
            f'<tr class="{key}"><th>{page.text(label)}</th>'
            f'<td class="number">{percent(mean)} ± {percent(accuracy.get("std"))}</td>'
            f'<td class="bar"><div style="width:{min(100.0, max(0.0, share)):.2f}%"></div></td>'
            f'<td class="number">{len(runs)}</td>'
            f'<td class="runs">{" ".join(percent(run) for run in runs)}</td></tr>'
        )
    return (
        "<table><thead><tr><th>Trained on</th><th>Test accuracy, %</th><th></th><th>Networks</th><th>Each network"
        f"</th></tr></thead><tbody>{''.join(table)}</tbody></table><p>{_comparison(results)}Mean ± standard deviation "
        "over networks that differ in their seed.</p>"
    )


def _class_accuracies(card: Card, results: Mapping[str, Any]) -> str:
    """Return a table of the mean accuracies of every class, if they were measured, the worst class first."""
    names = {"distilled": "Distilled", "random_real": "Random real", "full_data": "All real data"}
    means = {
        title: np.array((results.get(key) or {}).get("class_accuracy", {}).get("mean", []), float)
        for key, title in names.items()
    }
    means = {title: values for title, values in means.items() if values.size == len(card.class_names)}
    if not means:
        return ""
    first = next(iter(means.values()))
    rows = "".join(
        f"<tr><th>{page.text(card.class_names[c])}</th>"
        + f'<td class="bar"><div style="width:{100 * np.nan_to_num(first[c]):.2f}%"></div></td>'
        + "".join(f'<td class="number">{percent(values[c])}</td>' for values in means.values())
        + "</tr>"
        for c in np.argsort(first, kind="stable")
    )
    mean = "".join(f'<td class="number">{percent(np.nanmean(values))}</td>' for values in means.values())
    head = "".join(f"<th>{title}, %</th>" for title in means)
    return (
        f"<table><thead><tr><th>Class</th><th></th>{head}</tr></thead><tbody>{rows}"
        f"<tr><th>Mean of the classes</th><td></td>{mean}</tr></tbody></table>"
        "<p>On the test split, mean over the networks; the worst class comes first. In the mean of the classes a large "
        "class does not outvote a small one.</p>"
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


def grid_figure(
    distilled: Distilled, card: Card, alt: str = "Images of the distilled set", *, most: int = 1_100_000
) -> str:
    """Draw a set for a page, with as many images per class as fit into so many bytes.

    Args:
        distilled: The set.
        card: Its card.
        alt: What to call the picture.
        most: Bytes.

    Returns:
        HTML.
    """
    images = np.asarray(card.normalization.inverse(distilled.images))
    classes = np.asarray(distilled.labels).argmax(axis=1)
    largest = int(np.bincount(classes, minlength=1).max())
    # Fewer images whole before all of them reduced; only where one per class is too much are they made smaller.
    area = images.shape[1] * images.shape[2] * len(card.class_names)
    attempts = [(shown, max(600_000, shown * area)) for shown in (min(largest, 50), 20, 10, 5, 2, 1)]
    for shown, pixels in [*attempts, (1, 250_000), (1, 60_000)]:
        if shown > largest or pixels > 4_000_000:
            continue
        limits = {"per_class": shown, "pixels": pixels}
        drawn = draw(images, classes, card.class_names, **limits, text=plots.GRAY, background="none")
        if len(drawn.png) <= most:
            break
    parts = ["One row per class" if card.label_kind == "hard" else "One row per most probable class"]
    if drawn.columns > 1:
        parts.append(f"the classes in {drawn.columns} columns")
    if shown < largest:
        parts.append(f"the first {shown} of up to {largest} images of each")
    parts.append("normalization undone and clipped to what a screen shows")
    return page.figure(drawn.png, ", ".join(parts) + ".", "grid", alt=alt)


def curves(path: str | Path | None, saved_step: Any, results: Mapping[str, Any], score: str = "accuracy") -> list[str]:
    """Plot what a run recorded over its steps, a section for each stage.

    Args:
        path: The `metrics.jsonl`.
        saved_step: The step whose set was kept.
        results: Whose `random_real` and `full_data` the validation is shown against.
        score: What validation records.

    Returns:
        HTML.
    """
    if path is None or not Path(path).exists():
        return []
    records = read(path)
    stages = list(dict.fromkeys(record["stage"] for record in records))
    order = {"distill": 0, "validate": 1, "set": 2, "inspect": 3, "experts": 4}
    titles = {
        "distill": "Distillation",
        "validate": "Validation",
        "set": "The set over the steps",
        "inspect": "Inspection",
        "experts": "Experts",
    }
    sections = []
    for stage in sorted(stages, key=lambda stage: order.get(stage, len(order))):
        of_stage = [record for record in records if record["stage"] == stage]
        names = dict.fromkeys(name for record in of_stage for name in record if name not in ("step", "stage", "time"))
        mark = saved_step if stage != "experts" and isinstance(saved_step, int) else None
        levels = _levels(results) if stage == "validate" else {}
        drawn = "".join(
            plots.curve(name, of_stage, mark, levels if name == score else None)
            + plots.histogram_over_steps(name, of_stage)
            for name in names
        )
        note = "<p>The dashed line is the step that was saved.</p>" if mark is not None else ""
        if levels and score in names:
            note += "<p>The horizontal lines are on the test split, the curve is on validation.</p>"
        content = f'<div class="plots">{drawn}</div>{note}' if drawn else ""
        sections.append(page.section(titles.get(stage, stage), content))
    return sections


def _levels(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies that the curve on validation is to be seen against."""
    names = {"random_real": "random real, test", "full_data": "full data, test"}
    means = {label: (results.get(key) or {}).get("mean") for key, label in names.items()}
    return {label: float(mean) for label, mean in means.items() if mean is not None}


def _histograms(distilled: Distilled, card: Card, histograms: Mapping[str, np.ndarray]) -> str:
    drawn = []
    if card.label_kind != "hard":
        title = "entropy of the labels, nats"
        drawn.append(plots.histogram(title, entropy(distilled), (0, math.log(max(2, len(card.class_names))))))
    drawn += [plots.histogram(title, np.asarray(values)) for title, values in histograms.items()]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def entropy(distilled: Distilled) -> np.ndarray:
    """Return the entropy of every label, `[M]` in nats."""
    p = np.asarray(distilled.targets, np.float64)
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)


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
    code += f"are for the eye:</p><pre>{page.text(chr(10).join(lines))}</pre>"
    code += f"<p>Evaluate it again:</p><pre>{page.text(evaluate_command)}</pre>"
    return code


def percent(fraction: Any) -> str:
    """Write a fraction in per cent, with one digit."""
    return "–" if fraction is None or np.isnan(float(fraction)) else f"{100 * float(fraction):.1f}"


def _images_per_class(ipc: Any) -> str:
    return f"{ipc} image{'' if ipc == 1 else 's'} per class"


def duration(seconds: Any) -> str:
    """Write seconds as people say them; nothing where they are unknown."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
