"""Progressive distillation: what the task of a later stage is, and that earlier images stay."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxdd
from jaxdd import classification, models
from jaxdd.core.tasks import all_items, mean_loss
from jaxdd.methods import Optimizer, Weighting, cafe, dc, dm, mtt
from jaxdd.stages import after, progressive, union
from tests.helpers import distilled_set

PLAIN = jaxdd.Recipe(epochs=3, batch=100, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", augment="none")


def test_networks_begin_where_the_earlier_set_leaves_them(x64, toy):
    # Twice: the second set's networks are those of the first, trained on. A batch is the whole set, in any order.
    task, _ = toy(jnp.float64)
    first = distilled_set(1)._replace(lr=jnp.asarray(0.2))
    second = distilled_set(2, seed=8)._replace(lr=jnp.asarray(0.3))
    once = after(task, first, 2, PLAIN)
    twice = after(task, second, 3, PLAIN, once.model.init)

    def by_hand(key, of, distilled):
        params = of(key)
        for _ in range(3):
            slope = jax.grad(mean_loss(task.losses, all_items(task, distilled)))(params)
            params = jax.tree.map(lambda p, g: p - distilled.lr * g, params, slope)
        return params

    key = jax.random.key(4)
    inner = jax.random.split(key)[0]
    begun = by_hand(inner, lambda key: task.model.init(jax.random.split(key)[0]), first)
    expected = by_hand(key, lambda key: begun, second)
    ours = jax.jit(twice.model.init)(key)
    np.testing.assert_allclose(ravel_pytree(ours)[0], ravel_pytree(expected)[0], rtol=1e-9, atol=1e-12)
    assert twice.size == task.size and twice.shapes == task.shapes


def test_items_of_earlier_sets_are_constants(x64, toy):
    task, _ = toy(jnp.float64)
    later = after(task, distilled_set(1), 3, PLAIN)
    distilled, params = distilled_set(3), task.model.init(jax.random.key(0))

    def loss(task, distilled):
        return mean_loss(task.losses, all_items(task, distilled))(params)

    ours, plain = (jax.grad(lambda d, task=task: loss(task, d))(distilled) for task in (later, task))
    earlier = np.arange(9) % 3 == 0  # the first of the three of each class
    for x, y in ((ours.inputs, plain.inputs), (ours.labels, plain.labels)):
        np.testing.assert_array_equal(x[earlier], 0 * x[earlier])
        np.testing.assert_allclose(x[~earlier], y[~earlier], rtol=1e-12)
        assert np.abs(y[earlier]).max() > 0
    # Class by class, too.
    of_class = jax.tree.map(lambda x: x[1], distilled.by_class(3))
    slope = jax.grad(lambda d: loss(later, d))(of_class).inputs
    assert np.abs(slope[0]).max() == 0 < np.abs(slope[1:]).max()


def test_a_union_keeps_the_order_of_the_classes():
    earlier, new = distilled_set(1, dtype=jnp.float32), distilled_set(2, dtype=jnp.float32, seed=7)
    both = union(earlier, new, 3)
    for c in range(3):
        np.testing.assert_array_equal(both.images[3 * c], earlier.images[c])
        np.testing.assert_array_equal(both.images[3 * c + 1 : 3 * c + 3], new.images[2 * c : 2 * c + 2])
        np.testing.assert_array_equal(both.labels[3 * c + 1], new.labels[2 * c])


RECIPE = jaxdd.Recipe(epochs=20, batch=64, lr=0.05, momentum=0.9, schedule="constant", augment="none")
SCORING = jaxdd.EvaluateConfig(
    networks=3, recipe=RECIPE, validate_every=20, validate_networks=2, random_real=False, full_data=False
)
EXPERTS = jaxdd.ExpertsConfig(count=2, recipe=dataclasses.replace(PLAIN, epochs=4, batch=48, lr=0.05), snapshot_every=2)
ADAM = Optimizer("adam", 0.05)
METHODS = {
    "dm": dm.Config(ipc=6, steps=20, real_batch=16, image_optimizer=ADAM),
    "dc": dc.Config(ipc=4, steps=20, real_batch=16, image_optimizer=ADAM, outer_loop=5, inner_loop=2),
    "cafe": cafe.Config(ipc=4, steps=10, init="real", real_batch=16, queries=8, longest=3, image_optimizer=ADAM),
    "mtt": mtt.Config(
        ipc=4, steps=20, student_steps=4, expert_snapshots=2, window=jaxdd.Window(start=4), image_optimizer=ADAM
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("weighting", [None, Weighting(warm_up=5)])
def test_stages_of_idc_add_stored_images(stripes, weighting):
    # Each is stored as four; what is stored of earlier ones comes back from the items that were made of it.
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    config = dc.Config(
        ipc=2, steps=20, real_batch=16, factor=2, network="real", image_optimizer=ADAM, weighting=weighting
    )
    found = progressive(task, stripes, config, stages=2, evaluate=SCORING)
    assert [outcome.distilled.size for outcome in found.outcomes] == [12, 24]
    kept, last = (x.images.reshape(3, -1, 8, 8, 1) for x in (found.outcomes[0].distilled, found.outcomes[1].last))
    np.testing.assert_allclose(last[:, :4], kept, atol=1e-4)
    begun = found.outcomes[1].first.images.reshape(3, 8, 8, 8, 1)
    assert (np.abs(last - begun)[:, 4:].max((2, 3, 4)) > 1e-2).all()
    assert jaxdd.evaluate(found.task, stripes, found.distilled, SCORING)["distilled"]["mean"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_stages_add_images_and_keep_those_before(stripes, name):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    stages = METHODS[name].ipc // 2
    found = progressive(task, stripes, METHODS[name], EXPERTS, stages=stages, evaluate=SCORING)
    assert [outcome.distilled.size for outcome in found.outcomes] == [6, 12, 18][:stages]

    def by_class(distilled):
        return np.asarray(distilled.images).reshape(3, -1, 8, 8, 1)

    for stage, outcome in enumerate(found.outcomes):
        begun, ended = by_class(outcome.first), by_class(outcome.last)
        earlier = 2 * stage
        np.testing.assert_array_equal(ended[:, :earlier], begun[:, :earlier])
        assert (np.abs(ended - begun)[:, earlier:].max((2, 3, 4)) > 0).all()  # every new image is learned
        if stage:
            np.testing.assert_array_equal(begun[:, :earlier], by_class(found.outcomes[stage - 1].distilled))
    scores = jaxdd.evaluate(found.task, stripes, found.distilled, SCORING)["distilled"]
    assert scores["mean"] > 0.7


def test_what_cannot_be_staged_is_refused(stripes):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    with pytest.raises(ValueError, match=r"stages is 4, and method.ipc 6 does not divide by it"):
        progressive(task, stripes, METHODS["dm"], stages=4)
    with pytest.raises(ValueError, match="mtt needs experts, of each stage"):
        progressive(task, stripes, METHODS["mtt"], stages=2)
    with pytest.raises(ValueError, match="one folder of checkpoints cannot serve several stages"):
        progressive(task, stripes, METHODS["dm"], stages=2, checkpoints=None)
