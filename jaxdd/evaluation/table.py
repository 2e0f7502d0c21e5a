"""Many sets on many networks: the table that tells what a distilled set is worth, and what its labels are.

Every row is trained alike: the same recipe, the same first parameters, the same search of learning rates if there is
one. Axis letters: R networks of a cell, C classes, T times on the way.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import models
from jaxdd.core.distilled import Card, Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import lanes, over_devices, program_memory, to_host
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, classification
from jaxdd.data import Dataset, check_data
from jaxdd.errors import Diverged, SettingError
from jaxdd.evaluation.attack import Attack, accuracy_under_attack, confusion
from jaxdd.evaluation.ranking import augmentation_robust_score, label_robust_score
from jaxdd.evaluation.rows import Entry, TableConfig, check_fits, doubt_of_data, rows
from jaxdd.evaluation.scores import check_converged, distilled_scorer, full_data_scorer, mean_score, summary
from jaxdd.io.files import plain
from jaxdd.io.integrity import digest, read_sealed, write_sealed
from jaxdd.io.lock import in_use
from jaxdd.io.progress import progress_bar
from jaxdd.models import ModelConfig
from jaxdd.types import Array, Params, Scalars

Cell = dict[str, Any]
"""One result, JSON-able: `row` (the fields of `Row`), `network`, `accuracy` (`mean`, `std`, `runs`: last epoch), `best`
(likewise, of the best of the times on the way: chosen on the test split, so not a result), `curve` `[R][T]`,
`confusion` `[C][C]` summed over networks with true classes as rows, `attacked` (where asked for), `lr`, `seconds` of
one network, `memory` in bytes. Where a network diverged, `diverged` says so in place of all that was measured."""

CELLS = "cells.json"
BASELINES = ("random real", "coreset")
"""Rows that sets are compared with, at each number of images per class."""
SPREAD = 0.1
"""A standard deviation above this is implausible: half of the networks did not train. [our choice]"""
MOVING = 0.02
"""A change of accuracy above this in the last tenth of the training says that it had not ended. [our choice]"""


def evaluate_table(
    sets: Mapping[str, tuple[Distilled, Card]],
    networks: Mapping[str, ModelConfig],
    dataset: Dataset,
    config: TableConfig = TableConfig(),
    *,
    teacher: ModelConfig | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Cell]:
    """Train every network on every set, and on what the sets are compared with.

    Args:
        sets: Sets of images with their cards, by name; all of one dataset.
        networks: Settings of networks, by name.
        dataset: The real data. Images are normalized as each set's card says, also those that it is compared with.
        config: Rows and training.
        teacher: The network whose outputs are the labels `teacher` and whose features choose coresets; by default the
            first of `networks`.
        out: A folder in which finished cells are kept, so that a call goes on where the last one stopped.
        seed: Root of the randomness; the accuracies are those that `jaxdd.evaluate` computes with it.
        progress: Show a bar of the networks on standard error.

    Returns:
        The cells, row by row, a row's cells in the order of `networks`.

    Raises:
        SettingError: A set does not fit the dataset; a search of learning rates or a coreset is asked for and there is
            no validation split; a class has fewer images than the sets; or another process writes into the folder.
        Diverged: In every cell the outputs of a network are not finite. Where some cells are well the others say so
            under `diverged`.

    References:
        [published] the protocol of the field; labels of a teacher for real images, Qin et al. 2024, arXiv 2406.10485.
        [our choice] one search of learning rates for all rows, the rows themselves.
    """
    check_data(dataset)
    if not sets or not networks:
        raise SettingError(f"a table needs sets and networks, and it was given {len(sets)} and {len(networks)}")
    for name, (distilled, card) in sets.items():
        check_fits(name, distilled, card, dataset)
    if (config.tune or config.coreset) and dataset.validation_set() is None:
        raise SettingError(
            "learning rates and coresets are chosen on the validation split, and there is none; set data.validation"
        )
    path = None if out is None else Path(out) / CELLS
    known: dict[str, Cell] = {}
    teacher = teacher or next(iter(networks.values()))
    found: list[Cell] = []
    with ExitStack() as stack:
        if path is not None:
            stack.enter_context(in_use(path.parent / ".cells.lock", "wait until it is done, or name another folder"))
            if path.exists():
                known = read_sealed(path, "delete it, and the cells are computed again")
        stack.enter_context(over_devices())
        bar = stack.enter_context(progress_bar("evaluate", 0, enabled=progress))
        entries = [*rows(sets, dataset, config, teacher, seed)]
        bar.total = len(entries) * len(networks) * config.networks
        columns = {name: _Column(name, network, dataset, config, seed) for name, network in networks.items()}
        for name, network in networks.items():
            cells = columns[name]
            for entry in entries:
                key = _key(entry, network.identity(), teacher.identity(), plain(config), seed)
                bar.set_description_str(f"evaluate {entry.row.name}, {entry.row.labels} labels, on {name}")
                bar.update(len(found) * config.networks - bar.n)
                if key not in known:
                    known[key] = cells.compute(entry, bar.update)
                    if path is not None:
                        write_sealed(path, known)
                found.append({**known[key], "network": name})  # it may be kept under another spelling
        bar.update(bar.total - bar.n)
    if not _scored(found):
        raise Diverged(found[0]["diverged"])
    return [cell for row in range(len(entries)) for cell in found[row :: len(entries)]]


def _key(entry: Entry, network: Any, teacher: Any, config: dict[str, Any], seed: int) -> str:
    """Identify a cell by all that it depends on, and by nothing that only says which rows there are."""
    chooses = ("labels", "random_real", "coreset", "full_data", "without_augmentation")
    config = {name: value for name, value in config.items() if name not in chooses}
    dataset = entry.view.dataset
    data = [dataset.fingerprint(), dataset.held_out_fingerprint()]
    return digest([entry.row._asdict(), network, teacher, config, seed, *data])


class _Column:
    """One network, with its programs compiled once for all rows of a shape."""

    def __init__(self, name: str, network: ModelConfig, dataset: Dataset, config: TableConfig, seed: int):
        self.name, self.config = name, config
        self.task = classification(models.build(network, dataset.image_shape, dataset.num_classes), dataset.num_classes)
        self.measured = dataclasses.replace(self.task, measure=partial(_measures, self.task, config.attack))
        self.keys = jax.random.split(stage_key(seed, "evaluate"), config.networks)
        self.validating = jax.random.split(stage_key(seed, "validate"), min(config.tune_networks, config.networks))
        self._compiled: dict[Any, Any] = {}

    def compute(self, entry: Entry, on_networks: Callable[[int], Any]) -> Cell:
        """Train the networks of a row, as many at a time as there are devices."""
        row, view, config = entry.row, entry.view, self.config
        if entry.sets is None:
            sets, lr, setting = None, row.lr, "full_recipe.lr"
            score = full_data_scorer(self.measured, config.full_recipe)
        else:
            sets, lr = self._tuned(entry.sets(), entry)
            setting, score = "recipe.lr", self._scorer(row.augment, entry.posed(self.measured), config.points)
        count = config.networks
        at_a_time = lanes() if count % lanes() == 0 else count
        parts, seconds, memory = [], 0.0, 0
        for first in range(0, count, at_a_time):
            part = slice(first, first + at_a_time)
            trained_on = view.real if sets is None else jax.tree.map(lambda x, part=part: x[part], sets)
            given = (self.keys[part], trained_on, view.split)
            shapes = (score, jax.tree.structure(given), *(x.shape for x in jax.tree.leaves(given)))
            if shapes not in self._compiled:
                self._compiled[shapes] = score.lower(*given).compile()  # type: ignore[attr-defined]
            memory = program_memory(self._compiled[shapes])
            began = time.perf_counter()
            parts.append(to_host(self._compiled[shapes](*given)))
            seconds += time.perf_counter() - began
            on_networks(at_a_time)
        measures = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        cell: Cell = {
            "row": row._asdict(),
            "network": self.name,
            "lr": lr,
            "seconds": seconds / count,
            "memory": memory,
        }
        try:
            check_converged(f"{row.name}, {row.labels} labels, on {self.name}", measures["accuracy"], setting)
        except Diverged as error:
            return cell | {"diverged": str(error)}
        cell |= {
            "accuracy": summary(measures["accuracy"].astype(float)),
            "confusion": measures["confusion"].sum(0).tolist(),
        }
        if "curve" in measures:
            curve = np.concatenate([measures["curve"], measures["accuracy"][:, None]], 1).astype(float)
            cell |= {"curve": curve.tolist(), "best": summary(curve.max(1))}
        if "attacked" in measures:
            cell["attacked"] = summary(measures["attacked"].astype(float))
        return cell

    def _scorer(self, augment: str, task: Task, points: int) -> Callable[..., Scalars]:
        return distilled_scorer(task, dataclasses.replace(self.config.recipe, augment=augment), points)

    def _tuned(self, sets: Distilled, entry: Entry) -> tuple[Distilled, float]:
        """Choose the learning rate of sets on the validation split, if a search is asked for."""
        own = float(sets.lr[0])
        if not self.config.tune:
            return sets, own
        count = len(self.validating)
        first = jax.tree.map(lambda x: x[:count], sets)
        score, reached = self._scorer(entry.row.augment, self.task, 0), {}
        for lr in dict.fromkeys((own, *self.config.tune)):
            found = score(self.validating, first._replace(lr=jnp.full(count, lr)), entry.view.validation)
            reached[lr] = mean_score(found[self.task.score])
        best = max(reached, key=lambda lr: reached[lr])
        return sets._replace(lr=jnp.full(len(self.keys), best)), best


def _measures(task: Task, attack: Attack, params: Params, split: RealSet) -> Scalars:
    found: dict[str, Array] = {**task.measure(params, split), "confusion": confusion(task, params, split)}
    return {**found, "attacked": accuracy_under_attack(task, params, split, attack)} if attack.radius else found


def _scored(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if "diverged" not in cell]


def per_class_accuracy(cell: Cell) -> list[float]:
    """Return the accuracy on each class, from a cell's confusion matrix; NaN for a class without examples."""
    counts = np.asarray(cell["confusion"], float)
    return [float(row[at] / row.sum()) if row.sum() else math.nan for at, row in enumerate(counts)]


def balanced_accuracy(cell: Cell) -> float:
    """Return the mean over classes of the accuracy on each, which large classes do not outvote."""
    return float(np.nanmean(per_class_accuracy(cell)))


def robust_scores(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Compute DD-Ranking's scores of every set on every network, from the rows that are there.

    Args:
        cells: As `evaluate_table` returns them.

    Returns:
        A record for each: `name`, `network`, and `lrs` where there are all real data, hard labels, and random images
        with labels made like the set's own (the teacher's for soft ones); `ars` where both have a row without
        augmentation.
    """
    found: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    counts: dict[str, int] = {}
    for cell in _scored(cells):
        row = cell["row"]
        where = found.setdefault((row["name"], cell["network"], row["normalization"]), {})
        name = f"{row['labels']} {row['per_class']}" if row["name"] in BASELINES else row["labels"]
        where[name, row["augment"]] = cell["accuracy"]["mean"]
        counts[row["name"]] = row["per_class"]
    records = []
    for (name, network, normalization), own in found.items():
        if name in (*BASELINES, "full data"):
            continue
        full = [*found.get(("full data", network, normalization), {}).values()]
        random = found.get(("random real", network, normalization), {})
        kind = "own" if any(label == "own" for label, _ in own) else "hard"
        same = f"{'teacher' if kind == 'own' else 'hard'} {counts[name]}"
        augments = [augment for label, augment in own if label == kind]
        if not augments:  # a row with the teacher's labels alone
            continue
        first = augments[0]
        record: dict[str, Any] = {"name": name, "network": network}
        if full and ("hard", first) in own and (same, first) in random:
            record["lrs"] = label_robust_score(
                full=full[0], hard=own["hard", first], own=own[kind, first], random=random[same, first]
            )
        if "none" in augments[1:] and {(same, first), (same, "none")} <= random.keys():
            record["ars"] = augmentation_robust_score(
                augmented=own[kind, first],
                random_augmented=random[same, first],
                plain=own[kind, "none"],
                random_plain=random[same, "none"],
            )
        if len(record) > 2:
            records.append(record)
    return records


def over_seeds(cells: Sequence[Cell], cards: Mapping[str, Card]) -> list[dict[str, Any]]:
    """Put together sets that were distilled alike but for the seed: how far distillation itself varies.

    Args:
        cells: As `evaluate_table` returns them.
        cards: Cards of the sets, by name.

    Returns:
        For each of several such sets, network and labels: `names`, `network`, `labels`, `augment`, and `mean` and `std`
        over the sets of each one's mean accuracy.
    """
    groups: dict[str, dict[str, str]] = {}
    for name, card in cards.items():
        if card.config:
            alike = {key: value for key, value in card.config.items() if key != "seed"}
            of_seed = groups.setdefault(digest([card.dataset, alike]), {})
            of_seed.setdefault(str(card.config.get("seed")), name)  # one that is there twice counts once
    records = []
    for names in ([*of_seed.values()] for of_seed in groups.values() if len(of_seed) > 1):
        means: dict[tuple[str, str, str], list[float]] = {}
        for cell in _scored(cells):
            if cell["row"]["name"] in names:
                at = (cell["network"], cell["row"]["labels"], cell["row"]["augment"])
                means.setdefault(at, []).append(cell["accuracy"]["mean"])
        for (network, labels, augment), found in means.items():
            about = {"names": names, "network": network, "labels": labels, "augment": augment}
            records.append({**about, "mean": float(np.mean(found)), "std": float(np.std(found))})
    return records


def doubts(cells: Sequence[Cell], cards: Mapping[str, Card] = {}, dataset: str | None = None) -> list[str]:
    """Say what in a table is not to be trusted, a line each.

    Args:
        cells: As `evaluate_table` returns them.
        cards: Cards of the sets, by name.
        dataset: Name of the data, if sets of others are to be doubted.
    """
    found = [cell["diverged"] for cell in cells if "diverged" in cell]
    full = {
        (cell["network"], cell["row"]["normalization"]): cell["accuracy"]["mean"]
        for cell in _scored(cells)
        if cell["row"]["name"] == "full data"
    }
    for cell in _scored(cells):
        row, network, accuracy = cell["row"], cell["network"], cell["accuracy"]
        where = f"{row['name']}, {row['labels']} labels, {row['augment']}, on {network}"
        if accuracy["std"] > SPREAD:
            found.append(f"{where}: networks differ by {100 * accuracy['std']:.0f} points; some did not train")
        curve = np.mean(cell.get("curve", [[0.0]]), axis=0)
        if len(curve) > 10 and abs(curve[-1] - curve[-1 - len(curve) // 10]) > MOVING:  # with fewer points: who knows
            found.append(f"{where}: accuracy was still changing at the end; give recipe.epochs more")
        if accuracy["mean"] > full.get((network, row["normalization"]), 1.0):
            found.append(f"{where}: better than all real data, whose training must be too short; see full_recipe")
    for name, card in cards.items():
        if card.provenance.get("step") == 0:
            found.append(f"{name}: the best set on validation was the first one; distillation improved nothing")
        if dataset is not None and (doubt := doubt_of_data(name, card, dataset)):
            found.append(doubt)
    return found
