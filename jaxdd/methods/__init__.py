"""The distillation methods: one family a file, each exporting `Config`, `State`, `Info` and `build`."""

from types import ModuleType

from jaxdd.methods import coresets, infmatch, mtt
from jaxdd.methods.base import MethodConfig, Optimiser, Sources, softened
from jaxdd.methods.coresets import initial_distilled
from jaxdd.types import Method, Model

METHODS: dict[str, ModuleType] = {"coresets": coresets, "infmatch": infmatch, "mtt": mtt}


def name_of(config: MethodConfig) -> str:
    """Give the name of the method that a configuration belongs to."""
    return next(name for name, module in METHODS.items() if type(config) is module.Config)


def build(model: Model, config: MethodConfig) -> Method:
    """Build the method that `config` belongs to, for a model."""
    return METHODS[name_of(config)].build(model, config)


__all__ = ["METHODS", "MethodConfig", "Optimiser", "Sources", "build", "initial_distilled", "name_of", "softened"]
