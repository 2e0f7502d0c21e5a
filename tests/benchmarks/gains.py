"""Do IADD, IWD and Inf-Match gain over their bases, and in which form? `python -m tests.benchmarks.gains digits`.

Every form is a base with one thing changed, and is compared with it seed by seed: a seed is that of the first images,
of distillation and of the five networks, whose mean is one number. All share one set of experts. Sets are chosen on
validation, and so would a form be: its column stands beside that of the test split. The difference has a 95 % interval
of Student's t over the seeds; *seen* is the difference that the experiment would have found in four of five repetitions
(power 0.8, two-sided test at 5 %).

Forms that are no setting of the package are here, each a method of its own on the open contract. A cell is a line of
OUT/cells.jsonl; cells that are there are not computed again.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import jaxdd
from jaxdd import influence
from jaxdd.app.config import Config
from jaxdd.app.labeled import problem
from jaxdd.core import sampling
from jaxdd.core.matching import parameter_distance
from jaxdd.core.ranking import standardize
from jaxdd.core.tasks import Task
from jaxdd.data import Dataset
from jaxdd.data.splits import subset
from jaxdd.experts.trajectories import Trajectories
from jaxdd.influence import InfluenceConfig
from jaxdd.methods import infmatch, mtt
from jaxdd.methods.base import Method, MethodConfig, Sources
from jaxdd.methods.classwise import ClasswiseConfig
from jaxdd.types import Array, Scalars
from tests.benchmarks.table import Cells, add_run_flags, configured, header, row, wanted

BOUND = 2.0
"""Weights of parameters stay within a factor of this, as IADD's do by default."""
TEMPERATURE = 2.0
"""τ of weights of examples, that of IWD's default."""


class Material:
    """What forms are made of, computed when it is first asked for.

    Attributes:
        settings: Those of a preset, of data, network and experts.
        dataset: The real data.
        task: What is learned.
    """

    def __init__(self, settings: Config) -> None:
        self.settings = settings
        self.dataset, self.task = problem(settings)

    def of_rows(self, rows: Any) -> Dataset:
        """Return the data with rows of the train split, some of them perhaps several times."""
        return dataclasses.replace(self.dataset, train=subset(self.dataset.train, rows))

    def trained_on(self, rows: Any, seed: int = 0) -> Trajectories:
        """Train experts on rows of the train split."""
        return jaxdd.train_experts(self.task, self.of_rows(rows), self.settings.experts, seed=seed)

    @functools.cached_property
    def experts(self) -> Trajectories:
        """Experts on all examples, for all rows but one."""
        return self.trained_on(slice(None))

    @functools.cached_property
    def weighted_experts(self) -> Trajectories:
        """Experts on as many examples, drawn with weights `softmax(z / τ)` of each class by the late scores."""
        labels = np.asarray(self.dataset.train.labels)
        p = influence.weights(self.late_scores, labels, TEMPERATURE) / len(np.unique(labels))
        return self.trained_on(np.random.default_rng(0).choice(len(labels), len(labels), p=p / p.sum()))

    def scored_by(self, experts: Trajectories, rows: Any) -> np.ndarray:
        """Score rows of the train split by what they do for the validation loss of the last quarter of experts."""
        late = slice(3 * experts.num_snapshots // 4, None)
        path = experts._replace(
            snapshots=experts.recorded[:, late], lr=experts.lr[late], time=experts.time[late], steps=experts.steps[late]
        )
        part, target = self.of_rows(rows).real_set(), self.dataset.validation_set()
        return influence.scores(self.task, part, target, path, InfluenceConfig("tracin"))

    @functools.cached_property
    def late_scores(self) -> np.ndarray:
        """`[N]`, of networks that trained on the examples."""
        return self.scored_by(self.experts, slice(None))

    @functools.cached_property
    def cross_fitted_scores(self) -> np.ndarray:
        """`[N]`, of networks that trained on the other half of the examples."""
        size = len(self.dataset.train.labels)
        first = np.random.default_rng(0).permutation(size) < size // 2
        scores = np.empty(size)
        for seen in (first, ~first):
            scores[~seen] = self.scored_by(self.trained_on(seen), ~seen)
        return scores

    @functools.cached_property
    def agreement(self) -> np.ndarray:
        """`[1, P]` weights, `1/√(variance over experts of the step to the next snapshot)`, one as geometric mean."""
        steps = np.diff(np.asarray(self.experts.recorded), axis=1)
        return bounded(-np.log(steps.var(axis=0).mean(axis=0) + 1e-20) / 2)[None]

    @functools.cached_property
    def curvature(self) -> np.ndarray:
        """`[E, P]` weights, the root of the mean squared gradient of 512 examples at the end of each expert."""
        examples = sampling.take(jax.device_put(self.dataset.real_set()), jnp.arange(512))

        def squared(params: Array, example: Any) -> Array:
            alone = jax.tree.map(lambda x: x[None], example)
            return jax.grad(lambda p: self.task.losses(self.task.unravel(p), alone)[0])(params) ** 2

        def mean(params: Array) -> Array:
            return jnp.mean(jax.lax.map(lambda e: squared(params, e), examples, batch_size=64), axis=0)

        return np.stack([bounded(np.log(np.asarray(jax.jit(mean)(p)) + 1e-20) / 2) for p in self.experts.final])


def bounded(log_weights: np.ndarray) -> np.ndarray:
    """Center logarithms and bound the weights, `w^tanh(a)` in 1/w … w."""
    return BOUND ** np.tanh(log_weights - log_weights.mean())


Build = Callable[[Task, Any, Material], Method]


class Form(NamedTuple):
    """A row: the preset of its method, flags, what builds it if it is no setting, and the experts that it is given."""

    preset: str
    flags: str = ""
    build: Build | None = None
    experts: str = "experts"


def fixed_importance(of: str) -> Build:
    """Match trajectories with fixed weights of the parameters, `Material.<of>`, for all experts or for each."""

    def build(task: Task, config: mtt.Config, material: Material) -> Method:
        weights = jnp.asarray(getattr(material, of), jnp.float32)

        def distance(importance: Any, student: Array, pair: mtt.Pair) -> Array:
            del importance
            w = weights[pair.start.expert % len(weights)]
            return parameter_distance(student, pair.target.params, pair.start.params, w, relative=True)

        return mtt.matching_trajectories(task, config, mtt.Metric(distance))

    return build


def layer_schedule(sign: int) -> Build:
    """Count layers one after another, `w^(s tanh(6 (u − d_l)))` with u from 0 to 1 along the run, d_l along depth.

    With sign 1 the first layers are matched first, and the last join; with −1 the last layers lead.
    """

    def build(task: Task, config: mtt.Config, material: Material) -> Method:
        del material
        layers = [name.rsplit("/", 1)[0] for name in task.tensors]
        order = sorted(set(layers), key=lambda name: ("ense" in name, "logits" in name, name))
        depth = np.array([order.index(name) / max(len(order) - 1, 1) for name in layers])
        d = np.repeat(depth if sign > 0 else 1 - depth, list(task.tensors.values()))
        clock = optax.stateless(lambda grads, params: jax.tree.map(lambda g: jnp.full_like(g, 1 / config.steps), grads))

        def distance(u: Array, student: Array, pair: mtt.Pair) -> Array:
            w = BOUND ** jnp.tanh(6 * (jax.lax.stop_gradient(u) - d))
            return parameter_distance(student, pair.target.params, pair.start.params, w, relative=True)

        return mtt.matching_trajectories(task, config, mtt.Metric(distance, lambda: jnp.zeros(()), clock))

    return build


def held_out_importance(lr: float) -> Build:
    """Learn W for other experts: a step on the set under W should lower MTT's distance from an expert it did not see.

    To first order in the step, that distance falls by `⟨∇_S D_W, v⟩` times the learning rate, v being its own gradient;
    a ascends this, which is the derivative of D_W along the student's motion J v, a Jacobian-vector product.
    """

    def build(task: Task, config: mtt.Config, material: Material) -> Method:
        del material
        train = mtt.student_trainer(task, config)

        def weighted(a: Array, student: Array, pair: mtt.Pair) -> Array:
            w = BOUND ** jnp.tanh(a)
            return parameter_distance(student, pair.target.params, pair.start.params, w, relative=True)

        base = mtt.matching_trajectories(task, config, mtt.Metric(weighted, lambda: jnp.zeros(task.size)))

        def sample(key: Array, step: Array, sources: Sources) -> tuple[mtt.Pair, mtt.Pair]:
            seen_key, held_key, other_key = jax.random.split(key, 3)
            seen, held = base.sample(seen_key, step, sources), base.sample(held_key, step, sources)
            experts = sources.experts.num_experts
            other = (seen.start.expert + jax.random.randint(other_key, (config.pairs,), 1, experts)) % experts
            start, target = (snapshots._replace(expert=other) for snapshots in (held.start, held.target))
            return seen, held._replace(start=start, target=target)

        def step(key: Array, state: mtt.State, batch: tuple[mtt.Pair, mtt.Pair]) -> tuple[mtt.State, Scalars]:
            seen, held = (jax.tree.map(lambda x: x[0], pair) for pair in batch)
            distilled = base.distilled(state)

            def trained(inputs: Array, pair: mtt.Pair) -> Array:
                return train(distilled._replace(inputs=inputs), pair)[0]

            v = jax.grad(lambda inputs: mtt.unweighted((), trained(inputs, held), held))(distilled.inputs)
            student, moved = jax.jvp(lambda inputs: trained(inputs, seen), (distilled.inputs,), (v,))

            def gain(a: Array) -> Array:
                return jax.jvp(lambda student: weighted(a, student, seen), (student,), (moved,))[1]

            a = state.variables.importance
            slope = jax.grad(gain)(a)
            a = a + lr * jnp.sqrt(a.size) * slope / (jnp.linalg.norm(slope) + jnp.finfo(slope.dtype).tiny)
            return base.step(key, state._replace(variables=state.variables._replace(importance=a)), batch[0])

        return base._replace(sample=sample, step=step)

    return build


def fixed_weights(of: str, signs: tuple[int, ...]) -> Build:
    """Weigh real examples by fixed scores, `softmax(s z / τ)`, with one sign s after another along the run."""

    def build(task: Task, config: ClasswiseConfig, material: Material) -> Method:
        base, labels = config.unweighted(task), np.asarray(material.dataset.train.labels)
        scores = getattr(material, of)
        z = np.empty(len(scores))
        for label in np.unique(labels):
            z[labels == label] = standardize(scores[labels == label])
        logits, order = jnp.asarray(z / TEMPERATURE, jnp.float32), jnp.asarray(signs)

        def init(key: Array, distilled: Any, sources: Sources) -> tuple[Any, Array]:
            return base.init(key, distilled, sources), jnp.zeros((), jnp.int32)

        def step(key: Array, state: tuple[Any, Array], batch: Any) -> tuple[tuple[Any, Array], Scalars]:
            inner, number = state
            sign = order[number * len(signs) // config.steps]
            weights = jax.nn.softmax(sign * logits[batch.real.indices], axis=-1)
            inner, logged = base.step(key, inner, batch._replace(real=batch.real._replace(weights=weights)))
            return (inner, number + 1), logged

        return base._replace(
            init=init, step=step, distilled=lambda state: base.distilled(state[0]), inspect=lambda state: {}
        )

    return build


def growing_tau(task: Task, config: infmatch.Config, material: Material) -> Method:
    """Let the window τ of the second-order estimate grow from a fifth to five times its value, geometrically."""
    del material
    base = infmatch.matching_influence(task, config)

    def sample(key: Array, step: Array, sources: Sources) -> infmatch.Checkpoint:
        windows = base.sample(key, step, sources)
        grown = 5.0 ** (2 * step / config.steps - 1)  # a is −τ and b τ²/2
        return windows._replace(a=windows.a * grown, b=windows.b * grown**2)

    return base._replace(sample=sample)


def mixed(task: Task, config: mtt.Config, material: Material) -> Method:
    """Take the steps of MTT and of Inf-Match in turn, on one set."""
    settings = configured(material.settings.data.name, f"infmatch --method.ipc {config.ipc}", Path("unused")).method
    bases = mtt.matching_trajectories(task, config, mtt.MTT), settings.build(task)

    def init(key: Array, distilled: Any, sources: Sources) -> tuple[Any, Any, Array]:
        first, second = (base.init(key, distilled, sources) for base in bases)
        return first, second, jnp.zeros((), jnp.int32)

    def sample(key: Array, step: Array, sources: Sources) -> tuple[Any, ...]:
        return tuple(base.sample(key, step, sources) for base in bases)

    def step(key: Array, state: tuple[Any, Any, Array], batch: tuple[Any, Any]) -> tuple[Any, Scalars]:
        trajectory, matched, number = state

        def by_trajectory() -> tuple[Any, Any, Array]:
            new, logged = bases[0].step(key, trajectory, batch[0])
            distilled = matched.distilled._replace(inputs=new.variables.distilled.inputs)
            return new, matched._replace(distilled=distilled), logged["loss"]

        def by_influence() -> tuple[Any, Any, Array]:
            new, logged = bases[1].step(key, matched, batch[1])
            distilled = trajectory.variables.distilled._replace(inputs=new.distilled.inputs)
            return (
                trajectory._replace(variables=trajectory.variables._replace(distilled=distilled)),
                new,
                logged["loss"],
            )

        trajectory, matched, loss = jax.lax.cond(number % 2 == 0, by_trajectory, by_influence)
        return (trajectory, matched, number + 1), {"loss": loss}

    return Method(init, sample, step, lambda state: bases[0].distilled(state[0]))


FORMS: dict[str, dict[str, Form]] = {
    "MTT": {
        "IADD (default)": Form("iadd"),
        "IADD, faster W": Form("iadd", "--method.importance-optimizer.lr 0.01"),
        "W learned for held-out experts": Form("mtt", build=held_out_importance(0.003)),
        "the same, faster": Form("mtt", build=held_out_importance(0.03)),
        "W from the experts' agreement": Form("mtt", build=fixed_importance("agreement")),
        "W from the curvature": Form("mtt", build=fixed_importance("curvature")),
        "first layers first": Form("mtt", build=layer_schedule(1)),
        "last layers first": Form("mtt", build=layer_schedule(-1)),
        "experts of weighted examples": Form("mtt", experts="weighted_experts"),
        "Inf-Match": Form("infmatch"),
        "MTT and Inf-Match in turn": Form("mtt", build=mixed),
    },
    "Inf-Match": {
        "τ growing": Form("infmatch", build=growing_tau),
        "MTT and Inf-Match in turn": Form("mtt", build=mixed),
    },
    **{
        base: {
            "IWD (default)": Form(f"{preset}_iwd"),
            "IWD, harmful": Form(f"{preset}_iwd", "--method.weighting.sign harmful"),
            "late scores, common ones": Form(preset, build=fixed_weights("late_scores", (1,))),
            "late scores, rare ones": Form(preset, build=fixed_weights("late_scores", (-1,))),
            "late scores, common, then rare": Form(preset, build=fixed_weights("late_scores", (1, -1))),
            "cross-fitted scores, common ones": Form(preset, build=fixed_weights("cross_fitted_scores", (1,))),
            "cross-fitted, common, then rare": Form(preset, build=fixed_weights("cross_fitted_scores", (1, -1))),
        }
        for base, preset in (("DM", "dm"), ("DC", "dc"))
    },
}
BASES = {"MTT": Form("mtt"), "Inf-Match": Form("infmatch"), "DM": Form("dm"), "DC": Form("dc")}


def main() -> None:
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "runs/benchmark_gains")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--base", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--table", action="store_true", help="of the cells that are there; computes nothing")
    arguments = parser.parse_args()
    out = Path(arguments.out) / arguments.data
    cells = Cells(out)
    if not arguments.table:
        material = Material(configured(arguments.data, f"mtt {arguments.add}", out))
        for ipc in arguments.ipc:
            for base in arguments.base:
                for name, form in {base: BASES[base], **FORMS[base]}.items():
                    for seed in range(arguments.seeds if name == base or wanted(name, arguments) else 0):
                        compute = functools.partial(score, material, arguments, form, ipc, seed)
                        cells.computed(compute, form=name, preset=form.preset, ipc=ipc, seed=seed)
    header("ipc", "base", "form", "validation", "test", "difference", "95 %", "p", "seen", "seeds", "steps of the set")
    for ipc in arguments.ipc:
        for base in arguments.base:
            compare(cells, base, ipc)


def score(material: Material, arguments: argparse.Namespace, form: Form, ipc: int, seed: int) -> dict[str, Any]:
    """Distill and evaluate a set."""
    flags = f"{form.preset} {form.flags} {arguments.add} --method.ipc {ipc}"
    settings = configured(arguments.data, flags, Path("unused"))
    config = settings.method if form.build is None else built_by(settings.method, form.build, material)
    experts, began = getattr(material, form.experts) if config.needs_experts else None, time.monotonic()
    scoring = dataclasses.replace(settings.evaluate, random_real=False, full_data=False)
    outcome = jaxdd.distill(material.task, material.dataset, config, experts, seed=seed, evaluate=scoring)
    seconds = time.monotonic() - began
    results = jaxdd.evaluate(material.task, material.dataset, outcome.distilled, scoring, seed=seed)
    runs = [float(accuracy) for accuracy in results["distilled"]["runs"]]
    return {"validation": float(outcome.score), "test": runs, "step": outcome.step, "seconds": round(seconds, 1)}


@functools.cache  # the same settings for all seeds, which then share what is compiled
def built_by(config: MethodConfig, build: Build, material: Material) -> MethodConfig:
    """Give settings another `build`."""

    class Formed(type(config)):  # type: ignore[misc]
        needs_real = True

        def build(self, task: Task) -> Method:
            return build(task, config, material)

    return Formed(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})


def compare(cells: Cells, base: str, ipc: int) -> None:
    """Print the rows of a base and its forms, over the seeds that both have."""

    def of(form: str, preset: str) -> dict[int, dict[str, Any]]:
        return {cell["seed"]: cell for cell in cells.of(form=form, preset=preset, ipc=ipc)}

    plain = of(base, BASES[base].preset)
    for name, form in {base: BASES[base], **FORMS[base]}.items():
        mine = of(name, form.preset)
        seeds = sorted(mine.keys() & plain.keys())
        if len(seeds) < 2:
            continue
        validation = [100 * mine[seed]["validation"] for seed in seeds]
        test = [100 * np.mean(mine[seed]["test"]) for seed in seeds]
        steps = np.mean([mine[seed]["step"] for seed in seeds])
        d = np.array([100 * (np.mean(mine[seed]["test"]) - np.mean(plain[seed]["test"])) for seed in seeds])
        cells_of = (ipc, base, name, f"{np.mean(validation):.1f}", f"{np.mean(test):.1f} ± {np.std(test):.1f}")
        if name == base:
            row(*cells_of, None, None, None, None, len(seeds), f"{steps:.0f}")
            continue
        error, free = d.std(ddof=1) / np.sqrt(len(d)), len(d) - 1
        half = stats.t.ppf(0.975, free) * error
        seen = (stats.t.ppf(0.975, free) + stats.t.ppf(0.8, free)) * error
        p = stats.ttest_1samp(d, 0).pvalue
        interval = f"{d.mean() - half:+.1f} … {d.mean() + half:+.1f}"
        row(*cells_of, f"{d.mean():+.2f}", interval, f"{p:.2f}", f"{seen:.1f}", len(seeds), f"{steps:.0f}")


if __name__ == "__main__":
    main()
