"""Several finished runs on one page."""

import json

import numpy as np
import pytest

from jaxdd import Card, Distilled
from jaxdd.core.distilled import hard_labels
from jaxdd.core.normalization import Standardize
from jaxdd.main import main
from jaxdd.report import plots
from jaxdd.report.compare_page import COLUMNS, row
from jaxdd.report.metrics import Metrics


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of one dataset, as far as a comparison reads them."""
    rng = np.random.default_rng(0)
    card = Card("digits", ("a", "b"), "hard", Standardize(np.zeros(1, np.float32), np.ones(1, np.float32)))
    for name, mean, seconds in (("dc", 0.25, 30.0), ("mtt & more", 0.5, 90.0)):
        workdir = tmp_path / name
        workdir.mkdir()
        images = rng.random((2, 4, 4, 1), np.float32)
        Distilled(images, hard_labels(np.arange(2), 2), np.float32(0.01)).save(workdir / "distilled.npz", card)
        score = {"mean": mean, "std": 0.01, "runs": [mean, mean]}
        results = {"dataset": "digits", "method": name, "ipc": 1, "distilled": score, "random_real": None}
        (workdir / "results.json").write_text(json.dumps({**results, "seconds": {"distill": seconds}}))
        with Metrics(workdir) as metrics:
            metrics.write(0, "validate", accuracy=0.1)
            metrics.write(10, "validate", accuracy=mean)
    return tmp_path


def test_runs_stand_side_by_side(runs, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plots, "compared_curves", lambda name, found: drawn.append((name, found)) or "")
    out = runs / "new" / "page.html"
    assert main(["compare", str(runs / "dc"), str(runs / "mtt & more"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"page: {out}\n"
    page = out.read_text()
    for head in COLUMNS:
        assert f"<th>{head}</th>" in page
    assert "<td>25.0 ± 1.0</td>" in page and "<td>50.0 ± 1.0</td>" in page and "<td>1.5 min</td>" in page
    assert "mtt &amp; more" in page and "mtt & more" not in page and page.count('<figure class="grid">') == 2
    [(name, curves)] = drawn
    assert name == "accuracy" and {run: [r["accuracy"] for r in found] for run, found in curves.items()} == {
        "dc": [0.1, 0.25],
        "mtt & more": [0.1, 0.5],
    }


def test_curves_of_runs_share_their_axes(runs):
    records = {"a": [{"step": 0, "accuracy": 0.1}, {"step": 5, "accuracy": 0.2}], "none": [{"step": 0, "loss": 1.0}]}
    assert plots.compared_curves("accuracy", records).count("data:image/png") == 1


def test_a_row_is_of_a_run():
    score = {"mean": 0.5, "std": 0.1, "runs": [0.5]}
    results = {
        "dataset": "d",
        "method": "m",
        "ipc": 10,
        "distilled": score,
        "full_data": score,
        "seconds": {"distill": 5},
    }
    assert row("r", results) == ["r", "d", "m", "10", "50.0", "–", "50.0", "5 s"]


@pytest.mark.parametrize(
    ("words", "damage", "message"),
    [
        ([], None, "compare needs finished runs: jaxdd compare runs/digits_dc runs/digits_mtt"),
        (["nothing"], None, "nothing holds no finished run: results.json is missing"),
        (["dc"], "not json", "results.json is damaged"),
        (["dc"], '{"dataset": "digits"}', "results.json is damaged"),
    ],
)
def test_what_cannot_be_compared_is_named(runs, words, damage, message, capsys):
    if damage:
        (runs / "dc" / "results.json").write_text(damage)
    assert main(["compare", *(str(runs / word) for word in words)]) == 2
    assert message in capsys.readouterr().err
