"""Times as people write and read them."""

import pytest

from bob_jax.errors import BobError
from bob_jax.launch import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("50h", 180_000), ("1.5d", 129_600), ("90min", 5400), ("90m", 5400), ("600 s", 600), (" .5h", 1800)),
        *(("1h30m", 5400), ("1d 2h", 93_600)),
    ],
)
def test_times(text, seconds):
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["50", "h", "-1h", "0h", "1 week", "1e3h", "", "1..5m", "1h30", "0h0m"])
def test_what_is_no_time(text):
    with pytest.raises(BobError, match="is no time: write 10m, 1h30m or 2d"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h"), (37_580_400, "10,439 h")]
)
def test_words_are_in_the_unit_that_a_person_would_choose(seconds, words):
    assert durations.words(seconds) == words
