"""Dataset distillation in JAX: experts, methods, evaluation; the same stages for notebooks and for the launcher."""

from importlib.metadata import version

from jaxdd import autodiff, data, influence, methods, models
from jaxdd.config import Config, load_config
from jaxdd.data import DataConfig, Dataset, RealSet
from jaxdd.distill import Outcome, distill
from jaxdd.distilled import Card, Distilled
from jaxdd.evaluate import EvaluateConfig, evaluate
from jaxdd.experts import ExpertsConfig, ExpertStore, train_experts
from jaxdd.influence import InfluenceConfig
from jaxdd.methods import Weighting
from jaxdd.models import ModelConfig
from jaxdd.parallel import make_mesh, map_over, sum_over
from jaxdd.run import run
from jaxdd.tasks import classification
from jaxdd.training import Recipe
from jaxdd.trajectories import Trajectories, Window
from jaxdd.types import Examples, Method, Model, Scores, Snapshots, Task
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
    "RealSet",
    "Recipe",
    "Scores",
    "Snapshots",
    "Task",
    "Trajectories",
    "Unroll",
    "Weighting",
    "Window",
    "autodiff",
    "classification",
    "data",
    "distill",
    "evaluate",
    "influence",
    "load_config",
    "make_mesh",
    "map_over",
    "methods",
    "models",
    "run",
    "sum_over",
    "train_experts",
]
