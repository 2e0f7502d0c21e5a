"""Memory and time of the outer gradient of MTT against the way of differentiating: `python tests/benchmark_unroll.py`.

Width-128 ConvNet of depth 3 on 32×32×3, one image per class, N student steps. Temporary memory is what XLA reserves
for the compiled gradient (`memory_analysis`); times are medians of the modes taken alternately in one run.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import models
from jaxdd.augment import dsa
from jaxdd.distilled import Distilled, hard_labels
from jaxdd.losses import cross_entropy
from jaxdd.methods import mtt
from jaxdd.models import ModelConfig
from jaxdd.unroll import Unroll


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs="+", default=[50])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="0: memory only")
    arguments = parser.parse_args()
    model = models.build(ModelConfig(width=arguments.width), (32, 32, 3), 10)
    images = jax.random.normal(jax.random.key(0), (10, 32, 32, 3))
    distilled = Distilled(images, hard_labels(jnp.arange(10), 10), jnp.float32(0.01))
    print("| student steps | differentiation | temporary memory, MiB | of full | time of full |\n|---|---|---|---|---|")
    for steps in arguments.steps:
        batch = mtt.Batch(
            model.init(jax.random.key(1)),
            model.init(jax.random.key(2)),
            jnp.tile(jnp.arange(10), (steps, 1)),
            jax.random.split(jax.random.key(3), steps),
        )
        gradients = {}
        for mode in ("full", "segmented", "truncated", "tesla"):

            def loss(distilled, batch, how=Unroll(mode)):
                return mtt.matching_loss(cross_entropy(model), dsa("none", siamese=False), distilled, batch, how)[0]

            gradients[mode] = jax.jit(jax.grad(loss)).lower(distilled, batch).compile()
        memory = {mode: g.memory_analysis().temp_size_in_bytes / 2**20 for mode, g in gradients.items()}
        seconds: dict[str, list[float]] = {mode: [] for mode in gradients}
        for _ in range(arguments.repeats):
            for mode, gradient in gradients.items():
                start = time.perf_counter()
                jax.block_until_ready(gradient(distilled, batch))
                seconds[mode].append(time.perf_counter() - start)
        for mode in gradients:
            ratio = f"{np.median(seconds[mode]) / np.median(seconds['full']):.2f}" if arguments.repeats else "–"
            print(f"| {steps} | {mode} | {memory[mode]:.0f} | {memory[mode] / memory['full']:.2f} | {ratio} |")


if __name__ == "__main__":
    main()
