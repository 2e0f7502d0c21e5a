"""DD-Ranking's scores: how much of an accuracy is due to the images, and not to labels or augmentation.

Li et al. 2024, DD-Ranking. All accuracies are fractions. A set that neither gains nor loses scores
`(1 − e⁻¹) / (e − e⁻¹) = 0.269`.
"""

import math
from typing import Annotated

from jaxdd.settings import Between, check_value

__all__ = ["augmentation_robust_score", "label_robust_score"]


def label_robust_score(*, full: float, hard: float, own: float, random: float, weight: float = 0.5) -> float:
    """Compute the label-robust score, LRS. [published].

    `HLR = full − hard`, `IOR = own − random`, `a = w · IOR − (1 − w) · HLR`, `LRS = (e^a − e⁻¹) / (e − e⁻¹)`.

    Args:
        full: Accuracy of a network trained on all real data with hard labels.
        hard: On the set with hard labels.
        own: On the set with its own labels.
        random: On random real images, as many, with labels made the way that the set's own were.
        weight: w, in [0, 1].

    Returns:
        The score; 0 at a = −1 and 1 at a = 1.
    """
    return _squashed(weight, own - random, -(full - hard))


def augmentation_robust_score(
    *, augmented: float, random_augmented: float, plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """Compute the augmentation-robust score, ARS. [published].

    `b = γ (augmented − random_augmented) + (1 − γ) (plain − random_plain)`, `ARS = (e^b − e⁻¹) / (e − e⁻¹)`.

    Args:
        augmented: Accuracy on the set, trained with augmentation.
        random_augmented: On random real images, trained with augmentation.
        plain: On the set, trained without.
        random_plain: On random real images, trained without.
        weight: γ, in [0, 1].

    Returns:
        The score; 0 at b = −1 and 1 at b = 1.
    """
    return _squashed(weight, augmented - random_augmented, plain - random_plain)


def _squashed(weight: float, first: float, second: float) -> float:
    check_value("weight", weight, Annotated[float, Between(0, 1)])
    mixed = weight * first + (1 - weight) * second
    return (math.exp(mixed) - math.exp(-1)) / (math.e - math.exp(-1))
