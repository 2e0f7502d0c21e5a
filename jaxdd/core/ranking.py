"""Scores of training examples, put to use: weights, subsets, ranked tables, and how well they find wrong labels.

Axis letters: N training examples, C classes.
"""

from typing import Any, Literal

import numpy as np

from jaxdd.errors import SettingError
from jaxdd.settings import check_choice
from jaxdd.types import AnyArray


def standardize(scores: Any) -> Any:
    """Bring scores `[..., B]`, of NumPy or JAX, to mean 0 and standard deviation 1 along B; equal ones to 0."""
    centered = scores - scores.mean(axis=-1, keepdims=True)
    deviation = scores.std(axis=-1, keepdims=True)
    differ = deviation > 1e-6 * abs(scores).max(axis=-1, keepdims=True)  # by more than the mean is rounded
    return centered * differ / (deviation + ~differ)


def per_class(labels: AnyArray, num_classes: int) -> np.ndarray:
    """Return target weights `[C, B]` that make one target of the mean loss of every class (0 for an empty class)."""
    members = np.asarray(labels)[None] == np.arange(num_classes)[:, None]
    return members / np.maximum(members.sum(axis=1, keepdims=True), 1)


def weights(scores: AnyArray, labels: AnyArray, temperature: float = 1.0) -> np.ndarray:
    """Weigh the examples of each class by the softmax of their standardized scores.

    `w_i = exp(z_i / τ) / Σ_{j of the class} exp(z_j / τ)`, `z_i = (s_i − mean) / std` over the class.

    Args:
        scores: `[N]`.
        labels: `[N]` classes.
        temperature: τ; towards infinity all examples of a class weigh the same, towards 0 the best takes all.

    Returns:
        `[N]` float64, of sum one in every class; uniform in a class of equal scores.

    Raises:
        ValueError: Scores that are not finite or do not fit the labels, or a temperature that is not positive.

    References:
        [published] softmax with temperature: influence-weighted distillation, arXiv 2510.27253; [our choice] the
        standardization per class.
    """
    scores, labels = _scored(scores, labels)
    if not temperature > 0:
        raise SettingError(f"temperature is {temperature}; give a positive one")
    result = np.empty(len(scores))
    for label in np.unique(labels):
        members = labels == label
        z = standardize(scores[members]) / temperature
        exponential = np.exp(z - z.max())
        result[members] = exponential / exponential.sum()
    return result


def subset(
    scores: AnyArray, labels: AnyArray | None, per_class: int, keep: Literal["helpful", "harmful"] = "helpful"
) -> np.ndarray:
    """Choose the examples of highest or of lowest score in every class.

    Args:
        scores: `[N]`.
        labels: `[N]` classes; None where there are none, as of pairs: all examples are one then.
        per_class: How many of each class.
        keep: Which end.

    Returns:
        `[C', per_class]` int32 positions, a row for each class that has examples, in the order of the classes, the most
        helpful or most harmful one first; of equal scores the earlier example.

    Raises:
        ValueError: A class has fewer examples, `keep` is neither, or the scores do not fit the labels.

    References:
        [our choice] equally many of every class, as distilled sets have.
    """
    scores, labels = _scored(scores, np.zeros(np.shape(scores), np.int32) if labels is None else labels)
    signs = {"helpful": -1, "harmful": 1}
    check_choice("keep", keep, signs)
    classes, counts = np.unique(labels, return_counts=True)
    if not 1 <= per_class <= counts.min():
        raise SettingError(
            f"per_class is {per_class}, but class {classes[counts.argmin()]} has {counts.min()} examples; "
            f"choose 1 to {counts.min()}"
        )
    order = np.argsort(signs[keep] * scores, kind="stable").astype(np.int32)
    return np.stack([order[labels[order] == label][:per_class] for label in classes])


def ranking(scores: AnyArray, labels: AnyArray) -> np.ndarray:
    """Rank the examples, the most helpful first.

    Args:
        scores: `[N]`.
        labels: `[N]` classes.

    Returns:
        A structured array `[N]` with the columns index (position in the training set), label, score and rank (1 for the
        highest score; of equal scores the earlier example first), in the order of rank.

    Raises:
        ValueError: The scores are not finite or do not fit the labels.
    """
    scores, labels = _scored(scores, labels)
    order = np.argsort(-scores, kind="stable")
    columns = [("index", np.int32), ("label", np.int32), ("score", np.float64), ("rank", np.int32)]
    table = np.empty(len(scores), columns)
    table["index"], table["label"], table["score"] = order, labels[order], scores[order]
    table["rank"] = np.arange(1, len(scores) + 1)
    return table


def mislabeled_auc(scores: AnyArray, mislabeled: AnyArray) -> float:
    """Measure how well low scores find wrong labels: the area under the ROC curve.

    Args:
        scores: `[N]`.
        mislabeled: `[N]` bool, which labels are known to be wrong; some, not all.

    Returns:
        The probability that a wrong label has a lower score than a right one, ties counted half; 0.5 is chance.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(mislabeled), -np.asarray(scores, np.float64)))


def _scored(scores: AnyArray, labels: AnyArray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise SettingError(f"scores are {list(scores.shape)} and labels {list(labels.shape)}; both must be [N], N >= 1")
    if not np.isfinite(scores).all():
        first = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise SettingError(f"the score of example {first} is {scores[first]}; scores must be finite")
    return scores, labels
