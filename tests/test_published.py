"""Presets named for a paper, against what the paper and its code have.

A row is a preset, and what is published for it: the path of a setting, and its value at 1, 10 and 50 images per class,
or one for all. What a preset has otherwise stands in DIFFERS, with the words of its header that say so.
"""

import ast
import functools

import pytest

from jaxdd.app.config import PRESETS, load_config

MOMENTUM = {"method.image_optimizer.name": "sgd", "method.image_optimizer.momentum": 0.5}
EVALUATION = {
    "evaluate.recipe.lr": 0.01,
    "evaluate.recipe.momentum": 0.9,
    "evaluate.recipe.weight_decay": 5e-4,
    "evaluate.recipe.batch": 256,
    "evaluate.recipe.schedule": "step",
    "model.width": 128,
    "model.depth": 3,
}
DSA = "color_crop_cutout_flip_scale_rotate"
AUGMENTED = {"evaluate.recipe.epochs": 1000, "evaluate.recipe.augment": DSA, "method.augment": DSA}
EXPERTS = {
    "experts.count": 100,
    "experts.snapshot_every": 196,  # steps of an epoch of all 50 000 images
    "experts.recipe.epochs": 50,
    "experts.recipe.batch": 256,
    "experts.recipe.lr": 0.01,
    "experts.recipe.momentum": 0.0,
    "experts.recipe.weight_decay": 0.0,
    "experts.recipe.augment": DSA,
}
STUDENT = {
    "method.expert_snapshots": 2,
    "method.lr_optimizer.momentum": 0.5,
    "method.lr_optimizer.lr": (1e-7, 1e-5, 1e-5),
}
GRADIENTS = {
    **MOMENTUM,
    **EVALUATION,
    "method.image_optimizer.lr": 0.1,
    "method.outer_loop": (1, 10, 50),
    "method.inner_loop": (1, 50, 10),
    "method.steps": (1000, 10_000, 50_000),
    "method.real_batch": 256,
    "method.network_batch": 256,
    "method.network_optimizer.lr": 0.01,
    "method.network_optimizer.momentum": 0.0,
    "method.distance": "cosine",
    "data.normalization": "published",
    "data.validation": 0.0,
}
PUBLISHED = {
    # arXiv 2006.05929, and main.py and utils.py of its code
    "cifar10_dc": {
        **GRADIENTS,
        "evaluate.recipe.epochs": 300,
        "evaluate.recipe.augment": "none",
        "method.init": "noise",
        "method.augment": "none",
    },
    # arXiv 2102.08259, and the command in its code's README
    "cifar10_dc:method=dsa": {
        **GRADIENTS,
        **AUGMENTED,
        "method.network_augment": None,  # that of the matching
        "method.init": "real",
    },
    # arXiv 2110.04181, and main_DM.py of its code
    "cifar10_dm": {
        **MOMENTUM,
        **EVALUATION,
        **AUGMENTED,
        "method.image_optimizer.lr": 1.0,
        "method.steps": 20_000,
        "method.real_batch": 256,
        "method.init": "real",
        "data.normalization": "published",
        "data.validation": 0.0,
    },
    # arXiv 2203.11932, Table 6, and buffer.py of its code
    "cifar10_mtt": {
        **MOMENTUM,
        **EVALUATION,
        **AUGMENTED,
        **EXPERTS,
        **STUDENT,
        "method.image_optimizer.lr": (100.0, 100.0, 1000.0),
        "method.student_steps": (50, 30, 30),
        "method.student_lr": (0.01, 0.001, 0.001),
        "method.window.start": (2, 20, 40),
        "method.steps": 5000,
        "method.batch": None,
        "method.init": "real",
        "method.labels": "hard",
        "data.normalization": ("zca", "zca", "published"),
        "data.validation": 0.0,
    },
    # arXiv 2310.05773, and configs/CIFAR-10/ConvNet of its code
    "cifar10_datm": {
        **MOMENTUM,
        **EVALUATION,
        **AUGMENTED,
        **EXPERTS,
        **STUDENT,
        "evaluate.recipe.batch": 128,
        "experts.recipe.epochs": 100,
        "experts.recipe.sharpness": 0.01,
        "method.image_optimizer.lr": (100.0, 100.0, 1000.0),
        "method.label_optimizer.lr": (5.0, 2.0, 2.0),
        "method.label_optimizer.momentum": 0.9,
        "method.student_steps": 80,
        "method.student_lr": 0.01,
        "method.window.start": (4, 10, 20),
        "method.window.end": (None, 20, 40),
        "method.window.grow": (None, 1000, 2000),
        "method.loss_threshold": (1.1, 1.0, 1.0),
        "method.steps": 10_000,
        "method.batch": (None, None, 500),
        "method.init": "correct",
        "method.labels": "learned",
        "method.teachers": "right",
        "data.normalization": "zca",
        "data.validation": 0.0,
    },
    # arXiv 2205.14959, and argument.py and misc/reproduce.py of its code
    "cifar10_idc": {
        **MOMENTUM,
        **EVALUATION,
        "evaluate.recipe.epochs": 1000,
        "evaluate.recipe.batch": 64,
        "evaluate.recipe.schedule": "two_steps",
        "evaluate.recipe.cutmix": 0.5,
        "evaluate.recipe.augment": "flip+color+crop_scale_rotate",
        "method.image_optimizer.lr": (0.0005, 0.005, 0.025),
        "method.steps": 200_000,
        "method.factor": 2,
        "method.distance": "convolution_mse",
        "method.real_batch": 64,
        "method.augment": "color+crop+cutout",
        "method.network": "real",
        "method.outer_loop": 100,
        "method.inner_loop": 32,
        "method.network_batch": 64,
        "method.network_optimizer.lr": 0.01,
        "method.network_optimizer.momentum": 0.9,
        "method.network_weight_decay": 5e-4,
        "method.network_augment": "color+crop",
        "method.network_cutmix": 0.5,
        "method.init": "real",
        "data.normalization": "published",
        "data.validation": 0.0,
    },
    # arXiv 2502.20653, and config/ipc*/cifar10.yaml of its code
    "cifar10_ncfm": {
        "model.width": 128,
        "model.depth": 3,
        "experts.count": 20,
        "experts.recipe.epochs": 60,
        "experts.recipe.batch": 128,
        "experts.recipe.lr": 0.01,
        "experts.recipe.momentum": 0.9,
        "experts.recipe.weight_decay": 5e-4,
        "experts.recipe.schedule": "two_steps",
        "experts.recipe.augment": "color+crop",
        "experts.recipe.cutmix": 0.5,
        "evaluate.recipe.epochs": 2000,
        "evaluate.recipe.batch": 128,
        "evaluate.recipe.schedule": "half at each fifth",
        "evaluate.recipe.augment": "flip+color+crop_scale_rotate",
        "evaluate.recipe.cutmix": 0.5,
        "method.image_optimizer.name": "adamw",
        "method.image_optimizer.lr": 0.001,
        "method.steps": 20_000,
        "method.factor": 2,
        "method.real_batch": 1024,
        "method.frequencies": 4096,
        "method.amplitude": 0.5,
        "method.calibration": 1.0,
        "method.sampler": None,
        "method.augment": "color+crop+cutout",
        "method.init": "real",
        "data.normalization": "published",
        "data.validation": 0.0,
    },
    # arXiv 2311.07025, and the command for CIFAR-10 in its code's README
    "cifar10_rat_bptt": {
        "model.width": 128,
        "model.depth": 3,
        "evaluate.recipe.augment": "flip_rotate",
        "method.steps": 600_000,  # 60 000 passes, ten batches each
        "method.student_steps": 200,
        "method.window": 60,
        "method.schedule": "random",
        "method.student_optimizer.name": "adam",
        "method.student_optimizer.lr": 0.001,
        "method.image_optimizer.name": "adam",
        "method.image_optimizer.lr": 0.001,
        "method.real_batch": 5000,
        "method.augment": "flip_rotate",
        "method.clip": 2.0,
        "method.clip_memory": 0.9,
        "method.init": "noise",
        "data.normalization": "zca",
        "data.validation": 0.0,
    },
    # arXiv 2203.01531, and distill.py of its code
    "cifar10_cafe": {
        **MOMENTUM,
        **EVALUATION,
        "evaluate.recipe.epochs": 600,
        "evaluate.recipe.augment": "none",
        "method.image_optimizer.lr": 0.1,
        "method.steps": None,  # networks, 2000
        "method.real_batch": 256,
        "method.early_weight": 0.1,
        "method.discrimination": 0.01,
        "method.queries": 128,
        "method.settled": 0.04,
        "method.moved": 0.03,
        "method.network_batch": 256,
        "method.network_optimizer.lr": 0.01,
        "method.network_optimizer.momentum": 0.0,
        "method.init": "noise",
        "method.augment": "none",
        "data.normalization": "published",
        "data.validation": 0.0,
    },
}
PUBLISHED["cifar10_iadd"] = PUBLISHED["cifar10_mtt"]  # which it extends; its own table is not available
STATISTICS = {
    "data.validation": "validation split (a tenth of train) chooses the set",
    "data.normalization": "--data.normalization published",
}
DIFFERS = {
    "cifar10_dc": STATISTICS,
    "cifar10_dc:method=dsa": STATISTICS,
    "cifar10_dm": STATISTICS,
    "cifar10_idc": {
        "data.validation": STATISTICS["data.validation"],
        "method.image_optimizer.lr": "0.0005 · ipc for those in [0, 1], is 0.0125 · ipc for standardized ones",
    },
    "cifar10_ncfm": {
        "data.validation": STATISTICS["data.validation"],
        "evaluate.recipe.schedule": "at half the rate from each fifth on",
        "method.image_optimizer.name": "Adam in place of AdamW",
        "method.image_optimizer.lr": "0.001 for pixels in [0, 1], is 0.005 for standardized ones",
    },
    "cifar10_rat_bptt": {
        "data.validation": STATISTICS["data.validation"],
        "method.steps": "30 000 are 3333 passes over the training images",
        "method.init": "The first images are real, theirs are noise of norm 1",
        "evaluate.recipe.augment": "theirs by Adam with flip and rotate",
    },
    "cifar10_cafe": STATISTICS | {"method.steps": "published are 2000 networks"},
    "cifar10_mtt": {"data.validation": STATISTICS["data.validation"]},
    "cifar10_iadd": {"data.validation": "validation split and positive student learning rate as for MTT"},
    "cifar10_datm": {
        "data.validation": STATISTICS["data.validation"],
        "evaluate.recipe.batch": "evaluation in batches of 256 (theirs 128)",
    },
}
OTHERS = {
    "cifar10_random": "no method",
    "cifar10_dc_iwd": "those of IWD are not public",
    "cifar10_infmatch": "the paper leaves most out, and its released code runs another method",
}
"""Presets of CIFAR-10 that have no row here, and why."""


def differences(name):
    """Settings of a preset that are not as published: `{path}`, over all numbers of images per class."""
    found = set()
    for i, ipc in enumerate((1, 10, 50)):
        config = load_config(f"{name}{',' if ':' in name else ':'}ipc={ipc}")
        for path, value in PUBLISHED[name].items():
            expected = value[i] if isinstance(value, tuple) else value
            if functools.reduce(getattr, path.split("."), config) != expected:
                found.add(path)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_settings_or_says_what_differs(name):
    assert differences(name) == set(DIFFERS[name])
    header = " ".join(ast.get_docstring(ast.parse(PRESETS[name.partition(":")[0]].read_text())).split())
    for words in DIFFERS[name].values():
        assert words in header


def test_every_preset_of_cifar10_is_compared_or_has_a_reason():
    assert {name for name in PRESETS if name.startswith("cifar10")} == {
        name.partition(":")[0] for name in (*PUBLISHED, *OTHERS)
    }
