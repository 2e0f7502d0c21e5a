"""A folder that one process has is refused to others, until that process ends, however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from jaxdd.errors import SettingError
from jaxdd.io.lock import in_use

HOLD = """
import sys, time
from pathlib import Path
from jaxdd.io.lock import in_use

with in_use(Path(sys.argv[1]), "wait"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path):
    path = tmp_path / "folder" / ".lock"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        message = f"folder is in use by process {holder.pid} on .*; choose another"
        with pytest.raises(SettingError, match=message), in_use(path, "choose another"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert holder.returncode == -signal.SIGKILL and path.exists()
    for _ in range(2):  # left by a dead process, and by one that has given it back
        with in_use(path, "choose another"):
            assert f"process {os.getpid()} on " in path.read_text()


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with in_use(tmp_path / ".lock", "wait"):
        assert "cannot be locked" in caplog.text


def test_an_error_in_the_folder_gives_it_back(tmp_path):
    with pytest.raises(ZeroDivisionError), in_use(tmp_path / ".lock", "wait"):
        raise ZeroDivisionError
    with in_use(tmp_path / ".lock", "wait"):
        pass
