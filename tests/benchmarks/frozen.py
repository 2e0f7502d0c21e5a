"""Sets for a linear head on frozen features: `python -m tests.benchmarks.frozen digits`.

The network is trained on the real images of the first half of the classes, and stays as it is; a new head learns all
classes from one or ten images of each. A cell is a line of OUT/cells.jsonl; cells that are there are not computed
again.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import jaxdd
from jaxdd import classification, data, models
from jaxdd.app.config import Config
from jaxdd.core.tasks import Task
from jaxdd.data import Dataset
from jaxdd.methods import MethodConfig, Optimizer, coresets, dm, linear_gradient
from tests.benchmarks.table import add_run_flags, configured, header, percent, row, wanted

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
    out = Path(arguments.out) / arguments.data
    out.mkdir(parents=True, exist_ok=True)
    path = out / "cells.jsonl"
    cells = [json.loads(line) for line in path.open()] if path.exists() else []
    settings = configured(arguments.data, f"dm {arguments.add}", Path("unused"))
    dataset = data.load(**dataclasses.asdict(settings.data))
    task = probe(dataset, settings)
    header("method", "images per class", "validation", "test", "seconds")
    for ipc in arguments.ipc:
        for name, config in ROWS.items():
            if not wanted(name, arguments):
                continue
            found = [cell for cell in cells if (cell["row"], cell["ipc"]) == (name, ipc)]
            if not found:
                last = name == list(ROWS)[-1] and ipc == arguments.ipc[-1]
                found = [{"row": name, "ipc": ipc, **score(task, dataset, settings, config, ipc, full=last)}]
                cells += found
                with path.open("a") as file:
                    file.write(json.dumps(found[0]) + "\n")
            cell = found[0]
            seconds = f"{cell['seconds']:.0f}"
            row(name, ipc, f"{100 * cell['validation']:.1f}", percent(cell["test"]), seconds)
    for cell in cells:
        if cell["full"]:
            row("all real images", None, None, percent(cell["full"]), None)


def probe(dataset: Dataset, settings: Config) -> Task:
    """Freeze a network that has learned half of the classes."""
    model = models.build(settings.model, dataset.image_shape, dataset.num_classes)
    half = np.flatnonzero(np.asarray(dataset.train.labels) < dataset.num_classes // 2)
    images, labels = (np.asarray(x)[half] for x in dataset.train)
    part = dataclasses.replace(dataset, train=type(dataset.train)(images, labels))
    task = classification(model, dataset.num_classes)
    one = dataclasses.replace(settings.experts, count=1)
    final = jaxdd.train_experts(task, part, one, seed=settings.seed).final[0]
    return classification(
        models.frozen(model, task.unravel(final), dataset.image_shape, dataset.num_classes), dataset.num_classes
    )


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
