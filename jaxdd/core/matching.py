"""Distances that the matching methods minimize.

Axis letters: P parameters, B real batch, M distilled items, F features, D frequencies.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdd.errors import SettingError
from jaxdd.types import Array, Params


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


def layerwise_cosine_distance(synthetic: Params, real: Params) -> Array:
    """Measure the angles between two gradients, one for every output unit of every layer.

    `Σ_l Σ_j (1 − ⟨g_lj, h_lj⟩ / (‖g_lj‖ ‖h_lj‖ + 1e-6))` over tensors l and their output units j: a kernel
    `[h, w, in, out]` or `[in, out]` has a vector of `h·w·in` numbers for each of its `out` units. Tensors of one axis
    (biases, scales) count 0.

    Args:
        synthetic: Gradient g, a pytree of parameters.
        real: Gradient h, of the same structure.

    Returns:
        A scalar.

    References:
        [published] DC, Zhao et al. 2021, arXiv 2006.05929, and what its code does with biases.
    """

    def of_tensor(g: Array, h: Array) -> Array:
        g, h = (x.reshape(-1, x.shape[-1]) for x in (g, h))
        return jnp.sum(1 - _cosine(g, h))

    return _sum_over_tensors(of_tensor, synthetic, real, axes=(2, 3, 4))


def cosine_distance(synthetic: Params, real: Params) -> Array:
    """Measure the angle between two gradients, all parameters in one vector: `1 − ⟨g, h⟩ / (‖g‖ ‖h‖ + 1e-6)`.

    Args:
        synthetic: Gradient g, a pytree of parameters.
        real: Gradient h, of the same structure.

    Returns:
        A scalar. [published] as an alternative in DC's code.
    """
    return 1 - _cosine(ravel_pytree(synthetic)[0], ravel_pytree(real)[0])


def squared_distance(synthetic: Params, real: Params) -> Array:
    """Measure `‖g − h‖²` over all parameters.

    Args:
        synthetic: Gradient g, a pytree of parameters.
        real: Gradient h, of the same structure.

    Returns:
        A scalar. [published] as an alternative in DC's code, where it is called mse.
    """
    return _sum_over_tensors(lambda g, h: jnp.sum((g - h) ** 2), synthetic, real)


def convolution_distance(synthetic: Params, real: Params) -> Array:
    """Measure `Σ ‖g_l − h_l‖²` over the kernels l of convolutions, which are the tensors of four axes.

    Args:
        synthetic: Gradient g, a pytree of parameters.
        real: Gradient h, of the same structure.

    Returns:
        A scalar.

    Raises:
        ValueError: There is no such tensor.

    References:
        [published] IDC, Kim et al. 2022, arXiv 2205.14959, as its code computes it.
    """
    return _over_convolutions(lambda g, h: jnp.sum((g - h) ** 2), synthetic, real)


def absolute_convolution_distance(synthetic: Params, real: Params) -> Array:
    """Measure `Σ |g_l − h_l|` over the kernels l of convolutions, see `convolution_distance`.

    References:
        [published] IDC, arXiv 2205.14959: its code takes it for MNIST and Fashion-MNIST.
    """
    return _over_convolutions(lambda g, h: jnp.sum(jnp.abs(g - h)), synthetic, real)


GRADIENT_DISTANCES: dict[str, Callable[[Params, Params], Array]] = {
    "cosine": layerwise_cosine_distance,
    "global_cosine": cosine_distance,
    "mse": squared_distance,
    "convolution_mse": convolution_distance,
    "convolution_l1": absolute_convolution_distance,
}
"""Name to distance between two gradients, `(synthetic, real) -> scalar`."""


def mean_distance(synthetic: Array, real: Array, synthetic_weights: Array, real_weights: Array) -> Array:
    """Measure how far two weighted means of features are apart: `‖Σ_j v_j φ_j − Σ_i w_i φ_i‖²`.

    Args:
        synthetic: `[M, F]` φ_j.
        real: `[B, F]` φ_i.
        synthetic_weights: `[M]` v, of sum one.
        real_weights: `[B]` w, of sum one.

    Returns:
        A scalar.

    References:
        [published] with equal weights: DM, Zhao & Bilen 2023, arXiv 2110.04181.
    """
    gap = synthetic_weights @ synthetic - real_weights @ real
    return jnp.vdot(gap, gap)


def relative_distance(synthetic: Array, real: Array) -> Array:
    """Measure how far two vectors are apart, element by element: `mean_d (a_d − b_d)² / (a_d² + b_d² + 1e-8)`.

    Args:
        synthetic: `[D]` a.
        real: `[D]` b.

    Returns:
        A scalar in [0, 2]. [published] the released code of Inf-Match.
    """
    return jnp.mean((synthetic - real) ** 2 / (synthetic**2 + real**2 + 1e-8))


def characteristic_function(features: Array, weights: Array, frequencies: Array) -> Array:
    """Evaluate the characteristic function of weighted features, `Φ(t) = Σ_i w_i exp(𝑖 ⟨t, φ_i⟩)`.

    Args:
        features: `[B, F]` φ_i.
        weights: `[B]` w, of sum one.
        frequencies: `[D, F]` t.

    Returns:
        `[D, 2]`, real and imaginary part. [published] with equal weights, NCFM, arXiv 2502.20653.
    """
    phases = features @ frequencies.T
    return jnp.stack([weights @ jnp.cos(phases), weights @ jnp.sin(phases)], axis=-1)


def characteristic_distance(synthetic: Array, real: Array, *, amplitude: float = 0.5) -> Array:
    """Measure how far two characteristic functions are apart in amplitude and in phase.

    `300 · mean_t sqrt(α (|Φ_r| − |Φ_s|)² + (1 − α) · 2 (|Φ_r| |Φ_s| − Re Φ_r Φ_s*))`

    Args:
        synthetic: `[D, 2]` Φ_s at D frequencies, real and imaginary part.
        real: `[D, 2]` Φ_r, alike.
        amplitude: α in [0, 1]; ½ makes it `300/√2 · mean_t |Φ_r − Φ_s|`.

    Returns:
        A scalar. Where the functions agree at a frequency, the gradient of its term is taken to be 0.

    References:
        [published] NCFM, Wang et al. 2025, arXiv 2502.20653, and the factor 300 of its code. [derived] the
        phase as `|Φ_r − Φ_s|² − (|Φ_r| − |Φ_s|)²`, which does not cancel where the functions nearly agree and α = ½.
    """
    gap = jnp.sum((real - synthetic) ** 2, axis=-1)
    amplitudes = (_norm(real, axis=-1) - _norm(synthetic, axis=-1)) ** 2
    return 300 * jnp.mean(_root((1 - amplitude) * gap + (2 * amplitude - 1) * amplitudes))


def unit_norm(features: Array) -> Array:
    """Scale every row of `features [B, F]` to norm one; a row of zeros stays one."""
    norm = _norm(features, axis=-1)[:, None]
    return features / jnp.where(norm > 0, norm, 1)


def _over_convolutions(distance: Callable[[Array, Array], Array], synthetic: Params, real: Params) -> Array:
    if not any(jnp.ndim(leaf) == 4 for leaf in jax.tree.leaves(real)):
        raise SettingError(
            "distances convolution_mse and convolution_l1 need convolutions, and the network has none; choose cosine"
        )
    return _sum_over_tensors(distance, synthetic, real, axes=(4,))


def _sum_over_tensors(
    distance: Callable[[Array, Array], Array], synthetic: Params, real: Params, axes: tuple[int, ...] | None = None
) -> Array:
    """Sum a distance over the tensors that have a number of axes among `axes`, all by default."""
    tensors = zip(jax.tree.leaves(synthetic), jax.tree.leaves(real), strict=True)
    return sum((distance(g, h) for g, h in tensors if axes is None or g.ndim in axes), start=jnp.zeros(()))


def _cosine(g: Array, h: Array) -> Array:
    """Compute the cosine of the angle between vectors along the first axis."""
    return jnp.sum(g * h, axis=0) / (_norm(g, axis=0) * _norm(h, axis=0) + 1e-6)


def _norm(x: Array, axis: int) -> Array:
    return _root(jnp.sum(x**2, axis=axis))


def _root(square: Array) -> Array:
    """Take the square root, with derivative 0 at 0: a unit that is dead would make all gradients not a number."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
