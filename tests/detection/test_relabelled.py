"""A detector's classes as those of a data set."""

import jax.numpy as jnp
import numpy as np
import pytest

from bob_jax.detection.objects import Found, relabelled
from bob_jax.errors import BobError

OWN = ("cat", "N/A", "dog", "N/A", "boat")


def found():
    valid = jnp.array([[True, True, True, True, False]])
    return Found(
        boxes=jnp.arange(20.0).reshape(1, 5, 4),
        classes=jnp.array([[4, 1, 2, 0, 0]], jnp.int32),
        scores=jnp.where(valid, 0.5, 0.0),
        valid=valid,
        masks=jnp.full((1, 5, 2, 2), 0.7),
        uncertain=jnp.array([False]),
    )


def test_classes_follow_their_names_and_others_are_left_out():
    ours = relabelled(found(), OWN, ("dog", "horse", "cat"))
    np.testing.assert_array_equal(ours.valid, [[False, False, True, True, False]])
    np.testing.assert_array_equal(ours.classes, [[0, 0, 0, 2, 0]])
    np.testing.assert_array_equal(ours.scores, [[0, 0, 0.5, 0.5, 0]])
    np.testing.assert_array_equal(ours.masks[..., 0, 0] > 0, ours.valid)
    np.testing.assert_array_equal(ours.boxes, found().boxes)


def test_boxes_alone():
    without = found()._replace(masks=jnp.zeros((1, 5, 0, 0)))
    assert relabelled(without, OWN, ("boat",)).masks.shape == (1, 5, 0, 0)


def test_nothing_in_common_is_told():
    with pytest.raises(BobError, match=r"none of the data set's classes: cat, \.\.\. against car"):
        relabelled(found(), OWN, ("car", "tram"))
