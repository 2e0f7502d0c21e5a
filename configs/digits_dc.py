"""DC on the real 8×8 digits, one image per class.

Paper      Zhao et al. 2021, arXiv 2006.05929; it reports no digits.
Command    python -m jaxdd.main --config configs/digits_dc.py
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   not yet.
Ours       Adam on the images and smaller real batches; a fresh network every step, as published for one image.
"""

from jaxdd import Config
from jaxdd.methods import Optimiser, dc


def get_config() -> Config:
    return Config(
        method=dc.Config(
            ipc=1,
            steps=300,
            init="real",
            image_optimiser=Optimiser("adam", 0.1),
            real_batch=64,
        ),
        workdir="runs/digits_dc",
    )
