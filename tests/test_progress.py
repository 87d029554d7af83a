"""How far long work is: lines elsewhere than on a terminal, and a bar there that nothing else is beside."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_study_status import SMALL, finish, look, train

from convnext_ablation import console
from convnext_ablation.console import Progress, track
from convnext_ablation.study.status import StudyProgress
from convnext_ablation.study.store import Holder, held, save_study
from convnext_ablation.training.history import Epoch
from convnext_ablation.training.logs import Log


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: clock.now)
    return clock


def lines_of_minutes(clock, minutes, look, capsys):
    """The lines of each minute in which something is looked at every two seconds."""
    found = []
    for _ in range(minutes):
        for _ in range(30):
            clock.now += 2
            look()
        captured = capsys.readouterr()
        found.append((captured.out + captured.err).splitlines())
    return found


def test_a_study_says_every_minute_where_its_runs_are_though_none_ends(tmp_path, clock, capsys):
    save_study(tmp_path, SMALL)
    runs = SMALL.runs()
    finish(runs[0], tmp_path)
    train(runs[1], tmp_path, 3)
    with held(runs[1].folder(tmp_path)), held(runs[2].folder(tmp_path)):
        states = look(tmp_path)
    progress = StudyProgress()
    progress.show(states)
    assert capsys.readouterr().out == ""
    minutes = lines_of_minutes(clock, 5, lambda: progress.show(states), capsys)
    assert all(1 <= len(lines) <= 2 for lines in minutes)
    where = "running: model_ii_atto seed 0 3/10 epochs, model_iii_atto seed 0 0/10 epochs; about "
    assert minutes[0][0].startswith(f"1 of 10 runs done; {where}")
    assert minutes[0][0].endswith(" left")


def test_the_end_of_a_run_is_told_at_once_and_counts_as_the_minutes_line(tmp_path, clock, capsys):
    save_study(tmp_path, SMALL)
    progress = StudyProgress()
    progress.show(look(tmp_path))
    clock.now += 29
    finish(SMALL.runs()[0], tmp_path)
    progress.show(look(tmp_path))
    assert capsys.readouterr().out.startswith("[1/10] model_i_atto seed 0: val 50.00 %")
    clock.now += 29
    progress.show(look(tmp_path))
    assert capsys.readouterr().out == ""
    clock.now += 2
    progress.show(look(tmp_path))
    assert capsys.readouterr().out.startswith("1 of 10 runs done; none is running; about 3 min left")


def test_of_many_runs_at_work_some_are_named(tmp_path, clock, capsys):
    save_study(tmp_path, SMALL)
    states = [replace(each, status="running", holder=Holder("here", 0.0)) for each in look(tmp_path)]
    progress = StudyProgress()
    for _ in range(2):
        progress.show(states)
        clock.now += 40
    assert capsys.readouterr().out.rstrip().endswith("model_iii_atto seed 1 0/10 epochs and 2 more")


def test_counted_work_says_every_minute_how_far_it_is(clock, capsys):
    items = iter(track(range(1000), "checking images", 1000))
    minutes = lines_of_minutes(clock, 3, lambda: next(items), capsys)
    assert all(1 <= len(lines) <= 2 for lines in minutes)
    assert minutes[0][0] == "checking images: 16 of 1,000 images, about 33 min left"


def test_training_says_every_minute_how_far_it_is_also_while_it_evaluates(clock, capsys):
    log = Log(quiet=False)
    log.started(epochs=2, steps=500, done=0)
    training = lines_of_minutes(clock, 2, lambda: log.trained(0, 0, 8), capsys)
    assert all(1 <= len(lines) <= 2 for lines in training)
    assert training[0][0].startswith("training: 16 of 1,000 batches, about ")
    evaluating = lines_of_minutes(clock, 2, lambda: log.evaluated("val", 80, 500), capsys)
    assert all(1 <= len(lines) <= 2 for lines in evaluating)
    assert evaluating[0][0].endswith("left; evaluating val: 80/500")
    log.epoch(Epoch(0, 1.0, 1.0, 50.0, 90.0, 0.1))
    capsys.readouterr()
    clock.now += 31
    log.trained(1, 0, 8)
    assert "evaluating" not in capsys.readouterr().err


def test_half_a_minute_without_work_done_is_not_a_line_where_lines_are_not_wanted(clock, capsys):
    progress = Progress("working", 10, quiet=True)
    clock.now += 100
    progress.update()
    progress.line("text")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def screen(data):
    """What a terminal shows in the end, and every line as it was when the cursor left it."""
    rows, row, column, left = [[]], 0, 0, []
    text = data.decode()
    while text:
        if text.startswith("\x1b[A"):
            row, text = max(0, row - 1), text[3:]
            continue
        character, text = text[0], text[1:]
        if character == "\n":
            left.append("".join(rows[row]).rstrip())
            row += 1
            rows += [[]] * 0 if row < len(rows) else [[]]
        elif character == "\r":
            column = 0
        else:
            rows[row][column : column + 1] = [character]
            column += 1
    return ["".join(each).rstrip() for each in rows], left


def on_a_terminal(program, output=None, columns=90):
    """Runs a program on a terminal, stdout elsewhere if that is given; returns all that it wrote there."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(main, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=other,
            stdout=output or other,
            stderr=other,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "", "NO_COLOR": ""},
        )
        os.close(other)
        data = b""
        try:
            while more := terminal.read(65536):
                data += more
        except OSError:  # a terminal that nobody writes to any more
            pass
    assert process.wait() == 0, data.decode()
    return data


PROGRAM = """
import sys, warnings
from convnext_ablation.console import Progress, table
first, second = sys.stdout, sys.stderr
with Progress("training", 100, "%") as bar:
    bar.move(10)
    bar.note("1/10 runs")
    print("a line of a table\\nand another")
    warnings.warn("something to know")
    bar.move(20)
    bar.line("[2/10] a run")
    sys.stderr.write("in two ")
    sys.stderr.write("parts\\n")
    with Progress("checking", 10) as inner:
        inner.update(5)
        print("below two bars")
    bar.move(30)
    print("without an end", end="", flush=True)
assert (sys.stdout, sys.stderr) == (first, second)
print()
print("afterwards")
"""


def test_on_a_terminal_nothing_is_printed_beside_the_bar_and_nothing_of_it_stays():
    data = on_a_terminal(PROGRAM)
    assert b"training:  20%" in data
    assert b"1/10 runs" in data
    rows, left = screen(data)
    shown = [row for row in rows if row and not row.startswith(("<string>", "  warnings.warn"))]
    expected = ["a line of a table", "and another", "[2/10] a run", "in two parts", "below two bars"]
    assert shown == [*expected, "without an end", "afterwards"]
    assert any("UserWarning: something to know" in row for row in rows)
    assert not [line for line in left if "%|" in line and "table" in line]


def test_where_only_errors_go_to_the_terminal_the_output_is_as_it_is_without_a_bar(tmp_path):
    with open(tmp_path / "output", "wb") as output:
        data = on_a_terminal(PROGRAM, output)
    rows, _ = screen(data)
    assert [row for row in rows if "parts" in row] == ["in two parts"]
    lines = (tmp_path / "output").read_text().splitlines()
    assert lines == [
        *(
            "a line of a table",
            "and another",
            "[2/10] a run",
            "below two bars",
            "without an end",
            "afterwards",
        )
    ]
