"""CAFE: condensing datasets by aligning features (Wang et al. 2022, arXiv 2203.01531).

Class by class, every feature map of a network should be on average the same for the distilled images as for real ones,
and the mean feature of the distilled images of a class should tell its real images from those of others:

    min_S Σ_l a_l Σ_c ‖ mean_j f_l(s_j) − mean_i f_l(x_i) ‖² + β Σ_i CE(⟨φ(x_i), μ_·⟩, y_i),    μ_c = mean_j φ(s_j)

with the maps f_l after each activation, and the last feature φ. A network is trained on the distilled set between two
steps until it classifies real images differently, and replaced once it no longer does: the dynamic bi-level loop.

Axis letters: B real batch, Q queries, M distilled items, C classes, F features, K accuracies remembered.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import map_over
from jaxdd.core.tasks import Task, all_items
from jaxdd.core.training import shuffle
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, Optimizer, Sources, outer_transforms
from jaxdd.methods.classwise import ClasswiseConfig, trained_on
from jaxdd.settings import AtLeast, NonNegative
from jaxdd.types import Array, Examples, Model, Params, Scalars

REMEMBERED = 10
"""K, accuracies whose range decides about a loop's end, from CAFE's code."""
HALVED = (0.6, 0.8, 0.9)
"""Parts of the steps after which the images' learning rate is halved, from CAFE's code: 1200, 1600, 1800 of 2000."""


@dataclasses.dataclass(frozen=True)
class Config(ClasswiseConfig):
    """Settings of CAFE.

    [published] all defaults, but `steps` and `longest`: its code counts networks, 2000 of them, and trains them without
    a bound.
    """

    name: ClassVar[str] = "cafe"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps, each matching all classes once. A network serves 10 of them or more."""
    init: Literal["real", "noise", "correct", "herding", "k_center"] = "noise"
    """First images: Gaussian noise (published), or chosen real ones."""
    image_optimizer: Optimizer = Optimizer("sgd", 0.1, 0.5)
    """Optimizer of the images; its learning rate is halved after 60, 80 and 90 % of the steps."""
    early_weight: Annotated[float, NonNegative] = 0.1
    """a_l of all maps but the last one, whose weight is 1, as is that of the last feature, which counts twice."""
    discrimination: Annotated[float, NonNegative] = 0.01
    """β, weight of the cross-entropy of real features on the centers of the distilled ones, summed over examples."""
    queries: Annotated[int, AtLeast(1)] = 128
    """Q, real images of each class on which a network is tested, to end the loops."""
    settled: Annotated[float, NonNegative] = 0.04
    """A network is replaced after a step if the last 10 accuracies differ by less than this."""
    moved: Annotated[float, NonNegative] = 0.03
    """The training of a network between two steps ends if its last 10 accuracies differ by more than this."""
    longest: Annotated[int, AtLeast(1)] = 100
    """Epochs after which that training ends all the same."""
    network_batch: Annotated[int, AtLeast(1)] = 256
    """Largest batch of the network's training, of stored images with a factor."""
    network_optimizer: Optimizer = Optimizer("sgd", 0.01, 0.0)
    """Optimizer of the network's training on the distilled set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "learned":
            raise SettingError("method.labels is 'learned', but features do not depend on labels; choose hard or soft")

    @property
    def needs_features(self) -> bool:
        """Yes: they are matched."""
        return True

    def unweighted(self, task: Task) -> Method:
        """Build CAFE for a task, see `aligning_features`."""
        return aligning_features(task, self)


class Recent(NamedTuple):
    """The last accuracies of a network.

    Attributes:
        values: `[K]`, the latest first.
        seen: [] int32, how many there have been.
    """

    values: Array
    seen: Array

    @classmethod
    def none(cls) -> "Recent":
        """Before the first one."""
        return cls(jnp.zeros(REMEMBERED), jnp.int32(0))

    def then(self, value: Array) -> "Recent":
        """Remember one more."""
        return Recent(jnp.roll(self.values, 1).at[0].set(value.astype(self.values.dtype)), self.seen + 1)

    @property
    def full(self) -> Array:
        """Whether there have been K."""
        return self.seen >= REMEMBERED

    @property
    def range(self) -> Array:
        """How far they are apart."""
        return jnp.max(self.values) - jnp.min(self.values)


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        distilled: The set.
        optimizer: State of its optimizer.
        network: θ, the network at which the next step aligns features.
        network_optimizer: State of the optimizer that trains it.
        accuracies: Of θ on queries, after each of its steps.
    """

    distilled: Distilled
    optimizer: optax.OptState
    network: Params
    network_optimizer: optax.OptState
    accuracies: Recent


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C]` keys of the augmentation, which the real and the distilled images of a class share.
        queries: `[C·Q]` real examples to test the network on.
    """

    real: Examples
    keys: Array
    queries: Examples


class Aligned(NamedTuple):
    """What is compared of the images of a class.

    Attributes:
        maps: For each layer, its mean map.
        features: `[B, F]` φ of every image.
        weights: `[B]` of the images, of sum one.
    """

    maps: tuple[Array, ...]
    features: Array
    weights: Array

    @property
    def center(self) -> Array:
        """`[F]`, the mean feature."""
        return self.weights @ self.features


def aligned(model: Model, network: Params, examples: Examples) -> Aligned:
    """Compute the mean feature maps and the last features of the images of a class."""
    assert model.maps is not None
    maps = tuple(jnp.tensordot(examples.weights, x, 1) for x in model.maps(network, examples.inputs))
    return Aligned(maps, model.features(network, examples.inputs), examples.weights)


def feature_loss(synthetic: Aligned, real: Aligned, *, early_weight: float, discrimination: float) -> Array:
    """Compare the images of all classes, and tell the real ones apart by the centers of the distilled ones.

        Σ_l a_l Σ_c ‖ f̄_lc(S) − f̄_lc(B) ‖² + 2 Σ_c ‖ μ_c(S) − μ_c(B) ‖²
            − β Σ_c Σ_i B w_ci log softmax_c'(⟨φ_ci, μ_c'(S)⟩)_c

    Args:
        synthetic: Of the distilled images, with a leading axis C.
        real: Of the real ones, alike.
        early_weight: a_l of all maps but the last, which has 1.
        discrimination: β.

    Returns:
        A scalar.

    References:
        [published] CAFE's code, which adds the cross-entropy of the network on real images, a constant. There the last
        map is the last feature before it is flattened, pooled, and counts once as a map and once as a feature: twice.
    """
    total = jnp.zeros(())
    for i, (s, r) in enumerate(zip(synthetic.maps, real.maps, strict=True), 1):
        total += (1.0 if i == len(real.maps) else early_weight) * jnp.sum((s - r) ** 2)
    centers, batch = jax.vmap(lambda x: x.center)(synthetic), real.weights.shape[-1]
    total += 2 * jnp.sum((centers - jax.vmap(lambda x: x.center)(real)) ** 2)
    told = jax.nn.log_softmax(jnp.einsum("cbf,df->cbd", real.features, centers))
    right = jnp.diagonal(told, axis1=0, axis2=2)  # [B, C]
    return total - discrimination * batch * jnp.sum(real.weights.T * right)


def aligning_features(task: Task, config: Config) -> Method:
    """Build CAFE for a task.

    A step descends `feature_loss` in the images at the network θ. Then θ is tested on queries; if its last 10
    accuracies are within `settled`, a fresh network takes its place, otherwise it is trained on the distilled set until
    10 accuracies are apart by more than `moved`. It logs the loss, the norm of its gradient in the images, the
    accuracy, and for how many epochs the network was trained, 0 if it was replaced.

    Args:
        task: The feature maps of its network are aligned; it has classes.
        config: See `Config`.

    Returns:
        The method; it needs no experts.

    Raises:
        SettingError: The network has no feature maps.

    References:
        [published] arXiv 2203.01531 and its code. [our choice] the queries of a step serve all epochs after it; every
        accuracy counts by itself, where the code adds a tenth of the one before.
    """
    model, classes = task.model, task.items(1)
    if model.maps is None:
        raise SettingError("cafe aligns the feature maps of a network, and this one has none: give its Model maps")
    siamese, augment = (dsa(config.augment, siamese=siamese) for siamese in (True, False))
    trainer = config.network_optimizer.build()
    halving = optax.piecewise_constant_schedule(1.0, {max(int(part * config.steps), 1): 0.5 for part in HALVED})
    images = optax.chain(config.image_optimizer.build(), optax.scale_by_schedule(halving))
    optimizer = optax.partition({**outer_transforms(None), "inputs": images}, Distilled._make(Distilled._fields))

    def fresh(key: Array) -> tuple[Params, optax.OptState]:
        network = model.init(key)
        return network, trainer.init(network)

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del sources
        network, network_state = fresh(key)
        return State(distilled, optimizer.init(distilled), network, network_state, Recent.none())

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        real_key, augment_key, query_key = jax.random.split(key, 3)
        real, query = (
            sampling.take(sources.examples, sampling.classwise(key, sources.examples, size))
            for key, size in ((real_key, config.real_batch), (query_key, config.queries))
        )
        queries = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), query)
        queries = queries._replace(weights=queries.weights / classes)
        return Batch(real, jax.random.split(augment_key, classes), queries)

    def of_class(entry: tuple[Examples, Array], network: Params) -> Aligned:
        examples, key = entry
        return aligned(model, network, examples._replace(inputs=siamese(key, examples.inputs)))

    def loss_at(distilled: Distilled, network: Params, batch: Batch) -> Array:
        sets = jax.vmap(lambda of_class: all_items(task, of_class))(distilled.by_class(classes))
        synthetic, real = (map_over(of_class, (x, batch.keys), network) for x in (sets, batch.real))
        return feature_loss(synthetic, real, early_weight=config.early_weight, discrimination=config.discrimination)

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        return loss_at(distilled, state.network, batch)

    def accuracy(network: Params, queries: Examples) -> Array:
        told = jnp.argmax(model.apply(network, queries.inputs), -1)
        return jnp.mean(told == jnp.argmax(queries.targets, -1))

    def epoch(key: Array, network: Params, state: optax.OptState, distilled: Distilled) -> tuple:
        order_key, augment_key = jax.random.split(key)
        order = shuffle(order_key, distilled.size, config.network_batch)

        def batch_of(indices: Array, key: Array) -> Examples:
            examples = task.examples(distilled, indices)
            return examples._replace(inputs=augment(key, examples.inputs))

        return trained_on(task.losses, trainer, batch_of, (network, state), order, augment_key)

    def train(key: Array, state: State, distilled: Distilled, queries: Examples) -> tuple:
        def goes_on(carry: tuple) -> Array:
            _, _, recent = carry
            return (recent.seen < config.longest) & ~(recent.full & (recent.range > config.moved))

        def body(carry: tuple) -> tuple:
            network, optimizer_state, recent = carry
            key_of_epoch = jax.random.fold_in(key, recent.seen)
            network, optimizer_state = epoch(key_of_epoch, network, optimizer_state, distilled)
            return network, optimizer_state, recent.then(accuracy(network, queries))

        begin = (state.network, state.network_optimizer, Recent.none())
        return jax.lax.while_loop(goes_on, body, begin)

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        loss, grads = jax.value_and_grad(loss_at)(state.distilled, state.network, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.distilled)
        distilled = optax.apply_updates(state.distilled, updates)
        recent = state.accuracies.then(accuracy(state.network, batch.queries))

        def replaced() -> tuple:
            return *fresh(key), Recent.none(), jnp.int32(0)

        def trained() -> tuple:
            network, trained_state, epochs = train(key, state, distilled, batch.queries)
            return network, trained_state, recent, epochs.seen

        network, network_state, remembered, epochs = jax.lax.cond(
            recent.full & (recent.range < config.settled), replaced, trained
        )
        logged = {
            "loss": loss,
            "image_gradient": optax.tree.norm(grads.inputs),
            "query_accuracy": recent.values[0],
            "network_epochs": epochs.astype(loss.dtype),
        }
        return State(distilled, optimizer_state, network, network_state, remembered), logged

    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
