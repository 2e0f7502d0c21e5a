import dataclasses
import json
import math
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdd import classification, models
from jaxdd.core.parallel import make_mesh
from jaxdd.core.training import Recipe
from jaxdd.errors import SettingError
from jaxdd.experts import Expert, ExpertsConfig, ExpertStore, check_length, describe, train_experts, training
from jaxdd.experts import store as stores
from jaxdd.experts.timeline import timeline
from jaxdd.io import checkpoint
from jaxdd.io.integrity import DamagedError, write_sealed
from jaxdd.io.lock import in_use
from jaxdd.models import MLP, Own

MODEL = MLP(width=4, depth=1)
# 192 examples: 3 steps an epoch, 6 in all, snapshots before steps 0, 2 and 4 and after the last.
RECIPE = Recipe(epochs=2, batch=64, lr=0.05, momentum=0.9, weight_decay=1e-3, schedule="step", augment="none")
CONFIG = ExpertsConfig(count=3, recipe=RECIPE, snapshot_every=2)


@pytest.fixture(scope="module")
def model(stripes):
    return models.build(MODEL, stripes.image_shape, stripes.num_classes)


@pytest.fixture(scope="module")
def task(model, stripes):
    return classification(model, stripes.num_classes)


@pytest.fixture(scope="module")
def train(task, stripes):
    """Train with the store in a folder, on one device."""

    def run(directory=None, config=CONFIG, *, seed=0, devices=1, **options):
        store = None if directory is None else ExpertStore(directory, describe(stripes, MODEL, config, seed))
        with jax.set_mesh(make_mesh(jax.devices()[:devices])):
            return train_experts(task, stripes, config, seed=seed, store=store, **options)

    return run


@pytest.fixture(scope="module")
def reference(train):
    """Five experts in memory."""
    return train(config=dataclasses.replace(CONFIG, count=5))


@pytest.fixture(scope="module")
def stored(train, tmp_path_factory):
    """A folder with three experts, not to be changed."""
    directory = tmp_path_factory.mktemp("stored")
    train(directory)
    return directory


@pytest.fixture
def copy(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "experts")


def same(ours, theirs, count=3):
    np.testing.assert_array_equal(ours.snapshots, theirs.snapshots[:count])
    np.testing.assert_array_equal(ours.final, theirs.final[:count])
    for field in ("lr", "time", "total_time", "steps"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def store_of(directory, stripes, config=CONFIG):
    return ExpertStore(directory, describe(stripes, MODEL, config, 0))


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
@pytest.mark.parametrize("every", [2, 5, None])
def test_timeline_is_that_of_the_schedule(schedule, every):
    recipe = Recipe(epochs=4, batch=64, lr=0.3, schedule=schedule)
    line = timeline(ExpertsConfig(recipe=recipe, snapshot_every=every), 150)
    total = 4 * 3  # 150 examples in batches of 50
    lr = {
        "constant": np.full(total, 0.3),
        "step": np.array([0.3] * 6 + [0.03] * 6),
        "cosine": np.array([0.15 * (1 + math.cos(math.pi * t / total)) for t in range(total)]),
    }[schedule]
    steps = list(range(0, total + 1, every or 3))
    assert line.every == (every or 3)
    assert line.steps.tolist() == steps
    # The schedule computes in float32, and 1 + cos cancels at the end of a cosine.
    np.testing.assert_allclose(line.lr, [lr[min(t, total - 1)] for t in steps], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(line.time, [lr[:t].sum() for t in steps], rtol=1e-6)
    np.testing.assert_allclose(line.total_time, lr.sum(), rtol=1e-6)
    kept = timeline(ExpertsConfig(recipe=recipe, snapshot_every=every, keep=2), 150)
    for field in ("steps", "lr", "time"):
        np.testing.assert_array_equal(getattr(kept, field), getattr(line, field)[:2])
    assert kept.total_time == line.total_time


def test_experts_too_short_are_refused_with_what_to_change():
    check_length(CONFIG, 192, 4)
    with pytest.raises(ValueError, match="reads 5 snapshots.* 2 epochs .*snapshot_every=2 and keep=None have 4"):
        check_length(CONFIG, 192, 5)
    with pytest.raises(ValueError, match="keep=2 have 2; 2 epochs .* with experts.keep of 4 or more"):
        check_length(dataclasses.replace(CONFIG, keep=2), 192, 4)


@pytest.mark.parametrize("field", ["count", "snapshot_every", "keep", "per_dispatch"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ValueError, match=f"experts.{field} is 0"):
        ExpertsConfig(**{field: 0})


def test_experts_begin_at_the_networks_first_parameters_and_differ(task, reference):
    assert reference.snapshots.shape == (5, 4, 64 * 4 + 4 + 4 * 3 + 3)
    assert (reference.num_experts, reference.num_snapshots) == (5, 4)
    assert len(np.unique(reference.snapshots[:, 0], axis=0)) == 5
    np.testing.assert_array_equal(reference.snapshots[:, -1], reference.final)
    for params in map(task.unravel, reference.snapshots[:, 0]):
        for layer, inputs in (("body", 64), ("linear", 4)):
            leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params[layer])])
            assert 0.5 / math.sqrt(inputs) < np.abs(leaves).max() <= 1 / math.sqrt(inputs)


def test_store_gives_back_what_was_trained(train, tmp_path, reference, stripes):
    losses = {}
    same(train(tmp_path, on_expert=lambda i, expert: losses.update({i: expert.losses})), reference)
    assert sorted(losses) == [0, 1, 2]
    for i, trained in losses.items():
        manifest = json.loads((tmp_path / f"expert_{i:04d}.json").read_text())
        np.testing.assert_allclose(manifest["losses"], trained, rtol=1e-6)
        assert trained[0] == 0
        assert np.all(trained[1:] > 0)
    store = store_of(tmp_path, stripes)
    np.testing.assert_array_equal(store.final(1), reference.final[1])


def test_one_pair_is_read_without_the_rest(stored, stripes, reference, monkeypatch):
    requests, original = [], checkpoint.load
    monkeypatch.setattr(
        checkpoint, "load", lambda path, names: requests.append((path.name, sorted(names))) or original(path, names)
    )
    pair = store_of(stored, stripes).read(1, [3, 1])
    assert requests == [("expert_0001", ["00001", "00003"])]
    np.testing.assert_array_equal(pair, reference.snapshots[1, [3, 1]])


def test_stored_experts_are_not_trained_again(train, stored, reference, monkeypatch):
    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "trainer", refuse)
    same(train(stored), reference)
    same(train(stored, dataclasses.replace(CONFIG, count=2)), reference, count=2)
    with pytest.raises(AssertionError, match="trained again"):
        train(stored, dataclasses.replace(CONFIG, count=4))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": dataclasses.replace(RECIPE, lr=0.1)}, "recipe.lr: 0.05 there, 0.1 here"),
        ({"snapshot_every": None}, "snapshot_every: 2 there, None here"),
        ({"keep": 3}, "keep: None there, 3 here"),
        ({"storage": "bfloat16_delta"}, "storage: 'float32' there, 'bfloat16_delta' here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
    ],
)
def test_store_of_another_description_is_refused(train, stored, change, message):
    seed = change.get("seed", 0)
    config = dataclasses.replace(CONFIG, **{name: value for name, value in change.items() if name != "seed"})
    with pytest.raises(ValueError, match=message) as refused:
        train(stored, config, seed=seed)
    assert str(stored) in str(refused.value)
    assert str(refused.value).count(" there, ") == 1  # what is the same is not named


def test_store_of_another_model_or_dataset_is_refused(stored, stripes):
    ours = describe(stripes, MODEL, CONFIG, 0)
    with pytest.raises(ValueError, match="model.width: 4 there, 5 here"):
        ExpertStore(stored, describe(stripes, dataclasses.replace(MODEL, width=5), CONFIG, 0))
    with pytest.raises(ValueError, match="data: .* there, 'other' here"):
        ExpertStore(stored, {**ours, "data": "other"})


def test_experts_of_an_edited_network_are_refused(stripes, tmp_path):
    source = tmp_path / "networks.py"
    source.write_text("small = 1\n")
    ExpertStore(tmp_path / "experts", describe(stripes, Own(f"{source}:small"), CONFIG, 0))
    source.write_text("small = 2\n")
    with pytest.raises(SettingError, match=r"description \(model.sha256: .* there, .* here\); choose another workdir"):
        ExpertStore(tmp_path / "experts", describe(stripes, Own(f"{source}:small"), CONFIG, 0))


def test_experts_can_be_added_later(train, copy, reference):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    trained = []
    more = train(copy, dataclasses.replace(CONFIG, count=5), on_expert=lambda i, _: trained.append(i))
    assert trained == [3, 4]
    same(more, reference, count=5)
    assert all(path.read_bytes() == content for path, content in before.items())


def data_file(directory, expert):
    files = [path for path in (directory / f"expert_{expert:04d}").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def delete_checkpoint(directory):
    shutil.rmtree(directory / "expert_0001")


def truncate_file(directory):
    path = data_file(directory, 1)
    os.truncate(path, path.stat().st_size // 2)


def flip_byte(directory):
    path = data_file(directory, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete_file(directory):
    data_file(directory, 1).unlink()


def delete_manifest(directory):
    (directory / "expert_0001.json").unlink()


def manifest_of(content):
    def damage(directory):
        (directory / "expert_0001.json").write_bytes(content)

    return damage


def altered_manifest(change):
    def damage(directory):
        path = directory / "expert_0001.json"
        stored = json.loads(path.read_text())
        change(stored)
        path.write_text(json.dumps(stored))

    return damage


def put_a_file_in_its_place(directory):
    delete_checkpoint(directory)
    (directory / "expert_0001").write_text("")


FAULTS = {
    "a file in its place": (put_a_file_in_its_place, "is damaged: .* missing or changed"),
    "altered losses": (altered_manifest(lambda stored: stored["losses"].append(0.5)), "has an unreadable manifest"),
    "no losses": (altered_manifest(lambda stored: stored.pop("losses")), "has an unreadable manifest"),
    "manifest of no files": (manifest_of(b'{"files": {}, "losses": [0.0, 1.0]}'), "has an unreadable manifest"),
    "no losses, no checksum": (manifest_of(b'{"files": {"a": "b"}, "losses": []}'), "has an unreadable manifest"),
    "losses of another kind": (manifest_of(b'{"files": {"a": "b"}, "losses": ["0"]}'), "has an unreadable manifest"),
    "nested manifest": (manifest_of(b"[" * 100_000), "has an unreadable manifest"),
    "no checkpoint": (delete_checkpoint, "is damaged: .* missing or changed"),
    "truncated file": (truncate_file, "is damaged: .* missing or changed"),
    "flipped byte": (flip_byte, "is damaged: .* missing or changed"),
    "deleted file": (delete_file, "is damaged: .* missing or changed"),
    "no manifest": (delete_manifest, "has no manifest: its writing was interrupted"),
    "half a manifest": (manifest_of(b'{"files": {"d/a'), "has an unreadable manifest .*expert_0001.json"),
    "binary manifest": (manifest_of(b"\xff\xfe\x00"), "has an unreadable manifest"),
    "empty manifest": (manifest_of(b""), "has an unreadable manifest"),
    "manifest of another kind": (manifest_of(b"[1, 2]"), "has an unreadable manifest"),
    "manifest without checksums": (manifest_of(b'{"files": 3}'), "has an unreadable manifest"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_expert_is_named_and_alone_trained_anew(train, copy, reference, caplog, fault):
    damage, _ = FAULTS[fault]
    damage(copy)
    trained = []
    with caplog.at_level("WARNING", "jaxdd"):
        again = train(copy, on_expert=lambda i, _: trained.append(i))
    assert trained == [1]
    assert len(caplog.records) == 1
    caplog.clear()
    same(again, reference)
    same(train(copy, on_expert=lambda i, _: pytest.fail(f"expert {i} was trained")), reference)
    assert not caplog.records


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_described(copy, stripes, caplog, fault):
    damage, message = FAULTS[fault]
    damage(copy)
    assert store_of(copy, stripes).missing(3) == [1]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = record.getMessage()
    assert said.startswith(f"expert {copy / 'expert_0001'} ")
    assert re.search(f"{message}.*; it is trained anew$", said)


def test_losses_that_are_not_finite_are_no_damage(tmp_path, stripes):
    store = store_of(tmp_path, stripes)
    losses = np.array([0, np.inf, np.nan, 1], np.float32)
    store.save(0, Expert(np.zeros((4, 5), np.float32), np.zeros(5, np.float32), losses))
    assert store.missing(1) == []
    np.testing.assert_array_equal(store.losses(1), losses[None])


def test_an_older_manifest_without_checksum_is_read(copy, stripes):
    def as_of_old(stored):
        del stored["sha256"], stored["description"]

    altered_manifest(as_of_old)(copy)
    assert store_of(copy, stripes).missing(3) == []


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b"\xff", b'{"description": {}}', b"[" * 100_000])
def test_a_damaged_header_is_named_with_its_remedy(copy, stripes, content):
    (copy / "store.json").write_bytes(content)
    with pytest.raises(DamagedError, match="store.json is damaged .*; delete it if the experts are those of this run"):
        store_of(copy, stripes)
    (copy / "store.json").unlink()
    assert store_of(copy, stripes).missing(3) == []


def test_an_altered_header_is_named(copy, stripes):
    stored = json.loads((copy / "store.json").read_text())
    stored["description"]["seed"] = 1
    (copy / "store.json").write_text(json.dumps(stored))
    with pytest.raises(DamagedError, match="store.json is damaged"):
        store_of(copy, stripes)


def test_experts_without_header_are_not_taken_for_others(copy, stripes):
    (copy / "store.json").unlink()
    with pytest.raises(SettingError, match="expert_0000.json is an expert of another description"):
        ExpertStore(copy, describe(stripes, MODEL, CONFIG, 1))
    assert not (copy / "store.json").exists()


def test_a_store_that_another_process_fills_is_refused(train, copy, reference):
    with in_use(copy / ".experts.lock", ""):
        same(train(copy), reference)  # all are there
        with pytest.raises(SettingError, match="in use by process .*; wait until it has trained its experts"):
            train(copy, dataclasses.replace(CONFIG, count=4))


def test_writing_that_is_cut_off_leaves_no_expert(train, tmp_path, stripes, reference, monkeypatch, caplog):
    def cut_off(path, value):
        if path.name == "expert_0001.json":
            raise KeyboardInterrupt
        write_sealed(path, value)

    monkeypatch.setattr(stores, "write_sealed", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.undo()
    assert store_of(tmp_path, stripes).missing(3) == [1, 2]
    assert "its writing was interrupted" in caplog.text
    same(train(tmp_path), reference)


def test_interrupted_training_keeps_what_was_trained(train, tmp_path, reference):
    trained = []

    def interrupt(index, expert):
        trained.append(index)
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_expert=interrupt)
    assert trained == [0, 1]
    same(train(tmp_path, on_expert=interrupt), reference)
    assert trained == [0, 1, 2]


def size_on_disk(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_bfloat16_delta_takes_half_the_space_and_keeps_eight_bits(tmp_path, stripes):
    rng = np.random.default_rng(0)
    start = rng.normal(size=20_000)
    scale = 10.0 ** rng.uniform(-6, 0, 20_000)  # distances of all sizes
    snapshots = (start + scale * np.cumsum(rng.normal(size=(12, 20_000)), axis=0)).astype(np.float32)
    trained = Expert(snapshots, snapshots[-1] + np.float32(0.1), np.zeros(12, np.float32))
    read = {}
    for storage in ("float32", "bfloat16_delta"):
        store = store_of(tmp_path / storage, stripes, dataclasses.replace(CONFIG, storage=storage))
        store.save(0, trained)
        assert store.missing(1) == []
        read[storage] = np.concatenate([store.read(0, range(12)), store.final(0)[None]])
    exact = np.concatenate([snapshots, trained.final[None]])
    np.testing.assert_array_equal(read["float32"], exact)
    rounded = read["bfloat16_delta"]
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded[0], exact[0])
    np.testing.assert_array_equal(store.read(0, [5, 0, 5]), rounded[[5, 0, 5]])
    distance = exact.astype(np.float64) - exact[0]
    # 8 significant bits of the distance, beside the rounding of the float32 that it is added to.
    allowed = 2.0**-8 * np.abs(distance) + 2.0**-23 * np.abs(exact).max(0)
    error = np.abs(rounded.astype(np.float64) - exact)
    assert np.all(error <= allowed)
    assert error.max() > 2.0**-10 * np.abs(distance).max()  # it is rounded, and to no more bits than that
    ratio = size_on_disk(tmp_path / "bfloat16_delta") / size_on_disk(tmp_path / "float32")
    assert 0.5 < ratio < 0.6  # 1 + 12/2 arrays' worth against 13


def test_rounded_experts_are_the_same_whether_trained_or_read(train, tmp_path, reference):
    config = dataclasses.replace(CONFIG, storage="bfloat16_delta")
    first = train(tmp_path, config)
    same(train(tmp_path, config, on_expert=lambda i, _: pytest.fail(f"expert {i} was trained")), first)
    np.testing.assert_array_equal(first.snapshots[:, 0], reference.snapshots[:3, 0])
    assert not np.array_equal(first.snapshots, reference.snapshots[:3])
    distance = np.abs(reference.snapshots[:3] - reference.snapshots[:3, :1])
    np.testing.assert_array_less(np.abs(first.snapshots - reference.snapshots[:3]), 2.0**-8 * distance + 1e-7)


def test_diverging_expert_is_named_with_its_learning_rate(train, tmp_path):
    config = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, lr=1e38))
    with pytest.raises(FloatingPointError, match=r"expert 0 diverged at learning rate 1e\+38: lower experts.recipe.lr"):
        train(tmp_path, config)
    assert {path.name for path in tmp_path.iterdir()} == {"store.json", ".experts.lock"}


def test_only_the_earliest_snapshots_are_kept(train, reference):
    kept = train(config=dataclasses.replace(CONFIG, keep=2))
    # Another program, which may round differently.
    np.testing.assert_allclose(kept.snapshots, reference.snapshots[:3, :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kept.final, reference.final[:3], rtol=1e-5, atol=1e-6)
    assert kept.steps.tolist() == [0, 2]
    np.testing.assert_array_equal(kept.total_time, reference.total_time)


def test_one_snapshot_an_epoch_by_default(train, reference):
    config = dataclasses.replace(CONFIG, count=2, snapshot_every=None)
    epochs = train(config=config)
    assert epochs.steps.tolist() == [0, 3, 6]
    every_step = train(config=dataclasses.replace(config, snapshot_every=1))
    np.testing.assert_allclose(epochs.snapshots, every_step.snapshots[:, ::3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(every_step.snapshots[:, ::2], reference.snapshots[:2], rtol=1e-5, atol=1e-6)


def test_experts_on_eight_devices_are_those_of_one(train, reference):
    # Each is computed by the same program on a device of its own, so that only the compiler's choices for another mesh
    # could change the rounding. Groups of three, the last of which is not full.
    trained = []
    config = dataclasses.replace(CONFIG, count=5, per_dispatch=3)
    spread = train(config=config, devices=8, on_expert=lambda i, _: trained.append(i))
    assert trained == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(spread.snapshots, reference.snapshots, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(spread.final, reference.final, rtol=1e-5, atol=1e-6)


def test_only_the_snapshots_that_are_asked_for_are_returned(train, copy, reference):
    for directory in (None, copy):
        early = train(directory, snapshots=2)
        np.testing.assert_array_equal(early.snapshots, reference.snapshots[:3, :2])
        np.testing.assert_array_equal(early.final, reference.final[:3])
        assert early.num_snapshots == 2 and early.steps.tolist() == [0, 2]
        for field in ("lr", "time"):
            np.testing.assert_array_equal(getattr(early, field), getattr(reference, field)[:2])
        np.testing.assert_array_equal(early.total_time, reference.total_time)


def test_a_model_is_no_task(model, stripes):
    with pytest.raises(ValueError, match="jaxdd.classification"):
        train_experts(model, stripes, CONFIG)


def test_experts_learn_the_data(model, task, stripes, reference):
    images = stripes.normalization(jnp.asarray(stripes.test.images))
    classify = jax.jit(jax.vmap(lambda flat: jnp.argmax(model.apply(task.unravel(flat), images), -1)))
    accuracy = np.mean(np.asarray(classify(reference.final)) == stripes.test.labels[None], axis=1)
    before = np.mean(np.asarray(classify(reference.snapshots[:, 0])) == stripes.test.labels[None], axis=1)
    assert np.mean(accuracy) > np.mean(before) + 0.2
