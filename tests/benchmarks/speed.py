"""How fast jaxdd is: beside PyTorch, eager and compiled, and beside the machine's own matrix product.

`python -m tests.benchmarks.speed` (extra `bench`): each case is one piece of work, an outer step of a method, an epoch
of an expert, an evaluation, scores of influence, on a ConvNet of width 128 and depth 3 and 32×32×3 images. Both sides
are given the same parameters, images and batches; first they must agree, then they are timed in turn, in one run, after
a call that is not counted. Times are medians, with the least and the greatest. On a GPU if both see one.

The work of a case is counted in products of direct convolution: a gradient is three forward passes, the gradient of a
gradient nine, a Hessian product six. Per second and against a product of two 2048×2048 matrices of float32, timed
between the repeats, this is the share of the peak; a way with fewer products (Winograd) may exceed its own arithmetic.

Memory is the largest resident size of a process that does nothing but one side of one case, less what it had before
that call (`--memory`; on a GPU what XLA plans for, and what PyTorch's allocator held).
"""

import argparse
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from jaxdd import Distilled, classification, models
from jaxdd.core import sampling
from jaxdd.core.distilled import hard_labels
from jaxdd.core.normalization import Standardize
from jaxdd.core.training import Recipe, shuffle, train
from jaxdd.driver import complete
from jaxdd.evaluation import distilled_scorer, stacked
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.methods import MethodConfig, Optimizer, Sources, dc, dm, infmatch, mtt, ncfm
from jaxdd.models import ConvNet
from jaxdd.models.config import Convolution
from tests.benchmarks import speed_torch as peer
from tests.benchmarks.influence import forward
from tests.benchmarks.table import header, row

SIDE, CLASSES, WIDTH = 32, 10, 128
LR = 1 / 128
"""Of every training; the same number in all precisions."""
STEPS = {1: 50, 10: 10}
"""Student steps of MTT at images per class, each on all of them."""
REAL = 256
"""Real images of a class, of DC and DM; all that Inf-Match's Hessians and an expert's batch see."""
EXAMPLES, CHUNK, EPOCHS, NETWORKS = 2560, 256, 60, 5
AGREE = 1e-4
"""Largest difference of the two sides, in float64, relative to the largest number of the result."""
PATIENCE = 240
"""Seconds that torch.compile may take for a case."""


class Case(NamedTuple):
    """One piece of work, on both sides.

    Attributes:
        ours: A jitted function.
        arguments: What it is given.
        theirs: The same in PyTorch.
        given: What that is given.
        products: Multiplications and additions of direct convolution, in floating point operations.
        agree: `(ours, theirs) -> difference`, relative to the largest number.
    """

    ours: Callable[..., Any]
    arguments: tuple[Any, ...]
    theirs: Callable[..., Any]
    given: tuple[Any, ...]
    products: float
    agree: Callable[[Any, Any], float]


class Problem(NamedTuple):
    """What all cases share: a network, random images of every class, and two of its parameters, flat."""

    task: Any
    sources: Sources

    @property
    def params(self) -> Any:
        """The parameters of the first snapshot."""
        return self.task.unravel(self.sources.experts.recorded[0, 0])


def problem(width: int, convolution: Convolution) -> Problem:
    """Draw the problem."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(EXAMPLES) % CLASSES
    task = classification(
        models.build(ConvNet(width=width, convolution=convolution), (SIDE, SIDE, 3), CLASSES), CLASSES
    )
    real = sampling.real_set(images, labels, CLASSES, Standardize(*np.full((2, 3), 0.5, jnp.result_type(float))))
    start, other = (np.asarray(ravel_pytree(task.model.init(jax.random.key(seed)))[0]) for seed in (0, 1))
    line = np.arange(2, dtype=np.float32)
    snapshots = np.stack([start, 0.9 * start + 0.1 * other])[None]
    experts = Trajectories(
        snapshots, snapshots[:, 1], np.full(2, 0.01, np.float32), 0.01 * line, np.float32(0.02), line
    )
    return Problem(task, jax.device_put(Sources(real, experts)))


def forward_products(width: int) -> float:
    """Count the operations of a forward pass of one image."""
    sides, channels = (SIDE, SIDE // 2, SIDE // 4), (3, width, width)
    of_blocks = sum(2 * 9 * before * width * side**2 for side, before in zip(sides, channels, strict=True))
    return of_blocks + 2 * width * (SIDE // 8) ** 2 * CLASSES


def outer_step(
    given: Problem,
    config: MethodConfig,
    theirs: Callable[..., Any],
    arguments: Callable[[Any, Any], tuple[Any, ...]],
    products: float,
) -> Case:
    """Make a case of an outer step, which PyTorch computes as the value and image gradient of its objective.

    The optimizer is SGD at learning rate 1, so that the gradient is what the images change by.
    """
    method = config.build(given.task)
    items = given.task.items(config.ipc)
    images = jax.random.normal(jax.random.key(2), (items, SIDE, SIDE, 3))
    distilled = Distilled(images, hard_labels(jnp.arange(items) * CLASSES // items, CLASSES), jnp.float32(LR))
    state = method.init(jax.random.key(3), distilled, given.sources)
    batch = complete(method.sample(jax.random.key(4), jnp.int32(0), given.sources), given.sources, None)

    def step(key: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        after, logged = method.step(key, state, batch)
        return logged["loss"], method.distilled(state).images - method.distilled(after).images

    def agree(ours: Any, theirs: Any) -> float:
        slopes = theirs[1].movedim(1, -1).cpu().numpy()
        value, other = float(ours[0]), float(theirs[0])
        return max(abs(value / other - 1), float(np.abs(ours[1] - slopes).max() / np.abs(slopes).max()))

    labels = peer.tensor(jnp.argmax(distilled.labels, 1))
    return Case(
        jax.jit(step),
        (jax.random.key(5), state, batch),
        peer.image_gradient(theirs),
        (peer.pictures(images), *arguments(batch, labels)),
        products,
        agree,
    )


def plain(ipc: int) -> dict[str, Any]:
    """Settings of every outer step."""
    return {"ipc": ipc, "image_optimizer": Optimizer("sgd", 1.0, 0.0), "augment": "none"}


def matched_trajectories(given: Problem, ipc: int) -> Case:
    steps = STEPS[ipc]
    config = mtt.Config(
        **plain(ipc), student_steps=steps, student_lr=LR, expert_snapshots=1, window=Window(start=1), labels="hard"
    )
    start, target = (peer.parameters(given.task.unravel(x)) for x in given.sources.experts.recorded[0])

    def arguments(batch: Any, labels: Any) -> tuple[Any, ...]:
        return labels, peer.tensor(jnp.asarray(LR)), start, target, steps

    return outer_step(given, config, peer.mtt, arguments, 9.0 * steps * CLASSES * ipc)


def matched_gradients(given: Problem, ipc: int) -> Case:
    config = dc.Config(**plain(ipc), real_batch=REAL, outer_loop=1, labels="hard")
    # The network is drawn with the first state.
    network = peer.parameters(given.task.model.init(jax.random.key(3)))

    def arguments(batch: Any, labels: Any) -> tuple[Any, ...]:
        return labels, network, peer.pictures(batch.real.inputs)

    return outer_step(given, config, peer.dc, arguments, CLASSES * (3.0 * REAL + 9.0 * ipc))


def matched_means(given: Problem, ipc: int) -> Case:
    config = dm.Config(**plain(ipc), real_batch=REAL, labels="hard")

    def arguments(batch: Any, labels: Any) -> tuple[Any, ...]:
        del labels
        return peer.parameters(given.task.model.init(batch.network)), peer.pictures(batch.real.inputs)

    return outer_step(given, config, peer.dm, arguments, CLASSES * (1.0 * REAL + 3.0 * ipc))


def matched_characteristics(given: Problem, ipc: int) -> Case:
    config = ncfm.Config(**plain(ipc), real_batch=REAL, labels="hard", frequencies=1024, calibration=0.0)

    def arguments(batch: Any, labels: Any) -> tuple[Any, ...]:
        del labels
        start = batch.start.params
        params = given.task.unravel(start + batch.progress * (batch.final - start))
        count = given.task.model.features(given.params, jnp.zeros((1, SIDE, SIDE, 3))).shape[1]
        drawn = [ncfm.frequencies(keys[1], (), config.frequencies, count) for keys in batch.keys]
        return peer.parameters(params), peer.pictures(batch.real.inputs), peer.tensor(jnp.stack(drawn))

    return outer_step(given, config, peer.ncfm, arguments, CLASSES * (1.0 * REAL + 3.0 * ipc))


def matched_influence(given: Problem, ipc: int) -> Case:
    config = infmatch.Config(
        **plain(ipc), real_batch=REAL, labels="hard", estimator="second_order", tau=0.05, window=Window(start=1)
    )

    def arguments(batch: Any, labels: Any) -> tuple[Any, ...]:
        seen = jax.tree.map(lambda x: x[0, 0], batch)
        params = peer.parameters(given.task.unravel(seen.params))
        first, second = (labeled(examples) for examples in (seen.for_gradient, seen.for_hessian))
        return labels, params, first, second, config.tau

    # One gradient and two Hessian products of the real data, and one more to differentiate through the first.
    return outer_step(given, config, peer.infmatch, arguments, REAL * (3.0 + 3 * 6.0) + 30.0 * CLASSES * ipc)


def labeled(examples: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy images and classes."""
    return peer.pictures(examples.inputs), peer.tensor(jnp.argmax(examples.targets, -1))


def expert_epoch(given: Problem) -> Case:
    recipe = Recipe(epochs=1, batch=REAL, lr=LR, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")
    task, real = given.task, given.sources.examples
    key = jax.random.key(6)

    def run(params: Any, real: Any) -> Any:
        return train(key, params, task.losses, lambda rows: sampling.take(real, rows), real.size, recipe)[0]

    order = shuffle(jax.random.fold_in(jax.random.split(key)[0], 0), real.size, REAL)  # as train draws it
    examples = [jax.jit(sampling.take)(real, rows) for rows in order]
    batches = [labeled(x) for x in examples]

    def agree(ours: Any, theirs: Any) -> float:
        return largest_difference(peer.parameters(ours), theirs, peer.parameters(given.params))

    given_to_peer = (peer.parameters(given.params), batches, recipe.lr)
    return Case(jax.jit(run), (given.params, real), peer.train, given_to_peer, 3.0 * EXAMPLES, agree)


def largest_difference(ours: list[Any], theirs: list[Any], start: list[Any]) -> float:
    """Compare two ends of a training by what they are apart, relative to the way from its start."""
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    return apart / max(float((a - b).abs().max()) for a, b in zip(theirs, start, strict=True))


def evaluation(given: Problem) -> Case:
    recipe = Recipe(
        epochs=EPOCHS, batch=REAL, lr=LR / 8, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
    )
    task, real, keys = given.task, given.sources.examples, jax.random.split(jax.random.key(7), NETWORKS)
    images = jax.random.normal(jax.random.key(2), (CLASSES, SIDE, SIDE, 3))
    distilled = Distilled(images, hard_labels(jnp.arange(CLASSES), CLASSES), jnp.float32(recipe.lr))
    starts = [peer.parameters(task.model.init(jax.random.split(key)[0])) for key in keys]
    examples = jax.jit(sampling.take)(real, jnp.arange(EXAMPLES))
    split = [*zip(*(x.split(CHUNK) for x in labeled(examples)), strict=True)]
    batches = [(peer.pictures(images), torch.arange(CLASSES, device=peer.DEVICE))] * EPOCHS

    def theirs(starts: Any, batches: Any, split: Any) -> list[float]:
        trained = [peer.train(params, batches, recipe.lr) for params in starts]
        return [peer.accuracy(params, split) for params in trained]

    def agree(ours: Any, theirs: Any) -> float:
        return float(np.abs(np.asarray(ours["accuracy"]) - np.array(theirs)).max())

    products = NETWORKS * (3.0 * CLASSES * EPOCHS + EXAMPLES)
    arguments = (keys, stacked(distilled, NETWORKS), real)
    return Case(distilled_scorer(task, recipe), arguments, theirs, (starts, batches, split), products, agree)


def influence_scores(given: Problem) -> Case:
    task, real, params = given.task, given.sources.examples, given.params
    vector = jax.tree.map(lambda p: jax.random.normal(jax.random.key(8), p.shape), params)

    chunks = jnp.arange(EXAMPLES).reshape(-1, CHUNK)
    examples = jax.jit(sampling.take)(real, jnp.arange(EXAMPLES))
    given_to_peer = (peer.parameters(params), *labeled(examples), peer.parameters(vector), CHUNK)

    def agree(ours: Any, theirs: Any) -> float:
        found = theirs.cpu().numpy()
        return float(np.abs(ours - found).max() / np.abs(found).max())

    ours = jax.jit(partial(forward, task.losses))
    return Case(ours, (real, params, vector, chunks), peer.scores, given_to_peer, 2.0 * EXAMPLES, agree)


def cases(width: int, convolution: Convolution) -> dict[str, Callable[[], Case]]:
    """Name the cases; each is built when it is asked for, in the precision that is set then."""
    made: dict[str, Callable[..., Case]] = {
        "MTT, ipc 1": partial(matched_trajectories, ipc=1),
        "MTT, ipc 10": partial(matched_trajectories, ipc=10),
        "DC, ipc 1": partial(matched_gradients, ipc=1),
        "DC, ipc 10": partial(matched_gradients, ipc=10),
        "DM, ipc 10": partial(matched_means, ipc=10),
        "NCFM, ipc 10": partial(matched_characteristics, ipc=10),
        "Inf-Match, ipc 1": partial(matched_influence, ipc=1),
        "expert, an epoch": expert_epoch,
        "evaluation of 5 networks": evaluation,
        "influence scores": influence_scores,
    }
    return {name: lambda make=make: make(problem(width, convolution)) for name, make in made.items()}


def seconds_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, Any]:
    """Time a call, until its results are there."""
    began = time.perf_counter()
    found = jax.block_until_ready(function(*arguments))
    if peer.DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def peak() -> float:
    """Time matrix products: operations per second."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: jax.lax.fori_loop(0, 8, lambda _, b: a @ b / 2048, a))
    jax.block_until_ready(product(a))
    return 8 * 2 * 2048**3 / min(seconds_of(product, (a,))[0] for _ in range(3))


def measure(name: str, make: Callable[[], Case], arguments: argparse.Namespace, image: float) -> None:
    """Print the row of a case."""
    with jax.enable_x64(True):  # in float32 the gradients of a network with kinks part sooner or later
        exact = make()
        difference = exact.agree(exact.ours(*exact.arguments), exact.theirs(*exact.given))
    if not difference < AGREE:
        raise SystemExit(f"{name}: the two sides differ by {difference:.1e}, which is more than {AGREE:.0e}")
    case = make()
    began = time.perf_counter()
    program = case.ours.lower(*case.arguments).compile()  # type: ignore[attr-defined]
    compiling = {"ours": time.perf_counter() - began}
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: program(*case.arguments),
        "eager": lambda: case.theirs(*case.given),
    }
    for run in sides.values():
        seconds_of(run, ())
    if arguments.compile:
        compiled = torch.compile(case.theirs)
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(PATIENCE)
        try:
            compiling["compiled"] = seconds_of(compiled, case.given)[0]
            sides["compiled"] = lambda: compiled(*case.given)
            compiled(*case.given)
        except Exception as error:  # what it cannot compile is told, whatever it raises
            print(f"{name}: torch.compile failed, {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        finally:
            signal.alarm(0)
    times: dict[str, list[float]] = {side: [] for side in sides}
    rates = []
    for _ in range(arguments.repeats):
        rates.append(peak())
        for side, run in sides.items():
            times[side].append(seconds_of(run, ())[0])
    medians = {side: float(np.median(found)) for side, found in times.items()}

    def told(side: str) -> str | None:
        found = times.get(side)
        return found and f"{np.median(found):.3g} ({min(found):.3g}–{max(found):.3g})"

    def ratio(side: str) -> str | None:
        return f"{medians[side] / medians['ours']:.2f}" if side in medians else None

    rate = case.products * image / medians["ours"]
    memory = [memory_of(name, side, arguments) for side in ("ours", "eager")] if arguments.memory else [None] * 2
    row(
        name,
        *(told(side) for side in ("ours", "eager", "compiled")),
        *(ratio(side) for side in ("eager", "compiled")),
        f"{difference:.0e}",
        f"{rate / 1e9:.0f}, {100 * rate / np.median(rates):.0f} %",
        "/".join(f"{compiling[side]:.0f}" for side in compiling),
        *memory,
    )


def too_long(*_: Any) -> None:
    """Give up compiling."""
    raise TimeoutError(f"not compiled after {PATIENCE} s")


def memory_of(name: str, side: str, arguments: argparse.Namespace) -> str:
    """Measure one side of a case in a process of its own, in MiB."""
    sizes = ["--width", str(arguments.width), "--convolution", arguments.convolution]
    words = [sys.executable, "-m", "tests.benchmarks.speed", "--alone", side, "--only", name, *sizes]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return f"{float(told.splitlines()[-1]):.0f}"


def alone(side: str, make: Callable[[], Case]) -> None:
    """Print the memory that one side needs beyond what there was before, in MiB."""
    case = make()
    compiled = case.ours.lower(*case.arguments).compile()  # type: ignore[attr-defined]
    program = compiled, case.arguments
    if peer.DEVICE == "cuda" and side == "ours":
        analysis = compiled.memory_analysis()
        print((analysis.temp_size_in_bytes + analysis.output_size_in_bytes) / 2**20)
        return
    before, most, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds_of(*(program if side == "ours" else (case.theirs, case.given)))
    done.set()
    watcher.join()
    print(torch.cuda.max_memory_allocated() / 2**20 if peer.DEVICE == "cuda" else most[0] - before)


def resident() -> float:
    """Return what of this process is in memory, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--convolution", choices=get_args(Convolution), default="auto", help="of ours")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="cases whose name begins so")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile as well")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="in processes of their own"
    )
    parser.add_argument("--alone", choices=["ours", "eager"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = {
        name: make
        for name, make in cases(arguments.width, arguments.convolution).items()
        if not arguments.only or any(name.startswith(word) for word in arguments.only)
    }
    if arguments.alone:
        alone(arguments.alone, chosen[arguments.only[0]])
        return
    print(
        f"{jax.devices()[0].device_kind}, {peak() / 1e9:.0f} GFLOP/s; jax {jax.__version__}, torch {torch.__version__}"
    )
    header(
        "case",
        "ours, s",
        "eager, s",
        "compiled, s",
        "eager / ours",
        "compiled / ours",
        "differ by, float64",
        "ours, GFLOP/s",
        "compilation, s",
        "ours, MiB",
        "eager, MiB",
    )
    for name, make in chosen.items():
        measure(name, make, arguments, forward_products(arguments.width))


if __name__ == "__main__":
    main()
