"""Sets of FRePo: an npz of `image` `[M, H, W, K]` float32 and `label` `[M, C]` float32, both learned.

Images are standardized by constants and then whitened, `x = ((p − m)/s − z) W`, by matrices that FRePo's code keeps in
`data/zca/<dataset>_normalize_zca.npz` as `whitening_transform` W, `rev_whitening_transform` and `zca_mean` z. Without
these nothing is known of the pixels: its ZCA is regularized by a share of the trace of the covariance, not as MTT's is.

Labels are targets of a regression, `onehot − 1/C`, divided by `√(C/10)`, then learned. They become probabilities
`p ∝ max(0, y √(C/10) + 1/C)` here, which inverts that at the labels it begins with. [our choice]
"""

import math

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.normalization import ZCA, Normalization
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.formats.base import File, Reader, Reading, Source, as_set, source_of, standardized
from jaxdd.io import npz

MATRICES = ("whitening_transform", "rev_whitening_transform", "zca_mean")


def _matches(file: File) -> bool:
    return {"image", "label"} <= file.arrays


def read(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a set; `read.matrices` names its whitening, unless `read.zca` says that it has none."""
    arrays = npz.read(file.path, lambda name: name in ("image", "label"))
    if missing := {"image", "label"} - {*arrays}:
        raise SettingError(f"it lacks the arrays {sorted(missing)}")
    images, labels = arrays["image"], arrays["label"]
    if images.ndim != 4 or labels.ndim != 2 or images.dtype.kind != "f" or labels.dtype.kind != "f":
        raise SettingError(f"image is {list(images.shape)} and label {list(labels.shape)}, not [M, H, W, K] and [M, C]")
    source = source_of(file.path, asked, data, labels.shape[1])
    normalization = _normalization(source, asked, images.shape[1:])
    provenance = {"format": "frepo", "file": file.path.name, "labels": "regression targets, made probabilities"}
    targets = _probabilities(labels)
    return as_set(
        images.astype(np.float32), targets, source, normalization, kind="probabilities", lr=asked.lr,
        provenance=provenance,
    )  # fmt: skip


def _probabilities(labels: np.ndarray) -> np.ndarray:
    classes = labels.shape[1]
    positive = np.maximum(labels * math.sqrt(classes / 10) + 1 / classes, 0)
    total = positive.sum(axis=1, keepdims=True)
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise SettingError("a label has no positive or no finite target")
    return positive / total


def _normalization(source: Source, asked: Reading, shape: tuple[int, ...]) -> Normalization:
    """Join standardization and whitening, `(p − m − s z) diag(1/s) W`."""
    constants = standardized(source, asked, "frepo")
    if asked.zca is False:
        return constants
    if asked.matrices is None:
        raise SettingError(
            "its images are whitened by matrices of their own, which no formula gives again: name FRePo's npz of them "
            "(data/zca/<dataset>_normalize_zca.npz) by read.matrices, or set read.zca to False if it was distilled "
            "without"
        )
    arrays = npz.read(asked.matrices, lambda name: name in MATRICES)
    size = math.prod(shape)
    if {name: array.shape[-1:] for name, array in arrays.items()} != dict.fromkeys(MATRICES, (size,)):
        raise SettingError(f"{asked.matrices} has no {', '.join(MATRICES)} of {size} × {size}; blocks are not read")
    whiten, unwhiten, center = (np.asarray(arrays[name], np.float64).squeeze() for name in MATRICES)
    if whiten.shape != (size, size) or unwhiten.shape != (size, size) or center.shape != (size,):
        raise SettingError(f"{asked.matrices} is of blocks of pixels, which are not read; give that of whole images")
    mean, std = (np.resize(np.asarray(values, np.float64), size) for values in (constants.mean, constants.std))
    parts = (mean + std * center, whiten / std[:, None], unwhiten * std[None])
    return ZCA(*(part.astype(np.float32) for part in parts))


READERS = {"frepo": Reader("FRePo: an npz of image and label, with read.matrices", _matches, read)}
