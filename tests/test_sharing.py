"""The work of every method, of experts, evaluation and influence is really shared by eight devices."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import make_mesh, replicate, to_host
from jaxdd.core.training import Recipe
from jaxdd.data import Standardize
from jaxdd.driver import complete, on_devices
from jaxdd.evaluation import distilled_scorer, full_data_scorer, stacked
from jaxdd.experts.training import trainer
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.influence import ESTIMATORS, InfluenceConfig, Solver
from jaxdd.influence.problem import Path, problem_of
from jaxdd.methods import Optimizer, Sources, Weighting, datm, dc, ddpp, dm, iadd, infmatch, mtt, ncfm
from jaxdd.models import ConvNet
from jaxdd.types import Examples, Snapshots
from tests.helpers import matrix_work

MOST = 0.2
"""Of the work of one device, what each of eight may do where the items divide."""
CLASSES, EXPERTS, SNAPSHOTS = 8, 8, 4
TRAJECTORY = dict(pairs=8, student_steps=4, expert_snapshots=1, window=Window(start=2), augment="flip")
STATISTIC = dict(ipc=1, real_batch=16, augment="flip")
# What the items are, and how many; where items are fewer than devices, real batches are split instead.
CASES = {
    "mtt": mtt.Config(**TRAJECTORY),
    "mtt, learned labels, mini-batch": mtt.Config(**TRAJECTORY, labels="learned", batch=4),
    "datm": datm.Config(**{**TRAJECTORY, "window": Window(start=1, end=3)}),
    "ddpp": ddpp.Config(**TRAJECTORY),
    "iadd": iadd.Config(**TRAJECTORY),
    "infmatch, windows": infmatch.Config(checkpoints=8, window=Window(start=2), real_batch=16),
    "infmatch, unroll": infmatch.Config(checkpoints=8, window=Window(start=1), estimator="unroll", horizon=2),
    "dc": dc.Config(**STATISTIC, outer_loop=4, inner_loop=1),
    "dc, real network": dc.Config(**STATISTIC, network="real", network_batch=16, outer_loop=4, inner_loop=2),
    "dc, weighted": dc.Config(**STATISTIC, outer_loop=4, inner_loop=1, weighting=Weighting()),
    "dm": dm.Config(**STATISTIC),
    "dm, weighted by the implicit score": dm.Config(**STATISTIC, weighting=Weighting(score="both", evaluation_steps=2)),
    "ncfm": ncfm.Config(**STATISTIC, frequencies=32),
    "ncfm, adversarial": ncfm.Config(**STATISTIC, frequencies=32, sampler=Optimizer("sgd", 1e-4)),
    "infmatch, released": infmatch.Config(
        **STATISTIC, window=Window(start=2), estimator="released", released=infmatch.Released(probes=64)
    ),
}


@pytest.fixture(scope="module")
def problem():
    model = models.build(ConvNet(width=8, depth=1), (8, 8, 1), CLASSES)
    task = classification(model, CLASSES)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (160, 8, 8, 1), np.uint8), np.arange(160) % CLASSES
    real = sampling.real_set(images, labels, CLASSES, Standardize(np.zeros(1, np.float32), np.ones(1, np.float32)))
    time = np.arange(SNAPSHOTS, dtype=np.float32)
    snapshots = 0.3 * rng.normal(size=(EXPERTS, SNAPSHOTS, task.size)).astype(np.float32)
    line = (np.ones_like(time), time, np.float32(SNAPSHOTS), np.arange(SNAPSHOTS, dtype=np.int32))
    sources = Sources(real, Trajectories(snapshots, snapshots[:, -1], *line), validation=real)
    distilled = Distilled(
        jax.random.normal(jax.random.key(9), (CLASSES, 8, 8, 1)), 8 * jnp.eye(CLASSES), jnp.float32(0.1)
    )
    return SimpleNamespace(task=task, sources=sources, distilled=distilled)


def works(function, *args, tolerance=1e-4):
    """Matrix work of a device that is alone and of one of eight, whose results are found to be the same."""
    found = []
    for devices in (1, 8):
        with jax.set_mesh(make_mesh(jax.devices()[:devices])):
            compiled = jax.jit(function).lower(*replicate(args)).compile()
            found.append((matrix_work(compiled), to_host(compiled(*replicate(args)))))
    (alone, expected), (of_eight, results) = found
    for ours, theirs in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1e-3, np.abs(theirs).max()))
    return alone, of_eight


def one_step(method):
    def step(key, state, sources):
        batch = method.sample(key, jnp.int32(0), sources)
        state, logged = method.step(key, state, complete(batch, sources, None))
        return method.distilled(state), logged

    return step


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_shared(problem, name, record_property):
    method = CASES[name].build(problem.task)
    state = method.init(jax.random.key(0), problem.distilled, problem.sources)
    alone, of_eight = works(one_step(method), jax.random.key(0), state, problem.sources)
    record_property("part", round(of_eight / alone, 4))
    print(f"{name}: one device {alone}, one of eight {of_eight}, {of_eight / alone:.3f}")
    assert 0 < of_eight <= MOST * alone


@pytest.mark.parametrize(
    ("config", "most"),
    [
        # Fewer items than devices: the real batch of 64 is split, what the distilled set costs is not.
        (infmatch.Config(checkpoints=1, window=Window(start=2), real_batch=64), 0.3),
        (dm.Config(ipc=1, real_batch=64, augment="none"), 0.2),
        (dc.Config(ipc=1, real_batch=64, outer_loop=1), 0.3),
    ],
    ids=["infmatch", "dm", "dc"],
)
def test_real_batches_are_split_where_items_are_few(problem, config, most):
    images = problem.sources.real.inputs
    real = sampling.real_set(images, np.arange(160) % 4, 4, problem.sources.real.normalization)
    task = classification(models.build(ConvNet(width=8, depth=1), (8, 8, 1), 4), 4)
    method = config.build(task)
    drawn = 0.3 * np.random.default_rng(1).normal(size=(EXPERTS, SNAPSHOTS, task.size)).astype(np.float32)
    experts = problem.sources.trajectories._replace(snapshots=drawn, final=drawn[:, -1])
    sources = Sources(real, experts)
    distilled = Distilled(problem.distilled.inputs[:4], jnp.eye(4), problem.distilled.lr)
    state = method.init(jax.random.key(0), distilled, sources)
    alone, of_eight = works(one_step(method), jax.random.key(0), state, sources)
    assert of_eight <= most * alone


def test_experts_are_trained_side_by_side(problem):
    recipe = Recipe(epochs=2, batch=32, lr=0.1, schedule="constant", augment="flip", momentum=0.0)
    train, keys = trainer(problem.task, recipe, 160, snapshots=6, every=2), jax.random.split(jax.random.key(0), 8)
    alone, of_eight = works(lambda *args: train(*args), keys, problem.sources.real)
    assert of_eight == alone / 8


def test_networks_are_evaluated_side_by_side(problem):
    keys, recipe = jax.random.split(jax.random.key(0), 8), Recipe(epochs=2, augment="none")
    real = problem.sources.real
    sets = stacked(problem.distilled, 8)
    for scorer, on in ((distilled_scorer, sets), (full_data_scorer, real)):
        alone, of_eight = works(lambda *args, s=scorer: s(problem.task, recipe)(*args), keys, on, real)
        assert of_eight == alone / 8


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "leave_one_out"])
def test_chunks_of_influence_are_shared(problem, estimator):
    config = InfluenceConfig(estimator, chunk=20, solver=Solver(iterations=3))
    weights = jnp.full((1, 160), 1 / 160)
    recorded = problem.sources.experts.recorded[0]
    path = Path(recorded[:2], np.full(2, 0.1, np.float32), recorded[-1])

    def estimate(real, path):
        problem_at = problem_of(problem.task, real, real, weights, config)
        return ESTIMATORS[estimator].estimate(problem_at, path)

    alone, of_eight = works(estimate, problem.sources.real, path)
    assert 0 < of_eight <= MOST * alone


def test_retraining_without_each_example_is_shared(problem):
    weights = jnp.full((1, 160), 1 / 160)
    recorded = problem.sources.experts.recorded[0]
    path = Path(recorded[:2], np.full(2, 0.1, np.float32), recorded[-1])

    def estimate(real, path):
        problem_at = problem_of(problem.task, real, real, weights, InfluenceConfig("leave_one_out", chunk=160))
        return ESTIMATORS["leave_one_out"].estimate(problem_at, path)

    alone, of_eight = works(estimate, problem.sources.real, path)
    assert 0 < of_eight <= MOST * alone


def test_snapshots_are_divided_and_their_table_is_never_gathered(problem):
    method = CASES["mtt"].build(problem.task)
    with jax.set_mesh(make_mesh()):
        sources = on_devices(problem.sources._replace(real=None))
        table = sources.experts.recorded
        assert {shard.data.shape[0] for shard in table.addressable_shards} == {1}

        def fetched(key, sources):
            batch = complete(method.sample(key, jnp.int32(0), sources), sources, None)
            return [x for x in jax.tree.leaves(batch, is_leaf=is_snapshots) if is_snapshots(x)]

        compiled = jax.jit(fetched).lower(jax.random.key(0), sources).compile()
        batch = jax.jit(fetched)(jax.random.key(0), sources)
    whole = f"f32[{EXPERTS},{SNAPSHOTS},{problem.task.size}]"
    assert whole not in compiled.as_text()
    for named in batch:
        np.testing.assert_array_equal(named.params, problem.sources.experts.recorded[named.expert, named.position])


def is_snapshots(node):
    return isinstance(node, Snapshots)


def is_examples(node):
    return isinstance(node, Examples)


def test_trajectory_methods_hold_no_real_data(problem):
    for config in (mtt.Config, datm.Config, ddpp.Config, iadd.Config):
        assert not config().needs_real
        method = config(**{**TRAJECTORY, "window": Window(start=2)}).build(problem.task)
        alone = problem.sources._replace(real=None)
        batch = jax.eval_shape(functools.partial(method.sample, jax.random.key(0), jnp.int32(0)), alone)
        assert not any(
            isinstance(x, Examples) for x in jax.tree.leaves(batch, is_leaf=lambda x: isinstance(x, Examples))
        )
