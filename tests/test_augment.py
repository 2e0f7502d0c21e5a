"""Operations are checked without knowing how they draw: parameters are read off probe images, then an oracle applies
them to random images. Whatever draws them must only be a function of the key and the shape."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats
from scipy.ndimage import map_coordinates

from jaxdd.core import augment
from jaxdd.core.augment import OPERATIONS, cutmix, dsa
from jaxdd.types import Examples

ALL = "color_crop_cutout_flip_scale_rotate"
SHAPES = [(6, 8, 8, 3), (5, 7, 10, 1)]
both_modes = pytest.mark.parametrize("siamese", [True, False])
every_shape = pytest.mark.parametrize("shape", SHAPES)
each_mode_and_shape = pytest.mark.parametrize(("siamese", "shape"), [(True, SHAPES[0]), (False, SHAPES[1])])
every_operation = pytest.mark.parametrize("name", list(OPERATIONS))


def random_images(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.result_type(float))


def applied(operation, siamese, key=3):
    """Fix the key, so that all calls on one shape share the parameters."""
    function = jax.jit(partial(operation, siamese=siamese))
    return lambda images: np.asarray(function(jax.random.key(key), jnp.asarray(images)))


def check_draws(parameters, siamese):
    """One parameter per image comes in; in siamese mode they agree, otherwise they differ."""
    assert len(np.unique(np.round(parameters, 9))) == (1 if siamese else len(parameters))


def coordinates(shape):
    """Return x and y of the pixel centers where the image is [-1, 1]^2, broadcast to images."""
    _, height, width, _ = shape
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height) + 1) / height - 1
    return np.broadcast_to(x[None, None, :, None], shape), np.broadcast_to(y[None, :, None, None], shape)


def sampled(images, x, y):
    """Sample bilinearly at coordinates `[B, H, W]`, zero outside."""
    batch, height, width, channels = images.shape
    rows, columns = ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
    out = np.empty(images.shape)
    for b, k in itertools.product(range(batch), range(channels)):
        out[b, :, :, k] = map_coordinates(images[b, :, :, k], [rows[b], columns[b]], order=1, mode="grid-constant")
    return out


@both_modes
@every_shape
def test_brightness_adds_one_number_to_an_image(x64, shape, siamese):
    images = random_images(shape)
    added = applied(augment.brightness, siamese)(images) - images
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1, :1], shape), atol=1e-12)
    check_draws(added[:, 0, 0, 0], siamese)


@both_modes
def test_saturation_scales_the_distance_to_the_channel_mean(x64, siamese):
    shape = SHAPES[0]
    images = np.asarray(random_images(shape))
    operation = applied(augment.saturation, siamese)
    probe = np.broadcast_to([1.0, -1.0, 0.0], shape)
    s = operation(probe)[:, :1, :1, :1]
    mean = images.mean(3, keepdims=True)
    np.testing.assert_allclose(operation(images), mean + s * (images - mean), atol=1e-12)
    check_draws(s.ravel(), siamese)


@both_modes
@every_shape
def test_contrast_scales_the_distance_to_the_image_mean(x64, shape, siamese):
    images = np.asarray(random_images(shape))
    operation = applied(augment.contrast, siamese)
    probe = np.zeros(shape)
    probe[:, 0, 0, 0], probe[:, 1, 0, 0] = 1, -1
    c = operation(probe)[:, :1, :1, :1]
    mean = images.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(operation(images), mean + c * (images - mean), atol=1e-12)
    check_draws(c.ravel(), siamese)


@both_modes
@every_shape
def test_color_is_brightness_then_saturation_then_contrast(x64, shape, siamese):
    images = np.asarray(random_images(shape))
    operation = applied(augment.color, siamese)
    b = operation(np.zeros(shape))
    gray = np.zeros(shape)
    gray[:, 0, 0], gray[:, 1, 0] = 1, -1
    c = (operation(gray) - b)[:, :1, :1, :1]
    s = np.ones_like(c)
    if shape[3] == 3:
        s = (operation(np.broadcast_to([1.0, -1.0, 0.0], shape)) - b)[:, :1, :1, :1] / c
    x = images + b
    x = x.mean(3, keepdims=True) + s * (x - x.mean(3, keepdims=True))
    x = x.mean((1, 2, 3), keepdims=True) + c * (x - x.mean((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(operation(images), x, atol=1e-12)
    check_draws(b[:, 0, 0, 0], siamese)
    check_draws(c.ravel(), siamese)
    # Three independent draws: as fractions of their ranges they differ.
    fractions = [b[0, 0, 0, 0] + 0.5, c[0, 0, 0, 0] - 0.5] + ([s[0, 0, 0, 0] / 2] if shape[3] == 3 else [])
    assert np.ptp(fractions) > 1e-3 and len(np.unique(np.round(fractions, 6))) == len(fractions)


def shifted(image, rows, columns):
    """Translate with zeros: out[h, w] = image[h + rows, w + columns]."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for h, w in itertools.product(range(height), range(width)):
        if 0 <= h + rows < height and 0 <= w + columns < width:
            out[h, w] = image[h + rows, w + columns]
    return out


def erased(image, row, column):
    """Zero the published rectangle with its center at (row, column), clamped index by index as published."""
    height, width, _ = image.shape
    tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
    out = image.copy()
    for h, w in itertools.product(range(tall), range(wide)):
        out[min(max(row + h - tall // 2, 0), height - 1), min(max(column + w - wide // 2, 0), width - 1)] = 0
    return out


def parameters_of(name, shape):
    """Enumerate every choice of a discrete operation, with its outcome as a function of the image."""
    _, height, width, _ = shape
    if name == "flip":
        return {(False,): lambda image: image, (True,): lambda image: image[:, ::-1]}
    if name == "crop":
        down, right = int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)
        pairs = itertools.product(range(-down, down + 1), range(-right, right + 1))
        return {pair: partial(shifted, rows=pair[0], columns=pair[1]) for pair in pairs}
    tall, wide = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
    pairs = itertools.product(range(height + 1 - tall % 2), range(width + 1 - wide % 2))
    return {pair: partial(erased, row=pair[0], column=pair[1]) for pair in pairs}


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (1, 7, 10, 1)])
@pytest.mark.parametrize("name", ["crop", "cutout", "flip"])
def test_discrete_operations_draw_every_choice_equally_often(name, shape):
    image = np.asarray(random_images(shape))[0]
    outcomes = {act(image).tobytes(): choice for choice, act in parameters_of(name, shape).items()}
    assert len(outcomes) == len(parameters_of(name, shape))
    count = 40 * len(outcomes)
    images = np.broadcast_to(image, (count, *shape[1:]))
    # `+ 0.0` turns -0.0, which a matrix product may give, into 0.0.
    drawn = [outcomes[(out + 0.0).tobytes()] for out in applied(OPERATIONS[name], False)(images)]
    frequencies = [drawn.count(choice) for choice in outcomes.values()]
    assert stats.chisquare(frequencies).pvalue > 1e-3

    function = jax.jit(jax.vmap(lambda key: OPERATIONS[name](key, jnp.asarray(image)[None], siamese=True)[0]))
    siamese = [
        outcomes[(np.asarray(out) + 0.0).tobytes()] for out in function(jax.random.split(jax.random.key(0), count))
    ]
    assert stats.chisquare([siamese.count(choice) for choice in outcomes.values()]).pvalue > 1e-3


def scale_factors(operation, shape):
    """Read the two factors of each image off ramps, at a pixel whose neighbors are inside for any factor."""
    x, y = coordinates(shape)
    h, w = shape[1] // 2 + 1, shape[2] // 2 + 1
    return operation(x)[:, h, w, 0] / x[0, h, w, 0], operation(y)[:, h, w, 0] / y[0, h, w, 0]


def rotation_angles(operation, shape):
    x, y = coordinates(shape)
    h, w = shape[1] // 2 + 1, shape[2] // 2 + 1
    seen = operation(x)[:, h, w, 0] + 1j * operation(y)[:, h, w, 0]
    start = x[0, h, w, 0] + 1j * y[0, h, w, 0]
    np.testing.assert_allclose(abs(seen), abs(start), rtol=1e-9)
    return np.angle(seen / start)


@both_modes
@every_shape
def test_scale_samples_at_scaled_coordinates(x64, shape, siamese):
    images = np.asarray(random_images(shape))
    operation = applied(augment.scale, siamese)
    across, down = scale_factors(operation, shape)
    check_draws(across, siamese)
    check_draws(down, siamese)
    assert (abs(across - down) > 1e-4).all()
    x, y = (c[..., 0] for c in coordinates(shape))
    expected = sampled(images, across[:, None, None] * x, down[:, None, None] * y)
    np.testing.assert_allclose(operation(images), expected, atol=1e-9)


@both_modes
@every_shape
def test_rotate_samples_at_rotated_coordinates(x64, shape, siamese):
    images = np.asarray(random_images(shape))
    operation = applied(augment.rotate, siamese)
    a = rotation_angles(operation, shape)
    check_draws(a, siamese)
    a = a[:, None, None]
    x, y = (c[..., 0] for c in coordinates(shape))
    expected = sampled(images, x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a))
    np.testing.assert_allclose(operation(images), expected, atol=1e-9)


def test_continuous_parameters_are_uniform_over_the_published_ranges(x64):
    shape = (600, 8, 8, 3)
    zero = np.zeros(shape)
    colors = np.broadcast_to([1.0, -1.0, 0.0], shape)
    across, down = scale_factors(applied(augment.scale, False), shape)
    drawn = {
        "brightness": (applied(augment.brightness, False)(zero)[:, 0, 0, 0], -0.5, 0.5),
        "saturation": (applied(augment.saturation, False)(colors)[:, 0, 0, 0], 0, 2),
        "contrast": (applied(augment.contrast, False)(colors)[:, 0, 0, 0], 0.5, 1.5),
        "scale of x": (across, 1 / 1.2, 1.2),
        "scale of y": (down, 1 / 1.2, 1.2),
        "rotate": (rotation_angles(applied(augment.rotate, False), shape), -np.pi / 12, np.pi / 12),
    }
    for name, (values, low, high) in drawn.items():
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-3, name
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.2


def test_rotation_by_a_positive_angle_is_that_of_the_published_grid(x64):
    """One bright pixel right of the center moves as affine_grid with [[cos, -sin], [sin, cos]] moves it."""
    shape = (40, 9, 9, 1)
    operation = applied(augment.rotate, False)
    angles = rotation_angles(operation, shape)
    images = np.zeros(shape)
    images[:, 4, 7] = 1
    moved = operation(images)[..., 0]
    rows = (moved * np.arange(9)[:, None]).sum((1, 2)) / moved.sum((1, 2)) - 4
    # Output p takes the value at R p, so the pixel at (x, 0) goes to R^-1 (x, 0): up for positive angles.
    assert (np.sign(rows) == -np.sign(angles))[abs(angles) > 0.05].all()


@each_mode_and_shape
@every_operation
def test_operations_are_affine_in_the_images(x64, name, shape, siamese):
    x, y = random_images(shape, 1), random_images(shape, 2)
    f = applied(OPERATIONS[name], siamese)
    origin = f(jnp.zeros(shape))
    np.testing.assert_allclose(
        f(0.7 * x - 1.9 * y) - origin, 0.7 * (f(x) - origin) - 1.9 * (f(y) - origin), rtol=1e-9, atol=1e-12
    )


@each_mode_and_shape
@every_operation
def test_gradients_against_finite_differences(x64, name, shape, siamese):
    images, direction = random_images(shape, 1), random_images(shape, 2)
    weights = random_images(shape, 4)

    def objective(x):
        return (weights * jnp.sin(OPERATIONS[name](jax.random.key(3), x, siamese=siamese))).sum()

    @jax.jit
    def derivatives(x):
        slope, curvature = jax.jvp(jax.grad(objective), (x,), (direction,))
        return objective(x), jnp.vdot(slope, direction), jnp.vdot(curvature, direction)

    step = 1e-5
    (above, slope_above, _), (below, slope_below, _) = (derivatives(images + h * direction) for h in (step, -step))
    _, slope, curvature = derivatives(images)
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(curvature, (slope_above - slope_below) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strategy", [*OPERATIONS, ALL])
def test_siamese_transforms_batches_of_any_size_alike(strategy):
    images = np.asarray(random_images((7, 8, 8, 3)))
    shared, own = (jax.jit(dsa(strategy, siamese=siamese)) for siamese in (True, False))
    differ = 0
    for seed in range(3):
        key = jax.random.key(seed)
        whole = np.asarray(shared(key, images))
        np.testing.assert_allclose(shared(key, images[2:5]), whole[2:5], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(shared(key, images[::-1]))[::-1], whole, rtol=1e-5, atol=1e-6)
        same = np.asarray(own(key, np.broadcast_to(images[:1], images.shape)))
        differ += abs(same - same[:1]).max() > 1e-3
    # Seven images seldom share a draw, even of a coin; three times in a row never.
    assert differ > 0


@both_modes
def test_keys_reproduce_and_distinguish(siamese):
    images = np.asarray(random_images((4, 8, 8, 3)))
    function = jax.jit(dsa("color_scale", siamese=siamese))
    first = np.asarray(function(jax.random.key(0), images))
    np.testing.assert_array_equal(function(jax.random.key(0), images), first)
    assert abs(function(jax.random.key(1), images) - first).max() > 1e-3


@both_modes
def test_vmap_scan_and_jit_agree_with_single_calls(siamese):
    images = random_images((3, 6, 6, 1))
    function = dsa(ALL, siamese=siamese)
    keys = jax.random.split(jax.random.key(0), 12)
    single = np.stack([jax.jit(function)(key, images) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(function, (0, None)))(keys, images), single, rtol=1e-5, atol=1e-6)
    scanned = jax.jit(lambda keys, images: lax.scan(lambda _, key: (None, function(key, images)), None, keys)[1])
    np.testing.assert_allclose(scanned(keys, images), single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_precision_of_the_images_is_kept(x64, dtype):
    for strategy, siamese in itertools.product([*OPERATIONS, ALL], [True, False]):
        images = jax.ShapeDtypeStruct((3, 8, 8, 1), dtype)
        out = jax.eval_shape(dsa(strategy, siamese=siamese), jax.random.key(0), images)
        assert (out.shape, out.dtype) == (images.shape, images.dtype)


def test_an_operation_is_drawn_uniformly_and_repeats_count(monkeypatch):
    table = {name: lambda key, images, *, siamese, i=i: images + i for i, name in enumerate("abc")}
    monkeypatch.setattr(augment, "OPERATIONS", table)
    function = dsa("c_a_b_a", siamese=True)
    keys = jax.random.split(jax.random.key(0), 800)
    drawn = jax.jit(jax.vmap(function, (0, None)))(keys, jnp.zeros((1, 1, 1, 1)))
    counts = np.bincount(np.asarray(drawn, int).ravel(), minlength=3)
    assert stats.chisquare(counts, [400, 200, 200]).pvalue > 1e-3


def test_stages_are_applied_in_turn(monkeypatch):
    table = {
        name: lambda key, images, *, siamese, i=i: 3 * images + i + 0 * jax.random.uniform(key, images.shape)
        for i, name in enumerate("abc")
    }
    monkeypatch.setattr(augment, "OPERATIONS", table)
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.jit(jax.vmap(dsa("b+a_c+b", siamese=True), (0, None)))(keys, jnp.ones((1, 1, 1, 1)))
    # 3 (3 (3 + 1) + 0 or 2) + 1
    values, counts = np.unique(np.asarray(drawn), return_counts=True)
    assert values.tolist() == [37, 43]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_each_stage_draws_by_itself(x64):
    # Were they to share a key, the two shifts would be the same.
    images = jnp.zeros((1, 8, 8, 1)).at[0, 4, 4, 0].set(1)
    keys = jax.random.split(jax.random.key(1), 60)
    twice = np.asarray(jax.jit(jax.vmap(dsa("crop+crop", siamese=True), (0, None)))(keys, images))
    moved = np.argwhere(twice[:, 0, :, :, 0])[:, 1:] - 4
    assert set(moved.ravel().tolist()) == {-2, -1, 0, 1, 2}  # odd ones too: 1 + 0, and not 1 + 1 alone


def of_colors(count, height, width):
    """Images of one color each, and what tells them apart."""
    images = jnp.broadcast_to(jnp.arange(1.0, count + 1)[:, None, None, None], (count, height, width, 2))
    return Examples(images, jnp.eye(count), jnp.full(count, 1 / count), jnp.arange(count))


def test_cutmix_pastes_one_rectangle_and_mixes_targets_by_its_area():
    examples, seen = of_colors(5, 12, 8), []
    for seed in range(500):
        mixed = jax.jit(cutmix, static_argnums=2)(jax.random.key(seed), examples, 1.0)
        images, targets = np.asarray(mixed.inputs), np.asarray(mixed.targets)
        np.testing.assert_array_equal(images[..., 0], images[..., 1])
        changed = (images != np.asarray(examples.inputs))[..., 0]
        pasted = changed.any(0)
        rows, columns = (np.flatnonzero(pasted.any(axis)) for axis in (1, 0))
        np.testing.assert_array_equal(pasted, np.isin(np.arange(12), rows)[:, None] & np.isin(np.arange(8), columns))
        assert all(np.array_equal(r, np.arange(r[0], r[0] + len(r))) for r in (rows, columns) if len(r))
        if pasted.any():
            source = images[:, rows[0], columns[0], 0].astype(int) - 1
            assert sorted(source) == list(range(5))
            expected = (1 - pasted.mean()) * np.eye(5) + pasted.mean() * np.eye(5)[source]
            np.testing.assert_allclose(targets, expected, atol=1e-6)
            if rows[0] > 0 and rows[-1] < 11 and columns[0] > 0 and columns[-1] < 7:  # not cut off
                seen.append((len(rows), len(columns)))
        else:
            np.testing.assert_array_equal(targets, np.eye(5))
    sides = {tuple(2 * int(np.floor(size * np.sqrt(1 - a)) // 2) for size in (12, 8)) for a in np.linspace(0, 1, 2000)}
    assert len(set(seen)) > 4 and set(seen) <= sides


def test_cutmix_shares_nothing_with_the_augmentation_of_its_batch():
    examples, keys = of_colors(4, 8, 8), jax.random.split(jax.random.key(3), 400)

    def both(key):
        brightness = jnp.mean(dsa("color", siamese=True)(key, examples.inputs) - examples.inputs)
        return brightness, jnp.any(cutmix(key, examples, 0.5).targets != jnp.eye(4))

    brightness, mixed = (np.asarray(x, float) for x in jax.jit(jax.vmap(both))(keys))
    assert abs(np.corrcoef(brightness, mixed)[0, 1]) < 0.2


def test_cutmix_is_as_probable_as_asked():
    examples = of_colors(4, 8, 8)
    keys = jax.random.split(jax.random.key(0), 600)
    share = lambda p: np.mean(  # noqa: E731
        [
            x
            for x in np.asarray(
                jax.jit(jax.vmap(lambda k: jnp.any(cutmix(k, examples, p).targets != jnp.eye(4))))(keys)
            )
        ]
    )
    always = share(1.0)  # not one: of some permutations and rectangles nothing is seen
    assert 0.8 < always < 1
    assert abs(share(0.3) - 0.3 * always) < 0.06
    assert cutmix(keys[0], examples, 0.0) is examples
    with pytest.raises(ValueError, match=r"cutmix needs images \[B, H, W, K\]: set it to 0"):
        cutmix(keys[0], examples._replace(inputs=jnp.zeros((4, 3))), 0.5)


@pytest.mark.parametrize("strategy", ["none", "None", ""])
def test_no_strategy_is_the_identity(strategy):
    images = random_images((2, 4, 4, 1))
    np.testing.assert_array_equal(dsa(strategy, siamese=True)(jax.random.key(0), images), images)
    rows = {"x": jnp.arange(6.0).reshape(3, 2)}  # what no operation applies to passes as it is
    assert dsa(strategy, siamese=True)(jax.random.key(0), rows) is rows


@pytest.mark.parametrize("strategy", ["flip_shear", "color crop", "none_flip", "_flip", "flip+", "color+shear"])
def test_unknown_operations_are_refused(strategy):
    with pytest.raises(ValueError, match="join some of color, crop, cutout, flip, scale, rotate"):
        dsa(strategy, siamese=False)


def test_images_without_four_axes_are_refused():
    with pytest.raises(ValueError, match="four axes.* set augment to none for other inputs"):
        dsa("flip", siamese=True)(jax.random.key(0), jnp.zeros((8, 8, 1)))
    pair = {"image": jnp.zeros((2, 4, 4, 1)), "text": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"images have shape {'image': \(2, 4, 4, 1\), 'text': \(2, 3\)}"):
        dsa("flip", siamese=False)(jax.random.key(0), pair)
