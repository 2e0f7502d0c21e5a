"""What every command that computes has: how much it tells, and where compiled programs are kept."""

import dataclasses
import logging
from pathlib import Path

import jax

from jaxdd.errors import SettingError
from jaxdd.settings import Settings

log = logging.getLogger("jaxdd")
COMPILED = "~/.cache/jaxdd/compiled"
KEPT_ABOVE = 0.5
"""Seconds of compilation from which on a program is kept. [our choice]"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(Settings):
    """How much a command tells while it works, and where compiled programs are kept."""

    quiet: bool = False
    """Show no progress and no warnings: only results and errors."""
    verbose: bool = False
    """Log what is done besides: what was loaded, what was found in the workdir, what is saved."""
    cache_dir: str = COMPILED
    """Where compiled programs are kept for the next start, in this folder; "none" for nowhere. JAX's own setting,
    jax_compilation_cache_dir or the variable of that name, takes precedence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quiet and self.verbose:
            raise SettingError("quiet and verbose are both True; leave one of them out")

    def apply(self) -> None:
        """Set what the logger shows, and where JAX keeps what it compiles."""
        level = logging.ERROR if self.quiet else logging.INFO if self.verbose else logging.WARNING
        logging.getLogger("jaxdd").setLevel(level)
        if self.cache_dir == "none" or jax.config.values.get("jax_compilation_cache_dir") is not None:
            return
        folder = Path(self.cache_dir).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("compiled programs are not kept: %s cannot be made (%s); see --cache-dir", folder, error)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_ABOVE)
