"""The rows of an evaluation table: distilled sets, what they are compared with, and the labels that each is trained on.

Axis letters: R networks of a cell, M items of a set, C classes, H W K image height, width and channels.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import models
from jaxdd.core import sampling
from jaxdd.core.distilled import UNKNOWN, Card, Distilled, hard_labels, has_lr_of_recipe, learning_rates_of_stages
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import replicate
from jaxdd.core.progressive import after_stages
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, classification
from jaxdd.core.training import Recipe
from jaxdd.data import Dataset
from jaxdd.errors import SettingError
from jaxdd.evaluation.attack import Attack
from jaxdd.evaluation.scores import EvaluateConfig, distilled_scorer, mean_score, random_real, stacked, trained
from jaxdd.io.integrity import digest_of_arrays
from jaxdd.methods.coresets import GREEDY, by_features, check_features, real_features
from jaxdd.models import ModelConfig
from jaxdd.settings import AtLeast, Positive, Settings, check_value
from jaxdd.types import Array, Params

Labels = Literal["own", "hard", "teacher"]
"""What the items of a set are labeled with: what they came with; the classes of these; the outputs of one network that
was trained on all real data, the same for every row."""


@dataclasses.dataclass(frozen=True)
class TableConfig(Settings, path="table"):
    """What is put beside distilled sets, and how all of it is trained."""

    networks: Annotated[int, AtLeast(1)] = 5
    """R, fresh networks of each cell; random real images are drawn anew for each."""
    labels: tuple[Labels, ...] = ("own",)
    """Labels to train with, a row each: own, hard, teacher."""
    random_real: bool = True
    """Put as many random real images beside the sets."""
    coreset: bool = False
    """Put the best coreset beside them: herding or k-center on the teacher's features, whichever is better on the
    validation split."""
    full_data: bool = False
    """Train on all real data as well."""
    without_augmentation: bool = False
    """Train every small set a second time, without augmentation."""
    tune: tuple[Annotated[float, Positive], ...] = ()
    """Learning rates to choose from on the validation split, for every small set alike, beside the one it has."""
    tune_networks: Annotated[int, AtLeast(1)] = 2
    """Networks for each of these, and for each coreset."""
    attack: Attack = Attack()
    """Attack on the test images, for a column of its own."""
    points: Annotated[int, AtLeast(2)] = 10
    """Times on the way at which the accuracy is looked at: the last epoch counts, the best one is only shown."""
    recipe: Recipe = EvaluateConfig().recipe
    """Training on a small set; a learning rate that was learned with the set takes precedence."""
    full_recipe: Recipe = EvaluateConfig().full_recipe
    """Training on all real data, the teacher's among it."""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: Which images: the name of a set, `random real`, `coreset` or `full data`.
        labels: Which labels: `own`, `hard` or `teacher`.
        augment: Augmentation during training.
        per_class: Items of each class; for a set whose items are stored as fewer images, these.
        bytes_per_class: Of images and labels, as they are stored: a byte for each pixel of a real image and four for
            one of a distilled one, one for a hard label and 4 C for a soft one.
        lr: The learning rate at the start, before any search.
        normalization: Kind and digest of the normalization that images are in; sets are compared with real images in
            their own.
        digest: Of the set's arrays, and of the learning rates of its stages; empty for real images.
    """

    name: str
    labels: str
    augment: str
    per_class: int
    bytes_per_class: float
    lr: float
    normalization: str
    digest: str = ""


class Entry(NamedTuple):
    """A row and what it takes to compute it.

    Attributes:
        row: What is shown of it.
        view: The dataset as its sets see it.
        sets: Makes the sets, stacked along an axis R; None for all real data.
        posed: Makes of the task of a network that of networks which have learned the earlier stages of the set.
    """

    row: Row
    view: "View"
    sets: Callable[[], Distilled] | None
    posed: Callable[[Task], Task] = lambda task: task


class View:
    """The dataset as sets of one normalization see it, with the teacher that was trained on it.

    Args:
        dataset: The real data, normalized so.
        config: Rows and training.
        teacher: The teacher's network.
        seed: Root of the randomness.
    """

    def __init__(self, dataset: Dataset, config: TableConfig, teacher: ModelConfig, seed: int):
        self.dataset, self.config, self.seed = dataset, config, seed
        fitted = dataset.normalization
        self.normalization = f"{fitted.kind} {digest_of_arrays(fitted.to_arrays())[:8]}"
        self.real, self.split = replicate(dataset.real_set()), replicate(dataset.test_set())
        self.task = classification(models.build(teacher, dataset.image_shape, dataset.num_classes), dataset.num_classes)
        self._coresets: dict[int, Distilled] = {}

    @cached_property
    def validation(self) -> RealSet:
        """The validation split, on the devices."""
        found: RealSet = replicate(self.dataset.validation_set())
        return found

    @cached_property
    def teacher(self) -> Params:
        """The teacher's parameters; trained when they are first asked for."""

        def fit(key: Array, real: RealSet) -> Params:
            return trained(key, self.task, partial(sampling.take, real), real.size, self.config.full_recipe)[0]

        return jax.jit(fit)(stage_key(self.seed, "teacher"), self.real)

    def relabeled(self, sets: Distilled) -> Distilled:
        """Label sets, of any leading axes, with the teacher's logits."""
        flat = sets.images.reshape(-1, *sets.images.shape[-3:])
        logits = jax.jit(self.task.model.apply)(self.teacher, flat)
        return sets._replace(labels=logits.reshape(*sets.images.shape[:-3], -1))

    def random_real(self, per_class: int) -> Distilled:
        """Draw a set for each network, those that `jaxdd.evaluate` draws."""
        key = stage_key(self.seed, "random real")
        return random_real(key, self.task, self.real, per_class, self.config.networks, self.config.recipe.lr)

    def coreset(self, per_class: int) -> Distilled:
        """Choose images by herding and by k-center, and of the two what networks learn more from, on validation."""
        if per_class not in self._coresets:
            chosen = [self._chosen(name, per_class) for name in GREEDY]
            keys = jax.random.split(stage_key(self.seed, "validate"), self.config.tune_networks)
            score = distilled_scorer(self.task, self.config.recipe)
            found = [score(keys, stacked(x, len(keys)), self.validation)[self.task.score] for x in chosen]
            reached = [mean_score(scores) for scores in found]
            self._coresets[per_class] = chosen[int(np.argmax(reached))]
        return stacked(self._coresets[per_class], self.config.networks)

    def _chosen(self, name: str, per_class: int) -> Distilled:
        def choose(real: RealSet, params: Params) -> Distilled:
            rows = by_features(name, real, real_features(self.task, real, params), per_class)
            examples = sampling.take(real, rows.reshape(-1))
            return Distilled(examples.inputs, self.task.labels(examples.targets), jnp.asarray(self.config.recipe.lr))

        return jax.jit(choose)(self.real, self.teacher)


def rows(
    sets: Mapping[str, tuple[Distilled, Card]], dataset: Dataset, config: TableConfig, teacher: ModelConfig, seed: int
) -> Iterator[Entry]:
    """Yield the rows of a table: the sets of one normalization, what they are compared with, then the next one's."""
    groups: dict[str, dict[str, tuple[Distilled, Card]]] = {}
    for name, (distilled, card) in sets.items():
        groups.setdefault(digest_of_arrays(card.normalization.to_arrays()), {})[name] = distilled, card
    for members in groups.values():
        normalization = next(iter(members.values()))[1].normalization
        view = View(dataclasses.replace(dataset, normalization=normalization), config, teacher, seed)
        for name, (distilled, card) in members.items():
            yield from _of_set(name, distilled, card, view)
        for count in dict.fromkeys(per_class(distilled, card) for distilled, card in members.values()):
            yield from _of_real_images(count, view)
        if config.full_data:
            examples = len(dataset.train.labels) / dataset.num_classes
            size = examples * (float(np.prod(dataset.image_shape)) + 1)
            recipe = config.full_recipe
            row = Row("full data", "hard", recipe.augment, round(examples), size, recipe.lr, view.normalization)
            yield Entry(row, view, None)


def per_class(distilled: Distilled, card: Card) -> int:
    """Return how many images of a class a set stores: what its card says, or else how many items it has.

    Raises:
        SettingError: The card says what cannot be.
    """
    said, stored = card.settings("method").get("ipc"), card.provenance.get("stored_images")
    for name, count in (("ipc", said), ("stored_images", stored)):
        check_value(f"the {name} of its card", count, Annotated[int | None, AtLeast(1)])
    return said or max((stored or distilled.size) // len(card.class_names), 1)


def _of_set(name: str, distilled: Distilled, card: Card, view: View) -> Iterator[Entry]:
    config, classes = view.config, len(card.class_names)
    rates = learning_rates_of_stages(distilled, card, config.recipe.lr)
    if config.tune and rates:
        raise SettingError(f"{name} was made in {len(rates)} stages, each for its learning rate; leave table.tune out")
    if has_lr_of_recipe(distilled, card):  # not a learned one: the recipe given decides
        distilled = distilled._replace(lr=jnp.float32(config.recipe.lr))
    own = "hard" if card.label_kind == "hard" else "own"
    ways: dict[str, Callable[[Distilled], Distilled]] = {
        own: lambda found: found,
        "hard": _hardened,
        "teacher": view.relabeled,
    }

    def sets(kind: str) -> Distilled:
        return stacked(ways[kind](distilled), config.networks)

    def posed(kind: str, augment: str, task: Task) -> Task:
        recipe = dataclasses.replace(config.recipe, augment=augment)
        return after_stages(task, ways[kind](distilled), rates, recipe) if rates else task

    digest = digest_of_arrays((distilled, np.asarray(rates)) if rates else distilled)
    count = per_class(distilled, card)
    pixels = 4.0 * count * float(np.prod(distilled.images.shape[1:]))
    kinds = dict.fromkeys(own if kind == "own" else kind for kind in config.labels)
    for augment, kind in _combined(config, kinds):
        items = distilled.size / classes if kind == "teacher" else count  # the others are one for each stored image
        size = pixels + _bytes_of_labels(kind, items, classes)
        row = Row(name, kind, augment, count, size, float(distilled.lr), view.normalization, digest)
        yield Entry(row, view, partial(sets, kind), partial(posed, kind, augment))


def _of_real_images(count: int, view: View) -> Iterator[Entry]:
    config, dataset = view.config, view.dataset
    sources = {"random real": view.random_real} if config.random_real else {}
    if config.coreset:
        check_features(view.task, view.real)
        sources["coreset"] = view.coreset
    if sources:
        sampling.check_per_class(view.real, count, f"leave {' and '.join(sources)} images out of the table")
    ways: dict[str, Callable[[Distilled], Distilled]] = {"hard": lambda found: found, "teacher": view.relabeled}

    def sets(name: str, kind: str) -> Distilled:
        return ways[kind](sources[name](count))

    kinds = dict.fromkeys("hard" if kind == "own" else kind for kind in config.labels)
    for name in sources:
        for augment, kind in _combined(config, kinds):
            labels = _bytes_of_labels(kind, count, dataset.num_classes)
            size = count * float(np.prod(dataset.image_shape)) + labels
            row = Row(name, kind, augment, count, size, config.recipe.lr, view.normalization)
            yield Entry(row, view, partial(sets, name, kind))


def _combined(config: TableConfig, kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    augments = [config.recipe.augment, "none"] if config.without_augmentation else [config.recipe.augment]
    for augment in dict.fromkeys(augments):
        for kind in kinds:
            yield augment, kind


def _bytes_of_labels(kind: str, items: float, classes: int) -> float:
    return items * (1 if kind == "hard" else 4 * classes)


def _hardened(distilled: Distilled) -> Distilled:
    return distilled._replace(labels=hard_labels(jnp.argmax(distilled.labels, -1), distilled.labels.shape[-1]))


def check_fits(name: str, distilled: Distilled, card: Card, dataset: Dataset) -> None:
    """Refuse a set of another shape or number of classes than a dataset has, or of classes with other names.

    Args:
        name: The set's.
        distilled: The set.
        card: What it says of itself; class names that are numbers alone fit any others.
        dataset: The real data.

    Raises:
        SettingError: It does not fit.
    """
    remedy = "name its dataset with --data.name"
    if distilled.images.shape[1:] != dataset.image_shape or distilled.labels.shape[1] != dataset.num_classes:
        raise SettingError(
            f"{name} holds images {distilled.images.shape[1:]} of {distilled.labels.shape[1]} classes, "
            f"but {dataset.name} has {dataset.image_shape} of {dataset.num_classes}; {remedy}"
        )
    if _numbers(card.class_names) or _numbers(dataset.class_names):
        return
    for at, (ours, theirs) in enumerate(zip(card.class_names, dataset.class_names, strict=False)):
        if ours != theirs:
            raise SettingError(f"class {at} of {name} is {ours!r}, but that of {dataset.name} is {theirs!r}; {remedy}")


def _numbers(names: Iterable[str]) -> bool:
    return all(map(str.isdecimal, names))


def doubt_of_data(name: str, card: Card, dataset: str) -> str | None:
    """Say that a set is of another dataset than the data, None where its card names no other.

    Args:
        name: The set's.
        card: What it says of itself.
        dataset: Name of the data.
    """
    if card.dataset in (dataset, UNKNOWN):
        return None
    return f"{name}: its card says that it is of {card.dataset}, and the data are {dataset}"
