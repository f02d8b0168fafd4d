"""main.py as a user starts it: a run, a second run, a failing cell, and every mistake as one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import environment, run_main

DIGITS = "--config=configs/digits.py"
QUICK = "--config=configs/digits.py:vit_nano8_random,protocol=knn+linear_probe"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_run_writes_records_and_a_second_run_skips_them(cache, tmp_path):
    first = run_main(QUICK, "--limit=60", f"--results={tmp_path}", env=environment(cache))
    assert first.returncode == 0, first.stderr
    assert "2 of 2 cells have a record" in first.stdout
    found = records(tmp_path)
    assert [record["protocol"]["name"] for record in found] == ["knn", "linear_probe"]
    for record in found:
        assert record["selection"]["split"] == "validation"
        score = record["metrics"][record["main_metric"]]
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] == 60
        per_example = np.load(tmp_path / f"{record['cell']['id']}.npz")
        assert per_example["correct"].mean() == pytest.approx(score["value"])
        assert len(set(per_example["id"].tolist())) == 60
    # The second protocol ran no backbone: what the features cost is the first one's figure, to the last digit.
    assert found[0]["cost"]["images_per_second"] == found[1]["cost"]["images_per_second"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    second = run_main(QUICK, "--limit=60", f"--results={tmp_path}", env=environment(cache))
    assert second.returncode == 0
    assert second.stdout.count("has a record") == 2
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}


def test_dry_run_lists_the_cells_and_touches_nothing(cache, tmp_path):
    results = tmp_path / "results"
    done = run_main("--config=configs/fgvc.py:all", "--dry_run", f"--results={results}", env=environment(cache))
    assert done.returncode == 0, done.stderr
    assert "vit_b16_clip" in done.stdout
    assert f"cells, records go to {results}" in done.stdout.replace("\n", "")
    assert not results.exists()


def test_dry_run_shows_names_as_they_are(cache, tmp_path):
    config = f"{DIGITS}:vit_nano8_random,dataset=folder:/data/[/b] [red]birds,protocol=knn"
    done = run_main(config, "--dry_run", "--results=[old] runs", env=environment(cache))
    assert done.returncode == 0, done.stderr
    assert "folder:/data/[/b] [red]birds" in done.stdout and "records go to [old] runs" in done.stdout


def test_a_config_file_that_fails_is_one_line(cache, tmp_path):
    (tmp_path / "own.py").write_text("import nowhere_at_all\n")
    done = run_main(f"--config={tmp_path / 'own.py'}", env=environment(cache))
    assert done.returncode == 2
    place = f"{tmp_path / 'own.py'}:1: ModuleNotFoundError: No module named 'nowhere_at_all'"
    assert done.stderr == f"error: the config file fails at {place}\n"


def test_a_failing_cell_does_not_take_the_others_with_it(cache, tmp_path):
    """k larger than the training split: kNN fails, the probe after it runs, the exit code says so."""
    done = run_main(
        QUICK, "--limit=30", f"--results={tmp_path}", "--config.protocols.knn.k=(1000,)", env=environment(cache)
    )
    assert done.returncode == 1
    assert "error: vit_nano8_random x digits x knn (seed 0): protocols.knn.k = (1000,)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 2 cells have a record" in done.stdout
    (record,) = [record for record in records(tmp_path) if record["status"] == "ok"]
    assert record["protocol"]["name"] == "linear_probe"
    (failure,) = [record for record in records(tmp_path) if record["status"] == "failed"]
    assert "Traceback" in failure["traceback"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{DIGITS}:vit_nanno8_random",), "unknown backbone 'vit_nanno8_random': did you mean vit_nano8_random"),
        ((f"{DIGITS}:dataset=digit",), "unknown dataset 'digit': did you mean digits"),
        ((f"{DIGITS}:protocl=knn",), "unknown key in the config's argument 'protocl': did you mean protocol?"),
        ((DIGITS, "--config.protocols.knn.temprature=1"), "temperature"),
        ((DIGITS, "--config.protocols.knn.temperature=hot"), "could not convert string to float: 'hot'"),
        ((f"{DIGITS}:protocol=knn", "--config.protocols.finetune.epochs=1"), "unknown config key 'finetune'"),
        (("--config=configs/digitz.py",), "cannot read the config file"),
        ((DIGITS, "--config.mesh.fsdp=3"), "fsdp=3 does not divide the 1 devices"),
        ((DIGITS, "--limt=3"), "Unknown command line flag 'limt'"),
        (("configs/fgvc.py:vit_b16_clip",), "did you mean --config=configs/fgvc.py:vit_b16_clip?"),
        ((DIGITS, "--config.data.limit=-3"), "config.data.limit is -3"),
        ((DIGITS, "--results=setup.cfg"), "setup.cfg"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cache, arguments, message):
    done = run_main(*arguments, env=environment(cache))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")


def class_folders(root: Path, classes: int = 3, images: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8) // 2 + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg", quality=95)
    return root


def test_own_folder_with_a_corrupt_image(cache, tmp_path):
    root = class_folders(tmp_path / "images")
    broken = root / "test" / "class_1" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    own = f"--config=configs/digits.py:vit_nano8_random,dataset=folder:{root},protocol=knn"
    options = ("--config.protocols.knn.k=(1,3)", f"--results={tmp_path / 'results'}")

    failed = run_main(own, *options, env=environment(cache))
    assert failed.returncode == 1
    assert "test/class_1/3.jpg" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list((tmp_path / "results").glob("*.npz"))

    done = run_main(own, *options, "--config.data.skip_corrupt=True", env=environment(cache))
    assert done.returncode == 0, done.stderr
    (record,) = [record for record in records(tmp_path / "results") if record["status"] == "ok"]
    assert record["dataset"]["splits"]["test"]["skipped"] == ["test/class_1/3.jpg"]
    assert record["metrics"]["accuracy"]["n"] == 17


def test_missing_data_and_weights_say_what_to_do(cache, tmp_path):
    done = run_main(
        "--config=configs/fgvc.py:vit_b16_clip,dataset=pets+folder:/nowhere,protocol=knn",
        f"--results={tmp_path}",
        env=environment(cache, PYTHONPATH=str(without_tensorflow(tmp_path))),
    )
    assert done.returncode == 1
    assert "bob data prepare pets" in done.stderr
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert "0 of 2 cells have a record" in done.stdout


def without_tensorflow(folder: Path) -> Path:
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")
    return folder
