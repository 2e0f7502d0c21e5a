"""Training a network on a set: the one loop behind experts, evaluation and the full-data reference.

Axis letters: B batch, T snapshots, P parameters.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.flatten_util import ravel_pytree

from jaxdd.core.augment import cutmix, dsa
from jaxdd.core.tasks import mean_loss
from jaxdd.core.unroll import times_lr
from jaxdd.io.files import UNSAID
from jaxdd.settings import AtLeast, Between, Fraction, NonNegative, Positive, Settings
from jaxdd.types import STATISTICS, Array, Examples, Losses, Params, PyTree

DSA = "color_crop_cutout_flip_scale_rotate"
RUNNING = 0.1
"""The part of a batch in running statistics, PyTorch's default. [published]"""
Schedule = Literal["constant", "step", "cosine", "two_steps"]


@dataclasses.dataclass(frozen=True)
class Recipe(Settings, path="recipe"):
    """SGD as the field's evaluation protocol sets it."""

    epochs: Annotated[int, Between(1, 10**6)] = 1000
    """Passes over the training set. What a validation split holds out makes each of them shorter."""
    batch: Annotated[int, AtLeast(1)] = 256
    """Largest batch; an epoch is cut into equal batches of at most this size."""
    lr: Annotated[float, Positive] = 0.01
    """Learning rate at the start."""
    momentum: Annotated[float, Fraction] = 0.9
    """Momentum of SGD, 0 for none."""
    weight_decay: Annotated[float, NonNegative] = 5e-4
    """Weight decay, added to the gradient."""
    schedule: Schedule = "step"
    """constant; step: a tenth from the middle on (the field's code two epochs later, with the momentum begun anew, and
    one epoch more in all); cosine: to zero; two_steps: a fifth from two thirds on, and a fifth of that from five sixths
    on (published for IDC)."""
    augment: str = DSA
    """Differentiable siamese augmentation, its operations joined by underscores; none for no augmentation."""
    cutmix: Annotated[float, Between(0, 1)] = dataclasses.field(default=0.0, metadata=UNSAID)
    """Probability that a batch is mixed by `core.augment.cutmix`, after `augment` (published for IDC and NCFM: 0.5)."""
    sharpness: Annotated[float, NonNegative] = 0.0
    """ρ of sharpness-aware minimization: each step's gradient is taken at θ + ρ ∇L / ‖∇L‖, which costs a second
    gradient and leads to flatter minima; 0 for none. Matching experts trained so is the idea of FTD (ρ = 0.01), whose
    code takes a variant of it, GSAM, and scores a moving average of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dsa(self.augment, siamese=False)  # refuses an unknown operation now, before any work


class Recorded(NamedTuple):
    """What `train` records on the way.

    Attributes:
        params: `[T, P]` flattened parameters, the first before any step; or, in their place, a tree with leading axis T
            of what `record` makes of the parameters.
        losses: `[T]` mean training loss of the steps since the snapshot before (0 for the first).
    """

    params: Any
    losses: Array


def batching(size: int, batch: int) -> tuple[int, int]:
    """Cut an epoch of `size` examples into the fewest equal batches of at most `batch`.

    Args:
        size: Number of examples.
        batch: Largest batch.

    Returns:
        (batches per epoch, their size). Where the division leaves a rest, the last batch is filled up with the first
        examples of the epoch, fewer than one per batch. [our choice] Nothing is dropped and all shapes are equal.
    """
    steps = math.ceil(size / batch)
    return steps, math.ceil(size / steps)


def shuffle(key: Array, size: int, batch: int) -> Array:
    """Shuffle an epoch of `size` examples into batches without replacement: indices `[steps, B]` (see `batching`)."""
    steps, batch = batching(size, batch)
    order = jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))
    return jnp.concatenate([order, order])[: steps * batch].reshape(steps, batch)


def schedule_of(recipe: Recipe, steps: int) -> optax.Schedule:
    """Build the learning rate as a function of the step, of `steps` in all."""
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(recipe.lr),
        "step": lambda: optax.piecewise_constant_schedule(recipe.lr, {max(steps // 2, 1): 0.1}),
        "cosine": lambda: optax.cosine_decay_schedule(recipe.lr, steps),
        "two_steps": lambda: optax.piecewise_constant_schedule(
            recipe.lr, {max(2 * steps // 3, 1): 0.2, max(5 * steps // 6, 2): 0.2}
        ),
    }
    return schedules[recipe.schedule]()


def optimizer_of(recipe: Recipe, steps: int) -> optax.GradientTransformationExtraArgs:
    """Build SGD with the recipe's momentum, weight decay and learning rate schedule over `steps` steps.

    With `sharpness` ρ it is sharpness-aware: its `update` calls `grad_fn(params, 0)` at `θ + ρ ∇L / ‖∇L‖`.

    References:
        [published] SAM, Foret et al. 2021, arXiv 2010.01412; for experts, FTD, Du et al. 2023, arXiv 2211.11004.
    """
    sgd = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(schedule_of(recipe, steps), momentum=recipe.momentum or None),
    )
    if not recipe.sharpness:
        return optax.with_extra_args_support(sgd)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(recipe.sharpness))
    return optax.contrib.sam(sgd, ascent, opaque_mode=True)


def train(
    key: Array,
    params: Params,
    losses: Losses,
    fetch: Callable[[Array], Examples],
    size: int,
    recipe: Recipe,
    *,
    snapshots: int = 0,
    every: int = 1,
    record: Callable[[Params], Any] | None = None,
    lr: PyTree | None = None,
    observe: Callable[[Params, Any], Any] | None = None,
) -> tuple[Params, Recorded | None]:
    """Train by mini-batch SGD with momentum, `v ← μ v + ∇L_B(θ) + decay · θ`, `θ ← θ − η v`; pure, to be jitted whole.

    Args:
        key: Shuffles, and draws the augmentation (an operation per batch, its parameters per example).
        params: θ_0.
        losses: Per-example losses.
        fetch: `(indices [B]) -> Examples`, the set to train on.
        size: Number of examples in it.
        recipe: Epochs, batch, optimizer and augmentation.
        snapshots: T, how many snapshots to record.
        every: Steps between snapshots.
        record: `(params) -> tree`, what to record of each snapshot, with the running averages in them where there are
            any; by default `[P]`, the flattened parameters, without.
        lr: [] scales the whole schedule to start at this learning rate in place of the recipe's; or one for each branch
            of the parameters, see `times_lr`.
        observe: `Model.observe`, to train a network for evaluation: the running averages of what it sees of the
            batches are handed back in `params[STATISTICS]`. Snapshots never have them.

    Returns:
        The parameters after the last epoch, and the snapshots if any were asked for.
    """
    steps_per_epoch, batch = batching(size, recipe.batch)
    total = recipe.epochs * steps_per_epoch
    optimizer = optimizer_of(recipe, total)
    if lr is not None:
        scale = jax.tree.map(lambda rate: rate / recipe.lr, lr)
        optimizer = optax.chain(optimizer, optax.stateless(lambda updates, params: times_lr(scale, updates)))
    augment = dsa(recipe.augment, siamese=False)
    order_key, augment_key = jax.random.split(key)

    def step(t: Array, carry: Any) -> Any:
        params, state, order, loss_sum, statistics = carry
        epoch, position = t // steps_per_epoch, t % steps_per_epoch
        order = jax.lax.cond(
            position == 0,
            lambda: shuffle(jax.random.fold_in(order_key, epoch), size, recipe.batch),
            lambda: order,
        )
        examples = fetch(order[position])
        key = jax.random.fold_in(augment_key, t)
        examples = examples._replace(inputs=augment(key, examples.inputs))
        examples = cutmix(key, examples, recipe.cutmix)
        batch_loss = mean_loss(losses, examples)
        loss, grad = jax.value_and_grad(batch_loss)(params)
        if observe is not None:
            statistics = optax.incremental_update(observe(params, examples.inputs), statistics, RUNNING)
        updates, state = optimizer.update(grad, state, params, grad_fn=lambda p, _: jax.grad(batch_loss)(p))
        return optax.apply_updates(params, updates), state, order, loss_sum + loss, statistics

    def finished(params: Params, statistics: Any) -> Params:
        return params if observe is None else {**params, STATISTICS: statistics}

    def snapshot(carry: Any, index: Array) -> tuple[Any, Recorded]:
        params, state, order, loss_sum, statistics = carry
        seen = ravel_pytree(params)[0] if record is None else record(finished(params, statistics))
        recorded = Recorded(seen, loss_sum / every)
        first = index * every
        carry = (params, state, order, jnp.zeros_like(loss_sum), statistics)
        return jax.lax.fori_loop(first, jnp.minimum(first + every, total), step, carry), recorded

    order = jnp.zeros((steps_per_epoch, batch), jnp.int32)
    loss_sum = jnp.zeros((), ravel_pytree(params)[0].dtype)
    statistics = None if observe is None else _first_statistics(observe, params, fetch(order[0]).inputs)
    carry = (params, optimizer.init(params), order, loss_sum, statistics)
    recorded = None
    if snapshots:
        carry, recorded = jax.lax.scan(snapshot, carry, jnp.arange(snapshots))
    carry = jax.lax.fori_loop(min(snapshots * every, total), total, step, carry)
    params, *_, statistics = carry
    return finished(params, statistics), recorded


def _first_statistics(observe: Callable[[Params, Any], Any], params: Params, inputs: Any) -> Any:
    """Return what PyTorch's running statistics begin with: means of zero and variances of one."""
    shapes = jax.eval_shape(observe, params, inputs)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype), shapes
    )
