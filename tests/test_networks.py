"""The networks that sets are evaluated on, against published counts and NumPy, and networks of a user's own."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy.signal import correlate2d

from jaxdd import Distilled, Recipe, models
from jaxdd.core.distilled import hard_labels
from jaxdd.core.tasks import classification
from jaxdd.core.training import train
from jaxdd.errors import SettingError
from jaxdd.io.files import plain
from jaxdd.models import MLP, MODELS, VGG, AlexNet, ConvNet, LeNet, Own, ResNet, ViT, build, from_name, from_settings
from jaxdd.types import Examples, Model

CIFAR, MNIST = (32, 32, 3), (28, 28, 1)


def named(value):
    """Name a case by its network."""
    return str(value) if isinstance(value, models.ModelConfig) else None


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# Counted in networks.py of DC's published code, and in torchvision for the large stem.
@pytest.mark.parametrize(
    ("config", "shape", "classes", "count"),
    [
        (MODELS["mlp"], MNIST, 10, 118_282),
        (MODELS["mlp"], CIFAR, 10, 411_146),
        (MODELS["convnet"], CIFAR, 10, 320_010),
        (MODELS["resnet10"], CIFAR, 10, 4_903_242),
        (MODELS["resnet18"], CIFAR, 10, 11_173_962),
        (MODELS["resnet34"], CIFAR, 10, 21_282_122),
        (ResNet(norm="batch", stem="large"), (224, 224, 3), 1000, 11_689_512),
        (ResNet(depth=34, norm="batch", stem="large"), (224, 224, 3), 1000, 21_797_672),
        (MODELS["vgg11"], CIFAR, 10, 9_231_114),
        (MODELS["alexnet"], CIFAR, 10, 1_872_202),
        (MODELS["alexnet"], MNIST, 10, 1_865_802),
        (MODELS["lenet"], CIFAR, 10, 62_006),
        (MODELS["lenet"], MNIST, 10, 61_706),
    ],
    ids=named,
)
def test_number_of_parameters_is_the_published_one(config, shape, classes, count):
    model = build(config, shape, classes)
    assert size(jax.eval_shape(model.init, jax.random.key(0))) == count


def test_number_of_parameters_of_the_vision_transformer_is_that_of_its_parts():
    width, hidden, block = 128, 256, 4 * (128 * 128 + 128) + 2 * 2 * 128
    block += width * hidden + hidden + hidden * width + width
    expected = (4 * 4 * 3 + 1) * width + 64 * width + 6 * block + 2 * width + (width + 1) * 10
    assert size(jax.eval_shape(build(ViT(), CIFAR, 10).init, jax.random.key(0))) == expected == 810_890


# In NumPy, one operation after the other.


def convolve(x, layer, stride=1, padding=None):
    kernel = np.asarray(layer["kernel"])
    padding = kernel.shape[0] // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    maps = [
        [sum(correlate2d(image[..., k], kernel[..., k, o], "valid") for k in range(x.shape[3])) for image in x]
        for o in range(kernel.shape[3])
    ]
    out = np.moveaxis(np.array(maps), 0, -1)[:, ::stride, ::stride]
    return out + np.asarray(layer.get("bias", 0.0))


def normalize(x, layer, axes=(1, 2)):
    x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def pool(x):
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * rows, : 2 * columns].reshape(len(x), rows, 2, columns, 2, -1).max((2, 4))


def linear(x, layer):
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def relu(x):
    return np.maximum(x, 0)


def resnet_by_hand(p, x, blocks, large):
    x = relu(normalize(convolve(x, p["conv"], 1 + large), p["norm"]))
    if large:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        sides = ((x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2)
        x = np.stack(
            [[x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(sides[1])] for i in range(sides[0])]
        )
        x = x.transpose(2, 0, 1, 3)
    for stage, count in enumerate(blocks):
        for block in range(count):
            q, stride = p[f"stage_{stage}_block_{block}"], 1 + (stage > 0 and block == 0 and min(x.shape[1:3]) > 2)
            y = relu(normalize(convolve(x, q["conv_0"], stride), q["norm_0"]))
            y = normalize(convolve(y, q["conv_1"]), q["norm_1"])
            if "conv_shortcut" in q:
                x = normalize(convolve(x, q["conv_shortcut"], stride), q["norm_shortcut"])
            x = relu(y + x)
    return x.mean((1, 2))


def vgg_by_hand(p, x):
    for i in range(8):
        x = relu(normalize(convolve(x, p[f"conv_{i}"], padding=3 if i == 0 and x.shape[3] == 1 else 1), p[f"norm_{i}"]))
        if i in (0, 1, 3, 5, 7) and min(x.shape[1:3]) >= (2 if i == 7 else 4):
            x = pool(x)
    return x.reshape(len(x), -1)


def alexnet_by_hand(p, x):
    for i in range(5):
        padding = (4 if x.shape[3] == 1 else 2, 2, 1, 1, 1)[i]
        x = relu(convolve(x, p[f"conv_{i}"], padding=padding))
        x = pool(x) if i in (0, 1, 4) else x
    return x.reshape(len(x), -1)


def lenet_by_hand(p, x):
    x = pool(relu(convolve(x, p["conv_0"], padding=2 if x.shape[3] == 1 else 0)))
    x = pool(relu(convolve(x, p["conv_1"], padding=0))).reshape(len(x), -1)
    return relu(linear(relu(linear(x, p["linear_0"])), p["linear_1"]))


def vit_by_hand(p, x, heads, patch):
    rows, columns = x.shape[1] // patch, x.shape[2] // patch
    cut = [x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] for i in range(rows) for j in range(columns)]
    x = linear(np.stack([tile.reshape(len(x), -1) for tile in cut], 1), p["embedding"]) + np.asarray(p["positions"])
    for i in range(sum(name.startswith("attention") for name in p)):
        y, q = normalize(x, p[f"norm_{i}_0"], (2,)), p[f"attention_{i}"]
        width = x.shape[2] // heads
        parts = []
        for head in range(heads):
            a, b, c = (linear(y, q[n])[..., head * width : (head + 1) * width] for n in ("query", "key", "value"))
            scores = np.exp(a @ b.transpose(0, 2, 1) / np.sqrt(width))
            parts.append(scores / scores.sum(2, keepdims=True) @ c)
        x = x + linear(np.concatenate(parts, 2), q["out"])
        y = linear(normalize(x, p[f"norm_{i}_1"], (2,)), p[f"linear_{i}_0"])
        x = x + linear(np.asarray(jax.nn.gelu(y, approximate=False)), p[f"linear_{i}_1"])
    return normalize(x, p["norm"], (2,)).mean(1)


@pytest.mark.parametrize(
    ("config", "shape", "by_hand"),
    [
        (ResNet(depth=10, width=2), (16, 14, 2), lambda p, x: resnet_by_hand(p, x, (1, 1, 1, 1), False)),
        (ResNet(depth=18, width=2), (8, 8, 1), lambda p, x: resnet_by_hand(p, x, (2, 2, 2, 2), False)),
        (ResNet(depth=10, width=2, stem="large"), (33, 36, 1), lambda p, x: resnet_by_hand(p, x, (1, 1, 1, 1), True)),
        (VGG(width=2), (28, 28, 1), vgg_by_hand),
        (VGG(width=2), (8, 8, 1), vgg_by_hand),
        (AlexNet(width=4), (8, 9, 2), alexnet_by_hand),
        (AlexNet(width=4), (8, 8, 1), alexnet_by_hand),
        (LeNet(), (16, 17, 2), lenet_by_hand),
        (ViT(width=6, depth=2, heads=3, patch=2), (4, 6, 2), lambda p, x: vit_by_hand(p, x, 3, 2)),
    ],
    ids=named,
)
def test_logits_are_those_of_numpy(config, shape, by_hand, x64):
    model = build(config, shape, 3)
    params = jax.jit(model.init)(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)  # no scale stays one, no bias zero
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(structure, [a + 0.3 * rng.normal(size=a.shape) for a in leaves])
    images = rng.normal(size=(2, *shape))
    features = by_hand(params["body"], images)
    np.testing.assert_allclose(jax.jit(model.features)(params, images), features, rtol=1e-9, atol=1e-11)
    logits = jax.jit(model.apply)(params, images)
    np.testing.assert_allclose(logits, linear(features, params["linear"]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (LeNet(), (8, 8, 1), "lenet needs images of 12 pixels or more a side; these are 8x8"),
        (AlexNet(), (7, 7, 3), "7x7 pixels leave nothing of them"),
        (ViT(patch=3), (8, 8, 1), "patches of 3 pixels do not tile images of 8x8"),
        (ViT(width=6), (8, 8, 1), "width 6 does not divide into 4 heads"),
        (ResNet(norm="group", width=6), (8, 8, 1), "width 6 does not divide into 4 groups"),
        (models.ModelConfig(), (8, 8, 1), "ModelConfig belongs to no network"),
    ],
    ids=named,
)
def test_what_cannot_be_built_is_refused(config, shape, message):
    with pytest.raises(SettingError, match=message):
        build(config, shape, 3)


# Batch normalization.


def test_evaluated_networks_use_the_running_statistics_of_their_training(x64):
    model = build(ConvNet(width=2, depth=1, norm="batch", activation="swish"), (4, 4, 1), 2)
    rng = np.random.default_rng(0)
    images, labels = rng.normal(1, 2, (6, 4, 4, 1)), hard_labels(np.arange(6) % 2, 2)
    task, recipe = classification(model, 2), Recipe(epochs=3, batch=6, lr=0.0 + 1e-9, augment="none")
    small = Distilled(jnp.asarray(images), labels, jnp.asarray(1e-9))
    start = jax.jit(model.init)(jax.random.key(1))
    params, _ = jax.jit(
        lambda key: train(key, start, task.losses, lambda i: task.examples(small, i), 6, recipe, observe=model.observe)
    )(jax.random.key(2))
    # The parameters do not move, so every epoch, which is one batch, has the same statistics.
    convolved = convolve(images, start["body"]["conv_0"])
    mean, variance = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2), ddof=1)
    running = params["statistics"]["body"]["norm_0"]
    np.testing.assert_allclose(running["mean"], (1 - 0.9**3) * mean, rtol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9**3 + (1 - 0.9**3) * variance, rtol=1e-6)
    apply = jax.jit(model.apply)
    x = (convolved - np.asarray(running["mean"])) / np.sqrt(np.asarray(running["var"]) + 1e-5)
    x = x / (1 + np.exp(-x))
    features = x.reshape(6, 2, 2, 2, 2, 2).mean((2, 4)).reshape(6, -1)
    np.testing.assert_allclose(apply(params, images), linear(features, params["linear"]), rtol=1e-6, atol=1e-7)
    # An image has the same logits in any company; without running statistics, others.
    np.testing.assert_allclose(apply(params, images)[:1], apply(params, images[:1]), rtol=1e-9)
    learned = {name: params[name] for name in start}
    assert abs(apply(learned, images)[:1] - apply(learned, images[:1])).max() > 1e-3
    assert classification(model, 2).size == size(start)


@pytest.mark.parametrize("norm", ["instance", "group", "none"])
def test_other_normalizations_have_no_statistics(norm):
    assert build(ConvNet(width=4, depth=1, norm=norm), (4, 4, 1), 2).observe is None


# Networks of one's own.


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.reshape(len(images), -1))


class WithDropout(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(images.reshape(len(images), -1)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def features(self, images):
        return nnx.relu(self.hidden(images.reshape(len(images), -1)))

    def __call__(self, images):
        return self.out(self.features(images))


def linen_network(image_shape, num_classes):
    return Linen()


def nnx_network(image_shape, num_classes):
    return lambda rngs: Nnx(rngs)


def plain_network(image_shape, num_classes):
    return Model(
        init=lambda key: {"w": jax.random.normal(key, (16, num_classes))},
        apply=lambda params, images: images.reshape(len(images), -1) @ params["w"],
        features=lambda params, images: images.reshape(len(images), -1),
    )


@pytest.mark.parametrize("name", ["linen_network", "nnx_network", "plain_network"])
def test_a_network_of_ones_own_is_a_line(name):
    with jax.numpy_rank_promotion("allow"):  # flax's own layers add a bias [F] to [B, F]
        model = build(from_name(f"{__file__}:{name}"), (4, 4, 1), 3)
        params = jax.jit(model.init)(jax.random.key(0))
        other = jax.jit(model.init)(jax.random.key(1))
        images = jax.random.normal(jax.random.key(2), (6, 4, 4, 1))
        task = classification(model, 3)
        examples = Examples(images, jax.nn.one_hot(jnp.arange(6) % 3, 3), jnp.full(6, 1 / 6), jnp.arange(6))
        fetch = lambda i: jax.tree.map(lambda a: a[i], examples)  # noqa: E731
        recipe = Recipe(epochs=60, batch=6, lr=0.1, augment="none")
        trained, _ = jax.jit(lambda key: train(key, params, task.losses, fetch, 6, recipe))(jax.random.key(3))
        before, after = (float(task.losses(p, examples).mean()) for p in (params, trained))
        assert after < 0.5 * before
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, other)), strict=True))
        assert task.unravel(jax.flatten_util.ravel_pytree(params)[0]).keys() == params.keys()
        if name == "linen_network":
            with pytest.raises(SettingError, match="Linen has no method features"):
                model.features(params, images)
        else:
            assert model.features(params, images).shape[0] == 6


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet18:wid=3", "resnet18:wid=3 names wid, and resnet has depth, width, norm, stem, convolution"),
        ("resnet18:width=x", "model.width is 'x'; give a whole number"),
        ("resnet18:depth=11", "model.depth is 11; choose one of 10, 18, 34"),
        ("resnet19", "no network is called 'resnet19'; choose one of convnet, mlp, resnet10"),
        ("nowhere.py:f", "nowhere.py cannot be read"),
        (f"{__file__}:nothing", "has no function nothing; it has named, size, "),
        ("math:pi", "math has no function pi"),
        ("tests.nowhere:f", "tests.nowhere cannot be read"),
    ],
)
def test_a_network_that_is_not_there_is_refused(source, message):
    with pytest.raises(SettingError, match=message):
        build(from_name(source), (4, 4, 1), 3)


def test_a_network_of_ones_own_is_known_by_its_code(tmp_path):
    source = tmp_path / "networks.py"
    source.write_text("small = 1\n")
    own = Own(f"{source}:small")
    first = own.identity()
    assert first == own.identity() and from_settings(plain(own)) == own
    source.write_text("small = 2\n")
    assert own.identity() != first
    for network in (Own("jaxdd.models:ConvNet"), ConvNet(width=8), ResNet()):
        assert network.identity() == plain(network)  # as experts on disk have it


def test_a_network_of_other_outputs_is_refused():
    ten = Model(lambda key: jnp.zeros((4, 10)), lambda params, inputs: inputs[:, 0, :4, 0] @ params, None)
    source = "tests.networks_of_ten"
    module = types.ModuleType(source)
    module.network = lambda image_shape, num_classes: ten
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, source, module)
        config = Own(f"{source}:network")
        assert build(config, (4, 4, 1), 10) is ten
        with pytest.raises(SettingError, match=r"makes \(1, 10\) of an image \[4, 4, 1\], and \(1, 3\) is needed"):
            build(config, (4, 4, 1), 3)


def test_a_network_with_other_variables_is_refused():
    with pytest.raises(SettingError, match="WithDropout has batch_stats beside its parameters"):
        models.as_model(WithDropout(), (4, 4, 1))
    with pytest.raises(SettingError, match="or a jaxdd.Model, not int"):
        models.as_model(3, (4, 4, 1))
    with pytest.raises(SettingError, match=r"the function \(rngs\) -> nnx module returns no nnx module"):
        models.as_model(lambda rngs: 3, (4, 4, 1))


# Settings in files and messages.


@pytest.mark.parametrize("config", [*MODELS.values(), Own("networks.py:small"), ConvNet(width=32, depth=2)], ids=named)
def test_settings_come_back_from_a_file(config):
    from jaxdd.io.files import plain

    assert from_settings(plain(config)) == config


def test_settings_of_version_0_1_are_read():
    old = {"name": "mlp", "width": 5, "depth": 1, "norm": "instance", "pooling": "avg", "activation": "relu"}
    assert from_settings({**old, "convolution": "auto"}) == MLP(width=5, depth=1)
    assert from_settings({**old, "name": "convnet", "convolution": "auto"}) == ConvNet(width=5, depth=1)
    with pytest.raises(SettingError, match="no family of networks is called 'ghost'"):
        from_settings({"name": "ghost"})
    with pytest.raises(TypeError, match="heads"):
        from_settings({"name": "mlp", "heads": 3})


def test_a_word_names_a_network_and_its_sizes():
    assert from_name("resnet18") == ResNet()
    assert from_name("resnet10:width=16,norm=batch") == ResNet(depth=10, width=16, norm="batch")
    assert from_name("networks.py:small") == Own("networks.py:small")


def test_a_network_names_itself():
    assert [str(config) for config in (ConvNet(width=32, depth=2), ResNet(), Own("a.py:b"))] == [
        "convnet (width 32, depth 2)",
        "resnet",
        "a.py:b",
    ]
