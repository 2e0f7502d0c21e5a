"""Whatever cannot work is refused in one line, which names it and says what to give: a row for each case."""

import dataclasses
import json
import math
import os
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdd
from jaxdd import Card, Config, Distilled, EvaluateConfig, InfluenceConfig, Recipe, Weighting, Window, data, influence
from jaxdd.core.distilled import hard_labels
from jaxdd.core.normalization import Standardize
from jaxdd.data.splits import subset
from jaxdd.errors import Diverged, SettingError
from jaxdd.influence import Solver
from jaxdd.main import main
from jaxdd.methods import Optimizer, coresets, datm, dc, ddpp, dm, iadd, infmatch, mtt, ncfm
from jaxdd.models import MLP, ConvNet

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (36, 8, 8, 3), np.uint8), np.arange(36) % 3
TEST = (IMAGES[:9], LABELS[:9])


def arrays(images=IMAGES, labels=LABELS, test_images=IMAGES[:9], test_labels=LABELS[:9], **options):
    return lambda folder: data.from_arrays(images, labels, test_images, test_labels, **options)


def images_in(folder, *paths, suffix="png"):
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[number % len(IMAGES)]).save(folder / f"{path}.{suffix}")


def folder_of(*paths, then=lambda folder: None, **options):
    def load(folder):
        images_in(folder, *paths)
        then(folder)
        data.load(f"folder:{folder}", **options)

    return load


def animation(folder):
    frames = [Image.fromarray(image) for image in IMAGES[:2]]
    frames[0].save(folder / "ant" / "moving.gif", save_all=True, append_images=frames[1:])


CLASSES = [f"{name}/{number}" for name in ("ant", "bee") for number in range(5)]
SPLITS = [f"{split}/{name}" for split in ("Train", "Test") for name in CLASSES]


def stored(config=None, **changes):
    """Load a set of three images, whose file has other arrays."""

    def load(folder):
        if config is not None:
            changes["provenance"] = np.str_(json.dumps({"config": config}))
        path = folder / "set.npz"
        inputs = jnp.zeros((3, 8, 8, 3))
        fitted = Standardize(np.zeros(3, np.float32), np.ones(3, np.float32))
        card = Card("arrays", ("a", "b", "c"), "hard", fitted)
        Distilled(inputs, hard_labels(np.arange(3), 3), jnp.float32(0.1)).save(path, card)
        with np.load(path) as file:
            given = dict(file)
        np.savez(path, **(given | changes))
        if config is None:
            Distilled.load(path)
        else:
            main_line = shlex.join(["evaluate", str(path), "--networks", "1"])
            raise SettingError(run(main_line))

    return load


def raw(content):
    def load(folder):
        (folder / "set.npz").write_bytes(content)
        Distilled.load(folder / "set.npz")

    return load


def announced(shape):
    """Load a set, the header of whose images promises more than there is."""

    def load(folder):
        import zipfile

        stored()(folder)
        with zipfile.ZipFile(folder / "set.npz") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        header = b"\x93NUMPY\x01\x00"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        members["images.npy"] = header + len(text).to_bytes(2, "little") + text
        with zipfile.ZipFile(folder / "set.npz", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        Distilled.load(folder / "set.npz")

    return load


@pytest.fixture(scope="module")
def things():
    """A small task, its data and a set."""
    dataset = data.from_arrays(IMAGES, LABELS, *TEST)
    model = jaxdd.models.build(MLP(width=4, depth=0), dataset.image_shape, 3)
    distilled = Distilled(jnp.zeros((3, 8, 8, 3)), hard_labels(np.arange(3), 3), jnp.float32(0.1))
    return jaxdd.classification(model, 3), dataset, distilled, model


def api(call):
    """Mark a call of the parts of `things`."""
    call.api = True
    return call


TRUSTING = Weighting(score="implicit", evaluated_on="validation")

ROWS = {
    # Settings, in a notebook or a config file.
    "ipc a text": (lambda _: dm.Config(ipc="1"), "method.ipc is '1'; give a whole number"),
    "ipc a fraction": (lambda _: dm.Config(ipc=1.5), "method.ipc is 1.5; give a whole number"),
    "ipc none": (lambda _: dm.Config(ipc=None), "method.ipc is None; give a whole number"),
    "ipc true": (lambda _: dm.Config(ipc=True), "method.ipc is True; give a whole number"),
    "ipc zero": (lambda _: dm.Config(ipc=0), "method.ipc is 0; give 1 or more"),
    "networks a float": (
        lambda _: EvaluateConfig(networks=2.0),
        "evaluate.networks is 2.0; give a whole number",
    ),
    "steps beyond int32": (lambda _: dm.Config(steps=10**11), "method.steps is 100000000000; give at most 2147483647"),
    "epochs 10^15": (lambda _: Recipe(epochs=10**15), "recipe.epochs is 1000000000000000; give one in [1, 1000000]"),
    "seed negative": (lambda _: Config(seed=-1), "seed is -1; give one in [0, 4294967295]"),
    "seed a text": (lambda _: Config(seed="abc"), "seed is 'abc'; give a whole number"),
    "split seed": (lambda _: jaxdd.DataConfig(split_seed=-1), "data.split_seed is -1; give one in [0, 4294967295]"),
    "noise seed": (lambda _: jaxdd.DataConfig(noise_seed=-1), "data.noise_seed is -1; give one in [0, 4294967295]"),
    "width a text": (lambda _: ConvNet(width="32"), "model.width is '32'; give a whole number"),
    "width beyond memory": (lambda _: ConvNet(width=10**11), "model.width is 100000000000; give one in [1, 65536]"),
    "lr infinite": (lambda _: Recipe(lr=math.inf), "recipe.lr is inf; give more than 0"),
    "lr not a number": (lambda _: Recipe(lr=math.nan), "recipe.lr is nan; give more than 0"),
    "lr a text": (lambda _: Recipe(lr="0.1"), "recipe.lr is '0.1'; give a number"),
    "weight decay": (lambda _: Recipe(weight_decay=math.inf), "recipe.weight_decay is inf; give 0 or more"),
    "sharpness": (lambda _: Recipe(sharpness=math.inf), "recipe.sharpness is inf; give 0 or more"),
    "augment a number": (lambda _: Recipe(augment=3), "recipe.augment is 3; give text"),
    "outer lr": (lambda _: Optimizer(lr=math.inf), "optimizer.lr is inf; give 0 or more"),
    "outer momentum": (lambda _: Optimizer(momentum=1.0), "optimizer.momentum is 1.0; give one in [0, 1)"),
    "tau": (lambda _: infmatch.Config(tau=math.inf), "method.tau is inf; give more than 0"),
    "temperature": (
        lambda _: Weighting(temperature=-1.0),
        "method.weighting.temperature is -1.0; give more than 0, wh",
    ),
    "fraction": (lambda _: Weighting(fraction=1.0), "method.weighting.fraction is 1.0; give one in (0, 1)"),
    "bound": (lambda _: iadd.Config(bound=1.0), "method.bound is 1.0; give more than 1"),
    "amount": (lambda _: ddpp.Config(amount=-0.1), "method.amount is -0.1; give 0 or more, which may be inf, or leave"),
    "amplitude": (lambda _: ncfm.Config(amplitude=1.1), "method.amplitude is 1.1; give one in [0, 1]"),
    "threshold": (
        lambda _: datm.Config(loss_threshold=0.0),
        "method.loss_threshold is 0.0; give more than 0, or leave",
    ),
    "student batch": (lambda _: mtt.Config(batch=0), "method.batch is 0; give 1 or more, or leave it out"),
    "damping": (lambda _: Solver(damping=-1.0), "influence.solver.damping is -1.0; give 0 or more"),
    "optimizer a text": (
        lambda _: dm.Config(image_optimizer="sgd"),
        "method.image_optimizer is 'sgd'; give an instance of Optimizer",
    ),
    "optimizer a class": (
        lambda _: dm.Config(image_optimizer=Optimizer),
        "method.image_optimizer is the class Optimizer; call it: Optimizer()",
    ),
    "distance": (lambda _: dc.Config(distance=["cosine"]), "method.distance is of type list; choose one of cosine, "),
    "method a class": (lambda _: Config(method=dm.Config), "method is the class Config; call it: Config()"),
    "method a module": (
        lambda _: Config(method=dm),
        "method is the module jaxdd.methods.dm; give an instance of MethodConfig",
    ),
    "workdir none": (lambda _: Config(workdir=None), "workdir is None; give text"),
    "workdir empty": (lambda _: Config(workdir=""), "workdir is ''; give a path on this machine's disks"),
    "workdir of a home": (lambda _: Config(workdir="~/a"), "workdir is '~/a', which only a shell reads as a home"),
    "workdir remote": (lambda _: Config(workdir="gs://a/b"), "workdir is 'gs://a/b'; give a path on this machine's di"),
    "window": (lambda _: Window(first=3, start=2), "window has first=3, start=2, end=None; it needs 0 <= first < st"),
    "window end": (lambda _: Window(end=1.5), "window.end is 1.5; give a whole number, or leave it out"),
    "coreset of noise": (lambda _: coresets.Config(init="noise"), "method.init is 'noise'; a coreset is made of real"),
    # Arrays.
    "label 2^32": (arrays(labels=LABELS.astype(np.int64) + 2**32), "train labels span 4294967296..4294967298, but cl"),
    "label 10^8": (arrays(labels=np.where(LABELS == 2, 10**8, LABELS)), "train labels go up to 100000000, but 36 exam"),
    "labels of floats": (arrays(labels=LABELS / 1), "train labels must be integers of shape [N], got float64 [36]"),
    "labels none": (arrays(labels=None), "train labels must be integers of shape [N], got object []"),
    "images none": (arrays(images=None), "train images have dtype object, but pixels are needed: pass an array of ui"),
    "images of text": (arrays(images=np.full((36, 8, 8), "x")), "train images have dtype <U1, but pixels are needed"),
    "images not numbers": (
        arrays(images=np.full((36, 8, 8), np.nan)),
        "train images have dtype float64 and range [nan",
    ),
    "images without rows": (arrays(images=IMAGES[:, :0]), "train images have shape [36, 0, 8, 3], without a pixel"),
    "swapped arrays": (
        lambda _: data.from_arrays(IMAGES, IMAGES[:9], LABELS, LABELS[:9]),
        "train labels must be integers of shape [N], got uint8 [9, 8, 8, 3]; the order is train images, train labels, ",
    ),
    "same names": (arrays(class_names=["a", "b", "a"]), "two classes are called 'a'; give every class a name of"),
    "names none": (arrays(class_names=[None, "b", "c"]), "a class name is None; give text"),
    "names a text": (arrays(class_names="abc"), "class_names is 'abc'; give a list of names, one for each class"),
    "validation a text": (arrays(validation="0.1"), "data.validation is '0.1'; give a number"),
    "validation one": (arrays(validation=1.0), "data.validation is 1.0; give one in [0, 1)"),
    "normalization a list": (arrays(normalization=["zca"]), "data.normalization is of type list; choose one of stand"),
    "split seed of arrays": (arrays(split_seed=-1), "data.split_seed is -1; give one in [0, 4294967295]"),
    # Folders.
    "capital splits": (folder_of(*SPLITS), "{folder}/Test looks like a split, not a class; rename it test"),
    "images beside": (folder_of(*CLASSES, "stray"), "1 images lie beside the class folders of {folder}, the first str"),
    "linked class": (
        folder_of(*CLASSES, then=lambda folder: os.symlink(folder / "ant", folder / "cat")),
        "the classes 'ant' and 'cat' of {folder} are one folder; delete the link to it",
    ),
    "animation": (
        folder_of(*CLASSES, then=animation),
        "the image {folder}/ant/moving.gif has 2 frames or pages; extract",
    ),
    "undecodable": (
        folder_of(*CLASSES, then=lambda folder: (folder / "bee" / "x.png").write_text("no image")),
        "cannot decode the image {folder}/bee/x.png (of no known format); replace or delete it",
    ),
    "one image a class": (folder_of("ant/0", "bee/0"), "the classes of {folder} are too small to make a test split of"),
    "images beyond memory": (
        folder_of(*CLASSES, image_size=10**6),
        "data.image_size is 1000000, and 10 images of that size take 27939.7 GiB, more than half of this machine's ",
    ),
    # Arguments.
    "swapped arguments": (
        api(lambda task, dataset, distilled, model: jaxdd.distill(dataset, model, dm.Config())),
        "a task is needed and this is a Dataset: say what the network does, such as jaxdd.classification(model, ",
    ),
    "model for a task": (
        api(lambda task, dataset, distilled, model: jaxdd.evaluate(model, dataset, distilled)),
        "a task is needed and this is a Model: say what the network does",
    ),
    "split for a dataset": (
        api(lambda task, dataset, distilled, model: jaxdd.distill(task, dataset.train, dm.Config())),
        "the dataset is of type Split; give what jaxdd.data.load or jaxdd.data.from_arrays returns, after the task",
    ),
    "config class": (
        api(lambda task, dataset, distilled, model: jaxdd.distill(task, dataset, dm.Config)),
        "the method's config is the class Config; call it: Config()",
    ),
    "config a name": (
        api(lambda task, dataset, distilled, model: jaxdd.distill(task, dataset, "dm")),
        "the method's config is 'dm'; give one such as jaxdd.methods.dm.Config(ipc=1)",
    ),
    "config a module": (
        api(lambda task, dataset, distilled, model: jaxdd.distill(task, dataset, dm)),
        "the method's config is the module jaxdd.methods.dm; give one such as jaxdd.methods.dm.Config(ipc=1)",
    ),
    "nothing to learn from": (
        api(
            lambda task, dataset, distilled, model: jaxdd.distill(
                task,
                dataclasses.replace(dataset, validation=subset(dataset.validation, slice(0))),
                dm.Config(weighting=TRUSTING),
            )
        ),
        "the method learns from the validation split, which is empty; raise data.validation",
    ),
    "set a path": (
        api(lambda task, dataset, distilled, model: jaxdd.evaluate(task, dataset, "distilled.npz")),
        "the set is 'distilled.npz'; give a jaxdd.Distilled",
    ),
    "split for a real set": (
        api(
            lambda task, dataset, distilled, model: influence.scores(
                task, dataset.train, dataset.test_set(), None, InfluenceConfig()
            )
        ),
        "train is of type Split; give a set of real examples, such as dataset.real_set()",
    ),
    "model config a text": (
        lambda _: jaxdd.models.build("mlp", (8, 8, 1), 3),
        "the model's config is 'mlp'; give settings of jaxdd.models, such as ConvNet()",
    ),
    # Files of sets, each named.
    "two bytes": (raw(b"PK"), "{set}: the npz file is truncated or damaged (File is not a zip file)"),
    "no zip": (raw(b"images"), "{set}: it is not an npz file"),
    "images nan": (
        stored(images=np.full((3, 8, 8, 3), np.nan, np.float32)),
        "{set}: images holds 576 numbers that are",
    ),
    "images inf": (
        stored(images=np.full((3, 8, 8, 3), np.inf, np.float32)),
        "{set}: images holds 576 numbers that are",
    ),
    "images int": (stored(images=np.zeros((3, 8, 8, 3), int)), "{set}: images holds int64, and floats are needed"),
    "images complex": (stored(images=np.zeros((3, 8, 8, 3), complex)), "{set}: images holds complex128, and floats"),
    "images texts": (stored(images=np.full((3, 8, 8, 3), "x")), "{set}: images holds <U1, and floats are needed"),
    "images objects": (stored(images=np.array([None] * 3)), "{set}: the array 'images' holds object, neither numbers"),
    "no images": (
        stored(images=np.zeros((0, 8, 8, 3), np.float32), labels=np.zeros(0, np.int32)),
        "{set}: images must be [M, H, W, K], none of them 0, got [0, 8, 8, 3]",
    ),
    "logits nan": (
        stored(label_kind=np.str_("logits"), labels=np.full((3, 3), np.nan, np.float32)),
        "{set}: labels holds 9 numbers that are not finite",
    ),
    "negative probabilities": (
        stored(label_kind=np.str_("probabilities"), labels=np.full((3, 3), -1, np.float32)),
        "{set}: labels are probabilities, and the least is -1.0",
    ),
    "lr nan": (stored(lr=np.float32(np.nan)), "{set}: lr holds 1 numbers that are not finite"),
    "lr negative": (stored(lr=np.float32(-1)), "{set}: lr is -1.0, and a learning rate is positive"),
    "lr of text": (stored(lr=np.str_("0.1")), "{set}: lr holds <U3, and floats are needed"),
    "std zero": (
        stored(normalization_std=np.zeros(3, np.float32)),
        "{set}: the normalization's std is [0.0, 0.0, 0.0]",
    ),
    "std nan": (
        stored(normalization_std=np.full(3, np.nan)),
        "{set}: the normalization's std is float64 [3], and finite",
    ),
    "std texts": (
        stored(normalization_std=np.full(3, "x")),
        "{set}: the normalization's std is <U1 [3], and finite flo",
    ),
    "std of one": (
        stored(normalization_std=np.ones(1)),
        "{set}: normalization_std is [1], but images are [3, 8, 8, 3]",
    ),
    "names numbers": (stored(class_names=np.arange(3)), "{set}: class_names is int64 [3], and a list of texts is need"),
    "version a text": (stored(format_version=np.str_("2")), "{set}: its format version is 2, and this jaxdd reads"),
    "version an array": (stored(format_version=np.arange(3)), "{set}: its format version is [0 1 2], and this jaxdd"),
    "recipe null": (stored(recipe=np.str_("null")), "{set}: recipe is no JSON object but None"),
    "recipe nested": (
        stored(recipe=np.str_("[" * 100_000)),
        "{set}: recipe is no JSON (maximum recursion depth exceede",
    ),
    "provenance a list": (stored(provenance=np.str_("[]")), "{set}: provenance is no JSON object but []"),
    "header of terabytes": (
        announced((10**6, 1000, 1000, 1)),
        "{set}: the array 'images' claims 4000000000000 bytes, m",
    ),
    "folder for a set": (lambda folder: Distilled.load(folder), "{folder} is a folder; give the distilled.npz in it"),
    # Cards of sets, as `evaluate` reads them.
    "card: name a number": (stored({"data": {"name": 3}}), "that this jaxdd does not have (data.name is 3; give text)"),
    "card: width a text": (stored({"model": {"width": "9"}}), "not have (model.width is '9'; give a whole number)"),
    "card: seed a text": (stored({"seed": "x"}), "not have (seed is 'x'; give a whole number)"),
    "card: recipe": (stored({}, recipe=np.str_('{"augment": 3}')), "not have (recipe.augment is 3; give text)"),
    "card: epochs": (
        stored({}, recipe=np.str_(f'{{"epochs": {10**15}}}')),
        "not have (recipe.epochs is 1000000000000000; give one in [1, 1000000])",
    ),
    "card: full recipe": (stored({"evaluate": {"full_recipe": [1]}}), "with settings that this jaxdd does not have ("),
    "card: another method": (stored({"data": {"nome": "digits"}}), "unexpected keyword argument 'nome'"),
    # The command line.
    "--method.steps": ("--method.steps 99999999999", "method.steps is 99999999999; give at most 2147483647"),
    "--seed": ("--seed 99999999999999999999", "seed is 99999999999999999999; give one in [0, 4294967295]"),
    "--model.width": ("--model.width 99999999999", "model.width is 99999999999; give one in [1, 65536]"),
    "--workdir": ("--workdir ''", "workdir is ''; give a path on this machine's disks"),
    "--data.split-seed": ("--data.split-seed -1", "data.split_seed is -1; give one in [0, 4294967295]"),
    "--data.image-size": ("--data.image-size 100000", "data.image_size is 100000, and 1797 images of that size take"),
    "--data.validation": ("--data.validation 0.999", "10 training examples"),
    "--data.validation 0": (
        "--method dm --data.validation 0 --method.weighting.score implicit --method.weighting.evaluated-on validation",
        "the method learns from the validation split, which is empty; raise data.validation",
    ),
    "--data.name empty": ("--data.name ''", "data.name is ''; give digits, folder:PATH or the name of a TFDS dataset"),
    "--data.name a path": ("--data.name ../../etc/passwd", "data.name is '../../etc/passwd'; give digits, folder:PATH"),
    "--data.name a folder": ("--data.name here", "data.name is 'here', a folder; to read its images give folder:here"),
    "--data.data-dir": ("--data.data-dir /dev/null", "data.data_dir is /dev/null, which is no folder; give a TFDS di"),
    "--experts.recipe.lr": ("--experts.recipe.lr inf", "recipe.lr is inf; give more than 0"),
    "--out": ("influence --out /proc/x.csv --method.steps 0", "--out /proc/x.csv cannot be written"),
    "evaluate DIR": (
        "evaluate here",
        "here looks like no distilled set; jaxdd.formats.read('here', FORMAT) reads it as one of npz, safetensors",
    ),
    "evaluate, no file": ("evaluate nowhere.npz", "nowhere.npz: no such file; give the distilled.npz of a run"),
}


def run(words):
    """Call the launcher, and give what it says on the standard error, on one line."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            status = main(shlex.split(words))
        except SystemExit as leaving:
            status = leaving.code
    assert status == 2 and "Traceback" not in said.getvalue()
    return " ".join(said.getvalue().replace("│", " ").split())


@pytest.mark.parametrize("case", ROWS)
def test_it_is_refused_in_one_line(case, tmp_path, things, monkeypatch):
    act, line = ROWS[case]
    line = line.format(folder=tmp_path, set=f"cannot load a distilled set from {tmp_path / 'set.npz'}")
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.chdir(tmp_path)
    if isinstance(act, str):
        (tmp_path / "here").mkdir()
        assert line in run(act)
        assert [path.name for path in tmp_path.iterdir()] == ["here"], "nothing is written before the refusal"
        return
    with pytest.raises(SettingError) as error:
        act(*things) if hasattr(act, "api") else act(tmp_path)
    said = str(error.value)
    assert said.startswith(line) or (case.startswith("card") and line in said)
    assert "\n" not in said


def test_numbers_that_make_sense_are_taken():
    assert Weighting(temperature=math.inf).temperature == math.inf
    assert ddpp.Config(rule="threshold", amount=math.inf).dropped == math.inf
    assert Recipe(lr=1).lr == 1 and Recipe(epochs=np.int64(3), lr=np.float32(0.5)).epochs == 3


def test_a_dataset_shows_itself_in_a_line(things):
    assert repr(things[1]) == "<Dataset 'arrays': 3 classes, images (8, 8, 3), 33 train, 3 validation, 9 test>"


def test_images_of_train_in_another_split_are_said(caplog):
    fresh = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), np.uint8)
    dataset = data.from_arrays(IMAGES, LABELS, fresh, LABELS[:9])
    assert not caplog.text
    copied = np.concatenate([dataset.train.images[[5, 5, 8]], dataset.validation.images[:1], fresh])
    data.from_arrays(IMAGES, LABELS, copied, LABELS[:13])
    assert "3 of the 13 test images are train images, too, pixel by pixel" in caplog.text
    caplog.clear()
    data.from_arrays(IMAGES.repeat(2, axis=0), LABELS.repeat(2), fresh, LABELS[:9])
    assert "validation images are train images, too" in caplog.text and "test images" not in caplog.text


def test_no_validation_split_is_said(caplog):
    data.from_arrays(IMAGES[:6], LABELS[:6], *TEST)
    assert "no validation split: every class has too few examples to hold out 0.1 of them" in caplog.text


def test_arrays_that_no_set_has_are_not_read(tmp_path, monkeypatch):
    stored(bomb=np.zeros(10**6))(tmp_path)
    read = []
    whole = np.lib.format.read_magic
    monkeypatch.setattr(np.lib.format, "read_magic", lambda file: read.append(file.name) or whole(file))
    Distilled.load(tmp_path / "set.npz")
    assert "images.npy" in read and "bomb.npy" not in read


DIVERGING = EvaluateConfig(
    networks=2,
    recipe=Recipe(epochs=5, lr=1e30, augment="none"),
    full_recipe=Recipe(epochs=2, lr=1e30, augment="none"),
    random_real=False,
)


@pytest.mark.parametrize(
    ("lr", "line"), [(1e30, "evaluation of distilled: the outputs of 2 of 2 networks are not fin")]
)
def test_networks_that_diverge_have_no_accuracy(things, lr, line):
    task, dataset, distilled, _ = things
    noise = jax.random.normal(jax.random.key(0), distilled.images.shape)
    told = []
    with pytest.raises(Diverged) as error:
        bad = distilled._replace(inputs=noise, lr=jnp.float32(lr))
        jaxdd.evaluate(task, dataset, bad, DIVERGING, on_result=lambda *result: told.append(result))
    assert str(error.value).startswith(line) and "lower evaluate.recipe.lr" in str(error.value) and not told
    with pytest.raises(Diverged, match="evaluation of full_data.*lower evaluate.full_recipe.lr"):
        jaxdd.evaluate(task, dataset, distilled._replace(inputs=noise), DIVERGING)
    with pytest.raises(Diverged, match=r"validation of a set with learning rate 1e\+30.*lower evaluate.recipe.lr"):
        jaxdd.evaluation.validator(task, dataset, DIVERGING)(bad)
