import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdd.core.autodiff import hvp
from jaxdd.core.parallel import (
    lanes,
    make_mesh,
    map_over,
    mean_over,
    over_devices,
    replicate,
    split,
    spread,
    sum_over,
    to_host,
    whole,
)
from jaxdd.types import Examples
from tests.helpers import matrix_work, random_like


@pytest.fixture
def mesh():
    with over_devices() as mesh:
        yield mesh


def some_examples(*leading):
    """Examples `[*leading, 16]`."""
    shape = (*leading, 16)
    indices = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Examples(np.ones((*shape, 4, 4, 1), np.float32), np.zeros((*shape, 3)), np.full(shape, 1 / 16), indices)


def test_mesh_is_one_axis_over_all_devices_or_some():
    assert dict(make_mesh().shape) == {"data": 8}
    some = jax.devices()[2:5]
    assert list(make_mesh(some).devices) == some


def test_work_goes_to_all_devices_unless_some_are_set():
    with over_devices() as mesh:
        assert mesh.size == 8
    with jax.set_mesh(make_mesh(jax.devices()[:3])), over_devices() as mesh:
        assert mesh.size == 3
    other = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    refusal = pytest.raises(ValueError, match=r"axes \('model',\); set jaxdd.make_mesh\(devices\)")
    with jax.set_mesh(other), refusal, over_devices():
        pass


def test_replicated_arrays_are_whole_on_every_device(mesh):
    tree = replicate({"a": np.arange(6).reshape(2, 3), "b": np.float32(1)})
    for leaf in jax.tree.leaves(tree):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [leaf.shape] * 8
        assert leaf.is_fully_replicated


def test_spread_arrays_are_divided_where_that_goes(mesh):
    tree = spread({"divides": np.arange(32).reshape(16, 2), "not": np.arange(12)})
    assert {shard.data.shape for shard in tree["divides"].addressable_shards} == {(2, 2)}
    assert tree["not"].is_fully_replicated
    np.testing.assert_array_equal(tree["divides"], np.arange(32).reshape(16, 2))


def test_host_arrays_are_numpy_arrays(mesh):
    tree = to_host({"a": replicate(jnp.arange(3)), "b": 1.5})
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(tree["a"], [0, 1, 2])


@pytest.mark.parametrize("leading", [(), (3,), (3, 2)])
def test_examples_are_split_along_their_axis_where_it_divides(mesh, leading):
    examples = some_examples(*leading)
    few = jax.tree.map(lambda x: x.take(np.arange(12), axis=len(leading)), examples)
    divided = jax.jit(lambda batch: split(batch))({"examples": (examples, None), "few": few, "params": np.ones(16)})
    assert divided["params"].is_fully_replicated and divided["examples"][1] is None
    for ours, given in zip(divided["examples"][0], examples, strict=True):
        np.testing.assert_array_equal(ours, given)
        assert {shard.data.shape[len(leading)] for shard in ours.addressable_shards} == {2}
    for ours, given in zip(divided["few"], few, strict=True):
        np.testing.assert_array_equal(ours, given)
        assert ours.is_fully_replicated


def scaled_noise(item, constant):
    key, scale = item
    return {"noise": scale * jax.random.normal(key, (2,)) + constant, "index": jnp.int32(scale)}


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_items_are_computed_as_in_a_loop(mesh, count):
    keys = jax.random.split(jax.random.key(0), count)
    scale = jnp.arange(count, dtype=jnp.float32)
    constant = jnp.array([2.0, 3.0])
    result = jax.jit(lambda *args: map_over(scaled_noise, *args))((keys, scale), constant)
    total = jax.jit(lambda *args: sum_over(scaled_noise, *args))((keys, scale), constant)
    mean = jax.jit(lambda *args: mean_over(lambda *a: scaled_noise(*a)["noise"], *args))((keys, scale), constant)
    assert result["noise"].shape == (count, 2)
    np.testing.assert_array_equal(result["index"], np.arange(count))
    assert total["index"] == count * (count - 1) // 2 and total["index"].dtype == jnp.int32
    for i in range(count):
        np.testing.assert_allclose(result["noise"][i], scaled_noise((keys[i], scale[i]), constant)["noise"], rtol=1e-6)
    np.testing.assert_allclose(total["noise"], result["noise"].sum(0), rtol=1e-5)
    np.testing.assert_allclose(mean, result["noise"].mean(0), rtol=1e-5)


@pytest.mark.parametrize("count", [3, 16])
def test_derivatives_of_a_sum_are_those_of_one_device(x64, count):
    xs, w = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(count, 7, 5), (5, 4)]))
    weights, v, u = jax.random.uniform(jax.random.key(3), (count, 7)), random_like(w, 4), random_like(w, 5)

    def objective(w, weights):
        return sum_over(lambda item, w: jnp.sum(item[1] * jnp.sum(jnp.tanh(item[0] @ w) ** 3, -1)), (xs, weights), w)

    def derivatives(w, weights):
        return {
            "value": objective(w, weights),
            "gradient": jax.grad(objective, (0, 1))(w, weights),
            "hessian": hvp(lambda w: objective(w, weights), w, v),
            # By what is closed over as by what is passed; along weights, of a slope along the parameters.
            "mixed": jax.grad(lambda weights: jax.jvp(lambda w: objective(w, weights), (w,), (u,))[1])(weights),
        }

    alone = jax.jit(derivatives)(w, weights)
    with jax.set_mesh(make_mesh()):
        shared = jax.jit(derivatives)(w, weights)
    for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def product(item, w):
    return jnp.sum(jnp.tanh(item @ w))


@pytest.mark.parametrize("over", [map_over, sum_over])
@pytest.mark.parametrize(("count", "part"), [(16, 1 / 8), (10, 2 / 10), (8, 1 / 8)])
def test_each_device_does_its_part(over, count, part):
    items, w = jnp.ones((count, 32, 16)), jnp.ones((16, 16))

    def work():
        return matrix_work(jax.jit(lambda items, w: over(product, items, w)).lower(items, w).compile())

    alone = work()
    with jax.set_mesh(make_mesh()):
        assert work() == pytest.approx(part * alone)
    assert alone == count * 32 * 16 * 16


def test_examples_within_few_items_are_split_instead():
    def loss(examples, w):
        return jnp.vdot(examples.weights, jnp.sum(jnp.tanh(examples.inputs.reshape(16, 16) @ w), -1))

    def work():
        run = jax.jit(lambda examples, w: sum_over(loss, examples, w))
        return matrix_work(run.lower(some_examples(3), jnp.ones((16, 16))).compile())

    alone = work()
    with jax.set_mesh(make_mesh()):
        assert work() == alone / 8


def test_within_an_item_all_is_a_scan(mesh):
    def outer(x):
        assert lanes() == 1
        return whole(sum_over(lambda y: x * y, jnp.arange(3.0))) + map_over(lambda y: y, jnp.arange(2.0))[1]

    np.testing.assert_allclose(jax.jit(lambda xs: map_over(outer, xs))(jnp.arange(8.0)), 3 * np.arange(8) + 1)
    assert lanes() == 8


def test_memory_of_a_gradient_is_that_of_one_term():
    def memory(count):
        def objective(w):
            return sum_over(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w)), jnp.ones((count, 64, 64)))

        return jax.jit(jax.grad(objective)).lower(jnp.ones((64, 64))).compile().memory_analysis().temp_size_in_bytes

    growth = memory(64) - memory(8)
    assert growth < 1.1 * 56 * 64 * 64 * 4  # the items themselves, no activations of theirs


def test_state_stays_whole(mesh):
    out = jax.jit(lambda x: whole(jax.lax.with_sharding_constraint(x, P("data")) + 1))(jnp.zeros((16, 2)))
    assert out.is_fully_replicated


FUNCTIONS = {
    "gather": lambda i, table: table[i + jnp.arange(3)],
    "scatter": lambda i, table: table.at[i].set(0.0),
    "slice": lambda i, table: table[i],
    "nothing of the item": lambda i, table: table,
    "gradient": lambda i, table: jax.grad(lambda w: jnp.sum(jnp.sin(w[i]) * w[0]))(table),
    "nested": lambda i, table: sum_over(lambda j: table[j + jnp.arange(2)] * i, jnp.arange(3)),
}


@pytest.mark.parametrize("count", [15, 16])
@pytest.mark.parametrize("made", ["within", "placed"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_do_as_they_please_with_what_is_shared(name, made, count):
    def run(table):
        inner = jnp.arange(36.0).reshape(18, 2) if made == "within" else table
        mapped, total = (over(FUNCTIONS[name], jnp.arange(count), inner) for over in (map_over, sum_over))
        slope = jax.grad(lambda t: jnp.sum(sum_over(lambda i, t: t[i] ** 2 * t[0], jnp.arange(count), t)))(inner)
        return mapped, total, slope

    table = np.arange(36.0, dtype=np.float32).reshape(18, 2)
    alone = jax.jit(run)(table)
    with jax.set_mesh(make_mesh()):
        shared = jax.jit(run)(replicate(table))
    for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("over", [map_over, sum_over])
def test_arrays_that_a_function_closes_over_are_refused(mesh, over):
    def direct(scale):
        def inner(i):
            return i * scale

        return over(inner, jnp.arange(8.0))

    def indirect(scale):
        def inner(i):
            return i * scale

        return over(lambda i: inner(i), jnp.arange(8.0))

    for function in (direct, indirect):
        with pytest.raises(ValueError, match="inner, which devices are to share, closes over the array scale: pass it"):
            jax.jit(function)(2.0)
