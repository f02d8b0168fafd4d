import base64
import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folder import METHODS, fill
from synthetic_records import simulate

from bob_jax import cli
from bob_jax.errors import BobError
from bob_jax.results import boards, store
from bob_jax.results.ranking import analysis, table
from bob_jax.results.report import content, page


def evidence(folder, **changes):
    places = store.stores_in(folder)
    home = {record.cell.id: (record, place) for place in places for record in place.read_all()}
    given = {
        "title": "laboratory",
        "records": [record for record, _ in home.values()],
        "failures": [failure for place in places for failure in place.failures()],
        "per_example": lambda cell: home[cell][1].per_example(cell),
        "picture": lambda cell, name: home[cell][1].picture(cell, name),
        "receipts": {},
        "pretraining_images": {"ImageNet-1k": 1_281_167, "LAION-2B": 2_320_000_000}.get,
    }
    return content.Evidence(**given | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("report") / "laboratory")


@pytest.fixture(scope="module")
def whole(folder):
    return evidence(folder)


@pytest.fixture(scope="module")
def found(whole):
    return content.content(whole)


def test_every_record_and_board_is_there_whole(whole, found):
    json.dumps(found, allow_nan=False)
    assert found["records"] == {one.cell.id: json.loads(json.dumps(dataclasses.asdict(one))) for one in whole.records}
    expected = boards.boards(whole.records, whole.per_example)
    assert [board["title"] for board in found["boards"]] == [board.title for board in expected]
    for shown, board in zip(found["boards"], expected, strict=True):
        assert [(row["backbone"], row["value"], row["tied"]) for row in shown["rows"]] == [
            (row.backbone, row.value, row.tied) for row in board.rows
        ]
        assert (shown["task"], shown["scale"]) == ("classification", 100)
    assert [one["cell"]["backbone"] for one in found["failed"]] == ["resnet50"]


def test_the_ranking_of_all_is_that_of_bob_rank(whole, found):
    expected = analysis.analyse(
        boards.boards(whole.records, whole.per_example), whole.records, whole.per_example, whole.pretraining_images
    )
    assert found["analysis"] == json.loads(table.to_json(expected))
    everything = found["rankings"][found["scopes"][0]["ranking"]]
    assert [one["backbone"] for one in everything["standings"]] == [one.backbone for one in expected.ranking.standings]
    assert everything["csv"] == table.to_csv(expected.ranking)
    assert everything["left_out"].keys() == {"resnet50"}
    assert not any("resnet50" in note for note in everything["notes"])
    assert len(everything["notes"]) == len(table.notes(expected.ranking)) - 1


def test_scopes_are_tasks_and_protocols_and_share_rankings_of_the_same_boards(whole, found):
    scopes = [(scope["task"], scope["protocol"], len(scope["boards"])) for scope in found["scopes"]]
    assert scopes == [
        (None, None, 4),
        ("classification", None, 4),
        ("classification", "knn", 2),
        ("classification", "linear_probe", 2),
    ]
    assert [scope["ranking"] for scope in found["scopes"]] == [0, 0, 1, 2]
    probe = found["rankings"][2]
    assert {one["backbone"] for one in probe["standings"]} == {*METHODS}  # resnet50 lacks k-NN alone
    assert len(probe["settings"]) == 2


def test_ties_say_who_cannot_be_told_apart_and_agree_with_the_rank_ranges(found):
    for ranking in found["rankings"]:
        names = [one["backbone"] for one in ranking["standings"]]
        for one in ranking["standings"]:
            tied = ranking["tied"][one["backbone"]]
            assert one["backbone"] not in tied
            assert all(one["backbone"] in ranking["tied"][other] for other in tied)
            assert one["worst"] - one["best"] == len(tied)  # of ranges by counting, those in between are the tied
            assert one["range"] in (f"{one['best']}-{one['worst']}", f"{one['best']}")
        assert set(ranking["tied"]) == set(names)


def test_the_best_is_compared_with_each_other_on_the_same_images(found):
    board = next(board for board in found["boards"] if board["title"] == "pets · linear_probe")
    best, *others = board["rows"]
    assert [(one["first"], one["second"]) for one in board["against_best"]] == [
        (best["backbone"], row["backbone"]) for row in others
    ]
    assert all(one["test"] == "McNemar" and one["p"] <= one["p_corrected"] <= 1 for one in board["against_best"])


def test_facts_hold_what_the_leaderboard_filters_by(found):
    assert found["facts"].keys() == {*METHODS}
    one = found["facts"]["vit_b16_clip"]
    assert (one["family"], one["method"], one["licence"], one["parameters"]) == ("ViT", "clip", "mit", 86.0)
    assert one["pretraining_images"] == 2_320_000_000
    assert found["device"] == "8 x cpu"


def test_pictures_travel_small_and_those_that_are_gone_are_left_out(folder, found):
    ((cell, pictures),) = found["pictures"].items()
    assert cell.startswith("pets-knn-vit_b16_clip")
    assert pictures.keys() == {"sample0"}  # of the two that the record names
    kind, data = pictures["sample0"].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (content.PICTURE_SIDE, content.PICTURE_SIDE // 2)
        assert np.abs(np.asarray(picture).reshape(-1, 3).mean(axis=0) - [200, 30, 90]).max() < 5


def test_a_damaged_picture_is_one_line(folder, tmp_path):
    one, outputs = simulate("vit_b16_clip")
    place = store.Store(tmp_path)
    place.write(dataclasses.replace(one, notes={"pictures": ["sample0"]}), outputs)
    place.picture(one.cell.id, "sample0").write_bytes(b"nothing")
    with pytest.raises(BobError, match=r"sample0.png: not a picture"):
        content.content(evidence(tmp_path))


def test_one_backbone_alone_makes_a_report_without_a_ranking(tmp_path):
    store.Store(tmp_path).write(*simulate("vit_b16_clip"))
    found = content.content(evidence(tmp_path))
    assert found["analysis"] is None
    assert found["rankings"] == [{"why": found["rankings"][0]["why"]}]
    assert found["rankings"][0]["why"].startswith("nothing to rank: 1 backbone")
    assert found["boards"][0]["against_best"] == []
    assert "vit_b16_clip" in page.page(found)


def test_without_outputs_no_pair_is_compared(folder, whole):
    bare = dataclasses.replace(whole, per_example=lambda cell: None)
    assert [board["against_best"] for board in content.content(bare)["boards"]] == [[]] * 4


def test_equal_results_make_equal_pages(whole, found):
    assert page.page(content.content(whole)) == page.page(found)


def test_nothing_in_a_record_ends_the_element_it_stands_in(found):
    text = page.page(found)
    assert "</script><img" not in text
    assert text.count("<script") == text.count("</script>") == 3
    start = text.index('id="data">') + len('id="data">')
    assert json.loads(text[start : text.index("</script>", start)]) == found


def test_the_command_writes_one_file(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "there" / "page.html"
    assert cli.main(["report", str(folder), "--out", str(out), "--by", "win_rate", "--missing", "available"]) == 0
    assert capsys.readouterr().out == f"{out}: 17 records; open it in a browser\n"
    assert '"by":"win_rate"' in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert cli.main(["report", str(folder), "--out", "/proc/none/page.html"]) == 2
    assert cli.main(["report", str(tmp_path / "none")]) == 2


def test_the_receipt_of_weights_in_the_cache_is_in_the_report(tmp_path, monkeypatch):
    from bob_jax.backbones import zoo

    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    zoo.load("resnet10_nano_glyphs")
    store.Store(tmp_path / "results").write(*simulate("resnet10_nano_glyphs"))
    store.Store(tmp_path / "results").write(*simulate("nobody_knows_it"))
    assert cli.main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    receipts = json.loads(text[start : text.index("</script>", start)])["receipts"]
    assert receipts.keys() == {"resnet10_nano_glyphs"}
    assert receipts["resnet10_nano_glyphs"]["source"] == "package://resnet10_nano_glyphs.safetensors"


def test_without_the_chart_library_one_line_says_what_to_install(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    page._library.cache_clear()
    with pytest.raises(BobError, match=r"pip install 'bob_jax\[report\]'"):
        page.page(found)


def test_a_report_needs_neither_jax_nor_the_chart_library_before_the_end(folder, tmp_path):
    code = f"""
import os, sys
os.environ["BOB_CACHE"] = {str(tmp_path)!r}
import bob_jax.results.report.page
assert "vl_convert" not in sys.modules
from bob_jax.cli import main
code = main(["report", {str(folder)!r}, "--out", {str(tmp_path / "page.html")!r}])
sys.exit(code or "jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_parts_of_the_page_are_packed():
    parts = Path(page.__file__).with_name("page")
    assert {path.name for path in parts.iterdir()} == {"page.html", page.STYLE, *page.PROGRAMS}
    options = (Path(page.__file__).parents[3] / "setup.cfg").read_text()
    assert "bob_jax.results.report = page/*" in options


def test_the_commands_of_the_documentation(folder, tmp_path, monkeypatch, capsys):
    text = (Path(page.__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    monkeypatch.setenv("BOB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "results")  # the names the page uses
    shutil.copytree(folder, tmp_path / "results" / "fgvc")
    shutil.copytree(folder, tmp_path / "lab_a")
    shutil.copytree(folder, tmp_path / "lab_b")
    (tmp_path / "lab_b" / f"{simulate('resnet50', dataset='pets')[0].cell.id}.failed.json").unlink()
    codes = {}
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            command = line.split("#")[0].split(">")[0]
            words = shlex.split(command)
            if words[0] == "bob":
                codes[command.strip()] = cli.main(words[1:])
    assert codes == dict.fromkeys(codes, 0)
    assert len(codes) == 7
    assert {path.name for path in tmp_path.glob("*.html")} == {"report.html", "fgvc.html"}
    assert len(list((tmp_path / "both").glob("*.npz"))) == 17
    assert capsys.readouterr().out.count("17 records; open it in a browser") == 3


def test_a_page_can_be_written_into_a_bucket_and_nowhere_by_mistake(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(folder), "--out", "ftp://host/report.html"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: unknown kind of bucket 'ftp://'")
    assert not list(tmp_path.iterdir())
