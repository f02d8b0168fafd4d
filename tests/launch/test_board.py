"""What a run shows: lines in a pipe, a table on a terminal, and how long it will take."""

import io
import re
import sys
import threading

import pytest
from rich.console import Console

from bob_jax import grid
from bob_jax.launch import board as boards
from bob_jax.launch.board import Board
from bob_jax.launch.settle import Outcome
from bob_jax.launch.time_left import TimeLeft
from bob_jax.results.record import Estimate
from bob_jax.training import reporting
from configs import digits

JUDGED = Outcome("judged", "accuracy 0.9000 [0.8000, 0.9500] in 3 s")


@pytest.fixture
def config(tmp_path):
    config = digits.get_config("vit_nano8_random,dataset=digits,protocol=knn+linear_probe+finetune")
    config.results = str(tmp_path / "results")
    return config


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the monotonic clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr(boards.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_say_what_begins_what_ended_and_how_it_stands(config, clock, capsys):
    first, second, third = cells = grid.cells(config)
    with Board(cells, config.results) as board:
        board.join("one", 8, "cpu")  # nothing is expected: only what is done tells the time
        board.join("two", 8, "cpu")
        board.start(first, "one")
        board.settle(second, Outcome("known", "has a record"))
        clock[0] += 30
        board.settle(first, JUDGED)
        board.start(third, "two")
        board.again(third, Outcome("failed", "no memory"), 1, 10.0)
        board.start(third, "two")
        board.settle(third, Outcome("failed", "no memory"))
    assert board.finish() == 1
    shown = capsys.readouterr()
    name = "vit_nano8_random x digits x {} (seed 0)"
    assert shown.out.splitlines() == [
        f"[1/3] {name.format('knn')} on one (0 done, 1 running, 0 failed, 8 of 16 devices busy)",
        f"[2/3] {name.format('linear_probe')}: has a record",
        f"[1/3] {name.format('knn')}: {JUDGED.line}",
        # 8 devices took 30 seconds, and 16 are there: half of it if all of them help
        f"[3/3] {name.format('finetune')} on two (2 done, 1 running, 0 failed, 8 of 16 devices busy, about 15 s left)",
        f"[3/3] {name.format('finetune')} on two (2 done, 1 running, 0 failed, 8 of 16 devices busy, about 15 s left)",
        f"2 of 3 cells have a record in {config.results}",
        f"failed: {name.format('finetune')}",
        f"the table: bob results {config.results}",
    ]
    assert shown.err.splitlines() == [
        f"{name.format('finetune')}: attempt 1 of 3 failed, the next one in 10 s: no memory",
        f"error: {name.format('finetune')}: no memory",
    ]


def test_only_the_first_process_speaks(config, capsys):
    cells = grid.cells(config)
    with Board(cells, config.results, shown=False) as board:
        board.join("here", 1, "cpu")
        for cell in cells:
            board.start(cell, "here")
            board.settle(cell, JUDGED)
    assert board.finish() == 0
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_one_table_stands_above_the_progress_bar_of_training(config, clock, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160, height=40)
    monkeypatch.setattr(boards, "console", lambda: terminal)
    monkeypatch.setattr(reporting, "console", lambda: terminal)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    cells = grid.cells(config)
    with Board(cells, config.results) as board:
        board.join("here", 8, "cpu")
        board.settle(cells[0], Outcome("known", "has a record"))
        board.start(cells[2], "here")
        clock[0] += 125
        with reporting.Progress("training", 0, 50) as progress:
            progress.advance(20)
            terminal._live_stack[0].refresh()
            drawn = screen.getvalue()
    assert "[1/3] vit_nano8_random x digits x knn (seed 0): has a record" in drawn  # above the table
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)[-1200:]
    row = next(line for line in last.splitlines() if "8 x cpu" in line)
    assert " ".join(row.split()) == "here 8 x cpu 8 of 8 [3/3] vit_nano8_random x digits x finetune (seed 0) 2 min"
    assert "3 cells: 1 done, 1 running, 0 failed, 8 of 8 devices busy" in last
    assert last.index("8 x cpu") < last.index("3 cells:") < last.index("20/50")


def test_a_folder_with_brackets_in_its_name_is_shown_as_it_is(monkeypatch, tmp_path):
    reporting.console.cache_clear()
    monkeypatch.setenv("COLUMNS", "160")
    config = digits.get_config("vit_nano8_random,dataset=folder:/data/[/b] [red]birds,protocol=knn")
    config.results = str(tmp_path)
    (cell,) = grid.cells(config)
    with Board([cell], config.results) as board:
        board.join("here", 8, "cpu")
        board.start(cell, "here")
        with reporting.console().capture() as drawn:
            reporting.console().print(board.table())
    assert "folder:/data/[/b] [red]birds x knn" in drawn.get()


def test_the_table_may_be_drawn_while_cells_end(config, monkeypatch):
    """As rich draws it: in a thread of its own."""
    config.seeds = tuple(range(100))
    cells, broken, ended = grid.cells(config), [], threading.Event()

    def draw():
        while not ended.is_set():
            try:
                board.table()
            except Exception as error:
                broken.append(error)

    interval = sys.getswitchinterval()
    with Board(cells, config.results, shown=False) as board:
        board.expect({cell: Estimate(10.0, "table", None, 0.0) for cell in cells})
        board.join("here", 1, "cpu")
        thread = threading.Thread(target=draw)
        sys.setswitchinterval(1e-6)
        try:
            thread.start()
            for cell in cells:
                board.start(cell, "here")
                board.settle(cell, JUDGED)
        finally:
            ended.set()
            thread.join()
            sys.setswitchinterval(interval)
    assert broken == []


def test_the_time_left_follows_the_plan_as_far_as_the_cells_that_are_done_bear_it_out(config):
    knn, probe, finetune = grid.cells(config)
    estimate = TimeLeft()
    assert estimate.seconds([knn], {}, 1) is None
    estimate.expected |= {knn: 10.0, finetune: 100.0}
    assert estimate.seconds([knn, finetune], {}, 2) == pytest.approx(110 / 2)
    # The plan of knn was half of the truth: finetune will take twice as long, too. Of probe it knows nothing.
    estimate.took[knn] = 20.0
    assert estimate.seconds([finetune], {}, 1) == pytest.approx(200)
    assert estimate.seconds([finetune, probe], {}, 1) == pytest.approx(200 + 20)
    assert estimate.seconds([], {finetune: 150.0}, 1) == pytest.approx(50)
    assert estimate.seconds([], {finetune: 500.0}, 1) == 0


def test_estimates_tell_the_time_before_any_cell_is_done(config):
    cells = grid.cells(config)
    with Board(cells, config.results) as board:
        board.expect({cell: Estimate(300.0, "table", None, 0.0) for cell in cells})
        board.join("here", 2, "cpu")
        assert board.status() == "0 done, 0 running, 0 failed, 0 of 2 devices busy, about 8 min left"
