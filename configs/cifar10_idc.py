"""IDC on CIFAR-10, 1, 10 or 50 stored images per class, with the authors' settings.

Paper      Kim et al. 2022, Dataset Condensation via Efficient Synthetic-Data Parameterization, arXiv 2205.14959.
Command    jaxdd --config cifar10_idc:ipc=10
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  50.6, 67.5 and 74.5 % test accuracy (with whole images, --method.factor 1: 36.7, 58.3 and 69.5).
Measured   not yet: 200 000 steps, each followed by 32 steps of training.
Ours       the validation split (a tenth of train) chooses the set, the paper takes the last one. Pixels are not
           clamped. Their learning rate, 0.0005 · ipc for those in [0, 1], is 0.0125 · ipc for standardized ones
           (--data.normalization published, std 0.2). One step on all classes and all of the set, theirs takes one for
           each class, on at most 128 of its images.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, dc
from jaxdd.models import ConvNet


def get_config(ipc: int = 10) -> Config:
    return Config(
        data=DataConfig(name="cifar10", normalization="published"),
        model=ConvNet(width=128, depth=3),
        method=dc.Config(
            ipc=ipc,
            steps=200_000,  # 2000 networks
            init="real",
            factor=2,
            distance="convolution_mse",
            image_optimizer=Optimizer("sgd", 0.0125 * ipc, 0.5),
            real_batch=64,
            augment="color+crop+cutout",
            network="real",
            outer_loop=100,
            inner_loop=32,
            network_batch=64,
            network_optimizer=Optimizer("sgd", 0.01, 0.9),
            network_weight_decay=5e-4,
            network_augment="color+crop",
            network_cutmix=0.5,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(
                epochs=1000, batch=64, schedule="two_steps", augment="flip+color+crop_scale_rotate", cutmix=0.5
            ),
            full_recipe=Recipe(epochs=50, augment="color_crop_cutout_flip_scale_rotate"),
            validate_every=2000,
        ),
        workdir="runs/cifar10_idc",
    )
