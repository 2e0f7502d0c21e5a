"""Distances that the matching methods minimise."""

import optax

from jaxdd.types import Array, Params


def parameter_distance(student: Params, target: Params, start: Params) -> Array:
    """Measure how far a student is from its target, in units of how far the expert went.

    `‖θ̂ − θ^{t+M}‖² / ‖θ^t − θ^{t+M}‖²`

    Args:
        student: θ̂, the parameters after the student steps on the distilled set.
        target: θ^{t+M}, the expert M snapshots later.
        start: θ^t, where both began.

    Returns:
        A scalar: 1 for a student that did not move, 0 for one that arrived.

    References:
        [published] MTT, Cazenavette et al. 2022, arXiv 2203.11932, equation 3.
    """
    return optax.tree.norm(optax.tree.sub(student, target), squared=True) / optax.tree.norm(
        optax.tree.sub(start, target), squared=True
    )
