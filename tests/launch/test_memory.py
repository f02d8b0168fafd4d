"""What a process gives back between backbones."""

import functools

import jax

from bob_jax.launch import cell as single
from bob_jax.launch.memory import forget_programs


def test_programs_are_forgotten_and_compiled_anew():
    traced = []

    @jax.jit
    def double(x):
        traced.append(x)
        return 2 * x

    assert double(1.0) == double(1.0) == 2.0
    assert len(traced) == 1
    forget_programs()
    assert double(1.0) == 2.0
    assert len(traced) == 2


def test_another_backbone_begins_without_programs_and_weights_of_the_one_before(monkeypatch):
    forgotten = []
    monkeypatch.setattr(single, "forget_programs", lambda: forgotten.append(1))
    monkeypatch.setattr(single, "load_competitor", functools.lru_cache(lambda name: name))
    single._turn_to.cache_clear()
    kept = []
    for name in ("first", "first", "second"):
        single._turn_to(name)
        kept.append(single.load_competitor.cache_info().currsize)
        single.load_competitor(name)
    assert kept == [0, 1, 0]
    assert len(forgotten) == 2
    single._turn_to.cache_clear()
