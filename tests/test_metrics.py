import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from jaxdd.errors import SettingError
from jaxdd.io.progress import progress_bar
from jaxdd.report.metrics import Metrics, read
from jaxdd.report.tracking import Wandb


def events(folder):
    """Return the (step, tag, value) and the restarts that TensorBoard finds in a folder, oldest file first."""
    found, restarts = [], []
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):  # a TFRecord: length, its checksum, the record, its checksum
            length = int.from_bytes(content[position : position + 8], "little")
            event = event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.HasField("session_log"):
                restarts.append(event.step)
    return found, restarts


def test_write_appends_one_json_object_per_line(tmp_path):
    before = time.time()
    with Metrics(tmp_path / "run") as run:
        run.write(0, "experts", loss=2.5, accuracy=jnp.asarray(0.25))
        run.write(np.int64(1), "distill", loss=np.float32(0.5))
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()  # there before the file is closed
    first, second = map(json.loads, lines)
    assert before - 0.001 <= first.pop("time") <= second.pop("time") <= time.time() + 0.001
    assert first == {"step": 0, "stage": "experts", "loss": 2.5, "accuracy": 0.25}
    assert second == {"step": 1, "stage": "distill", "loss": 0.5}
    assert list(json.loads(lines[0])) == ["step", "stage", "time", "loss", "accuracy"]


def test_tensorboard_has_one_run_per_stage(tmp_path):
    with Metrics(tmp_path) as run:
        run.write(3, "distill", loss=0.5)
        run.write(7, "validate", accuracy=0.75)
        run.write(8, "validate", accuracy=math.nan)
    assert events(tmp_path / "tensorboard" / "distill") == ([(3, "loss", 0.5)], [])
    assert events(tmp_path / "tensorboard" / "validate") == ([(7, "accuracy", 0.75)], [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full disk to try")
def test_a_full_disk_is_an_error_where_it_is_written_and_leaves_nothing_open(tmp_path):
    def opened(name):
        links = ((number, os.path.realpath(f"/proc/self/fd/{number}")) for number in os.listdir("/proc/self/fd"))
        return [int(number) for number, path in links if path.startswith(str(tmp_path / name))]

    run = Metrics(tmp_path)
    run.write(0, "experts", loss=1.0)
    run.write(0, "distill", loss=1.0)
    [number] = opened("tensorboard/experts")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, number)
    with pytest.raises(OSError, match="No space left"):
        run.write(1, "experts", loss=1.0)
    run.write(1, "distill", loss=0.5)
    with pytest.raises(OSError, match="No space left"):
        run.close()
    os.close(full)
    assert opened("") == []
    assert [step for step, _, _ in events(tmp_path / "tensorboard" / "distill")[0]] == [0, 1]
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [0, 0, 1, 1]


def test_values_that_are_not_finite_survive_strict_json(tmp_path):
    with Metrics(tmp_path) as run:
        run.write(0, "distill", a=math.nan, b=jnp.inf, c=-np.inf, d=1.5)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert [line[name] for name in "abcd"] == ["NaN", "Infinity", "-Infinity", 1.5]
    (record,) = read(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"])
    assert [record[name] for name in "bcd"] == [math.inf, -math.inf, 1.5]


def test_the_clock_keeps_its_name(tmp_path):
    with Metrics(tmp_path) as run, pytest.raises(ValueError, match="cannot be called 'time'"):
        run.write(0, "distill", time=1.0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_arrays_become_histograms(tmp_path):
    values = np.array([[0.0, 1.0, 1.0], [4.0, np.nan, np.inf]])
    with Metrics(tmp_path) as run:
        run.write(2, "inspect", weights=jnp.asarray(values), none=np.full(3, np.nan), loss=0.5)
        run.write(4, "inspect", weights=values)
        run.rewind("inspect", 2)
    (line,) = read(tmp_path / "metrics.jsonl", "inspect")
    assert line["loss"] == 0.5
    assert (len(line["weights"]["edges"]), len(line["weights"]["counts"])) == (41, 40)
    assert (line["weights"]["edges"][0], line["weights"]["edges"][-1]) == (0, 4)
    assert [line["weights"]["counts"][i] for i in (0, 10, 39)] == [1, 2, 1] and sum(line["weights"]["counts"]) == 4
    assert sum(line["none"]["counts"]) == 0
    assert {(step, tag) for step, tag, _ in events(tmp_path / "tensorboard" / "inspect")[0]} == {
        (2, "loss"),
        (2, "weights"),
        (4, "weights"),
    }


@pytest.mark.parametrize(
    "values", [[1, 1 + 2.4e-7, 1 + 1e-6], [1e9, 1e9], [-3e38, 3e38], [0.0], [1e-20, 2e-20], [np.nan]]
)
def test_every_array_has_a_histogram(tmp_path, values):
    with Metrics(tmp_path) as run:
        run.write(0, "inspect", W=np.array(values, np.float32))
    counted = read(tmp_path / "metrics.jsonl")[0]["W"]
    assert sum(counted["counts"]) == np.isfinite(values).sum()
    assert np.all(np.diff(counted["edges"]) > 0)


def test_rewind_forgets_later_steps_of_one_stage(tmp_path):
    with Metrics(tmp_path) as run:
        for step in range(4):
            run.write(step, "distill", loss=step + math.pi)
            run.write(step, "validate", accuracy=math.inf)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with Metrics(tmp_path) as run:
        run.rewind("distill", 1)
        run.write(2, "distill", loss=-1)
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert after[:-1] == [line for number, line in enumerate(before) if number not in (4, 6)]
    assert [record["loss"] for record in read(tmp_path / "metrics.jsonl", "distill")] == [math.pi, 1 + math.pi, -1]
    assert len(read(tmp_path / "metrics.jsonl", "validate")) == 4
    steps, restarts = events(tmp_path / "tensorboard" / "distill")
    assert [step for step, _, _ in steps] == [0, 1, 2, 3, 2]
    assert restarts == [2]  # TensorBoard hides what came before and has this step or a later one


def test_rewind_in_the_middle_of_writing(tmp_path):
    with Metrics(tmp_path) as run:
        run.write(5, "distill", loss=1)
        run.rewind("distill", 0)
        run.write(1, "distill", loss=2)
    assert [(r["step"], r["loss"]) for r in read(tmp_path / "metrics.jsonl")] == [(1, 2)]
    assert events(tmp_path / "tensorboard" / "distill")[1] == [1]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Metrics(tmp_path) as run:
        run.write(0, "distill", loss=1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 1, "stage": "dis')
    assert [record["step"] for record in read(path)] == [0]
    with Metrics(tmp_path) as run:
        run.write(1, "distill", loss=2)
    assert [(record["step"], record["loss"]) for record in read(path)] == [(0, 1), (1, 2)]
    assert path.read_bytes().startswith(whole)


def test_what_was_written_outlives_a_kill(tmp_path):
    child = (
        "import os, signal, sys; from jaxdd.report.metrics import Metrics\n"
        "run = Metrics(sys.argv[1])\n"
        "for step in range(3): run.write(step, 'distill', loss=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", child, tmp_path], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert [record["loss"] for record in read(tmp_path / "metrics.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize(
    "line, fault",
    [
        ('{"step": ', "Expecting value"),
        ("3", "'int' object has no attribute"),
        ("[" * 100_000, "recursion"),
        ('{"stage": "distill", "loss": 1}', "its step is 'missing'"),
        ('{"step": "2", "stage": "distill"}', "its step is '2'"),
        ('{"step": 2, "loss": 1}', "its stage is 'missing'"),
        ('{"step": 2, "stage": "distill", "loss": "one"}', "its loss is 'one'"),
        ('{"step": 2, "stage": "distill", "loss": null}', "its loss is None"),
    ],
)
def test_read_names_the_line_that_is_broken(tmp_path, line, fault):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "stage": "distill"}\n' + line + "\n")
    with pytest.raises(SettingError, match=rf"metrics\.jsonl, line 2 is damaged \(.*{fault}.*\): remove the line"):
        read(path)


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path, capfd):
    with Metrics(tmp_path / "run", enabled=False) as run:
        run.write(0, "distill", loss=1)
        run.rewind("distill", 0)
        run.show(0, "set", "images", b"no picture")
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr() == ("", "")


class Client:
    """What Weights & Biases' package offers, as far as it is used."""

    def __init__(self):
        self.logged, self.axes, self.finished = [], {}, False

    def init(self, **settings):
        self.settings = settings
        return self

    def log(self, values):
        self.logged.append(values)

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def finish(self):
        self.finished = True

    def Histogram(self, np_histogram):
        return np_histogram

    def Image(self, image):
        return image.size


def test_all_of_it_is_sent_to_a_tracker(tmp_path, monkeypatch):
    client = Client()
    monkeypatch.setitem(sys.modules, "wandb", client)
    picture = io.BytesIO()
    Image.new("RGB", (4, 3)).save(picture, "png")
    tracker = Wandb(tmp_path / "its name", "0123456789abcdef and more", {"seed": 1})
    with Metrics(tmp_path / "its name", tracker=tracker) as run:
        run.write(5, "distill", loss=0.5, weights=np.arange(4))
        run.show(5, "set", "images", picture.getvalue())
    assert client.settings["id"] == "0123456789abcdef" and client.settings["name"] == "its name"
    assert client.settings["config"] == {"seed": 1} and client.settings["resume"] == "allow"
    assert client.axes == {"distill/*": "distill/step", "set/*": "set/step"}
    curves, images = client.logged
    assert curves["distill/step"] == 5 and curves["distill/loss"] == 0.5 and curves["distill/weights"][0].sum() == 4
    assert images == {"set/step": 5, "set/images": (4, 3)}
    assert client.finished


def test_a_tracker_that_is_not_installed_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingError, match=r"log is 'wandb'.*pip install 'jaxdd\[wandb\]'"):
        Wandb(tmp_path, "run", {})


def test_progress_in_a_log_is_few_whole_lines(capfd):
    with progress_bar("distill", 1000, 200) as bar:
        for step in range(800):
            bar.set_postfix(loss=f"{step}")
            bar.update()
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert out == "" and "\r" not in err
    assert first.startswith("distill, compiling: 200/1000 [")
    assert last.startswith("distill: 1000/1000 [") and "loss=799" in last


def test_the_time_that_is_told_leaves_out_what_is_compiled_first(capfd):
    with progress_bar("distill", 30) as bar:
        bar.start_t -= 1000  # as if compiling had taken as long
        bar.update(10)
        assert bar.format_dict["elapsed"] < 100 and bar.format_dict["initial"] == 10
        bar.update(10)
        assert (bar.n, bar.format_dict["initial"]) == (20, 10)
    with progress_bar("nothing", 0):
        pass
    assert "nothing: 0/0" in capfd.readouterr().err


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("distill", 3) as bar:
        for _ in range(3):
            bar.update()
    assert "\r" in capfd.readouterr().err
    with progress_bar("distill", 10_000) as bar:
        for step in range(10_000):
            bar.set_postfix(loss=step)
            bar.update()
    assert capfd.readouterr().err.count("\r") < 500  # it is not drawn again for every postfix
