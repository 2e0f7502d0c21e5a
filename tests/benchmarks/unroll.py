"""What ways of differentiating through a student cost, and how far off they are.

`python -m tests.benchmarks.unroll`: memory and time of an outer step of MTT on a width-128 ConvNet of depth 3, 32×32×3,
one image per class, N student steps. Temporary memory is what XLA reserves for the compiled step (`memory_analysis`);
times are medians, the modes taken alternately in one run.

`python -m tests.benchmarks.unroll --bias`: the cosine of the biased gradients with the exact one, with respect to the
images, on the digits: real images as the first distilled set, starts from a trained expert.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import classification, data, models
from jaxdd.core.distilled import Distilled, hard_labels
from jaxdd.core.unroll import Unroll
from jaxdd.driver import complete
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.experts.trajectories import Window
from jaxdd.methods import Sources, initial_distilled, mtt
from jaxdd.models import ConvNet
from jaxdd.types import Snapshots
from tests.benchmarks.table import header, row

MODES = ("full", "segmented", "steps", "truncated", "tesla")


def cost(steps: int, width: int, repeats: int) -> None:
    """Print a row for every mode."""
    task = classification(models.build(ConvNet(width=width), (32, 32, 3), 10), 10)
    images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
    distilled = Distilled(images, hard_labels(jnp.arange(10), 10), jnp.float32(0.01))
    start, target = 0.01 * jax.random.normal(jax.random.key(1), (2, 1, task.size))
    at = jnp.zeros(1, jnp.int32)
    keys = jax.random.split(jax.random.key(3), (1, steps))
    pairs = mtt.Pair(Snapshots(at, at, start), Snapshots(at, at, target), jnp.tile(jnp.arange(10), (1, steps, 1)), keys)
    compiled = {}
    for mode in MODES:
        method = mtt.Config(student_steps=steps, unroll=Unroll(mode)).build(task)
        state = method.init(jax.random.key(0), distilled, None)
        compiled[mode] = jax.jit(method.step).lower(jax.random.key(0), state, pairs).compile()
    memory = {mode: step.memory_analysis().temp_size_in_bytes / 2**20 for mode, step in compiled.items()}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(repeats):
        for mode, step in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(step(jax.random.key(0), state, pairs))
            seconds[mode].append(time.perf_counter() - began)
    for mode in MODES:
        times = f"{np.median(seconds[mode]) / np.median(seconds['full']):.2f}" if repeats else None
        took = f"{np.median(seconds[mode]):.3g}" if repeats else None
        row(steps, mode, f"{memory[mode]:.0f}", f"{memory[mode] / memory['full']:.2f}", took, times)


def bias(steps: int, student_lr: float, pairs: int = 16) -> None:
    """Print the mean cosine of each biased gradient with the exact one, over pairs."""
    dataset = data.load("digits")
    model = models.build(ConvNet(width=32, depth=2), dataset.image_shape, dataset.num_classes)
    task = classification(model, dataset.num_classes)
    sources = Sources(dataset.real_set(), train_experts(task, dataset, ExpertsConfig(count=1)))
    config = mtt.Config(student_steps=steps, student_lr=student_lr, pairs=pairs, window=Window(start=16))
    first = initial_distilled(jax.random.key(0), task, sources, config, lr=student_lr)
    batch = complete(config.build(task).sample(jax.random.key(1), jnp.int32(0), sources), sources, None)
    gradients = {}
    for mode in MODES[1:]:
        train = mtt.student_trainer(task, dataclasses.replace(config, unroll=Unroll(mode)))

        def of_pair(pair, train=train):
            return jax.grad(lambda s: mtt.unweighted((), train(s, pair)[0], pair))(first).images.ravel()

        gradients[mode] = jax.jit(lambda batch, of_pair=of_pair: jax.lax.map(of_pair, batch))(batch)
    norms = {mode: jnp.linalg.norm(g, axis=1) for mode, g in gradients.items()}
    cosines = {
        mode: jnp.sum(g * gradients["segmented"], axis=1) / norms[mode] / norms["segmented"]
        for mode, g in gradients.items()
    }
    cells = [f"{jnp.mean(cosines[mode]):.3f} ({jnp.min(cosines[mode]):.3f})" for mode in ("tesla", "truncated")]
    row(steps, student_lr, *cells)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 50, 80])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="0: memory only")
    parser.add_argument("--bias", action="store_true", help="cosines in place of costs")
    arguments = parser.parse_args()
    if arguments.bias:
        header("student steps", "student learning rate", "tesla: mean (least) cosine", "truncated")
        for steps in arguments.steps:
            for student_lr in (0.01, 0.03, 0.1):
                bias(steps, student_lr)
        return
    header("student steps", "differentiation", "temporary memory, MiB", "of full", "seconds", "of full")
    for steps in arguments.steps:
        cost(steps, arguments.width, arguments.repeats)


if __name__ == "__main__":
    main()
