"""MTT on the real 8×8 digits, one image per class.

Paper      Cazenavette et al. 2022, arXiv 2203.11932; it reports no digits.
Command    jaxdd --config digits_mtt
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   90.8 ± 0.7 % test accuracy over 5 networks, with --method.ipc 10 98.0 ± 0.4; random real images
           72.1 ± 3.4 and 94.6 ± 1.4 (5 draws, one network each), full data 98.8 ± 0.3. 59 s on 2 CPU cores with jax
           0.10.2, compilation included.
Unroll     these numbers with --method.unroll.mode segmented; with auto, full here,
           91.2 ± 1.0 for one image per class.
Ours       all settings: snapshots every 2 steps, targets 4 snapshots ahead, Adam on the images.
"""

from jaxdd import Config
from jaxdd.methods import Optimizer, mtt


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=mtt.Config(
            ipc=ipc,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimizer=Optimizer("adam", 0.1),
            lr_optimizer=Optimizer("adam", 0.001),
        ),
        workdir="runs/digits_mtt",
    )
