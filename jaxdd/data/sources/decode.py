"""Image files to uint8 arrays, with pillow."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdd.core.parallel import host_memory
from jaxdd.errors import SettingError

MODES = {1: "L", 3: "RGB"}
"""Pillow's name of an image of K channels."""


def decode(data: bytes, source: str, *, channels: int | None = None, image_size: int | None = None) -> np.ndarray:
    """Decode one image file.

    With `image_size`, the image is scaled until its shorter side fits (antialiased bilinear) and its center is cut out.
    [published: the ImageNet subsets of MTT]

    Args:
        data: the bytes of the file, in any 8-bit format that pillow reads.
        source: name of the file, for the error message.
        channels: K, or None to keep grayscale images as they are and convert all others (palette, alpha, CMYK) to RGB.
        image_size: side of the result in pixels, or None to keep the size.

    Returns:
        `[H, W, K]` uint8.

    Raises:
        ValueError: if the file cannot be decoded or holds more than 8 bits per channel.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:  # whose message names the buffer, not the file
        raise SettingError(f"cannot decode the image {source} (of no known format); replace or delete it") from error
    except Exception as error:  # pillow's decoders raise whatever a corrupt file makes them stumble over
        raise SettingError(f"cannot decode the image {source} ({error}); replace or delete it") from error
    if image.mode[0] in "IF":
        raise SettingError(
            f"the image {source} has mode {image.mode}, more than 8 bits per channel; convert it to 8 bits"
        )
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its preview
    if frames > 1:
        raise SettingError(f"the image {source} has {frames} frames or pages; extract those to be used")
    # Photographs are often stored lying on their side, with a note how to turn them.
    image = ImageOps.exif_transpose(image) if image.format in ("JPEG", "MPO") else image
    mode = MODES[channels] if channels else ("L" if image.mode in ("1", "L") else "RGB")
    image = image if image.mode == mode else image.convert(mode)
    if image_size and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def check_memory(count: int, image_size: int | None) -> None:
    """Refuse to decode more pixels than half of the host's memory, which has to hold them twice.

    Args:
        count: Number of images.
        image_size: Side of each in pixels; None, where the files say it, is not checked.

    Raises:
        ValueError: They do not fit; the largest size that does is named.
    """
    memory = host_memory()
    needed = 3 * count * (image_size or 0) ** 2
    if needed > memory / 2:
        raise SettingError(
            f"data.image_size is {image_size}, and {count} images of that size take {needed / 2**30:.1f} GiB, more "
            f"than half of this machine's {memory / 2**30:.1f} GiB; give at most {math.isqrt(memory // (6 * count))}"
        )


def stack(images: Sequence[np.ndarray], sources: Sequence[str]) -> np.ndarray:
    """Stack decoded images; gray ones become RGB where any is RGB.

    Args:
        images: arrays `[H, W, K]` uint8, at least one; K may differ, H and W may not.
        sources: name of each image, for the error message.

    Returns:
        `[N, H, W, K]` uint8.

    Raises:
        ValueError: if sizes differ; two images are named.
    """
    for image, source in zip(images, sources, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [
                f"{name} is {array.shape[0]}×{array.shape[1]}"
                for name, array in ((sources[0], images[0]), (source, image))
            ]
            raise SettingError(
                f"images differ in size ({', '.join(sizes)}): set data.image_size (the argument image_size of "
                "jaxdd.data.load) to resize them all, e.g. --data.image-size 64"
            )
    channels = max(image.shape[-1] for image in images)
    return np.stack([image if image.shape[-1] == channels else image.repeat(channels, axis=-1) for image in images])
