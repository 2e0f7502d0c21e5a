"""RaT-BPTT: learning through a random window of training (Feng et al. 2024, arXiv 2311.07025), and its AT schedule.

A fresh network is trained on the distilled set for T steps; its loss on real data after some of them is differentiated
through the last W alone:

    min_S E_{θ_0, n} L(θ_{n+W}(S); B),    ∂θ_n / ∂S := 0,    n uniform in {0 … T − W}

No experts. The AT schedule (Li et al. 2025, arXiv 2510.04838) chooses n and W by how the gradients of that training go.

Axis letters: R students, T student steps, W steps of the window, b student mini-batch, B real batch.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import mean_over
from jaxdd.core.tasks import Task, mean_loss
from jaxdd.core.unroll import Unroll, unroll
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, MethodConfig, Optimizer, Sources, outer_optimizer
from jaxdd.methods.mtt import student_batches
from jaxdd.settings import AtLeast, Between, Fraction, Positive
from jaxdd.types import Array, Examples, Params, PyTree, Scalars

EPSILON_ROOT = 1e-12
"""Added to Adam's second moment before its root, whose derivative at 0 is infinite: a bias before a normalization has
no gradient at all. [our choice]"""


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of RaT-BPTT.

    Published for CIFAR-10 are the defaults, with real_batch 5000, 60 000 passes over the real data, ZCA and
    augmentation flip_rotate.
    """

    name: ClassVar[str] = "rat_bptt"
    student_steps: Annotated[int, AtLeast(1)] = 200
    """T, steps of a student's training."""
    window: Annotated[int, AtLeast(1)] = 60
    """W, the steps that are differentiated."""
    schedule: Literal["random", "adaptive"] = "random"
    """Where the window begins: random, anywhere alike; adaptive, the AT schedule, see `placed` (published with window
    40 and window_range 10 on CIFAR-10)."""
    window_range: Annotated[int, AtLeast(0)] = 10
    """d, by how many steps the adaptive window may be shorter or longer."""
    second_stage: Annotated[float, Between(0, 1)] = 0.4
    """The part of the outer steps after which the adaptive schedule enters its second stage. [our choice] Published
    code waits until an epoch's accuracy grows by less than 1.5 points 0.15 T times in a row."""
    third_stage: Annotated[float, Between(0, 1)] = 0.7
    """And its third. [our choice] Published: less than 1 point, 0.125 T times."""
    students: Annotated[int, AtLeast(1)] = 1
    """R, students of an outer step; their gradients are averaged."""
    student_optimizer: Optimizer = Optimizer("adam", 1e-3)
    """The students' optimizer."""
    batch: Annotated[int | None, AtLeast(1)] = None
    """Largest mini-batch of a student, drawn without replacement; the whole distilled set by default."""
    real_batch: Annotated[int, AtLeast(1)] = 512
    """B, real examples of the loss at the end of the window."""
    image_optimizer: Optimizer = Optimizer("adam", 1e-3)
    """Optimizer of the images."""
    clip: Annotated[float | None, Positive] = 2.0
    """The gradient of an outer step is cut to so many times the running mean of its norm; None for never."""
    clip_memory: Annotated[float, Fraction] = 0.9
    """Decay of that running mean (published: 0.9, the default of the code's command line)."""
    unroll: Unroll = Unroll()
    """How to differentiate through the window; memory does not depend on T."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest > self.student_steps:
            raise SettingError(
                f"method.window is {self.window}, which with method.window_range becomes {self.longest} steps of the "
                f"{self.student_steps} that method.student_steps allows; give a shorter window or more steps"
            )
        if self.schedule == "adaptive" and self.window_range >= self.window:
            raise SettingError(
                f"method.window_range is {self.window_range}, and method.window {self.window}; give a smaller range"
            )
        if self.second_stage > self.third_stage:
            raise SettingError(
                f"method.second_stage is {self.second_stage}, after method.third_stage {self.third_stage}; exchange "
                "them"
            )

    @property
    def title(self) -> str:
        """RaT-BPTT or AT-BPTT."""
        return "at_bptt" if self.schedule == "adaptive" else self.name

    @property
    def longest(self) -> int:
        """The most steps that a window can have."""
        return self.window + (self.window_range if self.schedule == "adaptive" else 0)

    def build(self, task: Task) -> Method:
        """Build RaT-BPTT for a task, see `through_windows`."""
        return through_windows(task, self)


class Draw(NamedTuple):
    """All that is random about a student; a batch has R, a leading axis.

    Attributes:
        network: Key of θ_0.
        indices: `[T, b]` the distilled items of each step.
        keys: `[T]` keys of their augmentation.
        place: Key of where the window lies.
        stage: [] 0, 1 or 2, how far distillation has come.
        real: `[B]` the real examples at the window's end.
        real_key: Key of their augmentation.
    """

    network: Array
    indices: Array
    keys: Array
    place: Array
    stage: Array
    real: Examples
    real_key: Array


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        distilled: The set; its learning rate stays as it was.
        optimizer: State of the outer optimizers.
        norm: [] running mean of the gradient's norm, 0 before the first step.
    """

    distilled: Distilled
    optimizer: optax.OptState
    norm: Array


def placed(key: Array, norms: Array, stage: Array, config: Config) -> tuple[Array, Array]:
    """Place the window of the AT schedule by the norms of the gradients of a student's training.

    With `p = softmax(‖g_0‖ … ‖g_{T−1}‖)` and t ~ p:

        stage 0:  W* = W − d + ⌊2d · rank_t / T⌋, n = min(t, T − W*), where rank_t counts the steps whose change
                  |‖g_i‖ − ‖g_{i−1}‖| (0 for the first) is smaller than that of t
        stage 1:  W* = W + d, n uniform in {0 … T − W*}
        stage 2:  W* = W − d, n = max(T − t − W*, 0)

    Args:
        key: Draws t.
        norms: `[T]`.
        stage: [] 0, 1 or 2.
        config: W, d and T.

    Returns:
        n and W*, [] int32 each.

    References:
        [published] the code of AT-BPTT.
    """
    steps, window, d = config.student_steps, config.window, config.window_range
    drawn_key, uniform_key = jax.random.split(key)
    t = jax.random.categorical(drawn_key, norms)
    changes = jnp.abs(jnp.diff(norms, prepend=norms[:1]))
    rank = jnp.sum(changes < changes[t])
    sizes = jnp.array([0, window + d, window - d]).at[0].set(window - d + 2 * d * rank // steps)
    size = sizes[stage]
    anywhere = jax.random.randint(uniform_key, (), 0, steps - size + 1)
    begins = jnp.stack([jnp.minimum(t, steps - size), anywhere, jnp.maximum(steps - t - size, 0)])
    return begins[stage].astype(jnp.int32), size.astype(jnp.int32)


def through_windows(task: Task, config: Config) -> Method:
    """Build RaT-BPTT for a task.

    An outer step averages over R students the gradient, in the images (and labels, if they are learned), of their loss
    on B real examples at the end of the window, and follows it by the outer optimizer. It logs that loss, the norm of
    the gradient in the inputs, and where windows ended.

    Args:
        task: What students do.
        config: See `Config`.

    Returns:
        The method; it needs no experts, unless its labels are not hard.

    References:
        [published] arXiv 2311.07025, §4, and its code: Adam inside and outside, both batches augmented, gradients cut
        to twice the running mean of their norm, before the step of the optimizer. The published first set is noise of
        norm 1. [our choice] Mini-batches of a student, where there are any, come epoch by epoch from the whole set (the
        code draws as many of each class anew at each step). Real batches are drawn with replacement, and a window for
        each step (the code draws one for each epoch, or with `--complete_random` one for each step).
    """
    augment = dsa(config.augment, siamese=False)
    learned_labels = config.label_optimizer if config.labels == "learned" else None
    optimizer = outer_optimizer(config.image_optimizer, learned_labels)
    inside = config.student_optimizer
    student = optax.adam(inside.lr, eps_root=EPSILON_ROOT) if inside.name == "adam" else inside.build()

    def sample(key: Array, step: Array, sources: Sources) -> Draw:
        size = task.items(config.ipc)
        batch = min(config.batch or size, size)
        done = step / max(config.steps, 1)
        stage = jnp.int32(done >= config.second_stage) + jnp.int32(done >= config.third_stage)

        def draw(key: Array) -> Draw:
            network, items, augmented, place, real, real_key = jax.random.split(key, 6)
            return Draw(
                network,
                student_batches(items, size, batch, config.student_steps),
                jax.random.split(augmented, config.student_steps),
                place,
                stage,
                sampling.take(sources.examples, sampling.uniform(real, sources.examples, config.real_batch)),
                real_key,
            )

        return jax.vmap(draw)(jax.random.split(key, config.students))

    def train_step(distilled: Distilled, carry: PyTree, indices: Array, key: Array) -> tuple[PyTree, Array]:
        """Take one step of a student; also the norm of its gradient."""
        params, state = carry
        examples = task.examples(distilled, indices)
        examples = examples._replace(inputs=augment(key, examples.inputs))
        grads = jax.grad(mean_loss(task.losses, examples))(params)
        updates, state = student.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), optax.tree.norm(grads)

    def window_of(distilled: Distilled, draw: Draw, first: PyTree) -> tuple[Array, Array]:
        if config.schedule == "random":
            begin = jax.random.randint(draw.place, (), 0, config.student_steps - config.window + 1)
            return begin, jnp.int32(config.window)

        def step(carry: PyTree, drawn: tuple[Array, Array]) -> tuple[PyTree, Array]:
            return train_step(distilled, carry, *drawn)

        norms = jax.lax.scan(step, first, (draw.indices, draw.keys))[1]
        return placed(draw.place, norms, draw.stage, config)

    def objective(distilled: Distilled, draw: Draw) -> tuple[Array, dict[str, Array]]:
        params: Params = task.model.init(draw.network)
        first = (params, student.init(params))
        constant = jax.lax.stop_gradient(distilled)
        begin, size = window_of(constant, draw, first)

        def before(n: Array, carry: PyTree) -> PyTree:
            return train_step(constant, carry, draw.indices[n], draw.keys[n])[0]

        def within(carry: PyTree, n: Array) -> tuple[PyTree, None]:
            n = n - (config.longest - size)  # idle first: a truncated gradient is that of the last steps
            at = begin + jnp.maximum(n, 0)

            def go_on(carry: PyTree) -> PyTree:
                return train_step(distilled, carry, draw.indices[at], draw.keys[at])[0]

            if config.schedule == "random":
                return go_on(carry), None
            return jax.lax.cond(n >= 0, go_on, lambda carry: carry, carry), None

        carry = jax.lax.stop_gradient(jax.lax.fori_loop(0, begin, before, first))
        (params, _), _ = unroll(within, carry, jnp.arange(config.longest), how=config.unroll)
        real = draw.real._replace(inputs=augment(draw.real_key, draw.real.inputs))
        loss = mean_loss(task.losses, real)(params)
        return loss, {"loss": loss, "window_end": (begin + size).astype(loss.dtype)}

    def slope(draw: Draw, distilled: Distilled) -> tuple[Distilled, dict[str, Array]]:
        return jax.grad(objective, has_aux=True)(distilled, draw)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del key, sources
        return State(distilled, optimizer.init(distilled), jnp.zeros((), jnp.result_type(float)))

    def step(key: Array, state: State, batch: Draw) -> tuple[State, Scalars]:
        del key
        grads, observed = mean_over(slope, batch, state.distilled)
        found = optax.tree.norm(grads.inputs)
        kept, norm = config.clip_memory, state.norm
        norm = jnp.where(norm == 0, found, kept * norm + (1 - kept) * found).astype(norm.dtype)
        if config.clip is not None:
            share = jnp.minimum(1, config.clip * norm / jnp.maximum(found, jnp.finfo(found.dtype).tiny))
            grads = grads._replace(inputs=jax.tree.map(lambda g: (g * share).astype(g.dtype), grads.inputs))
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.distilled)
        new = State(optax.apply_updates(state.distilled, updates), optimizer_state, norm)
        return new, {**observed, "image_gradient": found}

    return Method(init, sample, step, lambda state: state.distilled)
