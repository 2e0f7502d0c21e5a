"""The page that shows what a run on captioned images did: recalls, pictures with captions, curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.core.distilled import Distilled, named_lr
from jaxdd.core.distilled_pairs import PairsCard
from jaxdd.core.ranking import ranking
from jaxdd.core.retrieval import RANKS
from jaxdd.data.pairs import Pairs
from jaxdd.io.files import atomic_write
from jaxdd.report import page, plots
from jaxdd.report.grid import Grid, draw
from jaxdd.report.run_page import curves, duration, percent
from jaxdd.report.scores_page import name_of, thumbnail, write_table_and_page

LETTERS = 60
"""Of a caption, that are drawn."""
NOTE = "Each image with the real caption that is nearest to its text, normalization undone."
ROWS = {"distilled": "Distilled pairs", "random_real": "Random real pairs", "full_data": "All real pairs"}
EXTREMES = 24
"""Pairs that a page shows of either end of their scores."""
MEASURES = ("recall", *(f"{way}@{k}" for way in ("IR", "TR") for k in RANKS))


def picture(images: np.ndarray, captions: Sequence[str], **how: Any) -> Grid:
    """Draw images `[M, H, W, K]` in [0, 1], each beside its caption."""
    return draw(images, np.arange(len(images)), captions, letters=LETTERS, **how)


def pairs_figure(distilled: Distilled, card: PairsCard, alt: str = "Images of the distilled pairs") -> str:
    """Draw pairs for a page, as HTML, each image beside the real caption that is nearest to its text."""
    images = np.asarray(card.normalization.inverse(distilled.inputs["image"]))
    drawn = picture(images, card.captions, text=plots.GRAY, background="none", pixels=1_000_000)
    return page.figure(drawn.png, NOTE, "grid", alt)


def write_pairs_report(
    workdir: str | Path,
    *,
    distilled: Distilled,
    card: PairsCard,
    first: Distilled,
    first_captions: Sequence[str],
    results: Mapping[str, Any],
    config: Any,
    metrics_path: str | Path,
) -> None:
    """Write `report.html`, one page that needs no other file and no network, and `grid.png`.

    Args:
        workdir: the folder to write to.
        distilled: the pairs that were evaluated.
        card: their card.
        first: the pairs before the first step, shown beside them.
        first_captions: the real captions nearest to their texts.
        results: the content of `results.json`.
        config: the settings of the run, in any form that JSON can show.
        metrics_path: the `metrics.jsonl` whose curves are plotted.
    """
    images = np.asarray(card.normalization.inverse(distilled.inputs["image"]))
    atomic_write(Path(workdir) / "grid.png", picture(images, card.captions).png)
    before, title = dataclasses.replace(card, captions=tuple(first_captions)), "Pairs before the first step"
    name = f"{results['dataset']} · {results['method']} · {distilled.size} pairs"
    body = "\n".join(
        [
            f"<h1>{page.text(name)}</h1>",
            f'<p class="facts">{page.text(_facts(distilled, card, results))}</p>',
            page.section("Recall", recall_table(results)),
            page.section("Pairs", pairs_figure(distilled, card)),
            page.section(title, pairs_figure(first, before, title)),
            *curves(metrics_path, card.provenance.get("step"), results, "recall"),
            page.section("Recipe of the networks", page.table(card.recipe)),
            page.section("Time", page.table({stage: duration(s) for stage, s in results["seconds"].items()})),
            page.section("Versions", page.table(results["versions"])),
            page.section("Settings", page.folded("config", config) + page.folded("provenance", card.provenance)),
        ]
    )
    atomic_write(Path(workdir) / "report.html", page.render(name, body).encode())


def write_pair_scores(
    path: str | Path,
    scores: np.ndarray,
    dataset: Pairs,
    *,
    title: str,
    about: str,
    settings: Any,
    ends: tuple[str, str] = ("highest", "lowest"),
    spread: np.ndarray | None = None,
) -> Path:
    """Write scores of the training pairs: a ranked table, and beside it a page with both ends.

    The table has the columns index (position in `dataset.train.texts`), image (its name), caption, score and rank, the
    highest score first, and std, if a spread is given.

    Args:
        path: the table to write or replace, `.csv` or `.parquet`; the page has the same name with `.html`.
        scores: `[P]` a finite score for every caption of `dataset.train`.
        dataset: the pairs.
        title: the headline.
        about: what the scores are, and what a high one means.
        settings: how they came about, in any form that JSON can show.
        ends: what pairs of high and of low scores are called.
        spread: `[P]` the standard deviation of each score.

    Returns:
        The path of the page.

    Raises:
        SettingError: the table is neither kind, or scores are not finite or do not fit the dataset.
    """
    train, owners, texts = dataset.train, dataset.train.owners, np.array(dataset.train.texts)
    table = ranking(scores, np.zeros(len(texts), np.int32))
    order, named = table["index"], name_of(path)
    columns = {"index": order, "image": [named(train.names[owners[i]]) for i in order]}
    columns |= {"caption": [named(str(texts[i])) for i in order]}
    columns |= {name: table[name] for name in ("score", "rank")}
    if spread is not None:
        columns["std"] = spread[order]

    def shown(rows: np.ndarray) -> str:
        figures = (
            page.figure(
                thumbnail(train.images[owners[i]]), f"{i} {texts[i]}", alt=f"pair {i}, score {float(scores[i]):.4g}"
            )
            for i in rows
        )
        return f'<div class="examples">{"".join(figures)}</div>'

    most = max(1, min(EXTREMES, len(order) // 2))
    sections = [
        page.section("Scores", plots.compared_histograms({"all": np.asarray(scores)})),
        page.section(ends[0].capitalize(), shown(order[:most])),
        page.section(ends[1].capitalize(), shown(order[::-1][:most])),
    ]
    facts = f"{len(order)} captions of {dataset.name} · {about}"
    return write_table_and_page(path, columns, title, facts, sections, settings)


def recall_table(results: Mapping[str, Any]) -> str:
    """Write the recalls of a run or an evaluation as a table of HTML, in per cent."""
    rows = "".join(
        f"<tr><th>{label}</th>{_cells(results[key])}</tr>" for key, label in ROWS.items() if results.get(key)
    )
    heads = "".join(f"<th>{'mean recall' if name == 'recall' else name}, %</th>" for name in MEASURES)
    return (
        f"<table><thead><tr><th>Trained on</th>{heads}</tr></thead><tbody>{rows}</tbody></table><p>On the test split: "
        "how often the image of a caption (IR) and a caption of an image (TR) is among the nearest 1, 5 and 10. Mean ± "
        "standard deviation over networks that differ in their seed.</p>"
    )


def _cells(scores: Mapping[str, Any]) -> str:
    found = [scores if name == "recall" else scores[name] for name in MEASURES]
    return "".join(f'<td class="number">{percent(s["mean"])} ± {percent(s["std"])}</td>' for s in found)


def _facts(distilled: Distilled, card: PairsCard, results: Mapping[str, Any]) -> str:
    size = " × ".join(map(str, distilled.inputs["image"].shape[1:]))
    rates = named_lr(distilled.lr, "learning rate").items()
    facts = [
        f"{distilled.size} images of {size} with texts of {distilled.inputs['text'].shape[1]} features "
        f"({card.text_encoder})",
        *(f"{name.replace('_', ' of ')} {float(rate):.4g}" for name, rate in rates),
        f"{results['steps']} distillation steps",
        f"selected on {results['selected_on']}",
    ]
    return " · ".join(facts)
