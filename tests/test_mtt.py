"""MTT and the members of its family: gradients, and what makes each differ from MTT."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxdd import classification, models
from jaxdd.core.distilled import Distilled
from jaxdd.core.unroll import Unroll
from jaxdd.experts.trajectories import Trajectories, Window
from jaxdd.methods import Optimizer, Sources, datm, ddpp, iadd, mtt
from jaxdd.models import MLP, ConvNet
from jaxdd.types import Snapshots
from tests.helpers import dot, finite_difference, random_like

# Plain SGD at rate one: a step subtracts the gradient, which can be read off.
UNIT = Optimizer("sgd", 1.0, 0.0)
SETTINGS = dict(
    ipc=2,
    student_steps=5,
    batch=4,
    student_lr=0.2,
    labels="learned",
    image_optimizer=UNIT,
    label_optimizer=UNIT,
    lr_optimizer=UNIT,
    window=Window(start=3),
    unroll=Unroll("full"),
)
IADD = SETTINGS | dict(importance_optimizer=UNIT)
EXACT = {
    "full": mtt.Config(**SETTINGS),
    "auto": mtt.Config(**SETTINGS | dict(unroll=Unroll())),
    "steps": mtt.Config(**SETTINGS | dict(unroll=Unroll("steps"))),
    "segmented": mtt.Config(**SETTINGS | dict(unroll=Unroll("segmented", segment=2))),
    "truncated to all": mtt.Config(**SETTINGS | dict(unroll=Unroll("truncated", last=100))),
    "three pairs, augmented": mtt.Config(**SETTINGS | dict(pairs=3, augment="color_crop_scale")),
    "nearest": mtt.Config(**SETTINGS | dict(student_steps=7, matched_step="nearest")),
    "chord": mtt.Config(**SETTINGS | dict(path="chord", pairs=2)),
    "tesla, one step": mtt.Config(**SETTINGS | dict(student_steps=1, unroll=Unroll("tesla"))),
    "datm": datm.Config(**SETTINGS | dict(loss_threshold=100.0)),
    **{f"ddpp {rule}": ddpp.Config(**SETTINGS, rule=rule, amount=0.3) for rule in ("quantile", "depth")},
    "ddpp threshold": ddpp.Config(**SETTINGS, rule="threshold", amount=1.0),
    **{f"iadd {constraint}": iadd.Config(**IADD, constraint=constraint) for constraint in iadd.CONSTRAINTS},
    "iadd per start, two pairs": iadd.Config(**IADD, constraint="none", per_start=True, pairs=2),
}


ATT = dict(student_steps=7, student_lr=2.0, matched_step="nearest")


class Setting:
    """A method on a toy network in float64, its state, and pairs of snapshots 0.1 apart."""

    def __init__(self, toy, config, network="mlp"):
        self.task, examples = toy(jnp.float64, name=network)
        self.method, self.config, size = config.build(self.task), config, self.task.size
        labels = jax.random.normal(jax.random.key(3), (6, 3), jnp.float64)
        distilled = Distilled(examples.inputs[:6], labels, jnp.asarray(0.2, jnp.float64))
        self.state = self.method.init(jax.random.key(0), distilled, None)
        importance = jax.tree.map(
            lambda x: x + 0.3 * jax.random.normal(jax.random.key(9), x.shape, jnp.float64),
            self.state.variables.importance,
        )
        self.state = self.state._replace(variables=self.state.variables._replace(importance=importance))
        keys = jax.random.split(jax.random.key(0), 4)
        start = 0.5 * jax.random.normal(keys[0], (config.pairs, size), jnp.float64)
        target = start + 0.1 * jax.random.normal(keys[1], start.shape, jnp.float64)
        expert, position = jnp.zeros(config.pairs, jnp.int32), jnp.arange(config.pairs) % 3
        rows = [mtt.student_batches(k, 6, config.batch, config.student_steps) for k in jax.random.split(keys[2], 3)]
        self.pairs = mtt.Pair(
            Snapshots(expert, position, start),
            Snapshots(expert, position, target),
            jnp.stack(rows[: config.pairs]),
            jax.random.split(keys[3], (config.pairs, config.student_steps)),
            jnp.array([[0.0, 0.7], [0.25, 1.0]]) if config.path == "chord" else None,
        )

    def step(self, state=None, pairs=None):
        return jax.jit(self.method.step)(jax.random.key(0), state or self.state, pairs or self.pairs)

    @functools.cached_property
    def loss(self):
        return jax.jit(
            lambda v: self.method.step(jax.random.key(0), self.state._replace(variables=v), self.pairs)[1]["loss"]
        )

    @property
    def gradient(self):
        """What one step of plain SGD at rate one subtracts; IADD multiplies by the number of weights."""
        gradient = jax.tree.map(jnp.subtract, self.state.variables, self.step()[0].variables)
        return gradient._replace(importance=jax.tree.map(lambda x: x / x.shape[-1], gradient.importance))


@pytest.fixture
def setting(x64, toy):
    return lambda config, **options: Setting(toy, config, **options)


@pytest.mark.parametrize("name", EXACT)
def test_gradient_agrees_with_finite_differences(setting, name):
    # With respect to images, labels, ρ of the learning rate, and importance, each by itself.
    made = setting(EXACT[name], network="convnet" if name in ("full", "segmented", "iadd bounded") else "mlp")
    gradient, variables = made.gradient, made.state.variables
    leaves, structure = jax.tree.flatten(variables)
    assert len(leaves) == (4 if name.startswith("iadd") else 3)
    for i, leaf in enumerate(leaves):
        direction = random_like(leaf)
        along = jax.tree.unflatten(structure, [direction if j == i else 0 * x for j, x in enumerate(leaves)])
        # A mask of 0 and 1 is constant to the gradient: the step must be too short to flip it.
        expected = finite_difference(made.loss, variables, along, step=1e-6 if "ddpp" in name else 1e-4)
        found = dot(jax.tree.leaves(gradient)[i], direction)
        assert abs(expected) > 1e-7
        np.testing.assert_allclose(found, expected, rtol=2e-5 if "ddpp" in name else 2e-6)


def test_forward_mode_agrees_with_reverse_mode(setting):
    made = setting(EXACT["full"])
    direction = random_like(made.state.variables)
    train = mtt.student_trainer(made.task, made.config)
    pair = jax.tree.map(lambda x: x[0], made.pairs)

    def objective(distilled):
        distilled = distilled._replace(lr=mtt.positive_lr(distilled.lr, 0.2))
        return mtt.unweighted((), train(distilled, pair)[0], pair)

    slope = jax.jit(lambda s, d: jax.jvp(objective, (s,), (d,))[1])(made.state.variables.distilled, direction.distilled)
    np.testing.assert_allclose(dot(made.gradient.distilled, direction.distilled), slope, rtol=1e-10)


def test_outer_gradient_is_that_of_an_independent_recomputation(x64):
    # A network of two layers written out in numpy, trained five steps, and differentiated by complex steps.
    task = classification(models.build(MLP(width=5, depth=1, activation="swish"), (2, 2, 1), 3), 3)
    config = mtt.Config(**SETTINGS | dict(ipc=2, batch=3, unroll=Unroll("segmented")))
    method, size = config.build(task), task.size
    rng = np.random.default_rng(0)
    images, labels, lr = rng.normal(size=(6, 2, 2, 1)), rng.normal(size=(6, 3)), 0.2
    start, target = (rng.normal(size=size) for _ in range(2))
    indices = np.stack([rng.permutation(6)[:3] for _ in range(5)])
    at = jnp.zeros(1, jnp.int32)
    pairs = mtt.Pair(
        Snapshots(at, at, jnp.asarray(start)[None]),
        Snapshots(at, at, jnp.asarray(target)[None]),
        jnp.asarray(indices)[None],
        jax.random.split(jax.random.key(0), (1, 5)),
    )
    state = method.init(jax.random.key(0), Distilled(*map(jnp.asarray, (images, labels, lr))), None)
    new, info = jax.jit(method.step)(jax.random.key(0), state, pairs)
    ours = jax.tree.map(jnp.subtract, state.variables.distilled, new.variables.distilled)

    shapes = {"b": (5,), "W": (4, 5), "c": (3,), "V": (5, 3)}  # the order of the flat vector
    tree = task.unravel(jnp.asarray(start))
    assert [x.shape for x in jax.tree.leaves(tree)] == list(shapes.values())

    def split(flat):
        ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes.values(), strict=True)]

    def softmax(z):
        e = np.exp(z)
        return e / e.sum(1, keepdims=True)

    def distance(images, labels, rho):
        alpha = lr / 4 * np.log(1 + np.exp(rho / (lr / 4)))
        theta = start.astype(complex)
        for rows in indices:
            b, w, c, v = split(theta)
            x, y = images[rows].reshape(3, 4), softmax(labels[rows])
            z = x @ w + b
            gate = 1 / (1 + np.exp(-z))
            h = z * gate
            delta = (softmax(h @ v + c) - y) / 3
            slope = (delta @ v.T) * (gate + z * gate * (1 - gate))
            gradient = [slope.sum(0), x.T @ slope, delta.sum(0), h.T @ delta]
            theta = theta - alpha * np.concatenate([g.ravel() for g in gradient])
        return np.sum((theta - target) ** 2) / np.sum((start - target) ** 2)

    rho = float(state.variables.distilled.lr)
    np.testing.assert_allclose(info["loss"], distance(images, labels, rho).real, rtol=1e-12)
    h = 1e-30j
    for i in range(images.size):
        moved = images.astype(complex)
        moved.ravel()[i] += h
        np.testing.assert_allclose(ours.inputs.ravel()[i], distance(moved, labels, rho).imag / 1e-30, rtol=1e-9)
    for i in range(labels.size):
        moved = labels.astype(complex)
        moved.ravel()[i] += h
        np.testing.assert_allclose(ours.labels.ravel()[i], distance(images, moved, rho).imag / 1e-30, rtol=1e-9)
    np.testing.assert_allclose(ours.lr, distance(images, labels, rho + h).imag / 1e-30, rtol=1e-9)


def test_truncated_gradient_is_that_of_the_last_steps(setting):
    # The first steps as a constant start: an independent derivation of the truncated gradient.
    made = setting(mtt.Config(**SETTINGS | dict(unroll=Unroll("truncated", last=3))))
    pair = jax.tree.map(lambda x: x[0], made.pairs)
    alpha = made.method.distilled(made.state)
    head = dataclasses.replace(made.config, student_steps=2, unroll=Unroll("full"))
    middle = mtt.student_trainer(made.task, head)(alpha, pair._replace(indices=pair.indices[:2], keys=pair.keys[:2]))
    tail = pair._replace(indices=pair.indices[2:], keys=pair.keys[2:])
    tail = tail._replace(start=pair.start._replace(params=middle[0]))

    def objective(distilled):
        distilled = distilled._replace(lr=mtt.positive_lr(distilled.lr, 0.2))
        return mtt.unweighted((), mtt.student_trainer(made.task, head)(distilled, tail)[0], pair)

    expected = jax.jit(jax.grad(objective))(made.state.variables.distilled)
    for ours, theirs in zip(made.gradient.distilled, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_tesla_is_exact_for_one_step_and_not_for_more(setting):
    for steps in (1, 5):
        exact, tesla = (
            setting(mtt.Config(**SETTINGS | dict(student_steps=steps, unroll=Unroll(mode)))).gradient.distilled
            for mode in ("full", "tesla")
        )
        same = [np.allclose(x, y, rtol=1e-9, atol=1e-14) for x, y in zip(exact, tesla, strict=True)]
        assert same == [steps == 1] * 3


def test_loss_is_one_for_a_student_that_stays_and_zero_for_one_that_arrives(setting):
    made = setting(EXACT["full"])
    still = made.state.variables._replace(distilled=made.state.variables.distilled._replace(lr=jnp.asarray(-1e3)))
    np.testing.assert_allclose(made.loss(still), 1, rtol=1e-12)
    pair = jax.tree.map(lambda x: x[0], made.pairs)
    end, trained = mtt.student_trainer(made.task, made.config)(made.method.distilled(made.state), pair)
    arrived = made.pairs._replace(target=made.pairs.target._replace(params=end[None]))
    info = made.step(pairs=arrived)[1]
    assert float(info["loss"]) < 1e-20
    np.testing.assert_allclose(info["student_loss"], trained["student_loss"], rtol=1e-12)


def test_pairs_are_averaged(setting):
    made = setting(mtt.Config(**SETTINGS | dict(pairs=3)))
    alone = [jax.tree.map(lambda x, r=r: x[r : r + 1], made.pairs) for r in range(3)]
    losses = [made.step(pairs=pair)[1]["loss"] for pair in alone]
    moved = [made.step(pairs=pair)[0].variables.distilled for pair in alone]
    state, info = made.step()
    np.testing.assert_allclose(info["loss"], np.mean(losses), rtol=1e-12)
    assert np.ptp(losses) > 1e-3
    for ours, theirs in zip(state.variables.distilled, jax.tree.map(lambda *x: sum(x) / 3, *moved), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_a_loss_above_the_threshold_changes_nothing(setting):
    made = setting(datm.Config(**SETTINGS | dict(label_optimizer=Optimizer("sgd", 1.0, 0.9), loss_threshold=3)))
    overshot = made.pairs.target._replace(params=made.pairs.start.params + 1e-6)
    diverged = made.pairs.start._replace(params=made.pairs.start.params * jnp.nan)
    for pairs in (made.pairs._replace(target=overshot), made.pairs._replace(start=diverged)):
        state, info = made.step(pairs=pairs)
        assert 3 < float(info["loss"]) < np.inf and all(np.isfinite(x).all() for x in info.values())
        for ours, before in zip(jax.tree.leaves(state), jax.tree.leaves(made.state), strict=True):
            np.testing.assert_array_equal(ours, before)
        assert "method.loss_threshold=3" in made.method.warn(info)["loss_threshold"]
    state, info = made.step()
    assert float(info["loss"]) < 3 and "loss_threshold" not in made.method.warn(info)
    assert not np.array_equal(state.variables.distilled.images, made.state.variables.distilled.images)


@pytest.mark.slow
def test_equal_weights_are_mtt_to_the_bit(setting):
    expected = setting(mtt.Config(**SETTINGS)).step()
    for config in (
        ddpp.Config(**SETTINGS, rule="quantile", amount=0.0),
        ddpp.Config(**SETTINGS, rule="threshold", amount=np.inf),
        ddpp.Config(**SETTINGS, rule="depth", amount=0.0),
        *(iadd.Config(**IADD, constraint=constraint) for constraint in iadd.CONSTRAINTS),
        iadd.Config(**IADD, constraint="bounded", per_start=True),
    ):
        made = setting(config)
        first = made.method.init(jax.random.key(0), made.method.distilled(made.state), None).variables.importance
        made.state = made.state._replace(variables=made.state.variables._replace(importance=first))
        # P softmax(0) is one up to rounding.
        exact = getattr(config, "constraint", "none") not in ("mean_one", "per_tensor")
        ours, theirs = ([made[1]["loss"], *made[0].variables.distilled] for made in (made.step(), expected))
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, y, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-14)


def test_student_learning_rate_stays_positive_and_keeps_its_scale(x64):
    lr0 = 0.02
    for lr in (1e-4, 0.02, 0.5):
        np.testing.assert_allclose(mtt.positive_lr(mtt.raw_lr(jnp.asarray(lr), lr0), lr0), lr, rtol=1e-9)
    slopes = jax.vmap(jax.grad(lambda raw: mtt.positive_lr(raw, lr0)))(jnp.array([0.02, 0.05, 1.0]))
    assert np.all(np.abs(np.asarray(slopes) - 1) < 0.02)  # published learning rates of α carry over
    assert np.all(np.asarray(mtt.positive_lr(jnp.array([-0.1, -0.05, 0.0]), lr0)) > 0)


def test_a_learning_rate_driven_to_zero_stays_finite_and_is_told(setting):
    # A target on the other side of the start: every step away from it lowers α.
    made = setting(mtt.Config(**SETTINGS | dict(lr_optimizer=Optimizer("sgd", 0.1, 0.0), image_optimizer=UNIT)))
    pair = jax.tree.map(lambda x: x[0], made.pairs)
    end = mtt.student_trainer(made.task, made.config)(made.method.distilled(made.state), pair)[0]
    away = made.pairs.target._replace(params=(2 * pair.start.params - end)[None])
    pairs, seen = made.pairs._replace(target=away), []
    still = made.state.variables.distilled
    state = made.state
    assert made.method.warn({"student_lr": 0.2, "loss": 5.0}) == {}
    for _ in range(40):
        state, info = made.step(state, pairs)
        # Images and labels stay, or they would learn to go there.
        kept = still._replace(lr=state.variables.distilled.lr)
        state = state._replace(variables=state.variables._replace(distilled=kept))
        seen.append(float(info["student_lr"]))
    assert np.all(np.diff(seen) < 0) and 0 < seen[-1] < 0.002
    assert np.isfinite(float(info["loss"]))
    assert "method.lr_optimizer.lr" in made.method.warn(info)["student_lr"]


def test_student_batches_cover_the_set_without_replacement():
    rows = np.asarray(mtt.student_batches(jax.random.key(0), 12, 4, 6))
    assert rows.shape == (6, 4)
    assert sorted(rows[:3].ravel()) == sorted(rows[3:].ravel()) == list(range(12))


@pytest.mark.parametrize("rule", ["quantile", "threshold"])
def test_ddpp_drops_what_is_hardest_to_match(rule):
    rng = np.random.default_rng(0)
    gap, path = rng.normal(size=1000).astype(np.float32), 0.5 * rng.normal(size=1000).astype(np.float32)
    amount = {"quantile": 0.1, "threshold": 1.5}[rule]
    mask = np.asarray(ddpp.RULES[rule](None, amount)(jnp.asarray(gap), jnp.asarray(path)))
    assert set(mask) == {0, 1}
    assert np.abs(gap[mask == 1]).max() < np.abs(gap[mask == 0]).min()
    expected = 900 if rule == "quantile" else np.sum(np.abs(gap) <= 1.5 * np.sqrt(np.mean(path**2)))
    assert mask.sum() == expected


def test_ddpp_tells_when_it_keeps_little(toy):
    task = toy(jnp.float32, name="mlp")[0]
    info = {"loss": 0.5, "student_lr": 0.1, "kept": 0.05}
    assert "raise method.amount=3" in ddpp.Config(rule="threshold").build(task).warn(info)["kept"]
    assert ddpp.Config().build(task).warn(info | {"kept": 0.95}) == {}


@pytest.mark.parametrize(
    ("network", "begins"),
    [(ConvNet(width=4, depth=2), r"body/\w+_0/"), (models.ResNet(depth=10, width=4), "body/(conv|norm)/")],
)
def test_depth_mask_drops_the_first_layers(network, begins):
    task = classification(models.build(network, (8, 8, 1), 3), 3)
    sizes = task.tensors
    first = sum(size for name, size in sizes.items() if re.match(begins, name))
    assert 0 < first < sum(sizes.values()) / 2
    anything = jnp.ones(sum(sizes.values()), jnp.float32)
    mask = np.asarray(ddpp.RULES["depth"](task, first / anything.size)(anything, anything))
    split = np.split(mask, np.cumsum(list(sizes.values()))[:-1])
    kept = {name: set(part.tolist()) for name, part in zip(sizes, split, strict=True)}
    assert kept == {name: {0.0} if re.match(begins, name) else {1.0} for name in sizes}


@pytest.mark.parametrize(
    "settings",
    [
        {"student_steps": 0},
        {"student_lr": -0.1},
        {"expert_snapshots": 0},
        {"batch": 0},
        {"pairs": 0},
        {"loss_threshold": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"method.{next(iter(settings))} is"):
        mtt.Config(**settings)


@pytest.mark.parametrize("settings", [{"amount": 1.0}, {"amount": -0.1}, {"rule": "threshold", "amount": 0.0}])
def test_ddpp_refuses_to_drop_everything(settings):
    with pytest.raises(ValueError, match="method.amount is"):
        ddpp.Config(**settings)


def test_gradients_reach_the_flat_parameters_in_their_order(toy):
    # `Task.tensors` names what `ravel_pytree` lays out.
    task = toy(jnp.float32)[0]
    params = task.model.init(jax.random.key(0))
    flat = ravel_pytree(params)[0]
    start = 0
    for name, size in task.tensors.items():
        node = params
        for part in name.split("/"):
            node = node[part]
        np.testing.assert_array_equal(flat[start : start + size], node.ravel())
        start += size
    assert start == flat.size


@pytest.mark.parametrize("unroll", [Unroll("full"), Unroll("segmented", segment=3)], ids=["full", "segmented"])
def test_the_nearest_step_is_matched(setting, unroll):
    # Targets lie where the student is after three steps, or nearly: MTT of three steps on the same draws is an oracle.
    made = setting(mtt.Config(**SETTINGS | ATT | dict(unroll=unroll)))
    learned = made.method.distilled(made.state)
    params, path = made.task.unravel(made.pairs.start.params[0]), []
    for rows in made.pairs.indices[0]:
        examples = made.task.examples(learned, rows)
        slope = jax.grad(lambda p, e=examples: made.task.losses(p, e).mean())(params)
        params = jax.tree.map(lambda p, g: p - learned.lr * g, params, slope)
        path.append(ravel_pytree(params)[0])
    off = 0.01 * random_like(path[2])
    made.pairs = made.pairs._replace(target=made.pairs.target._replace(params=(path[2] + off)[None]))
    assert np.argmin([np.linalg.norm(p - path[2] - off) for p in path]) == 2
    after, logged = made.step()
    assert logged["matched_step"] == 3
    short = setting(mtt.Config(**SETTINGS | ATT | dict(student_steps=3, matched_step="last")))
    short.state = short.state._replace(variables=made.state.variables)
    first = jax.tree.map(lambda x: x[:, :3], (made.pairs.indices, made.pairs.keys))
    expected, same = short.step(pairs=made.pairs._replace(indices=first[0], keys=first[1]))
    for ours, theirs in zip(jax.tree.leaves(after.variables), jax.tree.leaves(expected.variables), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)
    for name in ("loss", "student_loss", "student_lr"):
        np.testing.assert_allclose(logged[name], same[name], rtol=1e-10)


def test_a_student_that_diverges_behind_its_target_is_matched_before(setting):
    made = setting(mtt.Config(**SETTINGS | ATT | dict(student_steps=40, student_lr=1e30)))
    after, logged = made.step()
    assert 1 <= logged["matched_step"] < 40 and np.isfinite(logged["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.variables))


def test_steps_that_are_not_taken_cannot_be_the_differentiated_ones():
    with pytest.raises(ValueError, match="method.matched_step is 'nearest' .* choose another mode"):
        mtt.Config(matched_step="nearest", unroll=Unroll("truncated"))


def test_on_a_chord_students_go_from_one_point_of_it_to_another(setting):
    made = setting(EXACT["chord"])
    a, b = made.pairs.start.params, made.pairs.target.params
    along = jnp.array([[0.0, 0.7], [0.25, 1.0]])
    start, target = (a + u[:, None] * (b - a) for u in along.T)
    pairs = made.pairs._replace(
        start=made.pairs.start._replace(params=start), target=made.pairs.target._replace(params=target), along=None
    )
    _, ours = made.step()
    _, theirs = made.step(pairs=pairs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-12)


@pytest.mark.parametrize("first", [0, 2])
def test_starts_lie_anywhere_on_the_chord_of_the_window(toy, first):
    task, _ = toy(jnp.float32)
    window = Window(first=first, start=first + 3, end=first + 5)
    config = mtt.Config(path="chord", window=window, expert_snapshots=2, pairs=400, student_steps=1, steps=9)
    trajectories = Trajectories(
        *(np.zeros(shape, np.float32) for shape in ((3, 9, task.size), (3, task.size), (9,), (9,), ())),
        np.zeros(9, np.int32),
    )
    batch = config.build(task).sample(jax.random.key(0), jnp.int32(8), Sources(trajectories=trajectories))
    ends = np.asarray(batch.start.position), np.asarray(batch.target.position)
    # The farthest target is the one of the last start of the window's end: first + 4 + 2.
    assert (ends[0] == first).all() and (ends[1] == first + 6).all() and config.snapshots_needed == first + 7
    start, target = first + 6 * np.asarray(batch.along).T
    np.testing.assert_allclose(target - start, 2, rtol=1e-5)
    assert first <= start.min() and start.max() <= first + 4
    counts = np.histogram(start, bins=4, range=(first, first + 4))[0]  # 80 in each, and 80 more at the first snapshot
    assert counts[0] > 120 and counts[1:].min() > 50 and (start == first).sum() > 50
    assert len(np.unique(start)) > 300


def test_importance_of_every_start_needs_recorded_ones():
    with pytest.raises(ValueError, match="method.per_start .* method.path is 'chord'"):
        iadd.Config(per_start=True, path="chord")
