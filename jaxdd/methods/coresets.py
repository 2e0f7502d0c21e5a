"""Coresets: real images, chosen; the baseline of every method and the first value of its distilled set.

Axis letters: M distilled items, C classes, N real examples, n largest class, F features, E experts.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods.base import Method, MethodConfig, Sources
from jaxdd.settings import AtLeast
from jaxdd.types import Array, Examples, Params, PyTree, Scalars


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of a coreset: `init` says which; there is nothing to optimize."""

    name: ClassVar[str] = "coresets"
    steps: Annotated[int, AtLeast(0)] = 0
    """Outer steps: none, the selection is the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "noise":
            raise SettingError(
                "method.init is 'noise'; a coreset is made of real images: real, correct, herding or k_center"
            )

    @property
    def needs_experts(self) -> bool:
        """Whether an expert is needed for the features or the labels."""
        return super().needs_experts or self.init in ("herding", "k_center")

    def build(self, task: Task) -> Method:
        """Build the method whose distilled set is its first value; it logs a loss of 0."""
        del task

        def step(key: Array, state: State, batch: tuple[()]) -> tuple[State, Scalars]:
            del key, batch
            return state, {"loss": jnp.zeros(())}

        return Method(
            init=lambda key, distilled, sources: State(distilled),
            sample=lambda key, step, sources: (),
            step=step,
            distilled=lambda state: state.distilled,
        )


class State(NamedTuple):
    """The selection."""

    distilled: Distilled


def herding(features: Array, valid: Array, count: int) -> Array:
    """Select greedily so that the mean of the selection follows the mean of the class.

    `i_k = argmin_i ‖ μ − (1/k) (f_i + Σ_{j<k} f_{i_j}) ‖` over the examples not chosen yet.

    Args:
        features: `[n, F]`.
        valid: `[n]` bool, False where a row is padding.
        count: How many to select.

    Returns:
        int32 `[count]` rows.

    References:
        [published] Herding Dynamical Weights to Learn, Welling 2009; as a coreset, iCaRL, Rebuffi et al. 2017,
        arXiv 1611.07725, Algorithm 4.
    """
    mean = jnp.sum(jnp.where(valid[:, None], features, 0), axis=0) / jnp.sum(valid)

    def choose(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        total, free, chosen = carry
        distance = jnp.sum((mean[None] - (features + total[None]) / (k + 1)) ** 2, axis=-1)
        best = jnp.argmin(jnp.where(free, distance, jnp.inf)).astype(jnp.int32)
        return total + features[best], free.at[best].set(False), chosen.at[k].set(best)

    carry = (jnp.zeros_like(mean), valid, jnp.zeros((count,), jnp.int32))
    return jax.lax.fori_loop(0, count, choose, carry)[2]


def k_center(features: Array, valid: Array, count: int) -> Array:
    """Select greedily the example farthest from all selected ones, beginning with the one nearest to the class mean.

    `i_k = argmax_i min_{j<k} ‖ f_i − f_{i_j} ‖`

    Args:
        features: `[n, F]`.
        valid: `[n]` bool, False where a row is padding.
        count: How many to select.

    Returns:
        int32 `[count]` rows.

    References:
        [published] Active Learning for Convolutional Neural Networks: A Core-Set Approach, Sener & Savarese 2018,
        arXiv 1708.00489, Algorithm 1; [our choice] the first one.
    """
    mean = jnp.sum(jnp.where(valid[:, None], features, 0), axis=0) / jnp.sum(valid)

    def distance_to(center: Array) -> Array:
        return jnp.where(valid, jnp.sum((features - center[None]) ** 2, axis=-1), -jnp.inf)

    first = jnp.argmin(jnp.where(valid, distance_to(mean), jnp.inf)).astype(jnp.int32)

    def choose(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        nearest, chosen = carry
        best = jnp.argmax(nearest).astype(jnp.int32)
        # Never again, even where only copies of what was selected are left.
        nearest = jnp.minimum(nearest, distance_to(features[best])).at[best].set(-jnp.inf)
        return nearest, chosen.at[k].set(best)

    chosen = jnp.zeros((count,), jnp.int32).at[0].set(first)
    nearest = distance_to(features[first]).at[first].set(-jnp.inf)
    return jax.lax.fori_loop(1, count, choose, (nearest, chosen))[1]


GREEDY: dict[str, Callable[[Array, Array, int], Array]] = {"herding": herding, "k_center": k_center}


def select(name: str, key: Array, task: Task, sources: Sources, ipc: int) -> Array:
    """Choose ipc real examples of every class, or of all where there are no classes.

    Args:
        name: `real` (at random), `correct` (at random among those that the first expert classifies right, and others
            only where a class has too few), `herding` or `k_center`.
        key: Draws the random ones.
        task: Its network gives the features and the classes.
        sources: The real set; its first expert's last parameters give the features, inputs where there are no experts.
        ipc: Examples per class.

    Returns:
        int32 `[C, ipc]` indices into the real set, without repetition.

    References:
        [published] correct: DATM, arXiv 2310.05773; [our choice] by which expert, and what if there are too few.
    """
    real = sources.examples
    if name == "real":
        return sampling.balanced(key, real, ipc)
    if name == "correct":
        params = task.unravel(sources.experts.final[0])
        found = _of_all(task, real, params, lambda params, inputs: jnp.argmax(task.model.apply(params, inputs), -1))
        return sampling.balanced(key, real, ipc, preferred=found == real.targets)
    trajectories = sources.trajectories
    params = None if trajectories is None else task.unravel(trajectories.final[0])
    return by_features(name, real, real_features(task, real, params), ipc)


def by_features(name: str, real: RealSet, features: Array, ipc: int) -> Array:
    """Choose ipc examples of every class, or of all where there are no classes, by their features.

    Args:
        name: `herding` or `k_center`.
        real: The real set.
        features: `[N, F]`.
        ipc: Examples per class.

    Returns:
        int32 `[C, ipc]` indices into the real set, without repetition.
    """
    positions = jnp.arange(real.groups.table.shape[1])

    def of_class(entry: tuple[Array, Array]) -> Array:
        rows, size = entry
        return rows[GREEDY[name](features[rows], positions < size, ipc)]

    return jax.lax.map(of_class, tuple(jnp.asarray(x) for x in real.groups))


def real_features(task: Task, real: RealSet, params: Params | None) -> Array:
    """Compute the features `[N, F]` of every real example by a network, or its inputs where there are no parameters."""
    if params is None:
        return sampling.over_all(_flat_inputs, real)
    return _of_all(task, real, params, task.model.features)


def _of_all(task: Task, real: RealSet, params: Params, function: Callable[[Params, PyTree], Array]) -> Array:
    """Apply `(params, inputs) -> [B, *]` to every example; batches are alike on any devices where they matter."""
    by_batch = task.model.observe is not None
    return sampling.over_all(lambda examples, params: function(params, examples.inputs), real, params, exact=by_batch)


def _flat_inputs(examples: Examples) -> Array:
    count = len(examples.indices)
    return jnp.concatenate([leaf.reshape(count, -1) for leaf in jax.tree.leaves(examples.inputs)], axis=-1)


def check_features(task: Task, real: RealSet) -> None:
    """Refuse a network without features for what reads them, before anything is trained; nothing is computed.

    Raises:
        SettingError: It has none.
    """

    def features(key: Array, real: RealSet) -> Array:
        return task.model.features(task.model.init(key), sampling.take(real, jnp.zeros(1, jnp.int32)).inputs)

    if not callable(task.model.features):
        raise SettingError("the network has no features, and features are asked for: give its jaxdd.Model a function")
    jax.eval_shape(features, jax.random.key(0), real)


def check_first(task: Task, config: MethodConfig) -> None:
    """Refuse first items and labels that a task does not have, before experts are trained for them.

    Args:
        task: What the networks do.
        config: `init`, `labels` and `teachers`.

    Raises:
        SettingError: `correct` or `right` and the task has no classes, or `soft` where outputs are no labels.
    """
    if config.labels == "soft" and not task.soft_labels:
        raise SettingError(
            f"method.labels is 'soft', what experts say of an item, and in the task {task.name!r} that is no label; "
            "choose hard, or learned"
        )
    if task.classes is not None:
        return
    if config.init == "correct":
        raise SettingError(f"method.init is 'correct', but the task {task.name!r} has no classes; choose real")
    if config.labels != "hard" and task.soft_labels and config.teachers == "right":
        raise SettingError(f"method.teachers is 'right', but the task {task.name!r} has no classes; choose all")


@partial(jax.jit, static_argnames=("task", "config", "lr"))
def initial_distilled(
    key: Array,
    task: Task,
    sources: Sources,
    config: MethodConfig,
    *,
    lr: float,
    choosing: Trajectories | None = None,
) -> Distilled:
    """Return the distilled set before the first step, items of each class in the order of the classes.

    Args:
        key: Draws the real examples or the noise.
        task: Its network gives features for coresets, and outputs for soft labels.
        sources: The real set, and the experts for soft labels and coresets in feature space.
        config: `items_per_class`, `init`, `labels` and `teachers` say what to do.
        lr: The learning rate to record with the set, where the method learns none.
        choosing: The experts that real examples are chosen by, those of the sources by default.

    Returns:
        Inputs `[M, *]`, labels `[M, *]` and the learning rate. Noise has the labels of random real examples, and is
        itself of mean 0 and standard deviation 1.

    Raises:
        ValueError: Soft labels without experts, or see `check_first`.

    References:
        [published] labels from the final expert: Inf-Match; the mean logits of the experts that are right: DATM (arXiv
        2310.05773). [our choice] of all experts where none is.
    """
    check_first(task, config)
    real, trajectories = sources.examples, sources.trajectories
    noise = config.init == "noise"
    choice = ("real", jax.random.fold_in(key, 1)) if noise else (config.init, key)
    choosers = sources if choosing is None else sources._replace(trajectories=choosing)
    chosen = select(*choice, task, choosers, config.items_per_class)
    examples = sampling.take(real, chosen.reshape(-1))
    inputs, labels = examples.inputs, task.labels(examples.targets)
    if noise:
        inputs = _noise_like(key, inputs)
    if config.labels != "hard" and task.soft_labels:
        if trajectories is None:
            raise SettingError(f"method.labels={config.labels!r} starts from the experts' logits; train experts first")
        outputs = final_outputs(task, trajectories, inputs)
        labels = _of_the_right(outputs, examples) if config.teachers == "right" else _mean(outputs)
    return Distilled(inputs, labels, jnp.asarray(lr, jnp.result_type(float)))


def _mean(outputs: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), outputs)


def _of_the_right(logits: Array, examples: Examples) -> Array:
    """Average logits `[E, B, C]` over the experts that classify an example right, over all where none does."""
    right = jnp.argmax(logits, -1) == jnp.argmax(examples.targets, -1)[None]
    counts = right | ~right.any(0, keepdims=True)
    return jnp.sum(counts[:, :, None] * logits, axis=0) / jnp.sum(counts, axis=0)[:, None]


def _noise_like(key: Array, inputs: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(inputs)
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def final_outputs(task: Task, trajectories: Trajectories, inputs: PyTree) -> PyTree:
    """Apply every expert's last parameters to `inputs [B, *]`: outputs `[E, B, *]`, logits of a classifier."""
    return jax.lax.map(lambda flat: task.model.apply(task.unravel(flat), inputs), jnp.asarray(trajectories.final))
