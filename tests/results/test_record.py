import copy
import dataclasses
import hashlib
import json
import re
import typing
from pathlib import Path

import numpy as np
import pytest
from synthetic_records import ENVIRONMENT, simulate

from bob_jax.errors import BobError
from bob_jax.metrics.catalog import METRICS
from bob_jax.results import record
from bob_jax.results.record import Failure, Record, cell_id, failure_from_json, record_from_json, to_json

DOCS = Path(__file__).parents[2] / "docs" / "records.md"
FIELDS = {"backbone": "a", "dataset": "digits", "protocol": "knn", "seed": 0, "more": {"k": [1, 3], "t": 0.07}}


@pytest.fixture(scope="module")
def made():
    return simulate()[0]


@pytest.fixture
def data(made):
    """The record as JSON data, to be damaged."""
    return json.loads(to_json(made))


def schema_fields(kind=Record, prefix=""):
    """Dotted names of all fields, with the dataclass each belongs to; `*` where names are free."""
    for name, hint in typing.get_type_hints(kind).items():
        yield f"{prefix}{name}"
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                middle = ".*" if typing.get_origin(hint) is dict else ""
                yield from schema_fields(part, f"{prefix}{name}{middle}.")


def at(data, path):
    """The object that holds the field at a dotted path, and the field's key."""
    *parents, key = path.split(".")
    for name in parents:
        data = data[int(name)] if isinstance(data, list) else data[next(iter(data)) if name == "*" else name]
    return data, key


def test_round_trip(made):
    text = to_json(made)
    assert record_from_json(text, "x.json") == made
    assert to_json(record_from_json(text, "x.json")) == text


def test_tuples_numpy_scalars_and_dataclasses_become_plain(made):
    card = {"mean": (0.5, 0.5), "parameters": np.float32(2.5), "n": np.int64(3), "use": ENVIRONMENT}
    text = to_json(dataclasses.replace(made, backbone=record.BackboneUsed(card, None)))
    read = record_from_json(text, "x.json").backbone
    assert read.card == {"mean": [0.5, 0.5], "parameters": 2.5, "n": 3, "use": dataclasses.asdict(ENVIRONMENT)}
    assert read.weights_sha256 is None


def test_failure_round_trip(made):
    failure = Failure(made.cell, "it broke", "Traceback ...\n", ENVIRONMENT, record.now())
    assert failure_from_json(to_json(failure), "x.failed.json") == failure
    with pytest.raises(BobError, match=r"x.json: unknown field 'error'"):
        record_from_json(to_json(failure), "x.json")


@pytest.mark.parametrize("path", sorted(set(schema_fields()) - {"selection.chosen"}))
def test_a_missing_field_is_named(data, path):
    holder, key = at(data, path)
    del holder[key]
    with pytest.raises(BobError, match=rf"^r/x\.json: field '{path.replace('*', '[a-z0-9_]+')}' is missing"):
        record_from_json(json.dumps(data), "r/x.json")


@pytest.mark.parametrize("path", ["surprise", "cell.surprise", "dataset.splits.*.surprise", "metrics.*.surprise"])
def test_an_unknown_field_is_named(data, path):
    holder, key = at(data, path)
    holder[key] = 1
    with pytest.raises(BobError, match=rf"^x\.json: unknown field '{path.replace('*', '[a-z0-9_]+')}'"):
        record_from_json(json.dumps(data), "x.json")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("cell", [], "cell is [], it takes an object"),
        ("cell.seed", "0", "cell.seed is '0', it takes int"),
        ("cell.seed", True, "cell.seed is True, it takes int"),
        ("cell.seed", 1.5, "cell.seed is 1.5, it takes int"),
        ("cell.backbone", None, "cell.backbone is None, it takes str"),
        ("metrics.accuracy.value", "high", "metrics.accuracy.value is 'high', it takes float"),
        ("metrics.accuracy.value", None, "metrics.accuracy.value is None, it takes float"),
        ("metrics.accuracy.higher_is_better", 1, "metrics.accuracy.higher_is_better is 1, it takes bool"),
        ("cost.wall_seconds", "long", "cost.wall_seconds is 'long', it takes float"),
        ("dataset.splits.test.skipped", "none", "dataset.splits.test.skipped is 'none', it takes a list"),
        ("dataset.splits.test.skipped", [3], "dataset.splits.test.skipped.0 is 3, it takes str"),
        ("dataset.splits", [], "dataset.splits is [], it takes an object"),
        ("selection.grid.1.validation", "x", "selection.grid.1.validation is 'x', it takes float"),
        ("selection.chosen", 99, "selection.chosen is 99, but grid has 5"),
        ("status", "failed", "status is 'failed', not 'ok'"),
        ("main_metric", "beauty", "main_metric 'beauty' is not among metrics"),
        ("schema_version", "1", "schema_version is '1', it takes 3"),
        ("schema_version", 0, "schema_version is 0, it takes 3"),
        ("environment.versions.jax", 10, "environment.versions.jax is 10, it takes str"),
    ],
)
def test_a_wrong_value_is_named(data, path, value, words):
    holder, key = at(data, path)
    holder[int(key) if isinstance(holder, list) else key] = value
    with pytest.raises(BobError, match=f"^{re.escape(f'x.json: {words}')}") as caught:
        record_from_json(json.dumps(data), "x.json")
    assert "\n" not in str(caught.value)


def test_numbers_and_nulls_that_are_allowed(data):
    data["metrics"]["accuracy"]["value"] = 1
    data["cost"] = dict.fromkeys(data["cost"])
    data["selection"]["grid"][0 if data["selection"]["chosen"] else 1]["validation"] = None
    data["environment"]["git_commit"] = None
    read = record_from_json(json.dumps(data), "x.json")
    assert read.cost == record.Cost()
    assert type(read.metrics["accuracy"].value) is float
    data["selection"] = None
    assert record_from_json(json.dumps(data), "x.json").selection is None


def test_the_chosen_point_has_a_score(data):
    data["selection"]["grid"][data["selection"]["chosen"]]["validation"] = None
    with pytest.raises(BobError, match="a point without a score"):
        record_from_json(json.dumps(data), "x.json")


def test_a_grid_point_without_its_score(data):
    del data["selection"]["grid"][2]["validation"]
    with pytest.raises(BobError, match=r"field 'selection.grid.2.validation' is missing"):
        record_from_json(json.dumps(data), "x.json")


def test_version_2_had_no_estimate_and_is_read(data, made):
    del data["estimate"]
    data["schema_version"] = 2
    read = record_from_json(json.dumps(data), "x.json")
    assert read == dataclasses.replace(made, estimate=None)
    failure = json.loads(to_json(Failure(made.cell, "it broke", "Traceback", ENVIRONMENT, record.now())))
    assert failure_from_json(json.dumps(failure | {"schema_version": 2}), "x").schema_version == 3
    with pytest.raises(BobError, match="field 'estimate' is missing"):
        record_from_json(json.dumps(data | {"schema_version": 3}), "x.json")


def test_an_infinite_score_is_refused_in_each_of_its_spellings(data):
    """JSON has no word for it, but a number too large is read as one."""
    text = json.dumps(data).replace(json.dumps(data["metrics"]["nll"]["value"]), "1e999", 1)
    with pytest.raises(BobError, match=r"^x.json: metrics.nll.value is inf, it takes a finite number"):
        record_from_json(text, "x.json")


def test_a_newer_schema_asks_for_an_update(data):
    data |= {"schema_version": 4, "field_of_tomorrow": 1}
    with pytest.raises(BobError, match=r"^x.json: schema_version 4 is newer than .* \(3\): update bob_jax$"):
        record_from_json(json.dumps(data), "x.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"words"', '{"a": NaN}', "\x00\x00"])
def test_what_is_no_record_at_all(text):
    with pytest.raises(BobError, match=r"^x.json: not a record"):
        record_from_json(text, "x.json")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("-inf")])
def test_a_score_that_is_no_number_is_refused(made, bad):
    broken = dataclasses.replace(made.metrics["nll"], value=bad)
    with pytest.raises(BobError, match=r"^metrics.nll.value is -?(nan|inf)"):
        to_json(dataclasses.replace(made, metrics={**made.metrics, "nll": broken}))


def test_what_is_no_data_is_refused(made):
    with pytest.raises(TypeError, match=r"protocol.hyperparameters.x is a ndarray"):
        to_json(dataclasses.replace(made, protocol=record.ProtocolUsed("knn", {"x": np.zeros(2)})))


def test_cell_id_does_not_depend_on_order_or_container():
    shuffled = {name: FIELDS[name] for name in reversed(FIELDS)} | {"more": {"t": 0.07, "k": (1, 3)}}
    assert cell_id(shuffled) == cell_id(FIELDS)
    assert re.fullmatch(r"digits-knn-a-s0-[0-9a-f]{12}", cell_id(FIELDS))


def test_cell_id_is_the_same_for_ever():
    """Ids are file names in folders that exist: a change here would run every cell again."""
    canonical = '{"backbone":"a","dataset":"digits","more":{"k":[1,3],"t":0.07},"protocol":"knn","seed":0}'
    assert hashlib.sha256(canonical.encode()).hexdigest().startswith("e93ee9f1e3ba")
    assert cell_id(FIELDS) == "digits-knn-a-s0-e93ee9f1e3ba"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"backbone": "b"}, {"more": {"k": [1, 3], "t": 0.08}}, {"more": {"k": [1, 3]}}, {"new": None}],
)
def test_cell_id_tells_every_difference(change):
    assert cell_id({**copy.deepcopy(FIELDS), **change}) != cell_id(FIELDS)


def test_cell_id_is_a_file_name_whatever_the_names():
    found = cell_id({**FIELDS, "dataset": "folder:../my pictures/ü", "backbone": "timm/" + "x" * 500})
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", found)
    assert not found.startswith(".")
    assert len(found) < 220  # with endings and a temporary name it fits the 255 bytes of a file name


def test_created_is_utc():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.now())


@pytest.mark.parametrize("path", sorted({*schema_fields(), *schema_fields(Failure)}))
def test_docs_explain_every_field(path):
    name = path.replace("*", "<name>").replace("dataset.splits.<name>", "dataset.splits.<split>")
    assert f"| `{name}` |" in DOCS.read_text(encoding="utf-8")


def test_the_example_in_the_docs_is_a_record():
    text = DOCS.read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1)
    read = record_from_json(example, "docs/records.md")
    assert f"{read.cell.id}.json" in text


def test_every_score_is_explained():
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    missing = [name for name in METRICS if f"`{name}`" not in text]
    assert not missing
