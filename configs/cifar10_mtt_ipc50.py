"""MTT on CIFAR-10, fifty images per class, with the authors' settings.

Paper      Cazenavette et al. 2022, Dataset Distillation by Matching Training Trajectories, arXiv 2203.11932.
Command    python -m jaxdd.main --config configs/cifar10_mtt_ipc50.py
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  71.6 % test accuracy (random real images 43.4, full data 84.8).
Measured   not yet. Needs an accelerator: 100 experts of 50 epochs (5.5 GB: the first 42 snapshots of each).
Ours       the validation split (a tenth of train) chooses the set, the paper keeps the best on test; the student's
           learning rate is positive by construction.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, ModelConfig, Recipe, Unroll, Window
from jaxdd.methods import Optimizer, mtt

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
        method=mtt.Config(
            ipc=50,
            steps=5000,
            student_steps=30,
            expert_snapshots=2,
            student_lr=0.001,
            image_optimizer=Optimizer("sgd", 1000.0, 0.5),
            lr_optimizer=Optimizer("sgd", 1e-5, 0.5),
            window=Window(start=40),
            unroll=Unroll("segmented"),
            augment=DSA,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=1000, augment=DSA),
            full_recipe=Recipe(epochs=50, augment=DSA),
            validate_every=500,
        ),
        workdir="runs/cifar10_mtt_ipc50",
    )
