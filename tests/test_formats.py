import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdd import data, formats
from jaxdd.core.distilled import Card, Distilled, hard_labels
from jaxdd.core.normalization import ZCA, Standardize
from jaxdd.data import field
from jaxdd.errors import SettingError
from jaxdd.formats import torch_file
from jaxdd.formats.formations import decode
from tests.helpers import damaged

DATA = Path(__file__).parent / "data"
RANDOM = np.random.default_rng(0)
MEAN, STD = (np.float32(values) for values in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]))
TENSOR = RANDOM.normal(size=(4, 3, 4, 4)).astype(np.float32)
LABELS = np.array([1, 0, 1, 0])


@pytest.fixture(scope="module")
def real():
    """Pictures that fill 4×4×3 pixels, as a dataset of two classes with a validation split."""
    images = np.random.default_rng(1).integers(0, 256, (80, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(80) % 2
    return data.from_arrays(images, labels, images[:4], labels[:4], class_names=["cat", "dog"], validation=0.2)


def a_set(kind="hard", normalization=None, K=3, classes=("cat", "dog"), M=4, pixels=None):
    random = np.random.default_rng(2)
    if pixels is None:
        pixels = random.integers(0, 256, (M, 4, 4, K), dtype=np.uint8)
    normalization = normalization or Standardize(MEAN[:K], STD[:K])
    labels = np.arange(M) * len(classes) // M
    logits = hard_labels(labels, len(classes))
    if kind != "hard":
        logits = jnp.asarray(random.normal(size=(M, len(classes))), jnp.float32)
    card = Card(
        "pets", classes, kind, normalization, {"epochs": 7, "lr": 0.1}, {"method": "mtt", "config": {"seed": 1}}
    )
    return Distilled(normalization(pixels), logits, jnp.float32(0.03)), card


def assert_equal(found, expected, atol=0.0):
    (ours, our_card), (theirs, their_card) = found, expected
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=atol)
    for name in ("dataset", "class_names", "label_kind", "recipe"):
        assert getattr(our_card, name) == getattr(their_card, name)
    for a, b in zip(our_card.normalization, their_card.normalization, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dc_as_torch_wrote_it():
    path = DATA / "res_DC_CIFAR10_ConvNet_2ipc.pt"
    assert formats.detect(path) == "dc"
    for experiment in (0, 1):
        distilled, card = formats.read(path, experiment=experiment)
        stored = torch_file.load(path)["data"][experiment][0]
        np.testing.assert_array_equal(distilled.images, np.transpose(stored, (0, 2, 3, 1)))
        np.testing.assert_array_equal(distilled.targets.argmax(-1), [0, 0, 1, 1])
        np.testing.assert_array_equal(card.normalization.mean, MEAN)
        np.testing.assert_array_equal(card.normalization.std, STD)
        assert (card.dataset, card.label_kind, len(card.class_names)) == ("cifar10", "hard", 10)
        assert card.class_names[:2] == ("airplane", "automobile") and distilled.lr == np.float32(0.01)
    with pytest.raises(SettingError, match="experiment is 2, and it holds 2"):
        formats.read(path, experiment=2)
        assert card.recipe == {"lr": 0.01}  # which is no more than the recipe's
    given, card = formats.read(path, dataset="svhn", lr=0.5)
    assert (card.dataset, card.recipe, given.lr) == ("svhn_cropped", {}, np.float32(0.5))
    _, card = formats.read(path, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    np.testing.assert_array_equal(card.normalization.mean, np.float32([0.5, 0.5, 0.5]))


def write_mtt(folder, labels=LABELS, **others):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"images_best": TENSOR, "labels_best": labels, **others}.items():
        torch_file.save(folder / f"{name}.pt", value)
    return folder


def test_mtt_standardized(tmp_path):
    folder = write_mtt(tmp_path / "CIFAR10" / "run")
    assert formats.detect(folder) == formats.detect(folder / "images_best.pt") == "mtt"
    with pytest.raises(SettingError, match="whether its images are ZCA-whitened: set read.zca"):
        formats.read(folder)
    distilled, card = formats.read(folder, zca=False)
    np.testing.assert_array_equal(distilled.images, TENSOR[[1, 3, 0, 2]].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(distilled.targets.argmax(-1), [0, 0, 1, 1])
    np.testing.assert_array_equal(card.normalization.std, STD)


def kornia(images):
    """ZCAWhitening(eps=0.1, compute_inv=True).fit, of images [N, K, H, W] in [0, 1], in float64."""
    flat = images.reshape(len(images), -1)
    mean = flat.mean(axis=0, keepdims=True)
    covariance = (flat - mean).T @ (flat - mean) / float(len(flat) - 1)
    u, s, _ = np.linalg.svd(covariance)
    s = s.reshape(-1, 1)
    return mean, u @ (1 / np.sqrt(s + 0.1) * u.T), u @ (np.sqrt(s + 0.1) * u.T)


def test_mtt_whitened_as_kornia_does(tmp_path, real):
    pixels = np.concatenate([real.train.images, real.validation.images]).transpose(0, 3, 1, 2) / 255
    mean, whiten, unwhiten = kornia(pixels)
    whitened = ((pixels[:4].reshape(4, -1) - mean) @ whiten).reshape(4, 3, 4, 4).astype(np.float32)
    folder = write_mtt(tmp_path, images_best=whitened, images_zca_best=pixels[:4].astype(np.float32))
    with pytest.raises(SettingError, match="images_zca_best.pt lies beside it.*give the data"):
        formats.read(folder)
    distilled, card = formats.read(folder, data=real)
    assert (card.normalization.kind, card.class_names, card.dataset) == ("zca", ("cat", "dog"), "arrays")
    shown = np.asarray(card.normalization.inverse(distilled.images))
    np.testing.assert_allclose(shown, pixels[[1, 3, 0, 2]].transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(card.normalization((255 * shown).round().astype(np.uint8)), distilled.images, atol=1e-4)
    order = np.arange(48).reshape(3, 4, 4).transpose(1, 2, 0).ravel()
    np.testing.assert_allclose(card.normalization.whiten, whiten[np.ix_(order, order)], atol=1e-5)
    np.testing.assert_allclose(card.normalization.unwhiten, unwhiten[np.ix_(order, order)], atol=1e-5)
    with pytest.raises(SettingError, match="give images_best.pt"):
        formats.read(folder / "images_zca_best.pt", "mtt", data=real)


def test_datm(tmp_path, real):
    logits = RANDOM.normal(size=(4, 2)).astype(np.float32)
    folder = write_mtt(tmp_path, labels=logits, lr_best=np.asarray(0.02, np.float32))
    assert formats.detect(folder) == "datm"
    with pytest.raises(SettingError, match="read.zca is True.*fitted on the real train images"):
        formats.read(folder, zca=True)
    distilled, card = formats.read(folder, zca=True, data=real)
    np.testing.assert_array_equal(distilled.labels, logits)
    assert card.label_kind == "logits" and distilled.lr == np.float32(0.02) and card.recipe == {}
    np.testing.assert_array_equal(distilled.images, TENSOR.transpose(0, 2, 3, 1))
    with pytest.raises(SettingError, match="if they are logits, jaxdd.formats.read"):
        formats.read(folder, "mtt", zca=False)


def upsampled(tile, height, width):
    """Bilinear, align_corners=False: output i lies at (i + 1/2) h/H − 1/2 of the input, clamped to it."""

    def weights(size, target):
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        matrix = np.zeros((target, size))
        for i in range(target):
            matrix[i, low[i]] += 1 - (at[i] - low[i])
            matrix[i, min(low[i] + 1, size - 1)] += at[i] - low[i]
        return matrix

    return np.einsum("ij,jlk,ml->imk", weights(tile.shape[0], height), tile, weights(tile.shape[1], width))


@pytest.mark.parametrize(("size", "factor"), [(4, 2), (5, 2), (4, 3), (4, 1)])
def test_formations_are_decoded(size, factor):
    images = np.random.default_rng(3).random((2, size, size, 3), np.float32)
    padded = np.pad(images, [(0, 0), (0, -size % factor), (0, -size % factor), (0, 0)], constant_values=0.5)
    side = padded.shape[1] // factor
    corners = [(side * i, side * j) for i in range(factor) for j in range(factor)]
    expected = [upsampled(image[i : i + side, j : j + side], size, size) for i, j in corners for image in padded]
    np.testing.assert_allclose(decode(images, factor), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["idc", "ncfm"])
def test_idc_and_ncfm(tmp_path, name):
    path = tmp_path / "cifar100" / "data_20000.pt"
    pixels = np.random.default_rng(4).random((4, 3, 4, 4), np.float32)
    torch_file.save(path, (pixels, LABELS))
    assert formats.detect(path) == "idc"
    distilled, card = formats.read(path, name)
    np.testing.assert_array_equal(card.normalization.mean, MEAN)  # those of CIFAR-10
    assert (distilled.size, len(card.class_names), card.provenance["factor"]) == (16, 100, 2)
    expected = decode(pixels.transpose(0, 2, 3, 1), 2)
    order = np.argsort(np.tile(LABELS, 4), kind="stable")
    np.testing.assert_allclose(distilled.images, (expected[order] - MEAN) / STD, atol=1e-5)
    np.testing.assert_array_equal(distilled.targets.argmax(-1), np.tile(LABELS, 4)[order])
    assert formats.read(path, name, factor=1)[0].size == 4
    torch_file.save(path, (3 * pixels, LABELS))
    with pytest.raises(SettingError, match=r"pixels in \[0, 1\]"):
        formats.read(path, name)


def test_frepo(tmp_path):
    random = np.random.default_rng(5)
    pixels = random.random((10, 4, 4, 3))
    whiten = random.normal(size=(48, 48)) / 7 + np.eye(48)
    center = random.normal(size=(1, 48))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    images = ((((pixels - mean) / std).reshape(10, -1) - center) @ whiten).reshape(pixels.shape)
    targets = np.eye(10) - 1 / 10
    path, matrices = tmp_path / "cifar10" / "step000100.npz", tmp_path / "zca.npz"
    path.parent.mkdir()
    np.savez(path, image=images.astype(np.float32), label=targets.astype(np.float32))
    np.savez(matrices, whitening_transform=whiten, rev_whitening_transform=np.linalg.inv(whiten), zca_mean=center)
    assert formats.detect(path) == "frepo"
    with pytest.raises(SettingError, match="name FRePo's npz of them.*by read.matrices"):
        formats.read(path)
    distilled, card = formats.read(path, matrices=str(matrices))
    np.testing.assert_allclose(card.normalization.inverse(distilled.images), pixels, atol=1e-4)
    np.testing.assert_allclose(card.normalization(255 * pixels), images, atol=1e-3)
    np.testing.assert_allclose(distilled.targets, np.eye(10), atol=1e-6)
    assert card.label_kind == "probabilities"
    np.testing.assert_array_equal(formats.read(path, zca=False)[1].normalization.std, np.float32(std))
    np.savez(matrices, whitening_transform=whiten[:12, :12], rev_whitening_transform=whiten[:12, :12], zca_mean=center)
    with pytest.raises(SettingError, match="blocks"):
        formats.read(path, matrices=str(matrices))


@pytest.mark.parametrize(("name", "pattern"), [("rded", "{:05}"), ("sre2l", "new{:03}")])
def test_folders_of_numbers(tmp_path, name, pattern):
    folder = tmp_path / "cifar10"
    pictures = np.random.default_rng(6).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        (folder / pattern.format(index // 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / pattern.format(index // 2) / f"class_id{index:03}.jpg", quality=95)
    assert formats.detect(folder) == name
    distilled, card = formats.read(folder)
    np.testing.assert_array_equal(distilled.targets.argmax(-1), [0, 0, 1, 1])
    assert card.class_names[:2] == ("airplane", "automobile")
    first = np.asarray(Image.open(folder / pattern.format(0) / "class_id000.jpg"))
    np.testing.assert_allclose(distilled.images[0], (first / 255 - MEAN) / STD, atol=1e-5)


def test_folders_of_single_digits_are_numbers(tmp_path, real):
    names = tuple("abcdefghijkl")
    named = dataclasses.replace(real, class_names=names)
    numbered = dataclasses.replace(real, class_names=(*map(str, range(1, 13)),))
    for number in range(1, 12):
        (tmp_path / str(number)).mkdir()
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / str(number) / "a.png")
    for dataset, classes in ((named, range(1, 12)), (numbered, range(11))):
        distilled, card = formats.read(tmp_path, data=dataset)
        assert card.class_names == dataset.class_names
        np.testing.assert_array_equal(distilled.targets.argmax(-1), classes)
        pixels = np.asarray(real.normalization.inverse(distilled.images))[:, 0, 0, 0]
        np.testing.assert_allclose(255 * pixels, range(1, 12), atol=1e-3)


def test_folders_of_anyone(tmp_path, real):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), len(name) * 10, np.uint8)).save(tmp_path / name / "a.png")
    with pytest.raises(SettingError, match="nothing tells how its images are normalized"):
        formats.read(tmp_path)
    distilled, card = formats.read(tmp_path, data=real)
    assert card.class_names == ("cat", "dog") and distilled.size == 2
    np.testing.assert_array_equal(card.normalization.mean, real.normalization.mean)


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("kind", ["hard", "logits", "probabilities"])
@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt"])
def test_everything_goes_round_in_our_own_formats(tmp_path, ending, kind, zca, real):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    written = a_set(kind, ZCA.fit(real.train.images) if zca else None)
    path = tmp_path / f"set.{ending}"
    formats.write(path, *written)
    found = formats.read(path)
    assert_equal(*((one._replace(labels=one.targets), card) for one, card in (found, written)), atol=1e-6)
    assert found[1].provenance == written[1].provenance
    first = path.read_bytes()
    formats.write(path, *written)
    assert path.read_bytes() == first


def test_a_torch_file_is_in_the_order_of_torch(tmp_path, real):
    distilled, card = a_set("hard", ZCA.fit(real.train.images), pixels=real.train.images[:4])
    formats.write(tmp_path / "set.pt", distilled, card)
    saved = torch_file.load(tmp_path / "set.pt")
    pixels = real.train.images[:4].transpose(0, 3, 1, 2) / 255
    whitened = (pixels.reshape(4, -1) - saved["normalization_mean"]) @ saved["normalization_whiten"]
    np.testing.assert_allclose(whitened.reshape(4, 3, 4, 4), saved["images"], atol=1e-4)
    assert saved["labels"].dtype == np.int64 and json.loads(saved["class_names"]) == ["cat", "dog"]


@pytest.mark.parametrize("format", ["png", "tfds"])
def test_pictures_go_round(tmp_path, format, real):
    written = a_set("hard", ZCA.fit(real.train.images) if format == "png" else None)
    path = tmp_path / "out"
    formats.write(path, *written, format=format)
    found = formats.read(path)
    assert_equal(found, written, atol=2e-6)
    with pytest.raises(SettingError, match="there already"):
        formats.write(path, *written, format=format)


def test_classes_whose_names_are_numbers_go_round_as_pictures(tmp_path):
    written = a_set(classes=tuple(f"{number:05}" for number in range(12)), M=24)
    formats.write(tmp_path / "out", *written, format="png")
    assert formats.detect(tmp_path / "out") == "folder"
    assert_equal(formats.read(tmp_path / "out"), written, atol=2e-6)


@pytest.mark.parametrize("format", ["png", "tfds"])
def test_soft_labels_are_hardened_only_if_asked(tmp_path, format):
    distilled, card = a_set("logits")
    with pytest.raises(SettingError, match=r"labels of this set are logits.*harden=True"):
        formats.write(tmp_path / "out", distilled, card, format)
    assert not (tmp_path / "out").exists()
    formats.write(tmp_path / "out", distilled, card, format, harden=True)
    found, found_card = formats.read(tmp_path / "out")
    order = np.argsort(np.asarray(distilled.labels).argmax(-1), kind="stable")
    np.testing.assert_allclose(found.images, distilled.images[order], atol=2e-6)
    assert found_card.label_kind == "hard" and found_card.provenance["hardened"] == "from logits"


@pytest.mark.parametrize("K", [1, 3])
def test_png_folders_are_data(tmp_path, K):
    classes = ("T-shirt/top", "Bag", "Coat")
    written = a_set(K=K, classes=classes, M=30)
    formats.write(tmp_path / "out", *written, format="png")
    found = data.load(f"folder:{tmp_path / 'out'}", validation=0)
    assert found.class_names == ("0_T-shirt-top", "1_Bag", "2_Coat") and found.image_shape == (4, 4, K)
    assert len(found.train.labels) + len(found.test.labels) == 30
    assert formats.read(tmp_path / "out")[1].class_names == classes


def test_tfds_sets_are_data(tmp_path):
    import tensorflow_datasets as tfds

    distilled, card = a_set(K=1, M=20)
    formats.write(tmp_path, distilled, card, "tfds")
    builder = tfds.builder_from_directory(tmp_path / "pets_distilled" / "1.0.0")
    source = builder.as_data_source("train")
    pictures = np.round(255 * np.asarray(card.normalization.inverse(distilled.images))).astype(np.uint8)
    labels = np.asarray(distilled.labels).argmax(-1)
    pairs = {(picture.tobytes(), int(label)) for picture, label in zip(pictures, labels, strict=True)}
    assert {(record["image"].tobytes(), int(record["label"])) for record in source} == pairs
    found = data.load("pets_distilled", data_dir=str(tmp_path), validation=0)
    assert found.class_names == ("cat", "dog") and len(found.train.labels) + len(found.test.labels) == 20


@pytest.mark.parametrize("kind", ["hard", "logits"])
def test_dd_ranking(tmp_path, kind):
    normalization = Standardize(np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.3, 0.4]))
    distilled, card = a_set(kind, normalization, classes=field.CIFAR10, M=10)
    with pytest.raises(SettingError, match="DD-Ranking scores sets of cifar10"):
        formats.write(tmp_path / "out", distilled, card, "ddranking")
    formats.write(tmp_path / "out", distilled, dataclasses.replace(card, dataset="cifar10"), "ddranking")
    tensors = {path.stem: torch_file.load(path) for path in (tmp_path / "out").iterdir()}
    soft = "hard_labels" if kind == "hard" else "soft_labels"
    assert tensors.keys() == {"image_tensor", soft, "syn_lr"}
    order = np.argsort(np.asarray(distilled.labels).argmax(-1), kind="stable")
    pixels = np.asarray(normalization.inverse(distilled.images))[order]
    np.testing.assert_allclose(tensors["image_tensor"], ((pixels - MEAN) / STD).transpose(0, 3, 1, 2), atol=1e-5)
    assert tensors[soft].dtype == (np.int64 if kind == "hard" else np.float32) and tensors["syn_lr"].shape == ()
    found, found_card = formats.read(tmp_path / "out", dataset="cifar10")
    np.testing.assert_allclose(found_card.normalization.inverse(found.images), pixels, atol=1e-5)
    np.testing.assert_allclose(found.labels, np.asarray(distilled.labels)[order])
    assert found.lr == distilled.lr
    with pytest.raises(SettingError, match="there already"):  # or hard labels might lie beside soft ones
        formats.write(tmp_path / "out", distilled, dataclasses.replace(card, dataset="cifar10"), "ddranking")


def test_what_is_wrong_is_said(tmp_path, real):
    distilled, card = a_set()
    with pytest.raises(FileNotFoundError):
        formats.read(tmp_path / "absent.npz")
    with pytest.raises(SettingError, match="looks like no distilled set; jaxdd.formats.read"):
        formats.read(tmp_path)
    distilled.save(tmp_path / "distilled.npz", card)
    with pytest.raises(SettingError, match="give .*distilled.npz"):
        formats.read(tmp_path)
    with pytest.raises(SettingError, match="is a folder, and the format npz is a file|is a folder; give"):
        formats.read(tmp_path, "npz")
    with pytest.raises(SettingError, match="format is 'zip'; choose one of auto, npz"):
        formats.read(tmp_path, "zip")
    with pytest.raises(SettingError, match="no option ipc; it has dataset"):
        formats.read(tmp_path, ipc=3)
    with pytest.raises(SettingError, match="read.factor is 0"):
        formats.read(tmp_path, factor=0)
    with pytest.raises(SettingError, match="data is of type RealSet"):
        formats.read(tmp_path / "distilled.npz", data=real.real_set())
    with pytest.raises(SettingError, match="its ending names no format"):
        formats.write(tmp_path / "set.zip", distilled, card)
    with pytest.raises(SettingError, match="format is 'jpg'; choose one of npz"):
        formats.write(tmp_path / "set", distilled, card, "jpg")
    write_mtt(tmp_path / "mtt", labels=np.array([0, 1, 7, 0]))
    with pytest.raises(SettingError, match="labels are of 8 classes, and arrays has 2"):
        formats.read(tmp_path / "mtt", zca=False, data=real)
    write_mtt(tmp_path / "mtt", images_best=np.full((4, 3, 4, 4), np.nan, np.float32))
    with pytest.raises(SettingError, match="mtt.*numbers that are not finite"):
        formats.read(tmp_path / "mtt", zca=False, dataset="cifar10")
    write_mtt(tmp_path / "mtt", images_best=TENSOR[0])
    with pytest.raises(SettingError, match=r"images \[M, K, H, W\]"):
        formats.read(tmp_path / "mtt", zca=False, dataset="cifar10")


def test_names_of_datasets():
    assert [field.canonical(name) for name in ("CIFAR10", "cifar-100", "FashionMNIST", "SVHN", "Tiny", "pets")] == [
        "cifar10", "cifar100", "fashion_mnist", "svhn_cropped", "tiny_imagenet", None,
    ]  # fmt: skip
    assert field.named_in("/logged_files/CIFAR100/run/images_best.pt") == "cifar100"
    assert field.named_in("/mnist_runs/res_DM_CIFAR10_ConvNet_1ipc.pt") == "cifar10"
    assert field.named_in("/a/fashion_mnist/x.pt") == "fashion_mnist"
    assert field.named_in("/a/b.pt") is None


def test_damage_is_one_error(tmp_path, real):
    """Every reader meets a file that is cut short or has bits turned: a set, or a line that names it."""
    random = np.random.default_rng(7)
    written = a_set("logits")
    for ending in ("npz", "safetensors", "pt") if find_spec("safetensors") else ("npz", "pt"):
        formats.write(tmp_path / f"set.{ending}", *written)
    np.savez(tmp_path / "frepo.npz", image=TENSOR.transpose(0, 2, 3, 1), label=np.eye(4, 10, dtype=np.float32))
    torch_file.save(tmp_path / "data.pt", (np.abs(np.tanh(TENSOR)), LABELS))
    (tmp_path / "dc.pt").write_bytes((DATA / "res_DC_CIFAR10_ConvNet_2ipc.pt").read_bytes())
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    asked = {"dataset": "cifar10", "zca": False, "factor": 1}
    for path in files:
        whole = path.read_bytes()
        formats.read(path, **asked)
        for trial in range(25):
            path.write_bytes(damaged(whole, random, trial))
            try:
                formats.read(path, **asked)
            except SettingError as error:
                assert str(path) in str(error)
