"""Evaluation: fresh networks trained on a set, scored on data that it was not made from."""

from jaxdd.evaluation.attack import Attack
from jaxdd.evaluation.network import Network, predict, train_network
from jaxdd.evaluation.ranking import augmentation_robust_score, label_robust_score
from jaxdd.evaluation.rows import Row, TableConfig
from jaxdd.evaluation.scores import (
    EvaluateConfig,
    Measures,
    distilled_scorer,
    evaluate,
    full_data_scorer,
    random_real,
    stacked,
    summary,
    trained,
    validator,
)
from jaxdd.evaluation.table import (
    Cell,
    balanced_accuracy,
    doubts,
    evaluate_table,
    over_seeds,
    per_class_accuracy,
    robust_scores,
)

__all__ = [
    "Attack",
    "Cell",
    "EvaluateConfig",
    "Measures",
    "Network",
    "Row",
    "TableConfig",
    "augmentation_robust_score",
    "balanced_accuracy",
    "distilled_scorer",
    "doubts",
    "evaluate",
    "evaluate_table",
    "full_data_scorer",
    "label_robust_score",
    "over_seeds",
    "per_class_accuracy",
    "predict",
    "random_real",
    "robust_scores",
    "stacked",
    "summary",
    "train_network",
    "trained",
    "validator",
]
