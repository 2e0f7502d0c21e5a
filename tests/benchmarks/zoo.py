"""The sets of `jaxdd.zoo`: `python -m tests.benchmarks.zoo WORKDIR NAME` packs that of a finished run.

Images become float16, the matrices of a ZCA are left out, settings that are paths of this machine are dropped, and the
set is scored from its new file by `jaxdd evaluate` with what its card says; that accuracy goes into the card.
"""

import argparse
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd import zoo
from jaxdd.app.command_line import read
from jaxdd.app.evaluate import evaluate
from jaxdd.core.distilled import Card, Distilled, to_arrays
from jaxdd.core.normalization import ZCA, Unfitted
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("name")
    parser.add_argument("--data-dir")
    arguments = parser.parse_args()
    distilled, card = Distilled.load(Path(arguments.workdir) / "distilled.npz")
    card = dataclasses.replace(card, provenance=without_paths(card.provenance))
    path = Path(zoo.__file__).parent / f"{arguments.name}.npz"
    pack(distilled, card, path)
    place = [] if arguments.data_dir is None else ["--data.data-dir", arguments.data_dir]
    (cell,) = evaluate(read(["evaluate", str(path), "--no-random-real", *place]))["cells"]
    card.provenance["test_accuracy"] = cell["accuracy"]
    pack(distilled, card, path)
    print(path, cell["accuracy"])


if __name__ == "__main__":
    main()
