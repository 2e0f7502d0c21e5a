"""Random real images of CIFAR-10, 1, 10 or 50 per class: what a method has to beat, and a check of the evaluation.

Paper      Zhao et al. 2021, Dataset Condensation with Gradient Matching, arXiv 2006.05929, and others.
Command    jaxdd --config cifar10_random:ipc=10
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  14.4, 26.0 and 43.4 % test accuracy (full data 84.8).
Measured   14.3 ± 2.7, 26.9 ± 1.1 and 42.9 ± 1.0 % without augmentation and 300 epochs, as published; 14.7 ± 3.1,
           32.2 ± 1.0 and 50.1 ± 0.1 % with the settings below: see README.md here for the commands. Full data 81.5 % in
           16 of 50 epochs.
Ours       each network has a draw of its own.
           Channels are standardized as they are (std .247 …) and not by the field's constants (.2023 …), which
           --data.normalization published takes.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import coresets
from jaxdd.models import ConvNet

DSA = "color_crop_cutout_flip_scale_rotate"


def get_config(ipc: int = 10) -> Config:
    return Config(
        data=DataConfig(name="cifar10"),
        model=ConvNet(width=128, depth=3),
        method=coresets.Config(ipc=ipc),
        evaluate=EvaluateConfig(recipe=Recipe(epochs=1000, augment=DSA), full_recipe=Recipe(epochs=50, augment=DSA)),
        workdir="runs/cifar10_random",
    )
