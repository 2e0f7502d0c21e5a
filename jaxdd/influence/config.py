"""The settings of influence scores."""

import dataclasses
from typing import Literal

from jaxdd.influence.solvers import Solver
from jaxdd.settings import check_choices


@dataclasses.dataclass(frozen=True)
class InfluenceConfig:
    """How training examples are scored."""

    estimator: Literal["tracin", "second_order", "bracket", "sgd_influence", "endpoint", "leave_one_out"] = "tracin"
    """First order along the path; with the first-order effect of the curvature; that correction alone; the whole
    backward unroll; inverse Hessian at the last parameters; retraining without each example (small problems)."""
    solver: Solver = Solver()
    """Solver of endpoint."""
    stride: int = 1
    """Use every n-th snapshot; each stands for the training time up to the next one in use."""
    end: Literal["auto", "final", "last"] = "auto"
    """The network that is judged: after the last epoch, or at the last snapshot; auto, after the last epoch if it was
    recorded up to there, or if the estimator reads nothing else."""
    weight_decay: float = 0.0
    """Weight decay that the networks were trained with."""
    momentum: float = 0.0
    """Momentum that they were trained with: their effective learning rate is η / (1 − momentum), [derived] for
    gradients that change slowly."""
    curvature: int | None = None
    """Training examples that Hessians and G_D are taken on, drawn once; all by default."""
    chunk: int = 500
    """Examples that are on the device at a time: memory grows with it, results do not depend on it."""
    seed: int = 0
    """Seed of what is drawn: the examples of `curvature`, the batches of lissa, the first vector of arnoldi."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("stride", "chunk", "curvature"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"influence.{name} is {value}; give 1 or more")
        if not self.weight_decay >= 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"influence has weight_decay={self.weight_decay}, momentum={self.momentum}; "
                "needs weight_decay >= 0, 0 <= momentum < 1"
            )
