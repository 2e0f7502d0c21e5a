import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def sets_are_better_than_random_images(printed):
    means = {name: float(mean) for name, mean in re.findall(r"'(distilled|random_real)': '([\d.]+) ± ", printed)}
    assert means["distilled"] > means["random_real"] + 3


def wrong_labels_are_found(printed):
    areas = {name: float(area) for name, area in re.findall(r"'(tracin|sgd_influence)': 'AUC ([\d.]+)'", printed)}
    assert areas["sgd_influence"] > 0.9 and areas["tracin"] > 0.8
    among_helpful, among_all = re.search(r"most helpful: ([\d.]+), among all: ([\d.]+)", printed).groups()
    assert float(among_helpful) <= 0.05 < float(among_all)


def rare_classes_are_counted(printed):
    sets_are_better_than_random_images(printed)
    balanced = dict(re.findall(r"(distilled|random real|full data) .* balanced ([\d.]+)", printed.replace("\\n", "\n")))
    assert float(balanced["distilled"]) > float(balanced["random real"])


def a_network_comes_of_it(printed):
    sets_are_better_than_random_images(printed)
    assert float(re.search(r"'([\d.]+) % right'", printed)[1]) > 80


def pairs_are_better_than_random_ones(printed):
    means = {
        name: float(mean)
        for name, mean in re.findall(r"(distilled|random_real) .* mean ([\d.]+) ± ", printed.replace("\\n", "\n"))
    }
    assert means["distilled"] > means["random_real"] + 3


CHECKS = {
    "quickstart": sets_are_better_than_random_images,
    "own_method": sets_are_better_than_random_images,
    "influence": wrong_labels_are_found,
    "own_pairs": pairs_are_better_than_random_ones,
    "own_images": rare_classes_are_counted,
    "received_set": a_network_comes_of_it,
}


def test_every_notebook_is_checked_and_shows_its_outputs():
    assert {path.stem for path in NOTEBOOKS} == {*CHECKS}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(out.output_type == "error" for cell in cells for out in cell.get("outputs", []))
        CHECKS[path.stem]("".join(str(cell.get("outputs", "")) for cell in cells))


@pytest.mark.filterwarnings("default")  # of jupyter's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    CHECKS[path.stem]("".join(str(cell.get("outputs", "")) for cell in notebook.cells))
