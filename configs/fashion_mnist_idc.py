"""IDC on Fashion-MNIST, one stored image per class, on a small ConvNet that a CPU can train.

Paper      Kim et al. 2022, arXiv 2205.14959: 81.0 % with a ConvNet of width 128, 70.7 % with whole images.
Command    jaxdd --config fashion_mnist_idc
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   74.1 ± 0.4 % test accuracy over 5 networks; random real images 51.8 ± 5.7 (5 draws, one network each).
           With :ipc=10 --method.steps 100: 78.1 ± 0.6, random real images 73.0 ± 0.7.
           On 2 CPU cores that had other work to do, jax 0.10.2, --evaluate.no-full-data.
Ours       Adam on the images, which are not clamped, one step on all classes in place of one for each, and a network
           for 20 steps in place of 100. The absolute distance of the kernels' gradients, 8 steps of training with
           CutMix after each match, composed augmentation: as published.
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
            factor=2,
            distance="convolution_l1",
            image_optimizer=Optimizer("adam", 0.03),
            real_batch=64,
            augment="color+crop+cutout",
            network="real",
            outer_loop=20,
            inner_loop=8,
            network_batch=64,
            network_optimizer=Optimizer("sgd", 0.01, 0.9),
            network_weight_decay=5e-4,
            network_augment="color+crop",
            network_cutmix=0.5,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, schedule="two_steps", augment="flip+color+crop_scale_rotate", cutmix=0.5),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_idc",
    )
