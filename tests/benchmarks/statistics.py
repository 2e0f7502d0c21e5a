"""Statistic matching under identical settings, and IWD under label noise.

`python -m tests.benchmarks.statistics methods digits` scores DC, DSA, IDC, DM and NCFM; every row is a run of
`python -m jaxdd.main` with the flags that the table gives.

`python -m tests.benchmarks.statistics noise digits` scores a base method, IWD around it and its ablations, for clean
labels and two kinds of label noise, over several seeds (of the labels, the distillation and the networks). Only the
first and the last set are compared on the validation split, whose labels stay right; "trusted" rows use it for more.
The last column is the area under the ROC curve with which the scores find wrong labels. The control is the base method
on the trusted examples alone.

Runs go on where they were stopped.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdd import data
from jaxdd.app.config import Config
from jaxdd.app.labeled import problem
from jaxdd.app.run import run
from jaxdd.driver import distill
from jaxdd.evaluation import evaluate
from jaxdd.io.files import write_json
from jaxdd.report.metrics import read
from tests.benchmarks.table import add_run_flags, configured, header, percent, row, wanted

IDC = "dc --method.network real --method.distance convolution_mse --method.factor 2 --method.network-batch 64"
RECIPE = "dc --method.network real --method.distance convolution_l1 --method.factor 2 --method.network-batch 64"
RECIPE += " --method.network-optimizer.momentum 0.9 --method.network-weight-decay 5e-4 --method.network-cutmix 0.5"
RECIPE += " --method.augment color+crop+cutout --method.network-augment color+crop --evaluate.recipe.cutmix 0.5"
RECIPE += " --evaluate.recipe.schedule two_steps --evaluate.recipe.augment color+crop_scale_rotate"
METHODS = {
    "DC": "dc",
    "DSA": "dc --method.augment color_crop_cutout_scale_rotate",
    "IDC": f"{IDC} --method.network-optimizer.momentum 0.9",
    "IDC, its recipe": RECIPE,
    "DM": "dm",
    "CAFE": "cafe",
    "NCFM": "ncfm",
}
NOISES = {
    "clean": "",
    "20 % symmetric": "--data.label-noise 0.2",
    "40 % asymmetric": "--data.label-noise 0.4 --data.noise-kind asymmetric",
}
TRUSTED = "--method.weighting.score implicit --method.weighting.evaluated-on validation"
VARIANTS = {
    "explicit, τ 0.5": "--method.weighting.temperature 0.5",
    "explicit, τ 1": "--method.weighting.temperature 1",
    "explicit, τ 2": "--method.weighting.temperature 2",
    "explicit, τ 4": "--method.weighting.temperature 4",
    "explicit, warm-up 20, τ 2": "--method.weighting.temperature 2 --method.weighting.warm-up 20",
    "explicit, harmful, τ 2": "--method.weighting.sign harmful --method.weighting.temperature 2",
    "implicit, τ 2": "--method.weighting.score implicit",
    "both, τ 2": "--method.weighting.score both",
    "implicit on trusted, τ 0.5": f"{TRUSTED} --method.weighting.temperature 0.5",
    "implicit on trusted, τ 2": TRUSTED,
    "implicit on trusted, cg, τ 2": f"{TRUSTED} --method.weighting.solver cg",
    "random-select": "--method.weighting.selection random_select",
    "influence-select": "--method.weighting.selection influence_select",
    "influence-prune, a fifth": "--method.weighting.selection influence_prune --method.weighting.fraction 0.2",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    methods_parser, noise_parser = commands.add_parser("methods"), commands.add_parser("noise")
    methods_parser.set_defaults(run=score_methods)
    methods_parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    noise_parser.set_defaults(run=score_noise)
    noise_parser.add_argument("--base", choices=["dc", "dm"], nargs="+", default=["dc", "dm"])
    noise_parser.add_argument("--seeds", type=int, default=3)
    for each in (methods_parser, noise_parser):
        add_run_flags(each, "runs/benchmark_statistics")
    arguments = parser.parse_args()
    arguments.run(arguments)


def score_methods(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.out) / arguments.data
    header("method", "ipc", "distilled", "stored pixels", "seconds", "flags")
    for ipc in arguments.ipc:
        for name, flags in METHODS.items():
            if not wanted(name, arguments):
                continue
            first = name == "DC"  # the baselines do not depend on the method
            more = f"--method.ipc {ipc} --evaluate.no-full-data {arguments.add}"
            more += f" --evaluate.{'' if first else 'no-'}random-real"
            results = run(configured(arguments.data, f"{flags} {more}", folder / f"{name}_ipc{ipc}"))
            stored, seconds = results["stored_pixels"], f"{results['seconds']['distill']:.0f}"
            row(name, ipc, percent(results["distilled"]["runs"]), stored, seconds, f"`{flags}`")
            if first:
                row("random real", ipc, percent(results["random_real"]["runs"]), stored, "", "")


def score_noise(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.out) / f"{arguments.data}_noise"
    header("base", "real images", *NOISES, f"AUC {' / '.join(list(NOISES)[1:])}", "flags")
    for base in arguments.base:
        rows: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
            "all alike (the base)": (base, run),
            **{name: (f"{base}_iwd {flags}", run) for name, flags in VARIANTS.items()},
            "trusted alone (control)": (base, run_on_trusted),
        }
        for name, (flags, score) in rows.items():
            if not wanted(name, arguments):
                continue
            cells, areas = [], []
            for noise, noise_flags in NOISES.items():
                runs, found = [], []
                for seed in range(arguments.seeds):
                    place = "clean" if score is run_on_trusted else noise  # of which the control sees nothing
                    workdir = folder / base / name.replace(" ", "_") / place.replace(" ", "_") / str(seed)
                    more = f"{noise_flags} --data.noise-seed {seed} --seed {seed} {arguments.add}"
                    more += " --evaluate.no-full-data --evaluate.no-random-real"
                    config = configured(arguments.data, f"{flags} {more}", workdir)
                    last = dataclasses.replace(config.evaluate, validate_every=config.method.steps)
                    config = dataclasses.replace(config, evaluate=last)
                    runs.append(np.mean(score(config)["distilled"]["runs"]))
                    found += areas_of(workdir)
                cells.append(percent(runs))
                if noise_flags:
                    areas.append(f"{np.mean(found):.2f}" if found else "–")
            row(base, name, *cells, " / ".join(areas), f"`{flags}`")


def run_on_trusted(config: Config) -> dict[str, Any]:
    """Distill the validation split, whose labels are right, in place of the train split."""
    path = Path(config.workdir) / "results.json"
    if not path.exists():
        dataset, task = problem(config)
        trusted = data.from_arrays(*dataset.validation, *dataset.test, validation=0.0)
        batch = min(config.method.real_batch, int(trusted.real_set().groups.sizes.min()))
        method = dataclasses.replace(config.method, real_batch=batch)
        outcome = distill(task, trusted, method, seed=config.seed, evaluate=config.evaluate)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, evaluate(task, trusted, outcome.last, config.evaluate, seed=config.seed))
    return json.loads(path.read_text())


def areas_of(workdir: Path) -> list[float]:
    path = workdir / "metrics.jsonl"
    inspected = read(path, "inspect") if path.exists() else []
    return [inspected[-1][name] for name in inspected[-1] if "AUC" in name] if inspected else []


if __name__ == "__main__":
    main()
