import errno
import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxdd.core.distilled import Distilled
from jaxdd.errors import SettingError
from jaxdd.io import checkpoint
from jaxdd.io.checkpoint import Checkpoints
from jaxdd.methods import Optimizer
from jaxdd.methods.base import outer_optimizer


def a_state(seed):
    """A distilled set, the state of its optimizers after two updates, and numbers on the host."""
    keys = jax.random.split(jax.random.key(seed), 2)
    images, labels = jax.random.normal(keys[0], (3, 4, 4, 1)), jax.random.normal(keys[1], (3, 3))
    distilled = Distilled(images, labels, jnp.float32(seed))
    optimizer = outer_optimizer(Optimizer("adam"), Optimizer("sgd", momentum=0.9))
    state = optimizer.init(distilled)
    for _ in range(2):
        updates, state = optimizer.update(distilled, state)
        distilled = optax.apply_updates(distilled, updates)
    return {"state": (distilled, state), "best_step": np.int64(seed), "best_score": np.float64(np.nan)}


@pytest.fixture(scope="module")
def states():
    return {step: a_state(step) for step in (10, 20, 30)}


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_newest_of_the_two_that_are_kept_comes_back(tmp_path, states):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.restore(states[10]) is None
    for step, state in states.items():
        checkpoints.save(step, state)
    for reader in (checkpoints, Checkpoints(tmp_path / "run")):
        found, state = reader.restore(states[10])
        assert found == 30
        assert_same(state, states[30])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"20", "30"}


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(folder):
    os.truncate(largest_file(folder), 10)


def empty_all(folder):
    for path in files_of(folder):
        os.truncate(path, 0)


def remove_data(folder):
    for path in files_of(folder):
        if "d" in path.relative_to(folder).parts[:-1]:
            path.unlink()


def remove_metadata(folder):
    for path in folder.rglob("_METADATA"):
        path.unlink()


def remove_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def manifest_of(content):
    def damage(folder):
        (folder / "manifest.json").write_text(content)

    return damage


def remove_manifest(folder):
    (folder / "manifest.json").unlink()


DAMAGES = {
    "truncated": (truncate, "it is damaged: .* missing or changed"),
    "all files empty": (empty_all, "manifest.json is damaged"),
    "no data": (remove_data, "it is damaged: .* missing or changed"),
    "no metadata": (remove_metadata, "it is damaged: _METADATA missing or changed"),
    "empty folder": (remove_everything, "it has no manifest"),
    "no manifest": (remove_manifest, "it has no manifest"),
    "manifest of nothing": (manifest_of('{"run": null, "files": {}}'), "does not have its checksum"),
    "manifest of another kind": (manifest_of("[1]"), "it holds no JSON object"),
    "nested manifest": (manifest_of("[" * 100_000), "manifest.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_passed_over(tmp_path, states, damage):
    for step in (10, 20):
        Checkpoints(tmp_path).save(step, states[step])
    harm, message = DAMAGES[damage]
    harm(tmp_path / "20")
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match=f"checkpoint 20 cannot be read and is now .*unreadable_20_.*{message}"):
        found, state = checkpoints.restore(states[30])
    assert found == 10
    assert_same(state, states[10])
    assert len(list(tmp_path.glob("unreadable_20_*"))) == 1  # set aside, not deleted
    # The run goes on from 10 and reaches 20 again.
    checkpoints.save(20, states[30])
    found, state = checkpoints.restore(states[10])
    assert found == 20
    assert_same(state, states[30])


def test_no_flipped_bit_is_restored(tmp_path, states):
    """One random bit of every file of a checkpoint, three times: none may come back in silence."""
    rng = np.random.default_rng(0)
    for step in (10, 20):
        Checkpoints(tmp_path / "whole").save(step, states[step])
    files = [path.relative_to(tmp_path / "whole" / "20") for path in files_of(tmp_path / "whole" / "20")]
    assert sum("d" in path.parts[:-1] for path in files) >= 3  # of arrays
    for trial, name in enumerate(files * 3):
        directory = Path(shutil.copytree(tmp_path / "whole", tmp_path / str(trial)))
        content = bytearray((directory / "20" / name).read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (directory / "20" / name).write_bytes(content)
        with pytest.warns(UserWarning, match="checkpoint 20 cannot be read"):
            found, state = Checkpoints(directory).restore(states[30])
        assert found == 10, name
        assert_same(state, states[10])


def test_nothing_readable_is_no_checkpoint(tmp_path, states):
    Checkpoints(tmp_path).save(10, states[10])
    truncate(tmp_path / "10")
    with pytest.warns(UserWarning, match="checkpoint 10"):
        assert Checkpoints(tmp_path).restore(states[10]) is None


def test_what_a_kill_left_is_no_checkpoint(tmp_path, states, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, states[10])

    def killed(*_):
        raise KeyboardInterrupt

    for function in ("write_sealed", "_remove"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, function, killed)
            checkpoints.save(20, states[20])
        found, state = checkpoints.restore(states[30])
        assert found == 10
        assert_same(state, states[10])
    checkpoints.save(20, states[20])
    assert {path.name for path in tmp_path.iterdir()} == {"10", "20"}


def test_a_checkpoint_of_another_run_is_refused(tmp_path, states):
    Checkpoints(tmp_path, "ours").save(10, states[10])
    assert Checkpoints(tmp_path, "ours").restore(states[10])[0] == 10
    with pytest.raises(SettingError, match="10 is a checkpoint of another run, .*; choose another workdir, or delete"):
        Checkpoints(tmp_path, "theirs").restore(states[10])
    other = {**states[10], "best_step": np.zeros(3)}
    for like in (other, {"elsewhere": np.zeros(3)}):
        with pytest.raises(SettingError, match="10 is a checkpoint of another method or data"):
            Checkpoints(tmp_path, "ours").restore(like)
    assert {path.name for path in tmp_path.iterdir()} == {"10"}  # intact, so not set aside


def test_no_write_begins_without_room(tmp_path, states, monkeypatch):
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match="No space left") as refused:
        Checkpoints(tmp_path).save(10, states[10])
    assert refused.value.errno == errno.ENOSPC and refused.value.filename.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_named_arrays_are_read_exactly_and_alone(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{i:05d}": rng.normal(size=(7, i + 1)).astype(np.float32) for i in range(5)}
    arrays["half"] = rng.normal(size=9).astype(ml_dtypes.bfloat16)
    checkpoint.save(tmp_path / "old", {"00001": np.zeros(3), "other": np.zeros(3)})
    checkpoint.save(tmp_path / "old", arrays)  # replaces what was there
    found = checkpoint.load(tmp_path / "old", ["00003", "half"])
    assert set(found) == {"00003", "half"}
    for name, array in found.items():
        assert type(array) is np.ndarray
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts read bytes in /proc")
def test_reading_one_array_leaves_the_others_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i:05d}" for i in range(20)]
    checkpoint.save(tmp_path / "store", {name: rng.normal(size=100_000).astype(np.float32) for name in names})

    def bytes_read(wanted):
        def counter():
            return int(Path("/proc/self/io").read_text().split()[1])

        before = counter()
        checkpoint.load(tmp_path / "store", wanted)
        return counter() - before

    whole = bytes_read(names)
    assert whole > 0.8 * 20 * 400_000  # the measure sees what is read
    assert bytes_read(names[7:8]) < whole / 5
