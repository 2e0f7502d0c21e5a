"""DATM on CIFAR-10, 1, 10 or 50 images per class, with the authors' settings.

Paper      Guo et al. 2024, Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching,
           arXiv 2310.05773.
Command    jaxdd --config cifar10_datm:ipc=10
Data       CIFAR-10 in the TFDS directory as array_record; the first run says how to get it there.
Published  46.9, 66.8 and 76.1 % test accuracy (random real images 14.4, 26.0 and 43.4, full data 84.8).
Measured   not yet. Needs an accelerator: 100 experts of 100 epochs, two gradients a step (0.9, 2.9 and 5.5 GB: the
           first 6, 22 and 42 snapshots of each).
Ours       the validation split (a tenth of train) chooses the set, the paper keeps the best on test; one expert says
           which images are classified right; flat experts by SAM in place of GSAM; evaluation in batches of 256 (theirs
           128).
"""

from typing import NamedTuple

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe, Unroll, Window
from jaxdd.methods import Optimizer, datm
from jaxdd.models import ConvNet

DSA = "color_crop_cutout_flip_scale_rotate"


class Settings(NamedTuple):
    """What depends on the number of images per class."""

    window: Window
    image_lr: float
    label_lr: float
    lr_lr: float
    threshold: float
    batch: int | None = None


SETTINGS = {
    1: Settings(Window(start=4), image_lr=100.0, label_lr=5.0, lr_lr=1e-7, threshold=1.1),
    10: Settings(Window(start=10, end=20, grow=1000), image_lr=100.0, label_lr=2.0, lr_lr=1e-5, threshold=1.0),
    50: Settings(
        Window(start=20, end=40, grow=2000), image_lr=1000.0, label_lr=2.0, lr_lr=1e-5, threshold=1.0, batch=500
    ),
}


def get_config(ipc: int = 10) -> Config:
    if ipc not in SETTINGS:
        raise ValueError(
            f"ipc is {ipc}; settings are published for 1, 10 and 50; take one of these and change --method.ipc"
        )
    chosen = SETTINGS[ipc]
    return Config(
        data=DataConfig(name="cifar10", normalization="zca"),
        model=ConvNet(width=128, depth=3),
        experts=ExpertsConfig(
            count=100,
            recipe=Recipe(
                epochs=100,
                batch=256,
                lr=0.01,
                momentum=0.0,
                weight_decay=0.0,
                schedule="constant",
                augment=DSA,
                sharpness=0.01,
            ),
            snapshot_every=196,  # an epoch of the authors', who train on all images
            keep=(chosen.window.end or chosen.window.start) + 2,
        ),
        method=datm.Config(
            ipc=ipc,
            steps=10_000,
            student_steps=80,
            expert_snapshots=2,
            batch=chosen.batch,
            student_lr=0.01,
            image_optimizer=Optimizer("sgd", chosen.image_lr, 0.5),
            label_optimizer=Optimizer("sgd", chosen.label_lr, 0.9),
            lr_optimizer=Optimizer("sgd", chosen.lr_lr, 0.5),
            loss_threshold=chosen.threshold,
            window=chosen.window,
            unroll=Unroll("segmented"),
            augment=DSA,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=1000, augment=DSA),
            full_recipe=Recipe(epochs=50, augment=DSA),
            validate_every=1000,
        ),
        workdir="runs/cifar10_datm",
    )
