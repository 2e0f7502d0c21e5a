"""Several finished runs on one page: `jaxdd compare runs/*`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxdd.errors import SettingError
from jaxdd.report.compare_page import write_comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Put several finished runs on one page."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR…")] = ()
    """Folders of finished runs."""
    out: str = "compare.html"
    """The page."""


def compare(command: Compare) -> Path:
    """Write the page.

    Raises:
        SettingError: No run is named, or one has not finished.
    """
    if not command.runs:
        raise SettingError("compare needs finished runs: jaxdd compare runs/digits_dc runs/digits_mtt")
    Path(command.out).parent.mkdir(parents=True, exist_ok=True)
    return write_comparison(command.out, command.runs)
