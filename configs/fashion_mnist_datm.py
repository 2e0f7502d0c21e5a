"""DATM on Fashion-MNIST, one image per class.

Paper      Guo et al. 2024, arXiv 2310.05773; it reports no Fashion-MNIST.
Command    jaxdd --config fashion_mnist_datm
Data       Fashion-MNIST in the TFDS directory as array_record; the first run says how to get it there.
Measured   67.1 ± 1.3 % test accuracy over 5 networks; random real images 51.8 ± 5.7 (5 draws, one network each), full
           data 89.5 ± 0.2 (3 epochs). 66 s on 2 CPU cores that had other work to do, with jax 0.10.2, without the
           experts and the baselines, which are those of MTT.
           These numbers with --method.unroll.mode segmented and the labels of all experts (--method.teachers all). As
           it stands 67.0 ± 0.6, and 77.1 ± 0.6 with --method.ipc 10 --method.steps 100 (random real images 73.0 ± 0.7).
Ours       all settings: those of MTT beside it, and the learning rate of the labels.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe, Unroll, Window
from jaxdd.methods import Optimizer, datm
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
        method=datm.Config(
            ipc=ipc,
            steps=200,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            unroll=Unroll("full"),
            image_optimizer=Optimizer("adam", 0.1),
            lr_optimizer=Optimizer("adam", 0.001),
            label_optimizer=Optimizer("sgd", 2.0, 0.9),
            window=Window(start=6, end=12),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=3, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_datm",
    )
