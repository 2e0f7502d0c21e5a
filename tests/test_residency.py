"""Experts on the host give what experts on the device give, and only what is read travels."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core.parallel import make_mesh, over_devices
from jaxdd.core.training import Recipe
from jaxdd.driver import distill, on_devices
from jaxdd.errors import Interrupted
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.experts.placement import Fetcher, resolve
from jaxdd.experts.trajectories import Window
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.methods import Optimizer, Sources, iadd, infmatch
from jaxdd.models import MLP

RECIPE = Recipe(epochs=6, batch=64, lr=0.05, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")
SCORING = EvaluateConfig(recipe=RECIPE, validate_every=7)
COMMON = dict(steps=24, window=Window(start=3, end=6), image_optimizer=Optimizer("sgd", 3.0, 0.5))
CASES = {
    "iadd": iadd.Config(**COMMON, student_steps=3, expert_snapshots=2, pairs=2, per_start=True, init="correct"),
    "infmatch": infmatch.Config(**COMMON, estimator="unroll", horizon=2, checkpoints=2, real_batch=16),
}


@pytest.fixture(scope="module")
def problem(stripes):
    task = classification(models.build(MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    experts = train_experts(task, stripes, ExpertsConfig(count=2, recipe=RECIPE, snapshot_every=2))
    return SimpleNamespace(task=task, dataset=stripes, experts=experts)


def outcome_of(problem, config, residency, **options):
    said = []
    outcome = distill(
        problem.task,
        problem.dataset,
        config,
        problem.experts,
        evaluate=SCORING,
        residency=residency,
        on_metrics=lambda step, stage, **values: said.append((step, stage, values)),
        **options,
    )
    return outcome, said


@pytest.mark.parametrize("name", ["iadd", pytest.param("infmatch", marks=pytest.mark.slow)])
def test_host_and_device_give_the_same_bytes(problem, name, tmp_path, monkeypatch):
    device, expected = outcome_of(problem, CASES[name], "device")
    fetched = []

    def watched(self, names, fetch=Fetcher.fetch):
        fetched.append(fetch(self, names))
        return fetched[-1]

    monkeypatch.setattr(Fetcher, "fetch", watched)
    checkpoints = Checkpoints(tmp_path)
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        outcome_of(problem, CASES[name], "host", checkpoints=checkpoints, stop=lambda: next(asked))
    host, said = outcome_of(problem, CASES[name], "host", checkpoints=checkpoints)
    for ours, theirs in zip([*host.distilled, *host.last], [*device.distilled, *device.last], strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    last = [entry for entry in expected if entry[0] == 24]
    assert str([entry for entry in said if entry[0] == 24]) == str(last)
    # Ten steps ahead, those snapshots that they read.
    rows = {"iadd": [(10, 2)] * 2, "infmatch": [(10, 2, 2)]}[name]
    size = problem.experts.snapshots.shape[-1]
    assert all([x.shape for x in found] == [(*shape, size) for shape in rows] for found in fetched)


def test_nothing_is_fetched_for_experts_on_the_device():
    fetcher = Fetcher(lambda *args: 1 / 0, None, 10)
    assert fetcher.names(jax.random.key(0), None, 3) is None
    assert fetcher.fetch(None) is None


def test_experts_stay_on_the_host_when_they_take_half_of_the_memory():
    snapshots = np.zeros((2, 5, 10), np.float32)  # 400 bytes

    def resolved(stats, residency="auto", devices=1):
        told = SimpleNamespace(memory_stats=lambda: stats)
        return resolve(residency, snapshots, SimpleNamespace(local_devices=[told] * devices, size=devices))

    assert resolved({"bytes_limit": 800}) == "device"
    assert resolved({"bytes_limit": 799}) == "host"
    assert resolved(None) == resolved({}) == "device"
    assert resolved({"bytes_limit": 1}, "device") == "device"
    assert resolved(None, "host") == "host"
    # Two devices hold an expert each; three, which do not divide the experts, all of them.
    assert resolved({"bytes_limit": 400}, devices=2) == "device"
    assert resolved({"bytes_limit": 399}, devices=2) == "host"
    assert resolved({"bytes_limit": 799}, devices=3) == "host"
    assert resolve("auto", snapshots, make_mesh()) == "device"


@pytest.mark.parametrize("experts", [2, 8, 16])
def test_snapshots_are_divided_over_the_devices_where_these_divide_the_experts(problem, experts):
    given = problem.experts
    snapshots, final = (np.resize(x, (experts, *x.shape[1:])) for x in (given.snapshots, given.final))
    sources = Sources(problem.dataset.real_set(), given._replace(snapshots=snapshots, final=final))
    with over_devices():
        placed = on_devices(sources)
        hollow = on_devices(sources._replace(trajectories=given._replace(snapshots=None)))
    shape = snapshots.shape if experts % 8 else (experts // 8, *snapshots.shape[1:])
    assert [x.data.shape for x in placed.experts.snapshots.addressable_shards] == [shape] * 8
    rest = placed._replace(trajectories=placed.experts._replace(snapshots=None))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves((rest, hollow)))
    for ours, theirs in zip(jax.tree.leaves(placed), jax.tree.leaves(sources), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert hollow.experts.snapshots is None


def test_hollow_trajectories_know_how_long_they_are(problem):
    hollow = problem.experts._replace(snapshots=None)
    assert (hollow.num_experts, hollow.num_snapshots) == (problem.experts.num_experts, problem.experts.num_snapshots)
    assert hollow.final is problem.experts.final
    with pytest.raises(ValueError, match="set experts.residency to device"):
        hollow.first(1)
    assert problem.experts.recorded is problem.experts.snapshots


def test_a_cache_of_experts_on_the_host_is_refused(problem):
    with pytest.raises(ValueError, match="method.cache needs the experts on the devices, .* or set experts.residency"):
        outcome_of(problem, infmatch.Config(**COMMON, cache=64), "host")
