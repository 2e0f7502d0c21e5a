"""Images of a set side by side, a row per class.

Matplotlib is imported where it draws, through its object interface: no display, no state of pyplot. Axis letters: M
items, C classes, H W K image height, width and channels.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxdd.errors import SettingError
from jaxdd.io.files import atomic_write
from jaxdd.types import Array

SHOWN_PER_CLASS = 50
"""Images of a class that a grid shows, the first ones."""

DPI = 100


class Grid(NamedTuple):
    """A drawn grid.

    Attributes:
        png: the picture.
        columns: how many columns the rows of the classes stand in.
    """

    png: bytes
    columns: int


def image_grid(
    images: Array | np.ndarray,
    classes: Array | np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str | None = None,
) -> None:
    """Draw images to a PNG file, one row per class, up to `SHOWN_PER_CLASS` each.

    Small images are enlarged by a whole factor, so that their pixels show. Where rows are short and classes many, the
    rows stand in several columns.

    Args:
        images: `[M, H, W, K]`, 0 black to 1 white; clipped to this range. Three channels are red, green and blue; of
            any other number the mean is drawn in gray.
        classes: `[M]` class indices; for soft labels, of the largest probability.
        class_names: C names; a class without images has an empty row.
        path: the PNG file to write or replace.
        title: a line above the grid.

    Raises:
        SettingError: if the shapes do not fit, or a class has no name.
    """
    drawn = draw(np.asarray(images), np.asarray(classes), class_names, title=title)
    atomic_write(path, drawn.png)


def draw(
    images: np.ndarray,
    classes: np.ndarray,
    class_names: Sequence[str],
    *,
    title: str | None = None,
    per_class: int = SHOWN_PER_CLASS,
    pixels: int = 8_000_000,
    text: str = "black",
    background: str = "white",
    letters: int = 24,
) -> Grid:
    """Draw the grid: up to `per_class` images of a class, reduced where all take more than `pixels`.

    Names are cut after so many letters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    if images.ndim != 4 or classes.shape != images.shape[:1]:
        raise SettingError(f"need images [M, H, W, K] and classes [M], got {images.shape} and {classes.shape}")
    if classes.size and not 0 <= classes.min() <= classes.max() < len(class_names):
        raise SettingError(f"classes run from {classes.min()} to {classes.max()}, with {len(class_names)} class names")
    rows = [np.flatnonzero(classes == c)[:per_class] for c in range(len(class_names))]
    widest = max([1, *map(len, rows)])
    height, width = _cell_size(images.shape[1], images.shape[2], widest, len(rows), pixels)
    gap = 1 if height < 24 else 2

    canvas = FigureCanvasAgg(Figure(dpi=DPI))
    font = FontProperties(size=min(14.0, max(8.0, 0.7 * height)) * 72 / DPI)
    names = [name if len(name) <= letters else name[: letters - 1] + "…" for name in class_names]
    measure = canvas.get_renderer().get_text_width_height_descent
    label = 6 + math.ceil(max([0, *(measure(name, font, False)[0] for name in names)]))
    block = label + widest * (width + gap) + 10
    line = max(height + gap, math.ceil(font.get_size() * DPI / 72) + 2)
    columns = _columns(block, line, len(rows))
    lines = -(-len(rows) // columns)
    head = 26 if title else 4
    mosaic = np.zeros((head + lines * line + 4, columns * block + 4, 4), np.uint8)

    figure = canvas.figure
    figure.set_size_inches(mosaic.shape[1] / DPI, mosaic.shape[0] / DPI)
    figure.set_facecolor(background)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        left, top = number // lines * block + label + 4, number % lines * line + head
        for position, index in enumerate(row):
            x = left + position * (width + gap)
            mosaic[top : top + height, x : x + width] = _picture(images[index], height, width)
        figure.text(
            (left - 6) / mosaic.shape[1],
            1 - (top + height / 2) / mosaic.shape[0],
            name,
            fontproperties=font,
            color=text,
            ha="right",
            va="center_baseline",
            parse_math=False,
        )
    if title:
        figure.text(8 / mosaic.shape[1], 1 - 13 / mosaic.shape[0], title, color=text, va="center", parse_math=False)
    figure.figimage(mosaic, origin="upper")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=background)
    return Grid(buffer.getvalue(), columns)


def _cell_size(height: int, width: int, widest: int, rows: int, pixels: int) -> tuple[int, int]:
    """Return the size at which an image is drawn: enlarged by a whole factor, or reduced to what there is room for."""
    native = max(height, width)
    room = min(2400 / widest, math.sqrt(pixels / max(1, rows * widest)))
    side = max(1, round(48 / native)) * native
    while side > max(room, native):
        side -= native
    side = max(min(side, int(room)), min(native, 8))
    return max(1, round(height * side / native)), max(1, round(width * side / native))


def _columns(block: int, line: int, rows: int) -> int:
    """Return the number of columns that brings the grid closest to the proportions of a page, 4 : 3."""

    def distance(columns: int) -> float:
        return abs(math.log(columns * block / (-(-rows // columns) * line) / (4 / 3)))

    return min(range(1, rows + 1), key=distance, default=1)


def _picture(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return one image as `[height, width, 4]` uint8."""
    if image.shape[-1] != 3:
        image = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    levels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    filtering = Image.Resampling.NEAREST if height >= image.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(levels).resize((width, height), filtering).convert("RGBA"))
