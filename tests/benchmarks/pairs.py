"""Distilled pairs beside chosen ones: `python -m tests.benchmarks.pairs FOLDER`, a folder for `jaxdd.data.pairs`.

Every method makes N pairs of images and texts, on which fresh encoders are trained from nothing; recalls on the test
split are means over networks and seeds of distillation, in per cent. Sets are chosen on the validation split. The
encoder of texts stays as it is; that of images is a ConvNet. Seconds are those of distillation, compilation and
validation included, the least of the seeds. A second table has the gains over random and herded pairs, on which the
same networks are trained: the mean of the differences in mean recall, of every size and seed, and its interval. A cell
is a line of OUT/cells.jsonl; cells that are there are not computed again.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import jaxdd
from jaxdd import models
from jaxdd.core.retrieval import RetrievalConfig, retrieval
from jaxdd.core.tasks import Task
from jaxdd.data import pairs
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import MethodConfig, Optimizer, analytic_parameters, coresets, cross_covariance, iadd, infmatch, mtt
from tests.benchmarks.table import Cells, header, row

WIDTH, DEPTH, EMBEDDING = 32, 3, 64
TEMPERATURE = 0.2  # published is 0.07, for an image network that was trained before; one from nothing does not start
SHOWN = ("recall", "IR@1", "IR@5", "IR@10", "TR@1", "TR@5", "TR@10")
SGD = dict(momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none")
FULL = jaxdd.Recipe(epochs=15, batch=64, lr=0.1, **SGD)
EXPERTS = jaxdd.ExpertsConfig(
    count=4,
    recipe=jaxdd.Recipe(
        epochs=4, batch=64, lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
    ),
    snapshot_every=5,
)
ADAM = {"image_optimizer": Optimizer("adam", 0.03), "label_optimizer": Optimizer("adam", 0.01)}
STUDENT = ADAM | dict(
    student_steps=10,
    batch=20,
    student_lr=0.2,
    lr_optimizer=Optimizer("sgd", 1e-4, 0.5),
    expert_snapshots=4,
    window=jaxdd.Window(start=24),
)
PLAIN = RetrievalConfig(temperature=TEMPERATURE)
SIMILARITY = dataclasses.replace(PLAIN, rank=10)
ROWS: dict[str, tuple[MethodConfig, RetrievalConfig]] = {
    "random": (coresets.Config(), PLAIN),
    "herding": (coresets.Config(init="herding"), PLAIN),
    "k-center": (coresets.Config(init="k_center"), PLAIN),
    "cross-covariance": (cross_covariance.Config(image_optimizer=ADAM["image_optimizer"]), PLAIN),
    "APM": (analytic_parameters.Config(image_optimizer=ADAM["image_optimizer"]), PLAIN),
    "MTT": (mtt.Config(**STUDENT), PLAIN),
    "MTT, branches": (mtt.Config(**STUDENT, relative_to="branches"), PLAIN),
    "MTT, S learned": (mtt.Config(**STUDENT, labels="learned"), SIMILARITY),
    "IADD": (iadd.Config(**STUDENT), PLAIN),
    "Inf-Match": (
        infmatch.Config(**ADAM, estimator="second_order", real_batch=64, window=jaxdd.Window(start=16)),
        PLAIN,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--out", default="runs/benchmark_pairs")
    parser.add_argument("--encoder", default="hashed")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--pairs", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="+", help="rows whose name has one of these in it")
    arguments = parser.parse_args()
    dataset = pairs.read(arguments.folder, image_size=arguments.image_size, encoder=arguments.encoder)
    image = models.build(models.ConvNet(width=WIDTH, depth=DEPTH, pooling="max"), dataset.image_shape, EMBEDDING)
    encoder = models.dual(image, dataset.text_features, EMBEDDING)
    task, out = retrieval(encoder, PLAIN), Path(arguments.out)
    cells = Cells(out)
    experts = jaxdd.train_experts(task, dataset, EXPERTS)

    for seed in range(arguments.seeds):
        for count in arguments.pairs:
            for name, (config, learned) in ROWS.items():
                if arguments.only and not any(part in name for part in arguments.only):
                    continue
                steps = arguments.steps if config.steps else 0
                sized, posed = dataclasses.replace(config, ipc=count, steps=steps), retrieval(encoder, learned)
                compute = functools.partial(score, posed, dataset, sized, experts, seed)
                cells.computed(compute, row=name, pairs=count, seed=seed)
        cells.computed(functools.partial(full, task, dataset, seed), row="all pairs", pairs=0, seed=seed)
    header("pairs", "method", *SHOWN, "seconds", "kB", "first set kept")
    order = [*ROWS, "all pairs"]
    for count, name in sorted({(c["pairs"], c["row"]) for c in cells.of()}, key=lambda x: (x[0], order.index(x[1]))):
        mine = cells.of(row=name, pairs=count)
        runs = {shown: 100 * np.concatenate([c[shown] for c in mine]) for shown in SHOWN}
        scores = [f"{np.mean(values):.1f} ± {np.std(values):.1f}" for values in runs.values()]
        kept = sum(c["step"] == 0 for c in mine)
        seconds, size = min(c["seconds"] for c in mine), mine[0]["bytes"] / 1000
        row(count or "all", name, *scores, f"{seconds:.0f}", f"{size:.0f}", f"{kept} of {len(mine)}")
    print()
    compared(cells, arguments.pairs, arguments.seeds)


def compared(cells: Cells, sizes: list[int], seeds: int) -> None:
    """Print how much more every method recalls than random and herded pairs do, seed by seed, with 95 % intervals."""

    def recalls(name: str) -> np.ndarray:
        found = [cells.of(row=name, pairs=count, seed=seed) for count in sizes for seed in range(seeds)]
        return np.array([100 * np.mean(cell[0]["recall"]) for cell in found if cell])

    shown = [name for name in ROWS if len(recalls(name)) == len(sizes) * seeds]
    bases = [name for name in ("random", "herding") if name in shown]
    header("method", *(f"over {base}" for base in bases))
    for name in shown:
        differences = [recalls(name) - recalls(base) for base in bases]
        row(name, *(None if base == name else interval(x) for base, x in zip(bases, differences, strict=True)))


def interval(differences: np.ndarray) -> str:
    """Return the mean of differences and half its 95 % interval of Student's t."""
    half = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    return f"{np.mean(differences):+.1f} ± {half:.1f}"


def scoring(steps: int, count: int) -> jaxdd.EvaluateConfig:
    """Five networks, each of 150 steps with 20 of `count` pairs; validation, of two, four times in a run."""
    return jaxdd.EvaluateConfig(
        networks=5,
        recipe=jaxdd.Recipe(epochs=150 * 20 // count, batch=20, lr=0.1, **SGD),
        full_recipe=FULL,
        validate_every=max(steps // 4, 1),
        validate_networks=2,
        random_real=False,
        full_data=False,
    )


def score(task: Task, dataset: pairs.Pairs, config: MethodConfig, experts: Trajectories, seed: int) -> dict[str, Any]:
    """Distill and evaluate a set."""
    began = time.monotonic()
    scored = scoring(config.steps, config.ipc)
    outcome = jaxdd.distill(task, dataset, config, experts, seed=seed, evaluate=scored)
    seconds, distilled = time.monotonic() - began, outcome.distilled
    results = jaxdd.evaluate(task, dataset, distilled, scored, seed=seed)["distilled"]
    arrays = [*distilled.inputs.values(), *(distilled.labels.values() if config.labels == "learned" else ())]
    size = 4 * sum(np.size(x) for x in arrays)
    return runs_of(results) | {"seconds": seconds, "step": outcome.step, "bytes": size}


def full(task: Task, dataset: pairs.Pairs, seed: int) -> dict[str, Any]:
    """Score networks trained on all pairs."""
    config = dataclasses.replace(scoring(1, 20), full_data=True)
    first = jaxdd.distill(task, dataset, coresets.Config(ipc=1), seed=seed, evaluate=config).distilled
    results = jaxdd.evaluate(task, dataset, first, config, seed=seed)["full_data"]
    size = dataset.train.images.nbytes + 4 * dataset.text_features * len(dataset.train.texts)
    return runs_of(results) | {"seconds": 0.0, "step": -1, "bytes": size}


def runs_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every network, of each recall."""
    return {name: list(map(float, (results if name == "recall" else results[name])["runs"])) for name in SHOWN}


if __name__ == "__main__":
    main()
