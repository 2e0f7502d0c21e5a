import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits

from jaxdd import classification, influence, models
from jaxdd.core import sampling
from jaxdd.core.normalization import fit
from jaxdd.experts.trajectories import Trajectories
from jaxdd.influence import InfluenceConfig, Solver
from jaxdd.models import MLP
from jaxdd.types import Examples

ALONG_PATH = ["tracin", "second_order", "bracket", "sgd_influence"]
DECAY = 0.01


def digits(count, target, classes):
    """Real digits of the first classes, pooled to 4×4, as float64 examples and targets."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[labels < classes], labels[labels < classes]
    pooled = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))[..., None]
    pooled = (pooled - pooled.mean()) / pooled.std()

    def examples(start, size):
        rows = slice(start, start + size)
        return Examples(
            jnp.asarray(pooled[rows]),
            jax.nn.one_hot(labels[rows], classes, dtype=jnp.float64),
            jnp.full((size,), 1 / size),
            jnp.arange(size),
        )

    return examples(0, count), examples(count, target)


class Problem:
    """A small problem with everything that the oracles need, dense."""

    def __init__(self, depth=1, count=30, target=12, classes=3, decay=DECAY):
        config = MLP(width=4, depth=depth, activation="gelu")
        self.task = classification(models.build(config, (4, 4, 1), classes), classes)
        self.size, self.unravel = self.task.size, self.task.unravel
        self.train, self.target = digits(count, target, classes)
        self.decay = decay

        def per_example(flat, examples):
            return self.task.losses(self.unravel(flat), examples)

        def loss(flat, weights):
            return weights @ per_example(flat, self.train) + decay / 2 * jnp.vdot(flat, flat)

        def target_loss(flat):
            return self.target.weights @ per_example(flat, self.target)

        self.loss, self.target_loss = loss, jax.jit(target_loss)
        self.target_gradient = jax.jit(jax.grad(target_loss))
        self.jacobian = jax.jit(jax.jacrev(lambda flat: per_example(flat, self.train)))
        self.hessian = jax.jit(lambda flat: jax.hessian(loss)(flat, self.train.weights))
        self.hessians = jax.jit(jax.hessian(lambda flat: per_example(flat, self.train)))  # [N, P, P]
        self.gradient = jax.jit(lambda flat: jax.grad(loss)(flat, self.train.weights))
        self.start = ravel_pytree(self.task.model.init(jax.random.key(0)))[0].astype(jnp.float64)

    def scores(self, trajectories, estimator, **settings):
        keywords = {key: settings.pop(key) for key in ("target_weights", "retrain") if key in settings}
        config = InfluenceConfig(estimator, weight_decay=self.decay, **settings)
        return influence.scores(self.task, self.train, self.target, trajectories, config, **keywords)

    def descent(self, lr, steps):
        """Record every step of full-batch gradient descent."""

        @jax.jit
        def run(start):
            def step(params, _):
                return params - lr * jax.grad(self.loss)(params, self.train.weights), params

            return jax.lax.scan(step, start, length=steps)

        final, snapshots = run(self.start)
        times = lr * jnp.arange(steps + 1)
        return Trajectories(
            snapshots[None], final[None], jnp.full(steps, lr), times[:-1], times[-1], jnp.arange(steps, dtype=jnp.int32)
        )

    def newton(self, weights, start):
        """Train a convex model to its minimum."""

        def step(params, _):
            gradient, hessian = jax.grad(self.loss)(params, weights), jax.hessian(self.loss)(params, weights)
            return params - jnp.linalg.solve(hessian, gradient), None

        return jax.lax.scan(step, start, length=12)[0]


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        return Problem()


@pytest.fixture(scope="module")
def recorded(problem):
    """Two paths of four irregular snapshots, not of any training: the formulas do not ask for one."""
    with jax.enable_x64(True):
        snapshots = problem.start[None, None] + 0.3 * jax.random.normal(jax.random.key(1), (2, 5, problem.size))
        time = jnp.array([0.0, 0.1, 0.3, 0.35])
        steps = jnp.arange(4, dtype=jnp.int32)
        return Trajectories(snapshots[:, :4], snapshots[:, 4], jnp.full(4, 0.1), time, jnp.asarray(0.5), steps)


INTERVALS = np.array([0.1, 0.2, 0.05, 0.15])


def over_experts(recorded, of_expert):
    return np.mean([of_expert(*pair) for pair in zip(recorded.snapshots, recorded.final, strict=True)], axis=0)


def test_tracin_is_that_of_explicit_per_example_gradients(x64, problem, recorded):
    def of_expert(snapshots, end):
        terms = [problem.jacobian(s) @ problem.target_gradient(s) for s in snapshots]
        return INTERVALS @ np.array(terms)

    found = problem.scores(recorded, "tracin", chunk=7)
    np.testing.assert_allclose(found, over_experts(recorded, of_expert), rtol=1e-9)


def test_sgd_influence_is_the_unroll_with_dense_hessians(x64, problem, recorded):
    def of_expert(snapshots, end):
        # Forwards, where the library goes backwards: the displacement of the parameters for all examples, [N, P].
        displacement = np.zeros((len(problem.train.indices), problem.size))
        for params, lr in zip(snapshots, INTERVALS, strict=True):
            hessian = np.asarray(problem.hessian(params))
            displacement = displacement - lr * (displacement @ hessian + np.asarray(problem.jacobian(params)))
        return -displacement @ np.asarray(problem.target_gradient(end))

    expected = over_experts(recorded, of_expert)
    np.testing.assert_allclose(problem.scores(recorded, "sgd_influence"), expected, rtol=1e-8, atol=1e-11)


def test_second_order_and_bracket_are_their_formulas_with_dense_hessians(x64, problem, recorded):
    def second_order(snapshots, end):
        gradient, correction, total = problem.target_gradient(end), 0, 0
        for params, lr in reversed(list(zip(snapshots, INTERVALS, strict=True))):
            total = total + lr * problem.jacobian(params) @ (gradient - correction)
            correction = correction + lr * problem.hessian(params) @ gradient
        return total

    def bracket(snapshots, end):
        gradient, total = problem.target_gradient(end), 0
        for t, params in enumerate(snapshots):
            of_data = problem.jacobian(params) @ problem.hessian(params) @ gradient
            of_example = problem.hessians(params) @ problem.gradient(params) @ gradient
            total = total - INTERVALS[t] * INTERVALS[t + 1 :].sum() * (of_data + of_example)
        return total

    for name, oracle in (("second_order", second_order), ("bracket", bracket)):
        found = problem.scores(recorded, name, chunk=7)
        np.testing.assert_allclose(found, over_experts(recorded, oracle), rtol=1e-8)


def test_self_influence_is_the_squared_norm_of_each_gradient(x64, problem, recorded):
    def of_expert(snapshots, end):
        return INTERVALS @ np.array([np.sum(problem.jacobian(s) ** 2, axis=1) for s in snapshots])

    config = InfluenceConfig(chunk=7)
    found = influence.self_influence(problem.task, problem.train, recorded, config)
    np.testing.assert_allclose(found, over_experts(recorded, of_expert), rtol=1e-9)


@pytest.fixture(scope="module")
def system(problem, recorded):
    """The dense linear system of endpoint at the parameters of the first expert, barely positive definite."""
    with jax.enable_x64(True):
        params = recorded.final[0]
        hessian = np.asarray(problem.hessian(params))
        damping = 0.05 - np.linalg.eigvalsh(hessian)[0]
        assert damping > 0.05  # without it the Hessian is indefinite, as that of a network is
        damped = hessian + damping * np.eye(problem.size)
        solution = np.linalg.solve(damped, problem.target_gradient(params))
        return influence.at(params), float(damping), np.asarray(problem.jacobian(params)) @ solution


@pytest.mark.parametrize(
    "solver",
    [
        Solver("explicit"),
        Solver("cg", iterations=200, tolerance=1e-9),
        Solver("lissa", iterations=2000, scale=3.0),
        Solver("arnoldi", iterations=200),
    ],
    ids=lambda solver: solver.name,
)
def test_every_solver_agrees_with_a_dense_solve(x64, problem, system, solver):
    where, damping, expected = system
    found = problem.scores(where, "endpoint", solver=dataclasses.replace(solver, damping=damping))
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_arnoldi_of_low_rank_keeps_the_leading_eigenvectors(x64, problem, system):
    where, damping, _ = system
    hessian = np.asarray(problem.hessian(where.final[0])) + damping * np.eye(problem.size)
    values, vectors = np.linalg.eigh(hessian)
    kept = np.argsort(-np.abs(values))[:3]
    gradient = np.asarray(problem.target_gradient(where.final[0]))
    solution = vectors[:, kept] @ (vectors[:, kept].T @ gradient / values[kept])
    expected = np.asarray(problem.jacobian(where.final[0])) @ solution
    found = problem.scores(where, "endpoint", solver=Solver("arnoldi", damping=damping, iterations=40, rank=3))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_lissa_on_batches_comes_near_the_solution(x64, problem, system):
    where, damping, expected = system
    solver = Solver("lissa", damping=damping, iterations=3000, scale=50.0, batch=5)
    found = problem.scores(where, "endpoint", solver=solver)
    gap = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < gap < 0.2


SETTINGS = {"solver": Solver("cg", damping=2.0, tolerance=1e-12), "curvature": 11}


@pytest.mark.parametrize("estimator", ["bracket", "sgd_influence", "endpoint", "leave_one_out"])
def test_the_mean_of_many_targets_is_the_pooled_one_whatever_the_chunks(x64, problem, recorded, estimator):
    count = len(problem.target.indices)
    many = problem.scores(recorded, estimator, target_weights=np.eye(count), chunk=6, **SETTINGS)
    assert many.shape == (count, len(problem.train.indices))
    pooled = problem.scores(recorded, estimator, **SETTINGS)
    np.testing.assert_allclose(many.mean(0), pooled, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("estimator", ["bracket", "sgd_influence", "endpoint", "leave_one_out"])
def test_many_targets_are_as_many_single_ones(x64, problem, recorded, estimator):
    weights = np.eye(len(problem.target.indices))
    many = problem.scores(recorded, estimator, target_weights=weights, chunk=6, **SETTINGS)
    for row, weight in zip(many, weights, strict=True):
        one = problem.scores(recorded, estimator, target_weights=weight, **SETTINGS)
        np.testing.assert_allclose(row, one, rtol=1e-7, atol=1e-10)


def test_targets_per_class_are_the_mean_losses_of_the_classes():
    found = influence.per_class(np.array([1, 0, 1, 1]), 3)
    np.testing.assert_allclose(found, [[0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 0]])


def pearson(x, y):
    return float(np.corrcoef(x, y)[0, 1])


@pytest.fixture(scope="module")
def convex():
    """Multinomial logistic regression, and the scores of exact retraining to the minimum."""
    with jax.enable_x64(True):
        problem = Problem(depth=0, count=60, target=60, classes=4)
        optimum = jax.jit(problem.newton)(problem.train.weights, problem.start)
        assert jnp.abs(problem.gradient(optimum)).max() < 1e-12
        where = influence.at(optimum)
        return problem, where, problem.scores(where, "leave_one_out", retrain=problem.newton)


def slopes(problem, path, examples, **keywords):
    """Differentiate the target after retraining in the weights of some examples, by central differences."""
    step, weights = 1e-6, problem.train.weights
    moved = [weights.at[i].add(sign * step) for i in examples for sign in (1, -1)]
    config = InfluenceConfig(weight_decay=problem.decay)
    losses = influence.retrained(
        problem.task, problem.train, problem.target, path, jnp.stack(moved), config, **keywords
    )
    return (losses[::2] - losses[1::2]) / (2 * step)


def test_endpoint_influence_is_leave_one_out_of_a_convex_model(x64, convex):
    problem, where, truth = convex
    found = problem.scores(where, "endpoint", solver=Solver(damping=0.0, tolerance=1e-10))
    print("endpoint", pearson(found, truth))
    assert pearson(found, truth) > 0.95
    # Sign and unit: minus the slope of the target in the example's weight, as refitting finds it.
    examples = [int(np.argmax(found)), int(np.argmin(found))]
    assert found[examples[0]] > 0 > found[examples[1]]
    np.testing.assert_allclose(-found[examples], slopes(problem, where, examples, retrain=problem.newton), rtol=1e-5)


def test_leave_one_out_is_the_difference_of_the_targets(x64, convex):
    problem, where, truth = convex
    worst = int(np.argmin(truth))
    kept = problem.train.weights.at[worst].set(0)
    base, without = (problem.target_loss(problem.newton(w, where.final[0])) for w in (problem.train.weights, kept))
    np.testing.assert_allclose(truth[worst], (without - base) * 60, rtol=1e-7)


def test_sgd_influence_is_leave_one_out_along_the_path_of_a_convex_model(x64, convex):
    problem = convex[0]
    path = problem.descent(0.5, 60)
    truth, found = (problem.scores(path, name) for name in ("leave_one_out", "sgd_influence"))
    print("sgd_influence", pearson(found, truth))
    assert pearson(found, truth) > 0.95


def test_sgd_influence_is_the_slope_of_the_target_along_the_path_of_any_model(x64, problem):
    path = problem.descent(0.1, 100)
    found = problem.scores(path, "sgd_influence")
    examples = [int(np.argmax(found)), int(np.argmin(found))]
    assert found[examples[0]] > 0 > found[examples[1]]
    np.testing.assert_allclose(-found[examples], slopes(problem, path, examples), rtol=1e-5)


@pytest.mark.parametrize("estimator", ["tracin", "second_order", "sgd_influence", "leave_one_out"])
def test_up_weighting_an_example_of_positive_score_lowers_the_target(x64, problem, estimator):
    path, weights = problem.descent(0.002, 100), problem.train.weights
    found = problem.scores(path, estimator)
    helpful, harmful = int(np.argmax(found)), int(np.argmin(found))
    assert found[helpful] > 0 > found[harmful]
    moved = jnp.stack([weights, weights.at[helpful].mul(1.5), weights.at[harmful].mul(1.5)])
    config = InfluenceConfig(weight_decay=problem.decay)
    base, with_helpful, with_harmful = influence.retrained(
        problem.task, problem.train, problem.target, path, moved, config
    )
    assert with_helpful < base < with_harmful
    np.testing.assert_allclose(base - with_helpful, found[helpful] * 0.5 / 30, rtol=0.2)


def correlations(problem, steps, lr):
    path = problem.descent(lr, steps)
    damping = 0.3 + max(0.0, -float(np.linalg.eigvalsh(problem.hessian(path.final[0]))[0]))
    truth = problem.scores(path, "leave_one_out")
    found = {name: problem.scores(path, name) for name in ALONG_PATH}
    found["endpoint"] = problem.scores(path, "endpoint", solver=Solver("cg", damping=damping))
    config = InfluenceConfig("tracin")
    found["− self_influence"] = -influence.self_influence(problem.task, problem.train, path, config)
    return {name: round(pearson(scores, truth), 3) for name, scores in found.items()}


@pytest.mark.parametrize("lr", [0.002, 0.02, 0.1, 0.5])
def test_correlation_with_retraining_of_a_small_network(x64, problem, record_property, lr):
    found = correlations(problem, 100, lr)
    record_property("pearson", found)
    print(f"\n100 steps of {lr}, Pearson with leave-one-out: {found}")
    if lr < 0.5:
        assert found["sgd_influence"] > 0.9
    if lr == 0.002:  # a training time of 0.2: everything is of first order
        assert found["tracin"] > 0.9
        assert found["second_order"] > 0.99
    else:
        # The bracket alone is a correction that, where curvature is positive, opposes what it corrects.
        assert found["bracket"] < 0


def test_scores_predict_the_loss_after_removing_groups(x64, problem):
    path = problem.descent(0.02, 100)
    rng = np.random.default_rng(0)
    weights = np.asarray(problem.train.weights)[None] * (rng.uniform(size=(12, 30)) > 0.2)
    config = InfluenceConfig("sgd_influence", weight_decay=DECAY)
    truth = influence.retrained(problem.task, problem.train, problem.target, path, weights, config)
    predicted = -(weights - 1 / 30) @ problem.scores(path, "sgd_influence")
    assert pearson(predicted, truth) > 0.95


def test_real_set_and_its_examples_score_alike():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (14, 4, 4, 1), dtype=np.uint8), np.arange(14) % 3
    real = sampling.real_set(images, labels, 3, fit("standard", images))
    task = classification(models.build(MLP(width=4, depth=1), (4, 4, 1), 3), 3)
    params = ravel_pytree(task.model.init(jax.random.key(0)))[0]
    twice, steps = jnp.stack([params, params])[None], jnp.arange(2)
    path = Trajectories(twice, params[None], jnp.full(2, 0.25), 0.25 * steps, jnp.asarray(0.5), steps)
    config = InfluenceConfig("tracin", chunk=5)
    examples = sampling.take(real, jnp.arange(14))
    ours, theirs = (influence.scores(task, data, examples, path, config) for data in (real, examples))
    assert ours.shape == (14,)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_stride_end_and_momentum_choose_the_path(x64, problem, recorded):
    by_hand = recorded._replace(
        snapshots=recorded.snapshots[:, 0:3:2],
        final=recorded.snapshots[:, 3],
        time=10 * recorded.time[0:3:2],
        total_time=10 * recorded.time[3],
    )
    found = problem.scores(recorded, "tracin", stride=2, end="last", momentum=0.9)
    np.testing.assert_allclose(found, problem.scores(by_hand, "tracin"), rtol=1e-12)


def test_a_path_that_is_not_recorded_to_its_end_is_judged_where_it_was_last_seen(x64, problem, recorded):
    cut = recorded._replace(total_time=9.0)
    np.testing.assert_array_equal(problem.scores(cut, "tracin"), problem.scores(recorded, "tracin", end="last"))
    np.testing.assert_array_equal(problem.scores(recorded, "tracin"), problem.scores(recorded, "tracin", end="final"))
    damped = {"solver": Solver("cg", damping=20.0)}
    found = problem.scores(cut, "endpoint", **damped)  # which needs no way
    np.testing.assert_array_equal(found, problem.scores(recorded, "endpoint", end="final", **damped))


def test_an_adjoint_that_grows_is_told(x64, problem, caplog):
    path = problem.descent(0.1, 100)
    with caplog.at_level(logging.WARNING, "jaxdd"):
        problem.scores(path, "sgd_influence", stride=2)
        assert not caplog.records
        problem.scores(path, "sgd_influence", stride=7)
    assert "sgd_influence is doubtful, growth of its adjoint" in caplog.text


def test_hessians_of_some_examples_stand_for_all(x64, problem, recorded):
    one = jax.tree.map(lambda x: jnp.repeat(x[:1], 12, axis=0), problem.train)
    alike = one._replace(weights=jnp.full((12,), 1 / 12))
    few, all_of_them = (
        influence.scores(
            problem.task, alike, problem.target, recorded, InfluenceConfig("second_order", curvature=curvature)
        )
        for curvature in (5, None)
    )
    np.testing.assert_allclose(few, all_of_them, rtol=1e-9)


def test_divergence_is_an_error_with_advice(x64, problem, system):
    where, damping, _ = system
    cases = [
        (where, Solver("explicit", damping=0.0), "not finite; raise solver.damping until"),
        (influence.at(problem.start), Solver("cg", damping=0.2), "endpoint diverged, .* raise solver.damping above"),
        (where, Solver("lissa", damping=damping, scale=0.2), "raise solver.scale"),
    ]
    for params, solver, message in cases:
        with pytest.raises(FloatingPointError, match=message):
            problem.scores(params, "endpoint", solver=solver)
    path = problem.descent(0.1, 100)
    with pytest.raises(FloatingPointError, match="growth of its adjoint .* snapshots more often"):
        problem.scores(path._replace(time=100 * path.time, total_time=100 * path.total_time), "sgd_influence")


def test_a_system_that_is_not_solved_is_told(x64, problem, system, caplog):
    where, damping, _ = system
    with caplog.at_level(logging.WARNING, "jaxdd"):
        problem.scores(where, "endpoint", solver=Solver("cg", iterations=200, tolerance=1e-9, damping=damping))
        assert not caplog.records
        problem.scores(where, "endpoint", solver=Solver("lissa", damping=damping, iterations=3))
    assert "endpoint is doubtful, relative residual" in caplog.text


def test_what_cannot_be_scored_is_refused(x64, problem, recorded):
    def scores(trajectories, config, **keywords):
        return influence.scores(problem.task, problem.train, problem.target, trajectories, config, **keywords)

    config = InfluenceConfig("tracin")
    with pytest.raises(ValueError, match="no training time"):
        scores(influence.at(recorded.final), config)
    with pytest.raises(ValueError, match="last snapshot was taken at training time 0.35 of 9"):
        scores(recorded._replace(total_time=9.0), InfluenceConfig("tracin", end="final"))
    one = recorded.first(1)
    for config in (InfluenceConfig("tracin", end="final"), InfluenceConfig("second_order")):
        with pytest.raises(ValueError, match="one of 1 snapshots of each expert is read"):
            scores(one, config)
    with pytest.raises(ValueError, match=r"one of \d+ snapshots of each expert is read \(influence.stride 99"):
        scores(recorded, InfluenceConfig("tracin", end="final", stride=99))
    config = InfluenceConfig("tracin")
    with pytest.raises(ValueError, match="influence.stride is 2, but leave_one_out"):
        scores(recorded, InfluenceConfig("leave_one_out", stride=2))
    with pytest.raises(ValueError, match=r"weights are \(30,\) for 30 training examples"):
        influence.retrained(problem.task, problem.train, problem.target, recorded, np.ones(30), config)
    with pytest.raises(ValueError, match=r"target_weights are \(4,\) for 12 target examples"):
        scores(recorded, config, target_weights=np.ones(4))
    with pytest.raises(ValueError, match="only leave_one_out retrains"):
        scores(recorded, config, retrain=problem.newton)
    with pytest.raises(ValueError, match="training example 3 has weight 0"):
        train = problem.train._replace(weights=problem.train.weights.at[3].set(0))
        influence.scores(problem.task, train, problem.target, recorded, InfluenceConfig("leave_one_out"))
    large = classification(models.build(MLP(width=1000, depth=1), (4, 4, 1), 3), 3)
    with pytest.raises(ValueError, match="'explicit' for a network of 20003 parameters"):
        config = InfluenceConfig("endpoint", solver=Solver("explicit"))
        influence.scores(large, problem.train, problem.target, influence.at(np.zeros(20003)), config)
    for settings, message in [
        ({"estimator": "magic"}, "estimator is 'magic'; choose one of tracin"),
        ({"chunk": 0}, "influence.chunk is 0"),
        ({"momentum": 1.0}, r"influence.momentum is 1.0; give one in \[0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            InfluenceConfig(**settings)
    for settings, message in [
        ({"name": "lu"}, "name is 'lu'; choose one of cg"),
        ({"damping": -1.0}, "solver.damping is -1.0"),
        ({"batch": 0}, "solver.batch is 0"),
        ({"scale": 0.0}, "solver.scale is 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Solver(**settings)


SCORES = np.array([0.0, 2.0, 4.0, 5.0, 5.0, -1.0, 3.0])
LABELS = np.array([0, 0, 0, 1, 1, 2, 2])


def test_weights_are_a_softmax_of_standardized_scores_per_class():
    found = influence.weights(SCORES, LABELS, temperature=2.0)
    z = np.array([-1, 0, 1]) * np.sqrt(1.5)  # (0, 2, 4) has mean 2 and variance 8/3
    np.testing.assert_allclose(found[:3], np.exp(z / 2) / np.exp(z / 2).sum())
    np.testing.assert_allclose(found[3:5], 0.5)  # equal scores
    np.testing.assert_allclose(found[5:], np.exp([-0.5, 0.5]) / np.exp([-0.5, 0.5]).sum())
    np.testing.assert_allclose(influence.weights(1e6 * SCORES - 7, LABELS, temperature=2.0), found)
    np.testing.assert_allclose(influence.weights(SCORES, LABELS, temperature=1e-3)[:3], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(influence.weights([3.0], [1]), [1])


def test_subset_takes_an_end_of_every_class():
    np.testing.assert_array_equal(influence.subset(SCORES, LABELS, 2), [[2, 1], [3, 4], [6, 5]])
    np.testing.assert_array_equal(influence.subset(SCORES, LABELS, 1, keep="harmful"), [[0], [3], [5]])
    with pytest.raises(ValueError, match="per_class is 3, but class 1 has 2 examples"):
        influence.subset(SCORES, LABELS, 3)
    with pytest.raises(ValueError, match="keep is 'best'; choose one of helpful, harmful"):
        influence.subset(SCORES, LABELS, 1, keep="best")


def test_ranking_is_a_table_from_helpful_to_harmful():
    table = influence.ranking(SCORES, LABELS)
    assert table.dtype.names == ("index", "label", "score", "rank")
    np.testing.assert_array_equal(table["index"], [3, 4, 2, 6, 1, 0, 5])
    np.testing.assert_array_equal(table["label"], [1, 1, 0, 2, 0, 0, 2])
    np.testing.assert_array_equal(table["score"], SCORES[table["index"]])
    np.testing.assert_array_equal(table["rank"], np.arange(1, 8))


def test_scores_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="the score of example 1 is nan"):
        influence.ranking([0.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match=r"scores are \[2\] and labels \[3\]"):
        influence.subset([0.0, 1.0], [0, 1, 1], 1)
    with pytest.raises(ValueError, match=r"scores are \[\] and labels \[\]"):
        influence.subset(1.0, None, 1)
    with pytest.raises(ValueError, match="temperature is 0"):
        influence.weights(SCORES, LABELS, temperature=0)
