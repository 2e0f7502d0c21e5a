"""Expert trajectories: trained in whole runs inside one jit, several to a dispatch, and stored with Orbax.

Axis letters: E experts, T snapshots, P parameters.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdd import checkpoint
from jaxdd.choices import check_choices
from jaxdd.data import Data, Dataset, RealSet, sampling
from jaxdd.files import differences, plain, write_json
from jaxdd.keys import stage_key
from jaxdd.parallel import map_over, over_devices, replicate, to_host
from jaxdd.residency import Residency
from jaxdd.tasks import check_task
from jaxdd.training import Recipe, batching, schedule_of, train
from jaxdd.trajectories import Trajectories
from jaxdd.types import AnyArray, Array, Task

FORMAT = 1  # of the store, and of the way that an expert follows from its description
log = logging.getLogger("jaxdd")


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """How experts are trained, recorded and stored."""

    count: int = 4
    """E, number of experts; more can be added to a store later."""
    recipe: Recipe = Recipe(
        epochs=20, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
    )
    """Training of one expert."""
    snapshot_every: int | None = 2
    """SGD steps between snapshots; one snapshot per epoch if None."""
    keep: int | None = None
    """Keep only this many snapshots, the earliest; all if None. The last parameters are kept always."""
    storage: Literal["float32", "bfloat16_delta"] = "float32"
    """float32; or the first snapshot in float32 and every other one's distance from it in bfloat16: half the size, each
    parameter's distance rounded to within a 256th. Experts that are kept in memory only are not rounded."""
    per_dispatch: int | None = None
    """Experts trained per dispatch, the most that a kill can lose; one per device by default."""
    directory: str | None = None
    """Folder of the store, to share experts between runs; `experts` in the workdir by default."""
    residency: Residency = "auto"
    """Where distillation reads them: on the device; on the host, those of the next steps fetched while the devices
    compute; auto, on the devices if they take up at most half of the memory. The results are the same."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("count", "snapshot_every", "keep", "per_dispatch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"experts.{name} is {value}; give 1 or more")


class Timeline(NamedTuple):
    """When snapshots are taken, and the training time at each; what `Trajectories` says of the schedule, on the host.

    Attributes:
        every: SGD steps between snapshots.
        steps: `[T]` int32 SGD steps before each snapshot.
        lr: `[T]` learning rate of the step taken at each snapshot (of the last step, for one at the very end).
        time: `[T]` sum of the learning rates of the steps before each.
        total_time: sum of the learning rates of all steps.
    """

    every: int
    steps: np.ndarray
    lr: np.ndarray
    time: np.ndarray
    total_time: float


def timeline(config: ExpertsConfig, size: int) -> Timeline:
    """Lay out the snapshots of an expert that trains on `size` examples."""
    steps_per_epoch = batching(size, config.recipe.batch)[0]
    total = config.recipe.epochs * steps_per_epoch
    every = config.snapshot_every or steps_per_epoch
    count = min(total // every + 1, config.keep or total + 1)
    schedule = schedule_of(config.recipe, total)
    lr = np.array(jax.vmap(lambda t: jnp.asarray(schedule(t)))(jnp.arange(total)), np.float64)
    steps = np.arange(count, dtype=np.int32) * every
    elapsed = np.concatenate([[0.0], np.cumsum(lr)])
    return Timeline(every, steps, lr[np.minimum(steps, total - 1)], elapsed[steps], float(elapsed[-1]))


def check_length(config: ExpertsConfig, size: int, needed: int) -> None:
    """Refuse, before any training, experts that are too short for a method.

    Args:
        config: The experts to be trained.
        size: Number of training examples.
        needed: Snapshots that the method reads (`config.method.snapshots_needed`).

    Raises:
        ValueError: Fewer snapshots than needed, with the settings that change it.
    """
    line = timeline(config, size)
    have = len(line.steps)
    if have < needed:
        epochs = -(-(needed - 1) * line.every // batching(size, config.recipe.batch)[0])
        raise ValueError(
            f"the method reads {needed} snapshots of every expert, but experts of {config.recipe.epochs} epochs with "
            f"snapshot_every={config.snapshot_every} and keep={config.keep} have {have}; {epochs} epochs "
            f"(experts.recipe.epochs) with experts.keep of {needed} or more will do, or a lower method.window"
        )


class Expert(NamedTuple):
    """One expert as it was trained: snapshots `[T, P]`, last parameters `[P]`, training loss at each snapshot `[T]`."""

    snapshots: AnyArray
    final: AnyArray
    losses: AnyArray


def trainer(task: Task, config: ExpertsConfig, size: int) -> Callable[[Array, RealSet], Expert]:
    """Build the jitted function that trains experts, one for every key `[n]`, leading axis n on all that it returns."""
    line = timeline(config, size)

    def train_one(key: Array, real: RealSet) -> Expert:
        init_key, train_key = jax.random.split(key)
        params, recorded = train(
            train_key,
            task.model.init(init_key),
            task.losses,
            lambda indices: sampling.take(real, indices),
            size,
            config.recipe,
            snapshots=len(line.steps),
            every=line.every,
        )
        assert recorded is not None
        return Expert(recorded.params, ravel_pytree(params)[0], recorded.losses)

    return jax.jit(lambda keys, real: map_over(train_one, keys, real))


class ExpertStore:
    """A folder of experts, each an Orbax checkpoint with one array per snapshot, beside a manifest of its files.

    An expert counts as stored once its manifest is there and every file has the size and the checksum that it names.

    Args:
        directory: The folder; created if missing.
        description: All that determines the experts; a store made for another description is refused.

    Raises:
        ValueError: The folder holds experts of another description; the differences are named.
    """

    def __init__(self, directory: Path, description: dict[str, Any]):
        self.directory = directory
        self.description = plain(description)
        self._sound: set[int] = set()  # experts whose files were read and found whole, which takes time
        header = directory / "store.json"
        if header.exists():
            self._check(json.loads(header.read_text())["description"])
        else:
            directory.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()
            write_json(header, {"hash": digest, "description": self.description})

    def _check(self, stored: dict[str, Any]) -> None:
        if found := differences(stored, self.description):
            raise ValueError(
                f"{self.directory} holds experts of another description ({'; '.join(found)}); choose another "
                "workdir or experts.directory, or delete that folder to train new ones"
            )

    def _checkpoint(self, expert: int) -> Path:
        return self.directory / f"expert_{expert:04d}"

    def _manifest(self, expert: int) -> Path:
        return self.directory / f"expert_{expert:04d}.json"

    def save(self, expert: int, trained: Expert) -> None:
        """Store an expert; it counts only when the last of its files is in place."""
        path = self._checkpoint(expert)
        self._manifest(expert).unlink(missing_ok=True)
        checkpoint.save(path, self._encode(np.asarray(trained.snapshots), np.asarray(trained.final)))
        write_json(self._manifest(expert), {"files": _digests(path), "losses": plain(np.asarray(trained.losses))})

    def missing(self, count: int) -> list[int]:
        """List the experts among the first `count` that have to be trained, removing and naming damaged ones."""
        absent = []
        for expert in sorted(set(range(count)) - self._sound):
            path, manifest = self._checkpoint(expert), self._manifest(expert)
            if not path.exists() and not manifest.exists():
                absent.append(expert)
            elif fault := _fault(path, manifest):
                log.warning("expert %s %s; it is trained anew", path, fault)
                shutil.rmtree(path, ignore_errors=True)
                manifest.unlink(missing_ok=True)
                absent.append(expert)
            else:
                self._sound.add(expert)
        return absent

    def read(self, expert: int, snapshots: Iterable[int]) -> np.ndarray:
        """Read some snapshots of one expert, `[len(snapshots), P]` float32, and nothing else of the store."""
        wanted = list(snapshots)
        return self._decode(expert, [_name(t) for t in wanted])

    def final(self, expert: int) -> np.ndarray:
        """Read the last parameters of one expert, `[P]` float32."""
        return self._decode(expert, ["final"])[0]

    def load(self, count: int, line: Timeline, snapshots: int | None = None) -> Trajectories:
        """Read the first `count` experts into host memory, their earliest snapshots only if a number is given."""
        rows = range(len(line.steps))[:snapshots]
        return _assemble(((self.read(expert, rows), self.final(expert)) for expert in range(count)), count, line)

    def losses(self, count: int) -> np.ndarray:
        """Read the training losses that the first `count` experts recorded at their snapshots, `[count, T]`."""
        manifests = [json.loads(self._manifest(expert).read_text()) for expert in range(count)]
        return np.array([manifest["losses"] for manifest in manifests], np.float64)

    @property
    def _delta(self) -> bool:
        return self.description["storage"] == "bfloat16_delta"

    def _encode(self, snapshots: np.ndarray, final: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {_name(t): snapshot for t, snapshot in enumerate(snapshots)} | {"final": final}
        if not self._delta:
            return arrays
        first = arrays[_name(0)]
        return {name: x if name == _name(0) else (x - first).astype(ml_dtypes.bfloat16) for name, x in arrays.items()}

    def _decode(self, expert: int, names: list[str]) -> np.ndarray:
        wanted = dict.fromkeys([*names, _name(0)] if self._delta else names)
        stored = checkpoint.load(self._checkpoint(expert), wanted)
        if not self._delta:
            return np.stack([stored[name] for name in names])
        first = stored[_name(0)]
        return np.stack([first if name == _name(0) else first + stored[name].astype(np.float32) for name in names])


def _name(snapshot: int) -> str:
    return f"{snapshot:05d}"


def _digests(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): _digest(file) for file in sorted(path.rglob("*")) if file.is_file()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path, manifest: Path) -> str | None:
    if not manifest.exists():
        return "has no manifest: its writing was interrupted"
    try:
        expected = dict(json.loads(manifest.read_text())["files"])
    except (ValueError, KeyError, TypeError):
        return f"has an unreadable manifest {manifest}"
    found = _digests(path) if path.exists() else {}
    damaged = sorted(name for name in expected if expected[name] != found.get(name))
    return f"is damaged: {', '.join(damaged[:3])} missing or changed" if damaged else None


def describe(dataset: Dataset, model: Any, config: ExpertsConfig, seed: int) -> dict[str, Any]:
    """Collect all that determines an expert, for the key of its store."""
    return {
        "format": FORMAT,
        "data": dataset.fingerprint(),
        "model": plain(model),
        "recipe": plain(config.recipe),
        "snapshot_every": config.snapshot_every,
        "keep": config.keep,
        "storage": config.storage,
        "seed": seed,
    }


@over_devices()
def train_experts(
    task: Task,
    dataset: Data,
    config: ExpertsConfig,
    *,
    seed: int = 0,
    store: ExpertStore | None = None,
    snapshots: int | None = None,
    on_expert: Callable[[int, Expert], None] = lambda index, expert: None,
) -> Trajectories:
    """Train experts on the train split, or those of them that a store lacks.

    Expert i depends on the seed and on i, and on nothing else: it comes out the same however many are asked for and
    whichever are already there.

    Args:
        task: What they do.
        dataset: Its train split is what they learn.
        config: How many, how trained, how recorded.
        seed: Root of their randomness.
        store: Where to keep them; in memory only if None.
        snapshots: Return only this many snapshots, the earliest; all by default. A store keeps the others.
        on_expert: Called with the index of every expert trained and with what was recorded, once all experts of its
            dispatch are stored.

    Returns:
        The trajectories, in host memory.

    Raises:
        FloatingPointError: An expert diverged; those before it are stored.
    """
    check_task(task)
    real = dataset.real_set()
    size, devices = real.size, jax.sharding.get_mesh().size
    line = timeline(config, size)
    todo = list(range(config.count)) if store is None else store.missing(config.count)
    trained: dict[int, Expert] = {}
    if todo:
        key = stage_key(seed, "experts")
        run, on_device = trainer(task, config, size), replicate(real)
        group = config.per_dispatch or devices
        for start in range(0, len(todo), group):
            # Devices without an expert of their own train one that is thrown away: no other program is compiled.
            members = todo[start : start + group]
            indices = np.resize(members, -(-len(members) // devices) * devices)
            experts = to_host(run(jax.vmap(lambda i: jax.random.fold_in(key, i))(indices), on_device))
            new = {index: Expert(*(x[row] for x in experts)) for row, index in enumerate(members)}
            # All that is good is kept before anything is refused or the caller may stop.
            good = {index: expert for index, expert in new.items() if np.isfinite(expert.final).all()}
            for index, expert in good.items():
                if store is None:
                    trained[index] = expert
                else:
                    store.save(index, expert)
            if bad := sorted(new.keys() - good.keys()):
                lr = config.recipe.lr
                raise FloatingPointError(f"expert {bad[0]} diverged at learning rate {lr}: lower experts.recipe.lr")
            for index, expert in good.items():
                on_expert(index, expert)
    if store is not None:
        return store.load(config.count, line, snapshots)
    kept = ((trained[i].snapshots[:snapshots], trained[i].final) for i in range(config.count))
    return _assemble(kept, config.count, line)


def _assemble(experts: Iterable[tuple[AnyArray, AnyArray]], count: int, line: Timeline) -> Trajectories:
    snapshots: np.ndarray | None = None
    final: list[AnyArray] = []
    for index, (recorded, last) in enumerate(experts):
        if snapshots is None:  # filled in place: a list to stack would hold everything twice
            snapshots = np.empty((count, *recorded.shape), recorded.dtype)
        snapshots[index] = recorded
        final.append(last)
    assert snapshots is not None
    whole = Trajectories(
        snapshots=snapshots,
        final=np.stack(final),
        lr=line.lr.astype(np.float32),
        time=line.time.astype(np.float32),
        total_time=np.asarray(line.total_time, np.float32),
        steps=line.steps,
    )
    return whole.first(snapshots.shape[1])
