"""What a person who receives a set has to know, in words and in code: the card of a model hub, in Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from jaxdd.core.distilled import Card, Distilled, has_lr_of_recipe
from jaxdd.core.normalization import Unfitted
from jaxdd.data.field import LICENSES

LOAD = """import numpy as np

with np.load({file!r}, allow_pickle=False) as stored:
    file = dict(stored)
images = file["images"]  # {images} float32, normalized: train on them as they are
labels = file["labels"]  # {labels}
lr = float(file["lr"])  # {lr:.6g}, the learning rate of SGD at its start{learned}
"""
LABELS = {
    "hard": ("[{M}] int32, classes by their index in class_names", "targets = np.eye({C}, dtype=np.float32)[labels]"),
    "logits": (
        "[{M}, {C}] float32, logits",
        "exponentials = np.exp(labels - labels.max(axis=1, keepdims=True))\n"
        "targets = exponentials / exponentials.sum(axis=1, keepdims=True)",
    ),
    "probabilities": ("[{M}, {C}] float32, probabilities of the classes", "targets = labels"),
}
NORMALIZE = {
    "standard": """

def normalize(pictures):
    \"\"\"Normalize images of your own, [N, {H}, {W}, {K}] uint8, as those of the set are.\"\"\"
    pixels = pictures / np.float32(255)
    return (pixels - file["normalization_mean"]) / file["normalization_std"]
""",
    "zca": """

def normalize(pictures):
    \"\"\"Whiten images of your own, [N, {H}, {W}, {K}] uint8, as those of the set are.\"\"\"
    flat = pictures.reshape(len(pictures), -1) / np.float32(255)
    return ((flat - file["normalization_mean"]) @ file["normalization_whiten"]).reshape(pictures.shape)
""",
}
OTHER = """import jaxdd

distilled, card = jaxdd.formats.read({file!r}{data})
images, targets, lr = distilled.images, distilled.targets, distilled.lr  # {images}, targets [{M}, {C}]


def normalize(pictures):
    \"\"\"Normalize images of your own, [N, {H}, {W}, {K}] uint8, as those of the set are.\"\"\"
    return card.normalization(pictures)
"""


def how_to_use(distilled: Distilled, card: Card, file: str = "distilled.npz") -> str:
    """Return Python code that loads a set and normalizes a user's own images as the set's are.

    Args:
        distilled: The set.
        card: What it says of itself.
        file: Its file; of an npz the code needs numpy alone, of any other it calls `jaxdd.formats.read`, with the real
            data where the file leaves out the matrices of a ZCA.

    Returns:
        The code. It defines `images`, `targets` `[M, C]`, `lr` and `normalize(pictures)`.
    """
    size, height, width, channels = distilled.images.shape
    shapes = {"M": size, "C": len(card.class_names), "H": height, "W": width, "K": channels}
    about = {"file": file, "images": f"[{size}, {height}, {width}, {channels}]", "lr": float(distilled.lr)}
    unfitted = isinstance(card.normalization, Unfitted)
    if unfitted or not file.endswith(".npz"):
        data = f", data=jaxdd.data.load({card.dataset!r})" if unfitted else ""
        return OTHER.format(data=data, **shapes, **about)
    meaning, targets = LABELS[card.label_kind]
    learned = "" if has_lr_of_recipe(distilled, card) else ", the set's own"
    load = LOAD.format(labels=meaning.format(**shapes), learned=learned, **about)
    return load + targets.format(**shapes) + "\n" + NORMALIZE[card.normalization.kind].format(**shapes)


def license_of(dataset: str) -> str:
    """Return the license of a dataset as model hubs spell it, `unknown` where jaxdd does not know it."""
    return LICENSES.get(dataset.partition("/")[0].partition(":")[0], "unknown")


def markdown(
    distilled: Distilled, card: Card, *, file: str = "distilled.npz", results: Mapping[str, Any] | None = None
) -> str:
    """Write the card of a set for a model hub: Markdown, with the front matter of Hugging Face's dataset cards.

    Args:
        distilled: The set.
        card: What it says of itself.
        file: The file that it stands beside.
        results: What `results.json` of its run holds; without it no accuracies are told.

    Returns:
        The text.
    """
    method = _method(card, results)
    title = f"{card.dataset}, distilled" + (f" by {method}" if method else "")
    parts = [_front_matter(distilled, card, title), f"# {title}", _about(distilled, card, method)]
    if results is not None:
        parts.append(_accuracies(results))
    parts += [
        "## How to use it",
        f"```python\n{how_to_use(distilled, card, file)}```",
        _normalization(card),
        "## How to train on it",
        _recipe(distilled, card),
        "## Intended use",
        "Training networks on few images: to compare methods, to search for architectures or settings, to learn "
        "continually, or to pass on something smaller than the data. The images were optimized, and are no photographs "
        "of anything. A network that was trained on them is less accurate than one that was trained on all the data, "
        "and no more private, fair or robust: what is wrong with the data is wrong with the set. Test on real images.",
        "## License",
        _license(card.dataset),
        "## How it was made",
        f"```json\n{json.dumps(card.provenance, indent=2, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _method(card: Card, results: Mapping[str, Any] | None) -> str:
    if results is not None and "method" in results:
        return str(results["method"])
    config = card.provenance.get("config")
    method = config.get("method") if isinstance(config, dict) else card.provenance.get("format")
    return str(method.get("name", "")) if isinstance(method, dict) else str(method or "")


def _front_matter(distilled: Distilled, card: Card, title: str) -> str:
    sizes = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5}
    category = next((name for name, most in sizes.items() if distilled.size < most), "100K<n<1M")
    fields = {
        "license": license_of(card.dataset),
        "pretty_name": title,
        "task_categories": ["image-classification"],
        "size_categories": [category],
        "source_datasets": [card.dataset],
        "tags": ["dataset-distillation", "dataset-condensation", "jaxdd"],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---"])


def _about(distilled: Distilled, card: Card, method: str) -> str:
    size, height, width, channels = distilled.images.shape
    kind = {"hard": "one class each", "logits": "soft labels, as logits", "probabilities": "soft labels"}
    names = ", ".join(card.class_names[:20]) + (", …" if len(card.class_names) > 20 else "")
    made = f" {method} made them." if method else ""
    return (
        f"{size} images of {height} × {width} × {channels}, {kind[card.label_kind]}, that stand for the training "
        f"images of {card.dataset}: networks are trained on them in its place.{made} "
        f"{len(card.class_names)} classes: {names}."
    )


def _accuracies(results: Mapping[str, Any]) -> str:
    rows = {
        "distilled": "this set",
        "random_real": "as many random real images, with their own labels",
        "full_data": "all the real training images",
    }
    scored = {name: results[name] for name in rows if results.get(name)}
    lines = [
        f"| {rows[name]} | {100 * score['mean']:.1f} ± {100 * score['std']:.1f} % | {len(score['runs'])} |"
        for name, score in scored.items()
    ]
    return "\n".join(
        [
            "## Accuracy",
            "",
            "| trained on | test accuracy | networks |",
            "|---|---|---|",
            *lines,
            "",
            "Each network starts from parameters of its own and is trained by the recipe below (on all data, by one "
            "for that); its accuracy is that on the whole test split after the last epoch. Mean ± standard deviation "
            f"over the networks. The set was chosen by {results.get('selected_on', 'the last step')}.",
        ]
    )


def _normalization(card: Card) -> str:
    if card.normalization.kind == "zca":
        unfitted = isinstance(card.normalization, Unfitted)
        where = f"fitted on the training images of {card.dataset}, not" if unfitted else "both"
        return (
            f"Images are ZCA-whitened: pixels in [0, 1], flattened, minus the mean image, times a matrix, {where} in "
            "the file. Give a network images of the same size that went through the same `normalize`."
        )
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in card.normalization)
    return (
        f"Images are standardized: pixels in [0, 1], minus the mean of each channel ({mean}), divided by its standard "
        f"deviation ({std}). Give a network images of the same size that went through the same `normalize`."
    )


def _recipe(distilled: Distilled, card: Card) -> str:
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card.recipe.items() if name != "lr")
    whose = "that of the recipe" if has_lr_of_recipe(distilled, card) else "the set's own"
    rate = f"Learning rate {float(distilled.lr):.6g}, {whose}."
    if rates := card.learning_rates:
        added = distilled.size // len(card.class_names) // len(rates)
        rate = (
            f"It was made in {len(rates)} stages, and networks learn it so: the whole training on the first {added} "
            f"of each class, then from there on with the next {added} as well, and so on, each time so"
            f" (learning rates {', '.join(f'{one:.6g}' for one in rates)})."
        )
    return f"SGD: {words}. {rate}" if words else f"{rate} No more is known of a recipe."


def _license(dataset: str) -> str:
    found = license_of(dataset)
    if found == "unknown":
        return f"That of {dataset} is unknown: ask the owner of the data. It bounds what may be done with this set."
    known = "terms of its own, which its owners state" if found == "other" else found
    return f"{dataset} is under {known}, which bounds what may be done with this set."
