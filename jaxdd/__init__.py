"""Dataset distillation in JAX: experts, methods, evaluation; the same stages for notebooks and for the launcher."""

from importlib.metadata import version

from jaxdd import autodiff, data, influence, methods, models
from jaxdd.config import Config, load_config
from jaxdd.data import DataConfig, Dataset
from jaxdd.distill import Outcome, distill
from jaxdd.distilled import Card, Distilled
from jaxdd.evaluate import EvaluateConfig, evaluate
from jaxdd.experts import ExpertsConfig, ExpertStore, train_experts
from jaxdd.influence import InfluenceConfig
from jaxdd.models import ModelConfig
from jaxdd.run import run
from jaxdd.training import Recipe
from jaxdd.trajectories import Trajectories, Window
from jaxdd.types import Examples, Method, Model, Scores, Snapshots
from jaxdd.unroll import Unroll

__version__ = version("jaxdd")

__all__ = [
    "Card",
    "Config",
    "DataConfig",
    "Dataset",
    "Distilled",
    "EvaluateConfig",
    "Examples",
    "ExpertStore",
    "ExpertsConfig",
    "InfluenceConfig",
    "Method",
    "Model",
    "ModelConfig",
    "Outcome",
    "Recipe",
    "Scores",
    "Snapshots",
    "Trajectories",
    "Unroll",
    "Window",
    "autodiff",
    "data",
    "distill",
    "evaluate",
    "influence",
    "load_config",
    "methods",
    "models",
    "run",
    "train_experts",
]
