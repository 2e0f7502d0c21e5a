"""MTT on Flickr30K, 29 000 pictures with five captions each: 100, 200 or 500 pairs.

Paper      Wu et al. 2024, Vision-Language Dataset Distillation, arXiv 2308.07545 (20 experts of 10 epochs, 8 student
           steps for an epoch of the experts, which start in the first two, image learning rate 1000, student learning
           rates 0.1, one learned for each encoder, encoders measured each by itself).
Command    jaxdd --config flickr30k_mtt:pairs=100 --data.name pairs:FOLDER
Data       FOLDER holds the pictures in images/ and Karpathy's dataset.json of Flickr30K.
Published  VL-distill: text of an image (TR@1) 9.9, 10.2 and 13.3 %, image of a text (IR@1) 4.7, 4.6 and 6.6 %, with a
           pretrained NFNet-l0; random pairs 1.3, 2.1 and 5.2 %, and 1.0, 1.1 and 2.4 %; all pairs 33.9 and 27.3 %.
Measured   not yet. Needs an accelerator.
Ours       the image network, a ResNet-18 from nothing in place of a pretrained NFNet-l0; hashed captions in place of
           BERT (--text.encoder file:NPZ takes any); mini-batches of 20, 3000 steps; no augmentation; the validation
           split chooses, theirs is the best of ten times on test.
"""

from jaxdd import Config, DataConfig, EvaluateConfig, ExpertsConfig, Recipe, Window
from jaxdd.methods import Optimizer, mtt
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
            snapshot_every=1133,
        ),
        method=mtt.Config(
            ipc=pairs,
            steps=3000,
            student_steps=8,
            expert_snapshots=1,
            student_lr=0.1,
            image_optimizer=Optimizer("sgd", 1000.0, 0.5),
            lr_optimizer=Optimizer("sgd", 1e-2, 0.5),
            relative_to="branches",
            lr_of="branches",
            window=Window(start=2),
            batch=20,
        ),
        evaluate=EvaluateConfig(
            recipe=Recipe(epochs=50, batch=128, lr=0.1, schedule="step", augment="none"),
            full_recipe=Recipe(epochs=10, batch=128, lr=0.1, schedule="cosine", augment="none"),
            validate_every=500,
        ),
        workdir="runs/flickr30k_mtt",
    )
