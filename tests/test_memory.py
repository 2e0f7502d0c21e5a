"""What does not fit into memory is refused before any work, and a dry run tells what fits, writing nothing."""

import dataclasses
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdd
from jaxdd import Config, classification, data, models
from jaxdd.app import memory
from jaxdd.app.influence import Influence
from jaxdd.app.memory import check_fits, estimate, of_program
from jaxdd.app.rehearsal import extrapolate, few, first_dispatch, rehearse, untrained
from jaxdd.app.workdir import record
from jaxdd.core.parallel import make_mesh
from jaxdd.core.sampling import RealSet
from jaxdd.core.training import Recipe, batching
from jaxdd.data import DataConfig
from jaxdd.driver import advance, gather
from jaxdd.errors import SettingError
from jaxdd.experts import ExpertsConfig
from jaxdd.experts.trajectories import Window
from jaxdd.main import main
from jaxdd.methods import dm, infmatch, initial_distilled
from jaxdd.models import MLP

MIB = 2**20
FLAGS = shlex.split(
    "--model mlp --model.width 4 --model.depth 1 --experts.count 2 --experts.recipe.epochs 2 "
    "--experts.recipe.batch 256 --method.estimator first_order --method.real-batch 8 --method.window.start 3 "
    "--method.steps 25 --evaluate.recipe.epochs 20 --evaluate.recipe.augment none"
)


@pytest.fixture
def one_device():
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        yield


def case(stripes, method=None, width=4, **experts):
    """A run of a small network on the stripes."""
    recipe = Recipe(epochs=4, batch=64, lr=0.05, momentum=0.0, weight_decay=0.0, augment="none")
    experts = ExpertsConfig(**{"count": 2, "recipe": recipe, "snapshot_every": 1, **experts})
    method = method or infmatch.Config(steps=4, real_batch=8, window=Window(start=3), estimator="first_order")
    config = Config(method=method, model=MLP(width=width, depth=1), experts=experts)
    task = classification(models.build(config.model, stripes.image_shape, stripes.num_classes), stripes.num_classes)
    return config, stripes, task


def limit(monkeypatch, device=10**15, host=10**15):
    monkeypatch.setattr(memory, "device_memory", lambda: device)
    monkeypatch.setattr(memory, "host_memory", lambda: host)


def test_estimates_are_the_bytes_that_the_shapes_say(stripes, one_device):
    config, dataset, task = case(stripes)
    size, steps = 64 * 4 + 4 + 4 * 3 + 3, 4 * 3  # parameters of the network, batches of 4 epochs of 192 examples
    found = {need.what: (need.device, need.host) for need in estimate(config, dataset, task)}
    pixels = sum(x.nbytes for split in (dataset.train, dataset.validation, dataset.test) for x in split)
    by_class = 4 * 330 + 3 * 4 * 3  # the rows of each class and their number, in three splits
    assert pixels == 330 * (64 + 4) and found["data"] == (pixels + by_class + 8,) * 2  # mean and standard deviation
    assert found["a network in training"] == (3 * 4 * size, 0)
    assert found["experts in training"] == (4 * size * (steps + 1 + 1),) * 2
    read = config.method.snapshots_needed
    assert found["experts in distillation"] == (4 * size * 2 * (read + 1),) * 2
    experts = untrained(config, dataset, task)
    assert 4 * size * 2 * (read + 1) == experts.snapshots.nbytes + experts.final.nbytes
    assert [need.what for need in estimate(*case(stripes, dm.Config()))] == ["data", "a network in training"]


def test_experts_are_divided_over_devices_or_stay_on_the_host(stripes):
    found = []
    for experts in (dict(count=8), dict(count=8, residency="host"), dict(count=9)):
        found.append(estimate(*case(stripes, **experts))[-1])
    size = 64 * 4 + 4 + 4 * 3 + 3
    read = found[0].host // (4 * 8 * size) - 1
    assert [need.device for need in found] == [4 * size * (8 + read), 4 * size * 8, 4 * size * 9 * (1 + read)]
    assert "experts.residency" in found[0].remedy and "experts.residency" not in found[1].remedy


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        ({}, dict(device=22_000), "data would take up 0.0 MiB on a device of 0.0 MiB; lower data.image_size"),
        ({}, dict(host=22_000), "data would take up 0.0 MiB in this machine's memory of 0.0 MiB"),
        (
            dict(method=dm.Config(), width=60_000),
            dict(device=40 * MIB),
            "a network in training and the data would take up 46.7 MiB on a device of 40.0 MiB; lower model.width or "
            "model.depth",
        ),
        (
            dict(width=20_000),
            dict(device=40 * MIB),
            "experts in training and the data would take up 72.7 MiB on a device of 40.0 MiB; lower experts.keep, "
            "experts.per_dispatch or model.width, or raise experts.snapshot_every",
        ),
        (
            dict(width=20_000),
            dict(host=100 * MIB),
            "experts in training and the data would take up 581.1 MiB in this machine's",
        ),
        (
            dict(width=20_000, keep=3, count=64, residency="host"),
            dict(host=1000 * MIB),
            "in this machine's memory of 1000.0 MiB; lower experts.count, model.width or the method's window",
        ),
        (
            dict(width=20_000, keep=3, count=63, residency="device"),
            dict(device=1000 * MIB),
            "on a device of 1000.0 MiB; lower experts.count, model.width or the method's window, or set "
            "experts.residency to host",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, limits, message, stripes, monkeypatch):
    needs = estimate(*case(stripes, **changes))
    limit(monkeypatch)
    check_fits(needs)
    limit(monkeypatch, **limits)
    with pytest.raises(SettingError) as refused:
        check_fits(needs)
    assert message in str(refused.value)


def test_a_run_is_refused_before_its_workdir_is_made(tmp_path, monkeypatch):
    limit(monkeypatch, device=MIB)
    config = Config(workdir=str(tmp_path / "run"), data=DataConfig(data_dir=str(tmp_path / "data")))
    with pytest.raises(
        SettingError, match="experts in training and the data would take up .* MiB on a device of 1.0 MiB"
    ):
        jaxdd.run(config)
    assert not (tmp_path / "run").exists()


def test_step_is_measured_by_its_compiled_program(stripes, one_device):
    config, dataset, task = case(stripes)
    sources, _ = gather(dataset, config.method, untrained(config, dataset, task), "device")
    distilled = initial_distilled(jax.random.key(0), task, sources, config.method, lr=0.01)
    call, program, _ = first_dispatch(config, task, distilled, sources, None)
    method = config.method.build(task)
    state = method.init(jax.random.key(1), distilled, sources)
    arguments = (jax.random.key(2), state, sources, jnp.int32(0), jnp.int32(4), None)
    expected = advance(method).lower(*arguments).compile().memory_analysis()
    parts = (expected.argument_size_in_bytes, expected.output_size_in_bytes, expected.temp_size_in_bytes)
    need = of_program(config, program)
    held = sum(x.nbytes for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key))
    assert expected.alias_size_in_bytes >= held > 0  # the next state takes the place of the last one
    assert need.device == sum(parts) - expected.alias_size_in_bytes and min(parts) > 0
    assert need.remedy == "method.ipc, method.real_batch or model.width"
    assert np.isfinite(call()[1]["loss"][:4]).all()  # stand-ins for experts are as good to compute with


def test_step_that_does_not_fit_is_refused(tmp_path, one_device, monkeypatch):
    config = Config(
        method=dm.Config(steps=1, real_batch=1000),
        model=MLP(width=256, depth=1),
        data=DataConfig(data_dir=str(tmp_path)),
    )
    limit(monkeypatch, device=2 * MIB)
    with pytest.raises(SettingError, match=r"an outer step would take up .* of 2.0 MiB; lower method.ipc, method.real"):
        rehearse(config)


def test_dry_run_writes_nothing_and_tells_memory_and_time(tmp_path, monkeypatch, capsys, one_device):
    monkeypatch.setenv("XLA_FLAGS", "")
    data.load("digits", data_dir=str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["--dry-run", *FLAGS, "--data.data-dir", str(tmp_path / "data")]) == 0
    assert list((tmp_path / "here").iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    table = {line[:24].strip(): line[24:].split() for line in lines if line[24:].strip()}
    for what in ("data", "experts in training", "experts in distillation", "an outer step", "limit"):
        assert 0 <= float(table[what][0]) <= float(table["limit"][0])
    assert any(line.startswith("25 outer steps, compiled in ") for line in lines)
    stages = [float(table[stage][0]) for stage in ("experts", "distillation", "validation", "evaluation", "full data")]
    assert min(stages) >= 0 and sum(stages) <= float(table["in all"][0]) + 0.3  # each is rounded
    assert table["distillation"][1:] == ["from", "one", "dispatch"]


def test_dry_run_is_no_part_of_a_runs_identity():
    assert record(Config(dry_run=True)) == record(Config()) and "dry_run" not in record(Config())
    with pytest.raises(SettingError, match="rehearse"):
        jaxdd.run(Config(dry_run=True))


@pytest.mark.parametrize(("name", "value"), [("dry_run", True), ("initial", "distilled.npz"), ("stages", 5)])
def test_influence_refuses_what_only_runs_read(name, value):
    with pytest.raises(SettingError, match=rf"{name} is {value!r}, which only `jaxdd run` reads"):
        dataclasses.replace(Influence(), **{name: value})


def test_time_grows_by_the_epochs_beyond_the_first():
    recipe = Recipe(epochs=101)
    assert extrapolate(lambda short: 3.0 + 0.5 * short.epochs, recipe, 10) == pytest.approx(3.0 + 0.5 * 101)
    assert extrapolate(lambda short: 3.0 + 0.5 * short.epochs, recipe, 1, 9.0) == pytest.approx(3.0 + 0.5 * 909)


@pytest.mark.parametrize(
    ("size", "batch", "kept", "longer"), [(1299, 128, 595, 11 / 5), (1299, 1000, 1299, 1.0), (7, 128, 7, 1.0)]
)
def test_a_step_of_a_short_epoch_is_one_of_a_whole_one(size, batch, kept, longer, one_device):
    real = RealSet(np.zeros((size, 2, 2, 1), np.uint8), np.arange(size))
    part, times = few(real, batch)
    assert part.inputs.shape == (kept, 2, 2, 1) and part.targets.tolist() == list(range(kept)) and times == longer
    assert batching(kept, batch)[1] == batching(size, batch)[1]
