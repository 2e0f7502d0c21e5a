"""Sets of IDC and NCFM: `data.pt`, `data_20000.pt`, a list `[images, labels]`, several images stored in each.

Images are `[M, K, H, W]` float32 pixels in [0, 1], labels `[M]` int64. Each is cut into f × f tiles, row by row, and
each tile enlarged to the full size, before images are standardized by the constants of that code, which has those of
CIFAR-10 for CIFAR-100 as well. [published: arXiv 2205.14959 and its code, decode type "single"; f is in no file]
"""

import jax
import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.formats.base import File, Reader, Reading, array_of, as_images, as_set, classes_of, source_of, standardized

PADDING = 0.5
"""Gray that is added below and at the right of images that do not divide into tiles. [published]"""


def decode(images: np.ndarray, factor: int) -> np.ndarray:
    """Cut images into tiles and enlarge each bilinearly, as `torch.nn.Upsample` with `align_corners=False` does.

    Args:
        images: `[M, H, W, K]`.
        factor: f; 1 changes nothing.

    Returns:
        `[f²·M, H, W, K]`: the first tile of every image, then the second of every image, and so on.
    """
    if factor == 1:
        return images
    size, height, width, channels = images.shape
    padding = [(0, 0), (0, -height % factor), (0, -width % factor), (0, 0)]
    padded = np.pad(images, padding, constant_values=PADDING)
    tall, wide = padded.shape[1] // factor, padded.shape[2] // factor
    tiles = padded.reshape(size, factor, tall, factor, wide, channels).transpose(1, 3, 0, 2, 4, 5)
    shape = (factor**2 * size, height, width, channels)
    return np.asarray(jax.image.resize(tiles.reshape(-1, tall, wide, channels), shape, "bilinear"))


def _matches(file: File) -> bool:
    saved = file.saved
    if not isinstance(saved, list | tuple) or len(saved) != 2:
        return False
    return all(isinstance(part, np.ndarray) for part in saved) and (saved[0].ndim, saved[1].ndim) == (4, 1)


def read(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read a set and decode it; `read.factor` says into how many images."""
    if not _matches(file):
        raise SettingError("it is no pair of images [M, K, H, W] and labels [M]")
    pixels, labels = as_images(file.saved[0]), array_of(file.saved[1], "labels")
    if asked.factor > min(pixels.shape[1:3]) or not (-1e-3 <= pixels.min() <= pixels.max() <= 1 + 1e-3):
        raise SettingError(
            f"images {list(pixels.shape)} from {pixels.min():.3g} to {pixels.max():.3g} with read.factor "
            f"{asked.factor}; pixels in [0, 1] and a factor of at most their side are needed"
        )
    source = source_of(file.path, asked, data, classes_of(labels))
    normalization = standardized(source, asked, "idc")
    images = np.asarray(normalization(255 * decode(pixels, asked.factor)))
    provenance = {"format": "idc", "file": file.path.name, "factor": asked.factor, "stored_images": len(pixels)}
    labels = np.tile(labels, asked.factor**2)
    return as_set(images, labels, source, normalization, lr=asked.lr, provenance=provenance)


_ABOUT = "data_N.pt, a list of images in [0, 1] and labels, decoded by read.factor"
READERS = {
    "idc": Reader(f"IDC: {_ABOUT}", _matches, read),
    "ncfm": Reader(f"NCFM: {_ABOUT}", _matches, read),
}
