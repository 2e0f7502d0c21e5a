"""MTT: matching training trajectories (Cazenavette et al. 2022, arXiv 2203.11932), and the core of its family.

A student starts where an expert was at snapshot t, takes N SGD steps on the distilled set, and should arrive where the
expert was at snapshot t + M. The distilled images, the student's learning rate and, if asked, the labels are learned by
differentiating through the student's steps.

The family is made of choices: where students start (`Window`), how their steps are differentiated (`Unroll`; TESLA is
one way), at which step they are matched (`matched_step`; ATT), along which path (`path`; MCT), what labels they learn
(`labels`; DATM learns them), and how their distance from the target is measured (`relative_to`, and any `Metric`; IADD
and DDPP have their own).

Axis letters: R pairs, N student steps, b student mini-batch, M distilled items, P parameters.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled, named_lr
from jaxdd.core.matching import parameter_distance
from jaxdd.core.parallel import mean_over
from jaxdd.core.tasks import Task, mean_loss
from jaxdd.core.training import batching, shuffle
from jaxdd.core.unroll import Unroll, inner_sgd, sgd_step
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Window
from jaxdd.methods.base import Method, MethodConfig, Optimizer, Sources, outer_transforms
from jaxdd.settings import AtLeast, Positive
from jaxdd.types import Array, Params, Scalars, Snapshots


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of MTT."""

    name: ClassVar[str] = "mtt"
    student_steps: Annotated[int, AtLeast(1)] = 20
    """N, SGD steps of the student on the distilled set."""
    expert_snapshots: Annotated[int, AtLeast(1)] = 4
    """How many snapshots ahead of its start the student's target is (the paper's M, in epochs)."""
    batch: Annotated[int | None, AtLeast(1)] = None
    """Largest mini-batch of the student, drawn without replacement; the whole distilled set by default."""
    pairs: Annotated[int, AtLeast(1)] = 1
    """R, pairs of a start and its target per outer step; their gradients are averaged."""
    student_lr: Annotated[float, Positive] = 0.1
    """First value of the student's learning rate, which is learned."""
    lr_optimizer: Optimizer = Optimizer("sgd", 1e-3, 0.5)
    """Optimizer of the student's learning rate."""
    loss_threshold: Annotated[float | None, Positive] = None
    """Outer steps whose loss exceeds this change nothing, and those of students that diverge, whose loss is logged as
    the largest number; none is left out by default."""
    window: Window = Window(start=12)
    """Snapshots that a student may start from."""
    matched_step: Literal["last", "nearest"] = "last"
    """Step of the student at which it is matched: the last, or, of all N, the one that ends nearest to the target
    (ATT); such a student is trained twice, the first time without a gradient."""
    path: Literal["recorded", "chord"] = "recorded"
    """The path on which starts and targets lie: the recorded snapshots, or, for MCT, the straight line from the first
    to the last snapshot that the window and `expert_snapshots` reach, on which starts lie between snapshots, too."""
    relative_to: Literal["network", "branches"] = "network"
    """Of what the expert's path is measured, to which the distance is relative: the network as one vector, or each of
    its branches, such as two encoders, whose relative distances are added (published for image–text pairs)."""
    lr_of: Literal["network", "branches"] = "network"
    """Of what a learning rate is learned: the network, or each of its branches (published for image–text pairs)."""
    unroll: Unroll = Unroll()
    """How to differentiate through the student's steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative_to != "network" and type(self).build is not Config.build:
            raise SettingError(
                f"method.relative_to is {self.relative_to!r}, and {self.name} measures distances in its own way: leave "
                "it out, or choose mtt"
            )
        if self.matched_step == "nearest" and self.unroll.mode == "truncated":
            raise SettingError(
                "method.matched_step is 'nearest' and method.unroll.mode 'truncated', which differentiates the last "
                "steps, taken or not: choose another mode, such as segmented"
            )

    @property
    def snapshots_needed(self) -> int:
        """The last start's target: as many snapshots as each expert must have."""
        return self.window.last + self.expert_snapshots

    @property
    def needs_real(self) -> bool:
        """Never: all that the steps know of the real data is how the experts went."""
        return False

    def build(self, task: Task) -> Method:
        """Build MTT for a task, see `matching_trajectories`."""
        return matching_trajectories(task, self, MTT if self.relative_to == "network" else of_branches(task))


class Variables(NamedTuple):
    """What is learned.

    Attributes:
        distilled: The distilled set; its `lr` is the unconstrained ρ of `positive_lr`.
        importance: The metric's own variables, `()` for none.
    """

    distilled: Distilled
    importance: Params


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        variables: What is learned.
        optimizer: State of the outer optimizers.
    """

    variables: Variables
    optimizer: optax.OptState


class Pair(NamedTuple):
    """Where a student starts, where it should arrive, and what it draws on the way; a batch has R, a leading axis.

    Attributes:
        start: θ^t of an expert.
        target: θ^{t+M} of the same expert.
        indices: `[N, b]` the distilled items of each student step.
        keys: `[N]` keys of the augmentation of each student step.
        along: `[2]`, where `start` and `target` are the two ends of a chord: how far along it the pair lies, from 0
            to 1; None where they are the pair.
    """

    start: Snapshots
    target: Snapshots
    indices: Array
    keys: Array
    along: Array | None = None


class Metric(NamedTuple):
    """How the distance between a student and its target is measured.

    Attributes:
        distance: `(importance, student [P], pair) -> scalar`.
        importance: `() -> value`, the first one of the variables that are learned with the distilled set; `()` if none.
        optimizer: Of these; without one they stay as they are.
        observe: `(importance, student [P], pair) -> {name: scalar}`, to log beside the usual three.
    """

    distance: Callable[[Params, Array, Pair], Array]
    importance: Callable[[], Params] = tuple
    optimizer: optax.GradientTransformation = optax.set_to_zero()
    observe: Callable[[Params, Array, Pair], dict[str, Array]] = lambda importance, student, pair: {}


def unweighted(importance: Params, student: Array, pair: Pair) -> Array:
    """Measure MTT's distance, `‖θ̂ − θ^{t+M}‖² / ‖θ^t − θ^{t+M}‖²`, whatever the importance."""
    del importance
    return parameter_distance(student, pair.target.params, pair.start.params)


MTT = Metric(unweighted)


def branches(task: Task) -> dict[str, int]:
    """Say where the parameters of each branch of a network end in the vector of all.

    A branch is what has one name at the top of the parameters, such as `image` and `text` of two encoders.
    """
    names = [name.split("/")[0] for name in task.tensors]
    return {name: int(end) for name, end in zip(names, np.cumsum([*task.tensors.values()]), strict=True)}


def of_branches(task: Task) -> Metric:
    """Build `Σ_b ‖θ̂_b − θ_b^{t+M}‖² / ‖θ_b^t − θ_b^{t+M}‖²` over the `branches` b of a network.

    References:
        [published] for the image encoder and the text projection: VL-distill, Wu et al. 2024, arXiv 2308.07545.
    """
    cuts = [*branches(task).values()][:-1]

    def distance(importance: Params, student: Array, pair: Pair) -> Array:
        del importance
        vectors = (student, pair.target.params, pair.start.params)
        parts = zip(*(jnp.split(vector, cuts) for vector in vectors), strict=True)
        return sum((parameter_distance(*part) for part in parts), start=jnp.zeros((), student.dtype))

    return Metric(distance)


def on_chord(pair: Pair) -> Pair:
    """Take the points of a chord for a pair's start and target.

    `θ(u) = θ^a + u (θ^b − θ^a)` at the two u of `pair.along`.

    Args:
        pair: Its `start` is the end θ^a of the chord and its `target` the end θ^b.

    Returns:
        The pair between them; the position of its start is still that of θ^a.

    References:
        [published] MCT, Zhong et al. 2024, arXiv 2406.19827: convex combinations of two snapshots in place of the
        recorded path, any of which may be a start. [our choice] time along the chord is that of the snapshots; the
        paper's goes as fast as the expert went.
    """
    if pair.along is None:
        return pair
    a, b = pair.start.params, pair.target.params
    start, target = (a + u * (b - a) for u in pair.along)
    return pair._replace(
        start=pair.start._replace(params=start), target=pair.target._replace(params=target), along=None
    )


def positive_lr(raw: Array, lr0: float) -> Array:
    """Map an unconstrained ρ to a positive learning rate: `α = s · softplus(ρ / s)` with `s = lr0 / 4`.

    Near lr0 and above it α ≈ ρ, so that published learning rates of α carry over; below, α tends to 0 but never
    reaches it. [our choice] The published code optimizes α itself, which can turn negative.
    """
    scale = lr0 / 4
    return scale * jax.nn.softplus(raw / scale)


def raw_lr(lr: Array, lr0: float) -> Array:
    """Invert `positive_lr`: `ρ = s · log(exp(α / s) − 1)`."""
    scale = lr0 / 4
    return lr + scale * jnp.log(-jnp.expm1(-lr / scale))


def student_trainer(task: Task, config: Config) -> Callable[[Distilled, Pair], tuple[Array, dict[str, Array]]]:
    """Build the training of a student, `θ_{n+1} = θ_n − α ∇ℓ(θ_n; A(S_n))` for n = 0 … N−1 from `θ_0 = θ^t`.

    Args:
        task: Its network and losses.
        config: The augmentation A, which step is matched, and how to differentiate through the N steps.

    Returns:
        `(S with α as its lr, pair) -> (θ̂ [P], {name: scalar})`: θ_N, or the nearest θ_n with n ≥ 1 to θ^{t+M}; what to
        log are the loss before the step that leads there, and n if it is not N.

    References:
        [published] arXiv 2203.11932, Algorithm 1; the nearest step: ATT, Liu et al. 2024, arXiv 2407.14245. [derived]
        its gradient as that of N steps of which those behind n do not move.
    """
    augment = dsa(config.augment, siamese=False)

    def loss_on(distilled: Distilled, params: Params, indices: Array, key: Array) -> Array:
        examples = task.examples(distilled, indices)
        return mean_loss(task.losses, examples._replace(inputs=augment(key, examples.inputs)))(params)

    def steps_to_nearest(distilled: Distilled, pair: Pair) -> Array:
        move = sgd_step(lambda params, draw: loss_on(distilled, params, *draw), distilled.lr)

        def step(params: Params, draw: tuple[Array, Array]) -> tuple[Params, Array]:
            params, _ = move(params, draw)
            gap = ravel_pytree(params)[0] - pair.target.params
            return params, jnp.vdot(gap, gap)

        distances = jax.lax.scan(step, task.unravel(pair.start.params), (pair.indices, pair.keys))[1]
        return jnp.argmin(jnp.where(jnp.isnan(distances), jnp.inf, distances)) + 1  # it may diverge behind its target

    def train(distilled: Distilled, pair: Pair) -> tuple[Array, dict[str, Array]]:
        draws: tuple[Array, ...] = (pair.indices, pair.keys)
        if config.matched_step == "nearest":
            matched = steps_to_nearest(jax.lax.stop_gradient(distilled), pair)
            draws = (*draws, jnp.arange(len(pair.indices)) < matched)

        def student_loss(params: Params, draw: tuple[Array, ...]) -> Array:
            indices, key, *taken = draw
            loss = loss_on(distilled, params, indices, key)
            return jnp.where(taken[0], loss, 0) if taken else loss

        student, history = inner_sgd(
            student_loss, task.unravel(pair.start.params), draws, distilled.lr, how=config.unroll
        )
        if config.matched_step == "nearest":
            observed = {"student_loss": history[matched - 1], "matched_step": matched.astype(history.dtype)}
        else:
            observed = {"student_loss": history[-1]}
        return ravel_pytree(student)[0], observed

    return train


def student_batches(key: Array, size: int, batch: int, steps: int) -> Array:
    """Draw the mini-batches of `steps` student steps from `size` items, epoch by epoch: indices `[steps, b]`."""
    per_epoch = batching(size, batch)[0]
    epochs = -(-steps // per_epoch)
    batches = jax.vmap(lambda key: shuffle(key, size, batch))(jax.random.split(key, epochs))
    return batches.reshape(epochs * per_epoch, -1)[:steps]


def matching_trajectories(task: Task, config: Config, metric: Metric) -> Method:
    """Build the member of MTT's family that measures distances by a metric.

    An outer step averages the gradients of `metric.distance` over its R pairs with respect to the inputs, the labels if
    they are learned, α, and the importance if there is any; then each takes a step of its own optimizer. It logs the
    matching loss, the student's learning rate, its loss before step N, and what the metric observes.

    Args:
        task: What experts and students do.
        config: See `Config`.
        metric: The distance; `MTT` is that of MTT.

    Returns:
        The method; its sources need trajectories of at least `config.snapshots_needed` snapshots, and no real data.
    """
    if config.lr_of == "branches" and task.classes is not None:
        raise SettingError(
            f"method.lr_of is 'branches', and the network of the task {task.name!r} is one: leave it out, or use "
            "jaxdd.retrieval, with encoders of images and of texts"
        )
    train_student = student_trainer(task, config)
    learned_labels = config.label_optimizer if config.labels == "learned" else None
    optimizer = optax.partition(
        {
            **outer_transforms(config.image_optimizer, learned_labels, config.lr_optimizer),
            "importance": metric.optimizer,
        },
        Variables(Distilled._make(Distilled._fields), "importance"),
    )

    def learned(distilled: Distilled) -> Distilled:
        return distilled._replace(lr=jax.tree.map(lambda raw: positive_lr(raw, config.student_lr), distilled.lr))

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del key, sources
        raw = raw_lr(jnp.full_like(jax.tree.leaves(distilled.lr)[0], config.student_lr), config.student_lr)
        lr = raw if config.lr_of == "network" else dict.fromkeys(branches(task), raw)
        variables = Variables(distilled._replace(lr=lr), metric.importance())
        return State(variables, optimizer.init(variables))

    def sample(key: Array, step: Array, sources: Sources) -> Pair:
        trajectories, size = sources.experts, task.items(config.ipc)
        expert_key, start_key, batch_key, augment_key = jax.random.split(key, 4)
        expert = jax.random.randint(expert_key, (config.pairs,), 0, trajectories.num_experts)
        start = config.window.sample(start_key, step, config.steps, (config.pairs,))
        batch = min(config.batch or size, size)
        target, along = start + config.expert_snapshots, None
        if config.path == "chord":
            first, length = config.window.first, config.snapshots_needed - 1 - config.window.first
            back = jax.random.uniform(jax.random.fold_in(start_key, 1), start.shape)
            between = jnp.maximum(start - back, first)  # anywhere between the drawn snapshot and the one before
            along = jnp.stack([between - first, between - first + config.expert_snapshots], axis=-1) / length
            start, target = jnp.full_like(start, first), jnp.full_like(start, first + length)
        return Pair(
            Snapshots(expert, start),
            Snapshots(expert, target),
            jax.vmap(lambda key: student_batches(key, size, batch, config.student_steps))(
                jax.random.split(batch_key, config.pairs)
            ),
            jax.random.split(augment_key, (config.pairs, config.student_steps)),
            along,
        )

    def objective(variables: Variables, pair: Pair) -> tuple[Array, dict[str, Array]]:
        student, trained = train_student(learned(variables.distilled), pair)
        loss = metric.distance(variables.importance, student, pair)
        observed = metric.observe(variables.importance, student, pair)
        return loss, {"loss": loss, **trained, **observed}

    def slope(pair: Pair, variables: Variables) -> tuple[Variables, dict[str, Array]]:
        return jax.grad(objective, has_aux=True)(variables, on_chord(pair))

    def step(key: Array, state: State, batch: Pair) -> tuple[State, Scalars]:
        del key
        grads, observed = mean_over(slope, batch, state.variables)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.variables)
        new = State(optax.apply_updates(state.variables, updates), optimizer_state)
        if config.loss_threshold is not None:
            near = observed["loss"] <= config.loss_threshold  # not that of a student that diverged, which is NaN
            new = jax.tree.map(lambda x, y: jnp.where(near, x, y), new, state)
            observed = jax.tree.map(lambda x: jnp.nan_to_num(x, nan=jnp.finfo(x.dtype).max), observed)
        return new, {**observed, **named_lr(learned(new.variables.distilled).lr, "student_lr")}

    def warn(info: Mapping[str, float]) -> dict[str, str]:
        found = {}
        slowest = min(value for name, value in info.items() if name.startswith("student_lr"))
        if slowest < config.student_lr / 100:
            found["student_lr"] = (
                f"the student's learning rate has fallen from {config.student_lr:g} to {slowest:.2g}: students hardly "
                "move; lower method.lr_optimizer.lr or raise method.student_lr"
            )
        if config.loss_threshold is not None and info["loss"] > config.loss_threshold:
            found["loss_threshold"] = (
                f"the loss is {info['loss']:.2g}, above method.loss_threshold={config.loss_threshold:g}: such steps "
                "change nothing; lower method.student_lr or raise the threshold"
            )
        return found

    return Method(init, sample, step, lambda state: learned(state.variables.distilled), warn=warn)
