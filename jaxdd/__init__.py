"""Dataset distillation in JAX: experts, methods, evaluation; the same stages for notebooks and for the launcher."""

from importlib.metadata import version

from jaxdd import data, formats, influence, methods, models, zoo
from jaxdd.app.config import Config, load_config
from jaxdd.app.run import run
from jaxdd.core import autodiff
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.parallel import make_mesh, map_over, sum_over
from jaxdd.core.retrieval import RetrievalConfig, retrieval
from jaxdd.core.tasks import Task, classification
from jaxdd.core.training import Recipe
from jaxdd.core.unroll import Unroll
from jaxdd.data import DataConfig, Dataset, RealSet
from jaxdd.driver import Outcome, distill
from jaxdd.evaluation import EvaluateConfig, Network, TableConfig, evaluate, evaluate_table, predict, train_network
from jaxdd.experts import ExpertsConfig, ExpertStore, train_experts
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.influence import InfluenceConfig
from jaxdd.methods import Weighting
from jaxdd.methods.base import Method
from jaxdd.models import ModelConfig
from jaxdd.stages import progressive
from jaxdd.types import Examples, Model, Scores, Snapshots

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
    "Network",
    "Outcome",
    "RealSet",
    "Recipe",
    "RetrievalConfig",
    "Scores",
    "Snapshots",
    "TableConfig",
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
    "evaluate_table",
    "formats",
    "influence",
    "load_config",
    "make_mesh",
    "map_over",
    "methods",
    "models",
    "predict",
    "progressive",
    "retrieval",
    "run",
    "sum_over",
    "train_experts",
    "train_network",
    "zoo",
]
