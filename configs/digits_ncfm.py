"""NCFM on the real 8×8 digits, one image per class.

Paper      Wang et al. 2025, arXiv 2502.20653; it reports no digits.
Command    jaxdd --config digits_ncfm
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   91.3 ± 1.0 % test accuracy over 5 networks; random real images 72.1 ± 3.4 (5 draws, one network each). With
           --method.ipc 10: 97.7 ± 0.7, random real images 94.6 ± 1.4. 16 and 50 s of distillation on 2 CPU
           cores beside another measurement, jax 0.10.2, --evaluate.no-full-data.
Ours       all settings: Adam on the images, 256 frequencies, smaller real batches and fewer steps; no augmentation.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, ncfm


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=ncfm.Config(
            ipc=ipc,
            steps=300,
            image_optimizer=Optimizer("adam", 0.1),
            real_batch=64,
            frequencies=256,
        ),
        workdir="runs/digits_ncfm",
    )
