"""Labeled uint8 images on the host, and the stratified draw that carves one split out of another."""

import logging
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdd.errors import SettingError

log = logging.getLogger("jaxdd")

TEST_FRACTION = 0.2
"""Part of every class that becomes the test split where the set brings none. [our choice]"""

TEST_SEED = 0
"""Fixed, so that the test split stays the same whatever seed carves the validation split. [our choice]"""

Noise = Literal["symmetric", "asymmetric"]


class Split(NamedTuple):
    """One split of a dataset, in host memory.

    Attributes:
        images: `[N, H, W, K]` uint8 pixels.
        labels: `[N]` int32 class of each image.
    """

    images: np.ndarray
    labels: np.ndarray


class Carved(NamedTuple):
    """How a train split was made of what was stored: the settings of these names, see `DataConfig`."""

    validation: float = 0.1
    split_seed: int = 0
    imbalance: float = 1.0

    def __str__(self) -> str:
        """Name them as settings."""
        return ", ".join(f"{name} {value:g}" for name, value in self._asdict().items())


class RawDataset(NamedTuple):
    """What a reader hands over: train and test as they were stored, nothing carved off or normalized yet.

    Attributes:
        name: name of the dataset.
        class_names: `C` names; label `c` means `class_names[c]`.
        train: the training split.
        test: the test split.
        files: names of the files of train; None where its images are not files.
        positions: `[N]` where each image of train stood among those stored, of which test was held out; None where all
            of them are there.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    files: tuple[str, ...] | None = None
    positions: np.ndarray | None = None


def subset(split: Split, indices: np.ndarray) -> Split:
    """Return the examples of a split at positions `[n]`, in their order."""
    return Split(split.images[indices], split.labels[indices])


def warn_of_copies(train: np.ndarray, **others: np.ndarray) -> None:
    """Say which splits have train images, pixel by pixel, whatever their labels.

    Args:
        train: `[N, H, W, K]` images of the train split.
        others: those of the splits on which sets are judged, by name.
    """
    known = {hash(image.tobytes()) for image in train}  # 64 bits each, where the images would be a second copy
    for name, images in others.items():
        if copies := sum(hash(image.tobytes()) in known for image in images):
            log.warning(
                "%d of the %d %s images are train images, too, pixel by pixel: networks may remember them, and scores "
                "are too good; keep one copy of each image",
                copies,
                len(images),
                name,
            )


def checked_positions(name: str, positions: Any, count: int) -> np.ndarray:
    """Return positions of examples in ascending order, whatever their shape.

    Args:
        name: what they are called.
        positions: integers from 0 to `count − 1`, one or more, none of them twice.
        count: how many examples there are.

    Raises:
        SettingError: they are something else.
    """
    kept = np.asarray(positions)
    if not kept.size or not np.issubdtype(kept.dtype, np.integer):
        raise SettingError(f"{name} are {kept.dtype} {list(kept.shape)}; give positions, one or more")
    if kept.min() < 0 or kept.max() >= count or len(np.unique(kept)) < kept.size:
        raise SettingError(f"{name} are positions {kept.min()} to {kept.max()}; give each of 0 … {count - 1} once")
    return np.sort(kept, axis=None)


def draw_held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw a stratified part of a split, to be held out.

    Of a class with `n` examples, `min(round(fraction · n), n − 1)` are held out, drawn without replacement: every class
    keeps at least one example. [our choice]

    Args:
        labels: `[N]`.
        fraction: part of every class, in [0, 1).
        seed: seed of `numpy.random.default_rng`.

    Returns:
        `[N]` bool.

    Raises:
        ValueError: if `fraction` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise SettingError(f"the fraction to hold out must lie in [0, 1), got {fraction}; 0.1 is a common choice")
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(fraction * len(members)), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    return held_out


def draw_long_tail(labels: np.ndarray, num_classes: int, imbalance: float, seed: int) -> np.ndarray:
    """Draw the examples of a long-tailed set: class c keeps `round(n_c · ρ^(−c / (C − 1)))` of its n_c, at least one.

    Args:
        labels: `[N]` int32 in [0, C).
        num_classes: C.
        imbalance: ρ ≥ 1, how many times rarer the last class becomes than the first.
        seed: seed of `numpy.random.default_rng`.

    Returns:
        `[N]` bool.

    References:
        [published] the long-tailed CIFAR of Cui et al. 2019, arXiv 1901.05555, and Cao et al. 2019, arXiv 1906.07413.
    """
    rng = np.random.default_rng([seed, 2])
    kept = np.zeros(len(labels), bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = max(1, round(len(members) * imbalance ** (-label / max(num_classes - 1, 1))))
        kept[rng.permutation(members)[:count]] = True
    return kept


def corrupt(labels: np.ndarray, num_classes: int, fraction: float, kind: Noise, seed: int) -> np.ndarray:
    """Replace a fraction of every class's labels by wrong ones.

    Of a class with n examples `round(fraction · n)`, at most n − 1, are drawn without replacement. [our choice] The
    number is exact and the same for every class, where the literature flips each label with that probability.

    Args:
        labels: `[N]` int32 in [0, C).
        num_classes: C.
        fraction: part of every class, in [0, 1).
        kind: `symmetric`, each becomes another class, uniformly; `asymmetric`, `c → c + 1 mod C`.
        seed: seed of `numpy.random.default_rng`.

    Returns:
        `[N]` int32, a copy.

    Raises:
        ValueError: if `fraction` is outside [0, 1), or there is no other class.

    References:
        [published] both kinds: Patrini et al. 2017, arXiv 1609.03683, and the literature on label noise since.
    """
    if not 0 <= fraction < 1:
        raise SettingError(f"label_noise must be a fraction of the train split in [0, 1), got {fraction}; try 0.2")
    if fraction and num_classes < 2:
        raise SettingError(f"label noise of {fraction} needs at least 2 classes to confuse; leave it out")
    rng = np.random.default_rng([seed, 1])  # not the stream that carves off a split with the same seed
    noisy = labels.copy()
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = max(0, min(round(fraction * len(members)), len(members) - 1))
        chosen = rng.permutation(members)[:count]
        step = rng.integers(1, num_classes, count) if kind == "symmetric" else 1
        noisy[chosen] = (label + step) % num_classes
    return noisy
