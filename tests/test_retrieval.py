"""Retrieval: its losses and recalls against loops, and methods that know nothing of pairs on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdd
from jaxdd import models
from jaxdd.core import retrieval as pairs_task
from jaxdd.core import sampling
from jaxdd.core.retrieval import RetrievalConfig, recalls, retrieval, similarity_of
from jaxdd.core.training import train
from jaxdd.data import pairs
from jaxdd.driver import complete
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import (
    Optimizer,
    Sources,
    analytic_parameters,
    coresets,
    cross_covariance,
    dm,
    iadd,
    infmatch,
    initial_distilled,
    mtt,
    rat_bptt,
)
from jaxdd.types import Snapshots
from tests.helpers import dot, finite_difference, random_like

UNIT = Optimizer("sgd", 1.0, 0.0)
WORDS = ("red", "green", "blue")
SHAPES = ("wide", "tall", "full")


def drawn(count, seed):
    """Gray pictures of a bar or a square, in one of three shades, with a caption of two words or its translation."""
    rng = np.random.default_rng(seed)
    images, captions = np.full((count, 8, 8, 1), 30, np.uint8), []
    for image in images:
        word, shape = rng.integers(3), rng.integers(3)
        rows, columns = ((slice(3, 5), slice(0, 8)), (slice(0, 8), slice(3, 5)), (slice(0, 8), slice(0, 8)))[shape]
        image[rows, columns] = 90 + 70 * word
        captions.append([f"{WORDS[word]} and {SHAPES[shape]}", f"{SHAPES[shape]}, {WORDS[word]}"])
    return (images + rng.integers(0, 20, images.shape)).astype(np.uint8), captions


@pytest.fixture(scope="module")
def dataset():
    return pairs.from_arrays(drawn(60, 0), drawn(20, 1), drawn(20, 2), name="bars")


def encoder_of(dataset, head="linear", activation="gelu"):
    image = models.build(models.ConvNet(width=4, depth=1, activation=activation), dataset.image_shape, 6)
    return models.dual(image, dataset.text_features, 6, head=head)


def scored(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, count)), rng.uniform(size=(count, count)) + 0.5 * np.eye(count)


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def entropy(z, s):
    p = 1 / (1 + np.exp(-z))
    return -(s * np.log(p) + (1 - s) * np.log(1 - p))


def test_infonce_is_the_cross_entropy_of_rows_and_columns(x64):
    z, s = scored()
    for similarity in (s, np.eye(5)):
        expected = [
            -0.5 * sum(similarity[i, j] * log_softmax(z[i])[j] for j in range(5))
            - 0.5 * sum(similarity[j, i] * log_softmax(z[:, i])[j] for j in range(5))
            for i in range(5)
        ]
        np.testing.assert_allclose(pairs_task.infonce(z, similarity), expected, rtol=1e-12)


def test_bce_and_its_weighted_form_are_those_of_loops(x64):
    z, s = scored()
    each = np.array([[entropy(z[i, j], s[i, j]) for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(pairs_task.bce(jnp.asarray(z), s), each.mean(1), rtol=1e-12)
    positive = [each[i, j] for i in range(5) for j in range(5) if s[i, j] > 0.5]
    negative = [each[i, j] for i in range(5) for j in range(5) if s[i, j] <= 0.5]
    assert 0 < len(positive) < 25
    expected = (np.mean(positive) + np.mean(negative)) / 2
    np.testing.assert_allclose(pairs_task.wbce(jnp.asarray(z), jnp.asarray(s)).mean(), expected, rtol=1e-12)
    # With nothing but positives the other half is left out.
    alone = pairs_task.wbce(jnp.asarray(z), jnp.ones((5, 5))).mean()
    np.testing.assert_allclose(alone, np.mean([entropy(x, 1) for x in z.ravel()]) / 2, rtol=1e-12)


def test_similarity_is_a_diagonal_and_a_product_of_low_rank(x64):
    a, left, right = (
        jnp.asarray(np.random.default_rng(i).normal(size=shape)) for i, shape in enumerate([6, (6, 2), (6, 2)])
    )
    indices = jnp.array([4, 0, 1])
    ours = similarity_of({"diagonal": a, "left": left, "right": right}, indices, 3.0)
    for row, i in enumerate((4, 0, 1)):
        for column, j in enumerate((4, 0, 1)):
            expected = (a[i] if i == j else 0) + 3.0 / 2 * np.dot(left[i], right[j])
            np.testing.assert_allclose(ours[row, column], expected, rtol=1e-12)
    np.testing.assert_array_equal(similarity_of({"diagonal": a}, indices, 3.0), np.diag(np.asarray(a)[[4, 0, 1]]))


def brute_recalls(images, texts, owners):
    """Rank every candidate by counting, one after another."""
    found = {}
    for k in (1, 5, 10):
        hits = []
        for text, owner in zip(texts, owners, strict=True):
            own = text @ images[owner]
            hits.append(sum(text @ image >= own for i, image in enumerate(images) if i != owner) < k)
        found[f"IR@{k}"] = np.mean(hits)
        hits = []
        for i, image in enumerate(images):
            own = max(text @ image for text, owner in zip(texts, owners, strict=True) if owner == i)
            hits.append(sum(text @ image >= own for text, owner in zip(texts, owners, strict=True) if owner != i) < k)
        found[f"TR@{k}"] = np.mean(hits)
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_recalls_are_those_of_counting(x64, ties):
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(14), rng.integers(1, 4, 14))
    # Vectors of few small integers: many inner products are equal.
    draw = (lambda *shape: rng.integers(0, 2, shape).astype(float)) if ties else (lambda *shape: rng.normal(size=shape))
    images, texts = draw(14, 3), draw(len(owners), 3)
    ours = recalls(jnp.asarray(images), jnp.asarray(texts), jnp.asarray(owners))
    expected = brute_recalls(images, texts, owners)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-6)
    np.testing.assert_allclose(ours["recall"], np.mean([*expected.values()]), rtol=1e-6)
    assert 0 < expected["IR@5"] < 1


def test_an_encoder_that_sees_nothing_finds_nothing_and_one_that_diverged_has_no_recall():
    owners = jnp.arange(12)
    constant = recalls(jnp.ones((12, 3)), jnp.ones((12, 3)), owners)
    assert {float(value) for value in constant.values()} == {0.0}
    assert np.isnan(recalls(jnp.ones((12, 3)).at[0, 0].set(jnp.nan), jnp.ones((12, 3)), owners)["TR@5"])


@pytest.mark.parametrize("head", ["linear", "residual"])
def test_encoders_are_what_numpy_computes(dataset, head):
    encoder = encoder_of(dataset, head)
    params = encoder.model.init(jax.random.key(0))
    texts = dataset.embedded(dataset.test.texts)
    layers = jax.tree.map(np.asarray, params["text"])
    x = texts @ layers["linear_0"]["kernel"] + layers["linear_0"]["bias"]
    if head == "residual":
        gelu = np.asarray(jax.nn.gelu(x, approximate=False))
        x = x + gelu @ layers["linear_1"]["kernel"] + layers["linear_1"]["bias"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.text(params, texts), x, rtol=1e-4, atol=1e-5)
    images = jax.random.normal(jax.random.key(1), (4, *dataset.image_shape))
    inputs = {"image": images, "text": jnp.asarray(texts[:4])}
    ours = encoder.model.apply(params, inputs)
    np.testing.assert_allclose(ours[1], x[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours[0], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(encoder.model.features(params, inputs), np.concatenate(ours, 1))
    with pytest.raises(ValueError, match="head is 'deep'"):
        encoder_of(dataset, "deep")


def test_captions_of_one_image_are_all_right(x64, dataset):
    # Two captions of one image in a batch: each is a right answer, and counts half.
    encoder = encoder_of(dataset)
    task, real = retrieval(encoder), dataset.real_set()
    examples = jaxdd.data.sampling.take(real, jnp.array([0, 1, 5]))
    assert examples.targets.tolist() == [0, 0, 2]
    params = encoder.model.init(jax.random.key(0))
    images, texts = (np.asarray(x) for x in encoder.model.apply(params, examples.inputs))
    z, s = images @ texts.T / 0.07, np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    expected = [
        -0.5 * sum(s[i, j] * (log_softmax(z[i])[j] + log_softmax(z[:, i])[j]) for j in range(3)) for i in range(3)
    ]
    np.testing.assert_allclose(task.losses(params, examples), expected, rtol=1e-5)


SMALL = dict(ipc=4, image_optimizer=UNIT, label_optimizer=UNIT, labels="learned", init="noise")
STUDENT = SMALL | dict(
    student_steps=3, student_lr=0.2, lr_optimizer=UNIT, expert_snapshots=2, window=jaxdd.Window(start=2)
)
GRADIENTS = {
    "mtt": mtt.Config(**STUDENT),
    "mtt, mini-batch": mtt.Config(**STUDENT, batch=2),
    "mtt, branches": mtt.Config(**STUDENT, relative_to="branches"),
    "mtt, two learning rates": mtt.Config(**STUDENT, lr_of="branches"),
    "iadd": iadd.Config(**STUDENT),
    "infmatch": infmatch.Config(**SMALL, estimator="second_order", real_batch=6, window=jaxdd.Window(start=3)),
    "rat_bptt": rat_bptt.Config(**SMALL, student_steps=3, window=3, real_batch=6, student_optimizer=UNIT, clip=None),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", pairs_task.LOSSES)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_agree_with_finite_differences(x64, dataset, name, loss):
    # In images, texts, the similarity, and the learning rates that are learned, each by itself.
    task = retrieval(encoder_of(dataset), RetrievalConfig(loss=loss, rank=2, temperature=0.5))
    config = GRADIENTS[name]
    keys = jax.random.split(jax.random.key(0), 6)
    snapshots = 0.3 * jax.random.normal(keys[0], (1, 1, task.size)) + 0.05 * jax.random.normal(
        keys[1], (1, 5, task.size)
    )
    trajectories = Trajectories(
        snapshots, snapshots[:, -1], jnp.full(5, 0.1), 0.1 * jnp.arange(5.0), jnp.asarray(0.5), jnp.arange(5)
    )
    real = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if np.asarray(x).dtype.kind == "f" else x, dataset.real_set()
    )
    sources = Sources(real, trajectories)
    indices = jnp.arange(4)
    inputs = {
        "image": jax.random.normal(keys[2], (4, *dataset.image_shape)),
        "text": jax.random.normal(keys[3], (4, dataset.text_features)),
    }
    labels = task.labels(indices) | {"right": 0.1 * jax.random.normal(keys[4], (4, 2))}
    first = jaxdd.Distilled(inputs, labels, jnp.asarray(0.2))
    method = config.build(task)
    state = method.init(keys[5], first, sources)
    batch = complete(method.sample(jax.random.key(7), jnp.int32(0), sources), sources, None)

    def distilled_of(state):
        return state.variables.distilled if hasattr(state, "variables") else state.distilled

    def with_distilled(distilled):
        if hasattr(state, "variables"):
            return state._replace(variables=state.variables._replace(distilled=distilled))
        return state._replace(distilled=distilled)

    step = jax.jit(method.step)
    begun = distilled_of(state)
    gradient = jax.tree.map(jnp.subtract, begun, distilled_of(step(jax.random.key(0), state, batch)[0]))
    leaves, structure = jax.tree.flatten(begun)
    learned = len(leaves) if isinstance(config, mtt.Config) else 5
    assert len(leaves) == 7 if "two" in name else 6
    for i in range(learned):
        direction = [jnp.zeros_like(leaf) for leaf in leaves]
        direction[i] = random_like(leaves[i])
        direction = jax.tree.unflatten(structure, direction)
        slope = finite_difference(
            lambda d: step(jax.random.key(0), with_distilled(d), batch)[1]["loss"], begun, direction, 1e-3
        )
        assert abs(slope) > 1e-9
        np.testing.assert_allclose(dot(gradient, direction), slope, rtol=2e-5)


def test_covariances_are_matched_as_printed(x64, dataset):
    task = retrieval(encoder_of(dataset))
    config = cross_covariance.Config(ipc=4, image_optimizer=UNIT, means=0.3)
    method, keys = config.build(task), jax.random.split(jax.random.key(0), 3)
    params = task.model.init(keys[0])
    real = jaxdd.data.sampling.take(dataset.real_set(), jnp.arange(10))
    weights = jnp.arange(1.0, 11) / 55
    inputs = {
        "image": jax.random.normal(keys[1], (4, *dataset.image_shape)),
        "text": jax.random.normal(keys[2], (4, dataset.text_features)),
    }
    distilled = jaxdd.Distilled(inputs, task.labels(jnp.arange(4)), jnp.asarray(0.1))
    network = Snapshots(None, None, jax.flatten_util.ravel_pytree(params)[0])
    batch = cross_covariance.Batch(real._replace(weights=weights), network)

    def statistics(inputs, weights):
        f, g = (np.asarray(x) for x in task.model.apply(params, inputs))
        weights = np.asarray(weights)
        means = [sum(w * x for w, x in zip(weights, rows, strict=True)) for rows in (f, g)]
        pairs = zip(weights, f, g, strict=True)
        return *means, sum(w * np.outer(x - means[0], y - means[1]) for w, x, y in pairs)

    ours, theirs = statistics(inputs, np.full(4, 0.25)), statistics(real.inputs, weights)
    gaps = [np.sum((s - r) ** 2) for s, r in zip(ours, theirs, strict=True)]
    state = method.init(keys[0], distilled, None)
    new, info = jax.jit(method.step)(keys[0], state, batch)
    np.testing.assert_allclose(info["loss"], gaps[2] + 0.3 * (gaps[0] + gaps[1]), rtol=1e-5)
    direction = random_like(inputs)
    slope = finite_difference(
        lambda x: method.objective(distilled._replace(inputs=x), state, batch), inputs, direction, 1e-3
    )
    moved = jax.tree.map(jnp.subtract, inputs, new.distilled.inputs)
    np.testing.assert_allclose(dot(moved, direction), slope, rtol=1e-4)
    with pytest.raises(ValueError, match="do not depend on labels"):
        cross_covariance.Config(labels="learned")


def test_projections_are_those_of_ridge_regression_and_are_matched(x64, dataset):
    task = retrieval(encoder_of(dataset))
    config = analytic_parameters.Config(ipc=4, image_optimizer=UNIT, ridge=0.3)
    method, keys = config.build(task), jax.random.split(jax.random.key(0), 4)
    final = jnp.stack([jax.flatten_util.ravel_pytree(task.model.init(key))[0].astype(float) for key in keys[:2]])
    real = jax.tree.map(lambda x: x.astype(float) if np.asarray(x).dtype.kind == "f" else x, dataset.real_set())
    trajectories = Trajectories(
        final[:, None], final, jnp.full(1, 0.1), jnp.zeros(1), jnp.asarray(0.1), jnp.zeros(1, int)
    )
    sources = Sources(real, trajectories)
    cache = jax.jit(method.prepare)(keys[3], sources)
    batch = method.sample(jax.random.key(5), jnp.int32(0), Sources(None, trajectories, cache))
    which = int(np.argmin(np.abs(final - batch.params[None]).sum(1)))

    def explicit(images, texts):
        # Lagrange's conditions of the regression, as one least-squares problem with rows for the penalty.
        found = []
        for x, y in ((texts, images), (images, texts)):
            x, y = x - x.mean(0), y - y.mean(0)
            penalty = 0.3 * np.sum(x**2) / len(x) / x.shape[1]
            rows = np.concatenate([x / np.sqrt(len(x)), np.sqrt(penalty) * np.eye(x.shape[1])])
            values = np.concatenate([y / np.sqrt(len(x)), np.zeros((x.shape[1], y.shape[1]))])
            found.append(np.linalg.lstsq(rows, values, rcond=None)[0])
        return found

    def embedded(inputs, count):
        examples = jaxdd.data.sampling.take(real, jnp.arange(count)).inputs if inputs is None else inputs
        return np.asarray(task.model.apply(task.unravel(batch.params), examples)[0]), np.asarray(examples["text"])

    inputs = {
        "image": jax.random.normal(keys[2], (4, *dataset.image_shape)),
        "text": jax.random.normal(keys[3], (4, dataset.text_features)),
    }
    whole, small = explicit(*embedded(None, 120)), explicit(*embedded(inputs, 4))
    for ours, theirs in zip(batch.real, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(batch.real.text, cache.text[which])
    distilled = jaxdd.Distilled(inputs, task.labels(jnp.arange(4)), jnp.asarray(0.1))
    state = method.init(keys[0], distilled, None)
    new, info = jax.jit(method.step)(keys[0], state, batch)
    expected = sum(np.sum((s - r) ** 2) / np.sum(r**2) for s, r in zip(small, whole, strict=True))
    np.testing.assert_allclose(info["loss"], expected, rtol=1e-6)
    direction = random_like(inputs)
    slope = finite_difference(
        lambda x: method.objective(distilled._replace(inputs=x), state, batch), inputs, direction, 1e-4
    )
    moved = jax.tree.map(jnp.subtract, inputs, new.distilled.inputs)
    np.testing.assert_allclose(dot(moved, direction), slope, rtol=1e-6)


def test_what_makes_no_two_embeddings_is_refused(toy):
    with pytest.raises(ValueError, match="analytic_parameters matches two embeddings of a pair, and the task"):
        analytic_parameters.Config().build(toy(jnp.float32)[0])
    with pytest.raises(ValueError, match="matches two embeddings of a pair, and the task 'classification' has classes"):
        cross_covariance.Config().build(toy(jnp.float32)[0])


RECIPE = jaxdd.Recipe(epochs=8, batch=20, lr=0.2, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")
SCORING = jaxdd.EvaluateConfig(
    networks=3,
    recipe=dataclasses.replace(RECIPE, epochs=100, momentum=0.9, lr=0.05),
    full_recipe=dataclasses.replace(RECIPE, momentum=0.9),
    validate_every=60,
    validate_networks=2,
)


WARM = RetrievalConfig(temperature=0.2)


@pytest.fixture(scope="module")
def trained(dataset):
    task = retrieval(encoder_of(dataset, activation="relu"), WARM)
    return task, jaxdd.train_experts(task, dataset, jaxdd.ExpertsConfig(count=2, recipe=RECIPE, snapshot_every=3))


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["identity", "learned"])
def test_pairs_are_distilled_and_evaluated(dataset, trained, similarity):
    task, experts = trained
    rates = dict(image_optimizer=Optimizer("adam", 0.05), label_optimizer=Optimizer("adam", 0.005))
    config = mtt.Config(
        ipc=6, steps=120, student_steps=8, student_lr=0.1, expert_snapshots=3, window=jaxdd.Window(start=8), **rates
    )
    if similarity == "learned":
        task = retrieval(encoder_of(dataset, activation="relu"), dataclasses.replace(WARM, rank=2))
        config = dataclasses.replace(config, labels="learned")
    outcome = jaxdd.distill(task, dataset, config, experts, evaluate=SCORING)
    assert outcome.distilled.inputs["image"].shape == (6, 8, 8, 1)
    assert outcome.distilled.inputs["text"].shape == (6, dataset.text_features)
    assert outcome.step > 0
    results = jaxdd.evaluate(task, dataset, outcome.distilled, SCORING)
    assert results["distilled"]["mean"] > results["random_real"]["mean"] + 0.03
    assert set(results["distilled"]) >= {"IR@1", "TR@10", "mean", "runs"}
    assert all(caption in dataset.train.texts for caption in dataset.nearest(outcome.distilled.inputs["text"]))


@pytest.mark.slow
@pytest.mark.parametrize("module", [analytic_parameters, cross_covariance])
def test_methods_of_pairs_alone_are_distilled(dataset, trained, module):
    task, experts = trained
    losses = []
    outcome = jaxdd.distill(
        task,
        dataset,
        module.Config(ipc=6, steps=20),
        experts,
        evaluate=dataclasses.replace(SCORING, validate_every=20, validate_networks=1),
        on_metrics=lambda step, stage, **values: losses.append(values["loss"]) if stage == "distill" else None,
    )
    assert losses[-1] < losses[0]
    for name in ("image", "text"):
        assert np.abs(outcome.last.inputs[name] - outcome.first.inputs[name]).max() > 0.01


@pytest.mark.parametrize("init", ["herding", "k_center"])
def test_pairs_are_chosen_by_what_they_are_where_there_are_no_experts(dataset, trained, init):
    task, real = trained[0], dataset.real_set()
    rows = coresets.select(init, jax.random.key(0), task, Sources(real), 5)
    assert rows.shape == (1, 5) and len({*rows.ravel().tolist()}) == 5
    inputs = sampling.take(real, jnp.arange(real.size)).inputs
    features = np.concatenate([np.asarray(inputs[name]).reshape(real.size, -1) for name in sorted(inputs)], axis=1)
    first = np.argmin(np.linalg.norm(features - features.mean(0), axis=1))
    assert rows[0, 0] == first


def test_what_needs_classes_or_separate_losses_refuses_by_name(dataset, trained):
    task, experts = trained
    with pytest.raises(ValueError, match="'retrieval' has no classes"):
        dm.Config().build(task)
    sets = dataset.real_set(), dataset.test_set()
    with pytest.raises(ValueError, match="depend on the whole batch; set influence.batch"):
        jaxdd.influence.scores(task, *sets, experts, jaxdd.InfluenceConfig())
    with pytest.raises(ValueError, match="influence.batch is 900 for 120 training examples; set it to 120 or less"):
        jaxdd.influence.scores(task, *sets, experts, jaxdd.InfluenceConfig(batch=900))
    with pytest.raises(ValueError, match="solver.batch is 4, and the Hessian is that of whole batches of 16"):
        solver = jaxdd.influence.Solver("lissa", batch=4)
        jaxdd.influence.scores(task, *sets, experts, jaxdd.InfluenceConfig(batch=16, solver=solver))
    with pytest.raises(ValueError, match="influence.curvature is 30, and among fewer examples batches are others"):
        jaxdd.influence.scores(task, *sets, experts, jaxdd.InfluenceConfig("second_order", batch=20, curvature=30))


def test_examples_with_losses_of_their_own_share_no_batch(toy):
    task = toy(jnp.float32)[0]
    with pytest.raises(ValueError, match="influence.batch is 8, and in the task 'classification' the loss of an"):
        jaxdd.influence.check(task, jaxdd.InfluenceConfig(batch=8), 20, np.zeros(1), 1.0)


class Trained:
    """Gradient descent on pairs in fixed batches, one after another in NumPy's order, every step of it recorded."""

    def __init__(self, dataset, config, lr=0.001, steps=3):
        self.task = retrieval(encoder_of(dataset), RetrievalConfig(temperature=0.5))
        self.train, self.target = (
            jax.tree.map(lambda x: x.astype(float) if np.asarray(x).dtype.kind == "f" else x, split)
            for split in (dataset.real_set(), dataset.test_set())
        )
        orders = jaxdd.influence.orders(self.train, self.target, config)
        assert [sorted(order) for order in orders] == [list(range(120)), list(range(40))]
        self.batches = [self.cut(order, config.batch) for order in orders]
        self.lr, self.steps = lr, steps
        self.start = jax.flatten_util.ravel_pytree(self.task.model.init(jax.random.key(0)))[0].astype(float)
        self.path = [self.start]
        slope = jax.jit(jax.grad(self.train_loss))
        for _ in range(steps):
            self.path.append(self.path[-1] - lr * slope(self.path[-1], jnp.full(120, 1 / 120)))
        snapshots = jnp.stack(self.path[:-1])[None]
        self.trajectories = Trajectories(
            snapshots,
            self.path[-1][None],
            jnp.full(steps, lr),
            lr * jnp.arange(float(steps)),
            jnp.asarray(lr * steps),
            jnp.arange(steps),
        )

    @staticmethod
    def cut(order, size):
        """Cut an order into batches, the last filled up from the beginning; how many of each are its own."""
        size = min(size, len(order))
        rows = [list(order[i : i + size]) for i in range(0, len(order), size)]
        own = [len(row) for row in rows]
        return [(row + list(order[: size - len(row)]), n) for row, n in zip(rows, own, strict=True)]

    def losses(self, flat, real, which):
        """Compute the loss of every pair in its batch, `[N]`."""
        found = jnp.zeros(real.size)
        for rows, own in self.batches[which]:
            losses = self.task.losses(self.task.unravel(flat), jaxdd.data.sampling.take(real, jnp.array(rows)))
            found = found.at[jnp.array(rows[:own])].set(losses[:own])
        return found

    def train_loss(self, flat, weights):
        return weights @ self.losses(flat, self.train, 0)

    def target_loss(self, flat):
        return jnp.mean(self.losses(flat, self.target, 1))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [120, 50])
def test_influence_of_pairs_is_that_of_their_terms_in_fixed_batches(x64, dataset, batch):
    # 120 captions in batches of 50, 40 to judge by in one: the last batch of 20 is filled up.
    config = jaxdd.InfluenceConfig("tracin", batch=min(batch, 120), seed=3)
    run = Trained(dataset, config)

    def scored(estimator):
        settings = dataclasses.replace(config, estimator=estimator)
        return jaxdd.influence.scores(run.task, run.train, run.target, run.trajectories, settings)

    first_order, slope = np.zeros(120), jax.jit(jax.grad(run.target_loss))
    along = jax.jit(lambda flat, v: jax.jacrev(lambda flat: run.losses(flat, run.train, 0))(flat) @ v)
    for flat in run.path[:-1]:
        first_order += run.lr * np.asarray(along(flat, slope(flat)))
    np.testing.assert_allclose(scored("tracin"), first_order, rtol=1e-6, atol=1e-9)

    def after(weights):
        flat = run.start
        for _ in range(run.steps):
            flat = flat - run.lr * jax.grad(run.train_loss)(flat, weights)
        return run.target_loss(flat)

    exact = -jax.jit(jax.grad(after))(jnp.full(120, 1 / 120))
    ours = scored("sgd_influence")
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-9)
    assert np.corrcoef(ours, first_order)[0, 1] > 0.9 and not np.allclose(ours, first_order, rtol=1e-3)


def test_pairs_of_the_highest_influence_are_a_dataset(dataset):
    texts, owners = dataset.train.texts, dataset.train.owners
    scores = np.random.default_rng(0).normal(size=len(texts))
    subset = jaxdd.influence.subset(scores, None, per_class=9)
    part, kept = dataset.only(subset), subset[0]
    assert list(kept) == list(np.argsort(-scores)[:9])
    assert sorted(part.train.texts) == sorted(texts[i] for i in kept)
    assert part.test is dataset.test and part.normalization is dataset.normalization
    assert part.fingerprint() != dataset.fingerprint()
    for text, owner in zip(part.train.texts, part.train.owners, strict=True):
        name = part.train.names[owner]
        original = dataset.train.names.index(name)
        assert text in dataset.train.captions[original]
        np.testing.assert_array_equal(part.train.images[owner], dataset.train.images[original])
    assert len(part.train.images) == len(set(owners[kept]))
    np.testing.assert_allclose(part.real_set().inputs["text"].std(), 1, rtol=1e-4)
    for wrong in ([], [0, 0], [120], [-1], [0.5]):
        with pytest.raises(ValueError, match="captions are"):
            dataset.only(wrong)


def test_branches_are_measured_each_by_itself(x64, dataset):
    task = retrieval(encoder_of(dataset))
    vectors = [task.model.init(jax.random.key(i)) for i in range(3)]
    pair = [jax.flatten_util.ravel_pytree(vector)[0].astype(float) for vector in vectors]
    ours = mtt.of_branches(task).distance(
        (), pair[0], mtt.Pair(Snapshots(None, None, pair[1]), Snapshots(None, None, pair[2]), None, None)
    )
    expected = 0.0
    for branch in ("image", "text"):
        student, start, target = (jax.flatten_util.ravel_pytree(v[branch])[0].astype(float) for v in vectors)
        expected += np.sum((student - target) ** 2) / np.sum((start - target) ** 2)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="method.relative_to is 'branches', and iadd measures distances in its own"):
        iadd.Config(relative_to="branches")


def explicit(task, distilled, pair, rates, of=lambda params: params):
    """Take the steps of a student one after another, each branch at its own learning rate."""
    params = task.unravel(pair.start.params)
    for indices in pair.indices:
        examples = task.examples(distilled, indices)
        grads = jax.grad(lambda p, e: jnp.sum(e.weights * task.losses(p, e)))(of(params), examples)
        params = {b: jax.tree.map(lambda p, g, r=rates[b]: p - r * g, params[b], grads[b]) for b in params}
    return jax.flatten_util.ravel_pytree(params)[0]


def one_pair(task, dataset, config):
    """Draw a set of four pairs, and where a student of it starts and should arrive."""
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = {
        "image": jax.random.normal(keys[0], (4, *dataset.image_shape)),
        "text": jax.random.normal(keys[1], (4, dataset.text_features)),
    }
    ends = [Snapshots(None, None, 0.3 * jax.random.normal(key, (task.size,))) for key in keys[2:]]
    indices = mtt.student_batches(keys[0], 4, 2, config.student_steps)
    return inputs, mtt.Pair(*ends, indices, jax.random.split(keys[0], config.student_steps))


def test_each_encoder_learns_at_its_own_rate_and_is_trained_at_it(x64, dataset):
    task = retrieval(encoder_of(dataset))
    config = mtt.Config(**STUDENT, lr_of="branches")
    inputs, pair = one_pair(task, dataset, config)
    rates = {"image": jnp.asarray(0.3), "text": jnp.asarray(0.05)}
    distilled = jaxdd.Distilled(inputs, task.labels(jnp.arange(4)), rates)
    student = mtt.student_trainer(task, config)(distilled, pair)[0]
    np.testing.assert_allclose(student, explicit(task, distilled, pair, rates), rtol=1e-9, atol=1e-12)
    # Evaluation: one full batch an epoch, without momentum, of a recipe that names another rate.
    recipe = dataclasses.replace(RECIPE, epochs=2, batch=4)
    begun, everything = task.unravel(pair.start.params), jnp.arange(4)
    trained, _ = train(
        jax.random.key(0), begun, task.losses, lambda i: task.examples(distilled, i), 4, recipe, lr=rates
    )
    twice = pair._replace(indices=jnp.stack([everything, everything]))
    ours = jax.flatten_util.ravel_pytree(trained)[0]
    np.testing.assert_allclose(ours, explicit(task, distilled, twice, rates), rtol=1e-7, atol=1e-10)


def test_learning_rates_of_branches_are_for_pairs(toy):
    with pytest.raises(ValueError, match="method.lr_of is 'branches', and the network of the task 'classification' is"):
        mtt.Config(lr_of="branches").build(toy(jnp.float32)[0])


@pytest.mark.slow
def test_tesla_takes_the_parameters_of_every_step_for_constants(x64, dataset):
    task = retrieval(encoder_of(dataset))
    config = mtt.Config(**STUDENT, unroll=jaxdd.Unroll("tesla"))
    inputs, pair = one_pair(task, dataset, config)
    distilled = jaxdd.Distilled(inputs, task.labels(jnp.arange(4)), jnp.asarray(0.2))
    both = dict.fromkeys(("image", "text"), distilled.lr)

    def distance(train):
        return lambda inputs: mtt.unweighted((), train(distilled._replace(inputs=inputs)), pair)

    ours = jax.grad(distance(lambda s: mtt.student_trainer(task, config)(s, pair)[0]))(inputs)
    theirs = jax.grad(distance(lambda s: explicit(task, s, pair, both, of=jax.lax.stop_gradient)))(inputs)
    whole = jax.grad(distance(lambda s: explicit(task, s, pair, both)))(inputs)
    for side in ("image", "text"):
        np.testing.assert_allclose(ours[side], theirs[side], rtol=1e-7, atol=1e-10)
        assert not np.allclose(ours[side], whole[side], rtol=1e-3)


def test_labels_that_no_network_gives_are_refused_or_begin_as_they_are(dataset, trained):
    task, experts = trained
    sources = Sources(dataset.real_set(), experts)
    first = initial_distilled(jax.random.key(0), task, sources, mtt.Config(ipc=5, labels="learned"), lr=0.1)
    np.testing.assert_array_equal(first.labels["diagonal"], np.ones(5))
    with pytest.raises(ValueError, match="method.labels is 'soft', what experts say of an item, and in .* 'retrieval'"):
        initial_distilled(jax.random.key(0), task, sources, mtt.Config(ipc=5, labels="soft"), lr=0.1)
