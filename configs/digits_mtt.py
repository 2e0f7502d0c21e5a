"""MTT on the real 8×8 digits, one image per class."""

from jaxdd import Config
from jaxdd.methods import Optimiser, mtt


def get_config() -> Config:
    return Config(
        method=mtt.Config(
            ipc=1,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimiser=Optimiser("adam", 0.1),
            lr_optimiser=Optimiser("adam", 0.001),
        ),
        workdir="runs/digits_mtt",
    )
