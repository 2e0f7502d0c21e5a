"""Evaluation: fresh networks trained on a set, scored by their accuracy after the last epoch.

Axis letters: R networks, M distilled items, N real examples, C classes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import map_over, over_devices, replicate, to_host
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, check_task
from jaxdd.core.training import Recipe, batching, train
from jaxdd.data import Data, check_data
from jaxdd.errors import Diverged
from jaxdd.io.progress import progress_bar
from jaxdd.settings import AtLeast, Settings, check_argument
from jaxdd.types import AnyArray, Array, Examples, Params, Scalars

Measures = dict[str, list[Any]]
"""What was measured on each of R networks, by name: numbers, or lists of them."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Settings, path="evaluate"):
    """How distilled sets are scored, and what they are compared with."""

    networks: Annotated[int, AtLeast(1)] = 5
    """R, fresh networks; as many random draws of real images are scored beside them."""
    recipe: Recipe = Recipe(
        epochs=300,
        batch=256,
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="step",
        augment="color_crop_cutout_scale_rotate",
    )
    """Training on a small set; its learning rate is replaced by the learned one where a method learned one. Nothing is
    flipped unless augment says so: a mirrored digit or letter is another one, a mirrored photograph is not."""
    random_real: bool = True
    """Score random real images of the same number beside it; what they reach does not depend on the method."""
    full_data: bool = True
    """Train on all real data as well, for reference."""
    full_recipe: Recipe = Recipe(
        epochs=30, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
    )
    """Training on all real data."""
    validate_every: Annotated[int, AtLeast(1)] = 50
    """Outer steps between checkpoints, each of which is scored on the validation split; the best one is kept."""
    validate_networks: Annotated[int, AtLeast(1)] = 2
    """Networks per validation."""


# The same function for the same task and recipe: other seeds and sets of the same shapes compile nothing.
@functools.lru_cache(maxsize=8)
def distilled_scorer(task: Task, recipe: Recipe, points: int = 0) -> Callable[[Array, Distilled, RealSet], Scalars]:
    """Build the jitted function that trains one network on each of R small sets and measures it on a real split.

    Args:
        task: What the networks do.
        recipe: Their training; the learning rate at the start is the set's own, `distilled.lr`.
        points: How many times to measure the task's score during the training as well, evenly from before the first
            step on; the last measurement, after the last step, comes on top.

    Returns:
        `(keys [R], sets, split) -> {name: [R]}`, where `sets` is a `Distilled` with a leading axis R on every field
        (`stacked` repeats one set), with `curve: [R, points]` where points are asked for. Compiled once per shape. The
        networks are spread over the devices.

    References:
        [published] the protocol of the field, as DC (Zhao et al. 2021, arXiv 2006.05929) and MTT evaluate.
    """

    def score(entry: tuple[Array, Distilled], split: RealSet) -> Scalars:
        key, distilled = entry

        def fetch(indices: Array) -> Examples:
            return task.examples(distilled, indices)

        return _train_and_measure(key, task, fetch, distilled.size, recipe, distilled.lr, split, points)

    return jax.jit(lambda keys, sets, split: map_over(score, (keys, sets), split))


def stacked(distilled: Distilled, count: int) -> Distilled:
    """Repeat one set along a new leading axis R = count."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), distilled)


@functools.lru_cache(maxsize=8)
def full_data_scorer(task: Task, recipe: Recipe) -> Callable[[Array, RealSet, RealSet], Scalars]:
    """Build the jitted function that trains a network per key on a whole real set and measures it on another.

    Args:
        task: What the networks do.
        recipe: Their training.

    Returns:
        `(keys [R], train set, split) -> {name: [R]}`. The networks are spread over the devices.
    """

    def score(key: Array, real: RealSet, split: RealSet) -> Scalars:
        def fetch(indices: Array) -> Examples:
            return sampling.take(real, indices)

        return _train_and_measure(key, task, fetch, real.size, recipe, None, split)

    return jax.jit(lambda keys, real, split: map_over(score, keys, real, split))


def _train_and_measure(
    key: Array,
    task: Task,
    fetch: Callable[[Array], Examples],
    size: int,
    recipe: Recipe,
    lr: Array | None,
    split: RealSet,
    points: int = 0,
) -> Scalars:
    params, scores = trained(key, task, fetch, size, recipe, lr, points, lambda p: task.measure(p, split)[task.score])
    return task.measure(params, split) if scores is None else {**task.measure(params, split), "curve": scores}


def trained(
    key: Array,
    task: Task,
    fetch: Callable[[Array], Examples],
    size: int,
    recipe: Recipe,
    lr: Array | None = None,
    points: int = 0,
    record: Callable[[Params], Array] | None = None,
) -> tuple[Params, Any]:
    """Train a fresh network, as every evaluation does; pure, to be jitted whole.

    Args:
        key: Its first parameters, its batches and their augmentation.
        task: What it does.
        fetch: `(indices [B]) -> Examples`, the set.
        size: Number of examples in it.
        recipe: The training.
        lr: [] the learning rate at the start; by default the recipe's.
        points: How many times to record.
        record: `(params) -> tree`, what.

    Returns:
        The parameters, and what was recorded, with a leading axis `points`; None without points.
    """
    init_key, train_key = jax.random.split(key)
    every = math.ceil(recipe.epochs * batching(size, recipe.batch)[0] / max(points, 1))
    params, recorded = train(
        train_key,
        task.model.init(init_key),
        task.losses,
        fetch,
        size,
        recipe,
        snapshots=points,
        every=every,
        record=record,
        lr=lr,
        observe=task.model.observe,
    )
    return params, None if recorded is None else recorded.params


@functools.partial(jax.jit, static_argnames=("task", "per_class", "count", "lr"))
def random_real(key: Array, task: Task, real: RealSet, per_class: int, count: int, lr: float) -> Distilled:
    """Draw `count` sets of random real examples with their own labels, stacked along a leading axis.

    Args:
        key: Draws them.
        task: Says what their labels are.
        real: The real set.
        per_class: Examples of each class, in each set.
        count: Number of sets.
        lr: The learning rate to record with them.

    Returns:
        A `Distilled` with a leading axis on every field.
    """

    def draw(key: Array, real: RealSet) -> Distilled:
        examples = sampling.take(real, sampling.balanced(key, real, per_class).reshape(-1))
        return Distilled(examples.inputs, task.labels(examples.targets), jnp.asarray(lr))

    drawn: Distilled = map_over(draw, jax.random.split(key, count), real)
    return drawn


def validator(
    task: Task, dataset: Data, config: EvaluateConfig, *, seed: int = 0
) -> Callable[[Distilled], float] | None:
    """Build the function that scores a distilled set on the validation split, or None if that split is empty.

    Every call trains the same networks (same first parameters, same batches), so that sets are compared on equal terms.
    """
    validation = dataset.validation_set()
    if validation is None:
        return None
    measure = distilled_scorer(task, config.recipe)
    with over_devices():
        split = replicate(validation)
    keys = jax.random.split(stage_key(seed, "validate"), config.validate_networks)

    @over_devices()
    def score(distilled: Distilled) -> float:
        found = np.asarray(measure(keys, stacked(distilled, len(keys)), split)[task.score])
        rate = " and ".join(f"{float(rate):g}" for rate in jax.tree.leaves(distilled.lr))
        check_converged(f"validation of a set with learning rate {rate}", found, "evaluate.recipe.lr")
        return float(np.mean(found))

    return score


@over_devices()
def evaluate(
    task: Task,
    dataset: Data,
    distilled: Distilled,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    compared: Task | None = None,
    ipc: int | None = None,
    seed: int = 0,
    known: Mapping[str, Measures] | None = None,
    on_result: Callable[[str, Measures], None] = lambda name, measures: None,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score a distilled set on the test split, beside as many random real examples and the full-data network.

    Args:
        task: What the networks do; the network may be any, not only the one that the set was distilled with.
        dataset: Where the set came from.
        distilled: The set, equally many items of each class.
        config: Networks and recipes.
        compared: What networks do that are trained on real examples, where those of the set have learned something
            before, such as its earlier stages; by default the same.
        ipc: Random real examples per class; by default as many as the set has items. A set whose items are stored as
            fewer images (IDC) is compared with that number.
        seed: Root of the randomness; each of the three trains its networks from the same first parameters.
        known: What was measured before and is not measured again.
        on_result: Called with each name and what was measured, as soon as it is.
        progress: Show a bar on standard error.

    Returns:
        `{"distilled": {"mean", "std", "runs"}, "random_real": …, "full_data": …}` of the task's score, accuracies as
        fractions, the standard deviation over the runs; one run a network, and for random real examples one draw a
        network. Further measures of the task stand in each by their names.

    Raises:
        SettingError: An argument is something else, or a class has fewer real examples than the set has items of it.
        Diverged: The outputs of a network are not finite.
    """
    compared = compared or task
    check_task(task)
    check_task(compared)
    check_argument("config", config, EvaluateConfig, "give a jaxdd.EvaluateConfig")
    check_argument("the set", distilled, Distilled, "give a jaxdd.Distilled, such as the `distilled` of an outcome")
    check_data(dataset)
    keys = jax.random.split(stage_key(seed, "evaluate"), config.networks)
    split, real = replicate(dataset.test_set()), replicate(dataset.real_set())
    per_class = ipc or distilled.size // task.items(1)
    if config.random_real and "random_real" not in (known or ()):
        sampling.check_per_class(real, per_class, "leave random real examples out (evaluate.random_real)")

    def of_random_real() -> Scalars:
        key = stage_key(seed, "random real")
        drawn = random_real(key, compared, real, per_class, config.networks, config.recipe.lr)
        return distilled_scorer(compared, config.recipe)(keys, drawn, split)

    scores: dict[str, Callable[[], Scalars]] = {
        "distilled": lambda: distilled_scorer(task, config.recipe)(keys, stacked(distilled, config.networks), split),
    }
    if config.random_real:
        scores["random_real"] = of_random_real
    if config.full_data:
        scores["full_data"] = lambda: full_data_scorer(compared, config.full_recipe)(keys, real, split)
    found = {name: dict(known[name]) for name in scores if known is not None and name in known}
    with progress_bar("evaluate", len(scores), len(found), enabled=progress) as bar:
        for name in (name for name in scores if name not in found):
            bar.set_postfix_str(name.replace("_", " "), refresh=False)
            found[name] = {key: np.asarray(runs, np.float64).tolist() for key, runs in to_host(scores[name]()).items()}
            scheme = "full_recipe" if name == "full_data" else "recipe"
            check_converged(f"evaluation of {name}", np.array(found[name][task.score]), f"evaluate.{scheme}.lr")
            bar.update()
            on_result(name, found[name])
    results = {}
    for name in scores:
        summaries = {key: summary(np.array(runs, np.float64)) for key, runs in found[name].items()}
        results[name] = {**summaries.pop(task.score), **summaries}
    return results


def check_converged(where: str, scores: np.ndarray, setting: str) -> None:
    """Refuse scores of networks that diverged, which are NaN.

    Args:
        where: What was scored.
        scores: `[R]`.
        setting: The learning rate that they were trained with.

    Raises:
        Diverged: Some score is not finite.
    """
    bad = int(np.sum(~np.isfinite(scores)))
    if bad:
        raise Diverged(
            f"{where}: the outputs of {bad} of {len(scores)} networks are not finite; lower {setting}, or the learning "
            "rate of the set if its method learns one"
        )


def mean_score(scores: AnyArray) -> float:
    """Average the scores `[R]` of networks, to choose by: −1, less than any, where one diverged."""
    return float(np.nan_to_num(np.mean(scores), nan=-1.0))


def summary(runs: np.ndarray) -> dict[str, Any]:
    """Summarize `[R, *]`, what was measured on R networks: `{"mean", "std", "runs"}`, mean and std over them."""
    return {"mean": np.mean(runs, 0).tolist(), "std": np.std(runs, 0).tolist(), "runs": runs.tolist()}
