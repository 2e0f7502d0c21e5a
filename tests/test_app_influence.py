"""The influence command: what it writes is what the library computes, and what it refuses."""

import csv
import dataclasses
import importlib
import json

import numpy as np
import pyarrow.parquet
import pytest

from jaxdd import classification, data, influence, models
from jaxdd.app.command_line import read
from jaxdd.app.config import parse
from jaxdd.app.influence import influence as score
from jaxdd.app.run import run
from jaxdd.core import sampling
from jaxdd.experts import train_experts
from jaxdd.main import main
from jaxdd.report.metrics import read as read_metrics
from jaxdd.report.scores_page import write_scores

FLAGS = (
    "--data.label-noise 0.2 --model mlp --model.width 8 --model.depth 1 --experts.count 2 "
    "--experts.recipe.epochs 8 --experts.recipe.momentum 0.5 --experts.recipe.weight-decay 0.01 "
    "--experts.recipe.lr 0.03 --experts.snapshot-every 4 "
    "--influence.estimator sgd_influence"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("influence")


@pytest.fixture(scope="module")
def flags(folder):
    return [*FLAGS, "--workdir", str(folder / "run"), "--data.data-dir", str(folder)]


@pytest.fixture(scope="module")
def finished(flags, folder):
    """Score through the launcher, with the tables as csv and, from the same experts, as parquet."""
    for table in ("scores.csv", "scores.parquet"):
        assert main(["influence", *flags, "--out", str(folder / table)]) == 0
    return folder


def task_of(command, dataset):
    model = models.build(command.model, dataset.image_shape, dataset.num_classes)
    return classification(model, dataset.num_classes)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def one_of(experts, e):
    return experts._replace(snapshots=experts.snapshots[e : e + 1], final=experts.final[e : e + 1])


def test_the_table_holds_the_scores_of_the_library_ranked(finished, flags):
    command = read(["influence", *flags])
    dataset = data.load(**dataclasses.asdict(command.data))
    task = task_of(command, dataset)
    experts = train_experts(task, dataset, command.experts, seed=command.seed)
    target = sampling.real_set(*dataset.validation, dataset.num_classes, dataset.normalization)
    config = influence.InfluenceConfig("sgd_influence", momentum=0.5, weight_decay=0.01)
    expected = influence.scores(task, dataset.real_set(), target, experts, config)
    rows = rows_of(finished / "scores.csv")
    assert [int(row["rank"]) for row in rows] == list(range(1, len(expected) + 1))
    order = np.array([int(row["index"]) for row in rows])
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected[order], rtol=1e-4, atol=1e-5)
    assert (np.diff([float(row["score"]) for row in rows]) <= 0).all()
    assert [int(row["label"]) for row in rows] == dataset.train.labels[order].tolist()
    assert [row["mislabeled"] == "true" for row in rows] == dataset.mislabeled[order].tolist()
    table = pyarrow.parquet.read_table(finished / "scores.parquet")
    names = ["index", "source_index", "label", "class", "score", "rank", "std", "mislabeled", "true_class"]
    assert table.column_names == list(rows[0]) == names
    whole = data.load("digits", data_dir=command.data.data_dir, validation=0.0).train.images
    source = np.array([int(row["source_index"]) for row in rows])
    np.testing.assert_array_equal(whole[source], dataset.train.images[order])
    each = [influence.scores(task, dataset.real_set(), target, one_of(experts, e), config) for e in range(2)]
    np.testing.assert_allclose([float(row["std"]) for row in rows], np.std(each, 0)[order], rtol=1e-3, atol=1e-4)
    assert table["index"].to_pylist() == order.tolist()


def test_wrong_labels_are_found_and_marked_on_the_page(finished, flags, capsys):
    found = score(read(["influence", *flags, "--out", str(finished / "again.csv")]))
    rows = rows_of(finished / "again.csv")
    wrong = np.array([row["mislabeled"] == "true" for row in rows])
    # The area under the ROC curve by its definition: pairs of a wrong and a right label, in the right order.
    ranks = np.arange(len(rows))
    by_hand = np.mean(ranks[wrong][:, None] > ranks[~wrong][None])
    assert found["auc"] == pytest.approx(by_hand, abs=1e-6) and found["auc"] > 0.8
    page = found["page"].read_text()
    assert f"probability {found['auc']:.3f}" in page and "Most helpful and most harmful of every class" in page
    assert page.count("<img") == 1 + 10 * 20
    truth = data.load(**dataclasses.asdict(read(["influence", *flags]).data) | {"label_noise": 0.0}).train.labels
    lowest = [int(row["index"]) for row in rows[-3:] if row["mislabeled"] == "true"]
    assert lowest and all(f"<figcaption>{index}, truly {truth[index]}</figcaption>" in page for index in lowest)
    shown = {row["index"] for row in rows if f'alt="example {row["index"]},' in page}
    marked = sum(row["mislabeled"] == "true" for row in rows if row["index"] in shown)
    assert page.count('class="wrong"') == marked > 50
    assert score(read(["influence", *flags, "--out", str(finished / "again.csv")]))["page"].read_text() == page


def test_a_place_that_cannot_be_written_to_is_refused_and_no_empty_table_is_left(flags, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="scores.csv cannot be written .* name a file in a folder of yours"):
        score(read(["influence", *flags, "--out", str(tmp_path / "file" / "scores.csv")]))
    monkeypatch.setattr("jaxdd.app.influence.train_experts", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score(read(["influence", *flags, "--out", str(tmp_path / "scores.csv")]))
    assert not (tmp_path / "scores.csv").exists()


def test_experts_that_keep_their_start_are_judged_where_they_were_last_seen(flags, folder, caplog):
    short = [*flags, "--experts.keep", "9", "--experts.recipe.augment", "flip", "--experts.count", "1"]
    found = score(read(["influence", *short, "--workdir", str(folder / "short"), "--influence.stride", "2"]))
    command = read(["influence", *short])
    dataset = data.load(**dataclasses.asdict(command.data))
    task = task_of(command, dataset)
    experts = train_experts(task, dataset, command.experts, seed=command.seed)
    config = influence.InfluenceConfig("sgd_influence", end="last", stride=2, momentum=0.5, weight_decay=0.01)
    expected = influence.scores(task, dataset.real_set(), dataset.validation_set(), experts, config)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-4, atol=1e-6)
    page = found["page"].read_text()
    assert (
        "along 4 snapshots of each of 1 experts" in page
        and "at their last snapshot, without their augmentation" in page
    )
    assert "without their augmentation" in caplog.text
    assert experts.total_time != pytest.approx(experts.time[-1])


def test_files_are_named_in_the_table_and_on_the_page(stripes, tmp_path):
    names = np.array([f"{'+bee' if i == 3 else 'ant'}/{i}.png" for i in range(len(stripes.train.labels))])
    named, scores = dataclasses.replace(stripes, files=names), np.linspace(-1, 1, len(names))
    page = write_scores(tmp_path / "s.csv", scores, named, title="", about="", settings={}).read_text()
    assert [row["file"] for row in rows_of(tmp_path / "s.csv")] == [
        "'+bee/3.png" if i == 3 else names[i] for i in range(len(names))
    ][::-1]
    best = int(np.argmax(scores))
    assert f"{best} {best}.png</figcaption>" in page and "the name of its file" in page


def test_without_known_wrong_labels_nothing_is_said_of_them(stripes, tmp_path):
    scores = np.linspace(-1, 1, len(stripes.train.labels))
    page = write_scores(tmp_path / "s.csv", scores, stripes, title="<t>", about="a & b", settings={}).read_text()
    assert "ROC" not in page and 'class="wrong"' not in page and "&lt;t&gt;" in page and "a &amp; b" in page
    assert "mislabeled" not in (tmp_path / "s.csv").read_text()
    with pytest.raises(ValueError, match="the score of example 0 is nan"):
        write_scores(tmp_path / "t.csv", scores * np.nan, stripes, title="", about="", settings={})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out scores.xlsx", "the table of scores is called scores.xlsx; end its name in .csv or .parquet"),
        ("--data.validation 0", "the validation split is empty; raise data.validation, or choose --target test"),
        ("--target train", "invalid choice 'train'"),
        ("--out report.csv", "its page would replace a run's report.html"),
        ("--experts.keep 3 --influence.end final", "too early to stand for all that follows; judge the last snapshot"),
        ("--experts.keep 1", "experts record one snapshot (experts.keep 1), but tracin reads the way"),
        ("--influence.estimator leave_one_out --influence.stride 2", "set it to 1"),
        ("--influence.estimator endpoint --influence.solver.name explicit", "would have that many rows"),
        ("--influence.stride 0", "influence.stride is 0"),
    ],
)
def test_bad_input_is_refused_before_any_work(flags, message, tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["influence", *flags.split(), "--data.data-dir", str(folder)])
    except SystemExit as leaving:
        status = leaving.code
    assert status == 2 and message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.rglob("experts*"))  # the same command, mended, finds the workdir as it was


def test_a_run_of_iwd_shows_which_labels_it_doubts(tmp_path, folder):
    workdir = tmp_path / "run"
    flags = (
        "--config digits_dm_iwd --data.label-noise 0.3 --model mlp "
        "--model.width 16 --model.depth 1 --method.steps 60 --method.weighting.warm-up 20 --method.real-batch 32 "
        "--evaluate.networks 1 --evaluate.recipe.epochs 5 --evaluate.validate-networks 1 --evaluate.no-full-data "
        "--evaluate.no-random-real"
    ).split()
    run(parse([*flags, "--workdir", str(workdir), "--data.data-dir", str(folder)]))
    inspected = read_metrics(workdir / "metrics.jsonl", "inspect")
    areas = [line["scores, AUC of wrong labels"] for line in inspected]
    assert areas[0] == 0.5 and areas[-1] > 0.6  # before the first step all scores are zero
    assert {"scores, right labels", "scores, wrong"} <= inspected[-1].keys()
    rows = rows_of(workdir / "scores.csv")
    wrong = np.array([row["mislabeled"] == "true" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    assert influence.mislabeled_auc(scores, wrong) == pytest.approx(areas[-1], abs=1e-6)
    assert f"probability {areas[-1]:.3f}" in (workdir / "scores.html").read_text()


def test_idc_is_compared_with_as_many_pixels_as_it_stores(tmp_path, folder, monkeypatch):
    drawn = []
    module = importlib.import_module("jaxdd.evaluation.scores")
    original = module.random_real
    monkeypatch.setattr(module, "random_real", lambda *a: drawn.append(original(*a)) or drawn[-1])
    flags = (
        "--config digits_dc --method.factor 2 --method.network real --method.distance convolution_mse "
        "--model.width 4 --model.depth 1 --method.steps 2 --method.real-batch 4 --method.network-batch 4 "
        "--evaluate.networks 1 --evaluate.recipe.epochs 1 --evaluate.recipe.augment none "
        "--evaluate.validate-networks 1 --evaluate.no-full-data"
    ).split()
    workdir = tmp_path / "run"
    results = run(parse([*flags, "--workdir", str(workdir), "--data.data-dir", str(folder)]))
    images = np.load(workdir / "distilled.npz")["images"]
    assert images.shape[0] == 40 and results["ipc"] == 1
    assert results["stored_pixels"] == 10 * 8 * 8 == drawn[0].images[0].size
    assert json.loads((workdir / "results.json").read_text())["stored_pixels"] == 640
    # Nothing but what is stored is learned: every item is an enlarged patch of 4×4 pixels.
    assert np.linalg.matrix_rank(images.reshape(40, -1)) <= 16
