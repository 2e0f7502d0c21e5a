"""DM on the real 8×8 digits, one image per class.

Paper      Zhao & Bilen 2023, arXiv 2110.04181; it reports no digits.
Command    jaxdd --config digits_dm
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   93.1 ± 0.6 % test accuracy over 5 networks; random real images 72.1 ± 3.4 (5 draws, one network each). With
           --method.ipc 10: 98.0 ± 0.6, random real images 94.6 ± 1.4. 10 and 56 s of distillation on 2 CPU
           cores beside another measurement, jax 0.10.2, --evaluate.no-full-data.
Ours       Adam on the images, smaller real batches and fewer steps; no augmentation.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, dm


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=dm.Config(
            ipc=ipc,
            steps=300,
            image_optimizer=Optimizer("adam", 0.1),
            real_batch=64,
        ),
        workdir="runs/digits_dm",
    )
