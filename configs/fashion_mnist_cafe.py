"""CAFE on Fashion-MNIST, one image per class, on a small ConvNet that a CPU can train.

Paper      Wang et al. 2022, arXiv 2203.01531: 77.1 ± 0.9 % with a ConvNet of width 128.
Command    jaxdd --config fashion_mnist_cafe
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   64.0 ± 0.9 % test accuracy over 5 networks (DM 69.9 ± 0.9); random real images 51.8 ± 5.7 (5 draws, one
           network each). Validation 53.9, 66.4 and 64.9 after 0, 100 and 200 steps, in which the network was replaced
           once, after some 150 by its accuracy on the queries: the steps see two networks. Longer runs were not tried.
           With :ipc=10 --method.steps 100: 76.2 ± 0.2, random real images 73.0 ± 0.7.
           7 min of distillation on one CPU core, jax 0.10.2, --evaluate.no-full-data.
Ours       Adam on the images, real images first, smaller real batches and fewer queries. Between two steps the network
           trains for 20 epochs at most: in 100 it seldom moves as far as published, and a step took 20 s on one core.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, cafe
from jaxdd.models import ConvNet


def get_config(ipc: int = 1) -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist"),
        model=ConvNet(width=16, depth=3),
        method=cafe.Config(
            ipc=ipc,
            steps=200,
            init="real",
            image_optimizer=Optimizer("adam", 0.03),
            real_batch=64,
            queries=32,
            longest=20,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_cafe",
    )
