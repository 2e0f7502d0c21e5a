"""The page of results is what the file of results says."""

import re
import shlex

import pytest

from jaxdd import Config
from jaxdd.app.command_line import read
from tests.benchmarks import results

ROWS = results.rows()


def test_the_page_is_written_from_the_results():
    assert results.PAGE.read_text() == results.page(ROWS), "run python -m tests.benchmarks.results"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['group']} {row['method']} {row['data']} {row['ipc']}")
def test_a_result_says_how_it_came_about(row):
    assert row["group"] in results.GROUPS and row["data"] in results.NAMES
    assert 0 < row["mean"] < 100 and row["std"] >= 0 and row["networks"] >= 1
    assert re.fullmatch("[0-9a-f]{7,40}", row["commit"]) and row["device"] and row["versions"]["jax"]
    assert row["method"] in ("random real", "full data") or row["command"].startswith(
        ("jaxdd ", "python -m tests.bench")
    )
    assert "seed" in row or row["group"] != "cifar10"
    if "runs" in row:
        assert len(row["runs"]) == row["networks"]
        assert row["mean"] == pytest.approx(sum(row["runs"]) / len(row["runs"]), abs=0.11)


def test_the_command_of_a_run_is_still_one():
    commands = {row["command"]: row for row in ROWS if row.get("command", "").startswith("jaxdd --")}
    for command, row in commands.items():
        config = read(shlex.split(command)[1:])
        assert isinstance(config, Config)
        if row["group"] == "cifar10":
            assert (config.data.name, config.method.ipc, config.seed) == (row["data"], row["ipc"], row["seed"]), command


def test_the_front_page_tells_results_of_the_file():
    readme = (results.FOLDER.parent / "README.md").read_text()
    assert len(readme.encode()) <= 8192
    told = {results.accuracy(row) for row in ROWS}
    said = re.findall(r"[\d.]+ ± [\d.]+", readme)
    assert len(said) >= 8 and {*said} <= told


def test_a_run_is_added(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    score = {"mean": 0.4409, "std": 0.0031, "runs": [0.4378, 0.444]}
    versions = dict.fromkeys(("jax", "flax", "optax", "python"), "1") | {"device": "a device"}
    seconds = {"distill": 100.4, "experts": 20.0, "evaluate": 5.0}
    record = {"dataset": "cifar10", "ipc": 1, "distilled": score, "versions": versions, "seconds": seconds}
    (tmp_path / "run" / "results.json").write_text(results.json.dumps(record))
    (tmp_path / "run" / "config.json").write_text('{"seed": 3}')
    (tmp_path / "run" / "metrics.jsonl").write_text(
        '{"step": 0, "stage": "validate", "time": 1.0, "accuracy": 0.2}\n'
        '{"step": 5, "stage": "distill", "time": 1.0, "loss": 0.2}\n'
        '{"step": 50, "stage": "validate", "time": 2.0, "accuracy": 0.41}\n'
    )
    for name in ("RESULTS", "PAGE"):
        path = tmp_path / getattr(results, name).name
        monkeypatch.setattr(results, name, path)
    (tmp_path / "results.jsonl").write_text("")
    command = "jaxdd --config cifar10_mtt:ipc=1"
    flags = ["add", str(tmp_path / "run"), "--group", "cifar10", "--method", "MTT", "--published", "46.3"]
    monkeypatch.setattr(
        "sys.argv", ["results", *flags, "--command", command, "--note", "shorter", "--commit", "abcdef1"]
    )
    results.main()
    [row] = results.rows()
    assert row == {
        "group": "cifar10",
        "method": "MTT",
        "data": "cifar10",
        "ipc": 1,
        "mean": 44.1,
        "std": 0.3,
        "networks": 2,
        "runs": [43.8, 44.4],
        "seed": 3,
        "commit": "abcdef1",
        "device": "a device",
        "versions": dict.fromkeys(("jax", "flax", "optax", "python"), "1"),
        "seconds": 120,
        "curve": {"0": 20.0, "50": 41.0},
        "command": command,
        "published": 46.3,
        "note": "shorter",
    }
    line = (tmp_path / "README.md").read_text().splitlines()[-1]
    assert line == f"| MTT | 1 | 46.3 | 44.1 ± 0.3 | 2.0 min | a device | shorter | `{command}` |"


def test_a_table_is_added(tmp_path, monkeypatch):
    versions = dict.fromkeys(("jax", "flax", "optax", "python"), "1") | {"device": "a device"}
    row = {"name": "digits_mtt", "labels": "teacher", "per_class": 1}
    cell = {"row": row, "network": "vgg11:width=16", "accuracy": {"mean": 0.5, "std": 0.25, "runs": [0.25, 0.75]}}
    table = {"dataset": "digits", "cells": [cell], "versions": versions}
    (tmp_path / "table.json").write_text(results.json.dumps(table))
    (tmp_path / "results.jsonl").write_text("")
    for name in ("RESULTS", "PAGE"):
        monkeypatch.setattr(results, name, tmp_path / getattr(results, name).name)
    command = "jaxdd evaluate runs/digits_mtt/distilled.npz --labels teacher --model vgg11:width=16"
    monkeypatch.setattr("sys.argv", ["results", "table", str(tmp_path), "--commit", "abcdef1", "--command", command])
    results.main()
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[-3:] == [
        "| method | digits, vgg11 |",
        "| --- | --- |",
        "| mtt, teacher labels | 50.0 ± 25.0 |",
    ]
