import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd.core import distilled as distilled_module
from jaxdd.core.distilled import Card, Distilled, hard_labels
from jaxdd.core.normalization import ZCA, Standardize
from jaxdd.formats import how_to_use, markdown, write
from jaxdd.formats.hub import license_of

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
NAMES = ("cat", "dog", "größe")


def a_set(kind="hard", zca=False, lr=0.1, dataset="cifar10"):
    normalization = (ZCA if zca else Standardize).fit(PICTURES)
    labels = hard_labels(np.array([0, 1, 2]), 3)
    labels = labels if kind == "hard" else jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
    about = {"epochs": 300, "lr": 0.1}, {"config": {"method": {"name": "mtt"}}}
    return Distilled(normalization(PICTURES[:3]), labels, jnp.float32(lr)), Card(
        dataset, NAMES, kind, normalization, *about
    )


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize(
    ("kind", "file"), [*((kind, "a.npz") for kind in ("hard", "logits", "probabilities")), ("logits", "a.pt")]
)
def test_the_code_in_a_card_does_what_it_says(tmp_path, monkeypatch, kind, file, zca):
    monkeypatch.chdir(tmp_path)
    distilled, card = a_set(kind, zca)
    write(file, distilled, card)
    text = markdown(distilled, card, file=file)
    [code] = re.findall("```python\n(.*?)```", text, re.DOTALL)
    assert code == how_to_use(distilled, card, file)
    found = {}
    exec(code, found)
    np.testing.assert_array_equal(found["images"], distilled.images)
    np.testing.assert_allclose(found["targets"], distilled.targets, atol=1e-6)
    assert found["lr"] == pytest.approx(0.1)
    np.testing.assert_allclose(found["normalize"](PICTURES), card.normalization(PICTURES), atol=2e-5)
    assert ("jaxdd" in code) == (file == "a.pt")


@pytest.mark.parametrize("zca", [False, True])
def test_the_code_in_the_docstring_of_the_file_does_what_it_says(tmp_path, monkeypatch, zca):
    monkeypatch.chdir(tmp_path)
    distilled, card = a_set(zca=zca)
    distilled.save("distilled.npz", card)
    blocks = re.findall(r"(?:^    .*\n)+", distilled_module.__doc__, re.MULTILINE)
    load, inverse, standardize, whiten = ("\n".join(line[4:] for line in block.splitlines()) for block in blocks)
    if zca:
        load, forward = load.rpartition("\n")[0] + "\n" + inverse, whiten
    else:
        forward = standardize
    found = {"np": np, "own": PICTURES}
    exec(f"{load}\n{forward}", found)
    found["file"].close()
    np.testing.assert_allclose(found["inputs"], card.normalization(PICTURES), atol=2e-5)
    np.testing.assert_allclose(found["pictures"], PICTURES[:3] / 255, atol=2e-5)
    assert found["names"].tolist() == [*NAMES]


def test_a_card_tells_what_a_hub_asks_for():
    distilled, card = a_set("logits", lr=0.5, dataset="fashion_mnist")
    score = {"mean": 0.5, "std": 0.012, "runs": [0.5, 0.5]}
    results = {"method": "MTT", "distilled": score, "random_real": None, "full_data": {**score, "mean": 0.9}}
    results["selected_on"] = "validation"
    text = markdown(distilled, card, results=results)
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    fields = {name: json.loads(value) for name, value in (line.split(": ", 1) for line in front.splitlines())}
    assert fields["license"] == "mit" and fields["size_categories"] == ["n<1K"]
    assert fields["task_categories"] == ["image-classification"] and fields["source_datasets"] == ["fashion_mnist"]
    assert fields["pretty_name"] == "fashion_mnist, distilled by MTT"
    assert "| this set | 50.0 ± 1.2 % | 2 |" in body and "90.0 ± 1.2" in body and "random real" not in body
    assert "epochs 300. Learning rate 0.5, the set's own." in body and "cat, dog, größe" in body
    assert "fashion_mnist is under mit" in body and "after the last epoch" in body
    assert "Accuracy" not in markdown(distilled, card)


def test_licenses():
    assert license_of("cifar10") == license_of("my pets") == "unknown"
    assert license_of("mnist:3.0.1") == "cc-by-sa-3.0" and license_of("digits") == "cc-by-4.0"
    assert "unknown: ask the owner" in markdown(*a_set())
