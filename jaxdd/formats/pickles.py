"""Pickles as data: an interpreter of the operations that make numbers, text and containers, and of no others.

A pickle is a program that may import and call anything. This one imports nothing: a name in a pickle is looked up in a
dictionary that the caller gives, and only what is found there is called. `pickletools` of the standard library, which
takes programs apart without running them, reads the operations.
"""

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxdd.errors import SettingError


class Built:
    """A value that a pickle makes first and fills afterwards."""

    def fill(self, state: Any) -> None:
        """Take what the pickle says of it."""
        raise NotImplementedError


class Named:
    """What a pickle may name.

    Args:
        value: A function to call, or what else is meant.
    """

    def __init__(self, value: Any):
        self.value = value


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CONTAINERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = {"PROTO", "FRAME", "STOP"}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
}


def read(program: bytes, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Interpret a pickle.

    Args:
        program: The pickle.
        known: What it may name, by `"module.name"`: functions, which it may call, and plain values.
        persistent: What becomes of the identities of things that are stored elsewhere.

    Returns:
        The value that it describes.

    Raises:
        SettingError: It asks for anything else, or is damaged.
    """
    try:
        return _Machine(known, persistent).run(program)
    except SettingError:
        raise
    except Exception as error:  # a damaged pickle stumbles over anything
        raise SettingError(f"its pickle is truncated or damaged ({type(error).__name__}: {error})") from error


def cut(stream: io.BytesIO) -> bytes:
    """Cut the next pickle out of a row of them.

    Raises:
        SettingError: There is none.
    """
    start = stream.tell()
    try:
        for _ in pickletools.genops(stream):
            pass
    except Exception as error:  # pickletools raises whatever damage makes it stumble over
        raise SettingError(f"it is truncated or damaged ({error})") from error
    return stream.getvalue()[start : stream.tell()]


class _Machine:
    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any]):
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(program):
            self._step(operation.name, argument)
        [value] = self._stack
        return value

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in NOTHING:
            pass
        elif name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in CONTAINERS:
            stack.append(CONTAINERS[name]())
        elif name in TUPLES:
            stack.append(tuple(self._pop(TUPLES[name])))
        else:
            operation = _OPERATIONS.get(name)
            if operation is None:
                raise SettingError(f"its pickle asks for {name}, and only data are read")
            operation(self, argument)

    def _pop(self, count: int) -> list[Any]:
        if count > len(self._stack) - (self._marks[-1] if self._marks else 0):
            raise IndexError("nothing is left to take")
        popped = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return popped

    def _pop_marked(self) -> list[Any]:
        start = self._marks.pop()
        popped = self._stack[start:]
        del self._stack[start:]
        return popped

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError(f"pairs for a {type(target).__name__}")
        target.update(_pairs(items))

    def _name(self, name: str) -> None:
        if name not in self._known:
            raise SettingError(
                f"its pickle names {name}, and only tensors, numbers, text and containers of these are read; save those"
            )
        self._stack.append(Named(self._known[name]))

    def _call(self) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, Named) or not callable(function.value) or type(arguments) is not tuple:
            raise TypeError("a call of what is no function")
        self._stack.append(function.value(*arguments))

    def _fill(self) -> None:
        [state] = self._pop(1)
        target = self._stack[-1]
        if isinstance(target, Built):
            target.fill(state)
        elif not isinstance(target, dict):  # what PyTorch notes of a dict of parameters is of no use here
            raise SettingError(f"its pickle fills a {type(target).__name__}, and only data are read")


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda self, _: self._marks.append(len(self._stack)),
    "POP": lambda self, _: self._pop(1),
    "POP_MARK": lambda self, _: self._pop_marked(),
    "LIST": lambda self, _: self._stack.append(self._pop_marked()),
    "TUPLE": lambda self, _: self._stack.append(tuple(self._pop_marked())),
    "DICT": lambda self, _: self._stack.append(dict(_pairs(self._pop_marked()))),
    "APPEND": lambda self, _: self._append(self._pop(1)),
    "APPENDS": lambda self, _: self._append(self._pop_marked()),
    "SETITEM": lambda self, _: self._set(self._pop(2)),
    "SETITEMS": lambda self, _: self._set(self._pop_marked()),
    "GLOBAL": lambda self, names: self._name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda self, _: self._name(".".join(self._pop(2))),
    "REDUCE": lambda self, _: self._call(),
    "BUILD": lambda self, _: self._fill(),
    "BINPERSID": lambda self, _: self._stack.append(self._persistent(*self._pop(1))),
    "MEMOIZE": lambda self, _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
    **{name: lambda self, at: self._memo.__setitem__(at, self._stack[-1]) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{name: lambda self, at: self._stack.append(self._memo[at]) for name in ("GET", "BINGET", "LONG_BINGET")},
}
"""The other operations, each with the argument that stands behind it in the program."""
