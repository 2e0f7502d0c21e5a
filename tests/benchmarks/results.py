"""The page of results: `python -m tests.benchmarks.results` writes configs/README.md from configs/results.jsonl.

`python -m tests.benchmarks.results add runs/mtt --group cifar10 --method MTT --published 46.3 --command "jaxdd …"`
appends what a finished run has reached, with its versions, device, seconds, curve on validation and this commit.

`python -m tests.benchmarks.results table FOLDER --command "jaxdd evaluate …"` appends what `jaxdd evaluate --out` made.

A line of the file is an object: `group` (a table of the page), `method`, `data`, `ipc`, `labels` (of the train split,
where they were replaced), `network` (where a table is over networks), `mean` and `std` of the test accuracy in per
cent over `networks`, `runs` (each network), `published` (per cent), `command`, `seed` (of experts, distillation and
evaluation), `commit`, `device`, `versions`, `seconds` of distillation and of experts that were trained for it, `curve`
(accuracy on validation by step), `note` (what differs from what is published, or was tested as the cause of a gap).
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from jaxdd.report.metrics import read

FOLDER = Path(__file__).parents[2] / "configs"
RESULTS, PAGE = FOLDER / "results.jsonl", FOLDER / "README.md"
GROUPS = {
    "cifar10": (
        "CIFAR-10: published, and ours",
        "ConvNet of width 128 and depth 3. The set is chosen on a validation split of a tenth of the training images, "
        "the papers choose on test or take the last one. Published numbers are those of the methods' papers. The seed "
        "is 0 where a command does not say another. *Took* is distillation, and the training of experts where there "
        "were none yet. Not measured, but for random real images: fifty images per class, which need an accelerator. "
        "So do those at ten, of which rows on two cores say how few of the published steps they took, and full data "
        "for 50 epochs. What influence scores say of CIFAR-10: "
        "[influence](../jaxdd/influence/README.md#what-it-says-of-cifar-10).",
    ),
    "presets": (
        "Digits and Fashion-MNIST: the presets",
        "Each row is a preset as it stands, with the settings in its file. Networks of Fashion-MNIST are those of the "
        "tables below, width 16, but Inf-Match's have 32, and random real images at ten stand beside it.",
    ),
    "trajectory": (
        "The trajectory family, under identical settings",
        "Four experts, ten student steps, targets four snapshots ahead, Adam on the images. Digits: ConvNet of width "
        "32 and depth 2, 300 outer steps. Fashion-MNIST: width 16 and depth 3, 200 outer steps at one image per class, "
        "100 at ten. Unrolling as the commands say; other ways round otherwise, and 300 steps of Adam then end "
        "elsewhere within the spread. All rows, unrolled as the presets are: `python -m "
        "tests.benchmarks.trajectories digits`, and `fashion_mnist`. What follows from it: "
        "[methods](../jaxdd/methods/README.md#iadd).",
    ),
    "statistics": (
        "Statistic matching, under identical settings",
        "Adam on the images at learning rate 0.1, 64 real examples of each class a step; networks and steps as above, "
        "but 300 steps on Fashion-MNIST at one image per class. All rows: `python -m tests.benchmarks.statistics "
        "methods digits`, and `fashion_mnist`. What follows from it: [methods](../jaxdd/methods/README.md#dc).",
    ),
    "noise": (
        "Influence-weighted real images, clean and wrong labels",
        "Digits, one image per class, mean ± standard deviation over three seeds (of the wrong labels, of "
        "distillation, and of five networks each). All rows: `python -m tests.benchmarks.statistics noise digits`. "
        "What follows from it: [methods](../jaxdd/methods/README.md#iwd).",
    ),
    "networks": (
        "Across networks",
        "One image per class. Sets are those of the presets, distilled on a ConvNet and taught to each network with"
        " the labels named (`teacher`: one ConvNet trained on all real data labels every row); the coreset is the "
        "better one of herding and k-center on validation. ResNet-18, VGG-11 and AlexNet are narrow, for a CPU: "
        "ConvNet w32 d2, ResNet-18 w16, VGG-11 w16, AlexNet w64, five networks each. A standard deviation of 20 or 30 "
        "says that some "
        "networks did not train at the learning rate that MTT learned for its ConvNet. `jaxdd evaluate "
        "runs/digits_*/distilled.npz --labels own hard teacher --coreset --full-data --model "
        "convnet:width=32,depth=2 resnet18:width=16 vgg11:width=16 alexnet:width=64 mlp`. Fashion-MNIST: ConvNet w16 "
        "d3, ResNet-18 w8, VGG-11 w8, AlexNet w32, two networks each; a cell without a number is one that diverged: "
        "MTT's learning rate is too high for AlexNet there. `jaxdd evaluate "
        "runs/fashion_mnist_{infmatch,mtt,dc,dm}/distilled.npz --labels hard teacher --coreset --full-recipe.epochs 3 "
        "--networks 2 --points 2 --model convnet:width=16 resnet18:width=8 vgg11:width=8 alexnet:width=32 mlp`, "
        "measured in parts; the teacher's labels (three epochs) help random real images there and, on the "
        "ConvNet, none of the distilled sets, which were learned with hard ones; "
        "their sets by `jaxdd --config fashion_mnist_infmatch --method.ipc 1` and its like.",
    ),
    "imbalance": (
        "Long-tailed data",
        "Fashion-MNIST made 100 times rarer in its last class than in its first (`--data.imbalance 100`), one image "
        "per class; mean of the accuracies of the classes, over seeds 0, 1 and 2 of experts, distillation and "
        "evaluation (five networks each). The question of IADD's paper whether an importance of parameters helps the "
        "rare classes: not here. Experts of one epoch on such data hardly know the rare classes, and what is matched "
        "to them falls behind random real images, of which each class has one; IADD more than MTT.",
    ),
}
"""Tables by name: title, and what all of its rows share."""
NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
HEAD = (
    "# Measured\n\nTest accuracy in per cent, mean ± standard deviation over fresh networks, of the last epoch; random "
    "real images are drawn anew for each network. This page is written by `python -m tests.benchmarks.results` from "
    "[results.jsonl](results.jsonl), where each number has its commit, versions, device, time and command. Rows of "
    "commit 8e7eb65 were measured there or a little before.\n\nA preset is a file of this folder: `jaxdd --config "
    "cifar10_mtt:ipc=10`. Its first lines say what is published, what was measured, and where it differs from its "
    "paper.\n"
)


def rows() -> list[dict[str, Any]]:
    """Read all results."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def page(results: list[dict[str, Any]]) -> str:
    """Write the page: a table for each group; one with published numbers has a line for each result."""
    parts = [HEAD]
    for group, (title, about) in GROUPS.items():
        found = [row for row in results if row["group"] == group]
        if found:
            table = listed(found) if any("published" in row for row in found) else crossed(found)
            parts.append(f"## {title}\n\n{about}\n\n{table}")
    return "\n".join(parts)


def listed(found: list[dict[str, Any]]) -> str:
    """Write a line for each result, published beside measured."""
    head = ["method", "ipc", "published", "ours", "took", "on", "what differs", "command"]
    lines = []
    for row in found:
        took = f"{row['seconds'] / 60:.1f} min" if "seconds" in row else ""
        published = f"{row['published']:.1f}" if "published" in row else ""
        lines.append(
            [
                row["method"],
                "" if row["method"] == "full data" else row["ipc"],
                published,
                accuracy(row),
                took,
                row["device"],
                row.get("note", ""),
                command(row),
            ]
        )
    return markdown(head, lines)


def crossed(found: list[dict[str, Any]]) -> str:
    """Write a line for each method, and a column for each data set and number of images per class."""
    columns = [*dict.fromkeys(map(column, found))]
    methods = [*dict.fromkeys(row["method"] for row in found)]
    at = {(row["method"], column(row)): row for row in found}
    lines = []
    for method in methods:
        own = [at.get((method, name)) for name in columns]
        first = next(row for row in own if row)
        lines.append([method, *(accuracy(row) if row else "" for row in own), command(first)])
    tables = any("network" in row for row in found)
    if tables or len({row.get("command") for row in found}) <= len({row["data"] for row in found}):  # said above
        return markdown(["method", *columns], [line[:-1] for line in lines])
    return markdown(["method", *columns, "command"], lines)


def column(row: dict[str, Any]) -> str:
    """Name what a result was measured on."""
    if "network" in row:
        return f"{NAMES[row['data']]}, {row['network']}"
    return row.get("labels") or f"{NAMES[row['data']]}, {row['ipc']}"


def accuracy(row: dict[str, Any]) -> str:
    """Write a result."""
    return f"{row['mean']:.1f} ± {row['std']:.1f}"


def command(row: dict[str, Any]) -> str:
    """Write the command of a result."""
    return f"`{row['command']}`" if row.get("command") else ""


def markdown(head: list[str], lines: list[list[Any]]) -> str:
    """Write a table."""
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n"


def add(arguments: argparse.Namespace) -> None:
    """Append what a run has reached."""
    workdir = Path(arguments.workdir)
    results = json.loads((workdir / "results.json").read_text())
    row = {
        "group": arguments.group,
        "method": arguments.method,
        "data": results["dataset"],
        "ipc": results["ipc"],
        **reached(results[arguments.of]),
        "seed": json.loads((workdir / "config.json").read_text())["seed"],
        "commit": arguments.commit or git("rev-parse", "--short", "HEAD"),
        "device": arguments.device or results["versions"]["device"],
        "versions": {name: results["versions"][name] for name in ("jax", "flax", "optax", "python")},
        "seconds": round(results["seconds"]["distill"] + results["seconds"]["experts"]),
        "curve": {
            record["step"]: round(100 * record["accuracy"], 1) for record in read(workdir / "metrics.jsonl", "validate")
        },
        "command": arguments.command,
    }
    if arguments.published is not None:
        row["published"] = arguments.published
    if arguments.note:
        row["note"] = arguments.note
    if arguments.of != "distilled":
        del row["seconds"], row["curve"]
    with RESULTS.open("a") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def add_table(arguments: argparse.Namespace) -> None:
    """Append the cells of a table over networks that did not diverge."""
    table = json.loads((Path(arguments.folder) / "table.json").read_text())
    with RESULTS.open("a") as file:
        for cell in (cell for cell in table["cells"] if "diverged" not in cell):
            row = {
                "group": "networks",
                "method": f"{cell['row']['name'].split('_')[-1]}, {cell['row']['labels']} labels",
                "data": table["dataset"],
                "ipc": cell["row"]["per_class"],
                "network": cell["network"].split(":")[0],
                "settings": cell["network"],
                **reached(cell["accuracy"]),
                "commit": arguments.commit or git("rev-parse", "--short", "HEAD"),
                "device": table["versions"]["device"],
                "versions": {name: table["versions"][name] for name in ("jax", "flax", "optax", "python")},
                "command": arguments.command,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def reached(score: dict[str, Any]) -> dict[str, Any]:
    """Return an accuracy in per cent, with one digit behind the point."""
    mean, std, *runs = (round(100 * value, 1) for value in (score["mean"], score["std"], *score["runs"]))
    return {"mean": mean, "std": std, "networks": len(runs), "runs": runs}


def git(*words: str) -> str:
    """Return what git says."""
    return subprocess.run(["git", *words], cwd=FOLDER, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write configs/README.md from configs/results.jsonl.")
    commands = parser.add_subparsers()
    adding = commands.add_parser("add", help="append what a finished run has reached")
    adding.add_argument("workdir")
    for name in ("group", "method", "command"):
        adding.add_argument(f"--{name}", required=True)
    for name in ("note", "commit", "device"):
        adding.add_argument(f"--{name}")
    adding.add_argument("--of", default="distilled", choices=["distilled", "random_real", "full_data"])
    adding.add_argument("--published", type=float)
    adding.set_defaults(run=add)
    adding = commands.add_parser("table", help="append a table of jaxdd evaluate")
    adding.add_argument("folder")
    adding.add_argument("--command", required=True)
    adding.add_argument("--commit")
    adding.set_defaults(run=add_table)
    arguments = parser.parse_args()
    if "run" in arguments:
        arguments.run(arguments)
    PAGE.write_text(page(rows()))


if __name__ == "__main__":
    main()
