"""The sets of `jaxdd.zoo`: `python -m tests.benchmarks.zoo WORKDIR NAME` packs that of a finished run.

Images become float16, the matrices of a ZCA are left out, settings that are paths of this machine are dropped, and the
set is scored from its new file by `jaxdd evaluate` with what its card says; that accuracy goes into the card. With
`--picture FILE` in place of WORKDIR the set is drawn, below random real images: the picture of the README.
"""

import argparse
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd import zoo
from jaxdd.app.command_line import read
from jaxdd.app.evaluate import evaluate
from jaxdd.core.distilled import Card, Distilled, to_arrays
from jaxdd.core.normalization import ZCA, Unfitted
from jaxdd.data import load
from jaxdd.io.files import atomic_write


def pack(distilled: Distilled, card: Card, path: Path) -> None:
    """Write a set as the zoo keeps it."""
    if isinstance(card.normalization, ZCA):
        card = dataclasses.replace(card, normalization=Unfitted())
    arrays = to_arrays(distilled, card)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**arrays, "images": arrays["images"].astype(np.float16)})
    atomic_write(path, buffer.getvalue())


def without_paths(provenance: dict[str, Any]) -> dict[str, Any]:
    """Drop where its author kept data and experts."""
    config = {name: dict(value) if isinstance(value, dict) else value for name, value in provenance["config"].items()}
    config["data"]["data_dir"] = config["experts"]["directory"] = None
    return {**provenance, "config": config}


def draw(name: str, path: str, data_dir: str | None) -> None:
    """Draw a set of one image per class, and above it a random real one of each class."""
    settings = zoo.load(name)[1].settings("data")
    dataset = load(**{**settings, "data_dir": data_dir})
    distilled, card = zoo.load(name, dataset)
    random, labels = np.random.default_rng(0), dataset.train.labels
    chosen = [random.choice(np.flatnonzero(labels == label)) for label in range(len(card.class_names))]
    learned = np.clip(np.asarray(card.normalization.inverse(distilled.images)), 0, 1)
    rows = [np.hstack(list(images)) for images in (dataset.train.images[chosen] / 255, learned)]
    gap = np.ones((4, *rows[0].shape[1:]))
    pixels = np.vstack([rows[0], gap, rows[1]]).repeat(3, axis=0).repeat(3, axis=1)
    Image.fromarray(np.uint8(255 * pixels + 0.5)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", nargs="?")
    parser.add_argument("name")
    parser.add_argument("--data-dir")
    parser.add_argument("--picture")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        draw(arguments.name, arguments.picture, arguments.data_dir)
        return
    if arguments.workdir is None:
        parser.error("give the WORKDIR of a run and a NAME, or a NAME and --picture")
    distilled, card = Distilled.load(Path(arguments.workdir) / "distilled.npz")
    card = dataclasses.replace(card, provenance=without_paths(card.provenance))
    path = Path(zoo.__file__).parent / f"{arguments.name}.npz"
    pack(distilled, card, path)
    place = [] if arguments.data_dir is None else ["--data.data-dir", arguments.data_dir]
    (cell,) = evaluate(read(["evaluate", str(path), "--no-random-real", "--points", "2", *place]))["cells"]
    card.provenance["test_accuracy"] = cell["accuracy"]
    pack(distilled, card, path)
    print(path, cell["accuracy"])


if __name__ == "__main__":
    main()
