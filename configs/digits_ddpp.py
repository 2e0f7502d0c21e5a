"""DDPP on the real 8×8 digits, one image per class.

Paper      Li et al. 2023, arXiv 2209.14609; it reports no digits.
Command    jaxdd --config digits_ddpp
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   91.7 ± 1.1 % test accuracy over 5 networks, with --method.ipc 10 98.0 ± 0.3; random real images
           72.1 ± 3.4 and 94.6 ± 1.4 (5 draws, one network each), full data 98.8 ± 0.3. 40 s on 2 CPU cores with jax
           0.10.2, compilation included, the baselines and the experts, those of MTT, not.
Unroll     these numbers with --method.unroll.mode segmented; with auto, full here,
           91.6 ± 0.9 for one image per class.
Ours       all settings: those of MTT beside it, and the rule by which parameters are dropped.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, ddpp


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=ddpp.Config(
            ipc=ipc,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimizer=Optimizer("adam", 0.1),
            lr_optimizer=Optimizer("adam", 0.001),
            rule="quantile",
            amount=0.05,
        ),
        workdir="runs/digits_ddpp",
    )
