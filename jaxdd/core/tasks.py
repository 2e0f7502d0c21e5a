"""Tasks, what a network is asked to do: classification. One of your own is a call of `Task` with functions like these.

Axis letters: B batch, C classes, N real examples, M distilled items.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdd.core import sampling
from jaxdd.core.distilled import HARD_LABEL_SCALE, Distilled
from jaxdd.core.sampling import RealSet
from jaxdd.errors import SettingError
from jaxdd.types import Array, Examples, Losses, Model, Params, PyTree, Scalars


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is asked to do: all that experts, methods, influence and evaluation know of a problem.

    `jaxdd.classification(model, classes)` makes that of a classifier; another task is a call of this class.

    Attributes:
        name: What to call it in messages.
        model: The network.
        losses: `(params, examples) -> [B]`, the loss of each example.
        examples: `(distilled, indices [b]) -> Examples`, distilled items as the loss sees them, differentiable in the
            set.
        labels: `(targets [M,*]) -> labels [M,*]`, the first labels of items whose targets are known: what `examples`
            turns into these targets.
        measure: `(params, split) -> {name: scalar or array}`, how good a network is on a real split.
        score: Which of these, a scalar, decides between two sets: the higher, the better.
        classes: C, where examples belong to classes; None where they do not. A set of `ipc` items per class has
            C · ipc items, and `ipc` in all where there are no classes.
        soft_labels: Whether what a network makes of an item can serve as its label, as logits do. Where not, labels
            that are learned begin as those of the real targets.
        separable: Whether the loss of an example does not depend on the others of its batch. Influence needs that.
    """

    name: str
    model: Model
    losses: Losses
    examples: Callable[[Distilled, Array], Examples]
    labels: Callable[[PyTree], PyTree]
    measure: Callable[[Params, RealSet], Scalars]
    score: str
    classes: int | None = None
    soft_labels: bool = True
    separable: bool = True

    @property
    def size(self) -> int:
        """P, the number of the network's parameters."""
        return self._flattening[0]

    @property
    def unravel(self) -> Callable[[Array], Params]:
        """`[P] -> params`, the inverse of `jax.flatten_util.ravel_pytree`."""
        return self._flattening[1]

    @cached_property
    def _flattening(self) -> tuple[int, Callable[[Array], Params]]:
        flat, unravel = ravel_pytree(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), self._shapes))
        return flat.size, unravel

    @cached_property
    def _shapes(self) -> PyTree:
        return jax.eval_shape(self.model.init, jax.random.key(0))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the network's tensors, `body/conv_0/kernel`, with their shapes, in the order of `[P]`."""
        leaves = jax.tree_util.tree_flatten_with_path(self._shapes)[0]
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}

    @property
    def tensors(self) -> dict[str, int]:
        """The same names with the tensors' sizes."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    def items(self, per_class: int) -> int:
        """Count the items of a set that has so many of each class."""
        return per_class * (self.classes or 1)


def classification(model: Model, classes: int) -> Task:
    """Build the task of classifying images: cross-entropy, labels that are logits, accuracy.

    Args:
        model: The network; its outputs are logits `[B, C]`.
        classes: C.

    Returns:
        The task. Distilled labels are logits `[M, C]` whose softmax are the targets, hard ones
        `HARD_LABEL_SCALE · onehot`.

    Raises:
        ValueError: `classes` is not positive.
    """
    if classes < 1:
        raise SettingError(f"classes is {classes}; classification needs at least 1")
    return Task(
        name="classification",
        model=model,
        losses=cross_entropy(model),
        examples=softened,
        labels=lambda targets: HARD_LABEL_SCALE * targets,
        measure=lambda params, split: accuracies(model, classes, params, split),
        score="accuracy",
        classes=classes,
        separable=model.observe is None,  # batch normalization joins the examples of a batch
    )


def check_task(task: Task) -> None:
    """Refuse what is no task, such as a bare model.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(task, Task):
        raise SettingError(
            f"a task is needed and this is a {type(task).__name__}: say what the network does, such as "
            "jaxdd.classification(model, dataset.num_classes)"
        )


def cross_entropy(model: Model) -> Losses:
    """Build the per-example cross-entropy `ℓ_i(θ) = −Σ_c y_ic log softmax(f(θ, x_i))_c`.

    Args:
        model: The network f.

    Returns:
        `(params, examples) -> [B]`, for hard and soft targets alike.
    """

    def losses(params: Params, examples: Examples) -> Array:
        logits = model.apply(params, examples.inputs)
        return -jnp.sum(examples.targets * jax.nn.log_softmax(logits), axis=-1)

    return losses


def softened(distilled: Distilled, indices: Array) -> Examples:
    """Return the distilled items at `indices [B]` as examples with targets softmax(labels) and equal weights."""
    batch = indices.shape[-1]
    inputs = distilled.inputs[indices]
    weights = jnp.full((batch,), 1 / batch, inputs.dtype)
    return Examples(inputs, jax.nn.softmax(distilled.labels[indices]), weights, indices)


def accuracies(model: Model, classes: int, params: Params, split: RealSet) -> Scalars:
    """Compute the fraction of a split that a network classifies right, and of each class of it.

    Args:
        model: The network.
        classes: C.
        params: The network's parameters.
        split: Labeled examples.

    Returns:
        `accuracy` [], NaN if the network has diverged; `class_accuracy` [C], NaN for a class without examples.
    """

    def correct(examples: Examples, params: Params) -> Array:
        logits = model.apply(params, examples.inputs)
        right = jnp.argmax(logits, -1) == jnp.argmax(examples.targets, -1)
        # Logits that are not numbers have an argmax too: they would pass for a network at chance.
        return jnp.where(jnp.isfinite(logits).all(-1), right.astype(float), jnp.nan)

    right = sampling.over_all(correct, split, params)
    of_class = jax.nn.one_hot(split.targets, classes).T
    return {"accuracy": jnp.mean(right), "class_accuracy": of_class @ right / of_class.sum(1)}


def all_items(task: Task, distilled: Distilled) -> Examples:
    """Return all items of a set as examples of equal weights."""
    return task.examples(distilled, jnp.arange(distilled.size))


def mean_loss(losses: Losses, examples: Examples) -> Callable[[Params], Array]:
    """Build `L(θ) = Σ_i w_i ℓ_i(θ)` of fixed examples as a function of the parameters alone.

    Args:
        losses: Per-example losses.
        examples: The examples and their weights w, which sum to one.

    Returns:
        `(params) -> scalar`.
    """
    return lambda params: jnp.vdot(examples.weights, losses(params, examples))
