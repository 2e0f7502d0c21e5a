"""MTT on captioned pictures, such as the stamps of Tux Paint: 20, 50 or 100 pairs.

Paper      Wu et al. 2024, Vision-Language Dataset Distillation, arXiv 2308.07545, and Xu et al. 2024, Low-Rank
           Similarity Mining for Multimodal Dataset Distillation, arXiv 2406.03793, which both match trajectories.
Command    jaxdd --config stamps_mtt:pairs=20 --data.name pairs:FOLDER
Data       FOLDER holds pictures and the dataset.json that says their captions and splits, as Karpathy's files do of
           Flickr30K (`jaxdd.data.pairs.read`); it is meant for some hundred pictures.
Published  nothing for such data.
Measured   mean recall 11.2, 13.3 and 15.5 % with 20, 50 and 100 pairs, random pairs 9.6, 11.2 and 12.4, herded
           ones 11.5, 11.3 and 13.2, all pairs 21.6, guessing 7.6, on 638 stamps: by tests/benchmarks/pairs.py, with
           these settings, three seeds and five networks each.
Ours       everything: a ConvNet from nothing for the pictures, hashed captions, a temperature of 0.2, at which such
           networks start (0.07 is published, for image networks that were trained before).
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe, RetrievalConfig, Window
from jaxdd.methods import Optimizer, mtt
from jaxdd.models import ConvNet
from jaxdd.models.dual import TextConfig


def get_config(pairs: int = 20) -> Config:
    return Config(
        data=DataConfig(name="pairs:stamps", image_size=32),
        model=ConvNet(width=32, depth=3, pooling="max"),
        text=TextConfig(embedding=64),
        retrieval=RetrievalConfig(temperature=0.2),
        experts=ExpertsConfig(
            count=4,
            recipe=Recipe(
                epochs=4, batch=64, lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none"
            ),
            snapshot_every=5,
        ),
        method=mtt.Config(
            ipc=pairs,
            steps=100,
            batch=20,
            image_optimizer=Optimizer("adam", 0.03),
            label_optimizer=Optimizer("adam", 0.01),
            student_steps=10,
            expert_snapshots=4,
            student_lr=0.2,
            lr_optimizer=Optimizer("sgd", 1e-4, 0.5),
            window=Window(start=24),
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=150 * 20 // pairs, batch=20, lr=0.1, schedule="cosine", augment="none"),
            full_recipe=Recipe(epochs=15, batch=64, lr=0.1, schedule="cosine", augment="none"),
            validate_every=25,
        ),
        workdir="runs/stamps_mtt",
    )
