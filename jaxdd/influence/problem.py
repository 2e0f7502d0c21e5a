"""What the estimators compute with: losses and slopes of training examples and targets, summed over chunks of them.

Axis letters: N training examples, B target examples, Q targets, T snapshots, P parameters.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxdd.core import autodiff, sampling
from jaxdd.core.parallel import sum_over
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.influence.config import InfluenceConfig
from jaxdd.types import Array, Examples, PyTree

Data: TypeAlias = Examples | RealSet
"""Examples: a `RealSet` (as it is stored, made ready a chunk at a time) or `Examples` that fit into memory."""

Retrain: TypeAlias = Callable[[Array, Array], Array]
"""`(weights [N], start [P]) -> [P]`: the flat parameters after training on `Σ_i w_i ℓ_i` from `start`, in JAX."""

LossesOf: TypeAlias = Callable[[Array], Array]
"""`θ [P] -> [B']`, the losses of some examples."""


class Path(NamedTuple):
    """One recorded training, as the estimators read it.

    Attributes:
        snapshots: `[T, P]` θ_t.
        steps: `[T]` η_t, the training time (sum of learning rates) from each snapshot to the next, the last to `end`.
        end: `[P]` θ_T, the parameters that are judged.
    """

    snapshots: Array
    steps: Array
    end: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["train", "target", "target_weights", "weights", "rows", "row_weights", "key"],
    meta_fields=["task", "config", "retraining"],
)
@dataclasses.dataclass(frozen=True)
class Problem:
    """Training examples and targets, and what is computed of them at flat parameters θ `[P]`; a pytree.

    Attributes:
        task: Its losses are those of the examples.
        config: Chunks, solver, weight decay.
        retraining: How networks are trained again; None for gradient descent along a path's training time.
        train: N examples.
        target: B examples.
        target_weights: `[Q, B]` W_q.
        weights: `[N]` w_i.
        rows: `[N']` the examples that Hessians and G_D are taken on.
        row_weights: `[N']` their weights.
        key: For what is drawn.
    """

    task: Task
    config: InfluenceConfig
    retraining: Retrain | None
    train: Data
    target: Data
    target_weights: Array
    weights: Array
    rows: Array
    row_weights: Array
    key: Array

    def targets(self, params: Array) -> Array:
        """Compute the L_q, `[Q]`."""
        return self._of_target(lambda losses, w, params: w @ losses(params), params)

    def target_gradients(self, params: Array) -> Array:
        """Compute the ∇L_q, `[Q, P]`."""

        def term(losses: LossesOf, w: Array, params: Array) -> Array:
            return jax.lax.map(lambda w: autodiff.grad_combine(losses, params, w), w)

        return self._of_target(term, params)

    def dots(self, params: Array, v: Array) -> Array:
        """Compute `⟨∇ℓ_i, v_q⟩` for v `[Q, P]`, one forward-mode pass for every q: `[Q, N]`."""

        def term(losses: LossesOf, params: Array, v: Array) -> Array:
            return jax.lax.map(lambda v: autodiff.grad_dot(losses, params, v), v)

        return self._each(term, params, v)

    def forms(self, params: Array, u: Array, v: Array) -> Array:
        """Compute `u_qᵀ ∇²ℓ_i v` for u `[Q, P]` and v `[P]`: `[Q, N]`."""

        def term(losses: LossesOf, params: Array, u: Array, v: Array) -> Array:
            def along(p: Array) -> Array:
                return autodiff.grad_dot(losses, p, v)

            return jax.lax.map(lambda u: autodiff.grad_dot(along, params, u), u)

        return self._each(term, params, u, v)

    def gradient(self, params: Array) -> Array:
        """Compute ∇L on the examples of `rows`, `[P]`."""
        return self._gradient(params, self.rows, self.row_weights)

    def product(self, params: Array, v: Array) -> Array:
        """Compute `∇²L v` on the examples of `rows`, `[P]`."""
        return self._product(params, v, self.rows, self.row_weights)

    def sampled_product(self, key: Array, params: Array, v: Array) -> Array:
        """Compute the same on examples drawn with the key, as many as `solver.batch` says."""
        batch, size = self.config.solver.batch, self.weights.shape[0]
        if batch is None:
            return self.product(params, v)
        drawn = jax.random.randint(key, (batch,), 0, size)
        return self._product(params, v, drawn, self.weights[drawn] * (size / batch))

    def retrain(self, weights: Array, path: Path) -> Array:
        """Train again with weights `[N]`, from where the path began: `[P]`."""
        if self.retraining is not None:
            return self.retraining(weights, path.snapshots[0])
        everything = jnp.arange(self.weights.shape[0])

        def step(params: Array, lr: Array) -> tuple[Array, None]:
            return params - lr * self._gradient(params, everything, weights), None

        return jax.lax.scan(step, path.snapshots[0], path.steps)[0]

    def _gradient(self, params: Array, rows: Array, weights: Array) -> Array:
        def term(losses: LossesOf, w: Array, params: Array) -> Array:
            return autodiff.grad_combine(losses, params, w)

        return self.config.weight_decay * params + self._summed(self.train, rows, weights, term, params)

    def _product(self, params: Array, v: Array, rows: Array, weights: Array) -> Array:
        def term(losses: LossesOf, w: Array, params: Array, v: Array) -> Array:
            return autodiff.hvp(lambda p: jnp.vdot(w, losses(p)), params, v)

        return self.config.weight_decay * v + self._summed(self.train, rows, weights, term, params, v)

    def _of_target(self, term: Callable[..., Array], *shared: PyTree) -> Array:
        everything = jnp.arange(sampling.size_of(self.target))
        return self._summed(self.target, everything, self.target_weights, term, *shared)

    @property
    def _chunks(self) -> dict[str, Any]:
        """How many examples a chunk has; where losses are not separable it is a batch, and has no other number."""
        return {"largest": self.config.batch or self.config.chunk, "exact": not self.task.separable}

    def _summed(self, data: Data, rows: Array, weights: Array, term: Callable[..., Array], *shared: PyTree) -> Array:
        """Sum `term(losses, weights [..., B'], *shared)` over chunks of the examples at `rows`."""
        task = self.task

        def of_chunk(chunk: tuple[Array, Array], data: Data, rows: Array, weights: Array, *shared: PyTree) -> Array:
            positions, valid = chunk
            masked = weights[..., positions] * valid.astype(weights.dtype).reshape((1,) * (weights.ndim - 1) + (-1,))
            return term(_losses(task, sampling.take(data, rows[positions])), masked, *shared)

        chunks = sampling.chunks_of(rows.shape[0], **self._chunks)
        total: Array = sum_over(of_chunk, chunks, data, rows, weights, *shared)
        return total

    def _each(self, term: Callable[..., Array], *shared: PyTree) -> Array:
        """Compute `term(losses, *shared) -> [Q, B']` for chunks of all training examples: `[Q, N]`."""
        task = self.task

        def of_chunk(examples: Examples, *shared: PyTree) -> Array:
            return term(_losses(task, examples), *shared).T

        found: Array = sampling.over_all(of_chunk, self.train, *shared, **self._chunks)
        return found.T


def _losses(task: Task, examples: Examples) -> LossesOf:
    return lambda params: task.losses(task.unravel(params), examples)


def problem_of(
    task: Task,
    train: Data,
    target: Data,
    target_weights: Array,
    config: InfluenceConfig,
    retrain: Retrain | None = None,
) -> Problem:
    """Build what the estimators compute with, from training examples and targets `[Q, B]`; in jit."""
    size = sampling.size_of(train)
    draw_key, key = jax.random.split(jax.random.key(config.seed))
    weights = train.weights if isinstance(train, Examples) else jnp.full((size,), 1 / size, target_weights.dtype)
    rows = jnp.arange(size)
    if config.curvature is not None and config.curvature < size:
        rows = jax.random.permutation(draw_key, rows)[: config.curvature]
    row_weights = weights[rows] * (jnp.sum(weights) / jnp.sum(weights[rows]))
    return Problem(task, config, retrain, train, target, target_weights, weights, rows, row_weights, key)
