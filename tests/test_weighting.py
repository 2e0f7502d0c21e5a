"""IWD: the scores against derivatives taken by hand, the weights, and the method that is wrapped."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import classification, make_mesh, models
from jaxdd.core.distilled import Distilled
from jaxdd.core.matching import GRADIENT_DISTANCES
from jaxdd.core.parallel import replicate
from jaxdd.core.ranking import standardize
from jaxdd.core.training import Recipe
from jaxdd.driver import advance, distill, draw, keys_of
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.methods import Optimizer, Sources, Weighting, dc, dm, initial_distilled, mtt, ncfm, weighted, weighting
from jaxdd.models import MLP
from jaxdd.types import Examples
from tests.helpers import finite_difference, random_like

SETTINGS = dict(
    ipc=2, steps=12, real_batch=8, outer_loop=5, inner_loop=1, image_optimizer=Optimizer("sgd", 0.5, 0.5), init="real"
)
SCORING = EvaluateConfig(recipe=Recipe(epochs=3, augment="none"), validate_every=6)


@pytest.fixture
def toy_step(x64, toy):
    """DC on the toy network in float64: its method, a state and a batch of three examples of each of three classes."""
    task, examples = toy(jnp.float64, name="mlp")
    method = dc.Config(**SETTINGS).build(task)
    labels = 4 * jax.nn.one_hot(jnp.arange(3), 3, dtype=jnp.float64)
    distilled = Distilled(examples.inputs[:3], labels, jnp.asarray(0.1, jnp.float64))
    state = method.init(jax.random.key(0), distilled, None)
    state = jax.tree.map(lambda x: x.astype(jnp.float64), state)
    real = Examples(
        inputs=jax.random.normal(jax.random.key(1), (3, 4, 4, 4, 1), jnp.float64),
        targets=jnp.repeat(jax.nn.one_hot(jnp.arange(3), 3, dtype=jnp.float64)[:, None], 4, 1),
        weights=jax.nn.softmax(random_like(jnp.zeros((3, 4))), -1),
        indices=jnp.arange(12).reshape(3, 4),
    )
    batch = dc.Batch(real, jax.random.split(jax.random.key(2), 3), jnp.asarray(False), None)
    return SimpleNamespace(model=task.model, method=method, state=state, batch=batch)


def objective_of(setting):
    def objective(images, weights):
        batch = setting.batch._replace(real=setting.batch.real._replace(weights=weights))
        return setting.method.objective(setting.state.distilled._replace(inputs=images), setting.state, batch)

    return objective


def test_explicit_score_is_the_slope_of_the_objective_and_pairs_with_per_example_gradients(toy_step):
    images, weights = toy_step.state.distilled.images, toy_step.batch.real.weights
    objective = jax.jit(objective_of(toy_step))
    scores = weighting.explicit_scores(lambda w: objective(images, w), weights)
    direction = random_like(weights)
    expected = finite_difference(lambda w: objective(images, w), weights, direction)
    np.testing.assert_allclose(jnp.vdot(scores, direction), expected, rtol=1e-7)
    # e_i = ⟨∂D/∂g, g_i⟩ with the gradient g_i of every example by itself, and g = Σ w_i g_i.
    network = toy_step.state.network

    def gradient(image, target):
        def loss(params):
            return -jnp.sum(target * jax.nn.log_softmax(toy_step.model.apply(params, image[None])[0]))

        return jax.grad(loss)(network)

    labels = jax.nn.softmax(toy_step.state.distilled.labels)
    for c in range(3):
        real = jax.tree.map(lambda x, c=c: x[c], toy_step.batch.real)
        each = jax.vmap(gradient)(real.inputs, real.targets)
        mean = jax.tree.map(lambda g, w=real.weights: jnp.tensordot(w, g, 1), each)
        ours = gradient(images[c], labels[c])
        pull = jax.grad(lambda g, ours=ours: GRADIENT_DISTANCES["cosine"](ours, g))(mean)
        rows = jnp.stack([ravel_pytree(jax.tree.map(lambda g, i=i: g[i], each))[0] for i in range(4)])
        np.testing.assert_allclose(scores[c], rows @ ravel_pytree(pull)[0], rtol=1e-8, atol=1e-12)


def test_implicit_score_is_the_slope_of_the_value_of_the_set_that_minimizes_the_objective(x64):
    # O = ½ ‖A (S − Σ w_i x_i)‖² + ½ μ ‖S‖² has S*(w) in closed form; V is any function of S.
    keys = jax.random.split(jax.random.key(0), 4)
    points, matrix = jax.random.normal(keys[0], (6, 5)), jax.random.normal(keys[1], (5, 5))
    weights = jax.nn.softmax(jax.random.normal(keys[2], (1, 6)), -1)
    ridge = 0.3

    def objective(images, weights):
        gap = matrix @ (images - weights[0] @ points)
        return 0.5 * gap @ gap + 0.5 * ridge * images @ images

    def value(images):
        return jnp.sum(jnp.sin(images) ** 2)

    hessian = matrix.T @ matrix + ridge * jnp.eye(5)

    def minimizer(weights):
        return jnp.linalg.solve(hessian, matrix.T @ matrix @ (weights[0] @ points))

    def exact(curvature, v):
        return jnp.linalg.solve(jax.jacfwd(curvature)(v), v), 0.0

    ours, _ = weighting.implicit_scores(objective, value, minimizer(weights), weights, exact)
    np.testing.assert_allclose(ours, jax.grad(lambda w: value(minimizer(w)))(weights), rtol=1e-9)
    direction = random_like(weights)
    expected = finite_difference(lambda w: value(minimizer(w)), weights, direction)
    np.testing.assert_allclose(jnp.vdot(ours, direction), expected, rtol=1e-7)


def test_solvers_invert_the_damped_hessian(x64):
    matrix = jax.random.normal(jax.random.key(0), (6, 6))
    hessian, v = matrix @ matrix.T, jnp.arange(6.0)
    how = Weighting(damping=0.5, iterations=50)
    dense = jnp.linalg.solve(hessian + 0.5 * jnp.eye(6), v)
    found, residual = weighting.SOLVERS["cg"](how, lambda x: hessian @ x, v)
    np.testing.assert_allclose(found, dense, rtol=1e-4)
    assert residual < 1e-4
    found, residual = weighting.SOLVERS["identity"](how, lambda x: 1 / 0, v)
    np.testing.assert_allclose(found, v / 0.5, rtol=1e-12)
    few = Weighting(damping=0.5, iterations=2)
    found, residual = weighting.SOLVERS["cg"](few, lambda x: hessian @ x, v)
    gap = hessian @ found + 0.5 * found - v
    np.testing.assert_allclose(residual, np.linalg.norm(gap) / np.linalg.norm(v), rtol=1e-10)
    assert residual > 1e-3


def test_scores_are_standardized_within_a_class(x64):
    z = standardize(jnp.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(z[0], (np.array([1, 2, 6]) - 3) / np.std([1, 2, 6]))
    assert z[1].tolist() == [0, 0, 0]
    assert not np.any(standardize(jnp.full((1, 64), 0.3, jnp.float32)))  # whose mean is not 0.3 in float32


@pytest.mark.parametrize("selection", weighting.SELECTIONS)
def test_weights_sum_to_one_and_follow_the_scores(x64, selection):
    z = random_like(jnp.zeros((3, 8)))
    how = Weighting(selection=selection, fraction=0.25, temperature=0.7)
    w = np.asarray(weighting.SELECTIONS[selection](jax.random.key(0), z, how))
    np.testing.assert_allclose(w.sum(-1), 1, rtol=1e-12)
    order = np.argsort(-np.asarray(z), axis=-1)
    if selection == "none":
        e = np.exp(np.asarray(z) / 0.7)
        np.testing.assert_allclose(w, e / e.sum(-1, keepdims=True), rtol=1e-12)
        return
    count = 6 if selection == "influence_prune" else 2
    assert (np.sort(w, -1) == np.sort(np.where(np.arange(8) < count, 1 / count, 0.0))).all()
    by_score = all((w[c, order[c, :count]] > 0).all() for c in range(3))
    assert by_score == (selection != "random_select")


@pytest.fixture(scope="module")
def problem(stripes):
    model = models.build(MLP(width=8, depth=1), (8, 8, 1), 3)
    return SimpleNamespace(task=classification(model, 3), data=stripes)


def states(problem, config, steps=8):
    """The states and infos of the first steps, as the driver takes them."""
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        sources = replicate(Sources(problem.data.real_set(), validation=problem.data.validation_set()))
        method, key = config.build(problem.task), jax.random.key(3)
        first = initial_distilled(key, problem.task, sources, config, lr=0.1)
        state = replicate(jax.jit(method.init)(key, first, sources))
        run, seen, infos = advance(method), [state], []
        for it in range(steps):
            state, info = run(key, jax.tree.map(jnp.copy, state), sources, jnp.int32(it), jnp.int32(it + 1))
            seen.append(state)
            infos.append(jax.tree.map(lambda x: float(x[0]), info))
    return method, seen, infos, sources, key


@pytest.mark.parametrize("base", [dc, pytest.param(dm, marks=pytest.mark.slow)], ids=["dc", "dm"])
def test_infinite_temperature_is_the_base_bit_for_bit(problem, base):
    settings = {k: v for k, v in SETTINGS.items() if base is dc or "loop" not in k}
    never = Weighting(temperature=math.inf, warm_up=0)
    plain, ours = (
        distill(problem.task, problem.data, base.Config(**settings, weighting=how), evaluate=SCORING)
        for how in (None, never)
    )
    for x, y in zip(ours.last, plain.last, strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_scores_are_kept_per_example_and_refreshed(problem):
    how = Weighting(refresh=3, warm_up=4, decay=0.75, temperature=0.5)
    method, seen, infos, sources, key = states(problem, dc.Config(**SETTINGS, weighting=how))
    base = dc.Config(**SETTINGS).build(problem.task)
    for it in range(8):
        batch = jax.jit(lambda it: draw(method, key, it, sources))(jnp.int32(it))
        rows = np.asarray(batch.base.real.indices)
        before, after = (np.asarray(seen[i].scores) for i in (it, it + 1))
        changed = np.flatnonzero(before != after)
        assert set(changed) <= set(rows.ravel())
        assert (len(changed) > 0) == (it % 3 == 0)
        counts = np.asarray(seen[it].counts)
        scored = np.zeros_like(counts)
        scored[rows] = it % 3 == 0
        np.testing.assert_array_equal(seen[it + 1].counts, counts + scored)
        # The weights of the step: uniform at first, then softmax(z / τ) of all that is known by then.
        w = jax.nn.softmax(after[rows] / 0.5, -1) if it >= 4 else np.full(rows.shape, 1 / 8)
        np.testing.assert_allclose(infos[it]["effective"], np.mean(1 / np.sum(np.asarray(w) ** 2, -1)) / 8, rtol=1e-5)
        if it in (0, 6):
            real = batch.base.real

            def objective(weights, it=it, batch=batch, real=real):
                weighted = batch.base._replace(real=real._replace(weights=weights))
                return base.objective(seen[it].base.distilled, seen[it].base, weighted)

            fresh = -standardize(jax.jit(jax.grad(objective))(jnp.full(rows.shape, 1 / 8)))
            for c, i in np.ndindex(rows.shape):
                if np.sum(rows == rows[c, i]) == 1:
                    old = before[rows[c, i]]
                    expected = 0.75 * old + 0.25 * fresh[c, i] if counts[rows[c, i]] else fresh[c, i]
                    np.testing.assert_allclose(after[rows[c, i]], expected, rtol=1e-3, atol=1e-4)
        if it == 5:  # the base takes its step with these weights
            weighted = batch.base._replace(real=batch.base.real._replace(weights=jnp.asarray(w)))
            ours = seen[it + 1].base.distilled.images
            theirs = jax.jit(base.step)(keys_of(key, it)[1], seen[it].base, weighted)[0].distilled.images
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            assert np.abs(theirs - seen[it].base.distilled.images).max() > 1e-2 and np.ptp(w) > 0.05


@pytest.mark.slow
def test_both_is_the_sum_of_the_parts(problem):
    scores = {}
    for score in ("explicit", "implicit", "both"):
        how = Weighting(warm_up=2, evaluation_batch=12, damping=0.3, score=score)
        seen, infos = states(problem, dc.Config(**SETTINGS, weighting=how), steps=1)[1:3]
        scores[score] = np.asarray(seen[1].scores), infos[0]["largest_score"]
    (explicit, e), (implicit, i), (both, largest) = scores.values()
    assert e > 0 and i > 0 and largest <= (e + i) * 1.001
    rows = np.flatnonzero(both)
    # Of one batch all are shifted and scaled by the same numbers within a class: the sum is a combination of the parts.
    for c in range(3):
        mine = rows[np.asarray(problem.data.train.labels)[rows] == c]
        parts = np.stack([explicit[mine], implicit[mine]], -1)
        weights, *_ = np.linalg.lstsq(parts, both[mine], rcond=None)
        np.testing.assert_allclose(parts @ weights, both[mine], atol=1e-3)
        assert (weights > 0).all()


def test_its_keys_are_none_of_the_base(problem):
    sources = Sources(problem.data.real_set(), validation=problem.data.validation_set())
    how = Weighting(warm_up=2, score="implicit", evaluation_batch=12)
    method = dc.Config(**SETTINGS, weighting=how).build(problem.task)
    key = jax.random.key(3)
    batch = jax.jit(lambda: method.sample(key, jnp.int32(0), sources))()
    alone = jax.jit(lambda: dc.Config(**SETTINGS).build(problem.task).sample(key, jnp.int32(0), sources))()
    jax.tree.map(np.testing.assert_array_equal, batch.base.real, alone.real)
    used = {jax.random.key_data(k).tobytes() for k in jax.random.split(key, 64)}
    assert jax.random.key_data(jax.random.fold_in(key, weighting.OWN_KEYS)).tobytes() not in used


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"score": "implicit"},
        {"score": "both", "solver": "cg", "damping": 2.0},
    ],
)
def test_implicit_scores_run_on_validation_data(problem, settings):
    settings = {**settings, "evaluated_on": "validation", "evaluation_batch": 12}
    config = dc.Config(**SETTINGS, weighting=Weighting(**settings, warm_up=2))
    assert config.needs_validation and not dc.Config(**SETTINGS).needs_validation
    _, seen, *_ = states(problem, config, steps=4)
    assert np.isfinite(np.asarray(seen[-1].scores)).all()
    assert np.asarray(seen[-1].scores).any()
    harmful = dc.Config(**SETTINGS, weighting=Weighting(**settings, sign="harmful", warm_up=9))
    reverse = states(problem, harmful, steps=1)[1][-1].scores
    np.testing.assert_allclose(reverse, -np.asarray(seen[1].scores), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_it_wraps_a_method_that_reads_experts(problem):
    recipe = Recipe(epochs=1, batch=64, augment="none")
    experts = train_experts(problem.task, problem.data, ExpertsConfig(count=1, recipe=recipe, keep=1))
    scoring = dataclasses.replace(SCORING, validate_every=1)  # so that the loss of every step is logged

    def outcome(weighting):
        losses = []

        def on_metrics(step, stage, **values):
            if stage == "distill":
                losses.append(values["loss"])

        config = ncfm.Config(ipc=1, steps=3, real_batch=4, frequencies=8, weighting=weighting)
        found = distill(problem.task, problem.data, config, experts, evaluate=scoring, on_metrics=on_metrics)
        return losses, found

    (plain, _), (weighted, found) = outcome(None), outcome(Weighting(temperature=0.5, warm_up=2))
    np.testing.assert_allclose(weighted[:2], plain[:2], rtol=1e-5)  # while it warms up
    assert len(plain) == 3 and weighted[2] != pytest.approx(plain[2], rel=1e-3)
    scores = found.inspected["scores"].values
    assert scores.shape == problem.data.train.labels.shape and 12 <= np.count_nonzero(scores) <= 36


def test_collapse_of_the_weights_is_told(problem):
    fine = {"loss": 1.0, "image_gradient": 1.0, "effective": 0.6, "least_effective": 0.5, "residual": 0.1}
    method = dc.Config(**SETTINGS, weighting=Weighting(warm_up=2)).build(problem.task)
    assert method.warn(fine) == {}
    assert "raise method.weighting.temperature above 2" in method.warn({**fine, "least_effective": 0.1})["effective"]
    assert "raise method.weighting.damping above 1" in method.warn({**fine, "residual": 1.5})["residual"]
    few = Weighting(warm_up=2, selection="influence_select", fraction=0.1)
    few = dc.Config(**SETTINGS, weighting=few).build(problem.task)
    assert few.warn({**fine, "least_effective": 0.1}) == {}  # as asked


def test_what_it_is_around_is_in_its_name_and_settings(problem):
    config = dm.Config(ipc=3, weighting=Weighting(temperature=5.0))
    assert (config.name, config.ipc, config.weighting.temperature) == ("dm", 3, 5.0)
    assert config.title == "dm with influence weights" and dm.Config().title == "dm"
    assert dc.Config(weighting=Weighting()).title == "dc with influence weights"
    with pytest.raises(ValueError, match="has no objective .* wrap dc, dm, ncfm or cafe"):
        weighted(problem.task, mtt.Config().build(problem.task), Weighting())


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"refresh": 0},
        {"fraction": 1.0},
        {"warm_up": -1},
        {"fraction": 0.0},
        {"evaluated_on": "validation"},
        {"selection": "best"},
        {"decay": 1.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        Weighting(**settings)


@pytest.mark.parametrize("base", [dc, dm, ncfm])
def test_a_warm_up_that_lasts_to_the_end_is_refused(problem, base):
    config = base.Config(steps=30, weighting=Weighting(warm_up=30))
    with pytest.raises(ValueError, match="method.weighting.warm_up is 30 and method.steps 30"):
        config.build(problem.task)
