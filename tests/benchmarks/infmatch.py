"""Inf-Match: the ablation of its paper, and its estimators: `python -m tests.benchmarks.infmatch digits`.

The paper adds real first images, checkpoints that grow later along the run, and learned labels, to matching alone
(CIFAR-100 at 50 images per class, published: 52.2 none, 53.7 real, 55.0 real and schedule, 54.6 real and labels, 57.4
all). Every row is a run of `python -m jaxdd.main` with the flags that the table gives, in a workdir of its own, and
goes on where it was stopped; all but one share one set of experts.
"""

import argparse
from pathlib import Path

from jaxdd.app.run import run
from tests.benchmarks.table import add_run_flags, configured, header, percent, row, wanted

SCHEDULE = "--method.window.start 4 --method.window.end 16"
RELEASED = "--method.estimator released --method.checkpoints 2"
LABELS = "--method.labels learned"
ROWS = {
    "none": "--method.init noise",
    "real": "",
    "real, schedule": SCHEDULE,
    "real, labels": LABELS,
    "all": f"{SCHEDULE} {LABELS}",
    "estimator `published`": "--method.estimator published",
    "estimator `first_order`": "--method.estimator first_order",
    "estimator `unroll`": "--method.estimator unroll --experts.keep 24",
    "estimator `released`": f"{RELEASED} --method.released.probes 256 --method.cache None",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "runs/benchmark_infmatch")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    arguments = parser.parse_args()
    folder = Path(arguments.out) / arguments.data
    header("Inf-Match", "flags", "ipc", "distilled")
    for ipc in arguments.ipc:
        for name, flags in ROWS.items():
            if not wanted(name, arguments):
                continue
            workdir = folder / f"{name.replace(', ', '_').replace(' ', '_').replace('`', '')}_ipc{ipc}"
            experts = folder / ("longer_experts" if "keep" in flags else "experts")  # it reads beyond its window
            more = f"{arguments.add} --method.ipc {ipc} --experts.directory {experts}"
            more += " --evaluate.no-random-real --evaluate.no-full-data"
            results = run(configured(arguments.data, f"infmatch {flags} {more}", workdir))
            row(name, f"`{flags}`", ipc, percent(results["distilled"]["runs"]))


if __name__ == "__main__":
    main()
