"""IADD on the real 8×8 digits, one image per class.

Paper      Li et al. 2024, arXiv 2401.15863; it reports no digits.
Command    jaxdd --config digits_iadd
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   91.2 ± 0.7 % test accuracy over 5 networks, with --method.ipc 10 98.1 ± 0.3; random real images
           72.1 ± 3.4 and 94.6 ± 1.4 (5 draws, one network each), full data 98.8 ± 0.3. 36 s on 2 CPU cores with jax
           0.10.2, compilation included, the baselines and the experts, those of MTT, not.
Unroll     these numbers with --method.unroll.mode segmented; with auto, full here,
           90.6 ± 1.1 for one image per class.
Ours       all settings: those of MTT beside it, and how the importance is held (`--method.constraint none` is the
           published method).
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, iadd


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=iadd.Config(
            ipc=ipc,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimizer=Optimizer("adam", 0.1),
            lr_optimizer=Optimizer("adam", 0.001),
            importance_optimizer=Optimizer("sgd", 1e-3, 0.0),
            constraint="bounded",
        ),
        workdir="runs/digits_iadd",
    )
