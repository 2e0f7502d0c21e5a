"""DATM on the real 8×8 digits, one image per class.

Paper      Guo et al. 2024, arXiv 2310.05773; it reports no digits.
Command    python -m jaxdd.main --config configs/digits_datm.py
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   TODO
Ours       all settings: those of MTT beside it, and the learning rate of the labels.
"""

from jaxdd import Config, Window
from jaxdd.methods import Optimiser, datm


def get_config() -> Config:
    return Config(
        method=datm.Config(
            ipc=1,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimiser=Optimiser("adam", 0.1),
            lr_optimiser=Optimiser("adam", 0.001),
            label_optimiser=Optimiser("sgd", 2.0, 0.9),
            window=Window(start=6, end=12),
        ),
        workdir="runs/digits_datm",
    )
