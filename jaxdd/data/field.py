"""What the field's code takes for granted: the datasets' names, classes, and constants of normalization."""

import re
from typing import NamedTuple

import numpy as np

from jaxdd.core.normalization import Standardize
from jaxdd.errors import SettingError

DIGITS = tuple("0123456789")
CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, pixels in [0, 1]."""

IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR: Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Known(NamedTuple):
    """A dataset of the field.

    Attributes:
        classes: Names of its classes, in their order; none where they are too many to list.
        vico: Constants of the code of DC, DSA, DM, MTT and what follows them.
        idc: Those of the code of IDC and NCFM.
        frepo: Those of FRePo's.
        license: Its license, as model hubs spell it.
    """

    classes: tuple[str, ...]
    vico: Constants
    idc: Constants
    frepo: Constants | None
    license: str = "unknown"


_MNIST: Constants = ((0.1307,), (0.3081,))
_CLOTHES: Constants = ((0.2861,), (0.3530,))
_SVHN: Constants = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_CIFAR100: Constants = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))

KNOWN = {
    "mnist": Known(DIGITS, _MNIST, _MNIST, _MNIST, "cc-by-sa-3.0"),
    "fashion_mnist": Known(CLOTHES, _CLOTHES, _CLOTHES, _CLOTHES, "mit"),
    "svhn_cropped": Known(DIGITS, _SVHN, _SVHN, None, "other"),
    "cifar10": Known(CIFAR10, CIFAR, CIFAR, (CIFAR[0], (0.2470, 0.2435, 0.2616))),
    "cifar100": Known(CIFAR100, _CIFAR100, CIFAR, _CIFAR100),
    "tiny_imagenet": Known((), IMAGENET, IMAGENET, ((0.4759, 0.4481, 0.3926), (0.2763, 0.2687, 0.2813)), "other"),
    "imagenet2012": Known((), IMAGENET, IMAGENET, None, "other"),
}
"""By the names of TFDS, where it has them. [published: the code of each]"""
LICENSES = {"digits": "cc-by-4.0"} | {name: known.license for name, known in KNOWN.items()}
"""Licenses of datasets, `unknown` where their owners name none."""

_SPELLED = {
    **{re.sub("[^a-z0-9]", "", name): name for name in KNOWN},
    **{"fashion": "fashion_mnist", "svhn": "svhn_cropped", "tiny": "tiny_imagenet", "cifar": "cifar10"},
    **{"imagenet": "imagenet2012", "imagenet1k": "imagenet2012"},
}


def canonical(name: str) -> str | None:
    """Return the name in `KNOWN` of a dataset that is spelled in any way, None if it is none of them."""
    return _SPELLED.get(re.sub("[^a-z0-9]", "", name.lower()))


def named_in(path: str) -> str | None:
    """Return the dataset whose name is a part of a path, as in `res_DC_CIFAR10_ConvNet_10ipc.pt`; the last one."""
    parts = re.split(r"[\\/_.\-]", path)
    words = [(end, size, "".join(parts[end - size : end])) for end in range(1, len(parts) + 1) for size in (1, 2)]
    found = [(end, size, name) for end, size, word in words if (name := canonical(word))]
    return max(found)[-1] if found else None


def published(dataset: str, channels: int) -> Standardize:
    """Return the standardization by the constants that the code of DC, DSA, DM, MTT and what follows them has.

    On CIFAR-10 its standard deviation is (.2023, .1994, .2010), the mean over images of each image's own; that of all
    pixels is (.247, .243, .262). Learning rates of images that were published without ZCA assume the former.

    Args:
        dataset: Its name, in TFDS.
        channels: K of its images.

    Raises:
        SettingError: There are none for it.
    """
    known = KNOWN.get(dataset)
    if known is None or len(known.vico[0]) != channels:
        raise SettingError(
            f"data.normalization is 'published', and the field's code has no constants for {dataset} with {channels} "
            f"channels, only for {', '.join(KNOWN)}; choose standard or zca"
        )
    return standardization(known.vico)


def standardization(constants: Constants) -> Standardize:
    """Build the normalization of constants."""
    mean, std = (np.asarray(values, np.float32) for values in constants)
    if mean.shape != std.shape or mean.ndim != 1 or not (std > 0).all():
        raise SettingError(f"mean is {mean.tolist()} and std {std.tolist()}; give a positive std for each channel")
    return Standardize(mean, std)
