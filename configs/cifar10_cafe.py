"""CAFE on CIFAR-10, 1, 10 or 50 images per class, with the authors' settings.

Paper      Wang et al. 2022, CAFE: Learning to Condense Dataset by Aligning Features, arXiv 2203.01531.
Command    jaxdd --config cifar10_cafe:ipc=10
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  30.3 ± 1.1, 46.3 ± 0.6 and 55.5 ± 0.6 % test accuracy.
Measured   not yet.
Ours       20 000 steps, a network serving 10 of them or more; published are 2000 networks. Images start from noise,
           as in its code. The validation split (a tenth of train) chooses the set, the paper takes the last one.
           Channels are standardized as they are, not by the field's constants, which --data.normalization published
           takes.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, cafe
from jaxdd.models import ConvNet


def get_config(ipc: int = 10) -> Config:
    return Config(
        data=DataConfig(name="cifar10"),
        model=ConvNet(width=128, depth=3),
        method=cafe.Config(
            ipc=ipc,
            steps=20_000,
            init="noise",
            image_optimizer=Optimizer("sgd", 0.1, 0.5),
            real_batch=256,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=600, augment="none"),
            full_recipe=Recipe(epochs=50, augment="color_crop_cutout_flip_scale_rotate"),
            validate_every=1000,
        ),
        workdir="runs/cifar10_cafe",
    )
