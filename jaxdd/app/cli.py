"""How command lines are read: by tyro, with our help texts, our order of settings, and our own errors.

tyro's help ends its lines where ours end, and it shows a refused setting in a box with names of its own; here lines end
where the terminal does, a method's own settings come before those that it shares with others, and a refused setting
stays the one line that it is in Python.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jaxdd.errors import SettingError

HELP = {"-h", "--help"}
"""The words that ask for help."""

registry = ConstructorRegistry()
_being_read: list[StructTypeInfo] = []


class _Refused(Exception):
    """Carries a refused setting through tyro, which would put a `ValueError` into its box."""


@registry.struct_rule
def settings_as_ours(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read a dataclass as tyro does, with the changes that the module names."""
    if (_being_read and _being_read[-1] is info) or not dataclasses.is_dataclass(info.type):
        return None  # tyro's own rules apply
    _being_read.append(info)
    try:
        found = ConstructorRegistry.get_struct_spec(info)
    finally:
        _being_read.pop()
    if not isinstance(found, StructConstructorSpec):
        return None
    own = vars(info.type).get("__annotations__", {})
    fields = sorted(found.fields, key=lambda field: field.name not in own)  # stable: otherwise in their order
    return dataclasses.replace(
        found, instantiate=_refusing(found.instantiate), fields=tuple(map(_with_joined_lines, fields))
    )


def _refusing(instantiate: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return instantiate(*args, **kwargs)
        except SettingError as error:
            raise _Refused from error

    return checked


def _with_joined_lines(field: StructFieldSpec) -> StructFieldSpec:
    return dataclasses.replace(field, helptext=partial(_joined, field.helptext))


def _joined(text: str | Callable[[], str | None] | None) -> str | None:
    text = text() if callable(text) else text
    return None if text is None else " ".join(text.split())


def cli(*args: Any, **kwargs: Any) -> Any:
    """Read a command line by `tyro.cli`.

    Raises:
        SettingError: A value that the settings refuse.
        SystemExit: `--help`, or words that are no settings.
    """
    try:
        return tyro.cli(*args, config=(tyro.conf.AvoidSubcommands,), registry=registry, **kwargs)
    except _Refused as refused:
        raise refused.__cause__ from None  # type: ignore[misc]  # always a SettingError
