"""MTT: matching training trajectories (Cazenavette et al. 2022, arXiv 2203.11932).

A student starts where an expert was at snapshot t, takes N SGD steps on the distilled set, and should arrive where the
expert was at snapshot t + M. The distilled images, the student's learning rate and, if asked, the labels are learned by
differentiating through the student's steps.

Axis letters: N student steps, b student mini-batch, M distilled items, P parameters.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.augment import dsa
from jaxdd.distilled import Distilled
from jaxdd.losses import cross_entropy, mean_loss
from jaxdd.matching import parameter_distance
from jaxdd.methods.base import (
    MethodConfig,
    Optimiser,
    Sources,
    no_cache,
    outer_optimiser,
    softened,
)
from jaxdd.training import batching, shuffle
from jaxdd.trajectories import Window, flattening
from jaxdd.types import Array, Augment, Losses, Method, Model, Params
from jaxdd.unroll import Unroll, inner_sgd


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of MTT."""

    student_steps: int = 20
    """N, SGD steps of the student on the distilled set."""
    expert_snapshots: int = 4
    """How many snapshots ahead of its start the student's target is (the paper's M, in epochs)."""
    batch: int | None = None
    """Mini-batch of the student, drawn without replacement; the whole distilled set by default."""
    student_lr: float = 0.1
    """First value of the student's learning rate, which is learned."""
    lr_optimiser: Optimiser = Optimiser("sgd", 1e-3, 0.5)
    """Optimiser of the student's learning rate."""
    window: Window = Window(start=12)
    """Snapshots that a student may start from."""
    unroll: Unroll = Unroll()
    """How to differentiate through the student's steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("student_steps", "expert_snapshots", "student_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"method.{name} is {getattr(self, name)}; MTT needs a positive one")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"method.batch is {self.batch}; give at least 1 distilled item per student step")

    @property
    def snapshots_needed(self) -> int:
        """The last start's target: as many snapshots as each expert must have."""
        return self.window.last + self.expert_snapshots


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        distilled: The distilled set; its `lr` is the unconstrained ρ of `positive_lr`.
        optimiser: State of the outer optimisers.
    """

    distilled: Distilled
    optimiser: optax.OptState


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        start: θ^t of an expert.
        target: θ^{t+M} of the same expert.
        indices: `[N, b]` the distilled items of each student step.
        keys: `[N]` keys of the augmentation of each student step.
    """

    start: Params
    target: Params
    indices: Array
    keys: Array


class Info(NamedTuple):
    """What a person wants to see: the matching loss, the student's learning rate, and its loss before step N."""

    loss: Array
    student_lr: Array
    student_loss: Array


def positive_lr(raw: Array, lr0: float) -> Array:
    """Map an unconstrained ρ to a positive learning rate: `α = s · softplus(ρ / s)` with `s = lr0 / 4`.

    Near lr0 and above it α ≈ ρ, so that published learning rates of α carry over; below, α tends to 0 but never
    reaches it. [our choice] The published code optimises α itself, which can turn negative.
    """
    scale = lr0 / 4
    return scale * jax.nn.softplus(raw / scale)


def raw_lr(lr: Array, lr0: float) -> Array:
    """Invert `positive_lr`: `ρ = s · log(exp(α / s) − 1)`."""
    scale = lr0 / 4
    return lr + scale * jnp.log(-jnp.expm1(-lr / scale))


def matching_loss(
    losses: Losses, augment: Augment, distilled: Distilled, batch: Batch, how: Unroll
) -> tuple[Array, Array]:
    """Compute the MTT objective of one expert segment.

    `θ_{n+1} = θ_n − α ∇ℓ(θ_n; A(S_n))` for n = 0 … N−1 from `θ_0 = θ^t`, then
    `‖θ_N − θ^{t+M}‖² / ‖θ^t − θ^{t+M}‖²`.

    Args:
        losses: Per-example losses ℓ.
        augment: The augmentation A of a student step's mini-batch.
        distilled: The set S, with α as its `lr`.
        batch: Where the student starts, where it should arrive, and what it draws.
        how: How to differentiate through the N steps.

    Returns:
        The objective, and the student's losses before each step `[N]`.

    References:
        [published] arXiv 2203.11932, equation 3 and Algorithm 1.
    """

    def student_loss(params: Params, draw: tuple[Array, Array]) -> Array:
        indices, key = draw
        examples = softened(distilled, indices)
        return mean_loss(losses, examples._replace(images=augment(key, examples.images)))(params)

    student, history = inner_sgd(student_loss, batch.start, (batch.indices, batch.keys), distilled.lr, how=how)
    return parameter_distance(student, batch.target, batch.start), history


def student_batches(key: Array, size: int, batch: int, steps: int) -> Array:
    """Draw the mini-batches of `steps` student steps from `size` items, epoch by epoch: indices `[steps, b]`."""
    per_epoch = batching(size, batch)[0]
    epochs = -(-steps // per_epoch)
    batches = jax.vmap(lambda key: shuffle(key, size, batch))(jax.random.split(key, epochs))
    return batches.reshape(epochs * per_epoch, -1)[:steps]


def build(model: Model, config: Config) -> Method:
    """Build MTT for a model.

    Args:
        model: The network of experts and students.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories of at least `config.snapshots_needed` snapshots.
    """
    losses, augment, unravel = cross_entropy(model), dsa(config.augment, siamese=False), flattening(model)[1]
    optimiser = outer_optimiser(
        config.image_optimiser, config.label_optimiser if config.labels == "learned" else None, config.lr_optimiser
    )

    def positive(distilled: Distilled) -> Distilled:
        return distilled._replace(lr=positive_lr(distilled.lr, config.student_lr))

    def init(key: Array, distilled: Distilled) -> State:
        del key
        raw = raw_lr(jnp.full_like(distilled.lr, config.student_lr), config.student_lr)
        distilled = distilled._replace(lr=raw)
        return State(distilled, optimiser.init(distilled))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        trajectories, size = sources.experts, config.ipc * sources.real.class_sizes.shape[0]
        expert_key, start_key, batch_key, augment_key = jax.random.split(key, 4)
        expert = jax.random.randint(expert_key, (), 0, trajectories.num_experts)
        start = config.window.sample(start_key, step, config.steps)
        return Batch(
            unravel(trajectories.snapshots[expert, start]),
            unravel(trajectories.snapshots[expert, start + config.expert_snapshots]),
            student_batches(batch_key, size, min(config.batch or size, size), config.student_steps),
            jax.random.split(augment_key, config.student_steps),
        )

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Info]:
        del key

        def objective(distilled: Distilled) -> tuple[Array, Array]:
            return matching_loss(losses, augment, positive(distilled), batch, config.unroll)

        (loss, history), grads = jax.value_and_grad(objective, has_aux=True)(state.distilled)
        updates, optimiser_state = optimiser.update(grads, state.optimiser, state.distilled)
        distilled = optax.apply_updates(state.distilled, updates)
        return State(distilled, optimiser_state), Info(loss, positive(distilled).lr, history[-1])

    return Method(no_cache, init, sample, step, lambda state: positive(state.distilled))
