"""The report in a real browser: what a reader sees, on a phone, in the dark, with the keyboard alone."""

import csv
import io
import json
import re

import pytest
from headless_browser import browser
from report_folder import METHODS, TRICK, fill

from bob_jax import cli
from bob_jax.results import boards, table
from bob_jax.results.store import Store

HOLE = "\N{EN DASH}"
RECORD = "pets-linear_probe-resnet50"
SCREENS = {
    "desktop": {"width": 1400, "height": 900},
    "desktop, dark": {"width": 1400, "height": 900, "dark": True},
    "phone": {"width": 360, "height": 740, "phone": True},
    "phone, dark": {"width": 360, "height": 740, "phone": True, "dark": True},
}
# Relative luminance and contrast as WCAG 2 defines them, of two colours that the style names.
CONTRAST = """
((first, second) => {
  const luminance = (name) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const parts = getComputedStyle(probe).color.match(/[0-9]+/g).map((x) => x / 255);
    probe.remove();
    const [r, g, b] = parts.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [luminance(first), luminance(second)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
})
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(fill(tmp_path_factory.mktemp("report") / "laboratory"))


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOB_CACHE", str(folder / "cache"))
        assert cli.main(["report", str(store.folder), "--out", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def window():
    with browser() as page:
        yield page


@pytest.fixture
def page(window, file):
    """The report, freshly opened on a desktop; whatever it did wrong fails the test."""
    window.screen(**SCREENS["desktop"])
    window.open(file)
    yield window
    window.evaluate("0")  # what has been said by now is heard
    assert window.wrong == []


def column(page, title, table="#ranking table"):
    """The texts of a column, from the top."""
    titles = page.texts(f"{table} thead th")
    return page.texts(f"{table} tbody tr > :nth-child({titles.index(title) + 1})")


def heading(page, title, table="#ranking table"):
    """A selector of a column's button."""
    place = page.texts(f"{table} thead th").index(title) + 1
    return f"{table} thead th:nth-child({place}) button"


def sorted_by(page):
    shown = "[...document.querySelector('#ranking table').querySelectorAll('th[aria-sort]')]"
    return page.evaluate(f"{shown}.map((e) => [e.innerText.trim(), e.getAttribute('aria-sort')])")


@pytest.mark.parametrize("name", SCREENS)
def test_every_view_is_drawn_fits_the_screen_and_says_nothing_wrong(page, file, store, name):
    page.screen(**SCREENS[name])
    page.open(file)
    ids = [record.cell.id for record in store.read_all()]
    addresses = ["#", *(f"#backbone/{one}" for one in METHODS), "#dataset/digits", "#dataset/pets"]
    addresses += [f"#record/{ids[0]}", f"#record/{ids[0]}+{ids[1]}", f"#failure/{store.failures()[0].cell.id}"]
    addresses += ["#backbone/nobody", "#record/nothing", "#dataset/%E0%A4%A", "#nowhere"]
    charts = 0
    for address in addresses:
        page.go(address)
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], address
        assert page.texts("main h1"), address
        undrawn = page.evaluate(
            "[...document.querySelectorAll('.chart')].filter((e) => !e.querySelector('svg.marks')).length"
        )
        assert undrawn == 0, address
        ends = page.evaluate(
            "[...document.querySelectorAll('svg.marks')].map((e) => e.getBoundingClientRect().right - innerWidth)"
        )
        assert all(end <= 0 for end in ends), address
        charts += len(ends)
    assert charts == 4 + len(METHODS) + 2 * 2 + 4  # the overview comes twice: nowhere is there too


def test_the_leaderboard_says_who_may_be_first_and_who_was_left_out(page):
    assert column(page, "Backbone") == ["vit_b16_clip", "vit_b16_dino", "convnext_t", "resnet50"]
    assert column(page, "Rank")[2:] == ["3", HOLE]
    assert column(page, "mean z")[3] == "left out: 2 of 4 settings missing"
    assert re.fullmatch(r"\+0\.\d\d \[\+0\.\d\d, \+\d\.\d\d\]", column(page, "mean z")[0])
    assert page.texts("#ranking tr.first th") == [
        name for name, rank in zip(column(page, "Backbone"), column(page, "Rank"), strict=True) if rank[0] == "1"
    ]


def test_a_click_sorts_and_another_turns_it_and_missing_ones_stay_last(page):
    assert sorted_by(page) == [["mean z", "descending"]]
    page.click(heading(page, "params"))
    assert sorted_by(page) == [["params", "ascending"]]
    assert column(page, "params") == ["23.5 M", "27.8 M", "85.8 M", "86 M"]
    page.click(heading(page, "params"))
    assert sorted_by(page) == [["params", "descending"]]
    assert column(page, "params") == ["86 M", "85.8 M", "27.8 M", "23.5 M"]
    for _ in range(2):
        page.click(heading(page, "mean rank"))
        assert column(page, "Backbone")[-1] == "resnet50"
    assert sorted_by(page) == [["mean rank", "descending"]]
    assert column(page, "Backbone")[0] == "convnext_t"


def test_the_keyboard_is_enough(page):
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    left = page.evaluate("document.activeElement.getBoundingClientRect().left")
    assert left >= 0  # seen when it has the focus
    page.press("Enter")
    button = heading(page, "Backbone")
    for _ in range(60):
        page.press("Tab")
        if page.evaluate(f"document.activeElement === document.querySelector({json.dumps(button)})"):
            break
    else:
        pytest.fail("Tab never comes to the heading of the column")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.press("Enter")
    assert sorted_by(page) == [["Backbone", "ascending"]]
    assert column(page, "Backbone") == sorted(METHODS)
    page.press("Enter")  # the focus has stayed
    assert column(page, "Backbone") == sorted(METHODS, reverse=True)
    for _ in range(60):
        page.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "vit_b16_dino":
            break
    page.press("Enter")
    page.arrive("#backbone/vit_b16_dino")
    assert page.evaluate("document.activeElement.innerText") == "vit_b16_dino"
    assert page.evaluate("document.activeElement.tagName") == "H1"


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("family", "ViT", {"vit_b16_clip", "vit_b16_dino"}),
        ("method", "supervised", {"convnext_t", "resnet50"}),
        ("licence", "mit", {"vit_b16_clip", "convnext_t"}),
        ("least", "27.8", {"vit_b16_clip", "vit_b16_dino", "convnext_t"}),
        ("most", "27", {"resnet50"}),
        ("name", "B16", {"vit_b16_clip", "vit_b16_dino"}),
        ("name", "no such", set()),
    ],
)
def test_a_filter_leaves_rows_and_points_and_clear_brings_them_back(page, field, value, left):
    page.choose(f"form [name={field}]", value)
    assert set(column(page, "Backbone")) == left
    assert set(page.texts("#scores tbody th")) == left
    assert page.texts("[role=status]") == [f"{len(left)} of 4 backbones, 4 settings; ranks are among all of them"]
    points = "#cost .mark-symbol.role-mark path"
    assert len(page.texts(points)) == len(left - {"resnet50"})
    page.click("#leaderboard form button")
    page.settle()
    assert set(column(page, "Backbone")) == set(METHODS)
    assert page.evaluate(f"document.querySelector('form [name={field}]').value") == ""
    assert len(page.texts(points)) == 3


def test_a_protocol_has_a_ranking_of_its_own(page):
    page.choose("form [name=protocol]", "linear_probe")
    assert set(column(page, "Backbone")) == set(METHODS)
    assert HOLE not in column(page, "Rank")
    assert page.texts("#scores thead th")[1:] == ["digits · linear_probe", "pets · linear_probe"]
    assert len(page.texts("#cost .mark-symbol.role-mark path")) == 4
    page.choose("form [name=task]", "classification")
    assert page.evaluate("document.querySelector('form [name=protocol]').value") == "linear_probe"
    page.choose("form [name=protocol]", "")
    assert len(page.texts("#scores thead th")) == 5


def test_a_row_shades_those_it_cannot_be_told_apart_from(page):
    tied = page.evaluate("DATA.rankings[0].tied")
    for name in ("vit_b16_clip", "convnext_t"):
        page.point_at(f"#ranking tr[data-name={name}] th")
        assert set(page.texts("#ranking tr.tied th")) == set(tied[name])
    assert tied["vit_b16_clip"] == ["vit_b16_dino"]


def test_every_score_leads_to_its_records_which_are_those_of_the_folder(page, store):
    links = page.evaluate(
        "[...document.querySelectorAll('#scores td a')].map((e) => [e.innerText, e.getAttribute('href')])"
    )
    scores = [(text, href) for text, href in links if href.startswith("#record/")]
    assert len(scores) == 4 * 4 - 2
    seen = set()
    for text, href in scores:
        cells = href.removeprefix("#record/").split("+")
        values = [store.read(cell).metrics["accuracy"].value for cell in cells]
        assert float(text) == pytest.approx(100 * sum(values) / len(values), abs=0.051)  # one digit is shown
        seen |= set(cells)
    assert seen == {record.cell.id for record in store.read_all()}
    (href,) = [href for _, href in scores if href.startswith(f"#record/{RECORD}")]
    page.click(f"a[href='{href}']")
    page.arrive(f"#record/{RECORD}")
    cell = href.removeprefix("#record/")
    assert page.texts("h1") == [cell]
    assert json.loads(page.texts("pre")[0]) == json.loads((store.folder / f"{cell}.json").read_text())


def test_holes_and_failures_are_cells_too(page):
    gaps = "#scores td.gap"
    assert sorted(page.texts(gaps)) == ["failed", HOLE]
    page.click(f"{gaps} a")
    page.arrive("#failure/")
    assert page.texts("p.bad") == ["out of memory"]
    assert page.texts("pre")[0] == "Traceback: here"
    page.go("#backbone/resnet50")
    lacking = page.texts("section li")
    assert lacking == ["digits · knn", "pets · knn: failed"]


def test_a_backbone_has_its_card_its_cells_and_its_pictures(page, store):
    page.click("#ranking tr[data-name=vit_b16_clip] th a")
    page.arrive("#backbone/vit_b16_clip")
    assert page.evaluate("document.title").startswith("vit_b16_clip · laboratory")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.texts("main p strong")[0].startswith("Rank 1")
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert (facts["licence"], facts["method"], facts["family"]) == ("mit", "clip", "ViT")
    assert facts["notes"] == TRICK  # shown, not run
    assert page.evaluate("document.querySelectorAll('img').length") == 1
    page.wait("document.querySelector('img').naturalWidth > 0")
    assert len(page.texts("table tbody tr")) == 4
    assert page.evaluate("document.querySelectorAll('svg.marks .mark-symbol path').length") == 4
    page.go("#")
    assert column(page, "Backbone")[0] == "vit_b16_clip"


def test_a_data_set_has_a_board_for_each_protocol(page, store):
    page.go("#dataset/pets")
    assert page.texts("h2") == ["pets · knn", "pets · linear_probe", "Pictures", "Failed"]
    shown = boards.boards([one for one in store.read_all() if one.cell.dataset == "pets"], store.per_example)
    tables = page.texts("main > section > div table")
    assert len(tables) == 2
    for i, board in enumerate(shown):
        place = f"main > section:nth-of-type({i + 1}) > div table"
        assert column(page, "Backbone", place) == [row.backbone for row in board.rows]
        assert column(page, "Rank", place)[-1] == f"{board.rows[-1].rank}"
        assert page.texts(f"{place} tr.first th") == [row.backbone for row in board.rows if row.tied]
    assert "4 (" in " ".join(column(page, "seeds (std)", "main > section:nth-of-type(2) > div table"))
    assert page.texts("main p a[href='#backbone/resnet50']") == ["resnet50"]  # no record of k-NN


def test_a_data_set_shows_all_other_scores_and_says_what_its_marks_mean(page, store):
    page.go("#dataset/digits")
    assert page.texts("#main > section:nth-of-type(1) ul.notes li")[0].startswith("= tied with the best")
    page.click("#main > section:nth-of-type(1) details.more summary")
    page.wait("document.querySelector('#main > section:nth-of-type(1) details.more').open")
    place = "#main > section:nth-of-type(1) details.more table"
    (board,) = [one for one in boards.boards(store.read_all(), store.per_example) if one.title == "digits · knn"]
    assert column(page, "Backbone", place) == [row.backbone for row in board.rows]
    assert "accuracy" not in page.texts(f"{place} thead th")
    for row, shown in zip(board.rows, column(page, "nll", place), strict=True):
        assert float(shown) == pytest.approx(store.read(row.cells[0]).metrics["nll"].value, abs=5.1e-5)
    page.click(heading(page, "nll", place))
    assert page.texts(f"{place} th[aria-sort]") == ["nll"]
    assert page.evaluate(f"document.querySelector('{place} th[aria-sort]').getAttribute('aria-sort')") == "ascending"


def test_who_is_behind_is_behind_by_a_positive_number_where_lower_is_better_too(page):
    one = "{difference: -0.1, low: -0.2, high: -0.05}"
    assert page.evaluate(f"differenceWords({{higher_is_better: false, scale: 1, digits: 3}}, {one})") == (
        "0.100 [0.050, 0.200]"
    )
    page.go("#dataset/pets")
    shown = column(page, "behind the best by", "#main > section:nth-of-type(2) > div table")
    assert shown[0] == HOLE
    assert all(float(words.split()[0]) >= 0 for words in shown[1:])


def test_numbers_of_the_heat_map_are_written_where_they_have_room(page, file):
    layers = "heatMap([...Array({}).keys()].map(String), []).layer.length"
    assert page.evaluate(layers.format(10)) == 2
    assert page.evaluate(layers.format(60)) == 1
    page.screen(**SCREENS["phone"])
    page.open(file)
    assert [page.evaluate(layers.format(count)) for count in (4, 10)] == [2, 1]


def test_what_is_downloaded_is_what_the_commands_print(page, store):
    page.evaluate(
        "window.saved = []; URL.createObjectURL = (blob) => { saved.push(blob.text()); return 'data:,'; };"
        " HTMLAnchorElement.prototype.click = function () { saved.push(this.download); }; 0"
    )
    for button in range(4):
        page.evaluate(f"[...document.querySelectorAll('p button')][{button}].click()")
    saved = page.evaluate("Promise.all(saved)")
    texts = dict(zip(saved[1::2], saved[::2], strict=True))
    records = store.read_all()
    assert texts["boards.csv"] == table.to_csv(boards.boards(records, store.per_example))
    ranked = list(csv.DictReader(io.StringIO(texts["ranking.csv"])))
    assert [one["backbone"] for one in ranked] == ["vit_b16_clip", "vit_b16_dino", "convnext_t"]
    assert json.loads(texts["ranking.json"])["by"] == "mean_z"
    exported = {one["cell"]["id"]: one for one in json.loads(texts["records.json"])["records"]}
    assert exported == {
        record.cell.id: json.loads((store.folder / f"{record.cell.id}.json").read_text()) for record in records
    }


def test_a_point_of_a_chart_opens_its_backbone_and_another_cost_moves_it(page):
    point = "#cost .mark-symbol.role-mark path"
    places = f"[...document.querySelectorAll('{point}')].map((e) => e.getAttribute('transform'))"
    before = page.evaluate(places)
    page.choose("#cost [name=cost]", "parameters")
    assert page.evaluate(places) != before
    page.choose("#cost [name=board]", "1")
    page.click(point)
    page.arrive("#backbone/")


def test_agreement_is_drawn_for_all_pairs_of_settings(page):
    texts = page.texts("#agreement .mark-text.role-mark text")
    assert len(texts) == 4 * 3
    expected = page.evaluate("DATA.analysis.between_settings.map((one) => signed(one.spearman.value))")
    assert sorted(texts) == sorted(expected * 2)


def test_light_turns_to_dark_on_the_open_page_and_both_can_be_read(page):
    grounds, inks = [], []
    for dark in (False, True):
        page.evaluate("document.body.dataset.charts = ''; 0") if dark else None
        page.screen(1400, 900, dark=dark)
        page.settle()
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        inks.append(
            page.evaluate("document.querySelector('#cost svg.marks .role-axis-label text').getAttribute('fill')")
        )
        assert inks[-1] == page.evaluate("colour('--ink')")
        for ink in ("--ink", "--muted", "--accent", "--bad"):
            for ground in ("--back", "--raised", "--shade"):
                assert page.evaluate(f"{CONTRAST}({ink!r}, {ground!r})") >= 4.5, (ink, ground, dark)
    assert grounds[0] != grounds[1]
    assert inks[0] != inks[1]


def test_the_harness_hears_what_a_page_does_wrong(window, tmp_path):
    """So that silence means something."""
    (tmp_path / "bad.html").write_text(
        "<body data-charts=drawn data-address=''><script>console.error('loud'); setTimeout(() => nothing(), 0);"
        "fetch('http://127.0.0.1:9/x').catch(() => {})</script>"
    )
    window.open(tmp_path / "bad.html")
    window.wait("performance.now() > 300")
    heard = " ".join(window.wrong)
    assert "loud" in heard
    assert "nothing is not defined" in heard
    assert "request: http://127.0.0.1:9/x" in heard


def test_the_policy_of_the_page_lets_nothing_out(page):
    page.evaluate("window.tried = fetch('http://127.0.0.1:9/x').then(() => 'out', () => 'kept'); 0")
    assert page.evaluate("tried") == "kept"
    assert not any(one.startswith("request:") for one in page.wrong)
    assert page.wrong
    assert all("Content Security Policy" in one for one in page.wrong)
    page.wrong.clear()
