"""IADD on CIFAR-10, fifty images per class, with the settings of MTT.

Paper      Li et al. 2024, Importance-Aware Adaptive Dataset Distillation, arXiv 2401.15863.
Command    python -m jaxdd.main --config configs/cifar10_iadd_ipc50.py
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  its table is not available to us; MTT, which it extends, 71.6 % (random real images 43.4, full data 84.8).
Measured   not yet. Needs an accelerator: 100 experts of 50 epochs (5.5 GB: the first 42 snapshots of each),
           those of MTT, if experts.directory names them.
Ours       bounded importance (`--method.constraint none` is the published method, which collapses where W learns
           fast) and its learning rate; validation split and positive student learning rate as for MTT.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, ModelConfig, Recipe, Unroll, Window
from jaxdd.methods import Optimizer, iadd

DSA = "color_crop_cutout_flip_scale_rotate"


def get_config() -> Config:
    return Config(
        data=DataConfig(name="cifar10"),
        model=ModelConfig(width=128, depth=3),
        experts=ExpertsConfig(
            count=100,
            recipe=Recipe(
                epochs=50, batch=256, lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant", augment=DSA
            ),
            snapshot_every=None,
            keep=42,
        ),
        method=iadd.Config(
            ipc=50,
            steps=5000,
            student_steps=30,
            expert_snapshots=2,
            student_lr=0.001,
            image_optimizer=Optimizer("sgd", 1000.0, 0.5),
            lr_optimizer=Optimizer("sgd", 1e-5, 0.5),
            importance_optimizer=Optimizer("sgd", 1e-4, 0.0),
            constraint="bounded",
            window=Window(start=40),
            unroll=Unroll("segmented"),
            augment=DSA,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=1000, augment=DSA),
            full_recipe=Recipe(epochs=50, augment=DSA),
            validate_every=500,
        ),
        workdir="runs/cifar10_iadd_ipc50",
    )
