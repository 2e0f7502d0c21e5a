"""Runs on labeled images: their data and task, and what they show and write of a set."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd import data, formats, models
from jaxdd.app.config import Config
from jaxdd.app.kind import Finished
from jaxdd.app.workdir import record, versions
from jaxdd.core.distilled import Card, Distilled, label_kind_of
from jaxdd.core.normalization import renormalized
from jaxdd.core.ranking import mislabeled_auc
from jaxdd.core.retrieval import RetrievalConfig
from jaxdd.core.tasks import Task, classification
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.evaluation.rows import check_fits
from jaxdd.io.files import atomic_write, plain
from jaxdd.methods import MethodConfig
from jaxdd.models.dual import TextConfig
from jaxdd.report import scores_page
from jaxdd.report.grid import draw, image_grid
from jaxdd.report.run_page import entropy, write_report
from jaxdd.types import Scores


def problem(config: Config) -> tuple[Dataset, Task]:
    """Load labeled images, and classify them.

    Raises:
        SettingError: A setting is for captioned images.
    """
    for name, given, default in (
        ("text", config.text, TextConfig()),
        ("retrieval", config.retrieval, RetrievalConfig()),
    ):
        if given != default:
            raise SettingError(f"{name} is {given}, and it is for captioned images, data.name pairs:PATH; leave it out")
    dataset = data.load(**dataclasses.asdict(config.data))
    model = models.build(config.model, dataset.image_shape, dataset.num_classes)
    return dataset, classification(model, dataset.num_classes)


def network(config: Config) -> Any:
    """Say what network a run trains, for the key of its experts."""
    return config.model


def initial_set(path: str, dataset: Dataset) -> Distilled:
    """Read a distilled set to start from, its images normalized as the dataset's are.

    Raises:
        SettingError: It cannot be read, or has other images or classes.
    """
    try:
        distilled, card = formats.read(path, data=dataset)
    except FileNotFoundError as error:
        raise SettingError(f"--initial {path}: no such file; give a distilled.npz") from error
    check_fits(f"--initial {path}", distilled, card, dataset)
    return distilled._replace(inputs=renormalized(distilled.images, card.normalization, dataset.normalization))


def shown(dataset: Dataset, method: MethodConfig, distilled: Distilled) -> tuple[dict[str, Any], bytes]:
    """Return numbers of a set whose histograms are followed over the steps, and its picture."""
    images, classes = np.asarray(dataset.normalization.inverse(distilled.images)), np.argmax(distilled.labels, -1)
    numbers: dict[str, Any] = {"pixels": images}
    if method.labels != "hard":
        numbers["entropy of the labels, nats"] = entropy(distilled)
    return numbers, draw(images, classes, dataset.class_names, per_class=10, pixels=400_000).png


def inspected(dataset: Dataset, values: dict[str, Any]) -> dict[str, Any]:
    """Return scalars and arrays, in place of `Scores` those of right and of wrong labels, if it is known which are."""
    mislabeled = dataset.mislabeled
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Scores):
            found[name] = value
        elif mislabeled is None:
            found[name] = value.values
        else:
            found[f"{name}, AUC of wrong labels"] = mislabeled_auc(value.values, mislabeled)
            found |= {f"{name}, right labels": value.values[~mislabeled], f"{name}, wrong": value.values[mislabeled]}
    return found


def stored(method: MethodConfig, distilled: Distilled) -> dict[str, int]:
    """Count the numbers that a set stores."""
    return {"stored_pixels": distilled.images.size * method.ipc // method.items_per_class}


def lines(results: dict[str, Any]) -> str:
    """Write every accuracy in per cent, one a line."""
    found = []
    for name in ("distilled", "random_real", "full_data"):
        if score := results.get(name):
            networks = f"{len(score['runs'])} network{'s' * (len(score['runs']) > 1)}"
            found.append(f"{name:12} {100 * score['mean']:5.1f} ± {100 * score['std']:.1f} %  ({networks})")
    return "\n".join(found)


def write_scores(path: Path, scores: np.ndarray, dataset: Dataset, **told: Any) -> tuple[Path, dict[str, float]]:
    """Write scores of examples as a table and a page; also how well they find wrong labels, where these are known."""
    auc = {} if dataset.mislabeled is None else {"auc": mislabeled_auc(scores, dataset.mislabeled)}
    return scores_page.write_scores(path, scores, dataset, **told), auc


def write(dataset: Dataset, config: Config, done: Finished) -> None:
    """Write a set with its card, pictures, scores of the examples and the page of the run."""
    workdir, distilled, results = done.workdir, done.outcome.distilled, done.results
    staged = {"learning_rates": results["learning_rates"]} if config.stages > 1 else {}
    card = Card(
        dataset=dataset.name,
        class_names=dataset.class_names,
        label_kind=label_kind_of(distilled),  # an initial set has labels of its own
        normalization=dataset.normalization,
        recipe=plain(config.evaluate.recipe),
        provenance={"config": record(config), "step": done.outcome.step, "versions": versions(), **staged},
    )
    distilled.save(workdir / "distilled.npz", card)
    display = np.asarray(dataset.normalization.inverse(distilled.images))
    image_grid(display, np.argmax(distilled.labels, -1), dataset.class_names, workdir / "grid.png")
    for name, scores in done.outcome.inspected.items():
        if isinstance(scores, Scores):
            about = f"scores of {results['method']} after step {results['steps']}: the higher, the more weight"
            title = f"{dataset.name} · {results['method']} · {name}"
            path = workdir / f"{name}.csv"
            scores_page.write_scores(
                path, np.asarray(scores.values), dataset, title=title, about=about, settings=record(config)
            )
    atomic_write(workdir / "README.md", formats.markdown(distilled, card, results=results).encode())
    write_report(
        workdir,
        distilled=distilled,
        first=done.outcome.first,
        card=card,
        results=results,
        config=record(config),
        metrics_path=done.metrics_path,
    )
