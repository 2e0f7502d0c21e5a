"""Training a network on a saved set, to be used: `jaxdd train SET --model resnet18 --out network`."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

from jaxdd.app import sets
from jaxdd.app.common import Common
from jaxdd.app.sets import Given
from jaxdd.core.normalization import Unfitted
from jaxdd.core.training import Recipe
from jaxdd.data import DataConfig
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig, network
from jaxdd.evaluation.rows import check_fits, doubt_of_data
from jaxdd.formats import Reading
from jaxdd.models import ConvNet, ModelConfig
from jaxdd.settings import Seed

log = logging.getLogger("jaxdd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Given, Common):
    """Train a network on a saved set, and keep it."""

    out: str = "network"
    """A folder for the network; jaxdd.predict reads it."""
    score: bool = True
    """Score it on the test split of the data, too."""
    seed: Annotated[int, Seed] = 0
    """Seed of the network; the set's by default."""
    model: ModelConfig = ConvNet()
    """The network; that of the set by default."""
    recipe: Recipe = EvaluateConfig().recipe
    """The training; that of the set by default. A learning rate that was learned with the set takes precedence."""
    data: DataConfig = DataConfig()
    """The dataset that the set was distilled from: for its test split, and for the matrices of a whitening that the
    set's file leaves out."""
    read: Reading = Reading()
    """What a file in a peer's format does not say of itself."""


def train(command: Train) -> float | None:
    """Train a network as a command says, and write it.

    Returns:
        Its accuracy on the test split, if that was asked for.

    Raises:
        SettingError: Not one set or more than one network is named, the folder holds something else, or the set does
            not fit the data.
    """
    if len(command.sets) != 1 or len(command.networks_named) > 1:
        raise SettingError("train needs one set and one network: jaxdd train distilled.npz --model resnet18")
    network.check_folder(Path(command.out))
    dataset = sets.load(command.data) if command.score else None
    [(name, (distilled, card))] = sets.read(command.sets, dataset, command.read).items()
    if isinstance(card.normalization, Unfitted):  # by the data, which are read only when they are needed
        dataset = sets.load(command.data)
        [(name, (distilled, card))] = sets.read(command.sets, dataset, command.read).items()
    if dataset is not None:
        check_fits(name, distilled, card, dataset)
        if doubt := doubt_of_data(name, card, dataset.name):
            log.warning("%s", doubt)
    fitted = network.train_network(distilled, card, command.model, command.recipe, seed=command.seed)
    accuracy = fitted.accuracy(dataset.test_set()) if dataset is not None and command.score else None
    fitted.save(command.out, trained_on=command.sets[0], dataset=card.dataset, accuracy=accuracy)
    return accuracy
