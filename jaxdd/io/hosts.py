"""Several processes of one job: what the first one knows or does for all, and what all agree on.

A job runs the same program on every host; each device computes its part, see `jaxdd.core.parallel`. What happens beside
the devices (files, signals) happens on the first process, and the others are told. All of a job's processes call these
functions at the same places. With one process they do what they say and no more.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def is_first() -> bool:
    """Return whether this process writes what a job leaves."""
    return jax.process_index() == 0


def from_first(function: Callable[[], T]) -> T:
    """Call a function on the first process, and return what it returns on all of them.

    Args:
        function: What only the first process may do, such as reading what only its disk holds.

    Returns:
        What it returned there.

    Raises:
        Exception: What it raised there, on all processes.
    """
    if jax.process_count() == 1:
        return function()
    content = b""
    if is_first():
        try:
            content = pickle.dumps((function(), None))
        except Exception as caught:
            content = pickle.dumps((None, caught))
    result, error = pickle.loads(_told(content))
    if error is not None:
        raise error
    return result


def anywhere(holds: bool) -> bool:
    """Return whether something holds on some process."""
    if jax.process_count() == 1:
        return holds
    return bool(np.any(multihost_utils.process_allgather(np.array([holds]))))


def everywhere(holds: bool) -> bool:
    """Return whether something holds on all processes."""
    return not anywhere(not holds)


def gathered(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(content)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise on all processes what the body raises on one of them."""
    if jax.process_count() == 1:
        yield
        return
    fault: Exception | None = None
    try:
        yield
    except Exception as caught:
        fault = caught
    for each in gathered(fault):
        if each is not None:
            raise each


def _told(content: bytes) -> bytes:
    """Send bytes from the first process to all."""
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(content))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes()
