"""Any image-classification set of TensorFlow Datasets, read without TensorFlow.

`tensorflow_datasets` takes a second to import, so it is imported inside the functions.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.data.sources.decode import check_memory, decode, stack
from jaxdd.data.splits import TEST_FRACTION, TEST_SEED, RawDataset, Split, draw_held_out, subset
from jaxdd.errors import SettingError

CHUNK = 1000
"""Records that are read at once."""


def read(name: str, data_dir: str | None = None, image_size: int | None = None) -> RawDataset:
    """Read a set that lies prepared as array_record in a TFDS directory.

    The test split is the set's `test` if that has labels, else its `validation`; where neither is there, 20% of every
    class of `train`, drawn with a fixed seed that does not depend on the validation split. Other splits are not read.

    Args:
        name: TFDS name, `NAME`, `NAME/CONFIG` or `NAME/CONFIG:VERSION`; the latest version that is prepared is read.
        data_dir: TFDS directory, or None for TFDS's own.
        image_size: side in pixels to scale and center-crop to, or None where all images have one size.

    Returns:
        Train and test split.

    Raises:
        ValueError: if the set is unknown, not prepared, prepared in another format, not one of images with a class
            label, or its images differ in size and `image_size` is None.
    """
    from tensorflow_datasets.core.file_adapters import FileFormat

    builder = _find(name, data_dir)
    if FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        raise SettingError(
            f"{name} is prepared as {builder.info.file_format.value} in {builder.data_path}, which cannot be read "
            f"without TensorFlow; delete that directory or choose another data_dir, then prepare it again: "
            f"{_how_to_prepare(name, data_dir)}"
        )
    image_key, label_key = _supervised(builder.info, name)
    splits = builder.info.splits
    if "train" not in splits:
        raise SettingError(f"{name} has no train split, only {sorted(splits)}; choose a set that has one")
    sources = {split: _source(builder, split) for split in ("train", "test", "validation") if split in splits}
    check_memory(sum(map(len, sources.values())), image_size)
    train = _read_split(sources["train"], builder.info, image_key, label_key, image_size, f"{name} train")
    positions = None
    for split in ("test", "validation"):
        # Where the labels of a split are withheld, TFDS says −1.
        if split in sources and len(sources[split]) and sources[split][0][label_key] >= 0:
            test = _read_split(sources[split], builder.info, image_key, label_key, image_size, f"{name} {split}")
            break
    else:
        held_out = draw_held_out(train.labels, TEST_FRACTION, TEST_SEED)
        positions = np.flatnonzero(~held_out)
        train, test = subset(train, positions), subset(train, np.flatnonzero(held_out))
    return RawDataset(name, tuple(builder.info.features[label_key].names), train, test, positions=positions)


def _find(name: str, data_dir: str | None) -> Any:
    """Return the builder of the files of a set; its code is not needed, nor the TensorFlow that the code may import."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming, read_only_builder, registered

    is_folder = bool(name) and Path(name).is_dir()
    of_images = SettingError(f"data.name is {name!r}, a folder; to read its images give folder:{name}")
    try:
        naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        if is_folder:
            raise of_images from error
        raise SettingError(f"data.name is {name!r}; give digits, folder:PATH or the name of a TFDS dataset") from error
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError:
        pass
    known = tfds.list_builders(with_community_datasets=False)
    base = name.split(":")[0].split("/")[0]
    if base in known:
        raise SettingError(
            f"{name} is not prepared in {data_dir or 'the TFDS directory'}; preparing it needs TensorFlow (reading it "
            f"does not): {_how_to_prepare(name, data_dir)}"
        )
    if is_folder:
        raise of_images
    near = difflib.get_close_matches(base, [*known, "digits"], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "pass digits, folder:PATH or the name of a TFDS dataset"
    raise SettingError(f"unknown dataset {name!r}; {hint}")


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    where = f", data_dir={data_dir!r}" if data_dir else ""
    code = (
        "import tensorflow_datasets as tfds; "
        f"tfds.builder({name!r}{where}, file_format='array_record').download_and_prepare()"
    )
    return f"pip install 'jaxdd[prepare]' && python -c \"{code}\""


def _supervised(info: Any, name: str) -> tuple[str, str]:
    """Return the names of the image and of its class among the features of a set."""
    import tensorflow_datasets as tfds

    features = dict(info.features)
    if info.supervised_keys and all(isinstance(key, str) for key in info.supervised_keys):
        candidates = list(info.supervised_keys)
    else:
        candidates = list(features)
    images = [key for key in candidates if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in candidates if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) != 1 or len(labels) != 1 or features[images[0]].np_dtype != np.uint8:
        raise SettingError(
            f"{name} is no image-classification set: it needs one uint8 image and one class label, its features are "
            f"{features}; export it as a folder of images and load folder:PATH"
        )
    return images[0], labels[0]


def _source(builder: Any, split: str) -> Sequence[dict[str, Any]]:
    """Return the records of a split, images still encoded: TFDS's own decoding is slower, and warns without OpenCV."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    encoded = {key: tfds.decode.SkipDecoding() for key in features if isinstance(features[key], tfds.features.Image)}
    return builder.as_data_source(split, decoders=encoded, file_format="array_record")


def _read_split(
    source: Any, info: Any, image_key: str, label_key: str, image_size: int | None, described: str
) -> Split:
    channels = info.features[image_key].shape[-1]
    images: list[np.ndarray] = []
    labels: list[int] = []
    for start in range(0, len(source), CHUNK):
        for record in source.__getitems__(range(start, min(start + CHUNK, len(source)))):
            place = f"{described}[{len(images)}]"
            data = record[image_key]
            images.append(decode(data, place, channels=channels if channels in (1, 3) else None, image_size=image_size))
            labels.append(record[label_key])
    if not images:
        raise SettingError(f"{described} has no examples; prepare the set again")
    return Split(stack(images, [f"{described}[{index}]" for index in range(len(images))]), np.array(labels, np.int32))
