"""What every method has to do, checked on all of them: add a case here with a new method."""

import functools
import re
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import classification, data, evaluate, models
from jaxdd.core.distilled import Distilled
from jaxdd.core.parallel import make_mesh, replicate, to_host
from jaxdd.core.training import Recipe
from jaxdd.core.unroll import Unroll
from jaxdd.driver import advance, complete, distill, draw, keys_of, run_method
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.experts.trajectories import Window
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.methods import (
    MethodConfig,
    Optimizer,
    Sources,
    Weighting,
    cafe,
    coresets,
    datm,
    dc,
    ddpp,
    dm,
    formation,
    iadd,
    infmatch,
    initial_distilled,
    linear_gradient,
    mtt,
    ncfm,
    rat_bptt,
)
from jaxdd.models import MLP
from jaxdd.types import Examples

# Plain SGD: Adam's first steps follow the sign of a gradient, however small, and turn rounding into a difference.
INFMATCH = functools.partial(
    infmatch.Config,
    ipc=2,
    steps=40,
    init="noise",
    real_batch=16,
    window=Window(start=3, end=6),
    image_optimizer=Optimizer("sgd", 3.0, 0.5),
    label_optimizer=Optimizer("sgd", 3.0, 0.5),
)
MTT = dict(
    ipc=2,
    steps=40,
    student_steps=6,
    expert_snapshots=2,
    student_lr=0.05,
    window=Window(start=4),
    image_optimizer=Optimizer("sgd", 3.0, 0.5),
    label_optimizer=Optimizer("sgd", 1.0, 0.5),
)
STATISTICS = dict(ipc=2, steps=40, real_batch=16, init="noise", image_optimizer=Optimizer("sgd", 0.3, 0.5))
BPTT = {
    "student_steps": 8,
    "student_optimizer": Optimizer("adam", 0.03),
    "image_optimizer": Optimizer("adam", 0.1),
    "real_batch": 32,
    "ipc": 2,
    "steps": 40,
}
CASES = {
    "coresets real": coresets.Config(ipc=2),
    "coresets herding": coresets.Config(ipc=2, init="herding"),
    "coresets k_center": coresets.Config(ipc=2, init="k_center", labels="soft"),
    "infmatch first_order, augmented": INFMATCH(estimator="first_order", checkpoints=3, augment="flip"),
    "infmatch second_order": INFMATCH(),
    "infmatch unroll": INFMATCH(estimator="unroll", horizon=3),
    "infmatch learned labels": INFMATCH(
        estimator="first_order",
        gradient="autodiff",
        labels="learned",
        real_batch=12,  # eight devices do not divide it
        image_optimizer=Optimizer("adam", 0.1),
        label_optimizer=Optimizer("adam", 0.2),
    ),
    "infmatch published, cached, mini-batch": INFMATCH(estimator="published", cache=48, batch=4),
    "mtt learned labels": mtt.Config(**MTT, labels="learned", init="noise"),
    "mtt truncated, mini-batch": mtt.Config(**MTT, unroll=Unroll("truncated", last=3), batch=4, augment="flip"),
    "mtt chord": mtt.Config(**MTT, path="chord"),
    "mtt nearest": mtt.Config(**MTT, matched_step="nearest"),
    "mtt tesla, three pairs": mtt.Config(**MTT, unroll=Unroll("tesla"), pairs=3),
    "datm": datm.Config(**{**MTT, "window": Window(start=2, end=4), "label_optimizer": Optimizer("sgd", 0.5, 0.9)}),
    "ddpp quantile": ddpp.Config(**MTT, rule="quantile", amount=0.1),
    "ddpp threshold": ddpp.Config(**MTT, rule="threshold", amount=2.0),
    "ddpp depth": ddpp.Config(**MTT, rule="depth", amount=0.3),
    **{f"iadd {constraint}": iadd.Config(**MTT, constraint=constraint) for constraint in iadd.CONSTRAINTS},
    "iadd per start, two pairs": iadd.Config(**MTT, per_start=True, pairs=2),
    "dc": dc.Config(**STATISTICS, outer_loop=4, inner_loop=2),
    "dc dsa, learned labels": dc.Config(
        **{**STATISTICS, "real_batch": 70},  # more than a class has
        augment="color_flip",
        labels="learned",
        label_optimizer=Optimizer("sgd", 0.3, 0.5),
        distance="global_cosine",
    ),
    "dc idc": dc.Config(
        **{**STATISTICS, "image_optimizer": Optimizer("sgd", 1.0, 0.5)},
        factor=2,
        network="real",
        network_batch=16,
        network_optimizer=Optimizer("sgd", 0.01, 0.9),
        network_weight_decay=5e-4,
        network_augment="color+crop",
        network_cutmix=1.0,
        augment="flip+color",
        distance="mse",
        outer_loop=5,
        inner_loop=2,
    ),
    "cafe": cafe.Config(
        **{**STATISTICS, "image_optimizer": Optimizer("sgd", 0.1, 0.5)}, settled=0.0, longest=12, queries=20
    ),
    "linear_gradient": linear_gradient.Config(ipc=2, steps=40, heads=3, real_batch=64),
    "dm": dm.Config(**STATISTICS, augment="flip"),
    "infmatch released": INFMATCH(
        estimator="released",
        checkpoints=2,
        released=infmatch.Released(probes=32),
        labels="learned",
        image_optimizer=Optimizer("sgd", 0.03, 0.5),
        label_optimizer=Optimizer("sgd", 0.01, 0.5),
    ),
    "ncfm": ncfm.Config(**{**STATISTICS, "image_optimizer": Optimizer("sgd", 0.003, 0.5)}, frequencies=32),
    "ncfm adversarial": ncfm.Config(
        **{**STATISTICS, "image_optimizer": Optimizer("sgd", 0.003, 0.5)},
        frequencies=40,
        sampler=Optimizer("sgd", 1e-4),
    ),
    "rat_bptt": rat_bptt.Config(**BPTT, window=6),
    "rat_bptt adaptive, two students": rat_bptt.Config(
        **BPTT, schedule="adaptive", window=5, window_range=2, students=2, batch=3, labels="learned", augment="flip"
    ),
    "dc weighted, explicit": dc.Config(**STATISTICS, outer_loop=4, inner_loop=2, weighting=Weighting(warm_up=3)),
    "dc weighted, implicit, select": dc.Config(
        **STATISTICS,
        outer_loop=4,
        inner_loop=2,
        weighting=Weighting(score="both", warm_up=3, refresh=3, selection="influence_select", solver="cg"),
    ),
}
STEPPED = [name for name, config in CASES.items() if config.steps]
# Representatives, where a test compiles anew.
SAMPLED = [
    "infmatch first_order, augmented",
    "infmatch unroll",
    "infmatch released",
    "infmatch published, cached, mini-batch",
    "mtt learned labels",
    "mtt truncated, mini-batch",
    "iadd per start, two pairs",
    "dc dsa, learned labels",
    "dc idc",
    "dm",
    "ncfm",
    "rat_bptt adaptive, two students",
    "cafe",
    "linear_gradient",
]
UNJITTED = ["coresets real", "infmatch unroll", "iadd bounded"]
SPREAD = ["coresets herding", "infmatch second_order", "infmatch first_order, augmented", "mtt learned labels", "datm"]
SPREAD += [
    "mtt tesla, three pairs",
    "dc weighted, explicit",
    "ddpp quantile",
    "iadd bounded",
    "dc",
    "dc idc",
    "dm",
    "ncfm adversarial",
    "rat_bptt adaptive, two students",
    "cafe",
    "linear_gradient",
]
MATCHING = ["dc idc", "dm", "ncfm", "cafe"]
TRAJECTORY = [name for name in SAMPLED if isinstance(CASES[name], mtt.Config)]
SCORING = EvaluateConfig(recipe=Recipe(epochs=2, augment="none"))
LR = 0.02
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def problem(stripes):
    """The stripes, a small network and two experts of it."""
    task = classification(models.build(MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    recipe = Recipe(epochs=6, batch=64, lr=0.05, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")
    config = ExpertsConfig(count=2, recipe=recipe, snapshot_every=2)
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        trajectories = train_experts(task, stripes, config)
    backbone = models.frozen(task.model, task.unravel(np.asarray(trajectories.final[0])), (8, 8, 1), 3)
    return SimpleNamespace(
        task=task,
        frozen=classification(backbone, 3),
        real=stripes.real_set(),
        dataset=stripes,
        trajectories=trajectories,
    )


def task_of(problem, config):
    return problem.frozen if isinstance(config, linear_gradient.Config) else problem.task


@pytest.fixture(scope="module")
def one_device(problem):
    """Forty steps of a case on one device, in stretches of different length, and all that tests want to know of it."""
    mesh = make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        real_and_experts = replicate(Sources(problem.real, problem.trajectories))

    @functools.cache
    def first_set(init, labels, items):
        config = MethodConfig(ipc=items, init=init, labels=labels)
        build = functools.partial(initial_distilled, task=problem.task, config=config, lr=LR)
        return jax.jit(build)(jax.random.key(1), sources=real_and_experts)

    @functools.cache
    def run(name):
        config = CASES[name]
        method, traces = config.build(task_of(problem, config)), []

        def counted(*args):
            traces.append(1)
            return method.step(*args)

        with jax.set_mesh(mesh):
            initial = first_set(config.init, config.labels, config.items_per_class)
            # As run_method goes about it.
            prepare_key, init_key, step_key = jax.random.split(KEY, 3)
            sources = real_and_experts if config.needs_real else real_and_experts._replace(real=None)
            if method.prepare is not None:
                sources = sources._replace(cache=jax.jit(method.prepare)(prepare_key, sources))
            first = replicate(jax.jit(method.init)(init_key, initial, sources))
            stretch = advance(method._replace(step=counted))
            states, infos, counts = [first], [], []
            for begin, end in [(0, 7), (7, 8), (8, 13), (13, 20), (20, 30), (30, 40)]:
                state, rows = stretch(
                    step_key, jax.tree.map(jnp.copy, states[-1]), sources, jnp.int32(begin), jnp.int32(end)
                )
                states.append(state)
                infos.append(jax.tree.map(lambda x, n=end - begin: np.asarray(x)[:n], rows))
                counts.append(len(traces))
        return SimpleNamespace(
            method=method,
            config=config,
            sources=sources,
            initial=initial,
            states=states,
            infos=jax.tree.map(lambda *x: np.concatenate(x), *infos),
            traces=counts,
            sample=jax.jit(lambda key, it, sources: complete(method.sample(key, it, sources), sources, None)),
            batch=jax.jit(lambda it, sources: complete(draw(method, step_key, it, sources), sources, None)),
            key=step_key,
        )

    return run


def leaves(tree):
    """Arrays of a tree, random keys as their bits."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def examples_in(batch):
    nodes = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, Examples))
    return [node for node in nodes if isinstance(node, Examples)]


def assert_close(ours, theirs, tolerance):
    """Compare trees, each array relative to its largest element."""
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for x, y in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1e-3, np.abs(y).max(initial=0)))


def test_every_method_has_a_case():
    assert {config.name for config in CASES.values()} == {
        module.Config.name
        for module in (cafe, coresets, datm, dc, ddpp, dm, iadd, infmatch, linear_gradient, mtt, ncfm, rat_bptt)
    }
    assert {config.estimator for config in CASES.values() if isinstance(config, infmatch.Config)} == {
        "released",
        *infmatch.DISPLACEMENTS,
    }
    assert {config.constraint for config in CASES.values() if isinstance(config, iadd.Config)} == set(iadd.CONSTRAINTS)
    assert {config.init for config in CASES.values() if isinstance(config, coresets.Config)} == {
        "real",
        *coresets.GREEDY,
    }


@pytest.mark.parametrize("name", CASES)
def test_state_keeps_its_structure_and_stays_finite(one_device, name):
    run = one_device(name)
    for state in run.states[1:]:
        chex.assert_trees_all_equal_structs(state, run.states[0])
        chex.assert_trees_all_equal_shapes_and_dtypes(state, run.states[0])
    chex.assert_tree_all_finite(run.states)
    chex.assert_tree_all_finite(run.infos)
    assert {rows.shape for rows in run.infos.values()} == {(40,)}
    assert "loss" in run.infos


@pytest.mark.parametrize("name", CASES)
def test_one_program_serves_every_stretch(one_device, name):
    run = one_device(name)
    assert run.traces[0] > 0
    assert set(run.traces) == {run.traces[0]}
    # What a stretch gives is of the types and in the places that the next one is compiled for.
    begun = [[(jax.typeof(x), x.sharding) for x in jax.tree.leaves(state)] for state in run.states]
    assert all(state == begun[0] for state in begun)


@pytest.mark.parametrize(
    "name", [name if name in UNJITTED else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_stretch_is_what_its_steps_are_without_jit(one_device, name):
    # Step 7 again, its operations one at a time. Float32 sums in another order: 1e-4 of the largest element.
    run = one_device(name)
    batch = run.batch(jnp.int32(7), run.sources)
    state, info = run.method.step(keys_of(run.key, 7)[1], run.states[1], batch)
    assert_close(to_host(run.states[2]), to_host(state), 1e-4)
    assert_close(jax.tree.map(lambda x: x[7], run.infos), to_host(info), 1e-4)


@pytest.mark.parametrize("name", STEPPED)
def test_loss_falls(one_device, name):
    loss = one_device(name).infos["loss"]
    assert np.median(loss[-10:]) < 0.9 * np.median(loss[:5])


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_learned_moves(one_device, name):
    run = one_device(name)
    before, after = (run.method.distilled(run.states[i]) for i in (0, -1))
    assert isinstance(after, Distilled)
    images, labels, lr = (not np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert images == (run.config.steps > 0)
    assert labels == (run.config.steps > 0 and run.config.labels == "learned")
    assert lr == isinstance(run.config, mtt.Config)


@pytest.mark.parametrize("name", CASES)
def test_distilled_set_has_a_positive_learning_rate(one_device, name):
    run = one_device(name)
    size = 3 * run.config.items_per_class
    for state in run.states:
        distilled = run.method.distilled(state)
        assert distilled.images.shape == (size, 8, 8, 1)
        assert distilled.labels.shape == (size, 3)
        assert distilled.lr.shape == ()
        assert {x.dtype for x in distilled} == {np.dtype(np.float32)}
        assert float(distilled.lr) > 0
    first = run.method.distilled(run.states[0])
    expected = run.config.student_lr if isinstance(run.config, mtt.Config) else LR
    np.testing.assert_allclose(first.lr, expected, rtol=1e-5)
    if size == 6:
        np.testing.assert_array_equal(first.images, run.initial.images)
    else:  # stored images stand for several items
        np.testing.assert_allclose(
            first.images, formation.decode(formation.encode(run.initial, 2), 2).images, atol=1e-6
        )
    np.testing.assert_array_equal(first.labels, run.initial.labels)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampling_follows_the_key_alone(one_device, problem, name):
    run = one_device(name)
    step = jnp.int32(7)
    batch, again, other = (run.sample(jax.random.key(i), step, run.sources) for i in (0, 0, 1))
    chex.assert_trees_all_equal_shapes_and_dtypes(batch, other)
    assert all(np.array_equal(x, y) for x, y in zip(leaves(batch), leaves(again), strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(leaves(batch), leaves(other), strict=True))
    for examples in examples_in(batch):
        rows = np.asarray(examples.indices)
        assert 0 <= rows.min() <= rows.max() < problem.real.size
        np.testing.assert_allclose(np.asarray(examples.weights).sum(-1), 1, rtol=1e-6)
        labels = np.asarray(problem.real.targets)[rows]
        np.testing.assert_array_equal(np.argmax(examples.targets, -1), labels)


@pytest.mark.parametrize("name", [name for name in SAMPLED if re.match("infmatch (?!released)", name)])
def test_infmatch_samples_checkpoints_of_its_window(one_device, problem, name):
    run = one_device(name)
    line, config = problem.trajectories, run.config
    length = config.horizon if config.estimator == "unroll" else 1
    flat = np.asarray(line.snapshots)
    interval = np.diff([*line.time, line.total_time])
    seen = set()
    for seed in range(12):
        windows = run.sample(jax.random.key(seed), jnp.int32(20), run.sources)
        params = np.asarray(windows.params)
        assert params.shape == (config.checkpoints, length, flat.shape[-1])
        for m in range(config.checkpoints):
            found = [np.argwhere((flat == params[m, k]).all(-1)) for k in range(length)]
            assert all(len(places) == 1 for places in found)
            experts, times = np.concatenate(found).T
            assert len(set(experts)) == 1
            assert times.tolist() == list(range(times[0], times[0] + length))
            seen.add((int(experts[0]), int(times[0])))
            lr = interval[times] if config.estimator == "unroll" else line.lr[times]
            remaining = line.total_time - line.time[times] - lr
            a, b = {
                "published": (0 * lr, lr * remaining),
                "first_order": (-lr, 0 * lr),
                "second_order": (0 * lr - config.tau, 0 * lr + config.tau**2 / 2),
                "unroll": (-lr, 0 * lr),
            }[config.estimator]
            np.testing.assert_allclose(windows.a[m], a, rtol=1e-5)
            np.testing.assert_allclose(windows.b[m], b, rtol=1e-5)
            if config.cache is not None:
                places = (experts, times)
                np.testing.assert_array_equal(windows.cached.gradient[m], run.sources.cache.gradient[places])
                np.testing.assert_array_equal(windows.cached.product[m], run.sources.cache.product[places])
        # Gradients and Hessians of the real data are seen on independent draws.
        assert not np.array_equal(windows.for_gradient.indices, windows.for_hessian.indices)
    # Half-way the window ends before snapshot 3 + (6 − 3) / 2, rounded down.
    assert {time for _, time in seen} == {0, 1, 2, 3}
    assert {expert for expert, _ in seen} == {0, 1}


def test_infmatch_caches_gradients_of_the_real_data(one_device, problem):
    # Each cached vector is a mean over three chunks of 16 examples: it points where the gradient of all examples does.
    run = one_device("infmatch published, cached, mini-batch")
    used = run.config.snapshots_needed
    assert run.sources.cache.gradient.shape == (2, used, problem.trajectories.snapshots.shape[-1])
    unravel = ravel_pytree(problem.task.model.init(KEY))[1]
    images = problem.dataset.normalization(jnp.asarray(problem.real.inputs))
    targets = jax.nn.one_hot(jnp.asarray(problem.real.targets), 3)

    def loss(flat):
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(problem.task.model.apply(unravel(flat), images)), -1))

    @jax.jit
    def exact(flat):
        gradient = jax.grad(loss)(flat)
        return gradient, jax.jvp(jax.grad(loss), (flat,), (gradient,))[1]

    for t in (0, used - 1):
        for ours, theirs in zip(run.sources.cache, exact(problem.trajectories.snapshots[1, t]), strict=True):
            cosine = np.vdot(ours[1, t], theirs) / np.linalg.norm(ours[1, t]) / np.linalg.norm(theirs)
            assert cosine > 0.8
            assert 0.5 < np.linalg.norm(ours[1, t]) / np.linalg.norm(theirs) < 2


@pytest.mark.parametrize("name", TRAJECTORY)
def test_students_start_and_arrive_at_snapshots_of_one_expert(one_device, problem, name):
    run = one_device(name)
    flat, seen = np.asarray(problem.trajectories.snapshots), set()
    for seed in range(16):
        batch = run.sample(jax.random.key(seed), jnp.int32(20), run.sources)
        pairs = run.config.pairs
        assert batch.indices.shape == (pairs, 6, 3 if run.config.batch else 6)  # two equal batches of at most four
        for r in range(pairs):
            ((expert, start),) = np.argwhere((flat == batch.start.params[r][None, None]).all(-1))
            ((same, target),) = np.argwhere((flat == batch.target.params[r][None, None]).all(-1))
            assert (same, target) == (expert, start + 2)
            assert (batch.start.expert[r], batch.start.position[r]) == (expert, start)
            seen.add((int(expert), int(start)))
    assert {start for _, start in seen} == {0, 1, 2, 3}
    assert {expert for expert, _ in seen} == {0, 1}


@pytest.mark.parametrize("name", MATCHING)
def test_objective_is_the_loss_of_a_step_and_sees_the_instance_weights(one_device, name):
    run = one_device(name)
    state, batch = run.states[1], run.batch(jnp.int32(7), run.sources)
    assert batch.real.weights.shape == batch.real.indices.shape == (3, run.config.real_batch)

    def objective(distilled, weights):
        return run.method.objective(distilled, state, batch._replace(real=batch.real._replace(weights=weights)))

    value, (by_set, by_weights) = jax.jit(jax.value_and_grad(objective, (0, 1)))(state.distilled, batch.real.weights)
    np.testing.assert_allclose(value, run.infos["loss"][7], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(by_set.inputs), run.infos["image_gradient"][7], rtol=1e-3)
    assert np.std(by_weights, axis=-1).min() > 0


def test_methods_without_an_objective_say_so(problem):
    found = {name.split()[0] for name, c in CASES.items() if c.build(task_of(problem, c)).objective}
    assert found == {"cafe", "dc", "dm", "ncfm", "infmatch"}  # of infmatch, what its released code does


@pytest.mark.parametrize("name", CASES)
def test_state_survives_a_checkpoint_bit_by_bit(one_device, name, tmp_path):
    run = one_device(name)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(40, {"state": to_host(run.states[-1])})
    step, restored = checkpoints.restore({"state": run.states[0]})
    assert step == 40
    # The structure too: named tuples of optimizers come back as what they were.
    assert jax.tree.structure(restored["state"]) == jax.tree.structure(run.states[-1])
    for ours, theirs in zip(leaves(restored["state"]), leaves(run.states[-1]), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("name", SPREAD)
def test_eight_devices_compute_what_one_does(one_device, problem, name):
    # Sums over the real batch are split in eight, in float32, and ten steps carry that on: 1e-3 of the largest element.
    one, traces, losses, scored = one_device(name), [], {}, []

    def counted(*args):
        traces.append(1)
        return one.method.step(*args)

    def validate(distilled):
        scored.append((distilled, len(traces)))
        return [0.4, 0.2, 0.9, 0.9, 0.5][len(scored) - 1]

    outcome = run_method(
        one.method._replace(step=counted),
        to_host(one.initial),
        Sources(problem.real if one.config.needs_real else None, problem.trajectories),
        name=name,
        steps=13,
        key=KEY,
        every=4,
        validate=validate,
        on_metrics=lambda step, stage, **values: losses.update({step: values["loss"]} if stage == "distill" else {}),
    )
    assert scored[1][1] == len(traces)  # nothing was traced again after the first stretch
    assert_close(outcome.last, to_host(one.method.distilled(one.states[3])), 1e-3)
    assert list(losses) == [4, 8, 12, 13]
    expected = [one.infos["loss"][slice(*stretch)].mean() for stretch in ((0, 4), (4, 8), (8, 12), (12, 13))]
    np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-3)
    # Scored before the first step, every four and at the end; the first of the best is the result.
    assert len(scored) == 5
    assert (outcome.step, outcome.score) == (8, 0.9)
    assert_close(outcome.distilled, scored[2][0], 0)
    assert_close(outcome.last, scored[4][0], 0)


@pytest.mark.parametrize("method", [mtt, iadd])
def test_a_diverging_student_stops_the_run(problem, method):
    config = method.Config(**{**MTT, "image_optimizer": Optimizer("sgd", 1e30)})
    name = method.__name__.rpartition(".")[2]
    with pytest.raises(FloatingPointError, match=rf"(step \d+ of {name} with learning rates image 1e\+30|after step)"):
        distill(problem.task, problem.dataset, config, problem.trajectories, evaluate=SCORING)


def test_experts_that_do_not_fit_the_method_are_refused(problem):
    with pytest.raises(ValueError, match="infmatch needs experts of at least 6 snapshots and was given none"):
        distill(problem.task, problem.dataset, INFMATCH())
    with pytest.raises(ValueError, match="mtt needs experts of at least 12 snapshots and was given some of 10"):
        distill(problem.task, problem.dataset, mtt.Config(**{**MTT, "window": Window(start=10)}), problem.trajectories)
    with pytest.raises(ValueError, match="coresets needs experts of at least 1 snapshots and was given none"):
        distill(problem.task, problem.dataset, CASES["coresets herding"])
    with pytest.raises(ValueError, match="cannot draw 65 examples per class"):
        distill(problem.task, problem.dataset, coresets.Config(ipc=65))


NETWORKS = {
    "convnet": models.ConvNet(width=4, depth=2),
    "mlp": models.MLP(width=8),
    "resnet10": models.ResNet(depth=10, width=2),
    "resnet18, batch": models.ResNet(depth=18, width=2, norm="batch"),
    "resnet34, group": models.ResNet(depth=34, width=4, norm="group"),
    "vgg11": models.VGG(width=2),
    "alexnet": models.AlexNet(width=4),
    "lenet": models.LeNet(),
    "vit": models.ViT(width=6, depth=2, heads=3, patch=4),
}
FEW_STEPS = {
    "mtt": mtt.Config(steps=2, student_steps=2, student_lr=0.05, expert_snapshots=2, window=Window(start=2)),
    "iadd, low rank": iadd.Config(
        steps=2, student_steps=2, student_lr=0.05, expert_snapshots=2, window=Window(start=2), constraint="low_rank"
    ),
    "infmatch": infmatch.Config(steps=2, estimator="first_order", real_batch=20, window=Window(start=2)),
    "dc": dc.Config(steps=2, real_batch=8),
    "dm": dm.Config(steps=2, real_batch=8),
    "cafe": cafe.Config(steps=2, real_batch=8, queries=8, longest=3),
}


@pytest.fixture(scope="module")
def larger_digits(tmp_path_factory):
    """Digits of 16×16, which every network takes; the last set is kept."""
    digits = data.load("digits", data_dir=str(tmp_path_factory.mktemp("tfds")))
    parts = [
        (np.kron(s.images[:300], np.ones((1, 2, 2, 1), np.uint8)), s.labels[:300]) for s in (digits.train, digits.test)
    ]
    return data.from_arrays(*parts[0], *parts[1], name="larger digits", validation=0)


@pytest.mark.parametrize("method", FEW_STEPS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_set_is_distilled_with_every_network(larger_digits, network, method):
    task = classification(models.build(NETWORKS[network], (16, 16, 1), 10), 10)
    recipe = Recipe(epochs=2, batch=64, lr=0.02, augment="none")
    config, experts = FEW_STEPS[method], None
    scoring = EvaluateConfig(networks=1, recipe=recipe, random_real=False, full_data=False)
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        if config.needs_experts:
            experts = train_experts(task, larger_digits, ExpertsConfig(count=1, recipe=recipe, snapshot_every=2))
        outcome = distill(task, larger_digits, config, experts, evaluate=scoring)
        first = distill(task, larger_digits, coresets.Config(), evaluate=scoring)
        scores = evaluate(task, larger_digits, outcome.distilled, scoring)
    assert outcome.step == 2 and np.isfinite(outcome.distilled.images).all()
    assert not np.array_equal(outcome.distilled.images, first.distilled.images)
    assert 0 <= scores["distilled"]["mean"] <= 1
