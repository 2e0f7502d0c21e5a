"""DC on the real 8×8 digits, one image per class.

Paper      Zhao et al. 2021, arXiv 2006.05929; it reports no digits.
Command    jaxdd --config digits_dc
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   91.9 ± 0.6 % test accuracy over 5 networks; random real images 72.1 ± 3.4 (5 draws, one network each). With
           --method.ipc 10: 97.0 ± 0.3, random real images 94.6 ± 1.4. 15 s of distillation on 2 CPU cores beside
           another measurement, jax 0.10.2, --evaluate.no-full-data.
Ours       Adam on the images and smaller real batches; a fresh network every step, as published for one image.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, dc


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=dc.Config(
            ipc=ipc,
            steps=300,
            init="real",
            image_optimizer=Optimizer("adam", 0.1),
            real_batch=64,
        ),
        workdir="runs/digits_dc",
    )
