"""Results in a bucket, through epath and fsspec as with S3; the library that would talk to S3 is a stand-in."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from etils.epath import gpath
from running import ROOT, environment, run_main
from synthetic_records import ENVIRONMENT, simulate

from bob_jax import cli
from bob_jax.errors import BobError
from bob_jax.results import files, record
from bob_jax.results.files import located
from bob_jax.results.store import Store, stores_in

STAND_INS = ROOT / "tests" / "stand_ins"
WEIGHTS = {"head.kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def buckets(tmp_path, monkeypatch) -> Path:
    """Where the objects are; the bucket "ours" is there."""
    (tmp_path / "buckets" / "ours").mkdir(parents=True)
    monkeypatch.setenv("STAND_IN_BUCKETS", str(tmp_path / "buckets"))
    monkeypatch.setenv("EPATH_USE_TF", "0")
    gpath._is_tf_installed.cache_clear()  # an earlier test may have asked
    monkeypatch.syspath_prepend(str(STAND_INS))
    yield tmp_path / "buckets"
    gpath._is_tf_installed.cache_clear()


def failure_of(made, text: str) -> record.Failure:
    return record.Failure(made[0].cell, text, f"Traceback: {text}", ENVIRONMENT, record.now())


def test_a_cell_with_everything_beside_it_comes_back_from_a_bucket(buckets):
    store, made = Store("s3://ours/runs/digits"), simulate(n=20)
    cell_id = made[0].cell.id
    store.prepare()
    assert not store.exists(cell_id) and list(buckets.glob("ours/**/*")) == []
    store.record_failure(failure_of(made, "no memory"))
    assert [failure.error for failure in store.failures()] == ["no memory"]
    picture = np.full((4, 5, 3), 200, np.uint8)
    store.write(*made, WEIGHTS, {"sample0": picture})
    assert store.exists(cell_id) and store.has_weights(cell_id) and store.failures() == []
    assert store.read(cell_id) == made[0] and store.read_all() == [made[0]]
    for name, array in made[1].items():
        np.testing.assert_array_equal(store.per_example(cell_id)[name], array)
    np.testing.assert_array_equal(store.weights(cell_id)["head.kernel"], WEIGHTS["head.kernel"])
    names = sorted(path.name for path in buckets.glob("ours/runs/digits/*"))
    assert names == sorted(f"{cell_id}{end}" for end in (".json", ".npz", ".safetensors", ".sample0.png"))
    assert [str(place.folder) for place in stores_in("s3://ours/runs")] == ["s3://ours/runs", "s3://ours/runs/digits"]
    again = pickle.loads(pickle.dumps(store.folder))  # to the workers of a cluster
    assert str(again) == "s3://ours/runs/digits" and Store(again).exists(cell_id)


def test_what_breaks_off_leaves_no_record(buckets, monkeypatch):
    store, made = Store("s3://ours/runs"), simulate(n=20)
    real, written = type(store.folder).write_bytes, []

    def breaks_off(self, content):
        written.append(self.name)
        if len(written) == 2:
            raise ConnectionError("the network is gone")
        return real(self, content)

    monkeypatch.setattr(type(store.folder), "write_bytes", breaks_off)
    with pytest.raises(BobError, match=r"cannot write s3://ours/runs/.*\.json: the network is gone"):
        store.write(*made)
    assert not store.exists(made[0].cell.id) and list(buckets.glob("ours/**/*")) == []

    def one_more(write):
        write.write(b"half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        files._appear(located("s3://ours/half"), one_more)
    assert not (buckets / "ours" / "half").exists()


def test_a_record_of_another_benchmark_is_taken_over_within_a_bucket(buckets):
    first, second, made = Store("s3://ours/a"), Store("s3://ours/b"), simulate(n=20)
    first.write(*made, WEIGHTS)
    cell = dataclasses.replace(made[0].cell, id="other-id", benchmark="other")
    second.take_over(first, made[0].cell.id, cell)
    assert second.read("other-id") == dataclasses.replace(made[0], cell=cell) and second.has_weights("other-id")


def test_the_commands_read_a_bucket(buckets, tmp_path, capsys):
    for name in ("vit_b16_clip", "vit_b16_dino", "resnet50"):
        Store("s3://ours/runs/pets").write(*simulate(name, dataset="pets"))
    assert cli.main(["results", "s3://ours/runs", "--csv"]) == 0
    assert capsys.readouterr().out.count(",vit_b16_clip,") == 1
    assert cli.main(["results", "merge", "s3://ours/runs", "--out", str(tmp_path / "here")]) == 0
    assert len(Store(tmp_path / "here" / "pets").read_all()) == 3
    assert cli.main(["results", "diff", "s3://ours/runs", str(tmp_path / "here")]) == 0
    assert cli.main(["results", "s3://ours/nothing"]) == 2
    assert "no results folder 's3://ours/nothing'" in capsys.readouterr().err


def test_a_plan_whose_bucket_cannot_be_reached_is_one_line(buckets, monkeypatch, capsys):
    def refused(self):
        raise RuntimeError("Unable to locate\ncredentials")

    monkeypatch.setattr(type(located("s3://ours/runs")), "is_dir", refused)
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "configs/digits.py", "--device", "h200", "--results", "s3://ours/runs"]) == 2
    assert capsys.readouterr().err == "error: cannot read s3://ours/runs: Unable to locate credentials\n"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gs://ours/runs", r"gs://ours/runs is read and written by gcsfs: pip install 'bob_jax\[gcs\]'"),
        ("gcs://ours/runs", r"unknown kind of bucket 'gcs://': did you mean gs:// or s3://"),
        ("s3://theirs/runs", "cannot write s3://theirs/runs/.*: The specified bucket does not exist: theirs"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_line(buckets, monkeypatch, address, words):
    real = files.importlib.util.find_spec
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None if name == "gcsfs" else real(name))
    with pytest.raises(BobError, match=words) as error:
        Store(address).prepare()
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_records_in_a_bucket_and_its_checkpoints_here(buckets, tmp_path):
    env = environment(tmp_path / "cache", PYTHONPATH=str(STAND_INS), STAND_IN_BUCKETS=str(buckets))
    command = (
        "--config=configs/digits.py:vit_micro8_random,protocol=finetune,dataset=digits",
        "--config.protocols.finetune.epochs=1",
        "--config.protocols.finetune.learning_rates=(0.001,)",
        "--config.protocols.finetune.evaluations=1",
        "--limit=40",
        "--results=s3://ours/runs",
    )
    done = run_main(*command, env=env)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cells have a record in s3://ours/runs" in done.stdout
    ends = sorted("".join(path.suffixes[-1:]) for path in buckets.glob("ours/**/*.*"))
    assert ends == [".json", ".npz"]
    assert list((tmp_path / "cache" / "work").glob("*/*/point_*/*.jsonl"))
    again = run_main(*command, env=env)
    assert again.returncode == 0 and again.stdout.count("has a record") == 1
