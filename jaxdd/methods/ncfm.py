"""NCFM: matching neural characteristic functions (Wang et al. 2025, arXiv 2502.20653).

Class by class, the distribution of the features of the distilled images should be that of real images, as seen by its
characteristic function `Φ(t) = E exp(𝑖 ⟨t, φ⟩)` at random frequencies t, for networks at any stage of training; and a
trained network should still classify the distilled images as what they are. With `sampler`, a small network learns at
which frequencies the two differ most, as the adversary of the distilled set.

Axis letters: B real batch, C classes, D frequencies, F features, G groups of frequencies, P parameters.
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdd.core import sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import characteristic_distance, characteristic_function, unit_norm
from jaxdd.core.tasks import Task, all_items, mean_loss
from jaxdd.errors import SettingError
from jaxdd.methods.base import Method, Optimizer, Sources, outer_transforms
from jaxdd.methods.classwise import ClasswiseConfig, slope_over_classes, sum_over_classes
from jaxdd.models.layers import uniform_fan_in
from jaxdd.settings import AtLeast, Between, NonNegative
from jaxdd.types import Array, Examples, Params, Scalars, Snapshots

GROUP = 16
"""Frequencies that share a draw of their scales, from NCFM's code."""


@dataclasses.dataclass(frozen=True)
class Config(ClasswiseConfig):
    """Settings of NCFM."""

    name: ClassVar[str] = "ncfm"
    steps: Annotated[int, AtLeast(0)] = 1000
    """Outer steps."""
    image_optimizer: Optimizer = Optimizer("adam", 0.01)
    """Optimizer of the images."""
    frequencies: Annotated[int, AtLeast(1)] = 4096
    """D, frequencies at which the characteristic functions are compared, drawn anew for every class and step."""
    amplitude: Annotated[float, Between(0, 1)] = 0.5
    """α, weight of the difference in amplitude; that in phase has 1 − α."""
    calibration: Annotated[float, NonNegative] = 1.0
    """Weight of the cross-entropy of the distilled images in a trained expert; 0 for none."""
    sampler: Optimizer | None = None
    """Optimizer of a network that scales the frequencies to raise the distance; any option of it, such as
    --method.sampler.lr 0.01, turns it on. By default frequencies are standard normal, as in the released settings for
    CIFAR-10; the paper reports 68.3 without and 71.8 with it there, at ten images per class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler is not None and self.frequencies < 2 * GROUP:
            raise SettingError(
                f"method.frequencies is {self.frequencies}; method.sampler normalizes over groups of {GROUP} of them: "
                f"take {2 * GROUP} or more, or leave method.sampler out"
            )
        if self.labels == "learned":
            raise SettingError(
                "method.labels is 'learned', but only the calibration sees labels: they would become whatever the "
                "expert says; choose hard, or soft, which are the experts' own"
            )

    @property
    def snapshots_needed(self) -> int:
        """The first one; the other end of the interpolation is what training ends with."""
        return 1

    @property
    def needs_features(self) -> bool:
        """Yes: they are matched."""
        return True

    def unweighted(self, task: Task) -> Method:
        """Build NCFM for a task, see `matching_characteristic_functions`."""
        return matching_characteristic_functions(task, self)


class Variables(NamedTuple):
    """What is learned: the distilled set, and the sampler's layers (`()` without one), which oppose it."""

    distilled: Distilled
    sampler: Params


class State(NamedTuple):
    """What the next step needs: what is learned, and the state of its optimizers."""

    distilled: Distilled
    sampler: Params
    optimizer: optax.OptState


class Batch(NamedTuple):
    """What a step draws.

    Attributes:
        real: `[C, B]` real examples of every class.
        keys: `[C, 2]` keys of the augmentation, which the real and the distilled images of a class share, and of the
            frequencies.
        start: θ^0 of an expert.
        final: `[P]` its last parameters θ^T.
        progress: [] u, how far between the two the network is.
    """

    real: Examples
    keys: Array
    start: Snapshots
    final: Array
    progress: Array


def new_sampler(key: Array, features: int) -> Params:
    """Draw the first layers of a sampler of frequencies, see `scales`.

    Args:
        key: Random key.
        features: F.

    Returns:
        Three layers, each with kernel `[F, F]`, bias, scale and shift `[1, F]`. [published], initialized as in PyTorch.
    """
    bounded = uniform_fan_in(features)

    def layer(key: Array) -> dict[str, Array]:
        kernel_key, bias_key = jax.random.split(key)
        kernel, bias = bounded(kernel_key, (features, features)), bounded(bias_key, (1, features))
        return {"kernel": kernel, "bias": bias, "scale": jnp.ones_like(bias), "shift": jnp.zeros_like(bias)}

    return tuple(layer(key) for key in jax.random.split(key, 3))


def scales(sampler: Params, noise: Array) -> Array:
    """Compute the scales of frequencies: a network of three layers, `tanh ∘ N₃ ∘ λ ∘ N₂ ∘ λ ∘ N₁`.

    `N_l(x) = s_l ⊙ normalize(x W_l + b_l) + h_l`, normalized over the G rows (ε = 1e-5), λ the leaky ReLU of slope 0.2.

    Args:
        sampler: Its layers, see `new_sampler`.
        noise: `[G, F]`, standard normal.

    Returns:
        `[G, F]` in (−1, 1). [published] the network, NCFM's code.
    """
    x = noise
    for i, layer in enumerate(sampler):
        x = jax.nn.standardize(x @ layer["kernel"] + layer["bias"], axis=0, epsilon=1e-5)
        x = x * layer["scale"] + layer["shift"]
        x = jnp.tanh(x) if i == len(sampler) - 1 else jax.nn.leaky_relu(x, 0.2)
    return x


def frequencies(key: Array, sampler: Params, count: int, features: int) -> Array:
    """Draw frequencies `t = z ⊙ scales`, z ~ N(0, I): a mixture of normal distributions, `GROUP` of each.

    Args:
        key: Random key.
        sampler: Its layers, or `()` for scales of one.
        count: D.
        features: F.

    Returns:
        `[D, F]`, differentiable in the sampler.

    References:
        [published] NCFM, arXiv 2502.20653: the mixture. Its released code has the normal factor commented out, and
        takes the scales themselves, each of them 16 times.
    """
    if not sampler:
        return jax.random.normal(key, (count, features))
    normal_key, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (-(-count // GROUP), features))
    return jax.random.normal(normal_key, (count, features)) * jnp.repeat(scales(sampler, noise), GROUP, axis=0)[:count]


def matching_characteristic_functions(task: Task, config: Config) -> Method:
    """Build NCFM for a task.

    A step descends, in the images,

        Σ_c [ 300 · mean_t sqrt(α (|Φ_r| − |Φ_s|)² + (1 − α) · 2 (|Φ_r| |Φ_s| − Re Φ_r Φ_s*)) + λ L(A_c(S_c); θ^T) ]

    where `Φ_r(t) = Σ_i w_i exp(𝑖 ⟨t, φ_i⟩)` with the weights w of the batch, Φ_s alike, the φ are features of norm one
    at `θ = (1 − u) θ^0 + u θ^T`, u ~ U(0, 1), and t ~ N(0, I), or, with a sampler, is drawn by it. The sampler ascends
    the same sum.

    Args:
        task: The features of its network are matched; it has classes.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories.

    References:
        [published] the terms, networks between the start and the end of training, and an adversary that draws
        frequencies. [our choice] one step on the sum of both terms and of all classes, where the published code takes
        one for each class and term, with AdamW on clamped pixels, and a rate that falls where the loss is flat.
    """
    model, classes, augment = task.model, task.items(1), dsa(config.augment, siamese=True)
    ascent = optax.set_to_zero() if config.sampler is None else optax.chain(optax.scale(-1.0), config.sampler.build())
    optimizer = optax.partition(
        {**outer_transforms(config.image_optimizer), "sampler": ascent},
        Variables(Distilled._make(Distilled._fields), "sampler"),
    )

    def init(key: Array, distilled: Distilled, sources: Sources) -> State:
        del sources
        sampler: Params = ()
        if config.sampler is not None:
            features = jax.eval_shape(lambda: model.features(model.init(key), all_items(task, distilled).inputs))
            sampler = new_sampler(key, features.shape[-1])
        return State(distilled, sampler, optimizer.init(Variables(distilled, sampler)))

    def sample(key: Array, step: Array, sources: Sources) -> Batch:
        del step
        expert_key, progress_key, real_key, class_key = jax.random.split(key, 4)
        rows = sampling.classwise(real_key, sources.examples, config.real_batch)
        expert = jax.random.randint(expert_key, (), 0, sources.experts.num_experts)
        return Batch(
            sampling.take(sources.examples, rows),
            jax.random.split(class_key, (classes, 2)),
            Snapshots(expert, jnp.zeros_like(expert)),
            jnp.asarray(sources.experts.final)[expert],
            jax.random.uniform(progress_key),
        )

    def of_class(
        distilled: Distilled, real: Examples, keys: Array, params: Params, trained: Params, sampler: Params
    ) -> Array:
        augment_key, frequency_key = keys
        synthetic = all_items(task, distilled)
        synthetic, real = (e._replace(inputs=augment(augment_key, e.inputs)) for e in (synthetic, real))
        phi_s, phi_r = (unit_norm(model.features(params, e.inputs)) for e in (synthetic, real))
        t = frequencies(frequency_key, sampler, config.frequencies, phi_s.shape[-1]).astype(phi_s.dtype)
        distance = characteristic_distance(
            characteristic_function(phi_s, synthetic.weights, t),
            characteristic_function(phi_r, real.weights, t),
            amplitude=config.amplitude,
        )
        return distance + config.calibration * mean_loss(task.losses, synthetic)(trained)

    def networks(batch: Batch) -> tuple[Params, Params]:
        """The network whose features are matched, and the trained one."""
        start, final = batch.start.params, batch.final
        return task.unravel(start + batch.progress * (final - start)), task.unravel(final)

    def total(variables: Variables, batch: Batch) -> Array:
        entries, shared = (batch.real, batch.keys), (*networks(batch), variables.sampler)
        return sum_over_classes(of_class, variables.distilled, classes, entries, *shared)

    def objective(distilled: Distilled, state: State, batch: Batch) -> Array:
        return total(Variables(distilled, state.sampler), batch)

    def slope(variables: Variables, batch: Batch) -> tuple[Array, Variables]:
        if config.sampler is not None:
            return jax.value_and_grad(total)(variables, batch)
        entries = (batch.real, batch.keys)
        loss, grads = slope_over_classes(of_class, variables.distilled, classes, entries, *networks(batch), ())
        return loss, Variables(grads, ())

    def step(key: Array, state: State, batch: Batch) -> tuple[State, Scalars]:
        del key
        variables = Variables(state.distilled, state.sampler)
        loss, grads = slope(variables, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, variables)
        new = optax.apply_updates(variables, updates)
        return State(new.distilled, new.sampler, optimizer_state), {
            "loss": loss,
            "image_gradient": optax.tree.norm(grads.distilled.inputs),
        }

    return Method(init, sample, step, lambda state: state.distilled, objective=objective)
