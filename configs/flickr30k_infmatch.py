"""Inf-Match on Flickr30K, 29 000 pictures with five captions each: 100, 200 or 500 pairs.

Paper      Dataset Distillation by Influence Matching, CVPR 2026.
Command    jaxdd --config flickr30k_infmatch:pairs=100 --data.name pairs:FOLDER
Data       FOLDER holds the pictures in images/ and Karpathy's dataset.json of Flickr30K.
Published  200 pairs: text of an image (TR@1) 7.4 %; 1000 pairs: image of a text (IR@1) 16.4 %. Its protocol is another
           one than that of VL-distill (10.2 % with 200 pairs), and is not told.
Measured   not yet. Needs an accelerator.
Ours       everything but the method: a ResNet-18 from nothing, hashed captions (--text.encoder file:NPZ takes any),
           experts, steps and learning rates.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe, Window
from jaxdd.methods import Optimizer, infmatch
from jaxdd.models import ResNet
from jaxdd.models.dual import TextConfig


def get_config(pairs: int = 100) -> Config:
    return Config(
        data=DataConfig(name="pairs:flickr30k", image_size=224),
        model=ResNet(depth=18),
        text=TextConfig(head="residual", embedding=512),
        experts=ExpertsConfig(
            count=20,
            recipe=Recipe(
                epochs=10, batch=128, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
            ),
            snapshot_every=100,
        ),
        method=infmatch.Config(
            ipc=pairs,
            steps=3000,
            estimator="second_order",
            real_batch=128,
            batch=50,
            image_optimizer=Optimizer("adam", 0.03),
            window=Window(start=20, end=100, grow=2000),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=50, batch=128, lr=0.1, schedule="step", augment="none"),
            full_recipe=Recipe(epochs=10, batch=128, lr=0.1, schedule="cosine", augment="none"),
            validate_every=500,
        ),
        workdir="runs/flickr30k_infmatch",
    )
