"""DC: dataset condensation with gradient matching (Zhao et al. 2021, arXiv 2006.05929), and its successors.

Class by class, the distilled images should give a network the gradient that real images give it:

    min_S Σ_c D(∇_θ L(S_c; θ), ∇_θ L(B_c; θ))

with real batches B_c, at a network θ that is drawn anew every `outer_loop` steps and trained on the distilled set in
between. Two successors are settings of it:

- DSA (Zhao & Bilen 2021, arXiv 2102.08259): `augment` set. Real and distilled images of a class share its parameters.
- IDC (Kim et al. 2022, arXiv 2205.14959): `network="real"`, `distance="convolution_mse"`, `factor=2`, and a recipe for
  the network's training; the presets named idc have all of it. The network is trained on real images, and every stored
  image is cut into f × f patches, each of which is enlarged to an image.

Axis letters: B real batch, b network mini-batch, M distilled items, C classes.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import numpy as np
import optax

from jaxdd.core import sampling
from jaxdd.core.augment import cutmix, dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import GRADIENT_DISTANCES
from jaxdd.core.parallel import split
from jaxdd.core.tasks import Task, all_items, mean_loss
from jaxdd.core.training import shuffle
from jaxdd.methods.base import Method, Optimizer, Sources, outer_optimizer
from jaxdd.methods.classwise import ClasswiseConfig, slope_over_classes, sum_over_classes, trained_on
from jaxdd.settings import AtLeast, Between, NonNegative
from jaxdd.types import Array, Examples, Params, Scalars

PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Images per class to (outer loop, inner loop), from DC's code."""
IDC_LOOPS = (100, 8)
"""Outer loop and inner loop of IDC's code: 500 real examples in batches of 64 after each of 100 steps. On CIFAR-10 it
takes 2000 examples, an inner loop of 32."""


@dataclasses.dataclass(frozen=True)
class Config(ClasswiseConfig):
    """Settings of DC, and of DSA and IDC."""

    name: ClassVar[str] = "dc"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps, each matching all classes once (published: 1000 networks, with `outer_loop` steps each)."""
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "noise"
    """First images: Gaussian noise (published for DC), random real ones (published for DSA), random real ones that the
    first expert classifies right, or a coreset."""
    image_optimizer: Optimizer = Optimizer("sgd", 0.1, 0.5)
    """Optimizer of the images."""
    distance: Literal["cosine", "global_cosine", "mse", "convolution_mse", "convolution_l1"] = "cosine"
    """Between the gradients: one cosine per output unit and layer (DC); one over all parameters; squared error; squared
    or absolute error on the kernels of convolutions (IDC: squared on CIFAR-10, absolute on Fashion-MNIST)."""
    outer_loop: Annotated[int | None, AtLeast(1)] = None
    """Steps that a network serves before a fresh one is drawn; by default as published for `ipc` (100 for a network
    trained on real data), interpolated between."""
    inner_loop: Annotated[int | None, AtLeast(0)] = None
    """Training of the network after each step but its last: epochs on the distilled set, or SGD steps on real batches;
    by default as published for `ipc` (8 for a network trained on real data), interpolated between."""
    network: Literal["distilled", "real"] = "distilled"
    """What the network is trained on between steps: the distilled set (DC, DSA), or real data (IDC)."""
    network_batch: Annotated[int, AtLeast(1)] = 256
    """b, largest batch of the network's training, on the distilled set of stored images with a factor (published for
    IDC: 64)."""
    network_optimizer: Optimizer = Optimizer("sgd", 0.01, 0.0)
    """Optimizer of the network's training (published: no momentum for DC and DSA, 0.9 for IDC)."""
    network_weight_decay: Annotated[float, NonNegative] = 0.0
    """Weight decay of the network's training (published for IDC: 5e-4)."""
    network_augment: str | None = None
    """Augmentation of the network's training; by default that of the matching (published for IDC: that without cutout,
    color+crop)."""
    network_cutmix: Annotated[float, Between(0, 1)] = 0.0
    """Probability that a batch of the network's training is mixed by cutmix (published for IDC: 0.5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        dsa(self.network_augment or "none", siamese=False)  # refuses an unknown operation now, before any work

    @property
    def loops(self) -> tuple[int, int]:
        """(OL, IL): how many steps a network serves, and how it is trained between them."""
        outer, inner = IDC_LOOPS if self.network == "real" else published_loops(self.ipc)
        return outer if self.outer_loop is None else self.outer_loop, (
            inner if self.inner_loop is None else self.inner_loop
        )

    def unweighted(self, task: Task) -> Method:
        """Build DC for a task, see `matching_gradients`."""
        return matching_gradients(task, self)


def published_loops(ipc: int) -> tuple[int, int]:
    """Return the outer and inner loop for a number of images per class: `PUBLISHED_LOOPS`, linearly interpolated.

    Args:
        ipc: Images per class; beyond 50 the loops stay those of 50.

    Returns:
        (OL, IL). [published] at the entries of the table; [our choice] between them.
    """
    known = list(PUBLISHED_LOOPS)
    outer, inner = (
        round(float(np.interp(ipc, known, values))) for values in zip(*PUBLISHED_LOOPS.values(), strict=True)
    )
    return outer, inner


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        distilled: The set.
        optimizer: State of its optimizers.
        network: θ, the network at which the next step matches gradients.
        network_optimizer: State of the optimizer that trains it.
    """

    distilled: Distilled
    optimizer: optax.OptState
    network: Params
    network_optimizer: optax.OptState


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C]` keys of the augmentation, which the real and the distilled images of a class share.
        last: [] bool, whether the network serves its last step: it is replaced then, not trained.
        training: `[IL, b]` real batches to train the network on; None where it is trained on the distilled set.
    """

    real: Examples
    keys: Array
    last: Array
    training: Examples | None


def matching_gradients(task: Task, config: Config) -> Method:
    """Build DC for a task.

    A step descends `Σ_c D(∇_θ L(A_c(S_c); θ), ∇_θ L(A_c(B_c); θ))` in the images, and in the labels if they are
    learned; `L(B_c; θ) = Σ_i w_i ℓ_i(θ)` with the weights w of the batch. Then θ is trained, or replaced after
    `outer_loop` steps. It logs the distance, summed over classes, and the norm of its gradient in the images.

    Args:
        task: Its network and losses; it has classes.
        config: See `Config`.

    Returns:
        The method; it needs no experts.
    """
    model, losses, classes = task.model, task.losses, task.items(1)
    distance = GRADIENT_DISTANCES[config.distance]
    siamese = dsa(config.augment, siamese=True)
    augment = dsa(config.augment if config.network_augment is None else config.network_augment, siamese=False)
    optimizer = outer_optimizer(config.image_optimizer, config.label_optimizer if config.labels == "learned" else None)
    trainer = config.network_optimizer.build()
    if config.network_weight_decay:
        trainer = optax.chain(optax.add_decayed_weights(config.network_weight_decay), trainer)
    outer_loop, inner_loop = config.loops

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del sources
        network = model.init(key)
        return State(distilled, optimizer.init(distilled), network, trainer.init(network))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        real_key, augment_key, training_key = jax.random.split(key, 3)
        real = sampling.take(sources.examples, sampling.classwise(real_key, sources.examples, config.real_batch))
        training = None
        if config.network == "real":
            rows = sampling.uniform(training_key, sources.examples, max(inner_loop, 1) * config.network_batch)
            training = sampling.take(sources.examples, rows.reshape(-1, config.network_batch)[:inner_loop])
        keys = jax.random.split(augment_key, classes)
        return Batch(real, keys, (step + 1) % outer_loop == 0, training)

    def of_class(synthetic: Distilled, real: Examples, key: Array, network: Params) -> Array:
        def gradient(examples: Examples) -> Params:
            return jax.grad(mean_loss(losses, examples._replace(inputs=siamese(key, examples.inputs))))(network)

        return distance(gradient(all_items(task, synthetic)), gradient(real))

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        return sum_over_classes(of_class, distilled, classes, (batch.real, batch.keys), state.network)

    def train(key: Array, state: State, distilled: Distilled, batch: Batch) -> tuple[Params, optax.OptState]:
        order_key, augment_key = jax.random.split(key)
        if batch.training is None:
            size = distilled.size
            epochs = jax.vmap(lambda key: shuffle(key, size, config.network_batch))(
                jax.random.split(order_key, inner_loop)
            )
            draws: Examples | Array = epochs.reshape(-1, epochs.shape[-1])
        else:
            draws = batch.training

        def batch_of(drawn: Examples | Array, key: Array) -> Examples:
            examples = split(drawn if isinstance(drawn, Examples) else task.examples(distilled, drawn))
            examples = examples._replace(inputs=augment(key, examples.inputs))
            return cutmix(key, examples, config.network_cutmix)

        begin = (state.network, state.network_optimizer)
        return trained_on(losses, trainer, batch_of, begin, draws, augment_key)

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        entries = (batch.real, batch.keys)
        loss, grads = slope_over_classes(of_class, state.distilled, classes, entries, state.network)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.distilled)
        distilled = optax.apply_updates(state.distilled, updates)

        def fresh(key: Array) -> tuple[Params, optax.OptState]:
            network = model.init(key)
            return network, trainer.init(network)

        network = jax.lax.cond(batch.last, fresh, lambda key: train(key, state, distilled, batch), key)
        logged = {"loss": loss, "image_gradient": optax.tree.norm(grads.inputs)}
        return State(distilled, optimizer_state, *network), logged

    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
