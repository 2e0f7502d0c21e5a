"""Settings that are one of a few names, checked where they are set."""

import dataclasses
from typing import Any, Literal, get_args, get_origin


def check_choices(config: Any) -> None:
    """Refuse a dataclass field annotated `Literal[...]` that holds none of its values.

    The command line cannot produce such a value, but a notebook or a config file can.

    Args:
        config: A dataclass instance, usually the one in whose `__post_init__` this is called.

    Raises:
        ValueError: Naming the field, its value, and the choices.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if get_origin(field.type) is Literal and value not in get_args(field.type):
            choices = ", ".join(map(str, get_args(field.type)))
            raise ValueError(f"{field.name} is {value!r}; choose one of {choices}")
