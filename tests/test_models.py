import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy.signal import correlate2d

from jaxdd.errors import SettingError
from jaxdd.io.files import plain
from jaxdd.models import MLP, ConvNet, build, from_settings, in_precision
from jaxdd.models.layers import WINOGRAD_CHANNELS, WINOGRAD_TILES, convolve, max_pool

TINY = ConvNet(width=4, depth=2)


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def as_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def perturbed(params, key):
    """Move every parameter, so that no scale is one and no bias zero."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [a + 0.3 * jax.random.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def mean_loss(model, params, images):
    targets = jax.nn.one_hot(jnp.arange(images.shape[0]) % 3, 3, dtype=images.dtype)
    return -(jax.nn.log_softmax(model.apply(params, images)) * targets).sum(1).mean()


@pytest.mark.parametrize(("classes", "count"), [(10, 320_010), (100, 504_420)])
def test_convnet_d3_has_the_published_number_of_parameters(classes, count):
    model = build(ConvNet(), (32, 32, 3), classes)
    params = jax.jit(model.init)(jax.random.key(0))
    assert size(params) == count
    images = jnp.ones((2, 32, 32, 3))
    assert jax.eval_shape(model.features, params, images).shape == (2, 2048)
    assert jax.eval_shape(model.apply, params, images).shape == (2, classes)


def test_mlp_number_of_parameters():
    params = jax.jit(build(MLP(width=32, depth=2), (8, 8, 1), 10).init)(jax.random.key(0))
    assert size(params) == (64 * 32 + 32) + (32 * 32 + 32) + (32 * 10 + 10)


@pytest.mark.parametrize("config", [ConvNet(width=96, depth=2), MLP(width=96, depth=2)], ids=str)
def test_initialization_is_uniform_within_the_inverse_root_of_the_fan_in(config):
    params = jax.jit(build(config, (16, 16, 3), 50).init)(jax.random.key(0))
    layers = {**params["body"], "linear": params["linear"]}
    dense = {key: layer for key, layer in layers.items() if "kernel" in layer}
    assert len(dense) == 3
    for layer in dense.values():
        kernel, bias = np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)
        bound = 1 / math.sqrt(kernel[..., 0].size)
        assert abs(kernel).max() <= bound and abs(bias).max() <= bound
        assert abs(kernel).max() > 0.99 * bound and abs(bias).max() > 0.9 * bound
        # Standard errors of the mean and the variance of n uniform draws, five of them.
        n = kernel.size
        assert abs(kernel.mean()) < 5 * bound / math.sqrt(3 * n)
        assert abs(kernel.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / n)
        assert 0.1 < bias.var() / (bound**2 / 3) < 2
    for layer in layers.values():
        if "scale" in layer:
            np.testing.assert_array_equal(layer["scale"], 1)
            np.testing.assert_array_equal(layer["bias"], 0)


def test_initialization_differs_between_layers_and_keys():
    model = build(TINY, (8, 8, 4), 3)
    first, second = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.init)(jax.random.key(1))
    assert (first["body"]["conv_0"]["kernel"] != first["body"]["conv_1"]["kernel"]).all()
    assert (first["linear"]["kernel"] != second["linear"]["kernel"]).all()
    stacked = jax.jit(jax.vmap(model.init))(jnp.stack([jax.random.key(0), jax.random.key(1)]))
    jax.tree.map(lambda a, b, c: np.testing.assert_array_equal(c, np.stack([a, b])), first, second, stacked)


def normalized_by_hand(x, norm):
    """Normalize one batch `[B, H, W, K]` in NumPy, group by group."""
    x = np.array(x)
    out = np.empty_like(x)
    batch, channels = x.shape[0], x.shape[3]
    per = {"instance": 1, "group": channels // 4}.get(norm, 1)
    examples = [slice(None)] if norm == "batch" else [slice(b, b + 1) for b in range(batch)]
    for example in examples:
        for start in range(0, channels, per):
            part = x[example, :, :, start : start + per]
            out[example, :, :, start : start + per] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return x if norm == "none" else out


def convnet_by_hand(params, images, config):
    x = np.asarray(images)
    for block in range(config.depth):
        layer = params["body"][f"conv_{block}"]
        kernel = np.asarray(layer["kernel"])
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = np.stack(
            [
                [
                    sum(correlate2d(image[:, :, k], kernel[:, :, k, o], mode="valid") for k in range(x.shape[3]))
                    + np.asarray(layer["bias"])[o]
                    for o in range(config.width)
                ]
                for image in padded
            ]
        ).transpose(0, 2, 3, 1)
        if config.norm != "none":
            affine = params["body"][f"norm_{block}"]
            x = normalized_by_hand(x, config.norm) * np.asarray(affine["scale"]) + np.asarray(affine["bias"])
        x = np.where(x > 0, x, {"relu": 0.0, "leaky_relu": 0.01}[config.activation] * x)
        if config.pooling != "none":
            rows, columns = x.shape[1] // 2, x.shape[2] // 2
            reduce = {"avg": np.mean, "max": np.max}[config.pooling]
            x = np.stack(
                [
                    np.stack(
                        [reduce(x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], axis=(1, 2)) for j in range(columns)], 1
                    )
                    for i in range(rows)
                ],
                1,
            )
    features = x.reshape(x.shape[0], -1)
    return features, features @ np.asarray(params["linear"]["kernel"]) + np.asarray(params["linear"]["bias"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"convolution": "direct"},
        {"norm": "group", "width": 8},
        {"norm": "batch"},
        {"norm": "none", "activation": "leaky_relu"},
        {"pooling": "max"},
        {"pooling": "none", "depth": 1},
    ],
)
def test_convnet_computes_what_numpy_and_scipy_do(x64, changes):
    config = dataclasses.replace(TINY, **changes)
    model = build(config, (7, 9, 2), 3)
    params = perturbed(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (3, 7, 9, 2))
    assert images.dtype == jnp.float64
    features, logits = convnet_by_hand(params, images, config)
    np.testing.assert_allclose(jax.jit(model.features)(params, images), features, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jax.jit(model.apply)(params, images), logits, rtol=1e-10, atol=1e-12)


def test_mlp_computes_what_numpy_does(x64):
    model = build(MLP(width=5, depth=2, activation="sigmoid"), (4, 3, 2), 3)
    params = perturbed(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (3, 4, 3, 2))
    x = np.asarray(images).reshape(3, 24)
    for layer in ("linear_0", "linear_1"):
        weights = params["body"][layer]
        x = 1 / (1 + np.exp(-(x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]))))
    np.testing.assert_allclose(jax.jit(model.features)(params, images), x, rtol=1e-12)
    logits = x @ np.asarray(params["linear"]["kernel"]) + np.asarray(params["linear"]["bias"])
    np.testing.assert_allclose(jax.jit(model.apply)(params, images), logits, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "swish", "gelu"])
def test_activations(x64, activation):
    model = build(MLP(width=6, depth=1, activation=activation), (2, 2, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = 3 * jax.random.normal(jax.random.key(2), (4, 2, 2, 1))
    layer = params["body"]["linear_0"]
    x = np.asarray(images).reshape(4, 4) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    expected = {
        "relu": np.maximum(x, 0),
        "leaky_relu": np.maximum(x, 0.01 * x),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "swish": x / (1 + np.exp(-x)),
        "gelu": x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    }[activation]
    np.testing.assert_allclose(jax.jit(model.features)(params, images), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("config", [TINY, MLP(width=5, depth=0), MLP(width=5, depth=1)])
def test_logits_are_linear_in_the_features(config):
    model = build(config, (8, 8, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    expected = model.features(params, images) @ params["linear"]["kernel"] + params["linear"]["bias"][None]
    np.testing.assert_allclose(jax.jit(model.apply)(params, images), expected, rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_patches_equal_xla_convolution(x64, kernel_size, stride):
    images = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (kernel_size, kernel_size, 3, 4))
    direct = convolve(images, kernel, stride=stride, convolution="direct")
    patches = convolve(images, kernel, stride=stride, convolution="patches")
    np.testing.assert_allclose(patches, direct, rtol=1e-10, atol=1e-12)
    assert direct.shape == (2, -(-7 // stride), 8 // stride, 4)
    auto = convolve(images, kernel, stride=stride)
    same = patches if jax.default_backend() == "cpu" else direct
    np.testing.assert_array_equal(auto, same)


def test_winograd_equals_xla_convolution_to_the_second_derivative(x64):
    images = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def derivatives(how):
        def value(images, kernel):
            return jnp.sin(convolve(images, kernel, convolution=how)).sum()

        gradient = jax.grad(value, argnums=(0, 1))
        curvature = jax.grad(lambda *at: sum(jnp.square(g).sum() for g in gradient(*at)), argnums=(0, 1))
        return convolve(images, kernel, convolution=how), gradient(images, kernel), curvature(images, kernel)

    direct, fast = (jax.jit(derivatives, static_argnums=0)(how) for how in ("direct", "winograd"))
    for expected, found in zip(jax.tree.leaves(direct), jax.tree.leaves(fast), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("shape", "kernel", "options", "fast"),
    [
        ((WINOGRAD_TILES // 4, 4, 4, WINOGRAD_CHANNELS), 3, {}, True),
        ((WINOGRAD_TILES // 4 - 1, 4, 4, WINOGRAD_CHANNELS), 3, {}, False),
        ((WINOGRAD_TILES // 4, 4, 4, WINOGRAD_CHANNELS - 1), 3, {}, False),
        ((1, 5, 4, WINOGRAD_CHANNELS), 3, {"convolution": "winograd"}, False),
        ((1, 4, 4, 2), 3, {"convolution": "winograd"}, True),
        ((1, 4, 4, 2), 5, {"convolution": "winograd"}, False),
        ((1, 4, 4, 2), 3, {"convolution": "winograd", "stride": 2}, False),
        ((1, 4, 4, 2), 3, {"convolution": "winograd", "padding": 2}, False),
    ],
)
def test_winograd_is_taken_where_it_can_be_and_pays(shape, kernel, options, fast):
    images, kernel = jnp.ones(shape), jnp.ones((kernel, kernel, shape[-1], shape[-1]))
    products = str(jax.make_jaxpr(lambda *x: convolve(*x, **options))(images, kernel)).count("dot_general")
    assert products == (16 if fast else 1)
    usual = options | {"convolution": "patches"}
    np.testing.assert_allclose(convolve(images, kernel, **options), convolve(images, kernel, **usual), rtol=1e-5)


def test_max_pool_gives_the_gradient_to_the_first_of_equal_maxima():
    features = jnp.array([[0, 2], [2, 2]], float).reshape(1, 2, 2, 1)
    value, gradient = jax.value_and_grad(lambda x: max_pool(x).sum())(features)
    assert value == 2
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


@pytest.mark.parametrize("position", range(4))
def test_max_pool_does_not_hide_nan(position):
    features = jnp.arange(4.0).at[position].set(jnp.nan)
    assert jnp.isnan(max_pool(features.reshape(1, 2, 2, 1))).all()


def test_batch_normalization_takes_the_statistics_of_the_batch_and_instance_does_not():
    images = np.asarray(jax.random.normal(jax.random.key(1), (4, 8, 8, 1)))
    for norm, depends in (("batch", True), ("instance", False), ("group", False)):
        model = build(dataclasses.replace(TINY, depth=1, norm=norm), (8, 8, 1), 3)
        params = jax.jit(model.init)(jax.random.key(0))
        apply = jax.jit(model.apply)
        alone, together = apply(params, images[:2]), np.asarray(apply(params, images))[:2]
        assert (abs(np.asarray(alone) - np.asarray(together)).max() > 1e-3) == depends


def test_variance_does_not_cancel_on_images_far_from_zero():
    model = build(dataclasses.replace(TINY, depth=1), (8, 8, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    with jax.enable_x64(True):
        exact = jax.jit(model.apply)(as_float64(params), images.astype(jnp.float64) + 3000)
    np.testing.assert_allclose(model.apply(params, images + 3000), exact, atol=2e-3)


@pytest.mark.parametrize(
    "config",
    [dataclasses.replace(TINY, convolution="direct"), dataclasses.replace(TINY, convolution="patches"), MLP(width=4)],
    ids=str,
)
def test_float64_in_float64_out(x64, config):
    model = build(config, (8, 8, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    images = jnp.ones((2, 8, 8, 1))
    lower = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)

    def dtype(params, images):
        return jax.eval_shape(model.apply, params, images).dtype

    assert dtype(params, images) == jnp.float64
    assert dtype(lower, images) == jnp.float64
    assert dtype(params, images.astype(jnp.float32)) == jnp.float64
    assert dtype(lower, images.astype(jnp.float32)) == jnp.float32


def direction_like(tree, key):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)]
    )


def step_along(tree, direction, length):
    return jax.tree.map(lambda a, d: a + length * d, tree, direction)


DERIVATIVE_CASES = [
    {"pooling": "avg", "norm": "instance"},
    {"pooling": "max", "norm": "instance"},
    {"pooling": "avg", "norm": "batch"},
    {"pooling": "max", "norm": "group"},
    MLP(width=4, depth=1, activation="swish"),
]


@pytest.mark.parametrize("changes", DERIVATIVE_CASES)
def test_hessian_vector_product_against_differences_of_gradients(x64, changes):
    # A smooth activation; max pooling has kinks, but none within a step this short.
    smooth = dict(depth=1, activation="swish")
    config = changes if isinstance(changes, MLP) else dataclasses.replace(TINY, **smooth, **changes)
    model = build(config, (4, 4, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    v = direction_like(params, jax.random.key(2))
    gradient = jax.jit(lambda p: jax.grad(lambda q: mean_loss(model, q, images))(p))
    product = jax.jit(lambda p: jax.jvp(gradient, (p,), (v,))[1])(params)
    step = 1e-5
    above, below = gradient(step_along(params, v, step)), gradient(step_along(params, v, -step))
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)
    scale = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(product))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * scale, rtol=1e-5), product, difference)


def after_three_steps(model, params, images):
    def step(inner, _):
        gradient = jax.grad(lambda q: mean_loss(model, q, images))(inner)
        return jax.tree.map(lambda a, g: a - 0.1 * g, inner, gradient), None

    trained, _ = lax.scan(jax.checkpoint(step, prevent_cse=False), params, None, length=3)
    return trained


def unrolled_objective(model, params, images):
    """Loss on constant images after three steps of gradient descent on the images."""
    held_out = jnp.linspace(-1, 1, 3, dtype=images.dtype)[:, None, None, None] * jnp.ones_like(images[:1])
    return mean_loss(model, after_three_steps(model, params, images), held_out)


@pytest.mark.parametrize("changes", [{"pooling": "avg", "norm": "instance"}, {"pooling": "max", "norm": "batch"}])
def test_gradient_through_unrolled_training_and_its_derivative(x64, changes):
    smooth = dict(depth=1, activation="swish")
    config = changes if isinstance(changes, MLP) else dataclasses.replace(TINY, **smooth, **changes)
    model = build(config, (4, 4, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    u = jax.random.normal(jax.random.key(2), images.shape)

    @jax.jit
    def derivatives(x):
        objective, gradient = jax.value_and_grad(lambda x: unrolled_objective(model, params, x))(x)
        return objective, jnp.vdot(gradient, u)

    @jax.jit
    def third_order(x):
        gradient = jax.grad(lambda x: unrolled_objective(model, params, x))
        return jnp.vdot(jax.jvp(gradient, (x,), (u,))[1], u)

    step = 1e-5
    (above, slope_above), (below, slope_below) = derivatives(images + step * u), derivatives(images - step * u)
    slope = derivatives(images)[1]
    assert abs(float(slope)) > 1e-6
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-4)
    # The derivative of that gradient contains the derivatives of the Hessians of the inner loss.
    np.testing.assert_allclose(third_order(images), (slope_above - slope_below) / (2 * step), rtol=1e-3)


@pytest.mark.parametrize(("pooling", "convolution"), [("avg", "direct"), ("max", "patches")])
def test_derivatives_at_constant_images_are_finite(pooling, convolution):
    model = build(dataclasses.replace(TINY, depth=1, pooling=pooling, convolution=convolution), (4, 4, 1), 3)
    params = jax.jit(model.init)(jax.random.key(0))
    images = jnp.zeros((3, 4, 4, 1))

    @jax.jit
    def derivatives(params, images):
        gradient = jax.grad(lambda q: mean_loss(model, q, images))
        product = jax.jvp(gradient, (params,), (params,))[1]
        unrolled = jax.grad(lambda x: unrolled_objective(model, params, x))
        return gradient(params), product, jax.jvp(unrolled, (images,), (jnp.ones_like(images),))

    for leaf in jax.tree.leaves(derivatives(params, images)):
        assert jnp.isfinite(leaf).all()


def test_networks_under_vmap_equal_networks_one_by_one():
    model = build(TINY, (8, 8, 1), 3)
    stacked = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 3))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    together = jax.jit(jax.vmap(model.apply, (0, None)))(stacked, images)
    for i in range(3):
        alone = jax.jit(model.apply)(jax.tree.map(lambda leaf: leaf[i], stacked), images)  # noqa: B023
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "shape", "classes", "message"),
    [
        ({"depth": 4}, (8, 8, 1), 3, "largest depth with pooling is 3"),
        ({"depth": 3}, (32, 7, 1), 3, "largest depth with pooling is 2"),
        ({"depth": 0}, (8, 8, 1), 3, "depth is 0"),
        ({"width": 0}, (8, 8, 1), 3, "width is 0"),
        ({"norm": "group", "width": 6}, (8, 8, 1), 3, "multiple of 4"),
        ({"pooling": "none"}, (1, 1, 3), 3, "set norm to none"),
        ({"norm": "layer"}, (8, 8, 1), 3, "instance, batch, group, none"),
        ({"pooling": "mean"}, (8, 8, 1), 3, "avg, max, none"),
        ({"activation": "tanh"}, (8, 8, 1), 3, "relu, leaky_relu"),
        ({"convolution": "fft"}, (8, 8, 1), 3, "auto, direct, patches"),
        ({}, (8, 8), 3, "height, width, channels"),
        ({}, (8, 8, 0), 3, "all positive"),
        ({}, (8, 8, 1), 0, "num_classes is 0"),
    ],
)
def test_impossible_networks_are_refused(changes, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(TINY, **changes), shape, classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": -2}, "width is -2"), ({"depth": -1}, "depth is -1"), ({"activation": "tanh"}, "relu, leaky_relu")],
)
def test_impossible_perceptrons_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MLP(**changes)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 8, 4, 1), (8, 8, 1)])
def test_images_of_another_shape_are_refused(shape):
    model = build(TINY, (8, 8, 1), 3)
    with pytest.raises(ValueError, match="the network was built for"):
        model.apply(jax.jit(model.init)(jax.random.key(0)), jnp.zeros(shape))


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, norm="batch"), MLP(width=8, depth=1)], ids=str)
def test_bfloat16_is_computed_between_float32_and_float32(config):
    exact, rounded = (
        build(dataclasses.replace(config, precision=name), (8, 8, 1), 3) for name in ("float32", "bfloat16")
    )
    params, images = exact.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    gradients = [jax.grad(lambda p, model=model: mean_loss(model, p, images)) for model in (exact, rounded)]
    expected, found = (jax.jit(gradient)(params) for gradient in gradients)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    expected, found = (np.asarray(ravel_pytree(tree)[0]) for tree in (expected, found))
    assert 0 < np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected)  # three digits, ReLUs and six images
    logits = rounded.apply(params, images)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))
    products = [eqn for eqn in equations(gradients[1], params) if eqn.primitive.name == "dot_general"]
    assert products and all(x.aval.dtype == jnp.bfloat16 for eqn in products for x in eqn.invars)
    if rounded.observe is not None:
        assert {x.dtype for x in jax.tree.leaves(rounded.observe(params, images))} == {jnp.dtype("float32")}


def test_the_usual_precision_goes_unsaid_so_that_older_files_are_the_same():
    """Experts and runs know their settings by a digest; those from before networks had a precision stay valid."""
    usual, rounded = (plain(dataclasses.replace(TINY, precision=name)) for name in ("auto", "bfloat16"))
    assert "precision" not in usual and rounded == {**usual, "precision": "bfloat16"}
    assert from_settings(usual).precision == "auto" and from_settings(rounded).precision == "bfloat16"


def test_a_precision_that_there_is_not_is_refused():
    model = build(TINY, (8, 8, 1), 3)
    with pytest.raises(SettingError, match="precision is 'fp16'; choose one of auto, float32, tf32, bfloat16"):
        in_precision(model, "fp16")


@pytest.mark.parametrize(("precision", "asked"), [("auto", None), ("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_products_and_their_derivatives_are_asked_for_in_the_precision(precision, asked):
    model = build(dataclasses.replace(TINY, precision=precision, convolution="direct"), (8, 8, 1), 3)
    params, images = model.init(jax.random.key(0)), jnp.ones((2, 8, 8, 1))
    gradient = jax.grad(lambda p: mean_loss(model, p, images))
    curvature = jax.grad(lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(p))))
    expected = None if asked is None else (jax.lax.Precision[asked],) * 2
    found = [
        eqn.params["precision"]
        for eqn in equations(curvature, params)
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert len(found) > 10 and set(found) == {expected}


def equations(function, *args):
    """All equations of a function, those of the functions that it calls among them."""

    def of(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn
            for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                    yield from of(getattr(value, "jaxpr", value))

    return of(jax.make_jaxpr(function)(*args).jaxpr)
