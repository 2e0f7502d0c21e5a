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
from jaxdd.settings import Settings

HELP = {"-h", "--help"}
"""The words that ask for help."""

registry = ConstructorRegistry()
_being_read: list[StructTypeInfo] = []


@dataclasses.dataclass
class _Refused:
    """Stands for settings that were refused, up to the end of tyro's reading; tyro would put an error into its box.

    Attributes:
        error: What was wrong.
        path: Where the settings stand by its message.
        fields: The fields that lead to them, from the level that was read last.
    """

    error: SettingError
    path: str
    fields: tuple[str, ...] = ()

    def under(self, parent: type, field: str) -> "_Refused":
        """Say where the settings stand from one level above, in a field of the parent."""
        if not self.path or not issubclass(parent, Settings):
            return self
        fields = (field, *self.fields)
        path = ".".join((parent._path, *fields)).lstrip(".")
        message = str(self.error)
        if message.startswith(f"{self.path}."):
            message = path + message.removeprefix(self.path)
        return _Refused(SettingError(message), path, fields)


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
        found, instantiate=_refusing(info.type, found.instantiate), fields=tuple(map(_with_joined_lines, fields))
    )


def _refusing(kind: type, instantiate: Callable[..., Any]) -> Callable[..., Any]:
    def checked(**fields: Any) -> Any:
        for name, value in fields.items():
            if isinstance(value, _Refused):
                return value.under(kind, name)
        try:
            return instantiate(**fields)
        except SettingError as error:
            return _Refused(error, kind._path if issubclass(kind, Settings) else "")

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
    found = tyro.cli(*args, config=(tyro.conf.AvoidSubcommands,), registry=registry, **kwargs)
    if isinstance(found, _Refused):
        raise found.error
    return found
