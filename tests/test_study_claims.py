"""Claims: one holder each, whoever tries, dies, or comes back too late."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convnext_ablation.study import claims
from convnext_ablation.study.claims import LostClaimError, is_held, newest_claim, take
from convnext_ablation.study.file_clock import FileClock

ROOT = Path(__file__).parents[1]
# what the package imports takes seconds, and these processes need none of it
_LIGHT = f"""
import sys, types
package = types.ModuleType("convnext_ablation")
package.__path__ = [{str(ROOT / "convnext_ablation")!r}]
sys.modules["convnext_ablation"] = package
import os, random, time
from pathlib import Path
from convnext_ablation.study import claims
from convnext_ablation.study.file_clock import FileClock
root = Path(sys.argv[1])
clock = FileClock(root)
"""
# does every run of a folder, and ends with code 3 where another process is at the same one
_GREEDY = (
    _LIGHT
    + """
def last(log):
    return (log.read_text().splitlines() or [""])[-1].split() if log.exists() else []

folders = sorted(root.iterdir())
while left := [folder for folder in folders if not (folder / "result.json").exists()]:
    for folder in random.sample(left, len(left)):
        claim = claims.take(folder, clock, unless="result.json")
        if claim is None:
            continue
        with claim:
            log = folder / "log"
            before = last(log)
            if before[:1] == ["begin"] and claims._birth(int(before[1])) is not None:
                sys.exit(3)
            with open(log, "a") as file:
                file.write(f"begin {os.getpid()}\\n")
            time.sleep(random.uniform(0, 0.05))
            claim.check(now=True)
            if last(log) != ["begin", str(os.getpid())]:
                sys.exit(3)
            (folder / "result.json").write_text("done")
            with open(log, "a") as file:
                file.write(f"end {os.getpid()}\\n")
            claim.remove()
"""
)


@pytest.fixture
def clock(tmp_path):
    return FileClock(tmp_path)


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def make_old(folder, seconds=1000.0):
    path = max(folder.glob("claim.*"))
    os.utime(path, (time.time() - seconds,) * 2)


def foreign(monkeypatch):
    """Has claims from now on be made as by another machine."""
    monkeypatch.setattr(claims, "this_machine", lambda: "elsewhere")


def test_a_claim_is_had_once_and_again_when_it_is_given_back(tmp_path, clock):
    folder = tmp_path / "run"
    with take(folder, clock) as claim:
        assert take(folder, clock) is None
        assert newest_claim(folder, os.listdir(folder)).holder == claim.holder
        claim.check(now=True)
    with take(folder, clock) as again:
        assert again.path.name == "claim.1"
        assert [path.name for path in folder.iterdir()] == ["claim.1"]


def test_a_run_that_is_done_is_not_claimed_and_leaves_no_claim(tmp_path, clock):
    with take(tmp_path, clock, unless="result.json") as claim:
        (tmp_path / "result.json").write_text("{}")
        claim.remove()
    assert take(tmp_path, clock, unless="result.json") is None
    assert not list(tmp_path.glob("claim*"))


@pytest.mark.parametrize("links", [True, False])
def test_of_many_threads_that_take_over_the_same_run_one_wins(tmp_path, clock, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    threads = 12
    clock.now()
    with ThreadPoolExecutor(threads) as pool:
        for number in range(40):
            folder = tmp_path / str(number)
            take(folder, clock)
            make_old(folder)
            barrier = threading.Barrier(threads)

            def attempt(_, folder=folder, barrier=barrier):
                barrier.wait()
                return take(folder, clock)

            won = [claim for claim in pool.map(attempt, range(threads)) if claim]
            assert len(won) == 1
            assert [path.name for path in folder.iterdir()] == ["claim.1"]


def test_processes_that_are_killed_at_any_moment_share_the_work_and_never_do_a_run_together(tmp_path):
    runs = 60
    for number in range(runs):
        (tmp_path / f"{number:02d}").mkdir()
    rng = random.Random(0)
    processes = [start(_GREEDY, tmp_path) for _ in range(3)]
    for _ in range(6):
        time.sleep(rng.uniform(0.1, 0.3))
        victim = processes.pop(0)
        victim.kill()
        assert victim.wait() in (0, -9)
        processes.append(start(_GREEDY, tmp_path))
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("*/result.json"))) == runs
    owners = {line.split()[1] for path in tmp_path.glob("*/log") for line in path.read_text().splitlines()}
    assert len(owners) > 1


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path, clock):
    process = start(
        _LIGHT + "claims.take(root, clock).__enter__(); print(flush=True); time.sleep(60)", tmp_path
    )
    while not list(tmp_path.glob("claim.0")):
        time.sleep(0.01)
    assert take(tmp_path, clock) is None
    process.kill()  # a zombie until it is waited for
    while claims._birth(process.pid) is not None:
        time.sleep(0.01)
    assert take(tmp_path, clock) is not None
    process.wait()


def test_a_number_that_was_given_to_another_process_does_not_hold(tmp_path, clock):
    claim = take(tmp_path, clock)
    content = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps({**content, "birth": "1"}))
    assert take(tmp_path, clock) is not None


def test_a_process_of_another_machine_holds_as_long_as_it_beats(tmp_path, clock, monkeypatch):
    foreign(monkeypatch)
    theirs = take(tmp_path, clock)
    monkeypatch.undo()
    theirs.path.write_text(theirs.path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    assert take(tmp_path, clock) is None
    make_old(tmp_path, claims.STALE_SECONDS - 20)
    assert take(tmp_path, clock) is None
    make_old(tmp_path, claims.STALE_SECONDS + 20)
    assert take(tmp_path, clock) is not None


def test_a_claim_whose_file_is_still_empty_holds_until_it_is_old(tmp_path, clock):
    (tmp_path / "claim.0").touch()
    assert take(tmp_path, clock) is None
    make_old(tmp_path)
    assert take(tmp_path, clock) is not None


def test_an_owner_that_lost_its_claim_notices_and_touches_nothing(tmp_path, clock):
    slow = take(tmp_path, clock)
    make_old(tmp_path)
    (tmp_path / ".last.pth.tar.77.tmp").write_text("half written by the slow one")
    with take(tmp_path, clock) as fast:
        assert not list(tmp_path.glob(".*.tmp")), "what it had begun to write can't be put in place any more"
        assert slow.is_lost
        slow.check()  # it has just looked
        with pytest.raises(LostClaimError, match="another process has taken this run over"):
            slow.check(now=True)
        before = fast.path.read_text(), fast.path.stat().st_mtime_ns
        slow.release()
        slow.remove()
        assert (fast.path.read_text(), fast.path.stat().st_mtime_ns) == before
        fast.check(now=True)


def test_an_owner_looks_again_after_a_second(tmp_path, clock, monkeypatch):
    slow = take(tmp_path, clock)
    make_old(tmp_path)
    take(tmp_path, clock)
    now = claims.uptime()
    monkeypatch.setattr(claims, "uptime", lambda: now + 5)
    with pytest.raises(LostClaimError):
        slow.check()


def test_an_owner_beats(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with take(tmp_path, clock):
        make_old(tmp_path)
        while not is_held(newest_claim(tmp_path, os.listdir(tmp_path)), clock.now()):
            time.sleep(0.01)


def test_an_owner_that_beats_no_more_never_makes_its_file_again(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with take(tmp_path, clock) as claim:
        claim.path.unlink()
        claim._beating.join(10)
        assert not claim._beating.is_alive()
    assert not list(tmp_path.iterdir())


def test_a_claim_is_lost_if_its_file_can_not_be_read_for_long(tmp_path, clock, monkeypatch):
    claim = take(tmp_path, clock)

    def fail(path):
        raise OSError("the server does not answer")

    monkeypatch.setattr(claims, "_read", fail)
    assert not claim.is_lost
    now = claims.uptime()
    monkeypatch.setattr(claims, "uptime", lambda: now + claims.STALE_SECONDS)
    assert claim.is_lost


@pytest.mark.parametrize("meanwhile", ["result.json", "claim.7"])
def test_a_taker_whose_look_is_outdated_gives_up(tmp_path, clock, monkeypatch, meanwhile):
    (tmp_path / meanwhile).touch()
    real, looks = os.listdir, []

    def outdated(folder):
        looks.append(folder)
        return [] if len(looks) == 1 else real(folder)

    monkeypatch.setattr(os, "listdir", outdated)
    assert take(tmp_path, clock, unless="result.json") is None
    assert [path.name for path in tmp_path.iterdir()] == [meanwhile]


def test_a_link_whose_confirmation_was_lost_counts(tmp_path, clock, monkeypatch):
    real = os.link

    def unsure(source, target):
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", unsure)
    assert take(tmp_path, clock) is not None


def test_deaths_within_one_epoch_are_counted(tmp_path, clock):
    deaths = []
    for epochs in (0, 0, 0, 4, 4):
        claim = take(tmp_path, clock, epochs=epochs)
        deaths.append(claim.holder.deaths)
        make_old(tmp_path)
    assert deaths == [0, 1, 2, 0, 1]
    claim = take(tmp_path, clock, epochs=4)
    claim.release()  # no death
    assert take(tmp_path, clock, epochs=4).holder.deaths == 0


def test_the_clock_is_the_file_systems(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    assert FileClock(tmp_path).now() == pytest.approx(path.stat().st_mtime, abs=5)
    assert not list(tmp_path.glob(".clock*"))
    assert FileClock(tmp_path / "not here").now() == pytest.approx(time.time(), abs=5)
    monkeypatch.setattr(FileClock, "_ask", lambda self: 1000.0)
    assert FileClock(tmp_path).now() == pytest.approx(1000.0, abs=5)
