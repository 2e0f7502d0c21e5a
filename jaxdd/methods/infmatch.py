"""Inf-Match: dataset distillation by influence matching (CVPR 2026).

The influence of a set on a network is the displacement of the trained parameters when the set is added or removed:
`I_{−Z} = θ*_{D−Z} − θ*_D`, `I_{+Z} = θ*_{D+Z} − θ*_D`. Inf-Match learns the distilled set S whose addition offsets the
removal of the real data D: `S* = argmin ‖ I_{−D} + I_{+S} ‖`. Nothing is retrained: the displacement is estimated
from checkpoints of one SGD trajectory on D, and the estimate is linear in the gradients and Hessians of S.

G_Z and H_Z are gradient and Hessian of the mean loss on Z at a checkpoint θ^t, η^t its learning rate. Parameters are
flat vectors here, so that the equations read as they are printed.

The released code does not run this: its only settings, for CIFAR-10 at 50 images per class, switch the displacement
off, and match features that are fused with gradients of the last layer. `estimator="released"` is that, see
`jaxdd.methods.fused_features`; the published 49.9, 72.5 and 78.1 % are no evidence for Theorem 1.

Axis letters: m windows, K consecutive checkpoints in a window (1 but for the unrolled estimator), B real batch,
b distilled mini-batch, M distilled items, P parameters.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import autodiff, sampling
from jaxdd.core.augment import dsa
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import map_over, sum_over
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, mean_loss
from jaxdd.core.training import batching, shuffle
from jaxdd.errors import SettingError
from jaxdd.experts.trajectories import Window
from jaxdd.methods.base import Method, Optimizer, Sources, descent, outer_optimizer
from jaxdd.methods.formation import FormationConfig, formed
from jaxdd.methods.fused_features import Released, matching_fused_features
from jaxdd.settings import AtLeast, Positive
from jaxdd.types import AnyArray, Array, Examples, Snapshots

Loss = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Config(FormationConfig):
    """Settings of Inf-Match."""

    name: ClassVar[str] = "infmatch"
    image_optimizer: Optimizer = Optimizer("adam", 0.1)
    """Optimizer of the images (published: sgd, learning rate 50, momentum 0.9)."""
    label_optimizer: Optimizer = Optimizer("adam", 0.1)
    """Optimizer of the label logits, where they are learned (published: sgd, learning rate 7, momentum 0.9)."""
    estimator: Literal["published", "first_order", "second_order", "unroll", "released"] = "second_order"
    """Estimate of the displacement: Theorem 1 as printed (no first-order term); the gradient difference alone; the
    whole second-order expansion over `tau` after each checkpoint; the linear recursion over `horizon` checkpoints. Or
    none: released matches what the authors' code does, fused features."""
    released: Released = Released()
    """What released matches; the other estimators do without."""
    tau: Annotated[float, Positive] = 0.05
    """Training time (learning rate times steps) after each checkpoint that second_order looks ahead."""
    horizon: Annotated[int, AtLeast(1)] = 5
    """Consecutive checkpoints that unroll runs over."""
    checkpoints: Annotated[int, AtLeast(1)] = 1
    """m, checkpoints (windows of them for unroll) that each outer step samples; the memory of activations does not grow
    with it, only that of the sampled parameters and images."""
    real_batch: Annotated[int, AtLeast(1)] = 64
    """B, real examples per gradient and, drawn independently, per Hessian; of each class, for released (published:
    1024)."""
    batch: Annotated[int | None, AtLeast(1)] = None
    """Distilled items (stored images, with a factor) per outer step, drawn without replacement; all by default
    (published: 50)."""
    cache: Annotated[int | None, AtLeast(1)] = None
    """Compute G_D and H_D G_D of every checkpoint once, each on this many real examples drawn without replacement (all,
    if there are fewer; in whole batches of at most real_batch); by default every step draws its own. Without
    augmentation, and with the experts on the devices (experts.residency) only: the cache takes up to twice their
    size."""
    window: Window = Window(start=16)
    """Checkpoints in use, and how they progress."""
    hvp: Literal["exact", "finite_difference"] = "exact"
    """Hessian products by forward over reverse mode, or by central differences of gradients."""
    gradient: Literal["two_pass", "autodiff"] = "two_pass"
    """Gradient with respect to S: in two passes, through each network backwards once; or automatic, for checking. The
    memory of neither grows with m."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cache", "batch"):
            if self.estimator == "released" and getattr(self, name) is not None:
                raise SettingError(
                    f"method.{name} is {getattr(self, name)}; estimator released matches features of fresh real "
                    "images, class by class: set it to None"
                )
        if self.cache is not None and self.cache < self.real_batch:
            raise SettingError(
                f"method.cache is {self.cache}; cache at least method.real_batch={self.real_batch} examples"
            )
        if self.cache is not None and self.augment != "none":
            raise SettingError(
                f"method.cache={self.cache} with method.augment={self.augment!r}: cached real gradients cannot share "
                "the distilled set's augmentation; leave one of them out"
            )

    @property
    def snapshots_needed(self) -> int:
        """The last window's last checkpoint; unroll needs the learning rate up to one more."""
        return self.window.last + (self.horizon if self.estimator == "unroll" else 0)

    @property
    def needs_features(self) -> bool:
        """Whether the estimator is `released`, which matches them, or the first items are chosen by them."""
        return self.estimator == "released" or super().needs_features

    def build(self, task: Task) -> Method:
        """Build Inf-Match for a task, see `matching_influence`, and `matching_fused_features` for released.

        Raises:
            ValueError: The task has no classes, and released or `factor` asks for them.
        """
        return formed(self.on_items, task, self.factor)

    def on_items(self, task: Task) -> Method:
        """Build the method whose items are what it stores."""
        if self.estimator == "released":
            return matching_fused_features(
                task,
                self,
                self.released,
                real_batch=self.real_batch,
                checkpoints=self.checkpoints,
                window=self.window,
            )
        return matching_influence(task, self)


class Cached(NamedTuple):
    """Real gradients that stay the same: G_D and, where the estimator has a bracket, H_D G_D; `[..., P]`."""

    gradient: Array
    product: Array | None


class Checkpoint(NamedTuple):
    """One checkpoint and the real data that it is seen with.

    Attributes:
        snapshot: θ^t.
        a: `[...]` coefficient of the first-order term G_S − G_D.
        b: `[...]` coefficient of the bracket H_D G_S + H_S G_D − 2 H_D G_D.
        for_gradient: Real batch of G_D.
        for_hessian: An independent real batch of H_D: the same for both would bias H_D G_D.
        cached: G_D and H_D G_D if they were cached, else None.
        key: Key of the augmentation, shared by real and distilled images.
        items: `[..., b]` the distilled items of the step, the same for all of its checkpoints.
    """

    snapshot: Snapshots
    a: Array
    b: Array
    for_gradient: Examples
    for_hessian: Examples
    cached: Cached | None
    key: Array
    items: Array

    @property
    def params(self) -> Array:
        """`[..., P]` θ^t."""
        return self.snapshot.params


class Landscape(NamedTuple):
    """The scalar losses at one checkpoint, as functions of flat parameters, and how to take Hessian products.

    Attributes:
        synthetic: L_S; differentiable in the distilled set that it closes over.
        real_gradient: L_D on the batch for gradients.
        real_hessian: L_D on the batch for Hessians.
        hvp: `(loss, params, v) -> H v`.
        hessian_form: `(loss, params, u, v) -> uᵀ H v`.
    """

    synthetic: Loss
    real_gradient: Loss
    real_hessian: Loss
    hvp: Callable[[Loss, Array, Array], Array]
    hessian_form: Callable[[Loss, Array, Array, Array], Array]


LandscapeOf = Callable[[Checkpoint], Landscape]
HESSIANS = {
    "exact": (autodiff.hvp, autodiff.hessian_form),
    "finite_difference": (autodiff.finite_difference_hvp, autodiff.finite_difference_hessian_form),
}


def coefficients(estimator: str, lr: AnyArray, remaining: AnyArray, tau: float) -> tuple[Array, Array]:
    """Return the weights (a, b) of the first-order term and of the bracket at a checkpoint.

    - published:    `(0, c_t)` with `c_t = η^t Σ_{k>t} η^k`.
    - first_order:  `(−η^t, 0)`.
    - second_order: `(−τ, τ²/2)`.
    - unroll:       `(−η^t, 0)`, and the recursion couples the checkpoints.

    Args:
        estimator: One of the above.
        lr: η^t, the training time that the checkpoint stands for.
        remaining: `Σ_{k>t} η^k`, the training time after it.
        tau: τ, the training time that second_order looks ahead.

    Returns:
        a and b, shaped like `lr`.

    References:
        [published: bracket and sign; derived: coefficient] Inf-Match, Theorem 1; the factor |Z|/|D| is common to all
        checkpoints and cancels in J. [derived] the others.
    """
    lr, remaining = jnp.asarray(lr), jnp.asarray(remaining)
    zero, one = jnp.zeros_like(lr), jnp.ones_like(lr)
    table = {
        "published": (zero, lr * remaining),
        "first_order": (-lr, zero),
        "second_order": (-tau * one, tau**2 / 2 * one),
        "unroll": (-lr, zero),
    }
    return table[estimator]


class Displacement(NamedTuple):
    """An estimate r(S) of the displacement over a window of checkpoints, affine in the gradient and Hessian of S.

    Attributes:
        residual: `(landscape_of, window) -> (r(S), r(∅))`, both `[P]`; r(∅) is what no distilled set would leave.
        pairing: `(landscape_of, window, u) -> ⟨u, r(S)⟩` up to a constant in S, for a constant u `[P]`, written so that
            its derivative with respect to S passes through the network backwards once.
        bracket: Whether r holds H_D G_D, which is worth caching then.
    """

    residual: Callable[[LandscapeOf, Checkpoint], tuple[Array, Array]]
    pairing: Callable[[LandscapeOf, Checkpoint, Array], Array]
    bracket: bool


def expansion(*, bracket: bool) -> Displacement:
    """Build the estimates that expand the displacement at one checkpoint, K = 1.

    `r = a (G_S − G_D) + b (H_D (G_S − G_D) + H_S G_D − H_D G_D)`, and `⟨u, r⟩ = ⟨v, G_S⟩ + b uᵀ H_S G_D + constant`
    with `v = a u + b H_D u`.

    Args:
        bracket: Whether b is not zero; without it no Hessian product is computed.

    Returns:
        The estimate.

    References:
        [published: bracket and sign] Inf-Match, Theorem 1. [derived] the bracket is the second-order correction of the
        displacement, the gradient `∇_θ ⟨G_D, G_S − G_D⟩` of an inner product; the pairing is equal to automatic
        differentiation to rounding.
    """

    def residual(landscape_of: LandscapeOf, window: Checkpoint) -> tuple[Array, Array]:
        c = jax.tree.map(lambda x: x[0], window)
        landscape = landscape_of(c)
        g_s, g_d = jax.grad(landscape.synthetic)(c.params), _real_gradient(landscape, c)
        r, r_empty = c.a * (g_s - g_d), -c.a * g_d
        if not bracket:
            return r, r_empty
        # H_D is a noisy batch's: multiplied with the gap, its noise vanishes where S matches D, cached product or not.
        hd_gap = landscape.hvp(landscape.real_hessian, c.params, g_s - g_d)
        hs_gd = landscape.hvp(landscape.synthetic, c.params, g_d)
        product = None if c.cached is None else c.cached.product
        hd_gd = landscape.hvp(landscape.real_hessian, c.params, g_d) if product is None else product
        return r + c.b * (hd_gap + hs_gd - hd_gd), r_empty - c.b * 2 * hd_gd

    def pairing(landscape_of: LandscapeOf, window: Checkpoint, u: Array) -> Array:
        c = jax.tree.map(lambda x: x[0], window)
        landscape = landscape_of(c)
        if not bracket:
            return jax.jvp(landscape.synthetic, (c.params,), (c.a * u,))[1]
        v = c.a * u + c.b * landscape.hvp(landscape.real_hessian, c.params, u)
        g_d = _real_gradient(landscape, c)
        return jax.jvp(landscape.synthetic, (c.params,), (v,))[1] + c.b * landscape.hessian_form(
            landscape.synthetic, c.params, u, g_d
        )

    return Displacement(residual, pairing, bracket)


def recursion() -> Displacement:
    """Build the estimate that unrolls the linearized dynamics over K consecutive checkpoints.

    `I ← (I − η^t H_D^t) I − η^t (G_S^t − G_D^t)` from I = 0. Its adjoint runs backwards, `u ← u − η^t H_D^t u`, and
    `⟨u, r⟩ = −Σ_t η^t ⟨u_t, G_S^t⟩ + constant`.

    Returns:
        The estimate. [derived] η^t λ_max must stay below 2, and the window short, for the recursion not to blow up.
    """

    def propagate(landscape: Landscape, c: Checkpoint, v: Array) -> Array:
        return v + c.a * landscape.hvp(landscape.real_hessian, c.params, v)

    def residual(landscape_of: LandscapeOf, window: Checkpoint) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], c: Checkpoint) -> tuple[tuple[Array, Array], None]:
            landscape = landscape_of(c)
            g_s, g_d = jax.grad(landscape.synthetic)(c.params), _real_gradient(landscape, c)
            r, r_empty = (propagate(landscape, c, v) for v in carry)
            return (r + c.a * (g_s - g_d), r_empty - c.a * g_d), None

        zero = jnp.zeros_like(window.params[0])
        return jax.lax.scan(step, (zero, zero), window)[0]

    def pairing(landscape_of: LandscapeOf, window: Checkpoint, u: Array) -> Array:
        def adjoint(u: Array, c: Checkpoint) -> tuple[Array, Array]:
            return propagate(landscape_of(c), c, u), u

        adjoints = jax.lax.stop_gradient(jax.lax.scan(adjoint, u, window, reverse=True)[1])

        def slope(total: Array, entry: tuple[Checkpoint, Array]) -> tuple[Array, None]:
            c, u = entry
            return total + jax.jvp(landscape_of(c).synthetic, (c.params,), (c.a * u,))[1], None

        return jax.lax.scan(jax.checkpoint(slope), jnp.zeros((), u.dtype), (window, adjoints))[0]

    return Displacement(residual, pairing, bracket=False)


DISPLACEMENTS: dict[str, Displacement] = {
    "published": expansion(bracket=True),
    "first_order": expansion(bracket=False),
    "second_order": expansion(bracket=True),
    "unroll": recursion(),
}


def objective(
    displacement: Displacement,
    landscape_of: Callable[[Distilled], LandscapeOf],
    distilled: Distilled,
    windows: Checkpoint,
) -> Array:
    """Compute the Inf-Match objective `J(S) = ‖ Σ_t r_t(S) ‖ / ‖ Σ_t r_t(∅) ‖` over m windows.

    Args:
        displacement: Its estimate r.
        landscape_of: The losses at a checkpoint, for a distilled set.
        distilled: S.
        windows: m windows of K checkpoints.

    Returns:
        J: 1 for no distilled set at all, 0 for one that offsets the real data.

    References:
        [published] the norm of the residual, Inf-Match; [our choice] what it is divided by.
    """
    residual, empty = _sum_residuals(displacement, landscape_of, distilled, windows)
    return _norm(residual) / _norm(jax.lax.stop_gradient(empty))


def two_pass(
    displacement: Displacement,
    landscape_of: Callable[[Distilled], LandscapeOf],
    distilled: Distilled,
    windows: Checkpoint,
) -> tuple[Array, Distilled]:
    """Compute J and its gradient with respect to S without differentiating backwards through a backward pass.

    Its memory does not grow with the number of windows. Pass 1 sums the residual r without a graph. Pass 2 visits one
    window at a time with `u = r / (‖r‖ ‖r(∅)‖)` constant and adds up `∇_S ⟨u, r_t(S)⟩`.

    Args:
        displacement: See `objective`.
        landscape_of: See `objective`.
        distilled: See `objective`.
        windows: See `objective`.

    Returns:
        J and ∇_S J. [derived] Equal to automatic differentiation of `objective` to rounding.
    """
    residual, empty = _sum_residuals(displacement, landscape_of, distilled, windows)
    scale = _norm(empty)

    def slope(window: Checkpoint, distilled: Distilled, u: Array) -> Distilled:
        return jax.grad(lambda s: displacement.pairing(landscape_of(s), window, u))(distilled)

    grads = sum_over(slope, windows, distilled, residual / (_norm(residual) * scale))
    return _norm(residual) / scale, grads


def _real_gradient(landscape: Landscape, c: Checkpoint) -> Array:
    return jax.grad(landscape.real_gradient)(c.params) if c.cached is None else c.cached.gradient


def _sum_residuals(
    displacement: Displacement,
    landscape_of: Callable[[Distilled], LandscapeOf],
    distilled: Distilled,
    windows: Checkpoint,
) -> tuple[Array, Array]:
    return sum_over(lambda window, s: displacement.residual(landscape_of(s), window), windows, distilled)


def _norm(v: Array) -> Array:
    # The smallest normal number keeps the gradient of a zero residual finite.
    return jnp.sqrt(jnp.vdot(v, v) + jnp.finfo(v.dtype).tiny)


def matching_influence(task: Task, config: Config) -> Method:
    """Build Inf-Match for a task.

    A step descends J in the inputs, and in the labels if they are learned; it logs J, and the norm of its gradient in
    the inputs.

    Args:
        task: What the experts do.
        config: See `Config`.

    Returns:
        The method; its sources need trajectories of at least `config.snapshots_needed` snapshots.
    """
    augment = dsa(config.augment, siamese=True)
    displacement = DISPLACEMENTS[config.estimator]
    hvp, hessian_form = HESSIANS[config.hvp]
    length = config.horizon if config.estimator == "unroll" else 1

    def loss_on(examples: Examples, key: Array | None = None) -> Loss:
        if key is not None:
            examples = examples._replace(inputs=augment(key, examples.inputs))
        loss = mean_loss(task.losses, examples)
        return lambda flat: loss(task.unravel(flat))

    def landscape_of(distilled: Distilled) -> LandscapeOf:
        return lambda c: Landscape(
            synthetic=loss_on(task.examples(distilled, c.items), c.key),
            real_gradient=loss_on(c.for_gradient, c.key),
            real_hessian=loss_on(c.for_hessian, c.key),
            hvp=hvp,
            hessian_form=hessian_form,
        )

    def cached(key: Array, sources: Sources, examples: int) -> Cached:
        """Average over chunks of `real_batch`, gradients and Hessians on independent draws."""
        size = sources.examples.size
        batches, batch = batching(size, config.real_batch)  # of one size, which may be smaller than real_batch
        chunks = min(max(round(examples / batch), 1), batches)

        def of_checkpoint(entry: tuple[Array, Array], real: RealSet) -> Cached:
            key, params = entry

            def mean_over(key: Array, function: Callable[[Loss], Array]) -> Array:
                def add(total: Array, indices: Array) -> tuple[Array, None]:
                    return total + function(loss_on(sampling.take(real, indices))) / chunks, None

                batches = shuffle(key, size, config.real_batch)[:chunks]
                return jax.lax.scan(add, jnp.zeros_like(params), batches)[0]

            gradient_key, hessian_key = jax.random.split(key)
            gradient = mean_over(gradient_key, lambda loss: jax.grad(loss)(params))
            if not displacement.bracket:
                return Cached(gradient, None)
            return Cached(gradient, mean_over(hessian_key, lambda loss: hvp(loss, params, gradient)))

        if sources.experts.snapshots is None:
            raise SettingError(
                "method.cache needs the experts on the devices, and up to twice their size for itself: leave the cache "
                "out, or set experts.residency to device if all that fits"
            )
        used = sources.experts.snapshots[:, : config.snapshots_needed]
        flat = used.reshape(-1, used.shape[-1])
        computed = map_over(of_checkpoint, (jax.random.split(key, len(flat)), flat), sources.examples)
        return jax.tree.map(lambda x: x.reshape(used.shape), computed)

    def prepare(key: Array, sources: Sources) -> Cached | None:
        return None if config.cache is None else cached(key, sources, config.cache)

    def sample(key: Array, step: Array, sources: Sources) -> Checkpoint:
        """Draw m windows of K checkpoints: leading axes `[m, K]`."""
        trajectories, m = sources.experts, config.checkpoints
        expert_key, start_key, gradient_key, hessian_key, item_key, augment_key = jax.random.split(key, 6)
        expert = jax.random.randint(expert_key, (m, 1), 0, trajectories.num_experts)
        start = config.window.sample(start_key, step, config.steps, (m, 1))
        t = start + jnp.arange(length)[None]
        # A recorded interval may span several SGD steps: to the recursion it is one step of their summed length.
        ends = jnp.append(trajectories.time[1:], trajectories.total_time)
        lr = (ends - trajectories.time)[t] if config.estimator == "unroll" else trajectories.lr[t]
        a, b = coefficients(config.estimator, lr, trajectories.total_time - trajectories.time[t] - lr, config.tau)

        def real(key: Array) -> Examples:
            indices = sampling.uniform(key, sources.examples, m * length * config.real_batch)
            return sampling.take(sources.examples, indices.reshape(m, length, config.real_batch))

        cache, size = sources.cache, task.items(config.ipc)
        items = jax.random.permutation(item_key, size)[: config.batch or size]
        return Checkpoint(
            snapshot=Snapshots(jnp.broadcast_to(expert, t.shape), t),
            a=a,
            b=b,
            for_gradient=real(gradient_key),
            for_hessian=real(hessian_key),
            cached=None if cache is None else jax.tree.map(lambda x: x[expert, t], cache),
            key=jax.random.split(augment_key, (m, length)),
            items=jnp.broadcast_to(items, (m, length, len(items))),
        )

    def slope(distilled: Distilled, windows: Checkpoint) -> tuple[Array, Distilled]:
        if config.gradient == "two_pass":
            return two_pass(displacement, landscape_of, distilled, windows)
        return jax.value_and_grad(lambda s: objective(displacement, landscape_of, s, windows))(distilled)

    def warn(info: Mapping[str, float]) -> dict[str, str]:
        if config.estimator == "unroll" and info["loss"] > 1:
            return {
                "residual": f"Inf-Match's unrolled residual is {info['loss']:.2g}, more than no distilled set at all "
                "would leave: the recursion may be diverging; shorten method.horizon or lower experts.snapshot_every"
            }
        return {}

    optimizer = outer_optimizer(config.image_optimizer, config.label_optimizer if config.labels == "learned" else None)
    init, step = descent(optimizer, slope)
    return Method(init, sample, step, lambda state: state.distilled, prepare=prepare, warn=warn)
