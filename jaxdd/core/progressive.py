"""Sets made in stages (PDD): the task of networks that have learned the earlier stages of a set.

Stage p adds images to those of the stages before, which stay as they are, so that a network which has been trained on
the union of stage p − 1 learns from the union of stage p what it does not know yet:

    S_p = argmin_S  L(S_1 ∪ … ∪ S_{p−1} ∪ S; θ_{p−1}),    θ_p = train(θ_{p−1}; S_1 ∪ … ∪ S_p),    θ_0 fresh

Nothing of a method is changed. What changes is the task: its networks begin at θ_{p−1}, which experts, matching and
evaluation all ask `Model.init` for, and its examples carry no gradient to images of earlier stages.

Axis letters: M distilled items, P stages.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.distilled import Distilled
from jaxdd.core.tasks import Task
from jaxdd.core.training import Recipe, train
from jaxdd.errors import SettingError
from jaxdd.types import Array, Examples, Params, PyTree


def after(
    task: Task,
    earlier: Distilled,
    per_class: int,
    recipe: Recipe,
    begin: Callable[[Array], Params] | None = None,
) -> Task:
    """Pose a task to networks that an earlier set has trained.

    Args:
        task: The task, as it was before all stages.
        earlier: The set that they are then trained on, constant.
        per_class: How many items of each class the set of the new task has: the first of them are the earlier ones.
        recipe: That training; the learning rate is the set's.
        begin: `(key) -> params`, how networks begin before it; as the task's do by default.

    Returns:
        The task. `model.init` trains a network, whole, and `examples` stops gradients to the earlier items, so that an
        optimizer without weight decay leaves them as they are.

    References:
        [published] PDD, Chen et al. 2024, ICLR. [derived] as a change of the task.
    """
    constant = jax.tree.map(np.asarray, earlier)
    kept, begin = earlier.size // task.items(1), begin or task.model.init

    def init(key: Array) -> Params:
        init_key, train_key = jax.random.split(key)
        begun = jax.tree.map(jnp.asarray, constant)
        fetch = partial(task.examples, begun)
        return train(train_key, begin(init_key), task.losses, fetch, earlier.size, recipe, lr=begun.lr)[0]

    def examples(distilled: Distilled, indices: Array) -> Examples:
        first = jnp.arange(distilled.size) % per_class < kept

        def held(x: Array) -> Array:
            mask = first.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(mask, jax.lax.stop_gradient(x), x)

        inputs, labels = (jax.tree.map(held, tree) for tree in (distilled.inputs, distilled.labels))
        return task.examples(distilled._replace(inputs=inputs, labels=labels), indices)

    return dataclasses.replace(task, model=task.model._replace(init=init), examples=examples)


def after_stages(task: Task, distilled: Distilled, learning_rates: Sequence[PyTree], recipe: Recipe) -> Task:
    """Pose a task to networks that have learned all stages of a set but the last: training on the set ends theirs.

    Args:
        task: The task, as it was before all stages.
        distilled: The set, of all stages; of each class the items of the first stage come first.
        learning_rates: Of each of P stages, `[]` or those of the branches of the network; the last one is not used.
        recipe: The training on each union.

    Returns:
        The task; for one stage, the task itself.

    Raises:
        SettingError: The items of a class do not divide by the number of stages.

    References:
        [published] PDD, Chen et al. 2024, ICLR, trains so to evaluate.
    """
    stages, classes = len(learning_rates), task.items(1)
    check_stages(stages, distilled.size // classes, "the set has items of each class")
    added, posed = distilled.size // classes // stages, task
    for stage, lr in enumerate(learning_rates[:-1], start=1):
        first = partial(_first_of_class, classes=classes, count=stage * added)
        earlier = Distilled(jax.tree.map(first, distilled.inputs), jax.tree.map(first, distilled.labels), lr)
        posed = after(task, earlier, (stage + 1) * added, recipe, posed.model.init)
    return posed


def union(earlier: Distilled, whole: Distilled, classes: int) -> Distilled:
    """Put earlier items in the place of the first ones of their class; the learning rate is that of the whole set."""

    def joined(x: Array, y: Array) -> Array:
        first, all_of_class = (a.reshape(classes, -1, *a.shape[1:]) for a in (x, y))
        return jnp.concatenate([first, all_of_class[:, first.shape[1] :]], axis=1).reshape(y.shape)

    inputs = jax.tree.map(joined, earlier.inputs, whole.inputs)
    return Distilled(inputs, jax.tree.map(joined, earlier.labels, whole.labels), whole.lr)


def check_stages(stages: int, items: int, what: str) -> None:
    """Refuse a number of stages that items of a class cannot be made in.

    Raises:
        SettingError: It is below one, or does not divide their number.
    """
    if stages < 1 or items % stages:
        raise SettingError(f"stages is {stages}, and {what}: {items}, which does not divide by it; change one of them")


def _first_of_class(x: Array, classes: int, count: int) -> np.ndarray:
    return np.asarray(x).reshape(classes, -1, *x.shape[1:])[:, :count].reshape(-1, *x.shape[1:])
