"""What all readers of peers' files share: what may be asked of them, and from tensors to a set with its card."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from jaxdd.core.distilled import UNKNOWN, Card, Distilled, LabelKind, assemble
from jaxdd.core.normalization import ZCA, Normalization, Standardize
from jaxdd.data import Dataset, field
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.io import npz
from jaxdd.settings import AtLeast, Positive, Settings

LR = 0.01
"""The learning rate of networks on a set that brings none. [published: the evaluation of DC and what follows it]"""


@dataclasses.dataclass(frozen=True)
class Reading(Settings, path="read"):
    """What a file does not say of itself; each format needs some of it, and asks for what it needs."""

    dataset: str | None = None
    """The dataset that the set stands for, for its classes and constants: cifar10, cifar100, svhn_cropped, mnist,
    fashion_mnist, tiny_imagenet, imagenet2012. By default that of the data, or else the one in the file's path."""
    experiment: Annotated[int, AtLeast(0)] = 0
    """Which experiment of a file that holds several (DC, DSA, DM)."""
    zca: bool | None = None
    """Whether images are ZCA-whitened (MTT --zca, DATM): then the real data are needed, to fit the matrix again."""
    factor: Annotated[int, AtLeast(1)] = 2
    """f, each stored image is decoded into f × f (IDC, NCFM); 1 for none."""
    matrices: str | None = None
    """The npz of whitening matrices that FRePo keeps in data/zca."""
    lr: Annotated[float | None, Positive] = None
    """Learning rate of networks on the set, where the file brings none; 0.01 by default."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel that the images were normalized with, in place of the constants of the field's code."""
    std: tuple[float, ...] | None = None
    """Standard deviation likewise."""


class File:
    """A file or folder to be read, looked into once, however many formats are tried on it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def saved(self) -> Any:
        """What `torch.save` wrote, None if the file is none of its."""
        return torch_file.load(self.path) if torch_file.is_torch_file(self.path) else None

    @cached_property
    def arrays(self) -> set[str]:
        """The names of the arrays of an npz file, none if it is none."""
        return npz.names(self.path) if self.path.is_file() else set()

    def sibling(self, name: str) -> Path:
        """Return the path of a file in the folder that this is, or beside the file that this is."""
        return (self.path if self.path.is_dir() else self.path.parent) / name


class Reader(NamedTuple):
    """How a format is read.

    Attributes:
        about: What it is, in a line.
        matches: Whether a file or folder looks like one of this format.
        read: Reads one, of what was asked for and the real data.
    """

    about: str
    matches: Callable[[File], bool]
    read: Callable[[File, Reading, Dataset | None], tuple[Distilled, Card]]


class Writer(NamedTuple):
    """How a format is written.

    Attributes:
        write: `(path, set, card)`, writes a set into a file, which is replaced, or a folder, which must not be there.
        hard: Whether it holds one class for each image: soft labels have to be hardened before.
    """

    write: Callable[[Path, Distilled, Card], None]
    hard: bool = False


class Source(NamedTuple):
    """The dataset of a set.

    Attributes:
        name: As TFDS spells it.
        class_names: C names; those of the data, or the field's, or numbers.
        known: What the field takes for granted of it; None if it is none of the field's.
    """

    name: str
    class_names: tuple[str, ...]
    known: field.Known | None


def source_of(path: Path, asked: Reading, data: Dataset | None, classes: int) -> Source:
    """Find out which dataset a set stands for.

    Args:
        path: The file, whose path may name it.
        asked: What was asked for.
        data: The real data.
        classes: C, as the labels have it.

    Raises:
        SettingError: There are other classes than the dataset has.
    """
    named = asked.dataset or (data.name if data is not None else field.named_in(str(path.absolute())))
    name = (field.canonical(named) or named) if named else UNKNOWN
    known = field.KNOWN.get(name)
    given = data.class_names if data is not None else known.classes if known is not None else ()
    names = given or tuple(map(str, range(classes)))
    if len(names) < classes:
        raise SettingError(f"its labels are of {classes} classes, and {name} has {len(names)}; name its dataset")
    return Source(name, names, known)


def standardized(source: Source, asked: Reading, constants: Literal["vico", "idc", "frepo"]) -> Standardize:
    """Return the normalization by the constants that were asked for, or by those that the code of a format has.

    Raises:
        SettingError: It is not known.
    """
    if asked.mean is not None or asked.std is not None:
        if asked.mean is None or asked.std is None:
            raise SettingError("one of read.mean and read.std is given; give both")
        return field.standardization((asked.mean, asked.std))
    found = getattr(source.known, constants) if source.known is not None else None
    if found is None:
        raise SettingError(
            f"nothing tells how its images are normalized: the dataset is {source.name}; name one of "
            f"{', '.join(field.KNOWN)} by read.dataset, or give read.mean and read.std"
        )
    return field.standardization(found)


def kornia_zca(data: Dataset | None, why: str) -> ZCA:
    """Fit the ZCA whitening that the code of MTT and DATM applies: kornia's with ε = 0.1, on the whole train split.

    With the covariance C of the flattened images in [0, 1], divided by N − 1, it is `(x − mean)(C + ε)^(−1/2)`, a
    function of the matrix C, so that it does not depend on the order in which pixels are flattened.

    Args:
        data: The real data. The validation split is a part of the train split of the others, and is counted in.
        why: What tells that the set is whitened, for the message.

    Raises:
        SettingError: The data are not given.
    """
    if data is None:
        raise SettingError(
            f"its images are ZCA-whitened ({why}), and the file does not hold the matrix, which has to be fitted on "
            "the real train images again: give the data, read(path, data=jaxdd.data.load(NAME))"
        )
    return ZCA.fit(np.concatenate([data.train.images, data.validation.images]), unbiased=True)


def as_images(tensor: Any, name: str = "images") -> np.ndarray:
    """Turn a tensor of PyTorch `[M, K, H, W]` into float32 images `[M, H, W, K]`.

    Raises:
        SettingError: It is no such tensor, or not finite.
    """
    tensor = array_of(tensor, name)
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3) or 0 in tensor.shape:
        raise SettingError(f"{name} are {list(tensor.shape)}, and images [M, K, H, W] of 1 or 3 channels are needed")
    return np.ascontiguousarray(np.moveaxis(tensor, 1, -1), np.float32)


def array_of(value: Any, name: str) -> np.ndarray:
    """Return an array of a file, refused if it is none."""
    if not isinstance(value, np.ndarray):
        raise SettingError(f"{name} is a {type(value).__name__}, and a tensor is needed")
    return value


def as_set(
    images: np.ndarray,
    labels: np.ndarray,
    source: Source,
    normalization: Normalization,
    *,
    kind: LabelKind | None = None,
    lr: float | None = None,
    provenance: Mapping[str, Any],
) -> tuple[Distilled, Card]:
    """Build the set and its card; hard-labeled items come in the order of their classes.

    Args:
        images: `[M, H, W, K]` normalized.
        labels: `[M]` class indices, or `[M, C]` floats.
        source: The dataset.
        normalization: What the images are normalized by.
        kind: What the labels are; by default hard or logits, as their axes say.
        lr: Learning rate; by default `LR`, as that of the recipe.
        provenance: Where the set comes from.

    Raises:
        SettingError: They do not fit each other, or are not finite.
    """
    kind = kind or ("hard" if labels.ndim == 1 else "logits")
    if kind == "hard":
        order = np.argsort(labels, kind="stable")
        images, labels = images[order], labels[order]
    else:
        labels = np.asarray(labels, np.float32)
    recipe = {"lr": LR} if lr is None else {}  # a rate that no file gave was not learned with the set
    card = Card(source.name, source.class_names, kind, normalization, recipe, dict(provenance))
    return assemble(images, labels, np.asarray(LR if lr is None else lr, np.float32), card), card


def classes_of(labels: np.ndarray) -> int:
    """Count the classes that labels `[M]` or `[M, C]` are of."""
    if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size:
        if not 0 <= labels.min() <= labels.max() < 10**5:
            raise SettingError(f"labels run from {labels.min()} to {labels.max()}, and classes are numbered from 0")
        return int(labels.max()) + 1
    if labels.ndim == 2 and labels.dtype.kind in "fV" and labels.size:
        return labels.shape[1]
    raise SettingError(
        f"labels are {labels.dtype} {list(labels.shape)}, and class indices [M] or floats [M, C] are needed"
    )
