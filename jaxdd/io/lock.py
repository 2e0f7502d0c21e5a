"""A folder in use by one process, so that no two write into it."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxdd.errors import SettingError
from jaxdd.io.hosts import from_first

log = logging.getLogger("jaxdd")


@contextlib.contextmanager
def in_use(path: Path, remedy: str) -> Iterator[None]:
    """Keep a folder for this process; made if missing. The lock goes with the process, however that ends.

    Args:
        path: The file in the folder that is locked, and names who has it.
        remedy: What to do if another process has it.

    Raises:
        SettingError: Another process has it.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if os.name == "posix":
            from_first(lambda: _lock(stack, path, remedy))  # one process of a job stands for all
        yield


def _lock(stack: contextlib.ExitStack, path: Path, remedy: str) -> None:
    import fcntl

    file = stack.enter_context(open(path, "a+", encoding="utf-8"))  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise SettingError(f"{path.parent} is in use by {holder}; {remedy}") from error
    except OSError as error:  # some network file systems have no locks
        log.warning("%s cannot be locked (%s): let no other run write into it", path.parent, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
