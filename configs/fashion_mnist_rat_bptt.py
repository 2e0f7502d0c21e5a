"""RaT-BPTT on Fashion-MNIST, on a small ConvNet that a CPU can train.

Paper      Feng et al. 2024, arXiv 2311.07025; it reports no Fashion-MNIST.
Command    jaxdd --config fashion_mnist_rat_bptt, or fashion_mnist_rat_bptt:ipc=1,schedule=adaptive
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   68.5 ± 1.2 % test accuracy over 5 networks (65.2 ± 2.6 at an earlier commit); random real images 51.8 ± 5.7
           (5 draws, one network each). With schedule=adaptive 67.1 ± 1.2.
           With :ipc=10 --method.steps 100: 77.0 ± 0.8, and 76.6 ± 0.6 with schedule=adaptive; random real images 73.0 ±
           0.7.
           On 2 CPU cores that had other work to do, jax 0.10.2, --evaluate.no-full-data.
Ours       all settings: half the steps and half the window of the paper, larger learning rates inside and outside.
"""

from typing import Literal

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, rat_bptt
from jaxdd.models import ConvNet


def get_config(ipc: int = 1, schedule: Literal["random", "adaptive"] = "random") -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist"),
        model=ConvNet(width=16, depth=3),
        method=rat_bptt.Config(
            ipc=ipc,
            steps=200,
            schedule=schedule,
            student_steps=100,
            window=30,
            real_batch=512,
            student_optimizer=Optimizer("adam", 0.01),
            image_optimizer=Optimizer("adam", 0.03),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=50,
        ),
        workdir="runs/fashion_mnist_rat_bptt",
    )
