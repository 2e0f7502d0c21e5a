"""The distillation methods: one family a file, each exporting `Config`, `State`, `Info` and `build`.

A method of your own is such a file anywhere on the import path; its `Config` is all that has to be passed around.
"""

import sys
from types import ModuleType

from jaxdd.methods import coresets, datm, dc, ddpp, dm, iadd, infmatch, iwd, mtt, ncfm
from jaxdd.methods.base import MethodConfig, Optimiser, Sources, softened
from jaxdd.methods.coresets import initial_distilled
from jaxdd.types import Method, Model

METHODS: dict[str, ModuleType] = {
    "coresets": coresets,
    "datm": datm,
    "dc": dc,
    "ddpp": ddpp,
    "dm": dm,
    "iadd": iadd,
    "infmatch": infmatch,
    "iwd": iwd,
    "mtt": mtt,
    "ncfm": ncfm,
}


def module_of(config: MethodConfig) -> ModuleType:
    """Find the module of a method: the one that defines its configuration's class.

    Raises:
        ValueError: That module has no `build`.
    """
    module = sys.modules.get(type(config).__module__)
    if module is None or not hasattr(module, "build"):
        raise ValueError(
            f"{type(config)} belongs to no method: define Config in an importable module beside build(model, config)"
        )
    return module


def name_of(config: MethodConfig) -> str:
    """Give the name of the method that a configuration belongs to."""
    module_of(config)
    return config.name


def build(model: Model, config: MethodConfig) -> Method:
    """Build the method that `config` belongs to, for a model."""
    return module_of(config).build(model, config)


__all__ = ["METHODS", "MethodConfig", "Optimiser", "Sources", "build", "initial_distilled", "name_of", "softened"]
