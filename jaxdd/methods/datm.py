"""DATM: trajectories aligned with difficulty (Guo et al. 2024, arXiv 2310.05773), a set of choices within MTT.

Students start at ever later snapshots, which hold ever harder patterns; the labels are learned; the first images are
real ones that an expert classifies right.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from jaxdd.experts.trajectories import Window
from jaxdd.methods import mtt
from jaxdd.methods.base import Optimizer
from jaxdd.settings import Positive


@dataclasses.dataclass(frozen=True)
class Config(mtt.Config):
    """Settings of DATM: those of MTT, with other defaults.

    [published] labels that start as the mean logits of the experts that are right and are learned with momentum 0.9,
    images that an expert classifies right, the growing window. [our choice] the numbers of the window and the
    threshold (published for CIFAR-10: 1.1, 1 and 1 at 1, 10 and 50 images per class).
    """

    name: ClassVar[str] = "datm"
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "correct"
    """First images."""
    labels: Literal["hard", "soft", "learned"] = "learned"
    """Labels."""
    teachers: Literal["all", "right"] = "right"
    """Experts whose logits the labels start from."""
    label_optimizer: Optimizer = Optimizer("sgd", 2.0, 0.9)
    """Optimizer of the label logits."""
    loss_threshold: Annotated[float | None, Positive] = 2.0
    """Outer steps whose loss exceeds this change nothing: the student ended much farther from its target than it began,
    at 1."""
    window: Window = Window(start=6, end=12)
    """Snapshots that a student may start from; they grow."""
