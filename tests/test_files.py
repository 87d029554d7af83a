"""Files appear whole or not at all."""

import fcntl
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.files import locked, remove_unfinished, write_text, written_whole
from convnext_ablation.training.checkpoints import save_checkpoint


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    write_text(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_put_on_disk_is_open_for_writing_as_windows_asks(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "fsync", lambda file: done.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)
    )
    write_text(tmp_path / "a.txt", "one")
    assert done == [os.O_RDWR]


def test_what_stood_there_survives_a_failure(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def write_safetensors(path, size):
    with written_whole(path) as temporary:
        save_file({"weight": torch.zeros(size)}, temporary)


WRITERS = {
    "text": lambda path, size: write_text(path, "a" * size),
    "safetensors": write_safetensors,
    "checkpoint": lambda path, size: save_checkpoint(path, {"weight": torch.zeros(size)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_the_system_refuses_is_one_line_and_harms_nothing(tmp_path, kind):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"^{path}: File too large; raise the limit, `ulimit -f`"):
            WRITERS[kind](path, 9999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_one_at_a_time_has_a_lock_and_none_is_left(tmp_path, capsys):
    inside, most = [], []

    def work(number):
        for _ in range(5):
            with locked(tmp_path / "lock", "busy", wait=True):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (max(most), len(most)) == (1, 20)
    assert os.listdir(tmp_path) == []
    assert "busy; waiting for it" in capsys.readouterr().out
    held, other = (locked(tmp_path / "lock", "it is in use") for _ in range(2))
    with held, pytest.raises(UserError, match="it is in use"), other:
        pass


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none/a\.txt: No such file or directory$"):
        write_text(tmp_path / "none" / "a.txt", "text")


def test_unknown_names_come_with_the_nearest_or_with_all():
    assert (
        str(unknown_name("design", "stage", ["stages"])) == "unknown design 'stage'; did you mean 'stages'?"
    )
    assert str(unknown_name("design", "x", ["b", "a"])) == "unknown design 'x'; known: a, b"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("kind", WRITERS)
def test_files_get_what_the_umask_gives(tmp_path, umask, kind):
    path, before = tmp_path / "file", os.umask(umask)
    try:
        WRITERS[kind](path, 1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_is_written_without_what_a_killed_process_left_of_it(tmp_path):
    left, at_work, fresh = (tmp_path / f".a.txt.{process}.tmp" for process in (2**22 + 1, 1, 2**22 + 2))
    for path in (left, at_work, fresh):  # process numbers end at 2**22
        path.touch()
    for path in (left, at_work):
        os.utime(path, (0, 0))
    write_text(tmp_path / "a.txt", "whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "a.txt", at_work, fresh}


def test_only_what_a_killed_process_left_is_removed(tmp_path):
    left, others = ".last.pth.tar.123.tmp", ["last.pth.tar", ".notes.tmp", "a.1.tmp"]
    for name in (left, *others):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
