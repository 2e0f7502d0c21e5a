"""PDD around MTT and IDC, with IWD and without: `python -m tests.benchmarks.stages digits`.

Every method makes ten images per class at once, and in five stages of two, each of a fifth of the steps. Networks of a
staged set learn from its unions one after another, so that they train for five times as many epochs; the column before
has the same set all at once, as any other. A cell is a line of OUT/cells.jsonl; cells that are there are not computed
again.
"""

import argparse
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jaxdd
from jaxdd.app.labeled import problem
from tests.benchmarks.statistics import RECIPE
from tests.benchmarks.table import Cells, add_run_flags, configured, header, percent, row, wanted

IPC, STAGES = 10, 5
ROWS = {
    "MTT": ("mtt", 1),
    "PDD around MTT": ("mtt", STAGES),
    "IDC": (RECIPE, 1),
    "PDD around IDC": (RECIPE, STAGES),
    "IDC with IWD": (f"{RECIPE} --method.weighting.warm-up {{warm_up}}", 1),
    "PDD around IDC with IWD": (f"{RECIPE} --method.weighting.warm-up {{warm_up}}", STAGES),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "runs/benchmark_stages")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cells = Cells(Path(arguments.out) / arguments.data)
    header("method", "images per class", "stages", "steps", "validation", "all at once", "stage by stage", "seconds")
    for name, (flags, stages) in ROWS.items():
        if not wanted(name, arguments):
            continue
        cell = cells.computed(functools.partial(score, arguments, flags, stages), row=name, seed=arguments.seed)
        staged = percent(cell["staged"]) if stages > 1 else None
        validation, seconds = f"{100 * cell['validation']:.1f}", f"{cell['seconds']:.0f}"
        row(name, IPC, stages, cell["steps"], validation, percent(cell["plain"]), staged, seconds)


def score(arguments: argparse.Namespace, flags: str, stages: int) -> dict[str, Any]:
    """Distill in stages, and evaluate the set by networks that learn it at once, and stage by stage."""
    total = configured(arguments.data, f"{flags.split()[0]} {arguments.add}", Path("unused")).method.steps
    steps = total // stages
    more = f"{arguments.add} --method.ipc {IPC} --method.steps {steps} --seed {arguments.seed}"
    settings = configured(arguments.data, f"{flags.format(warm_up=steps // 3)} {more}", Path("unused"))
    dataset, task = problem(settings)
    scoring = dataclasses.replace(
        settings.evaluate, random_real=False, full_data=False, validate_every=max(steps // 2, 1)
    )
    began = time.monotonic()
    found = jaxdd.progressive(
        task, dataset, settings.method, settings.experts, stages=stages, seed=arguments.seed, evaluate=scoring
    )
    seconds = time.monotonic() - began

    def runs(of: jaxdd.Task) -> list[float]:
        results = jaxdd.evaluate(of, dataset, found.distilled, scoring, seed=arguments.seed)
        return [float(accuracy) for accuracy in results["distilled"]["runs"]]

    return {
        "plain": runs(task),
        "staged": runs(found.task) if stages > 1 else [],
        "validation": float(found.outcomes[-1].score),
        "steps": steps * stages,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
