"""The distilled set, and the file that carries it to people who do not have jaxdd.

`distilled.npz` describes itself and needs nothing but numpy. A set with hard labels and per-channel standardization:

    file = np.load("distilled.npz", allow_pickle=False)
    images, labels = file["images"], file["labels"]  # [M,H,W,K] float32 as a network wants them, [M] int32
    names = file["class_names"][labels]
    pictures = np.clip(images * file["normalization_std"] + file["normalization_mean"], 0, 1)

and with ZCA whitening, `normalization_kind == "zca"`, the last line is

    flat = images.reshape(len(images), -1)
    pictures = (flat @ file["normalization_unwhiten"] + file["normalization_mean"]).clip(0, 1).reshape(images.shape)

Images of a user's own, `own` `[N,H,W,K]` uint8 of the same height and width, are normalized as those of the set were
before a network sees them, by standardization

    inputs = (own / np.float32(255) - file["normalization_mean"]) / file["normalization_std"]

or by whitening

    flat = own.reshape(len(own), -1) / np.float32(255)
    inputs = ((flat - file["normalization_mean"]) @ file["normalization_whiten"]).reshape(own.shape)

`labels` are what a network's softmax is trained towards: the class of each image, or the softmax of its logits, or its
probabilities. `lr` is the learning rate of SGD at its start, learned with the set or that of `recipe`, whose other
entries are the fields of `jaxdd.Recipe`. `jaxdd.formats.how_to_use` writes all of this as code for a set at hand.

Its arrays:

| name | content |
|---|---|
| `format_version` | 2; 1 has `normalisation_…` in place of `normalization_…` |
| `images` | `[M,H,W,K]` float32, normalized |
| `label_kind` | `"hard"`, `"logits"` or `"probabilities"` |
| `labels` | hard: `[M]` int32 class indices; logits: `[M,C]` float32 label logits; probabilities: their softmax |
| `lr` | `[]` float32, the learning rate that the set was made for |
| `dataset`, `class_names` | a string; `[C]` strings |
| `normalization_kind`, `normalization_…` | the normalization and its arrays, which a ZCA may leave out |
| `recipe`, `provenance` | JSON objects: how to train on the set; how it was made |

Axis letters: M distilled items, C classes, H W K image height, width and channels.
"""

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core import normalization as normalizations
from jaxdd.core.normalization import Normalization
from jaxdd.errors import SettingError
from jaxdd.io import npz
from jaxdd.io.files import atomic_write, to_json
from jaxdd.settings import Positive, check_choice, check_value
from jaxdd.types import Array, PyTree

LabelKind = Literal["hard", "logits", "probabilities"]

FORMAT_VERSION = 2
NAMES = ("format_version", "images", "label_kind", "labels", "lr", "dataset", "class_names", "recipe", "provenance")
"""The arrays of a file, beside those of the normalization."""

UNKNOWN = "unknown"
"""The dataset of a card that names none."""

HARD_LABEL_SCALE = 128.0
"""The logit of the true class of a hard label, the others being 0. [our choice]

In the softmax the true class has `exp(0) = 1` and the others `exp(-128) = 2.6e-56`. The smallest positive float32 is
1.4e-45, so these are exactly 0, and the sum is exactly 1. Any scale above 104 does so; 128, a power of two, is exact in
every float type. The logarithm of the softmax stays finite. The derivative of the softmax is exactly 0: a hard label
does not move under gradient descent, so labels to be learned need softer logits.
"""


class Made:
    """What a card tells of the run that made a set, from its `provenance`."""

    provenance: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of that run; empty where the card tells something else."""
        return _mapping(self.provenance.get("config"))

    def settings(self, part: str) -> dict[str, Any]:
        """Return a part of that configuration, `method` say; empty where the card tells something else."""
        return _mapping(self.config.get(part))


@dataclass(frozen=True)
class Card(Made):
    """What a distilled set says of itself beside its arrays.

    Attributes:
        dataset: name of the real dataset, or `UNKNOWN`.
        class_names: C names, in the order of the label logits.
        label_kind: what `labels` holds in the file: class indices, label logits, or their softmax.
        normalization: the normalization that the images are in, fitted on the real train images.
        recipe: how to train on the set, as JSON-able values.
        provenance: how the set was made (config, method, seed, step, versions), as JSON-able values.
    """

    dataset: str
    class_names: tuple[str, ...]
    label_kind: LabelKind
    normalization: Normalization
    recipe: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """Of each stage of a set that was made in stages, see `jaxdd.core.progressive`; of another set, none.

        Raises:
            SettingError: The card says what cannot be.
        """
        found = self.provenance.get("learning_rates", ())
        found = tuple(found) if isinstance(found, list) else found
        check_value("learning_rates in its card", found, tuple[Annotated[float, Positive], ...])
        return cast(tuple[float, ...], found)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def named_lr(lr: PyTree, name: str = "lr") -> dict[str, Any]:
    """Name the learning rate of a set, or those of the branches of its network, `name_branch`, as files and logs do."""
    return {f"{name}_{branch}": rate for branch, rate in lr.items()} if isinstance(lr, dict) else {name: lr}


class Distilled(NamedTuple):
    """A distilled set, a pytree.

    Attributes:
        inputs: Tree of arrays `[M, *]`, what a network is applied to; for classification `images`.
        labels: Tree of arrays `[M, *]`, from which `Task.examples` makes targets; for classification `[M, C]` float32
            label logits, which `hard_labels` makes from classes.
        lr: `[]` float32 learning rate of a network trained on the set, learned or the recipe's; of pairs there may be
            one for each encoder, `{"image": [], "text": []}`.
    """

    inputs: PyTree
    labels: PyTree
    lr: PyTree

    @property
    def size(self) -> int:
        """M, the number of items."""
        size: int = jax.tree.leaves(self.labels)[0].shape[0]
        return size

    @property
    def images(self) -> Array:
        """`[M, H, W, K]` float32 normalized images, of a set of images: its `inputs`."""
        images: Array = self.inputs
        return images

    @property
    def targets(self) -> Array:
        """`[M, C]` target probabilities, `softmax(labels)`, of a set for classification."""
        return jax.nn.softmax(self.labels)

    def by_class(self, classes: int) -> "Distilled":
        """Cut a set, whose items are in the order of the classes, into one for each: a leading axis C on all fields."""
        inputs, labels = (
            jax.tree.map(lambda x: x.reshape(classes, -1, *x.shape[1:]), tree) for tree in (self.inputs, self.labels)
        )
        return Distilled(inputs, labels, jnp.broadcast_to(self.lr, (classes,)))

    def save(self, path: str | Path, card: Card) -> None:
        """Write the set as one npz file that numpy alone can read, atomically; equal sets make equal bytes.

        Args:
            path: the file, `distilled.npz` by custom; replaced if it exists.
            card: what to say of the set. Its `label_kind` decides in which form the labels are written; logits and
                hard labels come back exactly, probabilities as logits with the same softmax up to rounding.

        Raises:
            ValueError: if arrays and card do not fit each other, or the card says hard labels and they are not.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **to_arrays(self, card))  # dated 1980 by numpy, so the bytes do not depend on the clock
        atomic_write(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> tuple["Distilled", Card]:
        """Read a file that `save` wrote.

        Args:
            path: the file.

        Returns:
            The set and its card.

        Raises:
            FileNotFoundError: if there is no such file.
            SettingError: if the file is not an npz, is damaged, has another format version, lacks an array, or has one
                that no set has; the file is named.
        """
        try:
            if "texts" in npz.names(path):
                raise SettingError("it holds pairs of images and texts; read it by jaxdd.core.distilled_pairs.load")
            # Names of version 1 are spelled another way.
            prefixes = ("normalization_", "normalisation_")
            return from_arrays(npz.read(path, lambda name: name in NAMES or name.startswith(prefixes)))
        except IsADirectoryError:
            raise SettingError(f"{path} is a folder; give the distilled.npz in it") from None
        except ValueError as error:
            raise SettingError(f"cannot load a distilled set from {path}: {error}") from error


def to_arrays(distilled: Distilled, card: Card) -> dict[str, Any]:
    """Export a set of images as the arrays that the module names, for a file of any kind.

    Args:
        distilled: the set.
        card: what to say of it; see `Distilled.save`.

    Raises:
        ValueError: if arrays and card do not fit each other, or the card says hard labels and they are not.
    """
    images, labels = _array(distilled.images), _array(distilled.labels)
    check_choice("label_kind", card.label_kind, get_args(LabelKind))
    _check_shapes(images.shape, labels.shape, np.shape(distilled.lr), card.class_names)
    return {
        "format_version": np.int32(FORMAT_VERSION),
        "images": images,
        "label_kind": np.str_(card.label_kind),
        "labels": _LABELS_TO_FILE[card.label_kind](labels),
        "lr": _array(distilled.lr),
        "dataset": np.str_(card.dataset),
        "class_names": np.asarray(card.class_names, np.str_),
        **{f"normalization_{name}": array for name, array in card.normalization.to_arrays().items()},
        "recipe": np.str_(to_json(card.recipe)),
        "provenance": np.str_(to_json(card.provenance)),
    }


def has_lr_of_recipe(distilled: Distilled, card: Card) -> bool:
    """Return whether the learning rate of a set is that of its recipe, not one that was learned with it."""
    return bool(np.float32(card.recipe.get("lr", np.nan)) == distilled.lr)


def learning_rates_of_stages(distilled: Distilled, card: Card, recipe_lr: float) -> tuple[float, ...]:
    """Return the learning rates of the stages of a set that was made so, or the recipe's where none is learned.

    Args:
        distilled: The set.
        card: What it says of itself.
        recipe_lr: The learning rate of the recipe that it is trained on with.
    """
    rates = card.learning_rates
    return (recipe_lr,) * len(rates) if has_lr_of_recipe(distilled, card) else rates


def hard_labels(classes: Array | np.ndarray, num_classes: int) -> Array:
    """Return label logits whose softmax is exactly one-hot, `HARD_LABEL_SCALE · onehot(classes)`.

    Args:
        classes: `[M]` integer class indices.
        num_classes: C.

    Returns:
        `[M, C]` float32 label logits.
    """
    return HARD_LABEL_SCALE * jax.nn.one_hot(classes, num_classes, dtype=jnp.float32)


def label_kind_of(distilled: Distilled) -> LabelKind:
    """Return the `label_kind` that brings the labels of a set back exactly: hard where they are, else logits."""
    return "logits" if _soft(_array(distilled.labels)).size else "hard"


def _soft(labels: np.ndarray) -> np.ndarray:
    """Return the indices of those among label logits `[M, C]` that `hard_labels` does not make."""
    return np.flatnonzero((labels != _array(hard_labels(labels.argmax(axis=1), labels.shape[1]))).any(axis=1))


def _classes_of_hard_labels(labels: np.ndarray) -> np.ndarray:
    wrong = _soft(labels)
    if wrong.size:
        raise SettingError(
            f"label_kind is 'hard', but the labels of {wrong.size} of {len(labels)} images, the first at {wrong[0]}, "
            "are not what hard_labels(classes, C) makes: save them with label_kind 'logits' or 'probabilities'"
        )
    return labels.argmax(axis=1).astype(np.int32)


def _log(probabilities: np.ndarray) -> np.ndarray:
    # log 0 would be minus infinity, whose softmax has gradients that are not numbers; this one's is 0 just as well.
    positive = probabilities > 0
    return np.where(positive, np.log(np.where(positive, probabilities, 1)), np.float32(-HARD_LABEL_SCALE))


_LABELS_TO_FILE = {
    "hard": _classes_of_hard_labels,
    "logits": lambda labels: labels,
    "probabilities": lambda labels: _array(jax.nn.softmax(labels)),
}


def _labels_from_file(kind: str, labels: np.ndarray, num_classes: int) -> Array:
    if kind != "hard":
        check_numbers("labels", labels)
        if kind == "probabilities" and not (labels >= 0).all():
            raise SettingError(f"labels are probabilities, and the least is {labels.min()}")
        return jnp.asarray(_log(labels) if kind == "probabilities" else labels, jnp.float32)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise SettingError(f"hard labels must be [M] class indices, got {labels.dtype} {labels.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise SettingError(f"labels run from {labels.min()} to {labels.max()}, but there are {num_classes} class names")
    return hard_labels(labels, num_classes)


def from_arrays(arrays: dict[str, np.ndarray]) -> tuple[Distilled, Card]:
    """Rebuild a set and its card from what `to_arrays` exported.

    Args:
        arrays: by name.

    Raises:
        SettingError: if the format version is another, or an array is missing or cannot be one of a set.
    """
    if "format_version" not in arrays:
        raise SettingError(f"it has no array 'format_version' (but {sorted(arrays)}), so jaxdd did not write it")
    version = arrays["format_version"]
    if version.shape != () or version.dtype.kind not in "iu" or version not in range(1, FORMAT_VERSION + 1):
        raise SettingError(
            f"its format version is {version}, and this jaxdd reads 1 to {FORMAT_VERSION}: use a newer jaxdd"
        )
    spelled = _spelled_as_now if version == 1 else dict
    arrays = spelled(arrays)
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        raise SettingError(f"it lacks the arrays {missing}")
    for name, axes in {"label_kind": 0, "dataset": 0, "class_names": 1, "recipe": 0, "provenance": 0}.items():
        if arrays[name].dtype.kind != "U" or arrays[name].ndim != axes:
            needed = "a list of texts" if axes else "one text"
            raise SettingError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, and {needed} is needed")
    kind = str(arrays["label_kind"])
    check_choice("label_kind", kind, get_args(LabelKind))
    prefix = "normalization_"
    fitted = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    card = Card(
        dataset=str(arrays["dataset"]),
        class_names=tuple(arrays["class_names"].tolist()),
        label_kind=cast(LabelKind, kind),
        normalization=normalizations.from_arrays(fitted),
        recipe=json_object("recipe", arrays),
        provenance=spelled(json_object("provenance", arrays)),
    )
    return assemble(arrays["images"], arrays["labels"], arrays["lr"], card), card


def assemble(images: np.ndarray, labels: np.ndarray, lr: np.ndarray | float, card: Card) -> Distilled:
    """Build a set from arrays of a file, all of them checked.

    Args:
        images: `[M, H, W, K]` floats, normalized as the card says.
        labels: of the kind that the card says: `[M]` class indices, `[M, C]` logits, or `[M, C]` probabilities.
        lr: `[]` learning rate.
        card: what the set says of itself.

    Raises:
        SettingError: if they are no such arrays, do not fit each other, or are not finite.
    """
    for name, values in (("images", images), ("lr", np.asarray(lr))):
        check_numbers(name, values)
    logits = _labels_from_file(card.label_kind, labels, len(card.class_names))
    distilled = Distilled(jnp.asarray(images, jnp.float32), logits, jnp.asarray(lr, jnp.float32))
    _check_shapes(distilled.images.shape, distilled.labels.shape, distilled.lr.shape, card.class_names)
    if not distilled.lr > 0:
        raise SettingError(f"lr is {distilled.lr}, and a learning rate is positive")
    check_normalization(card.normalization, distilled.images.shape)
    return distilled


def check_numbers(name: str, values: np.ndarray) -> None:
    """Refuse an array of a file that holds anything but finite floats.

    Raises:
        SettingError: it does.
    """
    if values.dtype.kind != "f":
        raise SettingError(f"{name} holds {values.dtype}, and floats are needed")
    if not np.isfinite(values).all():
        raise SettingError(f"{name} holds {np.sum(~np.isfinite(values))} numbers that are not finite")


def check_normalization(normalization: Normalization, images: tuple[int, ...]) -> None:
    """Refuse a normalization that is not for images of this shape.

    Args:
        normalization: of a card.
        images: `[M, H, W, K]`, their shape.

    Raises:
        SettingError: an array of it has another size.
    """
    size = images[-1] if normalization.kind == "standard" else math.prod(images[1:])
    for name, values in normalization._asdict().items():
        if set(np.shape(values)) != {size}:
            raise SettingError(f"normalization_{name} is {list(np.shape(values))}, but images are {list(images)}")


def json_object(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Read the text of an array as a JSON object.

    Raises:
        SettingError: it is none.
    """
    try:
        value = json.loads(str(arrays[name]))
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{name} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise SettingError(f"{name} is no JSON object but {str(value)[:50]}")
    return value


def _spelled_as_now(tree: dict[str, Any]) -> dict[str, Any]:
    """Spell the names in a tree as this version does; 0.1 wrote normalisation and optimiser."""
    return {
        name.replace("normalisation", "normalization").replace("optimiser", "optimizer"): (
            _spelled_as_now(value) if isinstance(value, dict) else value
        )
        for name, value in tree.items()
    }


def _check_shapes(
    images: tuple[int, ...], labels: tuple[int, ...], lr: tuple[int, ...], class_names: tuple[str, ...]
) -> None:
    if len(images) != 4 or 0 in images:
        raise SettingError(f"images must be [M, H, W, K], none of them 0, got {list(images)}")
    if labels != (images[0], len(class_names)):
        raise SettingError(
            f"{images[0]} images and {len(class_names)} class names need labels [{images[0]}, {len(class_names)}], "
            f"got {list(labels)}"
        )
    if lr != ():
        raise SettingError(f"lr must be one number, got {list(lr)}")


def _array(values: Array | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32, order="C")
