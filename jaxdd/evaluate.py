"""Evaluation: fresh networks trained on a set, scored by their accuracy after the last epoch.

Axis letters: R networks, M distilled items, N real examples, C classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdd.data import Dataset, sampling
from jaxdd.data.normalisation import Normalisation
from jaxdd.data.sampling import RealSet
from jaxdd.distilled import Distilled
from jaxdd.keys import stage_key
from jaxdd.losses import cross_entropy
from jaxdd.mesh import make_mesh, map_networks, replicate
from jaxdd.methods import MethodConfig, Sources, initial_distilled, softened
from jaxdd.training import DSA, Recipe, train
from jaxdd.types import AnyArray, Array, Examples, Model, Params

CHUNK = 500  # images scored at a time


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How distilled sets are scored, and what they are compared with."""

    networks: int = 5
    """R, fresh networks; as many random draws of real images are scored beside them."""
    recipe: Recipe = Recipe(
        epochs=300, batch=256, lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="step", augment=DSA
    )
    """Training on a small set; its learning rate is replaced by the learned one where a method learned one."""
    random_real: bool = True
    """Score random real images of the same number beside it; what they reach does not depend on the method."""
    full_data: bool = True
    """Train on all real data as well, for reference."""
    full_recipe: Recipe = Recipe(
        epochs=30, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
    )
    """Training on all real data."""
    validate_every: int = 50
    """Outer steps between checkpoints, each of which is scored on the validation split; the best one is kept."""
    validate_networks: int = 2
    """Networks per validation."""

    def __post_init__(self) -> None:
        for name in ("networks", "validate_every", "validate_networks"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluate.{name} is {getattr(self, name)}; give 1 or more")


class HeldOut(NamedTuple):
    """What networks are scored on: uint8 images `[N, H, W, K]`, labels int32 `[N]`, and the normalisation."""

    images: AnyArray
    labels: AnyArray
    normalisation: Normalisation


def accuracy(model: Model, params: Params, split: HeldOut) -> Array:
    """Compute the fraction of a split that a network classifies right, a scalar."""
    size = split.labels.shape[0]
    positions = jnp.arange(-(-size // CHUNK) * CHUNK).reshape(-1, CHUNK)

    def correct(positions: Array) -> Array:
        rows = positions % size
        logits = model.apply(params, split.normalisation(split.images[rows]))
        return jnp.sum((jnp.argmax(logits, -1) == split.labels[rows]) & (positions < size))

    return jnp.sum(jax.lax.map(correct, positions)) / size


def distilled_scorer(model: Model, recipe: Recipe, mesh: Mesh) -> Callable[[Array, Distilled, HeldOut], Array]:
    """Build the jitted function that trains one network on each of R small sets and scores it on a real split.

    Args:
        model: The network to train.
        recipe: Its training; the learning rate at the start is the set's own, `distilled.lr`.
        mesh: The devices that the networks are spread over.

    Returns:
        `(keys [R], sets, split) -> accuracies [R]`, where `sets` is a `Distilled` with a leading axis R on every field
        (`stacked` repeats one set). Compiled once per shape.

    References:
        [published] the protocol of the field, as DC (Zhao et al. 2021, arXiv 2006.05929) and MTT evaluate.
    """

    def score(entry: tuple[Array, Distilled], split: HeldOut) -> Array:
        key, distilled = entry

        def fetch(indices: Array) -> Examples:
            return softened(distilled, indices)

        return _train_and_score(key, model, fetch, distilled.images.shape[0], recipe, distilled.lr, split)

    return jax.jit(lambda keys, sets, split: map_networks(score, mesh, (keys, sets), split))


def stacked(distilled: Distilled, count: int) -> Distilled:
    """Repeat one set along a new leading axis R = count."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), distilled)


def full_data_scorer(model: Model, recipe: Recipe, mesh: Mesh) -> Callable[[Array, RealSet, HeldOut], Array]:
    """Build the jitted function that trains a network per key on a whole real set and scores it on another.

    Args:
        model: The network to train.
        recipe: Its training.
        mesh: The devices that the networks are spread over.

    Returns:
        `(keys [R], train set, split) -> accuracies [R]`.
    """

    def score(key: Array, real: RealSet, split: HeldOut) -> Array:
        def fetch(indices: Array) -> Examples:
            return sampling.take(real, indices)

        return _train_and_score(key, model, fetch, real.labels.shape[0], recipe, None, split)

    return jax.jit(lambda keys, real, split: map_networks(score, mesh, keys, real, split))


def _train_and_score(
    key: Array,
    model: Model,
    fetch: Callable[[Array], Examples],
    size: int,
    recipe: Recipe,
    lr: Array | None,
    split: HeldOut,
) -> Array:
    init_key, train_key = jax.random.split(key)
    params, _ = train(train_key, model.init(init_key), cross_entropy(model), fetch, size, recipe, lr=lr)
    return accuracy(model, params, split)


def random_real(key: Array, model: Model, dataset: Dataset, ipc: int, count: int, lr: float, mesh: Mesh) -> Distilled:
    """Draw `count` sets of ipc random real images per class with hard labels, stacked along a leading axis."""
    config = MethodConfig(ipc=ipc, init="real", labels="hard")

    def draw_all(keys: Array, sources: Sources) -> Distilled:
        return jax.lax.map(lambda key: initial_distilled(key, model, sources, config, lr=lr), keys)

    return jax.jit(draw_all)(jax.random.split(key, count), replicate(Sources(dataset.real_set()), mesh))


def validator(
    model: Model, dataset: Dataset, config: EvaluateConfig, *, seed: int = 0, mesh: Mesh | None = None
) -> Callable[[Distilled], float] | None:
    """Build the function that scores a distilled set on the validation split, or None if that split is empty.

    Every call trains the same networks (same first parameters, same batches), so that sets are compared on equal terms.
    """
    if not len(dataset.validation.labels):
        return None
    mesh = mesh or make_mesh()
    score = distilled_scorer(model, config.recipe, mesh)
    split = replicate(HeldOut(*dataset.validation, dataset.normalisation), mesh)
    keys = jax.random.split(stage_key(seed, "validate"), config.validate_networks)
    return lambda distilled: float(np.mean(score(keys, stacked(distilled, len(keys)), split)))


def evaluate(
    model: Model,
    dataset: Dataset,
    distilled: Distilled,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    ipc: int | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    known: Mapping[str, Sequence[float]] | None = None,
    on_result: Callable[[str, list[float]], None] = lambda name, runs: None,
) -> dict[str, dict[str, Any]]:
    """Score a distilled set on the test split, beside random real images of the same size and the full-data network.

    Args:
        model: The network to train; any, not only the one that the set was distilled with.
        dataset: Where the set came from.
        distilled: The set, equally many items of each class.
        config: Networks and recipes.
        ipc: Random real images per class; by default as many as the set has items. A set whose items are stored as
            fewer images (IDC) is compared with that number.
        seed: Root of the randomness; each of the three trains its networks from the same first parameters.
        mesh: Devices, all by default.
        known: Accuracies that were computed before, which are not computed again.
        on_result: Called with each name and its accuracies as soon as they are computed.

    Returns:
        `{"distilled": {"mean", "std", "runs"}, "random_real": …, "full_data": …}`, accuracies as fractions, the
        standard deviation over the runs; one run a network, and for random real images one draw a network.
    """
    mesh = mesh or make_mesh()
    keys = jax.random.split(stage_key(seed, "evaluate"), config.networks)
    split = replicate(HeldOut(*dataset.test, dataset.normalisation), mesh)
    small = distilled_scorer(model, config.recipe, mesh)
    per_class = ipc or distilled.images.shape[0] // dataset.num_classes

    def of_random_real() -> Array:
        key = stage_key(seed, "random real")
        return small(keys, random_real(key, model, dataset, per_class, config.networks, config.recipe.lr, mesh), split)

    def of_full_data() -> Array:
        return full_data_scorer(model, config.full_recipe, mesh)(keys, replicate(dataset.real_set(), mesh), split)

    scores: dict[str, Callable[[], Array]] = {
        "distilled": lambda: small(keys, stacked(distilled, config.networks), split),
    }
    if config.random_real:
        scores["random_real"] = of_random_real
    if config.full_data:
        scores["full_data"] = of_full_data
    results = {}
    for name, score in scores.items():
        if known is not None and name in known:
            runs = list(known[name])
        else:
            runs = np.asarray(score(), np.float64).tolist()
            on_result(name, runs)
        results[name] = summary(np.array(runs))
    return results


def summary(runs: np.ndarray) -> dict[str, float | list[float]]:
    """Summarise accuracies: `{"mean", "std", "runs"}` as fractions, the standard deviation over the runs themselves."""
    return {"mean": float(np.mean(runs)), "std": float(np.std(runs)), "runs": [float(run) for run in runs]}
