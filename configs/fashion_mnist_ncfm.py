"""NCFM on Fashion-MNIST, one image per class, on a small ConvNet that a CPU can train.

Paper      Wang et al. 2025, arXiv 2502.20653; it reports no Fashion-MNIST.
Command    jaxdd --config fashion_mnist_ncfm
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   67.8 ± 1.2 % test accuracy over 5 networks; random real images 51.8 ± 5.7 (5 draws, one network each). With
           --method.ipc 10 --method.steps 100: 76.7 ± 0.7 (and --method.sampler.lr 0.001: 77.0 ± 0.7), random real
           images 73.0 ± 0.7. With --method.factor 2: 74.7 ± 0.5, and 79.1 ± 0.5 at ten. 82 and 40 s of distillation
           (without it) on 2 CPU cores beside another measurement, jax 0.10.2, --evaluate.validate-networks 1.
Ours       all settings: Adam on the images, 256 frequencies, smaller real batches and fewer steps; no augmentation.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe
from jaxdd.methods import Optimizer, ncfm
from jaxdd.models import ConvNet


def get_config(ipc: int = 1) -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist"),
        model=ConvNet(width=16, depth=3),
        experts=ExpertsConfig(
            count=4,
            recipe=Recipe(
                epochs=1, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
            ),
            snapshot_every=2,
            keep=16,
        ),
        method=ncfm.Config(
            ipc=ipc,
            steps=300,
            image_optimizer=Optimizer("adam", 0.1),
            real_batch=64,
            frequencies=256,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_ncfm",
    )
