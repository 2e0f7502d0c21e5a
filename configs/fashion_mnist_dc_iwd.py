"""DC with influence-weighted real images (IWD) on Fashion-MNIST, one image per class, on a small ConvNet.

Paper      Influence-weighted distillation, arXiv 2510.27253; it reports no Fashion-MNIST.
Command    jaxdd --config fashion_mnist_dc_iwd
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   One seed: 68.6 % test accuracy with clean labels (DC 69.2), 67.7 with 20 % symmetric noise (DC 67.6), 60.2
           with 40 % asymmetric noise (DC 56.2): python -m tests.benchmarks.statistics noise fashion_mnist --base dc
           --seeds 1 --only alike "explicit, τ 2" --add "--evaluate.validate-networks 1"
           As it stands 70.5 ± 0.7 over 5 networks.
Ours       all settings: those of DC beside it, the explicit score and τ = 2.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, Recipe
from jaxdd.methods import Optimizer, Weighting, dc
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
            weighting=Weighting(score="explicit", temperature=2.0, warm_up=100),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_dc_iwd",
    )
