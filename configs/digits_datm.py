"""DATM on the real 8×8 digits, one image per class.

Paper      Guo et al. 2024, arXiv 2310.05773; it reports no digits.
Command    jaxdd --config digits_datm
Data       scikit-learn's digits, 1299 train, 143 validation, 355 test; no download.
Measured   91.8 ± 1.3 % test accuracy over 5 networks; random real images 72.1 ± 3.4 (5 draws, one network each), full
           data 98.8 ± 0.3. With --method.ipc 10: 97.7 ± 0.6. Labels of all experts (--method.teachers all), unrolled in
           segments: 91.9 ± 2.1, and 97.9 ± 0.6 with --method.ipc 10 (random real images 94.6 ± 1.4); 35 s on 2 CPU
           cores with jax 0.10.2, compilation included, the baselines and the experts, those of MTT, not.
Ours       all settings: those of MTT beside it, and the learning rate of the labels.
"""

from jaxdd import Config, Window
from jaxdd.methods import Optimizer, datm


def get_config(ipc: int = 1) -> Config:
    return Config(
        method=datm.Config(
            ipc=ipc,
            steps=300,
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.1,
            image_optimizer=Optimizer("adam", 0.1),
            lr_optimizer=Optimizer("adam", 0.001),
            label_optimizer=Optimizer("sgd", 2.0, 0.9),
            window=Window(start=6, end=12),
        ),
        workdir="runs/digits_datm",
    )
