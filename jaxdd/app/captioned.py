"""Runs on captioned images: their data and task, and what they show and write of distilled pairs."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd import models
from jaxdd.app.config import Config
from jaxdd.app.kind import Finished
from jaxdd.app.workdir import record, versions
from jaxdd.core import distilled_pairs
from jaxdd.core.distilled import Distilled
from jaxdd.core.distilled_pairs import PairsCard
from jaxdd.core.normalization import renormalized
from jaxdd.core.retrieval import RetrievalConfig, retrieval
from jaxdd.core.tasks import Task
from jaxdd.data import pairs
from jaxdd.data.pairs import Pairs
from jaxdd.data.text import IN_A_FILE
from jaxdd.errors import SettingError
from jaxdd.io.files import plain
from jaxdd.methods import MethodConfig
from jaxdd.models import ModelConfig
from jaxdd.models.dual import TextConfig, dual
from jaxdd.report.pairs_page import MEASURES, ROWS, picture, write_pair_scores, write_pairs_report


def posed(dataset: Pairs, image: ModelConfig, text: TextConfig, config: RetrievalConfig) -> Task:
    """Pose the task of finding texts of images and images of texts.

    Args:
        dataset: Captioned images.
        image: The network of the images.
        text: How captions enter.
        config: Loss and similarity.
    """
    network = models.build(image, dataset.image_shape, text.embedding)
    return retrieval(dual(network, dataset.text_features, text.embedding, head=text.head), config)


def problem(config: Config) -> tuple[Pairs, Task]:
    """Read the captioned images of a run, and find texts of images and images of texts.

    Raises:
        SettingError: A setting is for labeled images.
    """
    if config.stages > 1:
        raise SettingError(
            f"stages is {config.stages}, and files of pairs do not tell of stages; leave it out, or call "
            "jaxdd.progressive from Python"
        )
    dataset = pairs.load(config.data, config.text.encoder)
    return dataset, posed(dataset, config.model, config.text, config.retrieval)


def network(config: Config) -> Any:
    """Say what network a run trains, for the key of its experts."""
    return {
        "image": config.model.identity(),
        "head": config.text.head,
        "embedding": config.text.embedding,
        "temperature": config.retrieval.temperature,
    }


def initial_set(path: str, dataset: Pairs) -> Distilled:
    """Read distilled pairs to start from, normalized and scaled as the dataset's are.

    Raises:
        SettingError: They cannot be read, or have other embeddings.
    """
    try:
        distilled, card = distilled_pairs.load(path)
    except FileNotFoundError as error:
        raise SettingError(f"--initial {path}: no such file; give the distilled.npz of a run on pairs") from error
    return fitted(path, distilled, card, dataset)


def fitted(path: str, distilled: Distilled, card: PairsCard, dataset: Pairs) -> Distilled:
    """Return pairs as a dataset has its own: images in its normalization, texts in its scale.

    Raises:
        SettingError: They are of other images or embeddings.
    """
    theirs = (card.text_encoder, distilled.inputs["text"].shape[1], distilled.inputs["image"].shape[1:])
    ours = (dataset.encoder, dataset.text_features, dataset.image_shape)
    files = [encoder.startswith(IN_A_FILE) for encoder in (theirs[0], ours[0])]  # whose names say nothing
    if theirs[1:] != ours[1:] or (theirs[0] != ours[0] and not all(files)):
        raise SettingError(
            f"{path} has texts of the encoder {theirs[0]}, {theirs[1]} features, and images {theirs[2]}; the data has "
            f"{ours[0]}, {ours[1]} and {ours[2]}: give the --text.encoder and --data.image-size that it was made with"
        )
    images = renormalized(distilled.inputs["image"], card.normalization, dataset.normalization)
    texts = distilled.inputs["text"] * (dataset.text_scale / np.float32(card.text_scale))
    return distilled._replace(inputs={"image": images, "text": texts})


def shown(dataset: Pairs, method: MethodConfig, distilled: Distilled) -> tuple[dict[str, Any], bytes]:
    """Return numbers of pairs whose histograms are followed over the steps, and their picture."""
    del method
    images = np.asarray(dataset.normalization.inverse(distilled.inputs["image"]))
    numbers = {"pixels": images, "texts": np.asarray(distilled.inputs["text"])}
    return numbers, picture(images, dataset.nearest(distilled.inputs["text"]), pixels=400_000).png


def inspected(dataset: Pairs, values: dict[str, Any]) -> dict[str, Any]:
    """Return what a method tells of its state as it is."""
    del dataset
    return values


def stored(method: MethodConfig, distilled: Distilled) -> dict[str, int]:
    """Count the numbers that pairs store."""
    learned = distilled.labels if method.labels == "learned" else {}
    numbers = {"stored_similarities": sum(int(np.size(x)) for x in learned.values())}
    sizes = {"stored_pixels": distilled.inputs["image"].size, "stored_text_features": distilled.inputs["text"].size}
    return {**sizes, **numbers}


def write(dataset: Pairs, config: Config, done: Finished) -> None:
    """Write pairs with their card, a picture and the page of the run."""
    distilled = done.outcome.distilled
    card = PairsCard(
        dataset=dataset.name,
        captions=tuple(dataset.nearest(distilled.inputs["text"])),
        text_encoder=dataset.encoder,
        text_scale=float(dataset.text_scale),
        normalization=dataset.normalization,
        recipe=plain(config.evaluate.recipe),
        provenance={"config": record(config), "step": done.outcome.step, "versions": versions()},
    )
    distilled_pairs.save(done.workdir / "distilled.npz", distilled, card)
    write_pairs_report(
        done.workdir,
        distilled=distilled,
        card=card,
        first=done.outcome.first,
        first_captions=dataset.nearest(done.outcome.first.inputs["text"]),
        results=done.results,
        config=record(config),
        metrics_path=done.metrics_path,
    )


def write_scores(path: Path, scores: np.ndarray, dataset: Pairs, **told: Any) -> tuple[Path, dict[str, float]]:
    """Write scores of pairs as a table and a page; nothing is known of wrong ones."""
    return write_pair_scores(path, scores, dataset, **told), {}


def saved(path: str, encoder: str | None = None) -> tuple[Distilled, PairsCard, TextConfig, RetrievalConfig]:
    """Read saved pairs, how their texts are embedded, and their loss.

    Args:
        path: Their file.
        encoder: `file:NPZ`, for pairs whose texts were embedded in a file.

    Raises:
        SettingError: The file holds no pairs, its card names settings that this jaxdd lacks, or embeddings in a file
            where none is given, or the other way round.
    """
    distilled, card = distilled_pairs.load(path)
    try:
        text, config = TextConfig(**card.settings("text")), RetrievalConfig(**card.settings("retrieval"))
    except (TypeError, SettingError) as error:
        raise SettingError(f"{path} was saved with settings that this jaxdd does not have ({error})") from error
    if encoder is None and text.encoder.startswith(IN_A_FILE):
        raise SettingError(
            f"{path} says that its texts are embedded in {text.encoder}, and what a file says is not read unasked; "
            "give --text-encoder file:NPZ, with the embeddings that the pairs were made with"
        )
    if encoder is not None and not (encoder.startswith(IN_A_FILE) and text.encoder.startswith(IN_A_FILE)):
        raise SettingError(
            f"--text-encoder is {encoder}, and {path} has texts of the encoder {text.encoder}; it is for pairs whose "
            "texts were embedded in a file, which it names by file:NPZ"
        )
    return distilled, card, dataclasses.replace(text, encoder=encoder or text.encoder), config


def lines(results: dict[str, Any], title: str = "") -> str:
    """Write recalls for a terminal, in per cent, a line for each that was trained on."""
    head = " ".join([f"{title:20}", *(f"{name:>12}" for name in MEASURES)])
    rows = [head]
    for key, label in ROWS.items():
        if found := results.get(key):
            values = [found if name == "recall" else found[name] for name in MEASURES]
            cells = (f"{100 * value['mean']:5.1f} ± {100 * value['std']:.1f}".rjust(12) for value in values)
            rows.append(" ".join([f"{label:20}", *cells]))
    return "\n".join(rows)
