"""draft."""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, ModelConfig, Recipe, Window
from jaxdd.methods import Optimiser, infmatch


def get_config() -> Config:
    return Config(
        data=DataConfig(name="digits"),
        model=ModelConfig(name="convnet", width=32, depth=2),
        experts=ExpertsConfig(
            count=4,
            recipe=Recipe(
                epochs=20, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
            ),
            snapshot_every=2,
        ),
        method=infmatch.Config(
            ipc=1,
            steps=300,
            image_optimiser=Optimiser("adam", 0.1),
            estimator="second_order",
            tau=0.05,
            checkpoints=1,
            real_batch=64,
            window=Window(start=16),
        ),
        evaluate=EvaluateConfig(recipe=Recipe(epochs=300, augment="color_crop_cutout_scale_rotate")),
        seed=0,
        workdir="runs/digits_infmatch",
    )
