"""The settings of influence scores."""

import dataclasses
from typing import Annotated, Literal

from jaxdd.influence.solvers import Solver
from jaxdd.settings import AtLeast, Fraction, NonNegative, Seed, Settings


@dataclasses.dataclass(frozen=True)
class InfluenceConfig(Settings, path="influence"):
    """How training examples are scored."""

    estimator: Literal["tracin", "second_order", "bracket", "sgd_influence", "endpoint", "leave_one_out"] = "tracin"
    """First order along the path; with the first-order effect of the curvature; that correction alone; the whole
    backward unroll; inverse Hessian at the last parameters; retraining without each example (small problems)."""
    solver: Solver = Solver()
    """Solver of endpoint."""
    stride: Annotated[int, AtLeast(1)] = 1
    """Use every n-th snapshot; each stands for the training time up to the next one in use."""
    end: Literal["auto", "final", "last"] = "auto"
    """The network that is judged: after the last epoch, or at the last snapshot; auto, after the last epoch if it was
    recorded up to there, or if the estimator reads nothing else."""
    weight_decay: Annotated[float, NonNegative] = 0.0
    """Weight decay that the networks were trained with."""
    momentum: Annotated[float, Fraction] = 0.0
    """Momentum that they were trained with: their effective learning rate is η / (1 − momentum), [derived] for
    gradients that change slowly."""
    curvature: Annotated[int | None, AtLeast(1)] = None
    """Training examples that Hessians and G_D are taken on, drawn once; all by default."""
    chunk: Annotated[int, AtLeast(1)] = 500
    """Examples that are on the device at a time: memory grows with it, results do not depend on it."""
    batch: Annotated[int | None, AtLeast(2)] = None
    """Examples that share a batch, for a task whose losses depend on the others of it, such as pairs: the batch that
    the experts were trained with. Who shares one with whom is drawn with `seed`."""
    seed: Annotated[int, Seed] = 0
    """Seed of what is drawn: who shares a batch, the examples of `curvature`, the batches of lissa, the first vector of
    arnoldi."""
