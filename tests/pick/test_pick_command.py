"""`bob pick` and `bob predict` as a user starts them, and the race of the bundled backbones on digits."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digit_folders import few_of_each, pixels, write
from PIL import Image
from running import ROOT, environment
from safetensors import safe_open

from bob_jax import cli
from bob_jax.backbones import zoo
from bob_jax.data import digits
from bob_jax.errors import BobError
from bob_jax.pick import budget, candidates, drawing, images, run, table
from bob_jax.pick.classifier import Classifier
from bob_jax.protocols import features
from bob_jax.terminal import print_table

TWO = ("resnet10_nano_glyphs", "vit_nano8_random")
KNOWN_BEST = {"resnet10_nano_glyphs", "convnext_nano_glyphs"}  # the head of configs/digits.py: 98.9 and 98.6 %


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def offline(cache, monkeypatch):
    monkeypatch.setenv("BOB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def found(cache):
    """The answer for 500 digits, by four backbones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOB_CACHE", str(cache))
        source = digits.everything()
        given = images.from_arrays("digits", source.images[:500], source.labels[:500], digits.CLASSES)
        names = ("convnext_nano_random", *TWO, "convnext_nano_glyphs")
        entrants, left_out = candidates.candidates(names)
        return run.pick(given, entrants, left_out, budget.Budget(3600.0), lambda line: None)


def test_a_glyphs_backbone_is_chosen_over_random_twins(found):
    choice = found.answer.choice
    assert choice.chosen in KNOWN_BEST and choice.best in KNOWN_BEST
    verdict = {row.backbone: row.verdict for row in choice.rows}
    assert verdict["vit_nano8_random"] == verdict["convnext_nano_random"] == "ruled out"
    assert set(choice.tied) <= KNOWN_BEST
    order = [row.backbone for row in choice.rows]
    assert order.index("convnext_nano_random") < order.index("vit_nano8_random")  # 95.3 and 83.6 % there
    assert choice.score.low < 0.97 < choice.score.high or choice.score.low > 0.9
    row = next(row for row in choice.rows if row.backbone == choice.chosen)
    assert row.rate > 0 and row.memory > 1e6 and row.licence == "apache-2.0" and set(row.transferability) >= {"logme"}


def test_the_answer_is_in_words(found):
    words = "\n".join(found.answer.sentences())
    assert words.startswith(f"Take {found.answer.choice.chosen}: a linear probe on it is right on ")
    for beginning in ("How sure: ", "More images: with ", "Tested: ", "It mistakes ", "Copies: ", "It took "):
        assert f"\n{beginning}" in words


def test_mistakes_are_told_with_what_they_were_taken_for(found):
    answer = found.answer
    assert len(answer.confused) == answer.wrong > 0
    sure = [one.probability for one in answer.confused]
    assert sure == sorted(sure, reverse=True)
    _, labels = pixels()
    assert all(one.truth == str(labels[one.place]) != one.taken_for for one in answer.confused)


def test_pictures_are_drawn(found, tmp_path):
    files = drawing.draw(found.answer, found.shown, tmp_path)
    assert {file.name for file in files} >= {"pick.png", "pick.svg", "confused.png"}
    for file in files:
        if file.suffix == ".png":
            shown = np.asarray(Image.open(file).convert("RGB"))
            assert shown.std() > 10 and min(shown.shape[:2]) > 150


def test_each_backbone_is_written_once(found, tmp_path):
    """In the rows that scores and costs share: names at the dots of costs lay over each other."""
    text = next(file for file in drawing.draw(found.answer, found.shown, tmp_path) if file.suffix == ".svg").read_text()
    for row in found.answer.choice.rows:
        assert text.count(row.backbone) == 1


def test_names_of_any_letters_are_drawn(found, tmp_path, recwarn):
    """What would be mathematics, a letter that the font has not, and a name that is no Unicode."""
    strange = dataclasses.replace(found.answer.confused[0], truth="$5 ^_ $ 日本", taken_for="\udcff [b]")
    answer = dataclasses.replace(found.answer, confused=(strange,), wrong=1)
    assert tmp_path / "confused.png" in drawing.draw(answer, found.shown, tmp_path)
    assert not recwarn.list


def test_a_random_twin_that_stands_is_not_called_worse(found):
    choice = found.answer.choice
    row = next(row for row in choice.rows if row.backbone == choice.chosen)
    twin = dataclasses.replace(next(row for row in choice.rows if row.random), verdict="standing")
    loser = dataclasses.replace(row, backbone="loser", verdict="ruled out")

    def words(*rows):
        part = dataclasses.replace(choice, rows=(row, *rows), tied=(row.backbone,), best=row.backbone)
        return "\n".join(dataclasses.replace(found.answer, choice=part).sentences())

    assert "How sure: all others that were tried are worse" in words(loser)
    assert "How sure: all others that have learned something are worse" in words(twin, loser)
    assert "How sure: nobody else that has learned something was tried." in words(twin)
    assert f"{twin.backbone}, which has learned nothing, cannot be told apart from it" in words(twin)


def test_unequal_classes_are_told(cache):
    """A rare class that is never found: the mean over the classes says so, accuracy does not."""
    source = digits.everything()
    rows = np.concatenate([np.flatnonzero(source.labels == 3)[:120], np.flatnonzero(source.labels == 8)[:3]])
    noise = np.random.default_rng(0).integers(0, 256, (123, 8, 8, 3)).astype(np.uint8)
    given = images.from_arrays("rare", noise, (source.labels[rows] == 8).astype(int), ("a", "b"))
    entrants, _ = candidates.candidates(["resnet10_nano_glyphs"])
    answer = run.pick(given, entrants, [], budget.Budget(3600.0), lambda line: None).answer
    assert answer.majority == pytest.approx(120 / 123) and answer.per_class == pytest.approx(0.5, abs=0.01)
    words = "\n".join(answer.sentences())
    assert "The classes are unequal: the mean of their accuracies is " in words
    assert "it is not certain that it does better than always saying the most frequent class" in words


def test_a_classifier_predicts_after_reload_what_it_did_before(found, tmp_path):
    file = tmp_path / "digits.safetensors"
    before = found.classifier
    before.save(file)
    after = Classifier.load(file)
    unseen, labels = pixels()
    pictures = [np.repeat(one[..., None], 3, axis=-1) for one in unseen[1000:1080]]
    np.testing.assert_array_equal(after.probabilities(pictures), before.probabilities(pictures))
    guesses = after.predict(pictures)
    assert np.mean([guess.label == str(label) for guess, label in zip(guesses, labels[1000:1080], strict=True)]) > 0.85
    assert sum(guesses[0].probabilities.values()) == pytest.approx(1)
    assert guesses[0].probability == max(guesses[0].probabilities.values())
    # Whoever shares the batch changes nothing.
    np.testing.assert_allclose(after.probabilities(pictures[40:41])[0], after.probabilities(pictures)[40], rtol=1e-5)
    with safe_open(file, "np") as stored:
        assert stored.metadata()["backbone"] == found.answer.choice.chosen
        assert json.loads(stored.metadata()["facts"])["learned_from"] == 500
    assert after.facts["accuracy"]["value"] == found.answer.choice.score.value


def test_a_file_that_is_no_classifier_is_one_line(tmp_path, found):
    with pytest.raises(BobError, match="no classifier at"):
        Classifier.load(tmp_path / "none.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    with pytest.raises(BobError, match="is no classifier of"):
        Classifier.load(tmp_path / "other.safetensors")
    found.classifier.save(tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BobError, match="is damaged"):
        Classifier.load(tmp_path / "cut.safetensors")
    other = whole.replace(found.classifier.competitor.weights_sha256.encode(), b"0" * 64)
    (tmp_path / "other.safetensors").write_bytes(other)
    with pytest.raises(BobError, match="made with other weights"):
        Classifier.load(tmp_path / "other.safetensors")


def test_who_cannot_be_had_is_a_line_and_no_crash():
    """Weights that the network does not give, and a backbone that breaks when it is built."""
    (good,), _ = candidates.candidates(["vit_nano8_glyphs"])
    gone = candidates.Candidate(zoo.CARDS["resnet50_in1k"], 8.2, 94e6)
    broken = candidates.Candidate(
        dataclasses.replace(zoo.CARDS["vit_nano4_random"], name="torn", architecture="torch"), 0.01, 0.0
    )
    source = digits.everything()
    given = images.from_arrays("few", source.images[:60], source.labels[:60], digits.CLASSES)
    said = []
    found = run.pick(given, [gone, broken, good], [], budget.Budget(3600.0), said.append)
    assert found.answer.choice.chosen == "vit_nano8_glyphs" and len(found.answer.choice.rows) == 1
    warnings = found.answer.setting.warnings
    assert len(warnings) == 2 and warnings[0].startswith(
        "resnet50_in1k is left out: could not fetch hf://timm/resnet50"
    )
    assert warnings[1].startswith("torn is left out") and set(warnings) <= set(said)
    assert "nobody else was tried" in "".join(found.answer.sentences())
    with pytest.raises(BobError, match="no backbone could be judged: resnet50_in1k is left out: could not fetch"):
        run.pick(given, [gone], [], budget.Budget(3600.0), said.append)


def command(*words, cwd, cache):
    return subprocess.run(
        [sys.executable, "-m", "bob_jax", *map(str, words)],
        cwd=cwd,
        env=environment(cache, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_from_a_folder_to_a_prediction(tmp_path, cache):
    """Both commands as a user has them, with a damaged file, a loose one, and copies in the folder."""
    folder = write(tmp_path / "given", few_of_each(6))
    write(folder, [700], classes=False)
    (folder / "2" / "bad.png").write_bytes(b"bad")
    whole = (folder / "4" / "4.png").read_bytes()
    (folder / "4" / "half.png").write_bytes(whole[: len(whole) // 2])
    near = np.asarray(Image.open(folder / "0" / "0.png")).astype(int)
    Image.fromarray(np.clip(near + 1, 0, 255).astype(np.uint8)).save(folder / "1" / "copy.png")
    words = ("pick", folder, "--backbones", ",".join(TWO), "--save", tmp_path / "mine.safetensors")
    done = command(*words, cwd=tmp_path, cache=cache)
    assert done.returncode == 0, done.stderr
    assert "take it" in done.stdout and "Take resnet10_nano_glyphs: " in done.stdout
    assert "note: left out, since unreadable: 1 file (2/bad.png)" in done.stderr
    assert "note: left out, since damaged: 1 image, first 4/half.png" in done.stderr
    assert "without a label: 1 image (700.png)" in done.stderr
    assert "have different labels, first 0/0.png and 1/copy.png: one of the two is wrong" in done.stdout
    drawn = sorted(file.name for file in (tmp_path / "pick" / "given").iterdir())
    assert drawn == ["confused.png", "copies.png", "pick.png", "pick.svg"]
    assert all(f"drew {Path('pick') / 'given' / name}" in done.stderr for name in drawn)
    assert all(len(line) < 260 for line in done.stdout.splitlines())
    asked = [folder / "5" / "5.png", folder / "2" / "bad.png"]
    told = command("predict", tmp_path / "mine.safetensors", *asked, "--json", cwd=tmp_path, cache=cache)
    assert told.returncode == 2 and "cannot decode image" in told.stderr
    assert "skip_corrupt" not in told.stderr
    (guess,) = json.loads(told.stdout)
    assert guess["image"] == str(asked[0]) and guess["probability"] == max(guess["probabilities"].values())


def test_a_folder_to_predict_and_what_is_not_there(found, tmp_path, capsys):
    folder = write(tmp_path / "given", few_of_each(4))
    (folder / "bad.png").write_bytes(b"bad")
    (tmp_path / "empty").mkdir()
    found.classifier.save(tmp_path / "mine.safetensors")
    words = ("predict", "mine.safetensors", "given", "empty", "gone.png", "--json")
    assert cli.main([words[0], *(str(tmp_path / word) for word in words[1:-1]), words[-1]]) == 2
    captured = capsys.readouterr()
    guesses = json.loads(captured.out)
    assert [Path(guess["image"]).relative_to(folder).parts[0] for guess in guesses] == sorted("0123456789" * 4)
    assert np.mean([guess["label"] == Path(guess["image"]).parent.name for guess in guesses]) > 0.9
    assert captured.err.splitlines() == [
        f"error: no image in {tmp_path / 'empty'}",
        f"error: no file {tmp_path / 'gone.png'}",
        f"error: cannot decode image '{folder / 'bad.png'}': cannot identify image file it",
    ]


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "given", few_of_each(3))
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(run, "pick", lambda *_: pytest.fail("the work began"))
    for words, told in (
        (("--out", "file"), f"cannot write file/pick.png: {tmp_path / 'file'} is no folder"),
        (("--out", "file/below"), "is no folder"),
        (("--save", "file/mine.safetensors"), "is no folder"),
        (("--save", "given"), "cannot write given: a folder is there"),
        (("--out", "given/pictures"), "given/pictures is among the images"),
    ):
        assert cli.main(["pick", str(folder), "--backbones", TWO[0], *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and told in captured.err.splitlines()[-1]
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs this may write everywhere
    assert cli.main(["pick", str(folder), "--backbones", TWO[0], "--out", "pictures"]) == 2
    assert f"cannot write pictures/pick.png: {tmp_path} is read-only" in capsys.readouterr().err
    monkeypatch.chdir(folder)
    assert cli.main(["pick", ".", "--backbones", TWO[0]]) == 2
    assert "is among the images, the next run would take the pictures for a class" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "given"]


@pytest.mark.parametrize("json_too", [False, True])
def test_a_picture_that_cannot_be_drawn_costs_no_answer(found, tmp_path, capsys, monkeypatch, json_too):
    """The disk has become full meanwhile."""

    def full(*_):
        raise BobError("cannot write pick.png: No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "pick", lambda *_: found)
    monkeypatch.setattr(drawing, "draw", full)
    words = ["pick", "--backbones", TWO[0], "--save", "mine.safetensors", *(["--json"] if json_too else [])]
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "error: cannot write pick.png: No space left on device"
    assert (json.loads(captured.out)["answer"][0] if json_too else captured.out).find("Take ") >= 0
    assert Classifier.load(tmp_path / "mine.safetensors").classes == found.classifier.classes


def test_damaged_images_that_leave_one_class_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "given", few_of_each(3))
    for file in folder.glob("[1-9]/*.png"):
        file.write_bytes(file.read_bytes()[:-30])
    assert cli.main(["pick", str(folder), "--backbones", TWO[0]]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: too few images of {folder} can be decoded to tell classes apart: 3; 27 are damaged")


def test_no_column_is_cut_on_a_narrow_terminal(found, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal to rich
    monkeypatch.setenv("COLUMNS", "80")
    for columns, rows in table.tables(found.answer):
        print_table(columns, rows, whole=True)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80 and not any("\u2026" in line for line in lines)
    for row in found.answer.choice.rows:
        assert sum(line.strip().startswith(f"{row.backbone} ") for line in lines) >= 4


def test_json_holds_all_of_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "given", few_of_each(3))
    assert cli.main(["pick", str(folder), "--backbones", ",".join(TWO), "--json", "--out", "here"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["chosen"]["backbone"] == TWO[0] and told["setting"]["images"] == 30
    assert told["answer"][0].startswith(f"Take {TWO[0]}") and len(told["choice"]["rows"]) == 2
    assert sorted(Path(file).name for file in told["pictures"]) == ["confused.png", "pick.png", "pick.svg"]
    assert "the smallest class has 3 images" in captured.err
    assert told["choice"]["score"]["high"] - told["choice"]["score"]["low"] > 0.15  # so few say little


def test_images_without_labels(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "given", range(80), classes=False)
    names = "resnet10_nano_glyphs,convnext_nano_glyphs,vit_nano8_random"
    assert cli.main(["pick", str(folder), "--backbones", names]) == 0
    captured = capsys.readouterr()
    assert "Without labels nobody can say which backbone is best" in captured.out
    assert "agrees best with the others" in captured.out and "form " in captured.out
    assert (tmp_path / "pick" / "given" / "clusters.png").exists()
    rows = [line.split()[0] for line in captured.out.splitlines() if line.strip().startswith(("res", "conv", "vit"))]
    assert rows[:3][-1] == "vit_nano8_random"
    assert cli.main(["pick", str(folder), "--backbones", names, "--save", "x.safetensors"]) == 2
    assert "has no two classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget", "1s"), "too small for even one backbone"),
        (("--budget", "soon"), "--budget 'soon' is no time"),
        (("--backbones", "vit_nano8_glyph"), "unknown backbone 'vit_nano8_glyph'"),
        (("--licence", "mitt"), "unknown licence 'mitt': did you mean mit?"),
        (("--backbones", "vit_b16_clip"), "whose weights are not on this machine are left out (vit_b16_clip)"),
        (("--max-parameters", "0.001"), "no backbone is left"),
        (("nowhere",), "no folder nowhere"),
    ],
)
def test_a_wrong_word_is_one_line(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pick", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and told in captured.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_ctrl_c_shows_what_is_known(tmp_path, cache):
    """Stopped as soon as the first backbone is judged: an answer of what is known by then, and nothing saved."""
    folder = write(tmp_path / "given", few_of_each(20))
    names = "resnet10_nano_glyphs,convnext_nano_glyphs,vit_nano8_glyphs,vit_nano8_random"
    words = ("pick", folder, "--backbones", names, "--save", tmp_path / "mine.safetensors")
    with subprocess.Popen(
        [sys.executable, "-m", "bob_jax", *map(str, words)],
        cwd=tmp_path,
        env=environment(cache, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("resnet10_nano_glyphs: "):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, "".join(seen) + err
    assert "_glyphs: a linear probe on it is right on " in out and "you stopped it" in out  # or of the next one too
    assert "stopping after this step" in err
    assert not (tmp_path / "mine.safetensors").exists() and "is not written: it was stopped" in err
    assert (tmp_path / "pick" / "given" / "pick.png").exists()


def test_the_smallest_and_those_that_have_seen_most_come_first(monkeypatch):
    everyone, left_out = candidates.candidates()
    names = [one.name for one in everyone]
    assert set(names[:3]) == {"resnet10_nano_glyphs", "convnext_nano_glyphs", "vit_nano8_glyphs"}
    assert all(name.endswith("_random") for name in names[3:]) and len(names) == 10
    assert len(left_out) == 1 and left_out[0].startswith("HF_HUB_OFFLINE is set: ")
    monkeypatch.setattr(candidates, "_out_of_reach", lambda: None)
    reached, none = candidates.candidates(max_parameters=100, commercial=True)
    assert none == [] and len(reached) > 60 and all(one.card.commercial for one in reached)
    assert [one.random for one in reached] == sorted(one.random for one in reached)
    place = {one.name: i for i, one in enumerate(reached)}
    assert place["resnet10_nano_glyphs"] < place["vit_s16_dino"] < place["vit_b16_dino"] < place["vit_nano8_random"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").write_text("no folder")
    monkeypatch.setattr(features, "cache_dir", lambda kind: tmp_path / kind)
    folder = write(tmp_path / "given", few_of_each(3))
    assert cli.main(["pick", str(folder), "--backbones", TWO[0]]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: no backbone could be judged: ") and "free space, or set BOB_CACHE" in told
