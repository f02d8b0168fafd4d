"""One compilation cache for the tests of this folder and the processes they start: the programs are few."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = SETTINGS | {"jax_compilation_cache_dir": folder}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # whether there is a cache is decided at the first compilation of a process
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
