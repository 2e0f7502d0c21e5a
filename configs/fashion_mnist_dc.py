"""DC on Fashion-MNIST, one image per class, on a small ConvNet that a CPU can train.

Paper      Zhao et al. 2021, arXiv 2006.05929: 70.5 ± 0.6 % with a ConvNet of width 128.
Command    jaxdd --config fashion_mnist_dc
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   70.6 ± 0.5 % test accuracy over 5 networks; random real images 51.8 ± 5.7 (5 draws, one network each). With
           --method.ipc 10 --method.steps 100: 74.0 ± 1.0 (and --method.network-optimizer.momentum 0.5: 73.0 ± 0.5),
           random real images 73.0 ± 0.7. 113 and 376 s of distillation
           on 2 CPU cores beside another measurement, jax 0.10.2, --evaluate.validate-networks 1.
Ours       Adam on the images and smaller real batches; a fresh network every step, as published for one image.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, dc
from jaxdd.models import ConvNet


def get_config(ipc: int = 1) -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist"),
        model=ConvNet(width=16, depth=3),
        method=dc.Config(
            ipc=ipc,
            steps=300,
            init="real",
            image_optimizer=Optimizer("adam", 0.1),
            real_batch=64,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_dc",
    )
