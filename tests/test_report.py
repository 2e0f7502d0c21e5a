import base64
import dataclasses
import html
import io
import math
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest
from matplotlib.axes import Axes
from PIL import Image

from jaxdd.core.distilled import Card, Distilled, hard_labels
from jaxdd.core.normalization import ZCA, Standardize
from jaxdd.report import plots
from jaxdd.report.grid import image_grid
from jaxdd.report.metrics import Metrics, histogram
from jaxdd.report.plots import by_step, shares
from jaxdd.report.run_page import entropy, write_report
from jaxdd.report.scores_page import write_scores


def opened(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def where(picture, color):
    """Return the top, bottom, left and right of all pixels of a color, and how many there are."""
    rows, columns = np.nonzero((picture == np.asarray(color)).all(axis=-1))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1, len(rows)


def test_a_row_per_class_in_order(tmp_path):
    colors = np.array([[10 * i + 5, 250 - 20 * i, 100 + i] for i in range(12)])
    classes = np.array([2, 0, 1, 0, 2, 1, 0, 0, 2, 1, 2, 1])
    images = np.broadcast_to(colors[:, None, None, :] / 255, (12, 8, 8, 3))
    image_grid(images, classes, ["a", "b", "c"], tmp_path / "grid.png", title="twelve")
    picture = opened(tmp_path / "grid.png")
    boxes = [where(picture, color) for color in colors]
    for top, bottom, left, right, count in boxes:
        assert (bottom - top, right - left, count) == (48, 48, 48 * 48)  # 8 pixels, six times
    lefts = sorted({box[2] for box in boxes})
    tops = sorted({box[0] for box in boxes})
    assert len(lefts) == 4 and len(tops) == 3
    for c in range(3):
        members = [boxes[i] for i in np.flatnonzero(classes == c)]
        assert [box[0] for box in members] == [tops[c]] * 4
        assert [box[2] for box in members] == lefts
        label = picture[tops[c] : tops[c] + 48, : lefts[0]]
        assert label.min() < 60  # the name


def test_pixels_are_enlarged_without_blur_and_clipped(tmp_path):
    image = np.array([[-3.0, 0.5], [0.25, 7.0]])[None, :, :, None]
    image_grid(image, np.array([0]), [""], tmp_path / "grid.png")
    picture = opened(tmp_path / "grid.png")
    assert set(np.unique(picture)) == {0, 64, 128, 255}
    assert (picture[..., 0] == picture[..., 2]).all()
    top, bottom, left, right, count = where(picture, [0, 0, 0])
    assert count == 24 * 24
    np.testing.assert_array_equal(picture[top:bottom, right : right + 24, 0], 128)
    np.testing.assert_array_equal(picture[bottom : bottom + 24, left:right, 0], 64)


def test_large_images_are_reduced_by_averaging(tmp_path):
    image = np.indices((480, 480)).sum(axis=0)[None, :, :, None] % 2  # a checkerboard whose mean is one half
    image_grid(np.repeat(image, 20, axis=0), np.zeros(20, int), [""], tmp_path / "grid.png")
    picture = opened(tmp_path / "grid.png")
    assert picture.shape[1] < 2600
    values, counts = np.unique(picture, return_counts=True)
    assert set(values[counts > 1000]) <= {127, 128, 255}


def test_many_classes_with_few_images_stand_in_columns(tmp_path):
    path = tmp_path / "grid.png"
    names = [f"class {c}" for c in range(100)]
    colors = np.array([[5 + 2 * c, 250 - 2 * c, 40] for c in range(100)])
    image_grid(np.broadcast_to(colors[:, None, None, :] / 255, (100, 8, 8, 3)), np.arange(100), names, path)
    picture = opened(path)
    assert 0.8 < picture.shape[1] / picture.shape[0] < 2.5
    places = [(box[2], box[0]) for box in (where(picture, color) for color in colors)]  # left, top
    assert places == sorted(places) and len(set(places)) == 100  # down the first column, then the next
    assert len({left for left, _ in places}) > 1


def test_names_and_values_of_any_kind_are_drawn(tmp_path):
    images = np.full((2, 8, 6, 3), np.nan)
    image_grid(images, np.array([1, 1]), ["$x_{", "größe " * 20, "empty"], tmp_path / "grid.png")
    assert where(opened(tmp_path / "grid.png"), [0, 0, 0])[4] >= 2 * 48 * 36


def test_the_grid_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 1\) and \(3,\)"):
        image_grid(np.zeros((2, 8, 8, 1)), np.zeros(3, int), ["a"], tmp_path / "grid.png")
    with pytest.raises(ValueError, match="classes run from 0 to 4, with 2 class names"):
        image_grid(np.zeros((2, 8, 8, 1)), np.array([0, 4]), ["a", "b"], tmp_path / "grid.png")


def accuracy(*runs):
    return {"mean": float(np.mean(runs)), "std": float(np.std(runs)), "runs": list(runs)}


def a_run(label_kind="hard", normalization=Standardize, names=("cat", "dog", "eel"), ipc=2, size=8):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(names) * ipc, size, size, 3), dtype=np.uint8)
    fitted = normalization.fit(rng.integers(0, 256, (50, size, size, 3), dtype=np.uint8))
    classes = np.repeat(np.arange(len(names)), ipc)
    labels = hard_labels(classes, len(names))
    if label_kind != "hard":
        labels = labels / 50 + jax.random.normal(jax.random.key(0), labels.shape) / 10
    card = Card("pets", names, label_kind, fitted, {"epochs": 300, "momentum": 0.9}, {"method": "dm", "step": 30})
    return pixels, Distilled(fitted(pixels), labels, jnp.asarray(0.01)), card


RESULTS = {
    "dataset": "pets",
    "method": "dm",
    "ipc": 2,
    "distilled": accuracy(0.60, 0.65, 0.70),
    "random_real": accuracy(0.40, 0.45),
    "full_data": accuracy(0.80, 0.82),
    "selected_on": "validation",
    "steps": 40,
    "seconds": {"experts": 3725.0, "distill": 65.0, "evaluate": 3.21},
    "versions": {"jax": "0.10.2"},
}


class Page(HTMLParser):
    """What a browser would see: words, images, code, and everything that it would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.words, self.images, self.code, self.fetched, self.open = [], {}, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images[attributes["alt"]] = attributes["src"]
        if tag in ("script", "link", "iframe") or "href" in attributes:
            self.fetched.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] == "pre":
            self.code.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(tmp_path, distilled, card, results=RESULTS, config=None, **options):
    options = {"metrics_path": None, **options}
    path = write_report(tmp_path, distilled=distilled, card=card, results=results, config=config or {}, **options)
    assert path == tmp_path / "report.html"
    assert path.stat().st_size < 2_000_000
    text = path.read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text
    page = Page(text)
    assert page.open == [] and page.fetched == []
    for source in page.images.values():
        assert source.startswith("data:image/png;base64,")
        Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))).verify()
    return page


def test_the_page_tells_the_result(tmp_path):
    _, distilled, card = a_run()
    page = page_of(tmp_path, distilled, card, evaluate_command="evaluate --set 'distilled.npz'")
    assert "pets · dm · 2 images per class" in page.text
    # by hand: the deviations of 60, 65, 70 from 65 are 5, 0, 5, so their root mean square is 4.08
    for words in ("65.0 ± 4.1", "60.0 65.0 70.0", "42.5 ± 2.5", "81.0 ± 1.0", "+22.5 points", "80 % of the accuracy"):
        assert words in page.text
    for words in ("1 h 02 min", "1 min 05 s", "3.2 s", "0.10.2", "epochs 300", "selected on validation", "hard labels"):
        assert words in page.text.replace("  ", " ")
    assert "evaluate --set 'distilled.npz'" in page.code
    assert list(page.images) == ["Images of the distilled set"]
    assert "python -m jaxdd.main evaluate distilled.npz" in page_of(tmp_path, distilled, card).code


def test_a_distillation_in_vain_is_reported(tmp_path):
    _, distilled, card = a_run()
    vain = "Distillation never improved on the first set"
    assert vain in page_of(tmp_path, distilled, card, RESULTS | {"selected_step": 0}).text
    assert vain not in page_of(tmp_path, distilled, card, RESULTS | {"selected_step": 10}).text
    assert vain not in page_of(tmp_path, distilled, card, RESULTS | {"selected_step": 0, "steps": 0}).text  # a coreset


def test_the_caption_counts_the_columns_of_the_grid(tmp_path):
    few, many = (a_run(names=tuple(f"class {c}" for c in range(count)), ipc=1) for count in (2, 40))
    assert "One row per class, normalization undone" in page_of(tmp_path, *few[1:]).text
    assert re.search(r"One row per class, the classes in \d+ columns", page_of(tmp_path, *many[1:]).text)


@pytest.mark.parametrize("missing", [None, "absent"])
def test_the_page_does_without_the_comparisons(tmp_path, missing):
    _, distilled, card = a_run()
    results = {key: value for key, value in RESULTS.items() if key not in ("random_real", "full_data", "seconds")}
    if missing is None:
        results |= {"random_real": None, "full_data": None, "seconds": None}
    page = page_of(tmp_path, distilled, card, results)
    assert "65.0 ± 4.1" in page.text
    assert "Random real" not in page.text and "points against" not in page.text


def test_the_page_draws_every_scalar(tmp_path):
    _, distilled, card = a_run("logits")
    with Metrics(tmp_path) as run:
        for step in range(50):
            run.write(
                step, "distill", loss=1 / (1 + step), lr=0.01, norm=math.nan if step % 5 == 0 else 1.0, bad=math.inf
            )
        run.write(40, "validate", accuracy=0.5)
        for expert in range(3):
            run.write(0, "experts", train_loss=2.0 + expert)
        for step in (0, 10, 50):
            run.write(step, "inspect", W=np.linspace(1, 1 + step, 30), same=np.ones(3), lost=np.full(2, np.nan))
    page = page_of(
        tmp_path,
        distilled,
        card,
        metrics_path=tmp_path / "metrics.jsonl",
        histograms={"weights": np.array([1, np.nan])},
    )
    assert set(page.images) == {
        "Images of the distilled set",
        "loss against step",
        "learning rate against step",
        "norm against step",
        "accuracy against step",
        "training loss against step",
        "Histogram of W against step",
        "Histogram of same against step",
        "Histogram of lost against step",
        "Histogram: weights",
        "Histogram: entropy of the labels, nats",
    }
    assert "10 of 50 values are not finite" in page.text
    assert "bad: 50 of 50 values are not finite" in page.text
    assert "1 of 2 values are not finite" in page.text
    assert page.text.index("Distillation") < page.text.index("Validation") < page.text.index("Inspection")
    assert page.text.index("Inspection") < page.text.index("Experts")


def test_accuracies_are_drawn_in_percent_and_axes_are_labeled(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.page, "figure", lambda png, *_, **__: drawn.append(png) or "")
    labels, lines = [], []
    monkeypatch.setattr(Axes, "set_xlabel", lambda self, text, **_: labels.append(text))
    monkeypatch.setattr(Axes, "set_ylabel", lambda self, text, **_: labels.append(text))
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **_: lines.append(list(y)))
    plots.curve("accuracy", [{"step": 0, "accuracy": 0.25}, {"step": 5, "accuracy": 0.5}], None)
    plots.curve("image_gradient", [{"step": 0, "image_gradient": 1.0}, {"step": 5, "image_gradient": 1e3}], None)
    plots.histogram("weights", np.arange(3))
    assert lines == [[25, 50], [1, 1000]] and len(drawn) == 3
    assert labels == ["step", "accuracy, %", "step", "gradient norm, log scale", "value", "count"]


def test_the_images_before_the_first_step_are_shown_too(tmp_path):
    _, distilled, card = a_run("hard")
    first = distilled._replace(inputs=-distilled.images)
    page = page_of(tmp_path, distilled, card, first=first)
    before, after = (page.images[alt] for alt in ("Images before the first step", "Images of the distilled set"))
    assert before != after
    (tmp_path / "other").mkdir()
    assert page_of(tmp_path / "other", first, card).images["Images of the distilled set"] == before


def test_the_curve_on_validation_is_seen_against_random_and_full_data(tmp_path, monkeypatch):
    _, distilled, card = a_run("hard")
    with Metrics(tmp_path) as run:
        run.write(0, "distill", accuracy=0.1)
        run.write(0, "validate", accuracy=0.5)
    lines = []
    monkeypatch.setattr(Axes, "axhline", lambda self, y, label, **_: lines.append((y, label)))
    monkeypatch.setattr(Axes, "legend", lambda *_, **__: None)
    page = page_of(tmp_path, distilled, card, metrics_path=tmp_path / "metrics.jsonl")
    means = [100 * RESULTS[name]["mean"] for name in ("random_real", "full_data")]
    assert lines == [(pytest.approx(means[0]), "random real, test"), (pytest.approx(means[1]), "full data, test")]
    assert "horizontal lines are on the test split" in page.text


def test_histograms_over_steps_share_their_bins():
    counted = [histogram(np.array(values)) for values in ([0.0, 1.0, 1.0, 1.0], [0.0, 2.0])]
    edges, parts = shares(counted)
    assert (edges[0], edges[-1], parts.shape) == (0, 2, (2, len(edges) - 1))
    np.testing.assert_allclose(parts.sum(1), 1)
    low, high = np.searchsorted(edges, [0.05, 1.04])
    np.testing.assert_allclose([parts[0, :low].sum(), parts[0, low:high].sum()], [0.25, 0.75])
    np.testing.assert_allclose([parts[1, :low].sum(), parts[1, high:].sum()], [0.5, 0.5])


def test_curves_average_the_experts_of_a_step():
    steps, mean, low, high = by_step(np.array([3.0, 1, 3, 3, 0]), np.array([1.0, 5, 2, 6, 4]))
    np.testing.assert_array_equal(steps, [0, 1, 3])
    np.testing.assert_array_equal(mean, [4, 5, 3])
    np.testing.assert_array_equal(low, [4, 5, 1])
    np.testing.assert_array_equal(high, [4, 5, 6])


def test_entropy_of_known_labels():
    labels = jnp.concatenate([jnp.zeros((1, 4)), hard_labels(np.array([2]), 4), jnp.log(jnp.array([[0.5, 0.5, 0, 0]]))])
    found = entropy(Distilled(jnp.zeros((3, 1, 1, 1)), labels, jnp.asarray(0.1)))
    np.testing.assert_allclose(found, [math.log(4), 0, math.log(2)], atol=1e-6)


@pytest.mark.parametrize("normalization", [Standardize, ZCA])
@pytest.mark.parametrize("label_kind", ["hard", "logits", "probabilities"])
def test_the_code_on_the_page_runs(tmp_path, monkeypatch, label_kind, normalization):
    pixels, distilled, card = a_run(label_kind, normalization)
    distilled.save(tmp_path / "distilled.npz", card)
    page = page_of(tmp_path, distilled, card)
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec(page.code[0], seen)
    seen["file"].close()
    np.testing.assert_allclose(seen["pictures"], pixels / 255, atol=1e-4)
    assert seen["names"].tolist() == ["cat", "cat", "dog", "dog", "eel", "eel"]
    if label_kind == "logits":
        np.testing.assert_allclose(seen["targets"], distilled.targets, atol=1e-6)


def test_nothing_in_a_run_can_inject_into_the_page(tmp_path):
    attack = "<script>alert(1)</script><b>&\"'</b>"
    _, distilled, card = a_run()
    card = Card(attack, (attack,) * 3, "hard", card.normalization, {attack: attack}, {"note": attack})
    with Metrics(tmp_path) as run:
        run.write(0, "other", **{attack: 1.0, "always lost": math.nan})
    results = RESULTS | {"dataset": attack, "method": attack, "selected_on": attack, "versions": {attack: attack}}
    page = page_of(
        tmp_path,
        distilled,
        card,
        results,
        {"name": attack},
        metrics_path=tmp_path / "metrics.jsonl",
        histograms={attack: np.arange(3)},
        evaluate_command=attack,
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>" not in text
    assert html.escape(attack) in text
    assert attack in page.text


def test_a_setting_without_a_form_in_json_does_not_cost_the_page(tmp_path):
    _, distilled, card = a_run()
    page = page_of(tmp_path, distilled, card, config={"lr": float("inf"), "model": io.BytesIO})
    assert "class '_io.BytesIO'" in page.text and "Infinity" in page.text


def test_a_large_set_makes_a_small_page(tmp_path):
    names = tuple(f"class {c}" for c in range(100))
    _, distilled, card = a_run(names=names, ipc=20, size=32)  # noise: 6 MB that no PNG can compress
    page = page_of(tmp_path, distilled, card, metrics_path=tmp_path / "absent.jsonl")
    assert "the first 2 of up to 20 images of each" in page.text


def test_names_in_a_csv_are_no_formulas(stripes, tmp_path):
    dataset = dataclasses.replace(stripes, class_names=("=cmd|calc!A1", "@sum", "plain"))
    for kind in (".csv", ".parquet"):
        path = tmp_path / f"scores{kind}"
        write_scores(path, np.zeros(len(dataset.train.labels)), dataset, title="t", about="a", settings={})
    first = {line.split(",")[3].strip('"') for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]}
    assert first == {"'=cmd|calc!A1", "'@sum", "plain"}
    assert set(pyarrow.parquet.read_table(tmp_path / "scores.parquet")["class"].to_pylist()) == set(dataset.class_names)
