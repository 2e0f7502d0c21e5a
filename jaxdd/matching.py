"""Distances that the matching methods minimise."""

import jax.numpy as jnp

from jaxdd.types import Array


def parameter_distance(
    student: Array, target: Array, start: Array, weights: Array | None = None, *, relative: bool = False
) -> Array:
    """Measure how far a student is from its target, in units of how far the expert went.

    `‖W ⊙ (θ̂ − θ^{t+M})‖² / ‖θ^t − θ^{t+M}‖²`, or with W in the denominator too.

    Args:
        student: `[P]` θ̂, the parameters after the student steps on the distilled set.
        target: `[P]` θ^{t+M}, the expert M snapshots later.
        start: `[P]` θ^t, where both began.
        weights: `[P]` W, all one by default.
        relative: Whether the path of the expert is weighted too: the distance does not depend on the scale of W then.

    Returns:
        A scalar; with W = 1 or `relative` it is 1 for a student that did not move, and 0 for one that arrived.

    References:
        [published] W = 1: MTT, Cazenavette et al. 2022, arXiv 2203.11932, equation 3; W in the numerator: IADD, Li et
        al. 2024, arXiv 2401.15863. [our choice] `relative`.
    """
    gap, path = student - target, start - target
    if weights is not None:
        gap, path = weights * gap, weights * path if relative else path
    return jnp.vdot(gap, gap) / jnp.vdot(path, path)
