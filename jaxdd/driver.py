"""The outer loop: whole stretches of steps in one dispatch, checkpointed, scored on the validation split, resumable."""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import over_devices, replicate, to_host, whole
from jaxdd.core.tasks import Task, check_task
from jaxdd.data import Data, check_data
from jaxdd.errors import Diverged, Interrupted, SettingError
from jaxdd.evaluation import EvaluateConfig, validator
from jaxdd.experts.placement import Fetcher, Residency, place, resolve
from jaxdd.experts.trajectories import Trajectories, named_snapshots, with_params
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.hosts import anywhere
from jaxdd.io.progress import progress_bar
from jaxdd.methods import MethodConfig, Sources, initial_distilled
from jaxdd.methods.base import Method, Prepare
from jaxdd.methods.coresets import check_features, check_first
from jaxdd.settings import check_argument
from jaxdd.types import Array, PyTree, Scalars

STEPS_PER_DISPATCH = 10
REMEDY = (
    "lower a learning rate, or method.tau where there is one, in a new workdir (experts.directory can name this one's "
    "experts). Checkpoints before it are kept"
)


class Outcome(NamedTuple):
    """What distillation ends with, on the host.

    Attributes:
        distilled: The best set on the validation split, or the last one if there was no validation.
        step: The number of steps after which it was the set.
        score: Its validation score, for classification the accuracy as a fraction; NaN without validation.
        last: The set after the last step.
        seconds: Wall-clock time, that before a resume included.
        inspected: What the method shows after the last step, see `Method.inspect`.
        first: The set before step 0.
    """

    distilled: Distilled
    step: int
    score: float
    last: Distilled
    seconds: float
    inspected: dict[str, Any]
    first: Distilled


# The same method for the same settings and task, and the same program for it: another seed compiles nothing.
@lru_cache(maxsize=8)
def built(config: MethodConfig, task: Task) -> Method:
    """Build a method, or return the one that was built for a task of late."""
    return config.build(task)


def method_for(config: MethodConfig, task: Task, dataset: Data) -> Method:
    """Build a method, and refuse what it cannot do for a task on a dataset, before anything is computed.

    Raises:
        SettingError: The method does not suit the task, or the task has no such first items or labels; the method needs
            features and the network has none; a class has too few examples, or stored images do not divide; or the
            method learns from a validation split that lacks a class.
    """
    method = built(config, task)
    check_first(task, config)
    config.check(dataset.real_set())
    if config.needs_features:
        check_features(task, dataset.real_set())
    if config.needs_validation:
        sampling.check_validation(dataset.validation_set())
    return method


@lru_cache(maxsize=8)
def advance(method: Method) -> Callable[..., tuple[PyTree, Scalars]]:
    """Build the jitted function that runs a stretch of outer steps.

    Step `it` draws from `fold_in(key, it)` alone, so that a run goes the same way whatever stretches it is cut into.

    Args:
        method: What a step is.

    Returns:
        `(key, state, sources, first, last, fetched) -> (state, infos)` for `last − first ≤ STEPS_PER_DISPATCH` steps,
        whose infos fill the first rows of arrays `[STEPS_PER_DISPATCH]`. One compilation serves every stretch.
        `fetched` is what a `Fetcher` gave for `first`, None where the sources hold the snapshots. The state that it
        is given is donated: the next one takes its place in memory.
    """

    @partial(jax.jit, donate_argnames="state")
    def run(
        key: Array, state: PyTree, sources: Sources, first: Array, last: Array, fetched: list[Array] | None = None
    ) -> tuple[PyTree, Scalars]:
        def one_step(state: PyTree, it: Array) -> tuple[PyTree, Scalars]:
            rows = None if fetched is None else [row[it - first] for row in fetched]
            batch = complete(draw(method, key, it, sources), sources, rows)
            return whole(method.step(keys_of(key, it)[1], state, batch))

        def body(it: Array, carry: tuple[PyTree, Scalars]) -> tuple[PyTree, Scalars]:
            state, infos = carry
            state, info = one_step(state, it)
            return state, jax.tree.map(lambda rows, value: rows.at[it - first].set(value), infos, info)

        shapes = jax.eval_shape(one_step, state, first)[1]
        infos = jax.tree.map(lambda x: jnp.zeros((STEPS_PER_DISPATCH, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(first, last, body, (state, infos))

    return run


def with_cache(prepare: Prepare, key: Array, sources: Sources) -> Sources:
    """Compute what a method prepares once, and give it to its steps."""
    return sources._replace(cache=_prepared(prepare, key, sources))


@partial(jax.jit, static_argnums=0)
def _prepared(prepare: Prepare, key: Array, sources: Sources) -> PyTree:
    return whole(prepare(key, sources))


def keys_of(key: Array, it: Array) -> Array:
    """Derive the keys of step `it`, `[2]`: of its sample, and of what is random in the step itself."""
    return jax.random.split(jax.random.fold_in(key, it))


def draw(method: Method, key: Array, it: Array, sources: Sources) -> PyTree:
    """Draw the batch of step `it`, the parameters of its snapshots left out."""
    return method.sample(keys_of(key, it)[0], it, sources)


def complete(batch: PyTree, sources: Sources, fetched: list[Array] | None) -> PyTree:
    """Fill in the parameters of the snapshots of a batch, those fetched for it or else those that the sources hold."""
    if fetched is None:
        fetched = [jnp.asarray(sources.experts.recorded)[n.expert, n.position] for n in named_snapshots(batch)]
    return with_params(batch, fetched)


@over_devices()
def run_method(
    method: Method,
    distilled: Distilled,
    sources: Sources,
    *,
    name: str,
    steps: int,
    key: Array,
    every: int = 50,
    snapshots: np.ndarray | None = None,
    validate: Callable[[Distilled], float] | None = None,
    score_name: str = "accuracy",
    checkpoints: Checkpoints | None = None,
    on_resume: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[..., None] = lambda step, stage, **values: None,
    on_set: Callable[[int, Distilled], None] = lambda step, distilled: None,
    on_warning: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> Outcome:
    """Run a method to its last step, from its newest checkpoint if there is one.

    Args:
        method: The method.
        distilled: Its distilled set before step 0.
        sources: What it samples from.
        name: What to call it, with its learning rates, if it fails.
        steps: Outer steps in all.
        key: Root of the run's randomness.
        every: Steps between checkpoints, each scored by `validate`; also at steps 0 and `steps`.
        snapshots: `[E, T, P]` the experts' snapshots, if they stay on the host and the sources hold none.
        validate: Scores a set; the highest score decides which set is kept as the result.
        score_name: What to call that score where it is logged.
        checkpoints: Where states are saved and resumed from.
        on_resume: Called before the first step with the step of the checkpoint that the run goes on from, −1 if none.
        on_metrics: `(step, stage, **values)`, called with the mean infos of every dispatch (stage `distill`), every
            score (stage `validate`), and what the method shows then (stage `inspect`, see `Method.inspect`).
        on_set: `(step, distilled)`, called with every set that is scored.
        on_warning: Called with what the method warns of, once per topic.
        stop: Asked after every dispatch; if true the state is saved and `Interrupted` raised.
        progress: Show a bar on standard error.

    Returns:
        The best set and the last one.

    Raises:
        Diverged: A loss is not finite; the checkpoints before it are kept.
        Interrupted: `stop` said so.
        SettingError: The newest checkpoint is of another run, or of more steps.
    """
    prepare_key, init_key, step_key = jax.random.split(key, 3)
    sources = on_devices(sources)
    state = jax.jit(method.init)(init_key, replicate(distilled), sources)
    kept = {
        "state": state,
        "best": distilled,
        "best_step": np.int64(0),
        "best_score": np.float64(np.nan),
        "seconds": np.float64(0.0),
    }
    done, restored = 0, checkpoints.restore(kept) if checkpoints else None
    if restored is not None:
        done, kept = restored
        if done > steps:
            raise SettingError(
                f"the newest checkpoint is of step {done}, but the run has {steps} steps: it is of another run; choose "
                "another workdir, or delete its folder checkpoints to start over"
            )
    on_resume(-1 if restored is None else done)
    state = jax.tree.map(jnp.copy, replicate(kept["state"]))  # its own, for it is donated
    began = time.monotonic() - float(kept["seconds"])
    prepare = method.prepare
    if done < steps and prepare is not None:
        sources = with_cache(prepare, prepare_key, sources)
    run, inspect, warned = advance(method), jax.jit(method.inspect), set()
    fetcher = Fetcher(partial(draw, method), snapshots, STEPS_PER_DISPATCH)

    fetched = fetcher.fetch(fetcher.names(step_key, sources, done)) if done < steps else None

    shown: dict[str, Any] = {}
    bar = progress_bar("distill", steps, done, enabled=progress)

    def tell(step: int, stage: str, **values: Any) -> None:
        on_metrics(step, stage, **values)
        if stage != "inspect":
            shown.update(values)
            bar.set_postfix(shown)
        bar.update(step - bar.n)

    def report(first: int, last: int, infos: Scalars) -> None:
        rows = {field: np.asarray(values)[: last - first] for field, values in infos.items()}
        _check_finite(rows, first, name)
        means = {field: float(np.mean(values)) for field, values in rows.items()}
        tell(last, "distill", **means)
        for topic, text in method.warn(means).items():
            if topic not in warned:
                warned.add(topic)
                on_warning(text)

    def save(step: int, *, score: bool) -> None:
        if score:
            current = to_host(method.distilled(state))
            if not all(np.isfinite(values).all() for values in jax.tree.leaves(current)):
                raise Diverged(f"after step {step} of {name} the distilled set is not finite; {REMEDY}")
            on_set(step, current)
            found = np.nan if validate is None else validate(current)
            if validate is not None:
                tell(step, "validate", **{score_name: found})
            if inspected := to_host(inspect(state)):
                tell(step, "inspect", **inspected)
            if validate is None or not found <= kept["best_score"]:
                kept.update(best=current, best_step=np.int64(step), best_score=np.float64(found))
        kept.update(state=to_host(state), seconds=np.float64(time.monotonic() - began))
        if checkpoints is not None:
            checkpoints.save(step, kept)

    with bar:
        if restored is None:
            save(0, score=True)
        behind: tuple[int, int, Scalars] | None = None
        while done < steps:
            # Stretches end at multiples of `every`, so that a resumed run is scored at the same steps.
            last = min(done + STEPS_PER_DISPATCH, done + every - done % every, steps)
            names = fetcher.names(step_key, sources, last)
            state, infos = run(step_key, state, sources, jnp.int32(done), jnp.int32(last), fetched)
            fetched = fetcher.fetch(names)
            if behind is not None:  # read while the devices compute this stretch
                report(*behind)
            behind, done = (done, last, infos), last
            scheduled, stopping = done % every == 0 or done == steps, anywhere(stop())
            if scheduled or stopping:
                report(*behind)
                behind = None
                save(done, score=scheduled)
            if stopping and done < steps:
                raise Interrupted(f"distillation stopped after step {done} of {steps}")
    return Outcome(
        Distilled(*kept["best"]),
        int(kept["best_step"]),
        float(kept["best_score"]),
        to_host(method.distilled(state)),
        float(kept["seconds"]),
        to_host(inspect(state)),
        to_host(distilled),
    )


def distill(
    task: Task,
    dataset: Data,
    config: MethodConfig,
    trajectories: Trajectories | None = None,
    *,
    initial: Distilled | None = None,
    seed: int = 0,
    evaluate: EvaluateConfig = EvaluateConfig(),
    residency: Residency = "auto",
    checkpoints: Checkpoints | None = None,
    **hooks: Any,
) -> Outcome:
    """Distill the train split of a dataset, on all devices, or on those of the mesh that is set.

    Args:
        task: What the network does, such as `jaxdd.classification(model, dataset.num_classes)`.
        dataset: The real data; its validation split decides which set is kept.
        config: The method and its settings (`jaxdd.methods.mtt.Config(ipc=1)`, …).
        trajectories: The experts, for a method that needs them.
        initial: The set to start from, such as a saved one or noise; by default what `config.init` and `config.labels`
            say. Items with soft labels stand in the order of their classes; those with hard ones are brought into it.
            Learned labels need soft ones, for the softmax of hard ones has no slope. A method that learns the learning
            rate starts from the one in its settings; with one that learns none, the set keeps its own.
        seed: Root of all randomness.
        evaluate: How often and how the validation split is asked, and the learning rate of sets that learn none and
            start from no other.
        residency: Where the experts' snapshots are kept: on the `device`; on the `host`, from where those of the next
            steps are fetched while the devices compute; `auto`, on the devices if they fit. The results are the same.
        checkpoints: Where to save and from where to resume; nothing is saved by default.
        **hooks: `on_resume`, `on_metrics`, `on_set`, `on_warning`, `stop`, and `progress=True`, of `run_method`.

    Returns:
        The best set on the validation split, and the last one.

    Raises:
        ValueError: What `method_for` refuses; the method needs experts, or longer ones; they are of another network; or
            the initial set does not fit.
        Diverged: A loss is not finite; the checkpoints before it are kept.
    """
    check_task(task)
    check_data(dataset)
    check_argument("the method's config", config, MethodConfig, "give one such as jaxdd.methods.dm.Config(ipc=1)")
    method = method_for(config, task, dataset)
    have = 0 if trajectories is None else trajectories.num_snapshots
    if config.needs_experts and (trajectories is None or have < config.snapshots_needed):
        given = "none" if trajectories is None else f"some of {have}"
        raise SettingError(
            f"{config.name} needs experts of at least {max(config.snapshots_needed, 1)} snapshots and was given "
            f"{given}: train them with jaxdd.train_experts, with more epochs or snapshots more often"
        )
    if trajectories is not None and trajectories.final.shape[-1] != task.size:
        raise SettingError(
            f"the experts have {trajectories.final.shape[-1]} parameters and the model {task.size}: they are of "
            "another network; build the model that they were trained with"
        )
    with over_devices():
        sources, snapshots = gather(dataset, config, trajectories, residency)
        first = partial(initial_distilled, task=task, config=config, lr=evaluate.recipe.lr)
        key = stage_key(seed, "initial")
        if initial is None:
            initial = to_host(first(key, sources=sources))
        else:
            check_initial(initial, config, task)
            initial = in_class_order(initial, task)
            _check_shapes(initial, jax.eval_shape(first, key, sources=sources))
        rates = ", ".join(f"{name} {rate:g}" for name, rate in config.learning_rates.items())
        return run_method(
            method,
            to_host(initial),
            for_steps(config, sources),
            name=f"{config.title} with learning rates {rates}",
            steps=config.steps,
            key=stage_key(seed, "distill"),
            every=evaluate.validate_every,
            snapshots=snapshots,
            validate=validator(task, dataset, evaluate, seed=seed),
            score_name=task.score,
            checkpoints=checkpoints,
            **hooks,
        )


def gather(
    dataset: Data, config: MethodConfig, trajectories: Trajectories | None, residency: Residency
) -> tuple[Sources, np.ndarray | None]:
    """Put what a method samples from on the devices of the mesh that is set.

    Returns:
        The sources, and the experts' snapshots `[E, T, P]` if they stay on the host.
    """
    snapshots = None
    if trajectories is not None:  # devices need not hold what the method never reads
        trajectories = trajectories.first(max(config.snapshots_needed, 1))
        if resolve(residency, trajectories.recorded, jax.sharding.get_mesh()) == "host":
            snapshots, trajectories = np.asarray(trajectories.snapshots), trajectories._replace(snapshots=None)
    validation = dataset.validation_set() if config.needs_validation else None
    return on_devices(Sources(dataset.real_set(), trajectories, validation=validation)), snapshots


def for_steps(config: MethodConfig, sources: Sources) -> Sources:
    """Leave out the real examples where the steps of a method do not read them."""
    return sources if config.needs_real else sources._replace(real=None)


def on_devices(sources: Sources) -> Sources:
    """Put sources on the devices of the mesh that is set, see `jaxdd.experts.placement.place`."""
    trajectories = None if sources.trajectories is None else place(sources.trajectories)
    return replicate(sources._replace(trajectories=None))._replace(trajectories=trajectories)


def check_initial(given: Distilled, config: MethodConfig, task: Task) -> None:
    """Refuse a first set of another size than the method's, or whose labels a method that learns them cannot move.

    Raises:
        SettingError: It has more or fewer items, or, with hard labels, not equally many of each class; or the method
            learns labels, and these are hard: logits so far apart that their softmax has no slope.
    """
    if given.size != (items := task.items(config.items_per_class)):
        raise SettingError(
            f"the initial set has {given.size} items, but the method makes {items}; give a set of the same ipc"
        )
    if not _has_hard_labels(given, task):
        return
    if config.labels == "learned" and task.soft_labels:
        raise SettingError(
            "method.labels is 'learned', and the labels of the initial set are hard: the softmax of such logits has no "
            "slope, they would never move; give a set with soft labels, or choose hard"
        )
    counts = np.bincount(np.argmax(given.labels, -1), minlength=task.items(1))
    if len({*counts.tolist()}) > 1:
        least, most = int(counts.argmin()), int(counts.argmax())
        raise SettingError(
            f"the initial set has {counts[most]} items of class {most} and {counts[least]} of class {least}; give "
            "equally many of each"
        )


def in_class_order(given: Distilled, task: Task) -> Distilled:
    """Return a set with hard labels with its items in the order of the classes, as methods take them.

    Items whose labels are soft are taken to be in that order: what a label has learned need not be the item's class.
    """
    if not _has_hard_labels(given, task):
        return given
    order = np.argsort(np.argmax(given.labels, -1), kind="stable")
    return given._replace(inputs=given.inputs[order], labels=given.labels[order])


def _has_hard_labels(given: Distilled, task: Task) -> bool:
    """Return whether a set of classes has labels whose softmax is 0 or 1."""
    return task.classes is not None and bool(np.isin(given.targets, (0, 1)).all())


def _check_shapes(given: Distilled, expected: Distilled) -> None:
    """Refuse a first set of other shapes than the method would make."""
    one = jax.tree.leaves(given.lr)[0]  # there may be one for each branch of the network
    for field, ours, theirs in zip(Distilled._fields, given._replace(lr=one), expected, strict=True):
        shapes = [jax.tree.map(np.shape, tree) for tree in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise SettingError(
                f"the initial set has {field} of shape {shapes[0]}, but the method, data and network make {shapes[1]}; "
                "give a set of the same ipc, image size and classes"
            )


def _check_finite(rows: dict[str, np.ndarray], done: int, name: str) -> None:
    finite = np.all([np.isfinite(values) for values in rows.values()], axis=0)
    if not finite.all():
        step = done + int(np.argmin(finite))
        values = ", ".join(f"{field} {values[step - done]}" for field, values in rows.items())
        raise Diverged(f"step {step} of {name} is not finite ({values}); {REMEDY}")
