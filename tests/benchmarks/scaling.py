"""How an outer step scales, from the programs that XLA compiles for many devices: nothing is run.

`python -m tests.benchmarks.scaling`: MTT, Inf-Match and DM on CIFAR-10's sizes, on 1, 8, 64 and 512 devices of a CPU
that are only compiled for. Each device has one pair of MTT or one checkpoint of Inf-Match (weak scaling); DM shares ten
classes, and where there are more devices their real images. `python -m tests.benchmarks.scaling --imagenet`: one step
on ImageNet-1K's sizes, 224 pixels, ten images of each of 1000 classes, and what of it fits into how much memory.

FLOPs are `cost_analysis`'s, which counts the body of a loop once: of MTT a student step and its derivative, of DM and
Inf-Match one item. Bytes between devices are the sizes of all results of collectives in the compiled text (a ring moves
nearly twice that through each device), those in loops once as well. Memory is that of one device: what the program
is given (data and experts), and what it needs besides.
"""

import argparse
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdd import classification, make_mesh, models
from jaxdd.core.distilled import Distilled
from jaxdd.core.normalization import Standardize
from jaxdd.core.sampling import Classes, RealSet
from jaxdd.driver import advance, for_steps
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.methods import Sources, dm, infmatch, mtt
from jaxdd.models import ConvNet, ModelConfig, ResNet
from tests.benchmarks.table import header, row

COLLECTIVE = re.compile(r"= (\([^)]*\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(")
SHAPE = re.compile(r"(f64|f32|bf16|s32|u32|s8|u8|pred)\[([\d,]*)\]")
SIZES = {"f64": 8, "f32": 4, "bf16": 2, "s32": 4, "u32": 4, "s8": 1, "u8": 1, "pred": 1}
SNAPSHOTS = 20
"""Of each of ten experts; MTT and Inf-Match read them all."""


def methods(devices: int, ipc: int) -> dict[str, Any]:
    """Settings of each method, with an item of its own for each device."""
    window = Window(start=SNAPSHOTS - 1)
    return {
        "MTT": mtt.Config(ipc=ipc, pairs=devices, student_steps=20, expert_snapshots=1, window=window, batch=100),
        "Inf-Match": infmatch.Config(
            ipc=ipc, checkpoints=devices, estimator="second_order", window=window, real_batch=256, batch=100
        ),
        "DM": dm.Config(ipc=ipc, real_batch=512),
    }


def described(image_shape: tuple[int, ...], classes: int, examples: int, network: ModelConfig) -> tuple[Any, Sources]:
    """Describe a task and its sources by shapes."""
    task = classification(models.build(network, image_shape, classes), classes)  # type: ignore[arg-type]
    shape, f32 = jax.ShapeDtypeStruct, jnp.float32
    of_class = Classes(shape((classes, examples // classes), jnp.int32), shape((classes,), jnp.int32))
    channels = Standardize(np.zeros(image_shape[-1], np.float32), np.ones(image_shape[-1], np.float32))
    real = RealSet(shape((examples, *image_shape), jnp.uint8), shape((examples,), jnp.int32), of_class, channels)
    line = shape((SNAPSHOTS,), f32)
    experts = Trajectories(
        shape((10, SNAPSHOTS, task.size), f32),
        shape((10, task.size), f32),
        line,
        line,
        shape((), f32),
        shape((SNAPSHOTS,), jnp.int32),
    )
    return task, Sources(real, experts)


def compiled(config: Any, task: Any, sources: Sources, image_shape: tuple[int, ...]) -> Any:
    """Compile a stretch of outer steps for the devices of the mesh that is set."""
    method, items = config.build(task), task.items(config.ipc)
    everywhere = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
    classes = task.items(1)
    distilled = Distilled(
        jax.ShapeDtypeStruct((items, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((items, classes), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    sources = for_steps(config, sources)
    if not config.needs_experts:
        sources = sources._replace(trajectories=None)
    state = jax.eval_shape(method.init, key, distilled, sources)

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=everywhere), tree)

    step = jax.ShapeDtypeStruct((), jnp.int32)
    return advance(method).lower(*placed((key, state, sources, step, step)), None).compile()


def moved(text: str) -> tuple[int, int]:
    """Count the collectives of a compiled program, and the bytes of their results."""
    found = COLLECTIVE.findall(text)
    sizes = [
        SIZES[kind] * int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
        for result, _ in found
        for kind, shape in SHAPE.findall(result)
    ]
    return len(found), sum(sizes)


def tell(name: str, devices: int, program: Any) -> None:
    """Print the row of a program."""
    cost, memory = program.cost_analysis(), program.memory_analysis()
    count, size = moved(program.as_text())
    row(
        name,
        devices,
        f"{cost['flops'] / 1e9:.1f}",
        count,
        f"{size / 2**20:.2f}",
        f"{memory.argument_size_in_bytes / 2**20:.0f}",
        f"{memory.temp_size_in_bytes / 2**20:.0f}",
    )


def on(devices: int, arguments: argparse.Namespace) -> None:
    """Print the rows of a number of devices, which this process has."""
    shape, classes, examples, ipc = ((224, 224, 3), 1000, 1_281_000, 10) if arguments.imagenet else (
        (32, 32, 3), 10, 50_000, arguments.ipc
    )  # fmt: skip
    network: ModelConfig = ResNet(depth=18) if arguments.imagenet else ConvNet()
    with jax.set_mesh(make_mesh()):
        task, sources = described(shape, classes, examples, network)
        for name, config in methods(devices, ipc).items():
            if not arguments.only or name in arguments.only:
                tell(name, devices, compiled(config, task, sources, shape))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--only", nargs="+", choices=["MTT", "Inf-Match", "DM"])
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        [devices] = arguments.devices
        on(devices, arguments)
        return
    header("step", "devices", "GFLOP, loops once", "collectives", "MiB between devices", "MiB given", "MiB besides")
    for devices in arguments.devices:  # a process has one number of devices for all its life
        words = [sys.executable, "-m", "tests.benchmarks.scaling", "--alone", *sys.argv[1:], "--devices", str(devices)]
        subprocess.run(words, check=True, env=environment(devices))


def environment(devices: int) -> dict[str, str]:
    """Return this process's environment, with a number of devices of a CPU."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}


if __name__ == "__main__":
    main()
