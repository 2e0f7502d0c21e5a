"""A folder in use by one process, so that no two write into it."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from jaxdd.errors import SettingError

log = logging.getLogger("jaxdd")


@contextmanager
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
    if os.name != "posix" or jax.process_index() != 0:  # one process of a job stands for all
        yield
        return
    import fcntl

    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise SettingError(f"{folder} is in use by {holder}; {remedy}") from error
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): let no other run write into it", folder, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
