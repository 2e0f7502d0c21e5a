"""Settings that refuse what they cannot mean: types, choices and ranges, in one check for all settings classes."""

import ast
import dataclasses
import math
import numbers
import types
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from jaxdd.errors import SettingError

LARGEST_INTEGER = 2**31 - 1
"""Whole numbers are counted in 32 bits on the devices."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting may be: `Annotated[int, AtLeast(1)]`.

    Attributes:
        low: The least one.
        high: The largest one.
        above: Whether `low` itself is left out.
        below: Whether `high` itself is left out.
        infinite: Whether infinity is among them.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in the range."""
        inside = self.low < value if self.above else self.low <= value
        inside = inside and (value < self.high if self.below else value <= self.high)
        return inside and (self.infinite or value not in (math.inf, -math.inf))

    def __str__(self) -> str:
        """Name the range, as the remedy of a message."""
        if self.high == math.inf:
            end = ", which may be inf" if self.infinite else ""
            return (f"more than {self.low:.10g}" if self.above else f"{self.low:.10g} or more") + end
        return f"one in {'(' if self.above else '['}{self.low:.10g}, {self.high:.10g}{')' if self.below else ']'}"


def AtLeast(low: float) -> Range:
    """Bound a setting from below."""
    return Range(low)


def Above(low: float, *, infinite: bool = False) -> Range:
    """Bound a setting from below, the bound itself left out."""
    return Range(low, above=True, infinite=infinite)


def Between(low: float, high: float) -> Range:
    """Bound a setting from both sides, the bounds themselves allowed."""
    return Range(low, high)


Positive = Above(0)
NonNegative = AtLeast(0)
Fraction = Range(0, 1, below=True)
"""A part that is not all: momentum, a share that is held out."""
Seed = Between(0, 2**32 - 1)
"""Seed of a random generator: what all of them, JAX's and NumPy's, tell apart."""


class Settings:
    """Base of the dataclasses of settings: fields are checked by their annotations when an instance is made.

    The command line reads its words by the same annotations, but a notebook or a config file may give anything.
    `class Config(Settings, path="method")` says where these settings stand, for messages.
    """

    _path: ClassVar[str] = ""

    def __init_subclass__(cls, path: str | None = None, **kwargs: Any) -> None:
        """Remember where the settings stand; a subclass stands where its parent does."""
        super().__init_subclass__(**kwargs)
        if path is not None:
            cls._path = path

    def __post_init__(self) -> None:
        """Refuse a field of another type, a name that is no choice, and a number out of range.

        Raises:
            SettingError: Naming the field, its value, and what to give.
        """
        annotations = get_type_hints(type(self), include_extras=True)  # where a field's own type may be a string
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            check_value(f"{self._path}.{field.name}".lstrip("."), getattr(self, field.name), annotations[field.name])


def by_name(words: str) -> dict[str, str]:
    """Split `ipc=10,norm=batch` into its words by their names; nothing of an empty text."""
    return dict(word.partition("=")[::2] for word in words.split(",")) if words else {}


def literal(word: str) -> Any:
    """Read a word as a Python literal, a text where it is none."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word  # a string without quotation marks


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Refuse a value that its annotation does not allow; an annotation that is none of settings allows everything.

    Args:
        name: What the value is called in the message.
        value: The value.
        annotation: A type, a `Literal`, a union of types, one of these `Annotated` with a `Range`, or a tuple of any
            number of one of these.

    Raises:
        SettingError: Naming the value, and what to give.
    """
    limits: tuple[Any, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *limits = get_args(annotation)  # type: ignore[assignment]
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    optional = ", or leave it out" if type(None) in options else ""
    kinds = [option for option in options if option is not type(None)]
    if (value is None and optional) or len(kinds) != 1:
        return
    [kind] = kinds
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
    elif kind in _NUMBERS:
        allowed = next((limit for limit in limits if isinstance(limit, Range)), Range())
        _check_number(name, value, kind, allowed, optional)
    elif kind in _NAMES:
        check_argument(name, value, kind, f"give {_NAMES[kind]}{optional}")
    elif get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        check_argument(name, value, tuple, f"give a tuple{optional}")
        for each in value:
            check_value(name, each, get_args(kind)[0])
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        check_argument(name, value, kind, f"give an instance of {kind.__name__}{optional}")


def _check_number(name: str, value: Any, kind: type, allowed: Range, optional: str) -> None:
    number, needed = _NUMBERS[kind]
    if isinstance(value, bool) or not isinstance(value, number):
        raise SettingError(f"{name} is {_shown(value)}; give {needed}{optional}")
    if value not in allowed:
        wanted = f"{needed}, not inf or nan" if allowed == Range() else str(allowed)
        raise SettingError(f"{name} is {value}; give {wanted}{optional}")
    if kind is int and allowed.high == math.inf and abs(value) > LARGEST_INTEGER:
        raise SettingError(f"{name} is {value}; give at most {LARGEST_INTEGER}{optional}")


def check_choice(name: str, value: Any, choices: Iterable[str | int]) -> None:
    """Refuse a name that is none of the choices.

    Args:
        name: What is chosen.
        value: The choice.
        choices: The names to choose from.

    Raises:
        SettingError: Naming the value and the choices.
    """
    choices = tuple(choices)
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
        raise SettingError(f"{name} is {_shown(value)}; choose one of {', '.join(map(str, choices))}")


def check_argument(name: str, value: Any, kind: type | tuple[type, ...], remedy: str) -> None:
    """Refuse an argument of another type.

    Args:
        name: What the argument is called.
        value: The argument.
        kind: What it should be an instance of, or several.
        remedy: What to give.

    Raises:
        SettingError: Naming what it is, and the remedy.
    """
    if not isinstance(value, kind):
        if isinstance(value, type) and issubclass(value, kind):
            remedy = f"call it: {value.__qualname__}()"
        raise SettingError(f"{name} is {_shown(value)}; {remedy}")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, types.ModuleType):
        return f"the module {value.__name__}"
    return f"of type {type(value).__name__}"


_NUMBERS: dict[Any, tuple[Any, str]] = {int: (numbers.Integral, "a whole number"), float: (numbers.Real, "a number")}
_NAMES = {str: "text", bool: "True or False"}
