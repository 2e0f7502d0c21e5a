"""DC with influence-weighted real images (IWD) on CIFAR-10, ten images per class.

Paper      Influence-weighted distillation, arXiv 2510.27253.
Command    jaxdd --config cifar10_dc_iwd
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  52.7 % test accuracy (DC alone 44.9 ± 0.5).
Measured   not yet. Needs an accelerator: 10 000 steps, each with gradients of 2560 real images, taken twice.
Ours       the settings of DC are its authors'; temperature, warm-up and moving average are ours, the paper's are not
           public. The validation split (a tenth of train) chooses the set, the papers take the last one.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, Weighting, dc
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
            weighting=Weighting(score="explicit", temperature=2.0, warm_up=1000),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="none"),
            full_recipe=Recipe(epochs=50, augment="color_crop_cutout_flip_scale_rotate"),
            validate_every=500,
        ),
        workdir="runs/cifar10_dc_iwd",
    )
