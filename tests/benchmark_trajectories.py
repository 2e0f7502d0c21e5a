"""The trajectory family under identical settings: `python tests/benchmark_trajectories.py digits`.

Every row is a run of `python -m jaxdd.main` with the flags that the table gives, in a workdir of its own, and goes on
where it was stopped. All share one set of experts but the one whose experts are trained for flatness. The last columns
are from the last ten steps: the distance of student and target as MTT measures it, the part of it that the weights
count, the part of the parameters that they count, and the share of what is counted that a hundredth of them holds; and
for IADD the tensors that hold most of Σ W² in the end, with their share of it and of the parameters.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd.app.config import parse
from jaxdd.app.run import run
from jaxdd.report.metrics import read

ROWS = {
    "MTT": "mtt",
    "MTT, TESLA": "mtt --method.unroll.mode tesla",
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
    parser.add_argument("data", choices=["digits", "fashion_mnist"])
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--only", help="rows whose name has this in it")
    parser.add_argument("--add", default="", help="flags for every run")
    parser.add_argument("--out", default="runs/benchmark_trajectories")
    arguments = parser.parse_args()
    folder, baselines = Path(arguments.out) / arguments.data, {}
    print("| method | flags | ipc | distilled | validation | distance | counted | effective | top 1 % | most of W² |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for ipc in arguments.ipc:
        for name, row in ROWS.items():
            if arguments.only and arguments.only not in name:
                continue
            config, *flags = f"configs/{arguments.data}_{row}".split()
            workdir = folder / f"{row.replace(' --', '_').replace(' ', '_')}_ipc{ipc}"
            experts = folder / ("flat_experts" if "sharpness" in row else "experts")
            plain = name == "MTT"  # the baselines do not depend on the method
            full = plain and ipc == arguments.ipc[0]  # nor the full data on ipc
            flags += [*arguments.add.split(), "--method.ipc", str(ipc)]
            flags += ["--workdir", str(workdir), "--experts.directory", str(experts)]
            flags.append("--evaluate.random-real" if plain else "--evaluate.no-random-real")
            flags.append("--evaluate.full-data" if full else "--evaluate.no-full-data")
            try:
                results = run(parse(["--config", f"{config}.py", *flags]))
            except FloatingPointError:
                print(f"| {name} | `{row}` | {ipc} | diverged | | {details(workdir)} |", flush=True)
                continue
            if plain:
                baselines[ipc] = results
            scores = f"{percent(results['distilled'])} | {best(workdir)}"
            print(f"| {name} | `{row}` | {ipc} | {scores} | {details(workdir)} |", flush=True)
    for ipc, results in baselines.items():
        scores = [f"{name} {percent(results[name])}" for name in ("random_real", "full_data") if results[name]]
        print(f"ipc {ipc}: {', '.join(scores)}")


def percent(accuracy: dict[str, Any]) -> str:
    return f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f}"


def best(workdir: Path) -> str:
    return f"{100 * max(line['accuracy'] for line in read(workdir / 'metrics.jsonl', 'validate')):.1f}"


def details(workdir: Path) -> str:
    if not (lines := read(workdir / "metrics.jsonl", "distill")):  # diverged at once
        return " | ".join(5 * "–")
    last = lines[-1]
    cells = [f"{last.get('distance', last['loss']):.3f}"]
    counted = last.get("counted", last["loss"] / last["distance"] if "kept" in last else None)
    for value in (counted, last.get("effective", last.get("kept")), last.get("top_share")):
        cells.append("–" if value is None else f"{value:.3f}")
    return " | ".join([*cells, mass(workdir)])


def mass(workdir: Path) -> str:
    """Name the two tensors with the largest part of Σ W², from the histograms of the last inspection."""
    if not (inspected := read(workdir / "metrics.jsonl", "inspect")):
        return "–"
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
