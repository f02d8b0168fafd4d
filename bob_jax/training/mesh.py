"""Which devices, and what lies where on them: one mesh ('data', 'fsdp'), for a laptop and for a pod.

Batches are split over all devices. Parameters and optimizer moments are split over 'fsdp' along their largest divisible
axis and the compiler inserts the gathers; nothing in a model has to be annotated.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bob_jax.errors import BobError

# Below this many elements an array is replicated: gathering it would cost more than it saves.
MIN_SHARDED_SIZE = 1024


def initialize_distributed() -> None:
    """Joins the other processes of this run, if a launcher, a TPU pod or the environment says that there are any.

    Must come before anything that touches a device. Slurm, Open MPI and TPU pods are recognised by JAX; anywhere else
    set JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Does nothing for a
    single process.

    Raises:
        BobError: JAX_COORDINATOR_ADDRESS is set and one of the other two is not, or is no number.
    """
    if jax.distributed.is_initialized():
        return
    # `training.preemption` answers SIGTERM itself; JAX's service would swallow the signal outside the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    if address := os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(address, _integer("JAX_NUM_PROCESSES"), _integer("JAX_PROCESS_ID"))
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "coordinator_address" not in str(error):  # what JAX says where it recognises no cluster
            raise
    except RuntimeError as error:
        if "must be called before" not in str(error):  # devices are in use already: this process is on its own
            raise


def _integer(variable: str) -> int:
    value = os.environ.get(variable, "")
    if not value.isdecimal():
        raise BobError(f"JAX_COORDINATOR_ADDRESS is set but {variable} is '{value}': set it to a whole number")
    return int(value)


def make_mesh(fsdp: int = 1) -> Mesh:
    """The mesh ('data', 'fsdp') over all devices of all processes.

    Args:
        fsdp: over how many devices parameters and optimizer state are split; the rest of the devices only split data.

    Raises:
        BobError: `fsdp` does not divide the number of devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise BobError(f"fsdp={fsdp} does not divide the {devices} devices of this run: choose a divisor of {devices}")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def compute_dtype() -> Any:
    """The dtype to compute in: bfloat16 on accelerators, float32 on CPU, which is slow in bfloat16."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def state_shardings(abstract_tree: Any, mesh: Mesh) -> Any:
    """Shardings of a tree of parameters or optimizer state: each array's largest divisible axis over 'fsdp'.

    Moments have their parameters' shapes, so one rule gives both the same layout.

    Args:
        abstract_tree: arrays, or anything with `shape`, such as `jax.ShapeDtypeStruct`.
        mesh: as of `make_mesh`.

    Returns:
        The same tree with a `NamedSharding` in place of every array.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _fsdp_spec(leaf.shape, mesh.shape["fsdp"])), abstract_tree)


def _fsdp_spec(shape: tuple[int, ...], parts: int) -> P:
    fits = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not fits or np.prod(shape) < MIN_SHARDED_SIZE:
        return P()
    return P(*[None] * max(fits, key=lambda axis: shape[axis]), "fsdp")


def place(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays, the same on every process, onto the mesh as `state_shardings` says.

    Arrays that lie there already are returned as they are: what comes back must not be donated.
    """
    return jax.tree.map(_place_leaf, tree, state_shardings(tree, mesh))


def _place_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        # Global already. Only jit can move it between processes.
        return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bits = _place_leaf(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from each process's own part of the batch.

    Args:
        batch: arrays `[b, ...]`, b = batch size / number of processes. They may be read until the step has run, so they
            must not be written to again.
        mesh: as of `make_mesh`.

    Returns:
        Arrays `[B, ...]` split over all devices along the leading axis.

    Raises:
        BobError: b is not a multiple of the number of devices of this process.
    """
    sharding = batch_sharding(mesh)
    devices = mesh.local_mesh.size
    for name, value in batch.items():
        if len(value) % devices:
            raise BobError(
                f"'{name}' has {len(value)} rows in this process, which has {devices} devices: "
                "choose a batch size that is a multiple of the number of devices"
            )
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def round_up(rows: int, mesh: Mesh) -> int:
    """The smallest multiple of the number of devices that is at least `rows`."""
    return -(-rows // mesh.size) * mesh.size


def split_rows(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Puts host arrays [N, ...], the same on every process, onto the mesh, the axis of rows split over all devices.

    N must be a multiple of the number of devices: see `round_up`. It may be another axis than the leading one.
    """
    sharding = NamedSharding(mesh, P(*[None] * axis, *batch_sharding(mesh).spec))
    return jax.tree.map(lambda rows: jax.make_array_from_callback(rows.shape, sharding, lambda i: rows[i]), tree)


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy, on every process, wherever their parts lie."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
