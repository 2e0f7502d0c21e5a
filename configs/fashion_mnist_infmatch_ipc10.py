"""draft"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, ModelConfig, Recipe, Window
from jaxdd.methods import infmatch


def get_config() -> Config:
    return Config(
        data=DataConfig(name="fashion_mnist"),
        model=ModelConfig(width=32, depth=3),
        experts=ExpertsConfig(
            count=4,
            recipe=Recipe(
                epochs=1, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
            ),
            snapshot_every=2,
            keep=64,
        ),
        method=infmatch.Config(ipc=10, steps=1000, cache=2048, real_batch=128, window=Window(start=16)),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=300, augment="color_crop_cutout_flip_scale_rotate"),
            full_recipe=Recipe(
                epochs=5, batch=128, lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", augment="none"
            ),
            validate_every=100,
        ),
        workdir="runs/fashion_mnist_infmatch_ipc10",
    )
