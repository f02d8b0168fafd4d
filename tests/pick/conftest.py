"""One device for these tests: eight fake ones on two cores take turns in every step of the small trainings here."""

from collections.abc import Iterator

import jax
import pytest
from jax.sharding import AxisType, Mesh

from bob_jax.training import mesh as meshes


def mesh_of(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices]
    )


@pytest.fixture(scope="session")
def mesh() -> Mesh:
    """Of one device."""
    return mesh_of(1)


@pytest.fixture(scope="session")
def all_devices() -> Mesh:
    """Of all eight."""
    return mesh_of(8)


@pytest.fixture(autouse=True, scope="module")  # a session would outlast this folder: others would lose their mesh
def one_device(mesh: Mesh) -> Iterator[None]:
    """What asks for a mesh gets that one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda fsdp=1: mesh)
        yield
