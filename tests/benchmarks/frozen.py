"""Sets for a linear head on frozen features: `python -m tests.benchmarks.frozen digits`.

The network is trained on the real images of the first half of the classes, and stays as it is; a new head learns all
classes from one or ten images of each. A cell is a line of OUT/cells.jsonl; cells that are there are not computed
again.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jaxdd
from jaxdd import classification, models
from jaxdd.app.config import Config
from jaxdd.app.labeled import problem
from jaxdd.core.tasks import Task
from jaxdd.data import Dataset
from jaxdd.data.splits import subset
from jaxdd.methods import MethodConfig, Optimizer, coresets, dm, linear_gradient
from tests.benchmarks.table import Cells, add_run_flags, configured, header, percent, row, wanted

ADAM = Optimizer("adam", 0.1)
ROWS: dict[str, MethodConfig] = {
    "random real": coresets.Config(),
    "DM": dm.Config(steps=300, real_batch=64, image_optimizer=ADAM),
    "linear gradient, from noise": linear_gradient.Config(steps=300, image_optimizer=ADAM),
    "linear gradient, from real images": linear_gradient.Config(steps=300, init="real", image_optimizer=ADAM),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "runs/benchmark_frozen")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    arguments = parser.parse_args()
    cells = Cells(Path(arguments.out) / arguments.data)
    settings = configured(arguments.data, f"dm {arguments.add}", Path("unused"))
    dataset, whole = problem(settings)
    task = probe(whole, dataset, settings)
    header("method", "images per class", "validation", "test", "seconds")
    for ipc in arguments.ipc:
        for name, config in ROWS.items():
            if not wanted(name, arguments):
                continue
            last = name == list(ROWS)[-1] and ipc == arguments.ipc[-1]
            compute = functools.partial(score, task, dataset, settings, config, ipc, full=last)
            cell = cells.computed(compute, row=name, ipc=ipc)
            seconds = f"{cell['seconds']:.0f}"
            row(name, ipc, f"{100 * cell['validation']:.1f}", percent(cell["test"]), seconds)
    for cell in cells.of():
        if cell["full"]:
            row("all real images", None, None, percent(cell["full"]), None)


def probe(task: Task, dataset: Dataset, settings: Config) -> Task:
    """Freeze a network that has learned half of the classes."""
    half = dataclasses.replace(dataset, train=subset(dataset.train, dataset.train.labels < dataset.num_classes // 2))
    one = dataclasses.replace(settings.experts, count=1)
    final = task.unravel(jaxdd.train_experts(task, half, one, seed=settings.seed).final[0])
    frozen = models.frozen(task.model, final, dataset.image_shape, dataset.num_classes)
    return classification(frozen, dataset.num_classes)


def score(
    task: Task, dataset: Dataset, settings: Config, config: MethodConfig, ipc: int, *, full: bool
) -> dict[str, Any]:
    """Distill and evaluate a set, by heads trained on it; where `full`, also by heads trained on all real images."""
    scoring = dataclasses.replace(settings.evaluate, random_real=False, full_data=full)
    began = time.monotonic()
    outcome = jaxdd.distill(task, dataset, dataclasses.replace(config, ipc=ipc), seed=settings.seed, evaluate=scoring)
    seconds = time.monotonic() - began
    results = jaxdd.evaluate(task, dataset, outcome.distilled, scoring, seed=settings.seed)
    test, everything = (
        [float(accuracy) for accuracy in results[name]["runs"]] if results.get(name) else []
        for name in ("distilled", "full_data")
    )
    return {"validation": float(outcome.score), "test": test, "full": everything, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
