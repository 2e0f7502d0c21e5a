"""Joining the other processes of a job: how a launcher's hosts find each other, and what happens when one is lost."""

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax

from jaxdd.errors import PeerLost, SettingError
from jaxdd.io.hosts import gathered
from jaxdd.settings import AtLeast, Settings

log = logging.getLogger("jaxdd")
OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""How errors of XLA begin that no lost process causes: they come back when the job is started again."""


@dataclasses.dataclass(frozen=True)
class Hosts(Settings, path="hosts"):
    """The processes that work on one run, one or more on every host.

    They find each other under Slurm (`srun`), Open MPI, PMI, torchrun and on TPU slices with `TPU_WORKER_HOSTNAMES`;
    elsewhere coordinator, count and index are given.
    """

    coordinator: str | None = None
    """Address and port of process 0, which the others can reach: `host0:5511`."""
    count: Annotated[int | None, AtLeast(1)] = None
    """Number of processes; 1 says that this one works alone, whatever the environment says."""
    index: Annotated[int | None, AtLeast(0)] = None
    """Which of them this one is, from 0."""
    detect: bool = False
    """Let JAX ask the platform, as on TPU slices of GCE and in Kubernetes (with jax[k8s])."""
    start_timeout: Annotated[int, AtLeast(1)] = 300
    """Seconds to wait at the start until all processes are there."""
    heartbeat_timeout: Annotated[int, AtLeast(10)] = 100
    """Seconds without a sign of life after which a process is taken for dead, and all others end."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a launcher's environment says: how many processes, which one this is, and where the first one is.

    Attributes:
        launcher: Its name.
        count: Number of processes.
        index: This one.
        coordinator: Address and port of the first one; None where the environment does not say.
    """

    launcher: str
    count: int
    index: int
    coordinator: str | None


_LAUNCHERS = {
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "PMI": ("PMI_SIZE", "PMI_RANK"),
    "torchrun": ("WORLD_SIZE", "RANK"),
}


def job_of(environment: Mapping[str, str]) -> Job | None:
    """Read what a launcher says of a job of several processes; None if there is none.

    Raises:
        SettingError: The job has several processes, and this one was not started as one of them.
    """
    for launcher, (count_name, index_name) in _LAUNCHERS.items():
        count = _number(environment, count_name, "1")
        if count == 1:
            continue
        if launcher == "Slurm" and "SLURM_STEP_NODELIST" not in environment:
            raise SettingError(
                f"SLURM_NTASKS is {count}, and this process is not one of these tasks; start it by `srun jaxdd …`, or "
                "give --hosts.count 1 to let it work alone"
            )
        if index_name not in environment:
            raise SettingError(
                f"{count_name} is {count}, but {index_name} is not set; start the run by its launcher, or give "
                "--hosts.count 1 to let it work alone"
            )
        coordinator = None
        if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
            coordinator = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        return Job(launcher, count, _number(environment, index_name), coordinator)
    return None


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    value = environment.get(name, default)
    if not value.isdecimal():
        raise SettingError(f"{name} is {value!r}; set it to a number, or unset it")
    return int(value)


def arguments(hosts: Hosts, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Find out what `jax.distributed.initialize` is to be called with; None for a process by itself.

    Args:
        hosts: The settings, which take precedence.
        environment: What the launcher says.

    Raises:
        SettingError: There is a job of several processes, but not all that it takes to join it.
    """
    if hosts.count == 1:
        return None
    given = {name: getattr(hosts, name) for name in ("coordinator", "count", "index")}
    workers = environment.get("TPU_WORKER_HOSTNAMES", "") or environment.get("TPU_PROCESS_ADDRESSES", "")
    if hosts.detect or ("," in workers and not any(value is not None for value in given.values())):
        return {}
    if hosts.index is None and hosts.count is not None and "JOB_COMPLETION_INDEX" in environment:
        given["index"] = _number(environment, "JOB_COMPLETION_INDEX")  # an indexed job of Kubernetes
    job = None if all(value is not None for value in given.values()) else job_of(environment)
    if job is not None:
        known = {"coordinator": job.coordinator, "count": job.count, "index": job.index}
        given = {name: known[name] if value is None else value for name, value in given.items()}
        if given["coordinator"] is None and (
            job.launcher == "Slurm" or (job.launcher == "Open MPI" and "OMPI_MCA_orte_hnp_uri" in environment)
        ):
            return {"num_processes": given["count"], "process_id": given["index"]}  # JAX finds the first one
    if all(value is None for value in given.values()):
        return None
    missing = [f"--hosts.{name}" for name, value in given.items() if value is None]
    if missing:
        known_by = f"{job.launcher} says that there are {job.count} processes" if job else "a job of several processes"
        raise SettingError(
            f"{known_by}, but not all that it takes to join them; give {' and '.join(missing)}, or --hosts.count 1 to "
            "let this process work alone"
        )
    if not 0 <= given["index"] < given["count"]:
        raise SettingError(f"hosts.index is {given['index']} of {given['count']}; count from 0")
    host, _, port = str(given["coordinator"]).rpartition(":")
    if not host or not port.isdecimal():
        raise SettingError(f"hosts.coordinator is {given['coordinator']!r}; give address and port, as in host0:5511")
    return {
        "coordinator_address": given["coordinator"],
        "num_processes": given["count"],
        "process_id": given["index"],
    }


def refuse_many(command: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to do in each process of a job what one does for all.

    Raises:
        SettingError: This process is one of several.
    """
    try:
        job = job_of(environment)
    except SettingError:  # it was not started as one of the job's tasks
        return
    if job is not None:
        raise SettingError(
            f"{job.launcher} started {job.count} processes, and jaxdd {command} is the work of one; start it once"
        )


@contextlib.contextmanager
def joined(hosts: Hosts, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Join the other processes of a job, before the first device is asked for, and leave with them.

    Args:
        hosts: The settings.
        environment: What the launcher says.

    Raises:
        SettingError: They cannot be joined: a setting is missing, or a process is.
        PeerLost: A process ended or cannot be reached any more, and this one noticed before it was ended, too.
        JaxRuntimeError: An error of this process alone, such as too little memory; it is logged first.
    """
    found = arguments(hosts, environment)
    if found is None:
        yield
        return
    alarm = threading.Timer(hosts.start_timeout, _give_up, (hosts.start_timeout, found))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **found,
            # Later than the alarm: at its own timeout JAX ends the process by itself.
            initialization_timeout=hosts.start_timeout + 60,
            heartbeat_timeout_seconds=hosts.heartbeat_timeout,
            shutdown_timeout_seconds=hosts.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise SettingError(f"the job cannot be joined: {str(error).splitlines()[0]}; see --hosts.*") from error
    finally:
        alarm.cancel()
    names = gathered(f"process {jax.process_index()} on {socket.gethostname()}")
    log.info("%d processes: %s", len(names), ", ".join(names))
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if reason.startswith(OWN_FAULTS):
            # Before the others are left, which ends this process where they wait for it.
            log.error("%s: %s", names[jax.process_index()], reason)
            raise
        raise PeerLost(
            f"{names[jax.process_index()]}: another of the {len(names)} processes ended or cannot be reached "
            f"({_lost(names)}; {reason})"
        ) from error
    finally:
        with contextlib.suppress(Exception):  # those that are left know by themselves
            jax.distributed.shutdown()


def _give_up(seconds: int, found: Mapping[str, Any]) -> None:
    """End this process, which waits in code that cannot be interrupted."""
    who = f"process {found['process_id']} of {found['num_processes']}" if "process_id" in found else "this process"
    where = found.get("coordinator_address", "the first process")
    print(
        f"jaxdd: {who} waited {seconds} s, hosts.start_timeout, and the others were not all there; start all of them, "
        f"and see that they reach {where}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _lost(names: list[str]) -> str:
    """Name the processes that gave no sign of life, once that is known."""
    from jax._src.distributed import global_state  # no public way to ask

    client: Any = global_state.client
    try:
        alive = client.get_live_nodes(list(range(len(names))))
    except Exception as error:
        return f"which one is not known: {str(error).splitlines()[0]}"
    lost = [name for index, name in enumerate(names) if index not in alive]
    return f"lost: {', '.join(lost)}" if lost else "all are alive now"
