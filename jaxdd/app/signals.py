"""Signals that a run is asked to stop by."""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

log = logging.getLogger("jaxdd")


class StopSignal:
    """Turns SIGINT and SIGTERM into a question that the stages ask: `stop()`. A second one ends the process at once."""

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether the run was asked to stop."""
        return self._asked

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; a run on another one is stopped by whoever started it.
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked:
            # At once, as kill would: every file is written atomically, and unwinding would race with running kernels.
            os._exit(128 + number)
        self._asked = True
        log.warning("%s: stopping as soon as the work in progress is saved", signal.Signals(number).name)
