"""Expert training: whole runs inside one jit, several to a dispatch.

Axis letters: E experts, T snapshots, P parameters.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdd.core import sampling
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import make_mesh, map_over, over_devices, replicate, to_host
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task, check_task
from jaxdd.core.training import Recipe, train
from jaxdd.data import Data
from jaxdd.errors import Diverged
from jaxdd.experts.store import Expert, ExpertStore, assemble
from jaxdd.experts.timeline import ExpertsConfig, timeline
from jaxdd.experts.trajectories import Trajectories
from jaxdd.io.hosts import from_first, gathered, together
from jaxdd.io.progress import progress_bar
from jaxdd.types import Array


# The same function for the same training: to train again, more experts or from another seed, compiles nothing.
@functools.lru_cache(maxsize=8)
def trainer(task: Task, recipe: Recipe, size: int, snapshots: int, every: int) -> Callable[[Array, RealSet], Expert]:
    """Build the jitted function that trains experts, one for every key `[n]`, leading axis n on all that it returns.

    Args:
        task: What they do.
        recipe: Their training.
        size: Number of examples.
        snapshots: How many to record.
        every: SGD steps between them.
    """

    def train_one(key: Array, real: RealSet) -> Expert:
        init_key, train_key = jax.random.split(key)
        params, recorded = train(
            train_key,
            task.model.init(init_key),
            task.losses,
            lambda indices: sampling.take(real, indices),
            size,
            recipe,
            snapshots=snapshots,
            every=every,
        )
        assert recorded is not None
        return Expert(recorded.params, ravel_pytree(params)[0], recorded.losses)

    return jax.jit(lambda keys, real: map_over(train_one, keys, real))


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
    progress: bool = False,
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
        progress: Show a bar on standard error.

    Returns:
        The trajectories, in host memory.

    Raises:
        Diverged: An expert diverged; those before it are stored.
        SettingError: The store holds an expert of another description, or another process trains experts there.
    """
    check_task(task)
    line = timeline(config, dataset.real_set().size)
    todo = list(range(config.count)) if store is None else from_first(lambda: store.missing(config.count))
    bar = progress_bar("experts", config.count, config.count - len(todo), enabled=progress)

    def tell(index: int, expert: Expert) -> None:
        bar.set_postfix(loss=float(expert.losses[-1]))
        bar.update()
        on_expert(index, expert)

    if store is None:
        trained: dict[int, Expert] = {}
        with bar:
            _train(task, dataset, config, seed, todo, trained.__setitem__, tell)
        kept = ((trained[i].snapshots[:snapshots], trained[i].final) for i in range(config.count))
        return assemble(kept, config.count, line)

    def keep(index: int, expert: Expert) -> None:
        from_first(lambda: store.save(index, expert))

    if todo:
        with bar, store.in_use():  # some may have been trained by whoever had it before
            todo = from_first(lambda: store.missing(config.count))
            _train(task, dataset, config, seed, todo, keep, tell)
    return store.load(config.count, line, snapshots)


def _train(
    task: Task,
    dataset: Data,
    config: ExpertsConfig,
    seed: int,
    todo: list[int],
    keep: Callable[[int, Expert], None],
    on_expert: Callable[[int, Expert], None],
) -> None:
    """Train the experts `todo`, in groups; each is kept before the caller hears of any of its group.

    The processes of a job share each group, every expert trained whole on one device; then all know all of it.
    """
    if not todo:
        return
    real, mesh = dataset.real_set(), make_mesh(jax.sharding.get_mesh().local_devices)
    line = timeline(config, real.size)
    run = trainer(task, config.recipe, real.size, len(line.steps), line.every)
    with jax.set_mesh(mesh):  # also for the key: an array belongs to the mesh that it was made under
        on_device, key = replicate(real), stage_key(seed, "experts")
    processes = jax.process_count()
    group = (config.per_dispatch or mesh.size) * processes

    def trained(members: list[int]) -> dict[int, Expert]:
        # Devices without an expert of their own train one that is thrown away: no other program is compiled.
        indices = np.resize(members, -(-len(members) // mesh.size) * mesh.size)
        experts = to_host(run(jax.vmap(lambda i: jax.random.fold_in(key, i))(indices), on_device))
        return {index: Expert(*(x[row] for x in experts)) for row, index in enumerate(members)}

    for start in range(0, len(todo), group):
        members = todo[start : start + group][jax.process_index() :: processes]
        mine: dict[int, Expert] = {}
        with together(), jax.set_mesh(mesh):
            mine = trained(members) if members else {}
        new = {index: expert for part in gathered(mine) for index, expert in part.items()}
        # All that is good is kept before anything is refused or the caller may stop.
        good = {index: new[index] for index in sorted(new) if np.isfinite(new[index].final).all()}
        for index, expert in good.items():
            keep(index, expert)
        if bad := sorted(new.keys() - good.keys()):
            lr = config.recipe.lr
            raise Diverged(
                f"expert {bad[0]} diverged at learning rate {lr}: lower experts.recipe.lr, in a new workdir or "
                "experts.directory"
            )
        for index, expert in good.items():
            on_expert(index, expert)
