"""The trajectory family under identical settings: `python -m tests.benchmarks.trajectories digits`.

Every row is a run of `python -m jaxdd.main` with the flags that the table gives, in a workdir of its own, and goes on
where it was stopped. All share one set of experts but the one whose experts are trained for flatness. The last columns
are from the last ten steps: the distance of student and target as MTT measures it, the part of it that the weights
count, the part of the parameters that they count, and the share of what is counted that a hundredth of them holds; and
for IADD the tensors that hold most of Σ W² in the end, with their share of it and of the parameters.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxdd.app.run import run
from jaxdd.report.metrics import read
from tests.benchmarks.table import add_run_flags, configured, header, percent, row, wanted

ROWS = {
    "MTT": "mtt",
    "MTT, TESLA": "mtt --method.unroll.mode tesla",
    "ATT": "mtt --method.matched-step nearest",
    "MCT": "mtt --method.path chord",
    "MTT, flat experts": "mtt --experts.recipe.sharpness 0.01",
    "DDPP, hardest 5 %": "ddpp",
    "DDPP, hardest 20 %": "ddpp --method.amount 0.2",
    "DDPP, first 20 % of depth": "ddpp --method.rule depth --method.amount 0.2",
    "IADD `none` (published)": "iadd --method.constraint none",
    "IADD `mean_one`": "iadd --method.constraint mean_one",
    "IADD `log_barrier`": "iadd --method.constraint log_barrier",
    "IADD `per_tensor`": "iadd --method.constraint per_tensor",
    "IADD `ratio`": "iadd --method.constraint ratio",
    "IADD `bounded`": "iadd --method.constraint bounded",
    "DATM": "datm",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "runs/benchmark_trajectories")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    arguments = parser.parse_args()
    folder, baselines = Path(arguments.out) / arguments.data, {}
    means = ("distance", "counted", "effective", "top 1 %", "most of W²")
    header("method", "flags", "ipc", "distilled", "validation", *means)
    for ipc in arguments.ipc:
        for name, flags in ROWS.items():
            if not wanted(name, arguments):
                continue
            workdir = folder / f"{flags.replace(' --', '_').replace(' ', '_')}_ipc{ipc}"
            experts = folder / ("flat_experts" if "sharpness" in flags else "experts")
            plain = name == "MTT"  # the baselines do not depend on the method
            full = plain and ipc == arguments.ipc[0]  # nor the full data on ipc
            more = f"{arguments.add} --method.ipc {ipc} --experts.directory {experts}"
            more += f" --evaluate.{'' if plain else 'no-'}random-real --evaluate.{'' if full else 'no-'}full-data"
            try:
                results = run(configured(arguments.data, f"{flags} {more}", workdir))
            except FloatingPointError:
                row(name, f"`{flags}`", ipc, "diverged", "", *details(workdir))
                continue
            if plain:
                baselines[ipc] = results
            scores = percent(results["distilled"]["runs"]), best(workdir)
            row(name, f"`{flags}`", ipc, *scores, *details(workdir))
    for ipc, results in baselines.items():
        scores = [f"{name} {percent(results[name]['runs'])}" for name in ("random_real", "full_data") if results[name]]
        print(f"ipc {ipc}: {', '.join(scores)}")


def best(workdir: Path) -> str:
    return f"{100 * max(line['accuracy'] for line in read(workdir / 'metrics.jsonl', 'validate')):.1f}"


def details(workdir: Path) -> list[str | None]:
    if not (lines := read(workdir / "metrics.jsonl", "distill")):  # diverged at once
        return 5 * [None]
    last = lines[-1]
    cells: list[str | None] = [f"{last.get('distance', last['loss']):.3f}"]
    counted = last.get("counted", last["loss"] / last["distance"] if "kept" in last else None)
    for value in (counted, last.get("effective", last.get("kept")), last.get("top_share")):
        cells.append(None if value is None else f"{value:.3f}")
    return [*cells, mass(workdir)]


def mass(workdir: Path) -> str | None:
    """Name the two tensors with the largest part of Σ W², from the histograms of the last inspection."""
    if not (inspected := read(workdir / "metrics.jsonl", "inspect")):
        return None
    squares, sizes = {}, {}
    for name, counted in inspected[-1].items():
        if name.startswith("W "):
            edges, counts = np.array(counted["edges"]), np.array(counted["counts"])
            middles = (edges[1:] + edges[:-1]) / 2
            squares[name], sizes[name] = np.sum(counts * middles**2), counts.sum()
    all_squares, all_sizes = sum(squares.values()), sum(sizes.values())
    return ", ".join(
        f"{name.removeprefix('W ')} {squares[name] / all_squares:.0%} ({sizes[name] / all_sizes:.1%})"
        for name in sorted(squares, key=lambda name: -squares[name])[:2]
    )


if __name__ == "__main__":
    main()
