"""Several processes of one job, over loopback: they compute what one does, stop together, and end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxdd.app.hosts import Hosts, arguments, joined, refuse_many
from jaxdd.core.distilled import Distilled
from jaxdd.errors import PeerLost, SettingError
from jaxdd.report.metrics import read

COMMON = (
    "--model mlp --model.width 8 --model.depth 1 --experts.count 3 --experts.recipe.epochs 2 "
    "--experts.snapshot-every 1 --evaluate.networks 2 --evaluate.recipe.epochs 20 --evaluate.no-full-data "
    "--evaluate.validate-every 20 --method.steps 40"
).split()
METHODS = {
    "dm": "--method.augment none",
    "mtt": "--method.student-steps 4 --method.expert-snapshots 2 --method.labels learned",
    "infmatch": "",
    "dc": "--method.real-batch 8",
}
DEVICES = 4
"""In all: a job of two processes has two each."""


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def start(cache, digits_dir):
    """Start the processes of a job; `workdirs` are one for each or the same one."""
    running = []

    def start(method, workdirs, *flags, missing=()):
        count, port = len(workdirs), free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"},
            "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        processes = []
        for index, workdir in enumerate(workdirs):
            if index in missing:
                continue
            command = [sys.executable, "-m", "jaxdd", "--method", method, *METHODS[method].split(), *COMMON]
            command += ["--workdir", str(workdir), "--data.data-dir", str(digits_dir), *flags]
            if count > 1:
                command += ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", str(count)]
                command += ["--hosts.index", str(index)]
            log = open(f"{workdir}_{index}.log", "w+")  # noqa: SIM115
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            processes[-1].log = log
        running.extend(processes)
        return processes

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.log.close()


def end_of(processes, timeout=300):
    """Wait for the end of processes: their exit codes and what they said."""
    codes = [process.wait(timeout) for process in processes]
    told = []
    for process in processes:
        process.log.seek(0)
        told.append(process.log.read())
    return codes, told


def wait_for_step(workdir, step, timeout=240):
    """Wait until a run has taken so many steps."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(line["step"] >= step for line in read(path, "distill")):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def assert_alike(workdir, reference):
    """Compare runs that summed in another order."""
    ours, theirs = (Distilled.load(path / "distilled.npz")[0] for path in (workdir, reference))
    np.testing.assert_allclose(ours.images, theirs.images, atol=2e-3)
    results, expected = (json.loads((path / "results.json").read_text()) for path in (workdir, reference))
    assert results["selected_step"] == expected["selected_step"]
    for name in ("distilled", "random_real"):
        np.testing.assert_allclose(results[name]["runs"], expected[name]["runs"], atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_processes_compute_what_one_does(start, tmp_path, method):
    short = ("--method.steps", "10", "--evaluate.validate-every", "5")
    codes, told = end_of(start(method, [tmp_path / "one"], *short))
    assert codes == [0], told
    codes, told = end_of(start(method, [tmp_path / "two"] * 2, *short))
    assert codes == [0, 0], told
    assert_alike(tmp_path / "two", tmp_path / "one")
    lines = read(tmp_path / "two" / "metrics.jsonl")
    assert len({(line["stage"], line["step"]) for line in lines}) == len(lines)  # one process writes


def test_four_processes_on_disks_of_their_own(start, tmp_path):
    assert end_of(start("mtt", [tmp_path / "one"]))[0] == [0]
    workdirs = [tmp_path / f"scratch{index}" for index in range(4)]
    codes, told = end_of(start("mtt", workdirs))
    assert codes == [0] * 4, told
    assert_alike(workdirs[0], tmp_path / "one")
    for workdir in workdirs[1:]:  # the first one writes
        assert not [path for path in workdir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("asked", [0, 1])
def test_all_stop_where_one_is_asked_to_and_another_number_goes_on(start, tmp_path, asked):
    assert end_of(start("dm", [tmp_path / "one"], "--method.steps", "2000"))[0] == [0]
    processes = start("dm", [tmp_path / "two"] * 2, "--method.steps", "2000")
    wait_for_step(tmp_path / "two", 200)
    processes[asked].send_signal(signal.SIGTERM)
    codes, told = end_of(processes, timeout=60)
    assert codes == [130, 130], told
    [step] = {step for text in told for step in re.findall(r"stopped after step (\d+) of", text)}
    assert 200 <= int(step) < 2000 and (tmp_path / "two" / "checkpoints" / step).is_dir()
    codes, told = end_of(start("dm", [tmp_path / "two"], "--method.steps", "2000"))
    assert codes == [0] and int(step) < read(tmp_path / "two" / "metrics.jsonl", "distill")[-1]["step"], told
    assert_alike(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stalled"])
def test_a_lost_process_ends_the_others_in_time(start, tmp_path, killed, number):
    processes = start("dm", [tmp_path / "two"] * 2, "--method.steps", "200000", "--hosts.heartbeat-timeout", "10")
    wait_for_step(tmp_path / "two", 50)
    began = time.monotonic()
    processes[killed].send_signal(number)
    [code], [told] = end_of([processes[1 - killed]], timeout=90)
    assert code != 0 and time.monotonic() - began < 60
    assert "process" in told and ("lost" in told or "task" in told), told
    processes[killed].kill()
    [code], [told] = end_of(start("dm", [tmp_path / "two"], "--method.steps", "200"))  # what was saved is intact
    assert code == 2 and "another configuration" in told


def test_a_process_that_is_not_there_is_an_error_in_time(start, tmp_path):
    [process] = start("dm", [tmp_path / "two"] * 2, "--hosts.start-timeout", "5", missing=[1])
    began = time.monotonic()
    [code], [told] = end_of([process], timeout=60)
    assert code == 2 and time.monotonic() - began < 40
    assert "process 0 of 2 waited 5 s, hosts.start_timeout" in told, told


@pytest.mark.parametrize(
    ("reason", "raised"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.", jax.errors.JaxRuntimeError),
        ("INVALID_ARGUMENT: Executable expected another shape", jax.errors.JaxRuntimeError),
        ("UNAVAILABLE: Socket closed", PeerLost),
        ("DEADLINE_EXCEEDED: Barrier timed out", PeerLost),
        ("INTERNAL: Gloo all-reduce failed: Connection closed by peer", PeerLost),
    ],
)
def test_an_error_of_ones_own_is_no_lost_process(reason, raised, monkeypatch, caplog):
    for name in ("initialize", "shutdown"):
        monkeypatch.setattr(jax.distributed, name, lambda **_: None)
    given = Hosts(coordinator="localhost:1", count=2, index=0)
    with pytest.raises(raised, match=reason), joined(given, {}):
        raise jax.errors.JaxRuntimeError(reason)
    said = f"process 0 on {socket.gethostname()}: {reason}"
    assert (said in caplog.messages) == (raised is not PeerLost)


SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
RANK = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host0", "MASTER_PORT": "5511"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}, None),
        ({"JOB_COMPLETION_INDEX": "3"}, {}, None),  # a job of an array of seeds
        (SLURM, {"count": 1}, None),
        ({**SLURM, "SLURM_STEP_NODELIST": "n[1-2]"}, {}, (None, 4, 2)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_orte_hnp_uri": "x"}, {}, (None, 2, 0)),
        (RANK, {}, ("host0:5511", 2, 1)),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, {"coordinator": "h:1"}, ("h:1", 2, 1)),
        ({"JOB_COMPLETION_INDEX": "3"}, {"coordinator": "h:1", "count": 8}, ("h:1", 8, 3)),
        (SLURM, {"coordinator": "h:1", "count": 2, "index": 0}, ("h:1", 2, 0)),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}, (None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "a"}, {}, None),
        ({}, {"detect": True}, (None, None, None)),
    ],
)
def test_a_job_is_known_by_its_environment_or_by_flags(environment, given, expected):
    found = arguments(Hosts(**given), environment)
    names = ("coordinator_address", "num_processes", "process_id")
    assert found == (
        None if expected is None else {n: v for n, v in zip(names, expected, strict=True) if v is not None}
    )


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        (SLURM, {}, "SLURM_NTASKS is 4, and this process is not one of these tasks; start it by `srun jaxdd"),
        ({"PMI_SIZE": "2"}, {}, "PMI_SIZE is 2, but PMI_RANK is not set"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, {}, "PMI says that there are 2 processes.*give --hosts.coordinator"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, {}, "Open MPI says.*give --hosts.coordinator"),
        ({}, {"count": 2}, "give --hosts.coordinator and --hosts.index"),
        ({}, {"coordinator": "h:1", "count": 2, "index": 2}, "hosts.index is 2 of 2; count from 0"),
        ({}, {"coordinator": "host", "count": 2, "index": 0}, "hosts.coordinator is 'host'; give address and port"),
        ({"PMI_SIZE": "two"}, {}, "PMI_SIZE is 'two'"),
    ],
)
def test_a_job_that_cannot_be_joined_is_refused(environment, given, message):
    with pytest.raises(SettingError, match=message):
        arguments(Hosts(**given), environment)


def test_a_command_of_one_process_is_refused_in_a_job_of_several():
    with pytest.raises(SettingError, match="torchrun started 2 processes, and jaxdd evaluate is the work of one"):
        refuse_many("evaluate", RANK)
    refuse_many("evaluate", SLURM)  # allocated, but not started by srun
    refuse_many("evaluate", {"JOB_COMPLETION_INDEX": "3"})
