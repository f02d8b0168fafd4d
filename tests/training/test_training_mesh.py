"""Where things lie: the sharding rule, the mesh, and joining other processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax.errors import BobError
from bob_jax.training import mesh as meshes


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((64, 64), jax.P("fsdp")),
        ((63, 64), jax.P(None, "fsdp")),
        ((64, 128), jax.P(None, "fsdp")),
        ((3, 3, 64, 32), jax.P(None, None, "fsdp")),
        ((2048,), jax.P("fsdp")),
        ((63, 65), jax.P()),  # nothing divides
        ((16, 16), jax.P()),  # too small to be worth it
        ((), jax.P()),
    ],
)
def test_the_largest_divisible_axis_is_sharded(shape, spec):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert meshes.state_shardings({"w": leaf}, meshes.make_mesh(4))["w"].spec == spec
    assert meshes.state_shardings({"w": leaf}, meshes.make_mesh(1))["w"].spec == jax.P()


def test_mesh_shape():
    assert dict(meshes.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(meshes.make_mesh(4).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(BobError, match="fsdp=3 does not divide the 8 devices"):
        meshes.make_mesh(3)


def test_a_batch_is_split_over_all_devices():
    rows = np.arange(32.0, dtype=np.float32).reshape(16, 2)
    value = meshes.put_batch({"x": rows}, meshes.make_mesh(4))["x"]
    assert {shard.data.shape for shard in value.addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(value, rows)


def test_compute_dtype_of_this_machine():
    assert meshes.compute_dtype() == (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def test_a_single_process_needs_no_coordinator(monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    meshes.initialize_distributed()
    assert not jax.distributed.is_initialized()


def test_half_a_cluster_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    with pytest.raises(BobError, match="JAX_PROCESS_ID is ''"):
        meshes.initialize_distributed()
