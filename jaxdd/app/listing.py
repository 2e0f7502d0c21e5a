"""What there is to choose from, a line each: `jaxdd list`."""

import ast
import dataclasses
import inspect

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
    presets = {name: _preset(ast.parse(file.read_text(encoding="utf-8"))) for name, file in PRESETS.items()}
    networks = {name: _first_line(inspect.getdoc(type(config))) for name, config in MODELS.items()}
    return "\n\n".join(
        [
            _table("Methods: --method NAME, with settings of its own by --method.…", methods),
            _table("Presets: --config NAME, with other values than those in brackets NAME:ipc=1,budget=cpu", presets),
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


def _preset(file: ast.Module) -> str:
    """Write what a preset is, and the arguments of its `get_config`."""
    (arguments,) = (part.args for part in file.body if isinstance(part, ast.FunctionDef) and part.name == "get_config")
    given = zip(arguments.args, arguments.defaults, strict=True)
    taken = ", ".join(f"{argument.arg}={_choices(argument.annotation, default)}" for argument, default in given)
    return f"{_first_line(ast.get_docstring(file))} [{taken}]"


def _choices(annotation: ast.expr | None, default: ast.expr) -> str:
    """Write what a `Literal` allows, or else the default."""
    choices = annotation.slice if isinstance(annotation, ast.Subscript) else default
    return "|".join(str(ast.literal_eval(each)) for each in getattr(choices, "elts", [choices]))


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _table(title: str, lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join([title, *(f"  {name:{width}}  {about}" for name, about in lines.items())])
