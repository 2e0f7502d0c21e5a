import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdd.mesh import make_mesh, map_networks, replicate, shard_examples, to_host
from jaxdd.types import Examples


def test_mesh_is_one_axis_over_all_devices_or_some():
    assert dict(make_mesh().shape) == {"data": 8}
    some = jax.devices()[2:5]
    assert list(make_mesh(some).devices) == some


def test_replicated_arrays_are_whole_on_every_device():
    tree = replicate({"a": np.arange(6).reshape(2, 3), "b": np.float32(1)}, make_mesh())
    for leaf in jax.tree.leaves(tree):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [leaf.shape] * 8
        assert leaf.is_fully_replicated


@pytest.mark.parametrize("leading", [(), (3,), (3, 2)])
@pytest.mark.parametrize("size", [16, 12])
def test_examples_are_split_along_their_axis_where_it_divides(leading, size):
    mesh = make_mesh()
    shape = (*leading, size)
    indices = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    examples = Examples(np.zeros((*shape, 4, 4, 1)), np.zeros((*shape, 3)), np.zeros(shape), indices)
    batch = {"examples": (examples, None), "params": np.ones(16)}
    sharded = jax.jit(lambda batch: shard_examples(batch, mesh))(batch)
    assert sharded["params"].is_fully_replicated
    assert sharded["examples"][1] is None
    for ours, given in zip(sharded["examples"][0], examples, strict=True):
        np.testing.assert_array_equal(ours, given)
        if size % 8:
            assert ours.is_fully_replicated
            continue
        expected = NamedSharding(mesh, P(*[None] * len(leading), "data"))
        assert ours.sharding.is_equivalent_to(expected, ours.ndim)
        axis = len(leading)
        assert {shard.data.shape[axis] for shard in ours.addressable_shards} == {size // 8}


@pytest.mark.parametrize("count", [1, 5, 8, 11])
def test_networks_are_computed_as_in_a_loop(count):
    keys = jax.random.split(jax.random.key(0), count)
    scale = jnp.arange(count, dtype=jnp.float32)
    constant = jnp.array([2.0, 3.0])

    def function(x, constant):
        key, scale = x
        return {"noise": scale * jax.random.normal(key, (2,)) + constant, "index": jnp.int32(scale)}

    mapped = jax.jit(lambda keys, scale, c: map_networks(function, make_mesh(), (keys, scale), c))
    result = mapped(keys, scale, constant)
    assert result["noise"].shape == (count, 2)
    np.testing.assert_array_equal(result["index"], np.arange(count))
    for i in range(count):
        np.testing.assert_allclose(result["noise"][i], function((keys[i], scale[i]), constant)["noise"], rtol=1e-6)


def test_host_arrays_are_numpy_arrays():
    tree = to_host({"a": replicate(jnp.arange(3), make_mesh()), "b": 1.5})
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(tree["a"], [0, 1, 2])
