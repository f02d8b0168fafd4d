"""Which part of a grid a budget buys: against all subsets, against chance, and as the command that runs it."""

import csv
import dataclasses
import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from running import environment, run_main
from scipy.stats import kendalltau
from synthetic_records import ENVIRONMENT, simulate

from bob_jax import cli, grid
from bob_jax.errors import BobError
from bob_jax.launch import budget, config_file, estimate
from bob_jax.launch import cell as single
from bob_jax.results.ranking import information
from bob_jax.results.ranking.information import Agreement, Column
from bob_jax.results.record import Cost, Score
from bob_jax.results.store import Store
from configs import digits, gauntlet

ROOT = Path(__file__).parents[2]
H200 = "NVIDIA H200"


def unclosed(kept):
    return kept


def everything(n):
    """[2**n, n] bool all subsets."""
    return np.array(list(itertools.product((False, True), repeat=n)))


def random_grid(rng, settings):
    """Columns of some tasks, and seconds of subsets of them, some of it shared."""
    columns = []
    for s in range(settings):
        task, protocol, dataset = (str(rng.integers(k)) for k in (3, 2, 4))
        columns.append(Column(task, f"{task}.{protocol}", dataset, f"setting {s}", 0))
    own, shared = rng.lognormal(0, 1.5, settings), rng.lognormal(1, 1, 4)
    member = np.array([[column.dataset == str(d) for d in range(4)] for column in columns])
    return columns, lambda kept: kept @ own + (kept @ member > 0) @ shared


def best_within(subsets, seconds, worth, limit):
    return worth(subsets[seconds(subsets) <= limit]).max()


def test_hardly_any_subset_is_better_than_the_frontier():
    rng = np.random.default_rng(0)
    exact, ratios = 0, []
    for _ in range(30):
        columns, seconds = random_grid(rng, 9)
        worth = Agreement(columns, information.model(columns, information.PRIOR), np.ones((5, 9), dtype=bool)).tau
        possible = np.ones(9, dtype=bool)
        found = budget.frontier(np.zeros(9, dtype=bool), possible, seconds, worth, unclosed)
        every = everything(9)
        whole = seconds(possible[None])[0]
        for share in (0.1, 0.25, 0.5, 0.8, 1.0):
            limit = share * whole * (1 + 1e-9)
            obtained, optimum = (best_within(some, seconds, worth, limit) for some in (found, every))
            assert obtained <= optimum + 1e-12
            exact += obtained >= optimum - 1e-9
            ratios.append(obtained / optimum if optimum else 1.0)
    assert min(ratios) > 0.99 and exact >= 0.95 * len(ratios)


def test_the_frontier_rises_and_ends_with_everything():
    columns, seconds = random_grid(np.random.default_rng(1), 40)
    worth = Agreement(columns, information.model(columns, information.PRIOR), np.ones((5, 40), dtype=bool)).tau
    start, possible = np.arange(40) == 3, np.arange(40) != 5
    found = budget.frontier(start, possible, seconds, worth, unclosed)
    assert 40 < len(found) <= budget.INTERVALS * budget.DEPTH
    assert (np.diff(seconds(found)) > 0).all() and (np.diff(worth(found)) > 0).all()
    assert found[:, 3].all() and not found[:, 5].any()  # what is done stays, what nobody knows is not bought
    np.testing.assert_array_equal(found[-1], possible | start)


def chance(rng, seconds, limit, settings):
    """A subset that chance fills up."""
    kept = np.zeros(settings, dtype=bool)
    for s in rng.permutation(settings):
        more = kept | (np.arange(settings) == s)
        if seconds(more[None])[0] <= limit:
            kept = more
    return kept


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_a_simulated_ranking_loses_less_than_by_chance(share):
    """Scores of 40 backbones drawn from the model; what is lost is 1 - tau of mean z, as `bob rank` makes it."""
    rng = np.random.default_rng(2)
    ours, random = [], []
    for _ in range(20):
        columns, seconds = random_grid(rng, 14)
        correlations = information.model(columns, information.PRIOR)
        agreement = Agreement(columns, correlations, np.ones((40, 14), dtype=bool))
        found = budget.frontier(np.zeros(14, dtype=bool), np.ones(14, dtype=bool), seconds, agreement.tau, unclosed)
        limit = share * seconds(np.ones((1, 14), dtype=bool))[0]
        within = found[seconds(found) <= limit]
        values = rng.multivariate_normal(np.zeros(14), correlations, size=40)
        ours.append(_loss(values, columns, within[np.argmax(agreement.tau(within))]))
        random.append(np.median([_loss(values, columns, chance(rng, seconds, limit, 14)) for _ in range(15)]))
    assert np.mean(ours) < 0.85 * np.mean(random)


def _loss(values, columns, kept):
    def mean(mask):
        tasks = [column.task for column in columns]
        of_tasks = [
            values[:, mask & np.array([name == task for name in tasks])].mean(axis=1)
            for task in dict.fromkeys(task for task, keep in zip(tasks, mask, strict=True) if keep)
        ]
        return np.mean(of_tasks, axis=0)

    if not kept.any():
        return 1.0
    return 1 - kendalltau(mean(kept), mean(np.ones(len(columns), dtype=bool))).statistic


@pytest.mark.parametrize("settings", [1, 3, 5, 6])
def test_the_published_table_loses_less_than_by_chance(settings):
    """Half of the 33 backbones are records; what is chosen by them is held against the other half, 30 times.

    All eight columns are of one task and protocol: the prior knows no difference, so all of it is learned.
    """
    lines = (ROOT / "tests" / "results" / "retrieval_mrr_2023.csv").read_text().splitlines()
    header, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    scores = np.array([[float(value) for value in row[1:9]] for row in rows])
    columns = [Column("retrieval", "retrieval", name, name, 0) for name in header[1:9]]
    rng = np.random.default_rng(3)

    def seconds(kept):
        return kept.sum(axis=-1).astype(float)

    ours, random = [], []
    for _ in range(30):
        order = rng.permutation(33)
        r, count = information.seen(scores[order[:16]])
        correlations = information.blend(information.model(columns, information.fit(columns, r, count)), r, count)
        agreement = Agreement(columns, correlations, np.ones((33, 8), dtype=bool))
        found = budget.frontier(np.zeros(8, dtype=bool), np.ones(8, dtype=bool), seconds, agreement.tau, unclosed)
        within = found[seconds(found) <= settings]
        left = scores[order[16:]]
        z = (left - left.mean(axis=0)) / left.std(axis=0)
        ours.append(_loss(z, columns, within[np.argmax(agreement.tau(within))]))
        random.append(np.median([_loss(z, columns, chance(rng, seconds, settings, 8)) for _ in range(15)]))
    assert np.mean(ours) < np.mean(random)


def judge(config, which, score=0.9):
    """Records for some cells, as if they had run."""
    for cell in grid.cells(config):
        if not which(cell):
            continue
        job = single.prepare(cell, None)
        record, outputs = simulate(cell.backbone, n=20)
        value = score(cell) if callable(score) else score
        record = dataclasses.replace(
            record,
            cell=single.describe(job),
            dataset=dataclasses.replace(record.dataset, version=job.dataset.version),
            protocol=dataclasses.replace(
                record.protocol, name=cell.protocol_name, hyperparameters=json.loads(json.dumps(cell.hyperparameters))
            ),
            metrics={record.main_metric: Score(value, value, value, 20, True)},
            source_cell=job.source_id,
            environment=ENVIRONMENT,
            cost=Cost(),
        )
        weights = {} if cell.protocol.makes_head else None
        Store(grid.folder(config, cell.benchmark)).write(record, outputs, weights)


def digits_gauntlet(folder, argument="digits"):
    config = gauntlet.get_config(argument)
    config.results = str(folder)
    return config


def outlook_of(config):
    return estimate.outlook(grid.cells(config), config, H200)


def test_more_time_never_buys_less(tmp_path):
    outlook = outlook_of(digits_gauntlet(tmp_path))
    whole = sum(one.seconds for one in outlook.estimates().values())
    last = 0.0
    for share in (0.12, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95, 1.0, 2.0):
        found = budget.propose(outlook, share * whole)
        assert found.seconds <= share * whole * (1 + 1e-9)
        assert found.tau >= last
        last = found.tau
    assert last == 1.0 and set(found.cells) == set(outlook.cells) and not found.dropped
    assert found.seconds == pytest.approx(whole)


def test_the_time_of_a_part_is_that_of_its_plan(tmp_path):
    """Shared features and heads count once: in the search as where the cells are planned in their order."""
    outlook = outlook_of(digits_gauntlet(tmp_path, "digits,all"))
    for hours in (0.06, 0.1, 0.2):
        found = budget.propose(outlook, hours * 3600)
        planned = outlook.part(set(found.cells)).estimates()
        assert set(planned) == set(found.cells)
        assert found.seconds == pytest.approx(sum(one.seconds for one in planned.values()))
        assert all(cell.source in found.cells for cell in found.cells if cell.source)


def test_a_setting_is_kept_for_all_backbones_or_for_none(tmp_path):
    outlook = outlook_of(digits_gauntlet(tmp_path))
    found = budget.propose(outlook, 300.0)
    rows = {}
    for cell in found.cells:
        rows.setdefault(cell.backbone, []).append((cell.dataset, cell.protocol_name, cell.seed))
    assert len(rows) == 6 and len({tuple(row) for row in rows.values()}) == 1
    assert len(found.kept) + len(found.dropped) == 9


def test_what_is_done_costs_nothing_and_stays(tmp_path):
    config = digits_gauntlet(tmp_path)
    judge(config, lambda cell: cell.protocol_name == "finetune")
    found = budget.propose(outlook_of(config), 1.0)  # no time for anything
    assert found.seconds == 0 and {cell.protocol_name for cell in found.cells} == {"finetune"}
    assert found.tau == found.now > 0
    more = budget.propose(outlook_of(config), 300.0)
    assert {"finetune"} < {cell.protocol_name for cell in more.cells} and more.tau > more.now
    judge(config, lambda cell: cell.protocol_name == "knn" and cell.backbone.startswith("vit"))
    knn = next(one for one in budget.settings_of(grid.cells(config))[0] if one.column.protocol == "knn")
    prices = budget.Prices([knn], outlook_of(config))
    rest = [cell for cell in knn.cells if not cell.backbone.startswith("vit")]
    assert prices.seconds(np.array([[True]]))[0] == pytest.approx(sum(_alone(outlook_of(config), rest)))


def _alone(outlook, cells):
    for cell in cells:
        time = outlook.times[cell]
        yield time.fixed + sum(time.features.values())


def test_a_setting_that_comes_with_another_is_kept_too(tmp_path):
    """`ood` needs the head, and the head's own cell is a setting."""
    outlook = outlook_of(digits_gauntlet(tmp_path))
    settings, _ = budget.settings_of(outlook.cells)
    names = [(one.column.protocol, one.name) for one in settings]
    prices = budget.Prices(settings, outlook)
    one = np.zeros((1, len(settings)), dtype=bool)
    one[0, names.index(("ood_linear_probe", "digits_c"))] = True
    both = prices.closed(one)
    assert {name for name, keep in zip(names, both[0], strict=True) if keep} == {
        ("ood_linear_probe", "digits_c"),
        ("linear_probe", "digits"),
    }
    assert prices.seconds(both) == prices.seconds(one)


@pytest.mark.parametrize(
    ("alike", "kept"), [(("knn", "linear_probe"), "augmented_probe"), (("augmented_probe", "linear_probe"), "knn")]
)
def test_of_settings_that_say_the_same_one_is_kept(tmp_path, alike, kept):
    """Eight backbones have shown which two of three settings agree: for two others the third one is taken, and one."""
    wanted = "protocol=knn+linear_probe+augmented_probe"
    names = [name for name in digits.BACKBONES if name not in ("vit_nano8_glyphs", "vit_nano8_random")]
    other = np.random.default_rng(0).permutation(len(names))

    def score(cell):
        place = names.index(cell.backbone)
        return 0.5 + 0.05 * (place if cell.protocol_name in alike else other[place])

    judge(digits_gauntlet(tmp_path, f"digits,{','.join(names)},{wanted}"), lambda cell: True, score)
    config = digits_gauntlet(tmp_path, f"digits,vit_nano8_glyphs,vit_nano8_random,{wanted}")
    found = budget.propose(outlook_of(config), 90.0)  # four cells of some 20 seconds
    protocols = {one.column.protocol for one in found.kept}
    assert len(protocols) == 2 and kept in protocols
    assert found.evidence == 3 and found.seconds == pytest.approx(80.0, abs=1.0)


def test_records_of_another_seed_teach_what_settings_have_in_common(tmp_path):
    def score(cell):
        place = digits.BACKBONES.index(cell.backbone)
        return 0.5 + 0.05 * (place if cell.protocol_name == "linear_probe" else place * 7 % 10)

    wanted = "digits,all,protocol=knn+linear_probe+augmented_probe"
    judge(digits_gauntlet(tmp_path, wanted), lambda cell: True, score)
    new = outlook_of(digits_gauntlet(tmp_path, f"{wanted},seed=1"))
    old = outlook_of(digits_gauntlet(tmp_path / "nothing", f"{wanted},seed=1"))
    both = [budget.propose(outlook, 450.0) for outlook in (new, old)]
    assert [one.evidence for one in both] == [3, 0] and both[0].tau != pytest.approx(both[1].tau, abs=0.01)


def test_too_little_time_says_how_much_it_takes(tmp_path):
    with pytest.raises(BobError, match=r"the budget of 60 s buys no setting for all .* takes 2 min: give more"):
        budget.propose(outlook_of(digits_gauntlet(tmp_path)), 60.0)
    config = digits_gauntlet(tmp_path)
    nobody_knows = estimate.outlook(grid.cells(config), config, "a device of tomorrow")
    with pytest.raises(BobError, match="no time is known"):
        budget.propose(nobody_knows, 1e9)


def test_the_command_line_proposes_and_its_command_runs_just_that(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = tmp_path / "plan.json"
    override = "--config.parts.digits.protocols.knn.temperature=0.1"
    words = ["plan", "configs/gauntlet.py:digits", override, "--device", "h200", "--budget", "5min"]
    words += ["--results", str(tmp_path / "my results"), "--limit", "100"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hours"] <= told["budget_hours"] < told["whole_hours"] and 0 < told["tau"] < 1
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("--out FILE writes it, and then it runs by: python main")
    assert cli.main([*words, "--out", str(plan)]) == 0
    shown = capsys.readouterr().out
    assert "linear_probe" in shown and "nothing is left of the task adversarial" in shown
    assert "Kendall's tau 0." in shown and "(from a prior alone, docs/plan.md)" in shown
    python, main, *options = shlex.split(shown.splitlines()[-1])
    assert (python, main) == ("python", "main.py")
    values = dict(option.split("=", 1) for option in options)
    assert values["--results"] == str(tmp_path / "my results") and values["--limit"] == "100"
    config = config_file.read(values["--config"], [word for word in options if word.startswith("--config.")])
    assert config.parts.digits.protocols.knn.temperature == 0.1
    cells = grid.cells(config)
    assert [cell.names for cell in cells] == told["cells"] and 0 < len(cells) < 54
    listed = run_main(*options, "--dry_run", env=environment(tmp_path / "cache"))
    assert listed.returncode == 0, listed.stderr
    lines = [tuple(line.split()) for line in listed.stdout.splitlines()]
    rows = [words for words in lines if len(words) == 4 and words[-1].isdigit()]
    assert rows == [(cell.backbone, cell.dataset, cell.protocol_name, str(cell.seed)) for cell in cells]


def test_a_part_that_does_not_fit_the_config_is_one_line(tmp_path):
    path = tmp_path / "plan.json"
    config = digits_gauntlet(tmp_path)
    whole = grid.cells(config)
    grid.write_only(whole[::-2], "configs/gauntlet.py:digits", path)
    config.only = str(path)
    assert grid.cells(config) == [cell for cell in whole if cell in whole[::-2]]
    other = digits_gauntlet(tmp_path, "digits,vit_nano8_glyphs")
    other.only = str(path)
    with pytest.raises(BobError, match="which is no cell of this config: it was written for another"):
        grid.cells(other)
    for text in ("{", "[]", '{"cells": []}', '{"cells": [{"benchmark": "digits"}]}', '{"cells": 3}'):
        path.write_text(text)
        with pytest.raises(BobError, match="names no cells: write it with"):
            grid.cells(config)
    config.only = str(tmp_path / "nowhere.json")
    with pytest.raises(BobError, match=r"config.only: cannot read '.*nowhere.json': No such file"):
        grid.cells(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "--budget 'soon' is no time"),
        (["--out", "plan.json"], "--out writes what fits a budget"),
        (["--budget", "1h", "--cells"], "--cells and --price do not go with --budget"),
        (["--budget", "1h", "--price", "2"], "--cells and --price do not go with --budget"),
        (["--budget", "1s"], "the budget of 1 s buys no setting"),
        (["--budget", ""], "--budget '' is no time"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert cli.main(["plan", "configs/digits.py", "--results", str(tmp_path), "--device", "h200", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
