"""The tensors that DD-Ranking scores: `compute_metrics(image_tensor=…, soft_labels=…, syn_lr=…)`.

A folder with `image_tensor.pt` `[M, K, H, W]` float32, standardized by the constants that DD-Ranking applies to the
real images it tests on, `soft_labels.pt` `[M, C]` float32 logits or `hard_labels.pt` `[M]` int64, and `syn_lr.pt` `[]`,
each of them for `torch.load(path, weights_only=True)`. The recipe and the provenance are not carried. DD-Ranking takes
hard labels to be in the order of the classes, so items are written in that order, and its soft labels to be logits
whose softmax, at its temperature, is the target. A set that was distilled in ZCA space is written as the same pictures,
standardized; DD-Ranking's `use_zca` has to stay off.
"""

from pathlib import Path

import numpy as np

from jaxdd.core.distilled import Card, Distilled
from jaxdd.data import Dataset, field
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.formats.base import File, Reader, Reading, Writer, array_of, as_images, as_set, classes_of, source_of
from jaxdd.formats.pictures import check_empty

CONSTANTS = {"cifar10": field.CIFAR, "cifar100": field.CIFAR, "tiny_imagenet": field.IMAGENET}
CONSTANTS["imagenet2012"] = field.IMAGENET
"""By dataset, what DD-Ranking normalizes with. [published: its `get_dataset`]"""


def write(path: Path, distilled: Distilled, card: Card) -> None:
    """Write the tensors.

    Raises:
        SettingError: The folder has something in it, or DD-Ranking does not have the dataset.
    """
    check_empty(path)
    known = field.canonical(card.dataset)
    if known not in CONSTANTS:
        raise SettingError(f"DD-Ranking scores sets of {', '.join(CONSTANTS)}, and this one is of {card.dataset}")
    logits = np.asarray(distilled.labels)
    order = np.argsort(logits.argmax(axis=1), kind="stable")
    pixels = 255 * card.normalization.inverse(distilled.images[order])
    images = np.moveaxis(np.asarray(field.standardization(CONSTANTS[known])(pixels)), -1, 1)
    labels = {"hard_labels": logits[order].argmax(axis=1)}
    if card.label_kind != "hard":
        labels = {"soft_labels": logits[order]}
    tensors = {"image_tensor": images, **labels, "syn_lr": np.asarray(distilled.lr)}
    for name, tensor in tensors.items():
        torch_file.save(path / f"{name}.pt", tensor)


def _matches(file: File) -> bool:
    return file.path.is_dir() and (file.path / "image_tensor.pt").is_file()


def read(file: File, asked: Reading, data: Dataset | None) -> tuple[Distilled, Card]:
    """Read the tensors; the dataset has to be named."""
    if not _matches(file):
        raise SettingError("there is no image_tensor.pt in it")
    found = [name for name in ("soft_labels", "hard_labels") if (file.path / f"{name}.pt").is_file()]
    if not found:
        raise SettingError("there is neither soft_labels.pt nor hard_labels.pt in it")
    images = as_images(torch_file.load(file.path / "image_tensor.pt"))
    labels = array_of(torch_file.load(file.path / f"{found[0]}.pt"), found[0])
    source = source_of(file.path, asked, data, classes_of(labels))
    if source.name not in CONSTANTS:
        raise SettingError(f"the dataset is {source.name}; name one of {', '.join(CONSTANTS)} by read.dataset")
    lr = asked.lr
    if lr is None and (file.path / "syn_lr.pt").is_file():
        tensor = array_of(torch_file.load(file.path / "syn_lr.pt"), "syn_lr")
        if tensor.size != 1:
            raise SettingError(f"syn_lr is {list(tensor.shape)}, and one learning rate is needed")
        lr = float(tensor.item())
    normalization = field.standardization(CONSTANTS[source.name])
    provenance = {"format": "ddranking", "folder": file.path.name}
    return as_set(images, labels, source, normalization, lr=lr, provenance=provenance)


READERS = {"ddranking": Reader("DD-Ranking's tensors: image_tensor.pt, labels, syn_lr.pt", _matches, read)}
WRITERS = {"ddranking": Writer(write)}
