"""DC on CIFAR-10, ten images per class, with the authors' settings.

Paper      Zhao et al. 2021, Dataset Condensation with Gradient Matching, arXiv 2006.05929.
Command    jaxdd --config cifar10_dc
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  44.9 ± 0.5 % test accuracy (random real images 26.0, full data 84.8).
Measured   not yet. Needs an accelerator: 10 000 steps, each with gradients of 2560 real images.
Ours       the validation split (a tenth of train) chooses the set, the paper takes the last one.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, dc
from jaxdd.models import ConvNet


def get_config(ipc: int = 10) -> Config:
    return Config(
        data=DataConfig(name="cifar10"),
        model=ConvNet(width=128, depth=3),
        method=dc.Config(
            ipc=ipc,
            steps=10_000,  # 1000 networks, 10 steps each
            init="noise",
            image_optimizer=Optimizer("sgd", 0.1, 0.5),
            distance="cosine",
            real_batch=256,
            outer_loop=10,
            inner_loop=50,
            network_batch=256,
            network_optimizer=Optimizer("sgd", 0.01, 0.5),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="none"),
            full_recipe=Recipe(epochs=50, augment="color_crop_cutout_flip_scale_rotate"),
            validate_every=500,
        ),
        workdir="runs/cifar10_dc",
    )
