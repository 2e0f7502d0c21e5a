"""What a command tells while it works."""

import dataclasses
import logging

from jaxdd.errors import SettingError
from jaxdd.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Talk(Settings):
    """How much a command tells while it works."""

    quiet: bool = False
    """Show no progress and no warnings: only results and errors."""
    verbose: bool = False
    """Log what is done besides: what was loaded, what was found in the workdir, what is saved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quiet and self.verbose:
            raise SettingError("quiet and verbose are both True; leave one of them out")

    @property
    def level(self) -> int:
        """What the logger shall show."""
        return logging.ERROR if self.quiet else logging.INFO if self.verbose else logging.WARNING
