"""How command lines are read: by tyro, whose help texts end their lines where the terminal does, not where ours do."""

import dataclasses
from collections.abc import Callable
from functools import partial

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

HELP = {"-h", "--help"}
"""The words that ask for help."""

registry = ConstructorRegistry()
_being_read: list[StructTypeInfo] = []


@registry.struct_rule
def with_joined_lines(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read a dataclass as tyro does, the lines of its fields' docstrings joined."""
    if (_being_read and _being_read[-1] is info) or not dataclasses.is_dataclass(info.type):
        return None  # tyro's own rules apply
    _being_read.append(info)
    try:
        found = ConstructorRegistry.get_struct_spec(info)
    finally:
        _being_read.pop()
    if not isinstance(found, StructConstructorSpec):
        return None
    fields = (dataclasses.replace(field, helptext=partial(_joined, field.helptext)) for field in found.fields)
    return dataclasses.replace(found, fields=tuple(fields))


def _joined(text: str | Callable[[], str | None] | None) -> str | None:
    text = text() if callable(text) else text
    return None if text is None else " ".join(text.split())


cli = partial(tyro.cli, config=(tyro.conf.AvoidSubcommands,), registry=registry)
