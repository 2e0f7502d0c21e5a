"""The launcher: exit statuses and messages, on the standard error and without a traceback."""

import importlib
import os
import runpy
import sys

import pytest

import jaxdd
from jaxdd.app.config import METHODS, PRESETS
from jaxdd.driver import Interrupted
from jaxdd.main import main, print_scores


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
        ("--method.ipc 0", "method.ipc is 0; distill to at least 1 image per class"),
        ("--method.real-batch 0", "method.real_batch is 0"),
        ("--method.batch 0", "method.batch is 0; give at least 1 distilled item"),
        ("--experts.recipe.batch 0", "batch is 0; a training recipe needs a positive one"),
        ("--evaluate.recipe.augment zoom", "unknown operation 'zoom'"),
        ("--method.augment flip_zoom", "unknown operation 'zoom'"),
        ("--method.cache 512 --method.augment flip", "leave one of them out"),
        ("--method.window.start 4 --method.window.end 2", "0 <= first < start <= end"),
        ("--method.image-optimizer.lr -1", "needs lr >= 0"),
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
        (ValueError("no such thing"), 2, "jaxdd: no such thing"),
        (FloatingPointError("step 3 of mtt is not finite"), 2, "jaxdd: step 3 of mtt is not finite"),
        (PermissionError(13, "Permission denied", "/there"), 2, "jaxdd: [Errno 13] Permission denied: '/there'"),
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


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(config):
        raise TypeError("not the user's fault")

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(importlib.import_module("jaxdd.app.run"), "run", fail)
    with pytest.raises(TypeError):
        main([])


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_asked_of_xla_before_the_first_device(deterministic, launch, monkeypatch):
    seen = []

    def look(config):
        seen.append(os.environ["XLA_FLAGS"])
        return {"distilled": {"mean": 0.5, "std": 0.0, "runs": [0.5]}}

    monkeypatch.setattr(importlib.import_module("jaxdd.app.run"), "run", look)
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    assert launch("--deterministic" if deterministic else "--no-deterministic")[0] == 0
    assert seen == ["--xla_one=1" + " --xla_gpu_deterministic_ops=true" * deterministic]


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


def test_the_list_has_every_method_preset_and_kind_of_data_in_a_line_each(launch):
    status, out, _ = launch("list")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert status == 0 and set(lines) == {*METHODS, *PRESETS, "digits", "folder:PATH", "NAME"}
    assert "MTT on CIFAR-10, 1, 10 or 50 images per class" in lines["cifar10_mtt"]
    assert all(len(line.split()) > 4 for line in lines.values())


def test_scores_are_printed_in_per_cent(capsys):
    print_scores({"distilled": {"mean": 0.8952, "std": 0.0112, "runs": [0.9, 0.8]}, "full_data": None})
    assert capsys.readouterr().out == "distilled     89.5 ± 1.1 %  (2 networks)\n"
