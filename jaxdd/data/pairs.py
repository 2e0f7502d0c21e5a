"""Images with captions: from files or arrays to splits of pairs.

Axis letters: N images, P captions, E text features, H W K image.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.core import normalization as normalizations
from jaxdd.core.normalization import Normalization
from jaxdd.core.retrieval import pairs_set
from jaxdd.core.sampling import RealSet
from jaxdd.data import text
from jaxdd.data.dataset import DataConfig
from jaxdd.data.sources.decode import check_memory, decode, stack
from jaxdd.data.splits import checked_positions, warn_of_copies
from jaxdd.errors import SettingError
from jaxdd.io.files import is_text
from jaxdd.io.integrity import digest, digest_of_arrays

SPLITS = {"train": "train", "restval": "train", "val": "validation", "validation": "validation", "test": "test"}
"""What Karpathy's files call splits, and what they are here."""
DESCRIPTION = "dataset.json"
PREFIX = "pairs:"
"""What `DataConfig.name` begins with where images have captions; the folder follows."""


@dataclass(frozen=True, eq=False)
class Captioned:
    """Images with their captions.

    Attributes:
        images: `[N, H, W, K]` uint8.
        captions: for each image one or more texts.
        names: what to call each image, such as its file.
    """

    images: np.ndarray
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """All captions, those of an image one after another, P."""
        return [caption for captions in self.captions for caption in captions]

    @property
    def owners(self) -> np.ndarray:
        """`[P]` int32, the image of each caption."""
        return np.repeat(np.arange(len(self.images), dtype=np.int32), [len(captions) for captions in self.captions])


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """A dataset of images with captions in host memory; `jaxdd.data.Data` for a task of retrieval.

    Attributes:
        name: name of the dataset.
        train: the split that is distilled.
        validation: the split that sets are chosen on; None if there is none.
        test: the split that results are reported on.
        encoder: the text encoder, see `jaxdd.data.text.embed`.
        normalization: fitted on the images of train.
    """

    name: str
    train: Captioned
    validation: Captioned | None
    test: Captioned
    encoder: str
    normalization: Normalization

    def __repr__(self) -> str:
        """Describe it in a line, without pixels and captions."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(s.images)} {name}" for name, s in splits.items() if s is not None)
        return f"<Pairs {self.name!r}: images {self.image_shape}, {counts}; {len(self.train.texts)} captions to train>"

    def fingerprint(self) -> str:
        """Identify what networks were trained on: name, train images and embedded captions, normalization.

        Returns:
            A sha256 in hexadecimal; computed once.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        arrays = digest_of_arrays([self.train.images, self.train.owners, self._train_texts])
        return digest({"name": self.name, "encoder": self.encoder, "arrays": arrays})

    def held_out_fingerprint(self) -> str:
        """Identify what sets are chosen and reported on: images and captions of validation and test.

        Returns:
            A sha256 in hexadecimal; computed once.
        """
        return self._held_out_fingerprint

    @cached_property
    def _held_out_fingerprint(self) -> str:
        splits = [split for split in (self.validation, self.test) if split is not None]
        return digest([(digest_of_arrays([s.images, s.owners]), list(s.texts)) for s in splits])

    @property
    def text_features(self) -> int:
        """E."""
        return int(self._train_texts.shape[1])

    @cached_property
    def _train_texts(self) -> np.ndarray:
        return text.embed(self.encoder, self.train.texts)

    @cached_property
    def text_scale(self) -> np.float32:
        """What embeddings are multiplied by, so that their coordinates have standard deviation one over train.

        They are as large as normalized pixels then, and one learning rate fits both. [our choice]
        """
        return np.float32(1 / self._train_texts.std())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, K)`."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def embedded(self, captions: Sequence[str]) -> np.ndarray:
        """Embed captions as the network sees them, `[P, E]` float32, see `text_scale`."""
        return text.embed(self.encoder, captions) * self.text_scale

    def real_set(self) -> RealSet:
        """Return the train split: an example for each caption."""
        return self._real_set

    @cached_property
    def _real_set(self) -> RealSet:
        return self._pairs(self.train, self._train_texts * self.text_scale)

    def validation_set(self) -> RealSet | None:
        """Return the validation split, None if there is none."""
        return None if self.validation is None else self._pairs(self.validation, self.embedded(self.validation.texts))

    def test_set(self) -> RealSet:
        """Return the test split."""
        return self._pairs(self.test, self.embedded(self.test.texts))

    def only(self, captions: Any) -> "Pairs":
        """Return the same data with some captions of the train split alone, such as those of the highest influence.

        Args:
            captions: positions in `train.texts`, of any shape; the images of the others are left out.

        Raises:
            SettingError: there is none, one is named twice, or is not there.
        """
        texts, owners = self.train.texts, self.train.owners
        of_image: dict[int, list[str]] = {}
        for position in checked_positions("captions", captions, len(texts)):
            of_image.setdefault(int(owners[position]), []).append(texts[position])
        images = list(of_image)
        chosen = Captioned(
            self.train.images[images],
            tuple(tuple(members) for members in of_image.values()),
            tuple(self.train.names[i] for i in images),
        )
        return replace(self, train=chosen)

    def nearest(self, texts: Any) -> list[str]:
        """Name the caption of train that is nearest in angle to each embedded text of `[M, E]`."""
        captions, known = self.train.texts, text.unit_rows(self._train_texts)
        return [captions[i] for i in np.argmax(text.unit_rows(np.asarray(texts)) @ known.T, axis=1)]

    def _pairs(self, split: Captioned, texts: np.ndarray) -> RealSet:
        return pairs_set(split.images, self.normalization, texts, split.owners)


def read(path: str | Path, *, image_size: int | None = None, encoder: str = "hashed") -> Pairs:
    """Read images with captions in the layout that Flickr30K and COCO have as Karpathy's files.

    `PATH/dataset.json` holds `{"dataset": name, "images": [{"filename", "split", "sentences": [{"raw"}, …]}, …]}`, with
    splits train (restval counts as that), val and test; the images lie in `PATH/images`, or in PATH, in the folder
    `filepath` of an entry if it has one.

    Args:
        path: the folder.
        image_size: side in pixels to scale and center-crop to; None where all images have one size.
        encoder: the text encoder, see `jaxdd.data.text.embed`.

    Returns:
        The pairs; validation is None where no image is of it.

    Raises:
        SettingError: there is no such file, it is no such description, a split has no image, an image is missing or
            damaged or in two splits, has no caption or an empty one, or images differ in size.
    """
    folder = Path(path).expanduser()
    where = folder / DESCRIPTION
    if not where.is_file():
        raise SettingError(f"{where} does not exist; pass pairs:PATH where PATH holds images and {DESCRIPTION}")
    try:
        described = json.loads(where.read_text("utf-8"))
    except ValueError as error:
        raise SettingError(f"{where} is no JSON ({error})") from error
    entries = described.get("images") if isinstance(described, dict) else None
    if not isinstance(entries, list) or not entries:
        raise SettingError(f"{where} has no list 'images'; see jaxdd.data.pairs.read for its layout")
    parts: dict[str, list[tuple[str, tuple[str, ...]]]] = {"train": [], "validation": [], "test": []}
    seen: dict[str, str] = {}
    for i, entry in enumerate(entries):
        name, split, texts = _entry(entry, f"{where}: image {i}")
        if name in seen:
            both = {seen[name], split}
            raise SettingError(f"{where}: {name} is listed twice, in {' and '.join(sorted(both))}; leave one")
        seen[name] = split
        parts[split].append((name, texts))
    for split in ("train", "test"):
        if not parts[split]:
            raise SettingError(f"{where} has no image of the split {split}; give each image one of train, val and test")
    check_memory(len(entries), image_size)
    names = [name for members in parts.values() for name, _ in members]
    images = stack([_decoded(folder, name, image_size) for name in names], names)
    found, start = {}, 0
    for split, members in parts.items():
        end = start + len(members)
        captions = tuple(texts for _, texts in members)
        found[split] = Captioned(images[start:end], captions, tuple(names[start:end]))
        start = end
    name = described.get("dataset")
    return _assemble(name if isinstance(name, str) else folder.name, found, encoder)


def load(config: DataConfig, encoder: str = "hashed") -> Pairs:
    """Read the pairs that settings name by pairs:PATH, see `read`.

    Args:
        config: The settings; of them captioned images have `image_size`, their splits are those of the file.
        encoder: the text encoder, see `jaxdd.data.text.embed`.

    Raises:
        SettingError: a setting is for labeled images, or the folder cannot be read.
    """
    for other in fields(config):
        value = getattr(config, other.name)
        if other.name not in ("name", "image_size", "data_dir") and value != other.default:
            raise SettingError(f"data.{other.name} is {value!r}, and it is for labeled images; leave it out")
    return read(config.name.removeprefix(PREFIX), image_size=config.image_size, encoder=encoder)


def from_arrays(
    train: tuple[np.ndarray, Sequence[Sequence[str]]],
    test: tuple[np.ndarray, Sequence[Sequence[str]]],
    validation: tuple[np.ndarray, Sequence[Sequence[str]]] | None = None,
    *,
    name: str = "pairs",
    encoder: str = "hashed",
) -> Pairs:
    """Make pairs from arrays.

    Args:
        train: images `[N, H, W, K]` uint8 and for each a sequence of captions.
        test: alike.
        validation: alike; None for none.
        name: what to call the set.
        encoder: the text encoder, see `jaxdd.data.text.embed`.

    Raises:
        SettingError: images are of another type or shape, captions are not as many, or one is missing or empty.
    """
    found = {}
    for split, given in (("train", train), ("validation", validation), ("test", test)):
        images, captions = given if given is not None else (train[0][:0], [])
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != np.shape(train[0])[1:]:
            raise SettingError(f"{split} images are {images.dtype} {list(images.shape)}; give uint8 [N, H, W, K]")
        if len(images) != len(captions):
            raise SettingError(f"{split} has {len(images)} images and captions of {len(captions)}; give some for each")
        if not len(images) and split != "validation":
            raise SettingError(f"{split} has no pairs; give some")
        checked = tuple(_captions(texts, f"{split} image {i}") for i, texts in enumerate(captions))
        found[split] = Captioned(images, checked, tuple(f"{split} {i}" for i in range(len(images))))
    return _assemble(name, found, encoder)


def _assemble(name: str, found: Mapping[str, Captioned], encoder: str) -> Pairs:
    validation = found["validation"] if len(found["validation"].images) else None
    normalization = normalizations.fit("standard", found["train"].images)
    warn_of_copies(found["train"].images, validation=found["validation"].images, test=found["test"].images)
    return Pairs(name, found["train"], validation, found["test"], encoder, normalization)


def _entry(entry: Any, where: str) -> tuple[str, str, tuple[str, ...]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
        raise SettingError(f"{where} has no 'filename'")
    name = str(Path(entry.get("filepath") or "") / entry["filename"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SettingError(f"{where} lies outside the folder: {name!r}")
    if entry.get("split") not in SPLITS:
        raise SettingError(f"{where}, {name}, is of split {entry.get('split')!r}; give one of {', '.join(SPLITS)}")
    sentences = entry.get("sentences")
    texts = [s.get("raw") if isinstance(s, dict) else None for s in sentences] if isinstance(sentences, list) else []
    return name, SPLITS[entry["split"]], _captions(texts, f"{where}, {name},")


def _captions(texts: Sequence[Any], where: str) -> tuple[str, ...]:
    if isinstance(texts, str) or not len(texts):
        raise SettingError(f"{where} has no caption: give a list of one or more, or leave the image out")
    for caption in texts:
        if not isinstance(caption, str) or not caption.strip():
            raise SettingError(f"{where} has an empty caption: fill or remove it")
        if not is_text(caption):
            raise SettingError(f"{where} has a caption with broken characters, {caption!r}: mend it")
    return tuple(texts)


def _decoded(folder: Path, name: str, image_size: int | None) -> np.ndarray:
    for path in (folder / "images" / name, folder / name):
        if path.is_file():
            return decode(path.read_bytes(), str(path), image_size=image_size)
    raise SettingError(f"{folder / DESCRIPTION} names {name}, which is neither in {folder / 'images'} nor in {folder}")
