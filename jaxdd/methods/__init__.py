"""The distillation methods: one family a file, each with its settings, `Config`, whose `build(task)` makes the method.

A method of your own is such a file anywhere on the import path; its `Config` is all that has to be passed around.
"""

from jaxdd.methods import (
    analytic_parameters,
    cafe,
    coresets,
    cross_covariance,
    datm,
    dc,
    ddpp,
    dm,
    formation,
    iadd,
    infmatch,
    linear_gradient,
    mtt,
    ncfm,
    rat_bptt,
    weighting,
)
from jaxdd.methods.base import MethodConfig, Optimizer, Sources
from jaxdd.methods.classwise import ClasswiseConfig
from jaxdd.methods.coresets import initial_distilled
from jaxdd.methods.weighting import Weighting, weighted

__all__ = [
    "ClasswiseConfig",
    "MethodConfig",
    "Optimizer",
    "Sources",
    "Weighting",
    "analytic_parameters",
    "cafe",
    "coresets",
    "cross_covariance",
    "datm",
    "dc",
    "ddpp",
    "dm",
    "formation",
    "iadd",
    "infmatch",
    "initial_distilled",
    "linear_gradient",
    "mtt",
    "ncfm",
    "rat_bptt",
    "weighted",
    "weighting",
]
