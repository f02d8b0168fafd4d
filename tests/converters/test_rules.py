"""The mapping engine: what fits is mapped, and everything that does not is named in one error."""

import numpy as np
import pytest

from bob_jax.errors import BobError
from converters.rules import (
    Rule,
    Table,
    conv,
    convert,
    export,
    flat,
    linear,
    merge_heads_in,
    merge_heads_out,
    summarise,
)

TABLE = Table(
    rules=(
        Rule(r"(block\d+)\.weight", r"\1.kernel", linear),
        Rule(r"(block\d+)\.bias", r"\1.bias"),
        Rule(r"q", "qk", part=(0, 2)),
        Rule(r"k", "qk", part=(1, 2)),
    ),
    ignore=(r"head\..*",),
)
ARRAYS = {
    "block0.weight": np.arange(6.0).reshape(2, 3),
    "block0.bias": np.array([1.0, 2.0]),
    "q": np.array([[1.0]]),
    "k": np.array([[2.0]]),
    "head.weight": np.zeros(3),
}
SHAPES = {"block0.kernel": (3, 2), "block0.bias": (2,), "qk": (1, 2)}


def test_maps_transposes_joins_and_ignores():
    converted = convert(ARRAYS, TABLE, SHAPES, what="x")
    assert set(converted) == set(SHAPES)
    np.testing.assert_array_equal(converted["block0.kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(converted["qk"], [[1, 2]])
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in converted.values())


def test_parts_are_joined_by_their_index_not_by_their_order():
    converted = convert({name: ARRAYS[name] for name in reversed(ARRAYS)}, TABLE, SHAPES, what="x")
    np.testing.assert_array_equal(converted["qk"], [[1, 2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stray": np.zeros(1)}, "not known to the table: stray"),
        ({"block7.bias": np.zeros(1)}, r"not a parameter of this architecture: block7\.bias"),
        ({"block0.bias": None}, r"missing in the checkpoint: block0\.bias"),
        ({"k": None}, "missing a part in the checkpoint: qk"),
        ({"k": np.zeros((2, 1))}, "of parts that do not fit together: qk"),
        ({"block0.bias": np.array([1, np.nan])}, r"not finite .*: block0\.bias"),
        ({"block0.bias": np.array([1, np.inf], np.float16)}, r"not finite .*: block0\.bias"),
        ({"block0.bias": np.zeros(3)}, r"of shape \(3,\) where the architecture has \(2,\): block0\.bias"),
    ],
)
def test_each_misfit_is_named(change, message):
    arrays = {name: array for name, array in (ARRAYS | change).items() if array is not None}
    with pytest.raises(BobError, match=message):
        convert(arrays, TABLE, SHAPES, what="x")


def test_one_error_lists_every_misfit_in_one_line():
    arrays = {"stray": np.zeros(1), "block0.bias": np.zeros(3), "q": np.zeros((1, 1))}
    with pytest.raises(BobError) as caught:
        convert(arrays, TABLE, SHAPES, what="hf://a@main/b for vit")
    message = str(caught.value)
    assert message.startswith("hf://a@main/b for vit ")
    assert "\n" not in message
    for name in ("stray", "block0.kernel", "block0.bias", "qk"):
        assert name in message


def test_two_rules_for_one_name_or_one_rule_and_an_ignore_are_errors():
    twice = Table((*TABLE.rules, Rule("q", "q2")), TABLE.ignore)
    with pytest.raises(BobError, match="matched by several rules: q"):
        convert(ARRAYS, twice, SHAPES, what="x")
    with pytest.raises(BobError, match="matched by several rules: k"):
        convert(ARRAYS, Table(TABLE.rules, (*TABLE.ignore, "k")), SHAPES, what="x")


def test_two_names_for_one_parameter_are_an_error():
    with pytest.raises(BobError, match=r"filled twice: block0\.bias"):
        convert(
            ARRAYS | {"b": np.zeros(2)}, Table((*TABLE.rules, Rule("b", "block0.bias")), TABLE.ignore), SHAPES, what="x"
        )


def test_an_array_of_another_rank_is_an_error_and_not_a_crash():
    with pytest.raises(BobError, match="of another rank than the table expects: w"):
        convert({"w": np.zeros(3)}, Table((Rule("w", "w", conv),)), {"w": (1, 1, 1, 3)}, what="x")


def test_patterns_match_whole_names():
    with pytest.raises(BobError, match="not known to the table: xq, qx"):
        convert(ARRAYS | {"xq": np.zeros(1), "qx": np.zeros(1)}, TABLE, SHAPES, what="x")


def test_prefix_applies_to_rules_and_ignores_but_not_to_added_ignores():
    table = TABLE.prefixed(r"model\.", (r"epoch",))
    arrays = {f"model.{name}": array for name, array in ARRAYS.items()} | {"epoch": np.zeros(())}
    assert set(convert(arrays, table, SHAPES, what="x")) == set(SHAPES)
    with pytest.raises(BobError, match="not known to the table"):
        convert(ARRAYS, table, SHAPES, what="x")


def test_transforms_against_hand_values():
    weight = np.arange(24).reshape(2, 3, 4, 1)  # [out, in, H, W]
    assert conv(weight).shape == (4, 1, 3, 2)
    assert conv(weight)[3, 0, 2, 1] == weight[1, 2, 3, 0]
    heads = np.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(merge_heads_out(heads), [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])
    np.testing.assert_array_equal(merge_heads_in(heads)[:, 0], [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(flat(np.array([[1, 2], [3, 4]])), [1, 2, 3, 4])


def test_summary_keeps_every_name_in_a_short_line():
    names = [f"blocks.{index}.norm.scale" for index in (0, 1, 2, 5)] + ["cls_token", "head.1.bias"]
    assert summarise(names) == "blocks.{0-2,5}.norm.scale, cls_token, head.1.bias"


def test_export_undoes_convert_for_every_transform():
    table = Table(
        rules=(
            Rule(r"a\.weight", "a.kernel", linear),
            Rule(r"c\.weight", "c.kernel", conv),
            Rule("q/kernel", "qkv.kernel", merge_heads_out, (0, 2)),
            Rule("v/kernel", "qkv.kernel", merge_heads_out, (1, 2)),
            Rule("q/bias", "qkv.bias", flat, (0, 2)),
            Rule("v/bias", "qkv.bias", flat, (1, 2)),
            Rule("out", "proj.kernel", merge_heads_in),
        ),
        ignore=("head",),
    )
    source_shapes = {
        "a.weight": (3, 4),
        "c.weight": (5, 2, 3, 3),
        "q/kernel": (4, 2, 3),
        "v/kernel": (4, 2, 5),
        "q/bias": (2, 3),
        "v/bias": (2, 5),
        "out": (2, 3, 7),
        "head": (9,),
    }
    rng = np.random.default_rng(0)
    source = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in source_shapes.items()}
    shapes = {
        "a.kernel": (4, 3),
        "c.kernel": (3, 3, 2, 5),
        "qkv.kernel": (4, 16),
        "qkv.bias": (16,),
        "proj.kernel": (6, 7),
    }
    ours = convert(source, table, shapes, what="source")
    back = export(ours, table, source_shapes, what="target")
    assert back.keys() == source.keys() - {"head"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, source[name])


def test_export_lists_everything_that_does_not_fit():
    table = Table((Rule("a", "a"), Rule("b", "b"), Rule("c", "c")))
    arrays = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32), "z": np.zeros(1, np.float32)}
    with pytest.raises(BobError) as caught:
        export(arrays, table, {"a": (4,), "b": (2,), "c": (1,), "unknown": (1,)}, what="target")
    message = str(caught.value)
    for part in (
        "not known to the table: unknown",
        "without a place in it: z",
        "of shape (3,) where the checkpoint has (4,): a",
        "not a parameter of this architecture: c",
    ):
        assert part in message
