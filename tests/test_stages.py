"""Progressive distillation: what the task of a later stage is, and that earlier images stay."""

import dataclasses
import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxdd
from jaxdd import classification, models
from jaxdd.app import evaluate as app_evaluate
from jaxdd.app import run as app_run
from jaxdd.app.command_line import read as read_words
from jaxdd.app.config import parse
from jaxdd.app.rehearsal import rehearse
from jaxdd.app.sets import command_line
from jaxdd.app.signals import StopSignal
from jaxdd.core.distilled import Distilled
from jaxdd.core.progressive import after, after_stages, union
from jaxdd.core.tasks import all_items, mean_loss
from jaxdd.core.training import train
from jaxdd.errors import Interrupted
from jaxdd.methods import Optimizer, Weighting, cafe, dc, dm, infmatch, mtt
from jaxdd.report.metrics import read
from jaxdd.stages import progressive
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
    earlier, whole = distilled_set(1, dtype=jnp.float32), distilled_set(3, dtype=jnp.float32, seed=7)
    both = union(earlier, whole, 3)
    for c in range(3):
        np.testing.assert_array_equal(both.images[3 * c], earlier.images[c])
        np.testing.assert_array_equal(both.images[3 * c + 1 : 3 * c + 3], whole.images[3 * c + 1 : 3 * c + 3])
        np.testing.assert_array_equal(both.labels[3 * c + 1], whole.labels[3 * c + 1])


@pytest.mark.parametrize("init", ["real", "herding", "k_center", "noise"])
def test_no_stage_begins_with_an_image_of_another(stripes, init):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    still = dm.Config(ipc=6, steps=0, init=init)
    scoring = dataclasses.replace(SCORING, recipe=dataclasses.replace(RECIPE, epochs=1))
    begun = progressive(task, stripes, still, stages=3, evaluate=scoring).outcomes[-1].first
    assert len(np.unique(np.asarray(begun.images), axis=0)) == begun.size == 18
    if init != "noise":  # the greedy choice goes on where it was
        at_once = jaxdd.distill(task, stripes, still, evaluate=scoring).first
        np.testing.assert_array_equal(begun.images, at_once.images)


@pytest.mark.parametrize("init", ["correct", "herding", "k_center"])
def test_stages_choose_by_the_experts_of_the_first_one(stripes, init):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    still = dm.Config(ipc=6, steps=0, init=init, labels="soft")
    scoring = dataclasses.replace(SCORING, recipe=dataclasses.replace(RECIPE, epochs=1))
    experts = jaxdd.ExpertsConfig(count=1, recipe=dataclasses.replace(PLAIN, epochs=1, batch=96, lr=0.01))
    begun = progressive(task, stripes, still, experts, stages=3, evaluate=scoring).outcomes[-1].first
    assert len(np.unique(np.asarray(begun.images), axis=0)) == begun.size == 18


def test_a_first_set_is_not_for_stages(stripes):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    with pytest.raises(ValueError, match="stages make their first sets themselves; leave initial out"):
        progressive(task, stripes, dm.Config(ipc=6), stages=3, initial=None)


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
    # Half of the items a step, in any order.
    "infmatch": infmatch.Config(
        ipc=4, steps=20, batch=6, real_batch=16, window=jaxdd.Window(start=4), labels="learned", image_optimizer=ADAM
    ),
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
    # The set and its learning rates are all that it takes to train so again.
    again = after_stages(task, found.distilled, found.learning_rates, SCORING.recipe)
    assert jaxdd.evaluate(again, stripes, found.distilled, SCORING)["distilled"] == scores


def test_what_cannot_be_staged_is_refused(stripes):
    task = classification(models.build(models.MLP(width=8, depth=1), (8, 8, 1), 3), 3)
    with pytest.raises(ValueError, match=r"stages is 4, and method.ipc is that of all: 6, which does not divide by it"):
        progressive(task, stripes, METHODS["dm"], stages=4)
    with pytest.raises(ValueError, match="mtt needs experts, of each stage"):
        progressive(task, stripes, METHODS["mtt"], stages=2)
    with pytest.raises(ValueError, match="one folder of checkpoints cannot serve several stages"):
        progressive(task, stripes, METHODS["dm"], stages=2, checkpoints=None)


# From the command line

FLAGS = (  # of this seed, validation keeps a set that the second stage has learned
    "--seed 4 --method mtt --method.ipc 4 --stages 2 --model mlp --model.width 8 --model.depth 1 "
    "--method.steps 8 --method.student-steps 3 --method.expert-snapshots 2 --method.window.start 3 "
    "--experts.count 2 --experts.per-dispatch 1 --experts.recipe.epochs 2 --experts.recipe.batch 256 "
    "--evaluate.networks 2 --evaluate.validate-every 4 --evaluate.validate-networks 1 "
    "--evaluate.recipe.epochs 5 --evaluate.recipe.augment none --evaluate.no-full-data"
)


def settings(workdir, *more):
    return parse([*shlex.split(FLAGS), "--workdir", str(workdir), "--data.data-dir", str(workdir.parent), *more])


def told(workdir):
    """All that a run leaves, but for times."""
    results = json.loads((workdir / "results.json").read_text())
    lines = [{k: v for k, v in line.items() if k != "time"} for line in read(workdir / "metrics.jsonl")]
    assert len({(line["stage"], line["step"]) for line in lines}) == len(lines)
    order = sorted(lines, key=lambda line: (line["stage"], line["step"]))
    return (workdir / "distilled.npz").read_bytes(), {**results, "seconds": 0}, order


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """The workdir of a run in two stages that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("staged") / "run"
    app_run.run(settings(workdir))
    return workdir


def test_a_staged_set_is_scored_from_its_file_as_in_its_run(staged):
    results = json.loads((staged / "results.json").read_text())
    distilled, card = Distilled.load(staged / "distilled.npz")
    assert len(card.learning_rates) == 2 and list(card.learning_rates) == results["learning_rates"]
    assert card.learning_rates[1] == float(distilled.lr) != card.learning_rates[0]
    assert results["method"] == "PDD around mtt"
    assert "made in 2 stages" in (staged / "README.md").read_text()
    command = command_line([str(staged / "distilled.npz")], kind=app_evaluate.Evaluate)
    cells = app_evaluate.evaluate(dataclasses.replace(command, networks=2))["cells"]
    found = {cell["row"]["name"]: cell["accuracy"]["runs"] for cell in cells}
    assert found == {"run": results["distilled"]["runs"], "random real": results["random_real"]["runs"]}
    plain = dataclasses.replace(card, provenance={})
    dataset = jaxdd.data.load("digits", data_dir=str(staged.parent))
    networks = {"mlp": models.MLP(width=8, depth=1)}
    config = jaxdd.TableConfig(networks=2, random_real=False, recipe=jaxdd.Recipe(**card.recipe))
    [all_at_once] = jaxdd.evaluate_table({"run": (distilled, plain)}, networks, dataset, config)
    assert all_at_once["accuracy"]["runs"] != found["run"]


@pytest.mark.slow
def test_a_staged_set_that_learns_no_rate_is_scored_at_the_rate_of_the_recipe(tmp_path):
    flags = FLAGS.replace("--method mtt", "--method dm").split("--method.student-steps")[0]
    flags += "--evaluate.networks 2 --evaluate.recipe.epochs 5 --evaluate.recipe.augment none --evaluate.no-full-data"
    results = app_run.run(
        parse([*shlex.split(flags), "--workdir", str(tmp_path / "run"), "--data.data-dir", str(tmp_path)])
    )
    for asked, same in [([], True), (["--recipe.lr", "0.3"], False)]:
        command = read_words(["evaluate", str(tmp_path / "run" / "distilled.npz"), "--networks", "2", *asked])
        found = {cell["row"]["name"]: cell["accuracy"]["runs"] for cell in app_evaluate.evaluate(command)["cells"]}
        assert (found["run"] == results["distilled"]["runs"]) is same


def test_a_network_trained_on_a_staged_set_has_learned_its_stages(staged):
    distilled, card = Distilled.load(staged / "distilled.npz")
    network = jaxdd.train_network(distilled, card, models.MLP(width=8, depth=1), seed=5)
    task = classification(network.model, 10)
    recipe = jaxdd.Recipe(**card.recipe)
    learned = after_stages(task, distilled, card.learning_rates, recipe)
    key = jax.random.split(jaxdd.core.keys.stage_key(5, "network"))
    fetch = lambda indices: task.examples(distilled, indices)  # noqa: E731
    begun = learned.model.init(key[0])
    expected = train(key[1], begun, task.losses, fetch, distilled.size, recipe, lr=distilled.lr)[0]
    np.testing.assert_allclose(ravel_pytree(network.params)[0], ravel_pytree(expected)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("asks", [2, 3])
def test_a_stopped_staged_run_goes_on_as_if_it_had_not_been(staged, tmp_path, monkeypatch, asks):
    class Stopping(StopSignal):
        left = asks

        def __call__(self):
            self.left -= 1
            return self.left <= 0

    monkeypatch.setattr(app_run, "StopSignal", Stopping)
    config, stops = settings(tmp_path / "run", "--data.data-dir", str(staged.parent)), 0
    while not (tmp_path / "run/results.json").exists():
        try:
            app_run.run(config)
        except Interrupted:
            stops += 1
    assert stops > 2
    assert told(tmp_path / "run") == told(staged)


def test_a_dry_run_of_stages_counts_them(staged):
    assert "8 outer steps, in each of 2 stages" in rehearse(settings(staged, "--dry-run"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--stages 3", "stages is 3, and method.ipc is that of all: 4"),
        ("--stages 0", "stages is 0"),
        ("--initial zoo:digits-dm-ipc1", "initial is 'zoo:digits-dm-ipc1', and stages make their first sets"),
        ("--data.name pairs:here", "stages is 2, and files of pairs do not tell of stages"),
    ],
)
def test_stages_that_cannot_be_are_refused(staged, words, match):
    with pytest.raises(ValueError, match=match):
        app_run.run(settings(staged.parent / "refused", *shlex.split(words)))
    assert not (staged.parent / "refused").exists()


def test_a_card_with_impossible_stages_is_refused(staged):
    distilled, card = Distilled.load(staged / "distilled.npz")
    for rates, match in (([0.1] * 3, "stages is 3"), ([0.1, -1], "-1"), ("often", "often")):
        wrong = dataclasses.replace(card, provenance={"learning_rates": rates})
        with pytest.raises(ValueError, match=match):
            jaxdd.train_network(distilled, wrong, models.MLP(width=8, depth=1))
