"""DATM on CIFAR-10, fifty images per class, with the authors' settings.

Paper      Guo et al. 2024, Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching,
           arXiv 2310.05773.
Command    python -m jaxdd.main --config configs/cifar10_datm_ipc50.py
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  76.1 % test accuracy (random real images 43.4, full data 84.8).
Measured   not yet. Needs an accelerator: 100 experts of 50 epochs (5.5 GB: the first 42 snapshots of each).
Ours       the first student learning rate; the validation split chooses the set; one expert says which images
           are classified right, and labels start as the mean logits of all; a step whose loss exceeds 2 changes
           nothing; experts are trained without sharpness-awareness.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, ModelConfig, Recipe, Unroll, Window
from jaxdd.methods import Optimizer, datm

DSA = "color_crop_cutout_flip_scale_rotate"


def get_config() -> Config:
    return Config(
        data=DataConfig(name="cifar10", normalization="zca"),
        model=ModelConfig(width=128, depth=3),
        experts=ExpertsConfig(
            count=100,
            recipe=Recipe(
                epochs=50, batch=256, lr=0.01, momentum=0.0, weight_decay=0.0, schedule="constant", augment=DSA
            ),
            snapshot_every=None,
            keep=42,
        ),
        method=datm.Config(
            ipc=50,
            steps=10_000,
            student_steps=80,
            expert_snapshots=2,
            batch=500,
            student_lr=0.01,
            image_optimizer=Optimizer("sgd", 1000.0, 0.5),
            label_optimizer=Optimizer("sgd", 2.0, 0.9),
            lr_optimizer=Optimizer("sgd", 1e-5, 0.5),
            window=Window(start=20, end=40, grow=2000),
            unroll=Unroll("segmented"),
            augment=DSA,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=1000, augment=DSA),
            full_recipe=Recipe(epochs=50, augment=DSA),
            validate_every=1000,
        ),
        workdir="runs/cifar10_datm_ipc50",
    )
