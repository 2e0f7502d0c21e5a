"""What there is to choose from, a line each: `jaxdd list`."""

import ast
import dataclasses
import inspect
from pathlib import Path

from jaxdd import zoo
from jaxdd.app.config import METHODS, PRESETS
from jaxdd.models import MODELS

DATA = {
    "digits": "Real 8×8 digits that come with scikit-learn; no download.",
    "folder:PATH": "A folder with one folder of images per class.",
    "pairs:PATH": "A folder of captioned images, with the dataset.json that Flickr30K and COCO have.",
    "NAME": "Any image-classification set of TFDS in array_record format, such as cifar10 or fashion_mnist.",
}
"""What `--data.name` takes."""


@dataclasses.dataclass(frozen=True)
class List:
    """List methods, presets, networks, data and the sets of the zoo, a line each."""


def listing() -> str:
    """Name methods, presets, networks and data, each with the first line of its docstring, and sets with scores."""
    methods = {name: _first_line(inspect.getdoc(module)) for name, module in METHODS.items()}
    presets = {name: _first_line(_docstring(file)) for name, file in PRESETS.items()}
    networks = {name: _first_line(inspect.getdoc(type(config))) for name, config in MODELS.items()}
    return "\n\n".join(
        [
            _table("Methods: --method NAME, with settings of its own by --method.…", methods),
            _table("Presets: --config NAME, with another number of images per class NAME:ipc=N", presets),
            _table("Networks: --model NAME, with other sizes NAME:width=16,norm=group", networks),
            _table("Data: --data.name NAME", DATA),
            _table("Sets: jaxdd evaluate zoo:NAME", {name: _score(name) for name in zoo.FILES}),
        ]
    )


def _score(name: str) -> str:
    distilled, card = zoo.load(name)
    accuracy = card.provenance["test_accuracy"]
    percent = f"{100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f} %"
    per_image = card.settings("method").get("factor", 1) ** 2
    stored = f", stored as {distilled.size // per_image}," if per_image > 1 else ""
    return f"{distilled.size} images{stored} for {card.dataset}: test accuracy {percent}"


def _docstring(file: Path) -> str | None:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _table(title: str, lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join([title, *(f"  {name:{width}}  {about}" for name, about in lines.items())])
