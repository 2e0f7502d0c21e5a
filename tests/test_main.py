"""The launcher: exit statuses and messages, on the standard error and without a traceback."""

import contextlib
import errno
import importlib
import os
import runpy
import subprocess
import sys

import pytest

import jaxdd
from jaxdd.app.config import METHODS, PRESETS
from jaxdd.app.labeled import lines
from jaxdd.errors import Diverged, Interrupted, SettingError
from jaxdd.main import main
from jaxdd.models import MODELS


@pytest.fixture
def launch(capsys, monkeypatch, tmp_path):
    """Call the launcher in an empty folder: exit status, standard output, standard error on one line."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.chdir(tmp_path)

    def launch(*arguments):
        try:
            status = main([*arguments])
        except SystemExit as leaving:
            status = leaving.code
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return status, output.out, " ".join(output.err.replace("│", " ").split())

    return launch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--method.ipc 150", "jaxdd: cannot draw 150 examples per class"),
        ("--method.window.start 999", "(experts.recipe.epochs) with experts.keep of 999 or more will do"),
        ("--data.name digitz", "jaxdd: unknown dataset 'digitz'"),
        ("--nonsense 3", "Unrecognized options: --nonsense"),
        ("--method.nonsense 3", "Unrecognized options: --method.nonsense"),
        ("--method.ipc two", "Error parsing --method.ipc"),
        ("--method.ipc 1.5", "Error parsing --method.ipc"),
        ("--method.labels fuzzy", "invalid choice 'fuzzy' for argument '--method.labels'"),
        ("--method.ipc 0", "method.ipc is 0; give 1 or more"),
        ("--method.real-batch 0", "method.real_batch is 0"),
        ("--method.batch 0", "method.batch is 0; give 1 or more, or leave it out"),
        ("--experts.recipe.batch 0", "experts.recipe.batch is 0; give 1 or more"),
        ("--evaluate.recipe.augment zoom", "unknown operation 'zoom'"),
        ("--method.augment flip_zoom", "unknown operation 'zoom'"),
        ("--method.cache 512 --method.augment flip", "leave one of them out"),
        ("--method.window.start 4 --method.window.end 2", "0 <= first < start <= end"),
        ("--method.image-optimizer.lr -1", "method.image_optimizer.lr is -1.0; give 0 or more"),
        ("--evaluate.networks 0", "evaluate.networks is 0; give 1 or more"),
        ("--experts.count 0", "experts.count is 0; give 1 or more"),
        ("--config missing.py", "jaxdd: --config missing.py: no such file"),
        ("--config", "Missing value for argument '--config'"),
        ("--method mt", "invalid choice 'mt' for argument '--method'"),
        ("evalute x.npz", "Unrecognized options: evalute, x.npz"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, message, launch, tmp_path):
    status, out, err = launch(*arguments.split())
    assert status == 2 and message in err and out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (SettingError("no such thing"), 2, "jaxdd: no such thing"),
        (Diverged("step 3 of mtt is not finite"), 2, "jaxdd: step 3 of mtt is not finite"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/there"),
            2,
            "jaxdd: /there: Permission denied; choose a place that you may read and write, or change its permissions",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/full/x"),
            2,
            "jaxdd: /full/x: No space left on device; make room and run the same command again: what was computed is "
            "kept",
        ),
        (OSError(errno.EIO, "Input/output error", "/there"), 2, "jaxdd: /there: Input/output error"),
        (OSError("something odd"), 2, "jaxdd: something odd"),
        (
            Interrupted("distillation stopped after step 5 of 9"),
            130,
            "jaxdd: distillation stopped after step 5 of 9; everything up to here is saved. "
            "Continue with: jaxdd --workdir 'a folder'",
        ),
        (KeyboardInterrupt(), 130, "jaxdd: stopped at once. Continue with: jaxdd --workdir 'a folder'"),
    ],
)
def test_what_ends_a_run_sets_the_exit_status(error, status, message, launch, monkeypatch):
    def fail(config):
        assert config.workdir == "a folder"
        raise error

    monkeypatch.setattr(importlib.import_module("jaxdd.app.run"), "run", fail)
    assert launch("--workdir", "a folder") == (status, "", message)


@pytest.mark.parametrize("bug", [TypeError, ValueError, FloatingPointError, KeyError])
def test_a_bug_keeps_its_traceback(bug, monkeypatch):
    def fail(config):
        raise bug("not the user's fault")

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(importlib.import_module("jaxdd.app.run"), "run", fail)
    with pytest.raises(bug, match="not the user's fault"):
        main([])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "import jaxdd\n\ndef helper():\n    return 1 / 0\n\n\ndef get_config():\n    return helper()\n",
            "own.py:4 `return 1 / 0` with ZeroDivisionError: division by zero",
        ),
        ("import jaxdd\nx = jaxdd.Config(nonsense=3)\n", "own.py:2 `x = jaxdd.Config(nonsense=3)` with TypeError: "),
        ("import json\njson.loads('x')\n", "own.py:2 `json.loads('x')` with JSONDecodeError: "),
        ("x = = 3\n", "own.py:1 `x = = 3` with SyntaxError: "),
        ("import nonsense\n", "own.py:1 `import nonsense` with ModuleNotFoundError: No module named 'nonsense'"),
    ],
)
def test_a_failing_config_file_shows_its_own_line(content, message, launch, tmp_path):
    (tmp_path / "own.py").write_text(content)
    status, out, err = launch("--config", "own.py")
    assert status == 2 and out == ""
    assert err.startswith(f"jaxdd: --config own.py fails at {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workdir file", "jaxdd: file: File exists; a file stands where a folder is needed"),
        ("--workdir file/below", "jaxdd: file/below: Not a directory; a file stands where a folder is needed"),
        ("--workdir /proc/run", "jaxdd: /proc/run: No such file or directory; check the path"),
        ("--workdir " + 300 * "x", "x: File name too long; choose a shorter name"),
        ("evaluate .", "jaxdd: . looks like no distilled set; jaxdd.formats.read"),
    ],
)
def test_an_error_of_the_system_names_the_path_and_the_remedy(arguments, message, launch, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = launch(*arguments.split())
    assert status == 2 and message in err and out == ""


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_asked_of_xla_before_a_job_is_joined_and_the_first_device(deterministic, launch, monkeypatch):
    seen = []

    def joined(hosts):
        seen.append(os.environ["XLA_FLAGS"])
        return contextlib.nullcontext()

    def look(config):
        seen.append(os.environ["XLA_FLAGS"])
        return {"distilled": {"mean": 0.5, "std": 0.0, "runs": [0.5]}}

    monkeypatch.setattr(importlib.import_module("jaxdd.app.hosts"), "joined", joined)
    monkeypatch.setattr(importlib.import_module("jaxdd.app.run"), "run", look)
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    assert launch("--deterministic" if deterministic else "--no-deterministic")[0] == 0
    assert seen == 2 * ["--xla_one=1" + " --xla_gpu_deterministic_ops=true" * deterministic]


def test_a_rehearsal_is_refused_by_its_name_in_a_job_of_several(launch, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host0", "MASTER_PORT": "5511"}.items():
        monkeypatch.setenv(name, value)
    status, _, err = launch("--dry-run")
    assert status == 2 and "torchrun started 2 processes, and jaxdd --dry-run is the work of one; start it once" in err


@pytest.mark.parametrize("module", ["jaxdd", "jaxdd.main"])
def test_python_m_is_the_same_command(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["jaxdd", "--version"])
    monkeypatch.delitem(sys.modules, "jaxdd.main")
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module(module, run_name="__main__")
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"jaxdd {jaxdd.__version__}\n"


def test_help_names_the_commands(launch):
    status, out, _ = launch("--help")
    assert status == 0 and all(f"• {name} " in out for name in ("run", "evaluate", "influence", "list"))
    assert "jaxdd --version" in out


def test_the_list_has_every_method_preset_network_and_kind_of_data_in_a_line_each(launch):
    status, out, _ = launch("list")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    kinds = {"digits", "folder:PATH", "pairs:PATH", "NAME"}
    assert status == 0 and set(lines) == {*METHODS, *PRESETS, *MODELS, *kinds, *jaxdd.zoo.FILES}
    assert "MTT on CIFAR-10, 1, 10 or 50 images per class" in lines["cifar10_mtt"]
    assert lines["cifar10_dc"].endswith(" [ipc=10, method=dc|dsa, budget=full|cpu]")
    assert all(len(line.split()) > 2 for line in lines.values())


def test_scores_are_printed_in_per_cent(capsys):
    print(lines({"distilled": {"mean": 0.8952, "std": 0.0112, "runs": [0.9, 0.8]}, "full_data": None}))
    assert capsys.readouterr().out == "distilled     89.5 ± 1.1 %  (2 networks)\n"


@pytest.mark.parametrize(("given", "kept"), [("here", True), ("none", False)])
def test_compiled_programs_are_kept_for_the_next_start(given, kept, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    folder = str(tmp_path / given) if kept else given
    flags = "--method coresets --model mlp --evaluate.networks 1 --evaluate.no-full-data --evaluate.recipe.epochs 50"
    command = [sys.executable, "-m", "jaxdd", *flags.split(), "--cache-dir", folder, "--workdir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / given).exists() == kept and (not kept or any((tmp_path / given).iterdir()))
