"""The handwritten digits that scikit-learn ships, as a TFDS dataset: real data that needs no download.

1797 grayscale images of 8×8 pixels, 10 classes; the test part of the UCI set "Optical Recognition of Handwritten
Digits" (E. Alpaydin, C. Kaynak, 1998).

Imports tensorflow-datasets, which takes a second: import this module where it is used, not at the top of another.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants

from jaxdd.data.sources import quiet

EVERY = 5
"""One of so many examples of each class is a test example."""


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of the digits.

    Pixels `x` in 0..16 become `round(255 x / 16)`. Of each class, in scikit-learn's order, every fifth example is a
    test example: about 80/20, stratified, and no random generator that a release could change. [our choice]
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 grayscale images of handwritten digits, from scikit-learn.",
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing to download
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        is_test = np.zeros(len(labels), bool)
        for digit in range(10):
            is_test[np.flatnonzero(labels == digit)[EVERY - 1 :: EVERY]] = True
        return {
            "train": self._generate_examples(images[~is_test], labels[~is_test]),
            "test": self._generate_examples(images[is_test], labels[is_test]),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            # TFDS needs TensorFlow to encode an array, but takes the bytes of a PNG as they are.
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            png.seek(0)
            yield index, {"image": png, "label": int(label)}


def prepare(data_dir: str | None = None) -> str:
    """Write the digits into a TFDS directory, unless they are there.

    The set is written aside and renamed into place: a reader finds all of it or nothing, and of several processes that
    prepare it at the same time one wins and the others use its copy.

    Args:
        data_dir: TFDS directory, or None for TFDS's own (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).

    Returns:
        The TFDS directory.
    """
    root = Path(data_dir or constants.DATA_DIR)
    prepared = root / Digits.name / str(Digits.VERSION)
    if not prepared.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="incomplete.digits.") as aside:
            with quiet():
                Digits(data_dir=aside, file_format="array_record").download_and_prepare()
            prepared.parent.mkdir(exist_ok=True)
            try:
                os.rename(Path(aside) / Digits.name / str(Digits.VERSION), prepared)
            except OSError:
                if not prepared.exists():  # otherwise another process was faster
                    raise
    return str(root)
