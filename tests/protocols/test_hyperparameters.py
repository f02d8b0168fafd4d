"""Numbers that mean nothing are one clear line before anything runs."""

import pytest

from bob_jax import grid
from bob_jax.errors import BobError
from configs.digits import PROTOCOLS


@pytest.mark.parametrize(
    ("protocol", "key", "value", "told"),
    [
        ("knn", "k", (5, 0), r"k is \(5, 0\): it must be at least 1"),
        ("knn", "temperature", 0.0, "temperature is 0.0: it must be above 0"),
        ("knn", "batch_size", 0, "batch_size is 0: it must be at least 1"),
        ("linear_probe", "regularisation", (0.1, -1.0), "it must be at least 0"),
        ("linear_probe", "max_iterations", 0, "it must be at least 1"),
        ("augmented_probe", "base_learning_rates", (float("nan"),), "it must be above 0"),
        ("finetune", "epochs", 0, "it must be at least 1"),
        ("finetune", "evaluations", 0, "it must be at least 1"),
        ("finetune", "learning_rates", (float("inf"),), "it must be above 0"),
        ("finetune", "layer_decay", 0.0, "it must be above 0 and at most 1"),
        ("finetune", "label_smoothing", 1.0, "it must be at least 0 and below 1"),
        ("finetune", "ema", 1.5, "it must be at least 0 and below 1"),
        ("finetune", "random_erasing", 1.1, "it must be at least 0 and at most 1"),
        ("finetune", "crop_scale", (1.0, 0.1), "the smaller number comes first"),
        ("retrieval", "scales", (1.0, 0.0), "it must be above 0"),
        ("detection", "batch_size", 0, "it must be at least 1"),
    ],
)
def test_a_number_out_of_range_is_one_clear_line(protocol, key, value, told):
    with pytest.raises(BobError, match=rf"protocols\.{protocol}\.{key} is .*{told}|{told}"):
        grid.PROTOCOLS[protocol].from_config(PROTOCOLS[protocol] | {key: value})


@pytest.mark.parametrize(
    ("protocol", "key", "value"),
    [("finetune", "layer_decay", 1), ("finetune", "random_erasing", 1.0), ("linear_probe", "regularisation", (0.0,))],
)
def test_ends_that_mean_something_are_in_range(protocol, key, value):
    grid.PROTOCOLS[protocol].from_config(PROTOCOLS[protocol] | {key: value})
