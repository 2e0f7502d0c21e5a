"""Progressive distillation: set after set, each for networks that the sets before have trained (PDD).

Stage p adds images to those of the stages before, which stay as they are, so that a network which has been trained on
the union of stage p − 1 learns from the union of stage p what it does not know yet:

    S_p = argmin_S  L(S_1 ∪ … ∪ S_{p−1} ∪ S; θ_{p−1}),    θ_p = train(θ_{p−1}; S_1 ∪ … ∪ S_p),    θ_0 fresh

Nothing of a method is changed. What changes is the task: its networks begin at θ_{p−1}, which experts, matching and
evaluation all ask `Model.init` for, and its examples carry no gradient to images of earlier stages.

Axis letters: M distilled items, P stages.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core.distilled import Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import over_devices, to_host
from jaxdd.core.tasks import Task
from jaxdd.core.training import Recipe, train
from jaxdd.data import Data
from jaxdd.driver import Outcome, distill
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.methods import MethodConfig, Sources, initial_distilled
from jaxdd.types import Array, Examples, Params


class Progress(NamedTuple):
    """What progressive distillation ends with.

    Attributes:
        distilled: The union of all stages; of each class, the items of the first stage come first.
        task: The task whose networks have been trained on the stages before the last: `jaxdd.evaluate` with it and
            `distilled` is the progressive evaluation.
        outcomes: Of each stage, P of them.
    """

    distilled: Distilled
    task: Task
    outcomes: tuple[Outcome, ...]


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


def union(earlier: Distilled, new: Distilled, classes: int) -> Distilled:
    """Put the items of a new set behind the earlier ones of their class; the learning rate is the new one."""

    def joined(x: Array, y: Array) -> Array:
        parts = [a.reshape(classes, -1, *a.shape[1:]) for a in (x, y)]
        return jnp.concatenate(parts, axis=1).reshape(-1, *x.shape[1:])

    inputs = jax.tree.map(joined, earlier.inputs, new.inputs)
    return Distilled(inputs, jax.tree.map(joined, earlier.labels, new.labels), new.lr)


@over_devices()
def progressive(
    task: Task,
    dataset: Data,
    config: MethodConfig,
    experts: ExpertsConfig | None = None,
    *,
    stages: int = 5,
    recipe: Recipe | None = None,
    seed: int = 0,
    evaluate: EvaluateConfig = EvaluateConfig(),
    **hooks: Any,
) -> Progress:
    """Distill in stages, see the module.

    Args:
        task: What networks do.
        dataset: The real data.
        config: The method; its `ipc` is that of all stages together, and a multiple of their number.
        experts: How experts of each stage are trained, for a method that needs some: from the parameters that the
            stages before end with.
        stages: P (published: 5).
        recipe: How networks are trained on each union; that of evaluation by default.
        seed: Root of the randomness.
        evaluate: How sets are scored on the validation split, by networks of their stage.
        hooks: See `jaxdd.distill`; without checkpoints, for each stage is a run of its own.

    Returns:
        The union of all stages, and the task to evaluate it with.

    Raises:
        SettingError: `ipc` does not divide, experts are needed and none described, or checkpoints are given.

    References:
        [published] PDD, Chen et al. 2024, ICLR (around MTT and IDC): five stages, earlier images fixed, experts from
        networks trained on them, evaluation on growing unions. [our choice] each stage's set is the best one on the
        validation split.
    """
    if stages < 1 or config.ipc % stages:
        raise SettingError(f"stages is {stages}, and method.ipc {config.ipc} does not divide by it; change one of them")
    if config.needs_experts and experts is None:
        raise SettingError(f"{config.name} needs experts, of each stage: give experts=ExpertsConfig(…)")
    if "checkpoints" in hooks:
        raise SettingError("one folder of checkpoints cannot serve several stages, each a run of its own; leave it out")
    added, recipe, now = config.ipc // stages, recipe or evaluate.recipe, task
    earlier: Distilled | None = None
    outcomes: list[Outcome] = []
    for stage in range(1, stages + 1):
        whole = dataclasses.replace(config, ipc=stage * added)
        if earlier is not None:
            now = after(task, earlier, whole.items_per_class, recipe, now.model.init)
        trajectories = None
        if config.needs_experts:
            assert experts is not None
            trajectories = train_experts(now, dataset, experts, seed=seed + stage - 1)
        part = dataclasses.replace(config, ipc=added)
        key, sources = stage_key(seed + stage - 1, "initial"), Sources(dataset.real_set(), trajectories)
        new = to_host(initial_distilled(key, now, sources, part, lr=evaluate.recipe.lr))
        outcome = distill(
            now,
            dataset,
            whole,
            trajectories,
            initial=new if earlier is None else to_host(union(earlier, new, task.items(1))),
            seed=seed,
            evaluate=evaluate,
            **hooks,
        )
        outcomes.append(outcome)
        earlier = outcome.distilled
    assert earlier is not None
    return Progress(earlier, now, tuple(outcomes))
