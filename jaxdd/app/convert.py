"""Distilled sets from one format to another: `jaxdd convert SET OUT`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxdd import formats
from jaxdd.app import sets
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.formats import Reading, tfds_folder
from jaxdd.io.files import atomic_write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a distilled set in another format, with a card in Markdown beside it."""

    set: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SET")] = ""
    """The set: a distilled.npz, zoo:NAME, or a file or folder in a peer's format."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = ""
    """The file or folder to write; .npz, .safetensors and .pt say the format."""
    to: str | None = None
    """The format: npz, safetensors, torch, png, tfds or ddranking."""
    harden: bool = False
    """Let soft labels become classes, in formats that have no others."""
    dataset: str | None = None
    """TFDS name of the real data, which a ZCA-whitened set of a peer needs, to fit its matrix."""
    data_dir: str | None = None
    """Their TFDS directory."""
    read: Reading = Reading()
    """What a file in a peer's format does not say of itself."""


def convert(command: Convert) -> Path:
    """Convert a set as a command says.

    Returns:
        The card's path.

    Raises:
        SettingError: Set or file are not named, or the set cannot be read or written so.
    """
    if not command.set or not command.out:
        raise SettingError("convert needs a set and a file: jaxdd convert runs/mtt/distilled.npz mtt.safetensors")
    data = sets.load(DataConfig(command.dataset, data_dir=command.data_dir)) if command.dataset else None
    distilled, card = formats.read_as(command.set, "auto", command.read, data)
    out = Path(command.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    formats.write(out, distilled, card, command.to, harden=command.harden)
    folder = tfds_folder.place(out, card) if command.to == "tfds" else out  # a TFDS directory holds other sets, too
    beside = folder / "README.md" if folder.is_dir() else out.with_name(f"{out.name}.md")
    atomic_write(beside, formats.markdown(distilled, card, file=out.name).encode())
    return beside
