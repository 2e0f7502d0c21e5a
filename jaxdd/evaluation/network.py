"""A network trained on a set, kept with all that it takes to use it.

Axis letters: N images, C classes, H W K image height, width and channels.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import models
from jaxdd.core import normalization as normalizations
from jaxdd.core import sampling
from jaxdd.core.distilled import Card, Distilled, has_lr_of_recipe, learning_rates_of_stages
from jaxdd.core.keys import stage_key
from jaxdd.core.normalization import UNFITTED, Normalization, Unfitted
from jaxdd.core.progressive import after_stages
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import classification
from jaxdd.core.training import Recipe
from jaxdd.errors import SettingError
from jaxdd.evaluation.scores import EvaluateConfig, trained
from jaxdd.io import checkpoint
from jaxdd.io.files import plain
from jaxdd.io.integrity import DamagedError, digest_of_arrays, read_sealed, write_sealed
from jaxdd.models import ModelConfig
from jaxdd.settings import check_argument
from jaxdd.types import STATISTICS, AnyArray, Array, Examples, Model, Params

ABOUT, ARRAYS = "network.json", "arrays"


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        config: Its settings.
        params: Its parameters, with running statistics if it has any.
        normalization: How images are normalized before it sees them.
        class_names: C names, in the order of its outputs.
        image_shape: `(H, W, K)` of the images.
    """

    config: ModelConfig
    params: Params
    normalization: Normalization
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @cached_property
    def model(self) -> Model:
        """The network's functions."""
        return models.build(self.config, self.image_shape, len(self.class_names))

    @cached_property
    def probabilities(self) -> Callable[[Params, RealSet], Array]:
        """`(params, images) -> [N, C]`, softmax of the logits; compiled once for a number of images."""

        def of_batch(examples: Examples, params: Params) -> Array:
            return jax.nn.softmax(self.model.apply(params, examples.inputs))

        return jax.jit(lambda params, images: sampling.over_all(of_batch, images, params))

    def save(self, folder: str | Path, **about: Any) -> None:
        """Write the network into a folder: its arrays by Orbax, and what they are in `network.json`.

        Args:
            folder: Where to; made if it is not there.
            about: JSON-able values to keep with it, such as its accuracy.

        Raises:
            SettingError: The folder holds something else.
        """
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)  # it is written last: without it the folder holds no network
        arrays = _named(self.params) | {f"normalization.{k}": v for k, v in self.normalization.to_arrays().items()}
        kind = str(arrays.pop("normalization.kind"))
        checkpoint.save(folder / ARRAYS, arrays)
        record = {
            "model": self.config.identity(),
            "class_names": self.class_names,
            "image_shape": self.image_shape,
            "normalization": kind,
            "names": sorted(arrays),
            "arrays": digest_of_arrays(arrays),
            **about,
        }
        write_sealed(folder / ABOUT, plain(record))

    @classmethod
    def load(cls, folder: str | Path, model: ModelConfig | None = None) -> Self:
        """Read a network that `save` wrote.

        Args:
            folder: Where it is.
            model: Its settings, for a network of a user's own: what a folder says is not run unasked.

        Raises:
            SettingError: There is none, it is damaged, or is another one than `model`; its code has changed.
        """
        path = Path(folder) / ABOUT
        if not path.exists():
            raise SettingError(f"{folder} holds no network; give the folder that jaxdd train --out wrote")
        remedy = "train it again"
        record = read_sealed(path, remedy)
        arrays = checkpoint.load(Path(folder) / ARRAYS, record["names"])
        if digest_of_arrays(arrays) != record["arrays"]:
            raise DamagedError(f"{Path(folder) / ARRAYS} is damaged; {remedy}")
        prefix = "normalization."
        fitted = {name.removeprefix(prefix): arrays.pop(name) for name in record["names"] if name.startswith(prefix)}
        shape: tuple[int, int, int] = tuple(record["image_shape"])
        config, names = _named_by(record["model"], model, folder), tuple(record["class_names"])
        like = _shapes(models.build(config, shape, len(names)), shape)
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        params = jax.tree.unflatten(structure, [jnp.asarray(arrays[_name(path)]) for path, _ in paths])
        normalization = normalizations.from_arrays({"kind": np.asarray(record["normalization"]), **fitted})
        return cls(config, params, normalization, names, shape)

    def accuracy(self, split: RealSet) -> float:
        """Compute the fraction of a real split that it classifies right."""
        task = classification(self.model, len(self.class_names))
        split = split._replace(normalization=self.normalization)
        return float(jax.jit(task.measure)(self.params, jax.device_put(split))[task.score])


def _named_by(record: dict[str, Any], given: ModelConfig | None, folder: str | Path) -> ModelConfig:
    """Return the settings that a folder says, of a network of a user's own only if they are given as well."""
    saved = {name: value for name, value in record.items() if name != "sha256"}
    config = models.from_settings(saved)
    if isinstance(config, models.Own) and given is None:
        raise SettingError(
            f"{folder} says that its network is {config}, and what a file says is not run unasked; give "
            f"jaxdd.Network.load({str(folder)!r}, jaxdd.models.Own({config.source!r}))"
        )
    if given is not None and given != config:
        raise SettingError(f"{folder} holds the network {config}, not {given}; leave it out, or name that one")
    if record.get("sha256", code := config.identity().get("sha256")) != code:
        raise SettingError(
            f"{config} has changed since {folder} was written; bring it back, or train the network again"
        )
    return config


def check_folder(folder: Path) -> None:
    """Refuse to write a network over what is none.

    Raises:
        SettingError: The folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file; name a folder for the network")
    unfinished = (f".{ABOUT}", f"{ARRAYS}.")  # what a kill leaves
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if any(not name.startswith(unfinished) for name in names - {ABOUT, ARRAYS}):
        raise SettingError(f"{folder} holds something else than a network; name another folder")


def train_network(
    distilled: Distilled, card: Card, config: ModelConfig, recipe: Recipe | None = None, *, seed: int = 0
) -> Network:
    """Train a network on a set, as evaluation does; on a set that was made in stages, stage by stage.

    Args:
        distilled: A set of images.
        card: What it says of itself.
        config: The network's settings.
        recipe: The training; that of the card by default. A learning rate learned with the set takes precedence.
        seed: Of its first parameters, its batches and their augmentation.

    Returns:
        The network after the last epoch.

    Raises:
        SettingError: The network cannot be built on such images, its outputs are not finite, or the normalization is
            not known.
    """
    check_argument("the set", distilled, Distilled, "give a jaxdd.Distilled, as jaxdd.formats.read returns")
    if isinstance(card.normalization, Unfitted):
        raise SettingError(UNFITTED)
    recipe = recipe or dataclasses.replace(EvaluateConfig().recipe, **card.recipe)
    height, width, channels = distilled.images.shape[1:]
    model = models.build(config, (height, width, channels), len(card.class_names))
    task = classification(model, len(card.class_names))
    lr = None if has_lr_of_recipe(distilled, card) else distilled.lr
    if rates := learning_rates_of_stages(distilled, card, recipe.lr):
        task = after_stages(task, distilled, rates, recipe)

    def fit(key: Array, distilled: Distilled) -> Params:
        return trained(key, task, partial(task.examples, distilled), distilled.size, recipe, lr)[0]

    params = jax.jit(fit)(stage_key(seed, "network"), distilled)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        raise SettingError(f"the network's parameters are not finite; lower recipe.lr, which is {recipe.lr:g}")
    return Network(config, params, card.normalization, card.class_names, (height, width, channels))


def predict(network: Network | str | Path, images: AnyArray) -> np.ndarray:
    """Classify images, as many as there are.

    Args:
        network: A network, or the folder of one; of one of a user's own what `Network.load` gives.
        images: `[N, H, W, K]` uint8, as large as those that it was trained on.

    Returns:
        `[N, C]` float32 probabilities, softmax of its logits, in the order of `network.class_names`.

    Raises:
        SettingError: There is no such network, or the images are of another kind or size.
    """
    network = network if isinstance(network, Network) else Network.load(network)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != network.image_shape or not len(images):
        raise SettingError(
            f"images are {images.dtype} {images.shape}; this network takes uint8 images [N, "
            f"{', '.join(map(str, network.image_shape))}], N at least 1"
        )
    real = RealSet(images, np.zeros(len(images), np.int32), None, network.normalization)
    return np.asarray(network.probabilities(network.params, real))


def _shapes(model: Model, image_shape: tuple[int, int, int]) -> Params:
    params = jax.eval_shape(model.init, jax.random.key(0))
    if model.observe is None:
        return params
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return {**params, STATISTICS: jax.eval_shape(model.observe, params, image)}


def _named(params: Params) -> dict[str, np.ndarray]:
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
