"""Distilled sets that come with the package, and score on real data what their cards say.

    jaxdd evaluate zoo:digits-mtt-ipc1
    distilled, card = jaxdd.zoo.load("digits-mtt-ipc1")

Every command and function that reads a set takes `zoo:NAME` for its path. Images are stored as float16. The matrices of
ZCA are larger than all sets together, and are left out: reading with the real data fits them again. The card's
`provenance["test_accuracy"]` is what `jaxdd evaluate` measured from the file. `python -m tests.benchmarks.zoo` makes
the files.
"""

import difflib
from pathlib import Path

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset
from jaxdd.errors import SettingError

PREFIX = "zoo:"
FILES = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.npz"))}
"""The sets, by their names: data, method, and images per class."""


def located(path: str | Path) -> Path:
    """Return the file that a path names: itself, or that of `zoo:NAME`.

    Raises:
        SettingError: No set is called so.
    """
    name = str(path).removeprefix(PREFIX)
    if name == str(path):
        return Path(path)
    if name not in FILES:
        near = difflib.get_close_matches(name, FILES, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise SettingError(f"{path}: no set is called so. {hint}There are {', '.join(FILES)}")
    return FILES[name]


def load(name: str, data: Dataset | None = None) -> tuple[Distilled, Card]:
    """Read a set of the zoo.

    Args:
        name: One of `FILES`, with or without `zoo:` before it.
        data: The real data, of which a whitened set needs the train split before its images can be shown.

    Returns:
        The set and its card, whose `provenance["test_accuracy"]` is what `jaxdd evaluate` measures.

    Raises:
        SettingError: There is no such set.
    """
    from jaxdd import formats  # which finds sets by `located`

    return formats.read(PREFIX + name.removeprefix(PREFIX), data=data)
