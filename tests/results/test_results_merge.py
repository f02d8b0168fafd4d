import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from synthetic_records import ENVIRONMENT, simulate

from bob_jax import cli
from bob_jax.results import merge, record
from bob_jax.results.store import Store


@pytest.fixture
def laboratories(tmp_path):
    """Two folders: one cell of their own each, two in both; the digits of the second lie one folder deeper."""
    a, b = tmp_path / "a", tmp_path / "b"
    for name in ("both", "twins", "mine"):
        Store(a).write(*simulate(name), {"head.bias": np.ones(10, np.float32)}, {"sample0": np.zeros((2, 3, 3), "u1")})
    for name in ("both", "twins", "yours"):
        Store(b / "deeper").write(*simulate(name))
    return a, b


def id_of(name):
    return simulate(name)[0].cell.id


def changed(place, name, **fields):
    """The record of a backbone with other fields, as another laboratory might have it."""
    one, outputs = simulate(name)
    metrics = one.metrics | {"accuracy": dataclasses.replace(one.metrics["accuracy"], **fields)} if fields else {}
    place.write(dataclasses.replace(one, metrics=metrics or one.metrics, created="2027-01-01T00:00:00+00:00"), outputs)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_folders_make_one_with_all_files(laboratories, tmp_path):
    a, b = laboratories
    out = tmp_path / "out"
    done = merge.merge([a, b], out)
    assert (done.cells, done.conflicts) == ({a: 3, b: 1}, ())
    copied = contents(out)
    assert copied == contents(a) | {path: data for path, data in contents(b).items() if id_of("yours") in path.name}
    assert len(copied) == 3 * 4 + 2
    assert [len(Store(place).read_all()) for place in (out, out / "deeper")] == [3, 1]


def test_what_is_there_stays_and_another_merge_changes_nothing(laboratories, tmp_path):
    a, b = laboratories
    before = contents(a)
    assert merge.merge([a, b], a).cells == {a: 0, b: 1}
    after = contents(a)
    assert before.items() < after.items()
    assert len(after) == len(before) + 2
    assert merge.merge([b, a], a) == merge.Merged({b: 0, a: 0}, ())
    assert contents(a) == after


def test_a_conflict_is_shown_and_the_first_record_stays(laboratories, tmp_path, capsys):
    a, b = laboratories
    changed(Store(b / "deeper"), "both", value=0.5)
    changed(Store(b / "deeper"), "twins")
    out = tmp_path / "out"
    assert cli.main(["results", "merge", str(a), str(b), "--out", str(out)]) == 1
    shown = capsys.readouterr().out.splitlines()
    value = simulate("both")[0].metrics["accuracy"].value
    assert shown == [
        f"{a}: 3 cells new in {out}",
        f"{b}: 1 cell new in {out}",
        f"conflict: {id_of('both')}: {a} is kept, {b / 'deeper'} is not",
        f"  metrics.accuracy.value: {value} | 0.5",
        "  created: 2026-11-23T12:00:00+00:00 | 2027-01-01T00:00:00+00:00",
        f"conflict: {id_of('twins')}: {a} is kept, {b / 'deeper'} is not, its scores are the same",
        "  created: 2026-11-23T12:00:00+00:00 | 2027-01-01T00:00:00+00:00",
    ]
    for name in ("both", "twins"):
        assert Store(out).read(id_of(name)) == simulate(name)[0]
    # And with the other first, the other stays.
    assert len(merge.merge([b, a], tmp_path / "turned").conflicts) == 2
    assert Store(tmp_path / "turned" / "deeper").read(id_of("both")).metrics["accuracy"].value == 0.5


def test_other_outputs_behind_an_equal_record_are_a_conflict_and_missing_ones_are_brought(tmp_path):
    one, outputs = simulate("both")
    places = [Store(tmp_path / name) for name in "abc"]
    for place in places:
        place.write(one, outputs)
    places[1].write(one, outputs | {"confidence": outputs["confidence"] / 2})
    (conflict,) = merge.merge([places[0].folder, places[1].folder], tmp_path / "out").conflicts
    assert list(conflict.differing) == [merge.BESIDE]
    assert not conflict.scores
    (places[2].folder / f"{one.cell.id}.npz").unlink()
    assert merge.merge([places[2].folder, places[0].folder], places[2].folder).conflicts == ()
    np.testing.assert_equal(places[2].per_example(one.cell.id), places[0].per_example(one.cell.id))


def test_failures_come_along_where_nobody_succeeded(laboratories, tmp_path):
    a, b = laboratories
    for place, name in ((a, "yours"), (a, "hopeless"), (b / "deeper", "hopeless")):
        failure = record.Failure(simulate(name)[0].cell, f"in {place.name}", "Traceback", ENVIRONMENT, record.now())
        Store(place).record_failure(failure)
    merge.merge([a, b], tmp_path / "out")
    assert [failure.error for failure in Store(tmp_path / "out").failures()] == ["in a"]
    assert not list((tmp_path / "out").glob(f"{id_of('yours')}*"))


def test_a_difference_is_told_with_both_intervals(laboratories, capsys):
    a, b = laboratories
    changed(Store(b / "deeper"), "both", value=0.25, low=0.2, high=0.3)
    found = merge.compare(a, b)
    assert (found.only_first, found.only_second, found.both) == ((id_of("mine"),), (id_of("yours"),), 2)
    (difference,) = found.differences
    assert (difference.cell, difference.metric) == (id_of("both"), "accuracy")
    assert difference.second.low == 0.2
    first = simulate("both")[0].metrics["accuracy"]
    shown = f"{first.value:.5g} [{first.low:.5g}, {first.high:.5g}]"
    assert merge.words(difference) == (shown, "0.25 [0.2, 0.3]", f"{0.25 - first.value:+.2g}", "apart")

    assert cli.main(["results", "diff", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert f"only in {a}: {id_of('mine')}\nonly in {b}: {id_of('yours')}\n" in out
    assert shown in out
    assert out.endswith("2 cells in both, 1 with other scores\n")
    assert cli.main(["results", "diff", str(a), str(b), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"][0]["second"]["low"] == 0.2
    assert cli.main(["results", "diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out == "3 cells in both, 0 with other scores\n"


def test_a_score_that_one_folder_lacks_is_a_difference(tmp_path):
    one, outputs = simulate("both")
    fewer = {name: score for name, score in one.metrics.items() if name != "brier"}
    Store(tmp_path / "a").write(one, outputs)
    Store(tmp_path / "b").write(dataclasses.replace(one, metrics=fewer), outputs)
    (difference,) = merge.compare(tmp_path / "a", tmp_path / "b").differences
    assert (difference.metric, difference.second) == ("brier", None)
    assert merge.words(difference)[1:] == ("-", "-", "-")


def test_nothing_is_written_when_a_source_is_damaged(laboratories, tmp_path, capsys):
    a, b = laboratories
    (b / "deeper" / f"{id_of('yours')}.json").write_text("{")
    assert cli.main(["results", "merge", str(a), str(b), "--out", str(tmp_path / "out")]) == 2
    assert "yours" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["results", "merge", str(a), str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2


def test_a_folder_that_is_called_like_a_command(laboratories, monkeypatch, capsys):
    a, _ = laboratories
    monkeypatch.chdir(a.parent)
    a.rename("merge")
    assert cli.main(["results", "./merge", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_everything_as_json_and_csv(laboratories, capsys):
    a, _ = laboratories
    failure = record.Failure(simulate("broken")[0].cell, "it broke", "Traceback", ENVIRONMENT, record.now())
    Store(a).record_failure(failure)
    assert cli.main(["results", "export", str(a)]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert {one["cell"]["id"]: one for one in exported["records"]} == {
        path.stem: json.loads(path.read_text()) for path in a.glob("*.json") if "failed" not in path.name
    }
    assert [one["error"] for one in exported["failed"]] == ["it broke"]

    assert cli.main(["results", "export", str(a), "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    done = simulate("mine")[0]
    mine = {line["metric"]: line for line in lines if line["cell"] == done.cell.id}
    assert mine.keys() == done.metrics.keys()
    assert len(lines) == 3 * len(mine)
    for name, score in done.metrics.items():
        assert [float(mine[name][end]) for end in ("value", "low", "high")] == [score.value, score.low, score.high]
        assert mine[name]["main"] == str(name == "accuracy")
    assert (mine["nll"]["parameters"], mine["nll"]["device_kind"]) == ("86.6", "cpu")


def test_a_folder_that_holds_a_cell_twice_shows_its_conflict(tmp_path):
    """Two benchmarks below one folder may hold the same cell."""
    for name in ("first", "second"):
        Store(tmp_path / "a" / name).write(*simulate("both"))
    assert merge.merge([tmp_path / "a"], tmp_path / "same").conflicts == ()
    changed(Store(tmp_path / "a" / "second"), "both", value=0.5)
    (conflict,) = merge.merge([tmp_path / "a"], tmp_path / "out").conflicts
    assert (conflict.kept, conflict.other) == (tmp_path / "a" / "first", tmp_path / "a" / "second")
    assert conflict.scores == ("accuracy",)
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.json")] == ["first"]
