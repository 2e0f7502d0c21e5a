"""IADD on the real 8×8 digits, one image per class.

Paper      Li et al. 2024, arXiv 2401.15863; it reports no digits.
Command    python -m jaxdd.main --config configs/digits_iadd.py
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   TODO
Ours       all settings: those of MTT beside it, and how the importance is held (`--method.constraint none` is the
           published method).
"""

from jaxdd import Config
from jaxdd.methods import Optimiser, iadd


def get_config() -> Config:
    return Config(
        method=iadd.Config(
            ipc=1,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimiser=Optimiser("adam", 0.1),
            lr_optimiser=Optimiser("adam", 0.001),
            importance_optimiser=Optimiser("sgd", 1e-3, 0.0),
            constraint="bounded",
        ),
        workdir="runs/digits_iadd",
    )
