"""What methods share that match a statistic of every class: DC, DM, NCFM, and IWD around any of them.

Such a method has batches with a field `real`, examples `[C, B]` of one class a row, states with a field `distilled`,
and an `objective`, in which the weights of these examples can be moved.

Axis letters: B real batch, C classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import map_over, sum_over
from jaxdd.core.tasks import Task, mean_loss
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method
from jaxdd.methods.formation import FormationConfig, formed
from jaxdd.methods.weighting import Weighting, weighted
from jaxdd.settings import AtLeast
from jaxdd.types import Array, Examples, Losses, Params, PyTree


@dataclasses.dataclass(frozen=True)
class ClasswiseConfig(FormationConfig):
    """Settings of every method that matches class by class."""

    real_batch: Annotated[int, AtLeast(1)] = 256
    """B, real examples of each class."""
    weighting: Weighting | None = None
    """Weigh the real examples by their influence (IWD); any option of it, such as --method.weighting.temperature 2,
    turns it on. By default all weigh the same."""

    @property
    def title(self) -> str:
        """The name, and whether real examples are weighed."""
        return self.name if self.weighting is None else f"{self.name} with influence weights"

    @property
    def needs_validation(self) -> bool:
        """Whether examples are weighed by what they do on the validation split."""
        return self.weighting is not None and self.weighting.evaluated_on == "validation"

    def build(self, task: Task) -> Method:
        """Build the method for a task, its real examples weighed if that is asked for.

        Raises:
            ValueError: The task has no classes, or the weighting would never begin.
        """
        require_classes(task, self.name)
        base = formed(self.unweighted, task, self.factor)
        if self.weighting is None:
            return base
        if 0 < self.steps <= self.weighting.warm_up:
            raise SettingError(
                f"method.weighting.warm_up is {self.weighting.warm_up} and method.steps {self.steps}: all weights "
                "would stay uniform; lower the first (a third of the steps did well), or leave method.weighting out"
            )
        return weighted(task, base, self.weighting)

    def unweighted(self, task: Task) -> Method:
        """Build the method with equal weights."""
        raise NotImplementedError


def require_classes(task: Task, name: str) -> None:
    """Refuse a task without classes, for a method of this name."""
    if task.classes is None:
        raise SettingError(
            f"{name} matches class by class, and the task {task.name!r} has no classes; choose mtt or infmatch"
        )


def trained_on(
    losses: Losses,
    optimizer: optax.GradientTransformation,
    batch_of: Callable[[PyTree, Array], Examples],
    begin: tuple[Params, optax.OptState],
    draws: PyTree,
    key: Array,
) -> tuple[Params, optax.OptState]:
    """Train the network of a method between two of its steps, one step on each of a sequence of batches.

    Args:
        losses: Per-example losses.
        optimizer: Of the network.
        batch_of: `(draw, key) -> Examples`, a batch as the network sees it, augmented.
        begin: The network's parameters, and the state of its optimizer.
        draws: Tree of arrays with a leading axis, what makes each batch: indices, or examples.
        key: Gives every batch one of its own.

    Returns:
        Parameters and state after the last batch.
    """

    def step(carry: tuple[Params, optax.OptState], entry: tuple[PyTree, Array]) -> tuple:
        params, state = carry
        examples = batch_of(*entry)
        updates, state = optimizer.update(jax.grad(mean_loss(losses, examples))(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    count = len(jax.tree.leaves(draws)[0])
    return jax.lax.scan(step, begin, (draws, jax.random.split(key, count)))[0]


def sum_over_classes(
    function: Callable[..., Array], distilled: Distilled, classes: int, entries: tuple[PyTree, ...], *shared: PyTree
) -> Array:
    """Compute `Σ_c f(S_c, …)`, one class after another on each device.

    Side by side, C batches need C times the memory, and on CPUs they are slower: DC's gradient took 2.5 to 4 times as
    long on ten classes of digits or 28×28 images.

    Args:
        function: f, `(S_c, *entries of class c, *shared) -> scalar`.
        distilled: The set S, its items in the order of the classes.
        classes: C.
        entries: Trees of arrays with a leading axis C.
        shared: What all classes are given, such as the network, see `jaxdd.core.parallel.map_over`.

    Returns:
        A scalar. A gradient computes the terms again, class by class, and needs the memory of one.
    """
    return sum_over(
        lambda of_class, *shared: function(*of_class, *shared), (distilled.by_class(classes), *entries), *shared
    )


def slope_over_classes(
    function: Callable[..., Array], distilled: Distilled, classes: int, entries: tuple[PyTree, ...], *shared: PyTree
) -> tuple[Array, Distilled]:
    """Compute `sum_over_classes` and its gradient in S.

    The gradient of a class is taken as soon as its term is computed, so that nothing of a class is kept for the next:
    the memory is that of one class.
    """
    sets, pull = jax.vjp(lambda distilled: distilled.by_class(classes), distilled)
    slope = jax.value_and_grad(function)
    values, slopes = map_over(lambda of_class, *shared: slope(*of_class, *shared), (sets, *entries), *shared)
    return jnp.sum(values), pull(slopes)[0]
