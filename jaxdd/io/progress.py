"""The bar that shows how far a run has come, on a terminal and in a log file."""

import sys
from collections.abc import Callable
from typing import Any

import jax
from tqdm import tqdm


def progress_bar(description: str, total: int, initial: int = 0, *, enabled: bool = True) -> tqdm:
    """Return a progress bar on standard error; plain lines, one a minute and one at the end, if that is no terminal.

    In a job of many processes the first one shows it.

    Args:
        description: what is being counted.
        total: where the count ends.
        initial: where it starts, for a run that resumes.
        enabled: whether to show anything.

    Returns:
        A `tqdm`: call `update()` after each step and `close()` at the end, or use it in a `with`.
    """
    bar = _Bar if sys.stderr.isatty() else _Lines
    return bar(desc=description, total=total, initial=initial, disable=not enabled or jax.process_index() > 0)


class _Bar(tqdm):
    """A bar that says that the first step is being compiled, and leaves that one out of the time that it tells.

    It shows its postfix when it is next drawn, rather than be drawn for it at every step.
    """

    def __init__(self, desc: str, **options: Any):
        self._name = desc if options["total"] else None
        super().__init__(desc=f"{desc}, compiling" if self._name else desc, **options)

    def update(self, n: float | None = 1) -> bool | None:
        """Count on; what took until the first count is not taken for the pace."""
        if self._name is not None and n:
            self.set_description_str(self._name, refresh=False)
            self._name = None
            if not self.disable:
                self.initial += n
                self.start_t = self._time()
        return super().update(n)

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = False, **values: Any) -> None:
        super().set_postfix(ordered_dict, refresh=refresh, **values)


class _Lines(_Bar):
    """A bar for log files: a whole line each time, once a minute."""

    def __init__(self, **options: Any):
        super().__init__(
            **options,
            mininterval=60,
            maxinterval=60,
            bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
            position=0,
        )

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def print_line(text: str) -> None:
            file.write(text + "\n")
            file.flush()

        return print_line

    def close(self) -> None:
        if not self.disable:
            self.display()
            self.sp = None  # or tqdm would print the last line again, and an empty one
        super().close()
