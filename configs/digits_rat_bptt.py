"""RaT-BPTT on digits, one image per class."""

from typing import Literal

from jaxdd import Config
from jaxdd.methods import Optimizer, rat_bptt


def get_config(ipc: int = 1, schedule: Literal["random", "adaptive"] = "random") -> Config:
    return Config(
        method=rat_bptt.Config(
            ipc=ipc,
            steps=300,
            schedule=schedule,
            student_steps=100,
            window=30,
            real_batch=512,
            student_optimizer=Optimizer("adam", 0.01),
            image_optimizer=Optimizer("adam", 0.03),
        ),
        workdir="runs/digits_rat_bptt",
    )
