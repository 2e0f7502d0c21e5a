"""Datasets on the host: loaded by name or built from arrays, with a validation split and a fitted normalization."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from jaxdd.core import normalization as normalizations
from jaxdd.core import sampling
from jaxdd.core.normalization import Normalization
from jaxdd.core.sampling import RealSet
from jaxdd.data import field
from jaxdd.data.sources import folder, tfds
from jaxdd.data.splits import (
    Carved,
    Noise,
    RawDataset,
    Split,
    checked_positions,
    corrupt,
    draw_held_out,
    draw_long_tail,
    subset,
    warn_of_copies,
)
from jaxdd.errors import SettingError
from jaxdd.io.integrity import digest_of_arrays
from jaxdd.settings import AtLeast, Fraction, Seed, Settings, check_argument

log = logging.getLogger("jaxdd")
NormalizationName = Literal["standard", "zca", "published"]


class Data(Protocol):
    """What experts, methods and evaluation ask of a dataset; `Dataset` is one, of labeled images."""

    @property
    def name(self) -> str:
        """Its name."""

    def fingerprint(self) -> str:
        """Identify what networks are trained on, by a sha256 in hexadecimal."""

    def held_out_fingerprint(self) -> str:
        """Identify what sets are chosen and reported on, the other two splits, likewise."""

    def real_set(self) -> RealSet:
        """Return the train split, which is distilled."""

    def validation_set(self) -> RealSet | None:
        """Return the split that sets and settings are chosen on, None if there is none."""

    def test_set(self) -> RealSet:
        """Return the split that results are reported on."""


def check_data(dataset: Any) -> None:
    """Refuse what is no data to distill, such as a split, arrays, or arguments in another order.

    Raises:
        SettingError: It is something else.
    """
    if not all(hasattr(dataset, name) for name in ("real_set", "validation_set", "test_set")):
        raise SettingError(
            f"the dataset is of type {type(dataset).__name__}; give what jaxdd.data.load or jaxdd.data.from_arrays "
            "returns, after the task"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A labeled image dataset in host memory.

    Attributes:
        name: name of the dataset.
        class_names: `C` names; label `c` means `class_names[c]`.
        train: what is distilled; at least one example of every class.
        validation: carved off the original train split, stratified; empty where that fraction is 0. Distilled sets and
            settings are chosen on it, never on the test split.
        test: what results are reported on.
        normalization: fitted on `train` alone, or the field's constants.
        positions: `[N]` where each example of `train` stood before other splits were taken from it: in the arrays or in
            the TFDS split that it came from.
        mislabeled: `[N]` bool, which labels of `train` were replaced on purpose (`label_noise`); None if none were.
        true_labels: `[N]` the labels of `train` as they were before; None if none were replaced.
        files: `[N]` names of the files of `train`, from the folder on; None where its images are not files.
        normalized_by: the name of the normalization in `DataConfig`.
        carved: how `train` was made of what was stored.
        fitted_on: the fingerprint of the data that the normalization was fitted on; empty for these.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    normalization: Normalization
    positions: np.ndarray
    mislabeled: np.ndarray | None = None
    true_labels: np.ndarray | None = None
    files: np.ndarray | None = None
    normalized_by: NormalizationName = "standard"
    carved: Carved = Carved()
    fitted_on: str = ""

    def __repr__(self) -> str:
        """Describe it in a line, without the pixels."""
        counts = ", ".join(f"{len(getattr(self, split).labels)} {split}" for split in ("train", "validation", "test"))
        return f"<Dataset {self.name!r}: {self.num_classes} classes, images {self.image_shape}, {counts}>"

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, K)` of one image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def fingerprint(self) -> str:
        """Identify what networks were trained on: name, train images and labels, and normalization.

        Returns:
            A sha256 in hexadecimal; computed once.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        # The header separates the fields and says how the bytes that follow are shaped.
        header = (self.name, self.train.images.shape, self.normalized_by, *filter(None, [self.fitted_on]))
        digest.update(repr(header).encode())
        digest.update(np.ascontiguousarray(self.train.images).data)
        digest.update(np.ascontiguousarray(self.train.labels.astype("<i4")).data)
        return digest.hexdigest()

    def held_out_fingerprint(self) -> str:
        """Identify what sets are chosen and reported on: the images and labels of validation and test.

        Returns:
            A sha256 in hexadecimal; computed once.
        """
        return self._held_out_fingerprint

    @cached_property
    def _held_out_fingerprint(self) -> str:
        return digest_of_arrays([self.validation, self.test])

    def real_set(self) -> RealSet:
        """Index the train split by class, for the samplers of `jaxdd.core.sampling`; computed once."""
        return self._real_set

    @cached_property
    def _real_set(self) -> RealSet:
        return self._indexed(self.train)

    def validation_set(self) -> RealSet | None:
        """Index the validation split likewise; None if it is empty."""
        return self._indexed(self.validation) if len(self.validation.labels) else None

    def test_set(self) -> RealSet:
        """Index the test split likewise."""
        return self._indexed(self.test)

    def only(self, examples: Any) -> "Dataset":
        """Return the same data with some examples of the train split alone, such as those of the highest influence.

        Args:
            examples: positions in `train`, of any shape, some of every class; they stay in the order of the split.

        Raises:
            SettingError: there is none, one is named twice or is not there, or a class is left without any.
        """
        kept = checked_positions("examples", examples, len(self.train.labels))
        train = subset(self.train, kept)
        if missing := set(range(self.num_classes)) - set(train.labels.tolist()):
            names = [self.class_names[c] for c in sorted(missing)]
            raise SettingError(f"examples have none of the class {', '.join(names)}; every class needs one")
        of_examples = {name: getattr(self, name) for name in ("positions", "mislabeled", "true_labels", "files")}
        parts: dict[str, Any] = {name: None if values is None else values[kept] for name, values in of_examples.items()}
        fitted_on = "" if self.normalized_by == "published" else self.fitted_on or self.fingerprint()
        return replace(self, train=train, fitted_on=fitted_on, **parts)

    def _indexed(self, split: Split) -> RealSet:
        return sampling.real_set(split.images, split.labels, self.num_classes, self.normalization)


@dataclass(frozen=True)
class DataConfig(Settings, path="data"):
    """Which data to distill: the arguments of `load`."""

    name: str = "digits"
    """TFDS name of an image-classification set, "digits" (scikit-learn's, no download), "folder:PATH" with one folder
    of images per class, or "pairs:PATH" with captioned images and the dataset.json that Flickr30K and COCO have."""
    data_dir: str | None = None
    """TFDS directory; TFDS's own ($TFDS_DATA_DIR or ~/tensorflow_datasets) by default."""
    validation: Annotated[float, Fraction] = 0.1
    """Fraction of every class of the train split that is held out for choosing; in [0, 1)."""
    split_seed: Annotated[int, Seed] = 0
    """Seed of the draw of the validation split."""
    normalization: NormalizationName = "standard"
    """Per-channel mean and standard deviation, or ZCA whitening, fitted on the train split; or published, the constants
    that the field's code has for the dataset."""
    image_size: Annotated[int | None, AtLeast(1)] = None
    """Scale and center-crop images to squares of this side in pixels; required where sizes differ."""
    label_noise: Annotated[float, Fraction] = 0.0
    """Fraction of every class of the train split whose labels are replaced by wrong ones, to study what that does;
    validation and test stay as they are. In [0, 1)."""
    noise_kind: Noise = "symmetric"
    """Wrong labels: symmetric, any other class, uniformly; asymmetric, always the next class, c → c + 1 modulo C."""
    noise_seed: Annotated[int, Seed] = 0
    """Seed of the draw of the wrong labels."""
    imbalance: Annotated[float, AtLeast(1)] = 1.0
    """How many times rarer the last class of the train split is made than the first, the others between them by equal
    ratios (long-tailed), to study what that does; test stays as it is. 1 for none."""


def load(
    name: str,
    *,
    data_dir: str | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    normalization: NormalizationName = "standard",
    image_size: int | None = None,
    label_noise: float = 0.0,
    noise_kind: Noise = "symmetric",
    noise_seed: int = 0,
    imbalance: float = 1.0,
) -> Dataset:
    """Load a dataset by name.

    Names are `digits` (scikit-learn's real 8×8 digits, written to `data_dir` on first use), `folder:PATH` (one folder
    of images per class, see `jaxdd.data.sources.folder.read`), and every TFDS image-classification set prepared as
    array_record (see `jaxdd.data.sources.tfds.read`). TensorFlow is never imported.

    Args:
        name: name of the dataset.
        data_dir: TFDS directory, or None for TFDS's own (`$TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        validation: fraction of every class of train that becomes the validation split, in [0, 1).
        split_seed: seed of that draw.
        normalization: `"standard"`, `"zca"` or `"published"`, see `DataConfig`.
        image_size: side in pixels to scale and center-crop to; required where images differ in size.
        label_noise: fraction of every class of train whose labels are replaced by wrong ones, in [0, 1); validation
            and test stay as they are.
        noise_kind: `"symmetric"`, any other class, uniformly; `"asymmetric"`, the next class, c → c + 1 modulo C.
        noise_seed: seed of the draw of the wrong labels.
        imbalance: ρ ≥ 1, how many times rarer the last class of train is made than the first, see
            `jaxdd.data.splits.draw_long_tail`; validation is held out of what remains.

    Returns:
        The dataset, in host memory.

    Raises:
        ValueError: if an argument is out of range, or the dataset is unknown, not prepared or damaged.
    """
    # The settings check themselves, wherever they come from.
    DataConfig(
        name,
        data_dir,
        validation,
        split_seed,
        normalization,
        image_size,
        label_noise,
        noise_kind,
        noise_seed,
        imbalance,
    )
    data_dir = os.path.expanduser(data_dir) if data_dir else None
    if data_dir and Path(data_dir).exists() and not Path(data_dir).is_dir():
        raise SettingError(f"data.data_dir is {data_dir}, which is no folder; give a TFDS directory, or leave it out")
    if name.startswith("pairs:"):
        raise SettingError(
            f"data.name is {name}, captioned images, which belong to no classes; jaxdd run and jaxdd evaluate take "
            "them, and jaxdd.data.pairs.read reads them"
        )
    if name.startswith("folder:"):
        raw = folder.read(Path(name.removeprefix("folder:")), image_size)
    elif name == "digits":
        from jaxdd.data.sources import digits

        raw = tfds.read(name, digits.prepare(data_dir), image_size)
    else:
        raw = tfds.read(name, data_dir, image_size)
    noise = partial(corrupt, fraction=label_noise, kind=noise_kind, seed=noise_seed)
    return _assemble(raw, validation, split_seed, normalization, noise, imbalance)


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    name: str = "arrays",
    class_names: Sequence[str] | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    normalization: NormalizationName = "standard",
    label_noise: float = 0.0,
    noise_kind: Noise = "symmetric",
    noise_seed: int = 0,
    imbalance: float = 1.0,
) -> Dataset:
    """Build a dataset from arrays.

    Args:
        train_images: `[N, H, W, K]` or `[N, H, W]` (grayscale) uint8, K 1 or 3.
        train_labels: `[N]` integers in [0, C); every class at least once.
        test_images: `[N', H, W, K]` or `[N', H, W]` uint8.
        test_labels: `[N']` integers in [0, C).
        name: name of the dataset.
        class_names: C names; by default the numbers up to the largest label of train.
        validation: fraction of every class of train that becomes the validation split, in [0, 1).
        split_seed: seed of that draw.
        normalization: `"standard"`, `"zca"` or `"published"`, see `DataConfig`.
        label_noise: fraction of every class of train whose labels are replaced by wrong ones, in [0, 1); validation
            and test stay as they are.
        noise_kind: `"symmetric"`, any other class, uniformly; `"asymmetric"`, the next class, c → c + 1 modulo C.
        noise_seed: seed of the draw of the wrong labels.
        imbalance: ρ ≥ 1, how many times rarer the last class of train is made than the first, see
            `jaxdd.data.splits.draw_long_tail`; validation is held out of what remains.

    Returns:
        The dataset, in host memory.

    Raises:
        ValueError: if the arrays are no such images and labels, or an argument is out of range.
    """
    DataConfig(
        name,
        validation=validation,
        split_seed=split_seed,
        normalization=normalization,
        label_noise=label_noise,
        noise_kind=noise_kind,
        noise_seed=noise_seed,
        imbalance=imbalance,
    )
    train = _as_split(train_images, train_labels, "train")
    test = _as_split(test_images, test_labels, "test")
    largest = int(train.labels.max(initial=0))
    if class_names is None:
        if largest >= max(len(train.labels), 1):  # before so many names are made
            raise SettingError(
                f"train labels go up to {largest}, but {len(train.labels)} examples cannot be of more than "
                f"{len(train.labels)} classes; number the classes from 0 without a gap"
            )
        class_names = [str(label) for label in range(largest + 1)]
    _check_names(class_names)
    noise = partial(corrupt, fraction=label_noise, kind=noise_kind, seed=noise_seed)
    raw = RawDataset(name, tuple(class_names), train, test)
    return _assemble(raw, validation, split_seed, normalization, noise, imbalance)


def _check_names(names: Any) -> None:
    if isinstance(names, str):
        raise SettingError(f"class_names is {names!r}; give a list of names, one for each class")
    for name in names:
        check_argument("a class name", name, str, "give text")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SettingError(f"two classes are called {twice[0]!r}; give every class a name of its own")


def _as_split(images: Any, labels: Any, split: str) -> Split:
    """Check one pair of arrays that a user passed."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        if images.dtype.kind not in "biuf":
            raise SettingError(
                f"{split} images have dtype {images.dtype}, but pixels are needed: pass an array of uint8 in 0..255"
            )
        span = f"[{images.min()}, {images.max()}]" if images.size else "[]"
        scale = " * 255" if images.size and 0 <= images.min() and images.max() <= 1 else ""
        raise SettingError(
            f"{split} images have dtype {images.dtype} and range {span}, but uint8 in 0..255 is needed: undo any "
            f"normalization and pass np.round(images{scale}).astype(np.uint8)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        hints = {2: "; one-hot labels become such by labels.argmax(-1)"}
        hints |= dict.fromkeys((3, 4), "; the order is train images, train labels, test images, test labels")
        raise SettingError(
            f"{split} labels must be integers of shape [N], got {labels.dtype} {list(labels.shape)}"
            + hints.get(labels.ndim, "")
        )
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise SettingError(
            f"{split} labels span {labels.min()}..{labels.max()}, but classes are numbered from 0; number them without "
            "a gap"
        )
    if len(images) != len(labels):
        raise SettingError(f"{split} has {len(images)} images but {len(labels)} labels; every image needs one label")
    return Split(images, labels.astype(np.int32))


def _assemble(
    raw: RawDataset,
    validation: float,
    split_seed: int,
    normalization: NormalizationName,
    noise: "partial[np.ndarray]",
    imbalance: float,
) -> Dataset:
    """Check what was read, thin it out, carve off the validation split, add noise and normalization to what remains."""
    for split, (images, labels) in (("train", raw.train), ("test", raw.test)):
        if len(images) == 0:
            raise SettingError(f"the {split} split has no examples; add some")
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise SettingError(
                f"{split} images have shape {list(images.shape)}, but [N, H, W, K] with 1 or 3 channels K last is "
                "needed; transpose channels to the end and drop an alpha channel"
            )
        if 0 in images.shape:
            raise SettingError(f"{split} images have shape {list(images.shape)}, without a pixel; pass larger ones")
        if images.shape[1:] != raw.train.images.shape[1:]:
            raise SettingError(
                f"train images are {list(raw.train.images.shape[1:])} but {split} images {list(images.shape[1:])}; "
                "resize them to one shape"
            )
        if labels.min() < 0 or labels.max() >= len(raw.class_names):
            raise SettingError(
                f"{split} labels span {labels.min()}..{labels.max()}, but {len(raw.class_names)} classes need "
                f"0..{len(raw.class_names) - 1}"
            )
    sizes = np.bincount(raw.train.labels, minlength=len(raw.class_names))
    if not sizes.all():
        empty = int(np.argmin(sizes))
        raise SettingError(
            f"class {empty} ({raw.class_names[empty]!r}) has no train example; add some, or remove the class and "
            "number the others without a gap"
        )
    there = np.arange(len(raw.train.labels))
    if imbalance > 1:
        there = np.flatnonzero(draw_long_tail(raw.train.labels, len(raw.class_names), imbalance, split_seed))
    held_out = draw_held_out(raw.train.labels[there], validation, split_seed)
    if validation and not held_out.any():
        log.warning(
            "no validation split: every class has too few examples to hold out %g of them, and the last set is kept; "
            "raise data.validation",
            validation,
        )
    positions = there[~held_out]
    train = subset(raw.train, positions)
    fitted: Normalization
    if normalization == "published":
        fitted = field.published(raw.name, train.images.shape[-1])
    else:
        fitted = normalizations.fit(normalization, train.images)
    noisy = noise(train.labels, len(raw.class_names))
    wrong = noisy != train.labels
    mislabeled, true_labels = (wrong, train.labels) if wrong.any() else (None, None)
    if noise.keywords["fraction"] and not wrong.any():
        log.warning("no label is replaced: every class has too few examples for %g of them", noise.keywords["fraction"])
    train = train._replace(labels=noisy)
    held = subset(raw.train, there[held_out])
    warn_of_copies(train.images, validation=held.images, test=raw.test.images)
    files = None if raw.files is None else np.array(raw.files)[positions]
    if raw.positions is not None:
        positions = raw.positions[positions]
    return Dataset(
        raw.name,
        raw.class_names,
        train,
        held,
        raw.test,
        fitted,
        positions,
        mislabeled,
        true_labels,
        files,
        normalized_by=normalization,
        carved=Carved(validation, split_seed, imbalance),
    )
