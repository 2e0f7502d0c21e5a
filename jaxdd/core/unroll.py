"""Inner training that can be differentiated: what the outer gradient costs in memory is an argument.

Axis letters: N student steps, M distilled items, B mini-batch, P parameters.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdd.core.parallel import device_memory
from jaxdd.errors import SettingError
from jaxdd.settings import AtLeast, Positive, Settings
from jaxdd.types import Array, Params, PyTree

Carry = TypeVar("Carry")


SHARE = 0.1
"""The part of a device's memory that `auto` lets the activations of all steps, or the parameters at each of them, take
up: the rest is for everything else. [our choice]"""


@dataclasses.dataclass(frozen=True)
class Unroll(Settings, path="unroll"):
    """How to differentiate through N student steps."""

    mode: Literal["auto", "full", "steps", "segmented", "truncated", "tesla"] = "auto"
    """full stores every step's activations; steps the parameters before each step, and computes every step once more;
    segmented those between segments of steps, and computes every step twice more (the same gradient in less and less
    memory); auto the first of these that fits. truncated differentiates the last steps only, tesla every step as if its
    parameters were constant (biased; TESLA's code takes half of that gradient, so that its image learning rates are to
    be halved here)."""
    segment: Annotated[int | None, AtLeast(1)] = None
    """Student steps per segment of recomputation; the square root of their number by default."""
    last: Annotated[int, AtLeast(1)] = 10
    """Steps that `truncated` differentiates through."""
    memory: Annotated[float | None, Positive] = None
    """Bytes of memory that `auto` plans with; by default that of a device, or the host's where devices do not tell."""
    offload: bool = False
    """Keep the parameters that steps and segmented store in the memory of the host, for accelerators whose own is the
    limit; the backward pass fetches them one by one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offload and self.mode not in ("steps", "segmented"):
            raise SettingError(
                f"unroll.offload is for the parameters that the modes steps and segmented store, and unroll.mode is "
                f"{self.mode!r}; choose one of these, or leave offload out"
            )


class Footprint(NamedTuple):
    """What a scan of N steps stores to be differentiated, in bytes.

    Attributes:
        full: Of a plain scan: the activations of every step. An upper bound: the compiler may keep less.
        steps: With every step computed again: the carry before each.
    """

    full: int
    steps: int


def footprint(step: Callable[[Carry, Any], tuple[Carry, Any]], init: Carry, xs: Any) -> Footprint:
    """Bound what differentiating a scan stores, without running it.

    Args:
        step: `(carry, x) -> (carry, y)`.
        init: The first carry.
        xs: Pytree of arrays with leading axis N.

    Returns:
        N times the residuals of one step, and N times its carry. [derived]
    """
    first = jax.tree.map(lambda x: x[0], xs)
    closed_step, constants = jax.closure_convert(step, init, first)

    def residuals(carry: Carry, constants: list[Array], x: Any) -> Any:
        return jax.vjp(lambda carry, constants: closed_step(carry, x, *constants), carry, constants)[1]

    length = jax.tree.leaves(xs)[0].shape[0]
    of_step = jax.eval_shape(residuals, init, constants, first)
    return Footprint(length * _bytes(of_step), length * _bytes(init))


def choose(stored: Footprint, memory: float) -> Literal["full", "steps", "segmented"]:
    """Choose how to differentiate a scan within a memory: the first of full, steps and segmented that fits well.

    On a ConvNet of width 128 and depth 3, 50 steps on ten images of 32×32 took 11.1 s in full, with 3647 MiB of
    temporary memory, 7.8 s with each step computed once more and 141 MiB, and 10.1 s in segments and 97 MiB: on a CPU
    the memory of each call is fetched anew, page by page (2 idle CPU cores, jax 0.10.2,
    `python -m tests.benchmarks.unroll --steps 50`).

    Args:
        stored: What each would store.
        memory: Bytes.

    Returns:
        The mode; what it stores fits into a tenth of the memory.
    """
    if stored.full <= SHARE * memory:
        return "full"
    return "steps" if stored.steps <= SHARE * memory else "segmented"


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def recomputed(step: Callable[[Carry, Any], tuple[Carry, Any]], offload: bool) -> Callable[[Carry, Any], Any]:
    """Make the backward pass of a scan compute its step anew from the carry, which is stored, on the host if asked for.

    Args:
        step: `(carry, x) -> (carry, y)`.
        offload: Whether the stored carry leaves the device.

    Returns:
        The step, for `jax.lax.scan`.
    """
    # prevent_cse: inside a scan the barriers that it adds are not needed and cost time.
    if not offload:
        return jax.checkpoint(step, prevent_cse=False)
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["carry"],
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(lambda carry, x: step(checkpoint_name(carry, "carry"), x), prevent_cse=False, policy=policy)


def segmented_scan(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    init: Carry,
    xs: Any,
    *,
    segment: int | None = None,
    offload: bool = False,
) -> tuple[Carry, Any]:
    """Scan like `jax.lax.scan`, storing for the backward pass only the carries between segments of steps.

    The backward pass recomputes one segment at a time from its first carry, and within the segment one step at a time
    from its own: with N steps in segments of s, N/s + s carries and the activations of one step are alive at once,
    against N times the activations of one step for a plain scan. Every step is computed three times.

    Args:
        step: `(carry, x) -> (carry, y)`. What is constant over the steps should be closed over, not carried: every
            stored carry would hold a copy.
        init: The first carry.
        xs: Pytree of arrays with leading axis N.
        segment: Steps per segment, `ceil(sqrt(N))` by default.
        offload: Keep the carries between segments in the host's memory.

    Returns:
        The last carry and the stacked ys, as `jax.lax.scan` does.

    [derived] The values are those of `jax.lax.scan`, the gradient equal to rounding.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    segment = min(segment or math.ceil(math.sqrt(length)), length) or 1
    inner = recomputed(step, offload=False)

    def run_segment(carry: Carry, xs: Any) -> tuple[Carry, Any]:
        return jax.lax.scan(inner, carry, xs)

    outer = recomputed(run_segment, offload)
    whole = length // segment * segment
    head = jax.tree.map(lambda x: x[:whole].reshape(whole // segment, segment, *x.shape[1:]), xs)
    carry, ys = jax.lax.scan(outer, init, head)
    ys = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys)
    if whole == length:
        return carry, ys
    carry, tail = jax.checkpoint(run_segment)(carry, jax.tree.map(lambda x: x[whole:], xs))
    return carry, jax.tree.map(lambda y, t: jnp.concatenate([y, t]), ys, tail)


def constant_memory_scan(step: Callable[[Carry, Any], tuple[Carry, Any]], init: Carry, xs: Any) -> tuple[Carry, Any]:
    """Scan like `jax.lax.scan`, differentiated as if every step's carry were a constant: memory O(1) in the steps.

    For `θ_{n+1} = θ_n + Δ(θ_n, S)` the gradient is that of `θ_N = θ_0 + Σ_n Δ(θ̄_n, S)` with constant θ̄_n: the backward
    pass runs the steps again, first to last, and adds up `⟨∂/∂θ_N, ∂Δ(θ̄_n, S)/∂S⟩`. What it drops is the effect of S on
    later steps through θ_n, so it is exact for one step, and further off the longer and faster the student moves: on a
    ConvNet of width 32 and depth 2, starting from an expert of the digits with one real image per class, the cosine
    with the exact gradient with respect to the images is on average

    | student steps | learning rate 0.01 | 0.03 | 0.1 |
    |---|---|---|---|
    | 10 | 0.98 | 0.95 | 0.87 |
    | 50 | 0.92 | 0.82 | 0.81 |

    (`python -m tests.benchmarks.unroll --bias`; the least of 16 pairs is 0.54).

    Args:
        step: `(carry, x) -> (carry, y)`; differentiated in what it closes over, not in x.
        init: The first carry.
        xs: Pytree of arrays with leading axis N.

    Returns:
        The last carry and the stacked ys; the ys carry no gradient. Reverse mode only, and once.

    References:
        [published] TESLA, Cui et al. 2023, arXiv 2211.10586, for the squared distance to a target; [derived] for
        whatever follows the scan.
    """
    closed_step, constants = jax.closure_convert(step, init, jax.tree.map(lambda x: x[0], xs))

    @jax.custom_vjp
    def run(init: Carry, constants: list[Array]) -> tuple[Carry, Any]:
        return jax.lax.scan(lambda carry, x: closed_step(carry, x, *constants), init, xs)

    def forward(init: Carry, constants: list[Array]) -> tuple[tuple[Carry, Any], Any]:
        return run(init, constants), (init, constants)

    def backward(saved: tuple[Carry, list[Array]], cotangents: tuple[Carry, Any]) -> tuple[Carry, list[Array]]:
        init, constants = saved

        def accumulate(state: tuple[Carry, list[Array]], x: Any) -> tuple[tuple[Carry, list[Array]], None]:
            carry, total = state
            moved, pull = jax.vjp(lambda constants: closed_step(carry, x, *constants)[0], constants)
            return (moved, jax.tree.map(jnp.add, total, pull(cotangents[0])[0])), None

        zeros = jax.tree.map(jnp.zeros_like, constants)
        return cotangents[0], jax.lax.scan(accumulate, (init, zeros), xs)[0][1]

    run.defvjp(forward, backward)
    carry, ys = run(init, constants)
    return carry, jax.lax.stop_gradient(ys)


def unroll(step: Callable[[Carry, Any], tuple[Carry, Any]], init: Carry, xs: Any, *, how: Unroll) -> tuple[Carry, Any]:
    """Scan `step` over `xs`, differentiated as `how` says.

    Args:
        step: `(carry, x) -> (carry, y)`.
        init: The first carry.
        xs: Pytree of arrays with leading axis N.
        how: `full`, `steps` and `segmented` (the same gradient in less and less memory), `auto` (see `choose`),
            `truncated` (the first N − last steps are constants to the gradient) or `tesla` (see
            `constant_memory_scan`).

    Returns:
        The last carry and the stacked ys, the same whatever `how` is.
    """
    mode: str = how.mode
    if mode == "auto":
        mode = choose(footprint(step, init, xs), how.memory or device_memory())
    if mode == "full":
        return jax.lax.scan(step, init, xs)
    if mode == "steps":
        return jax.lax.scan(recomputed(step, how.offload), init, xs)
    if mode == "segmented":
        return segmented_scan(step, init, xs, segment=how.segment, offload=how.offload)
    if mode == "tesla":
        return constant_memory_scan(step, init, xs)
    length = jax.tree.leaves(xs)[0].shape[0]
    constant = max(length - how.last, 0)
    carry, head = jax.lax.stop_gradient(jax.lax.scan(step, init, jax.tree.map(lambda x: x[:constant], xs)))
    carry, tail = segmented_scan(step, carry, jax.tree.map(lambda x: x[constant:], xs), segment=how.segment)
    return carry, jax.tree.map(lambda h, t: jnp.concatenate([h, t]), head, tail)


def times_lr(lr: PyTree, tree: Params) -> Params:
    """Multiply a tree of the parameters by a learning rate, `[]` or, a tree of them, one for each of its branches."""
    return jax.tree.map(lambda rate, branch: jax.tree.map(lambda x: rate * x, branch), lr, tree)


def sgd_step(loss: Callable[[Params, Any], Array], lr: PyTree) -> Callable[[Params, Any], tuple[Params, Array]]:
    """Build a step of plain SGD, `(θ, b) -> (θ − α ∇ℓ(θ; b), ℓ(θ; b))`.

    Args:
        loss: ℓ, `(params, batch) -> scalar`.
        lr: [] learning rate α, or one for each branch of the parameters, see `times_lr`.

    Returns:
        The step, for `unroll` or `jax.lax.scan`.
    """

    def step(params: Params, batch: Any) -> tuple[Params, Array]:
        value, grad = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(jnp.subtract, params, times_lr(lr, grad)), value

    return step


def inner_sgd(
    loss: Callable[[Params, Any], Array], params: Params, batches: Any, lr: PyTree, *, how: Unroll
) -> tuple[Params, Array]:
    """Train a student by plain SGD, `θ_{n+1} = θ_n − α ∇ℓ(θ_n; b_n)`, differentiable in α and what `loss` closes over.

    Args:
        loss: `(params, batch) -> scalar`; closes over the distilled set.
        params: θ_0.
        batches: What each step is given (indices into the distilled set, keys), leading axis N.
        lr: [] student learning rate α, or one for each branch of the parameters, see `times_lr`.
        how: The way to differentiate.

    Returns:
        θ_N and the losses `[N]` before each step.

    References:
        [published] the student of MTT, Cazenavette et al. 2022, arXiv 2203.11932, Algorithm 1.
    """
    return unroll(sgd_step(loss, lr), params, batches, how=how)
