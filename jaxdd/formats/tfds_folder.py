"""A data set of TensorFlow Datasets, in array_record files that are read without TensorFlow.

`tfds.builder_from_directory(OUT/NAME/1.0.0).as_data_source("train")` reads it, and `--data.name NAME --data.data-dir
OUT`. What it can hold is what a folder of PNGs can: pixels of 8 bits, hard labels, and `card.json` for the rest.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset
from jaxdd.data.sources import quiet
from jaxdd.data.sources.decode import decode, stack
from jaxdd.errors import SettingError
from jaxdd.formats.base import File, Reader, Reading, Writer
from jaxdd.formats.pictures import CARD, carded_set, check_empty, eight_bits, png, read_card, write_card

VERSION = "1.0.0"


def place(path: Path, card: Card) -> Path:
    """Return the folder of a set in a TFDS directory."""
    return path / re.sub(r"\W+", "_", f"{card.dataset}_distilled".lower()).strip("_") / VERSION


def write(path: Path, distilled: Distilled, card: Card) -> None:
    """Write `path/NAME/1.0.0`, where NAME is that of the dataset with `_distilled`.

    Args:
        path: A TFDS directory; made if missing.
        distilled: The set, with hard labels.
        card: What it says of itself.

    Raises:
        SettingError: There is one already.
    """
    import tensorflow_datasets as tfds

    folder = place(path, card)
    builder_name = folder.parent.name
    check_empty(folder.parent)
    pictures, clipped = eight_bits(distilled, card)
    labels = np.asarray(distilled.labels).argmax(axis=1)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = builder_name
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=pictures.shape[1:]),
                    "label": tfds.features.ClassLabel(names=[*card.class_names]),
                }
            )
            about = f"A distilled set of {card.dataset}, {len(pictures)} images."
            return tfds.core.DatasetInfo(
                builder=self,
                description=about,
                features=features,
                supervised_keys=("image", "label"),
                disable_shuffling=True,  # items stay in the order of the set
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
                # TFDS needs TensorFlow to encode an array, but takes the bytes of a PNG as they are.
                yield index, {"image": io.BytesIO(png(picture)), "label": int(label)}

    with quiet():
        Builder(data_dir=path, file_format="array_record").download_and_prepare()
    write_card(folder, distilled, card, clipped=clipped)


def _folder(path: Path) -> Path | None:
    """Return the folder of a version that has a card, given it or a TFDS directory of that one set."""
    if not path.is_dir():
        return None
    folders = (path, *path.glob("*"), *path.glob("*/*"))
    found = [inside for inside in folders if (inside / "dataset_info.json").is_file()]
    return found[0] if len(found) == 1 and (found[0] / CARD).is_file() else None


def read(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a set that `write` wrote; its version's folder, or the directory around it."""
    import tensorflow_datasets as tfds

    del asked, data
    folder = _folder(file.path)
    if folder is None:
        raise SettingError(f"there is no one data set of TFDS with a {CARD} in it")
    card, lr, _ = read_card(folder)
    try:
        builder = tfds.builder_from_directory(folder)
        source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
        records = [*source]
    except Exception as error:  # its readers raise whatever a damaged file makes them stumble over
        raise SettingError(f"TFDS cannot read it ({type(error).__name__}: {error})") from error
    images = [decode(record["image"], f"train[{index}]") for index, record in enumerate(records)]
    labels = np.array([record["label"] for record in records])
    return carded_set(stack(images, [f"train[{index}]" for index in range(len(images))]), labels, card, lr), card


READERS = {"tfds": Reader("a data set of TFDS that jaxdd wrote", lambda file: _folder(file.path) is not None, read)}
WRITERS = {"tfds": Writer(write, hard=True)}
