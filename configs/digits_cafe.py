"""CAFE on the real 8×8 digits, one image per class.

Paper      Wang et al. 2022, arXiv 2203.01531; it reports no digits.
Command    jaxdd --config digits_cafe
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   92.0 ± 0.9 % test accuracy over 5 networks; random real images 72.1 ± 3.4 (5 draws, one network each).
           With :ipc=10: 98.0 ± 0.4, random real images 94.6 ± 1.4.
           On 2 CPU cores, jax 0.10.2, --evaluate.no-full-data.
Ours       Adam on the images, real images first, smaller real batches.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, cafe


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=cafe.Config(
            ipc=ipc,
            steps=300,
            init="real",
            image_optimizer=Optimizer("adam", 0.03),
            real_batch=64,
            queries=32,
        ),
        workdir="runs/digits_cafe",
    )
