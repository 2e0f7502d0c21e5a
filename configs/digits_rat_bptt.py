"""RaT-BPTT on the real 8×8 digits, one image per class.

Paper      Feng et al. 2024, arXiv 2311.07025; it reports no digits.
Command    jaxdd --config digits_rat_bptt, or digits_rat_bptt:ipc=1,schedule=adaptive
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   89.8 ± 1.2 % test accuracy over 5 networks, with the adaptive schedule 90.6 ± 1.0; random real images
           72.1 ± 3.3 (5 draws, one network each). 150 s on 2 CPU cores that had other work to do, with jax 0.10.2,
           compilation and random real images included. With --method.ipc 10 98.6 ± 0.4, with the adaptive schedule
           98.6 ± 0.2, random real images 94.6 ± 1.4.
Ours       all settings: half the steps and half the window of the paper, larger learning rates inside and outside.
"""

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
