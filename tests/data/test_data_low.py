"""Little data: who is drawn, how many of each class, and what cannot be asked for."""

import numpy as np
import pytest

from bob_jax.data import catalog, low_data
from bob_jax.data.arrays import ArraySource
from bob_jax.data.subset import balanced, hold_out, hold_out_groups, share_of_each_class
from bob_jax.errors import BobError

LOW = "digits@5shot"


def source(labels: np.ndarray) -> ArraySource:
    return ArraySource(np.zeros((len(labels), 1, 1, 3), np.uint8), labels)


def test_shots_are_so_many_of_each_class_and_the_seed_draws_them():
    whole, first, second = (
        catalog.load(name, draw=draw) for name, draw in (("digits", 0), *((LOW, i) for i in (0, 1)))
    )
    for split in ("train", "validation"):
        assert np.bincount(first.splits[split].labels).tolist() == [5] * 10
        assert set(first.splits[split].ids) <= set(whole.splits[split].ids)
        assert set(first.splits[split].ids) != set(second.splits[split].ids)
    assert first.splits["test"].fingerprint == whole.splits["test"].fingerprint
    assert (whole.draw, first.draw, second.draw, first.name) == (None, 0, 1, LOW)
    assert first.split_notes["train"].endswith("of these 5 a class, draw 0")
    again = catalog.load(LOW, draw=1)
    assert again.splits["train"].fingerprint == second.splits["train"].fingerprint
    assert catalog.load(LOW, draw=1, limit=20).splits["test"].labels.shape == (20,)


def test_validation_may_have_fewer_than_the_shots_and_train_may_not():
    dataset = catalog.load("digits@50shot")
    assert set(np.bincount(dataset.splits["train"].labels)) == {50}
    assert np.bincount(dataset.splits["validation"].labels).max() < 50  # all there are
    with pytest.raises(BobError, match=r"digits@105shot: class '[0-9]' has 104 training images; take fewer shots"):
        catalog.load("digits@105shot")


def test_a_percentage_is_one_fixed_draw_and_smaller_ones_lie_in_larger_ones():
    whole, ten, one = (catalog.load(name, draw=3) for name in ("digits", "digits@10pct", "digits@1pct"))
    counts = np.bincount(whole.splits["train"].labels)
    assert np.bincount(ten.splits["train"].labels).tolist() == np.rint(0.1 * counts).tolist()
    assert np.bincount(one.splits["train"].labels).tolist() == [1] * 10
    assert set(one.splits["train"].ids) < set(ten.splits["train"].ids) < set(whole.splits["train"].ids)
    assert ten.draw is None and catalog.load("digits@10pct").splits["train"].fingerprint == (
        ten.splits["train"].fingerprint
    )
    assert len(ten.splits["test"]) == len(whole.splits["test"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits@5shots", "has no variant '5shots': there is 5shot, 10pct"),
        ("digits@0shot", "digits@0shot: give at least 1 image a class"),
        ("digits@100pct", "digits@100pct: give a percentage from 1 to 99"),
        ("digits_retrieval@10pct", "data set digits_retrieval has no variant '10pct'"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(name, message):
    with pytest.raises(BobError, match=message):
        catalog.load(name)


def test_low_data_is_for_one_class_per_image():
    retrieval = catalog.CARDS["digits_retrieval"]
    with pytest.raises(BobError, match="there is none"):
        low_data.parse("1shot", retrieval)


def test_several_labels_are_divided_by_their_combinations():
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.float32)[rng.choice(3, 200, p=[0.9, 0.08, 0.02])]
    labels[:3] = [[1, 1, 0]] * 3
    several = source(labels)
    rest, held = hold_out(several, 0.25)
    assert len(held) == 50 and set(rest.ids).isdisjoint(held.ids)
    for combination in np.unique(labels, axis=0):
        mine = (labels == combination).all(axis=1).sum()
        assert abs((held.labels == combination).all(axis=1).sum() - 0.25 * mine) <= 1
    few = balanced(several, 8)
    assert (few.labels.sum(axis=0) > 0).all()  # the rarest too
    assert len({tuple(row) for row in few.labels.tolist()}) == len(np.unique(labels, axis=0))
    assert len(share_of_each_class(several, 0.01)) == 5  # 1 % of each combination, but at least one


def test_groups_stay_together_and_seeds_differ():
    groups = [f"patient{index // 3}" for index in range(90)]
    rest, held = hold_out_groups(source(np.zeros((90, 2))), groups, 0.2)
    inside = {groups[index] for index in held.indices}
    assert len(inside) == 6 and len(held) == 18 and len(rest) == 72
    assert inside.isdisjoint(groups[index] for index in rest.indices)
    other = hold_out_groups(source(np.zeros((90, 2))), groups, 0.2, seed=1)[1]
    assert set(other.indices) != set(held.indices)


def test_a_share_that_is_whole_but_for_rounding_is_not_one_more():
    assert len(hold_out(source(np.arange(900) % 9), 0.1 / 0.9)[1]) == 100
