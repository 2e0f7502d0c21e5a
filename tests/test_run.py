"""The pipeline end to end: what it writes, which set it keeps, and that a stopped run goes on as if it had not been."""

import dataclasses
import errno
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdd
from jaxdd import classification, data, methods, models
from jaxdd.app.config import parse
from jaxdd.app.run import run
from jaxdd.app.signals import StopSignal
from jaxdd.app.workdir import Progress, claim, identity, opened, record
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import make_mesh
from jaxdd.errors import SettingError
from jaxdd.evaluation import validator
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.io.files import differences
from jaxdd.io.integrity import DamagedError
from jaxdd.io.lock import in_use
from jaxdd.report.grid import image_grid
from jaxdd.report.metrics import read

# Three experts, one at a time; four checkpoints after the first; seconds of computing in all.
FLAGS = shlex.split(
    "--model mlp --model.width 4 --model.depth 1 "
    "--experts.count 3 --experts.per-dispatch 1 --experts.recipe.epochs 2 --experts.recipe.batch 256 "
    "--method.estimator first_order --method.real-batch 8 --method.window.start 3 --method.steps 60 "
    "--evaluate.networks 2 --evaluate.validate-every 15 --evaluate.validate-networks 1 "
    "--evaluate.recipe.epochs 20 --evaluate.recipe.augment none --evaluate.full-recipe.epochs 2"
)
LAST = 60


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def flags(digits_dir):
    return [*FLAGS, "--data.data-dir", str(digits_dir)]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, and what the first process compiled serves the others."""
    cache = tmp_path_factory.mktemp("compiled")
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="session")
def start(environment):
    """Start the launcher as a user does, in its own process."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "jaxdd.main", *arguments]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def finished(start, flags, tmp_path_factory):
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    process = start(*flags, "--workdir", str(workdir))
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert [line.split()[0] for line in stdout.splitlines()[:3]] == ["distilled", "random_real", "full_data"]
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """The finished run, moved to another place."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


@pytest.fixture(scope="session")
def dataset(digits_dir):
    return data.load("digits", data_dir=str(digits_dir))


@pytest.fixture
def one_device():
    """Run on one device, as the launcher does here."""
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        yield


def task_of(config, dataset):
    model = models.build(config.model, dataset.image_shape, dataset.num_classes)
    return classification(model, dataset.num_classes)


def module(name):
    """Some modules carry the name of the function that jaxdd exports in their place."""
    return importlib.import_module(f"jaxdd.{name}")


def scalars(workdir):
    """All that metrics.jsonl says, but for the clock."""
    return {
        (line["stage"], line["step"]): {name: value for name, value in line.items() if name != "time"}
        for line in read(workdir / "metrics.jsonl")
    }


def assert_same_run(workdir, reference):
    assert (workdir / "distilled.npz").read_bytes() == (reference / "distilled.npz").read_bytes()
    lines = read(workdir / "metrics.jsonl")
    assert len({(line["stage"], line["step"]) for line in lines}) == len(lines)
    assert scalars(workdir) == scalars(reference)
    results, expected = (json.loads((path / "results.json").read_text()) for path in (workdir, reference))
    assert results.pop("seconds").keys() == expected.pop("seconds").keys()
    assert results == expected


# What a run writes


def test_a_run_writes_everything(finished):
    written = {path.name for path in finished.iterdir()}
    files = {
        "config.json",
        "metrics.jsonl",
        "distilled.npz",
        "grid.png",
        "results.json",
        "report.html",
        "README.md",
        "progress.json",
        ".run.lock",
    }
    assert written == files | {"experts", "checkpoints", "tensorboard"}
    stored = {f"expert_{i:04d}{suffix}" for i in range(3) for suffix in ("", ".json")}
    assert {path.name for path in (finished / "experts").iterdir()} == {"store.json", ".experts.lock"} | stored
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"45", "60"}
    with Image.open(finished / "grid.png") as grid:
        assert min(grid.size) > 50
    assert "digits" in (finished / "report.html").read_text()


def test_the_picture_and_the_page_show_the_set_and_its_accuracy(finished, dataset, tmp_path):
    distilled, card = Distilled.load(finished / "distilled.npz")
    pixels = np.asarray(card.normalization.inverse(distilled.images))
    image_grid(pixels, np.argmax(distilled.labels, -1), dataset.class_names, tmp_path / "grid.png")
    assert (finished / "grid.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
    page = (finished / "report.html").read_text()
    results = json.loads((finished / "results.json").read_text())
    assert "<h1>digits · infmatch · 1 image per class</h1>" in page
    for name in ("distilled", "random_real", "full_data"):
        assert f"{100 * results[name]['mean']:.1f} ± {100 * results[name]['std']:.1f}" in page


def test_results_are_those_documented(finished):
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == {
        *("dataset", "method", "ipc", "stored_pixels", "distilled", "random_real", "full_data"),
        *("selected_on", "selected_step", "steps", "seconds", "versions"),
    }
    described = {name: results[name] for name in ("dataset", "method", "ipc", "stored_pixels", "steps", "selected_on")}
    assert described == {
        "dataset": "digits",
        "method": "infmatch",
        "ipc": 1,
        "stored_pixels": 10 * 8 * 8,
        "steps": LAST,
        "selected_on": "validation",
    }
    for name in ("distilled", "random_real", "full_data"):
        runs = results[name]["runs"]
        assert len(runs) == 2 and all(0 <= accuracy <= 1 for accuracy in runs)
        assert results[name]["mean"] == pytest.approx(sum(runs) / 2)
        assert results[name]["std"] == pytest.approx(abs(runs[0] - runs[1]) / 2)
    assert set(results["seconds"]) == {"experts", "distill", "evaluate"}
    assert all(seconds > 0 for seconds in results["seconds"].values())
    assert results["versions"]["jax"] == jax.__version__ and results["versions"]["jaxdd"] == jaxdd.__version__


def test_every_class_has_its_accuracy(finished, dataset):
    results = json.loads((finished / "results.json").read_text())
    share = np.bincount(dataset.test.labels) / len(dataset.test.labels)
    for name in ("distilled", "random_real", "full_data"):
        of_class = np.array(results[name]["class_accuracy"]["runs"])
        assert of_class.shape == (2, 10)
        np.testing.assert_allclose(of_class @ share, results[name]["runs"], rtol=1e-6)
    page = (finished / "report.html").read_text()
    worst = min(results["distilled"]["class_accuracy"]["mean"])
    assert "Accuracy of each class" in page and f'<td class="number">{100 * worst:.1f}</td>' in page


def test_every_scored_set_is_seen_in_tensorboard(finished):
    lines = read(finished / "metrics.jsonl", "set")
    assert [line["step"] for line in lines] == [0, 15, 30, 45, 60]
    assert all(sum(line["pixels"]["counts"]) == 10 * 8 * 8 for line in lines)
    [file] = (finished / "tensorboard" / "set").iterdir()
    assert file.read_bytes().count(b"\x89PNG") == 5


def test_accuracies_can_be_computed_again(finished, flags, dataset, one_device):
    config = parse(flags)
    distilled, card = Distilled.load(finished / "distilled.npz")
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, full_data=False))
    scores = jaxdd.evaluate(task_of(config, dataset), dataset, distilled, config.evaluate, seed=config.seed)
    results = json.loads((finished / "results.json").read_text())
    assert scores == {name: results[name] for name in ("distilled", "random_real")}
    assert card.provenance["step"] == results["selected_step"]
    assert card.provenance["config"]["method"]["name"] == "infmatch"


def test_the_set_kept_is_the_best_on_the_validation_split(finished, flags, dataset, one_device):
    lines = read(finished / "metrics.jsonl", "validate")
    assert [line["step"] for line in lines] == [0, 15, 30, 45, 60]
    best = max(lines, key=lambda line: line["accuracy"])  # the first of equals
    assert json.loads((finished / "results.json").read_text())["selected_step"] == best["step"]
    # The validation split alone gives that accuracy: here the test split is garbage.
    config = parse(flags)
    garbage = data.Split(np.zeros_like(dataset.test.images), np.zeros_like(dataset.test.labels))
    score = validator(task_of(config, dataset), dataclasses.replace(dataset, test=garbage), config.evaluate)
    assert score(Distilled.load(finished / "distilled.npz")[0]) == best["accuracy"]


def test_experts_curve_is_their_mean_loss_over_sgd_steps(finished):
    lines = read(finished / "metrics.jsonl", "experts")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]  # 2 epochs of 6 steps, a snapshot every other step
    manifests = [json.loads((finished / f"experts/expert_{i:04d}.json").read_text()) for i in range(3)]
    expected = np.mean([manifest["losses"] for manifest in manifests], 0)[1:]
    np.testing.assert_allclose([line["loss"] for line in lines], expected, rtol=1e-12)


@pytest.mark.parametrize(("script", "best"), [([0.2, 0.5, 0.9, 0.9, 0.3], 2), ([0.9, 0.5, 0.8, 0.9, 0.3], 0)])
def test_the_highest_accuracy_selects_whatever_the_step(
    script, best, finished, flags, tmp_path, monkeypatch, one_device, caplog
):
    scored, script = [], iter(script)

    def score(distilled):
        scored.append(np.asarray(distilled.images))
        return next(script)

    summary = {"mean": 0.5, "std": 0.0, "runs": [0.5]}
    monkeypatch.setattr(module("driver"), "validator", lambda *_, **__: score)
    monkeypatch.setattr(module("app.run"), "evaluate", lambda *_, **__: {"distilled": summary, "random_real": summary})
    shutil.copytree(finished / "experts", tmp_path / "experts")
    results = run(parse([*flags, "--workdir", str(tmp_path)]))
    assert results["selected_step"] == 15 * best and results["selected_on"] == "validation"
    assert results["full_data"] is None
    np.testing.assert_array_equal(Distilled.load(tmp_path / "distilled.npz")[0].images, scored[best])
    assert not np.array_equal(scored[best], scored[3])
    assert json.loads((tmp_path / "results.json").read_text())["selected_step"] == 15 * best
    assert ("distillation never improved on the first set" in caplog.text) == (best == 0)


# Continuing


def forbidden(*_, **__):
    def call(*_, **__):
        raise AssertionError("computed again")

    return call


def test_a_finished_run_computes_nothing_again(copy, flags, one_device, monkeypatch):
    # In another folder, too: a run may be moved.
    before = {name: (copy / name).read_bytes() for name in ("distilled.npz", "results.json", "metrics.jsonl")}
    monkeypatch.setattr(module("experts.training"), "trainer", forbidden)
    monkeypatch.setattr(module("driver"), "advance", forbidden)
    monkeypatch.setattr(module("evaluation"), "distilled_scorer", forbidden)
    monkeypatch.setattr(module("evaluation"), "full_data_scorer", forbidden)
    began = time.monotonic()
    results = run(parse([*flags, "--workdir", str(copy)]))
    assert time.monotonic() - began < 60
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert results == json.loads(before["results.json"])


def wait_for(process, condition):
    """Wait until the run has come so far, and make sure that it is still going on."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run never came to the state to stop it in"
        time.sleep(0.002)


def first_expert_stored(workdir):
    return lambda: (workdir / "experts" / "expert_0000.json").exists()


def checkpoint_stored(workdir):
    folder = workdir / "checkpoints"
    return lambda: folder.exists() and any(path.name in ("15", "30", "45") for path in folder.iterdir())


def distilling(workdir):
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and b'"distill"' in path.read_bytes()


def evaluating(workdir):
    path = workdir / "progress.json"
    return lambda: path.exists() and "distilled" in json.loads(path.read_text())["accuracies"]


def test_a_killed_run_goes_on_bit_for_bit(finished, start, flags, tmp_path):
    workdir = tmp_path / "killed"
    for state in (first_expert_stored, checkpoint_stored, evaluating):
        process = start(*flags, "--workdir", str(workdir))
        wait_for(process, state(workdir))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (workdir / "distilled.npz").exists()
    process = start(*flags, "--workdir", str(workdir))
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert_same_run(workdir, finished)


def test_a_stopped_run_says_how_to_continue_and_does(finished, start, flags, tmp_path):
    workdir = tmp_path / "stopped by a signal"
    command = [*flags, "--workdir", str(workdir)]
    for number, state, stage in (
        (signal.SIGTERM, first_expert_stored, "expert training stopped after expert"),
        (signal.SIGINT, distilling, "distillation stopped after step"),
    ):
        process = start(*command)
        wait_for(process, state(workdir))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 130, stderr
        assert f"{number.name}: stopping" in stderr and stage in stderr and "Traceback" not in stderr
        assert not (workdir / "distilled.npz").exists()
        advice = shlex.split(stderr.rsplit("Continue with: ", 1)[1])
        assert advice == ["jaxdd", *command]
    process = start(*command)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert_same_run(workdir, finished)


def test_a_second_signal_ends_the_process_at_once(caplog, monkeypatch):
    ends, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("os._exit", ends.append)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and not ends
        assert "SIGTERM: stopping" in caplog.text
        os.kill(os.getpid(), signal.SIGINT)
    assert ends == [128 + signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is before


# What goes wrong


def test_a_diverging_run_names_step_method_and_learning_rates(copy, flags, dataset, one_device):
    for name in ("config.json", "progress.json", "distilled.npz", "results.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "checkpoints")  # the experts stay
    absurd = ["--method.image-optimizer.name", "sgd", "--method.image-optimizer.lr", "1e30"]
    config = parse([*flags, *absurd, "--workdir", str(copy)])
    with pytest.raises(FloatingPointError, match=r"step \d+ of infmatch with learning rates image 1e\+30.*not finite"):
        run(config)
    assert not (copy / "distilled.npz").exists()
    # The checkpoint of step 0 holds the first set: one real image of each class.
    like = Distilled(np.zeros((10, 8, 8, 1), np.float32), np.zeros((10, 10), np.float32), np.float32(0))
    tree = {
        "state": config.method.build(task_of(config, dataset)).init(jax.random.key(0), like, None),
        "best": like,
        **{name: np.zeros(()) for name in ("best_step", "best_score", "seconds")},
    }
    step, stored = Checkpoints(copy / "checkpoints").restore(tree)
    assert step == 0
    real = np.asarray(dataset.normalization(dataset.train.images))
    for digit, image in enumerate(np.asarray(stored["best"][0])):
        assert (np.abs(real[dataset.train.labels == digit] - image).max((1, 2, 3)) < 1e-5).any()


def test_another_configuration_is_refused_naming_its_fields(copy, flags, one_device):
    config = parse([*flags, "--workdir", str(copy), "--seed", "3", "--method.image-optimizer.lr", "0.5"])
    with pytest.raises(ValueError, match=r"method.image_optimizer.lr: 0.1 there, 0.5 here; seed: 0 there, 3 here"):
        run(config)
    claim(copy, parse(flags))
    with pytest.raises(ValueError, match="method.name: 'infmatch' there, 'mtt' here"):
        claim(copy, dataclasses.replace(parse(flags), method=methods.mtt.Config()))


def test_a_run_goes_on_with_data_and_experts_elsewhere_and_fewer_experts_at_a_time(flags, dataset, tmp_path):
    config = parse(flags)
    words = "--experts.per-dispatch 2 --experts.directory elsewhere --data.data-dir moved"
    changed = parse([*flags, *words.split()])
    claim(tmp_path, config)
    claim(tmp_path, changed)
    assert identity(config, dataset) == identity(changed, dataset)
    assert record(changed)["data"]["data_dir"] == "moved"  # which the card says


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--method.ipc 150", "cannot draw 150 examples per class .* class 8 has 126"),
        ("--config digits_infmatch --method.factor 3", "method.factor is 3 and images are 8×8.*choose another factor"),
        ("--method.window.start 8", "reads 8 snapshots of every expert, .* have 7; .* epochs .experts.recipe.epochs."),
        ("--data.name digitz", "unknown dataset 'digitz'"),
        ("--model convnet --model.depth 4", "depth"),
        ("--data.validation 0.999", "training examples"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(arguments, message, flags, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        run(parse([*flags, *arguments.split(), "--workdir", str(workdir)]))
    assert not workdir.exists()


def test_a_workdir_or_experts_in_use_are_refused(copy, flags, one_device):
    config = parse([*flags, "--workdir", str(copy)])
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != ".run.lock"}
    with in_use(copy / ".run.lock", ""), pytest.raises(SettingError, match="moved is in use by process .*--workdir"):
        run(config)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != ".run.lock"} == before
    with in_use(copy / "experts" / ".experts.lock", ""):
        run(config)  # all are there
        (copy / "experts" / "expert_0001.json").unlink()
        with pytest.raises(SettingError, match="experts is in use by process .*experts.directory"):
            run(config)


# Damage


def test_a_flipped_bit_in_the_newest_checkpoint_changes_nothing(copy, finished, flags, one_device):
    arrays = [path for path in (copy / "checkpoints/60").rglob("d/*") if path.is_file()]
    largest = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[424] ^= 0x40
    largest.write_bytes(content)
    with pytest.warns(UserWarning, match="checkpoint 60 cannot be read and is now .*missing or changed"):
        run(parse([*flags, "--workdir", str(copy)]))
    assert_same_run(copy, finished)


def test_a_run_on_other_test_data_is_another_run(copy, flags, dataset, one_device, monkeypatch):
    corrected = dataset.test._replace(labels=np.roll(dataset.test.labels, 1))
    monkeypatch.setattr(data, "load", lambda **_: dataclasses.replace(dataset, test=corrected))
    with pytest.raises(SettingError, match=r"60 is a checkpoint of another run, with other settings, data"):
        run(parse([*flags, "--workdir", str(copy)]))


def test_a_run_with_an_edited_network_is_another_run(dataset, tmp_path):
    source = tmp_path / "networks.py"
    source.write_text("small = 1\n")
    config = jaxdd.Config(model=jaxdd.models.Own(f"{source}:small"))
    known_by, told = identity(config, dataset), record(config)
    source.write_text("small = 2\n")
    assert identity(config, dataset) != known_by and record(config) == told


def test_a_workdir_without_config_is_not_taken_for_another_run(copy, flags, one_device):
    (copy / "config.json").unlink()
    shutil.rmtree(copy / "experts")
    for change in (["--method.steps", "70"], ["--seed", "1"]):
        with pytest.raises(SettingError, match="checkpoints/60 is a checkpoint of another run"):
            run(parse([*flags, "--workdir", str(copy), *change]))
    assert not (copy / "config.json").exists() and not (copy / "experts").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_config_is_named_with_its_remedy(content, flags, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match="config.json is damaged .*; delete it if the folder is that of this run"):
        claim(tmp_path, parse(flags))


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}"])
def test_a_config_of_another_kind_is_another_configuration(content, flags, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SettingError, match="holds a run of another configuration"):
        claim(tmp_path, parse(flags))


ACCURACIES = {"distilled": {"accuracy": [0.5, 0.25]}, "full_data": {"accuracy": [0.75, 1.0]}}


@pytest.fixture
def progress_file(tmp_path):
    """A file of progress with accuracies of the set "its"."""
    done = Progress(tmp_path / "progress.json", "ours")
    done.score("its")
    done.add("evaluate", 2.5, **ACCURACIES)
    return tmp_path / "progress.json"


def test_progress_is_read_back(progress_file):
    done = Progress(progress_file, "ours")
    done.score("its")
    assert done.accuracies == ACCURACIES and done.seconds == {"experts": 0.0, "evaluate": 2.5}


def test_accuracies_of_another_set_or_run_are_not_reported(progress_file, caplog):
    done = Progress(progress_file, "ours")
    done.score("another")
    assert done.accuracies == {"full_data": ACCURACIES["full_data"]}
    assert not caplog.records
    assert Progress(progress_file, "theirs").accuracies == {}
    assert "progress.json is that of another run; what it held is computed again" in caplog.text


def altered(change):
    def damage(content):
        stored = json.loads(content)
        change(stored)
        return json.dumps(stored).encode()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda _, content=content: content for content in (b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000)),
        lambda content: content[:40],
        altered(lambda stored: stored["accuracies"]["distilled"].update(accuracy=[0.99, 0.99])),
        altered(lambda stored: stored["accuracies"]["distilled"].update(accuracy=[])),
        altered(lambda stored: stored.update(accuracies=None)),
        altered(lambda stored: stored["seconds"].pop("evaluate")),
        altered(lambda stored: stored.update(set="another")),
    ],
)
def test_damaged_progress_is_named_and_not_believed(progress_file, damage, caplog):
    progress_file.write_bytes(damage(progress_file.read_bytes()))
    done = Progress(progress_file, "ours")
    assert done.accuracies == {} and done.seconds == {"experts": 0.0, "evaluate": 0.0}
    assert f"{progress_file} is damaged" in caplog.text and "what it held is computed again" in caplog.text


def test_altered_accuracies_do_not_reach_the_results(copy, finished, flags, one_device, caplog):
    content = (copy / "progress.json").read_bytes()
    altered_ = altered(lambda stored: stored["accuracies"]["distilled"].update(accuracy=[0.99, 0.99]))
    (copy / "progress.json").write_bytes(altered_(content))
    run(parse([*flags, "--workdir", str(copy)]))
    assert "progress.json is damaged" in caplog.text
    assert_same_run(copy, finished)


def test_errors_without_a_path_are_given_the_workdir(tmp_path, flags):
    config = parse(flags)
    with pytest.raises(OSError) as raised, opened(tmp_path / "run", config, "ours"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "run")


# Without the pipeline


def test_the_stages_in_a_notebook(stripes, capfd):
    train, test = stripes.train, stripes.test
    dataset = data.from_arrays(train.images, train.labels, test.images, test.labels, name="stripes")
    model = models.build(jaxdd.models.MLP(width=8, depth=1), dataset.image_shape, dataset.num_classes)
    task = jaxdd.classification(model, dataset.num_classes)
    recipe = jaxdd.Recipe(epochs=30, batch=64, lr=0.1, augment="none")
    config = jaxdd.ExpertsConfig(count=2, recipe=recipe)
    experts = jaxdd.train_experts(task, dataset, config)
    assert capfd.readouterr().err == ""
    jaxdd.train_experts(task, dataset, config, progress=True)
    assert "experts: 2/2" in capfd.readouterr().err
    method = methods.infmatch.Config(ipc=1, steps=20, estimator="first_order")
    scoring = jaxdd.EvaluateConfig(networks=2, recipe=recipe, full_data=False)
    outcome = jaxdd.distill(task, dataset, method, experts, evaluate=scoring, progress=True)
    scores = jaxdd.evaluate(task, dataset, outcome.distilled, scoring, progress=True)
    told = capfd.readouterr().err
    assert "distill: 20/20" in told and "accuracy=" in told and "evaluate: 2/2" in told and "random real" in told
    assert outcome.distilled.images.shape == (3, 8, 8, 1)
    assert scores["distilled"]["mean"] > 0.8  # chance is a third


def test_a_checkpoint_beyond_the_last_step_is_refused(stripes, tmp_path):
    model = models.build(jaxdd.models.MLP(width=4, depth=1), stripes.image_shape, stripes.num_classes)
    task, scoring = classification(model, stripes.num_classes), jaxdd.EvaluateConfig(validate_every=1000)
    train, test = stripes.train, stripes.test
    stripes = data.from_arrays(train.images, train.labels, test.images, test.labels, name="stripes", validation=0)

    def distill(steps):
        method = methods.dm.Config(steps=steps, real_batch=4, augment="none")
        return jaxdd.distill(task, stripes, method, evaluate=scoring, checkpoints=Checkpoints(tmp_path))

    distill(2)
    with pytest.raises(SettingError, match="newest checkpoint is of step 2, but the run has 1 steps"):
        distill(1)
    assert distill(2).step == 2


def test_the_record_of_a_run_is_json(flags):
    config = parse([*flags, "--workdir", "elsewhere"])
    stored = json.loads(json.dumps(record(config)))
    assert stored == record(config) and differences(stored, record(config)) == []
    assert stored["method"]["name"] == "infmatch" and "workdir" not in stored

    def restore(default, value):
        if not dataclasses.is_dataclass(default):
            return value
        fields = {f.name: getattr(default, f.name) for f in dataclasses.fields(default) if f.name in value}
        return dataclasses.replace(default, **{name: restore(old, value[name]) for name, old in fields.items()})

    model = jaxdd.models.from_settings(stored.pop("model"))
    assert restore(jaxdd.Config(workdir="elsewhere", model=model), stored) == config
