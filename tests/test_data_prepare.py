import argparse
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnext_ablation.cli import prepare as prepare_command
from convnext_ablation.data import folder as manifest
from convnext_ablation.data import prepare as module
from convnext_ablation.data.folder import check_folder, manifest_hash, read_manifest, write_manifest
from convnext_ablation.data.prepare import DATASETS, prepare, verify
from convnext_ablation.data.typefaces import FACES, Typefaces
from convnext_ablation.errors import UserError

SMALL = {"train": 2, "val": 1, "test": 1}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.glob("**/*"))
        if path.is_file() and path.name != ".checked"
    }


def start_prepare(out, **options):
    """Starts a process that prepares the set, with a bare package: its workers need not import torch."""
    script = out.with_name(f"{out.name}.py")
    script.write_text(
        f"""
import sys, types
package = sys.modules["convnext_ablation"] = types.ModuleType("convnext_ablation")
package.__path__ = [{str(Path(module.__file__).parents[1])!r}]
from convnext_ablation.data.prepare import prepare
if __name__ == "__main__":
    prepare("typefaces", {str(out)!r}, **{options!r})
"""
    )
    return subprocess.Popen([sys.executable, script])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "faces"
    prepare("typefaces", out, workers=1, **SMALL)
    return out


def test_bytes_are_the_same_for_any_number_of_workers_and_any_run(prepared, tmp_path):
    assert start_prepare(tmp_path / "two", workers=2, **SMALL).wait(60) == 0
    prepare("typefaces", tmp_path / "again", **SMALL)
    assert contents(tmp_path / "two") == contents(prepared) == contents(tmp_path / "again")
    assert manifest_hash(tmp_path / "two") == manifest_hash(prepared)


def test_folder_is_complete_and_read_by_timm(prepared):
    from timm.data import create_dataset

    summary = check_folder(prepared)
    assert summary.counts == {"train": 40, "val": 20, "test": 20}
    assert sorted(summary.classes) == sorted(FACES)
    assert summary.fingerprint == manifest_hash(prepared)
    for split, count in summary.counts.items():
        dataset = create_dataset("", root=str(prepared), split=split)
        assert list(dataset.reader.class_to_idx) == summary.classes
        assert len(dataset) == count
        for index, (_, target) in enumerate(dataset.reader.samples):
            record = next(r for r in read_manifest(prepared) if r.id == f"{split}/{dataset.filename(index)}")
            assert record.class_name == summary.classes[target]


def test_description_says_what_made_the_folder(prepared):
    description = json.loads((prepared / "dataset.json").read_text())
    assert (description["format"], description["name"]) == (1, "typefaces")
    assert description["parameters"]["train"] == 2
    assert description["parameters"]["rendering"]["tilt"] == [-3.0, 3.0]
    assert {"freetype", "matplotlib", "numpy", "pillow", "zlib"} == set(description["versions"])
    assert all(re.match(r"\d", version) for version in description["versions"].values())


def test_same_set_is_not_made_again(prepared, capsys, monkeypatch):
    monkeypatch.setattr(module, "_make", None)
    summary = prepare("typefaces", prepared, **SMALL)
    assert summary == check_folder(prepared)
    assert "already holds typefaces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("typefaces", {**SMALL, "seed": 1}, "seed is 0, not 1"),
        ("typefaces", {**SMALL, "train": 3}, "train is 2, not 3"),
        ("fashion-mnist", {}, "name is typefaces, not fashion-mnist"),
    ],
)
def test_folder_with_another_set_is_left_alone(prepared, name, parameters, message):
    before = contents(prepared)
    with pytest.raises(UserError, match=message):
        prepare(name, prepared, **parameters)
    assert contents(prepared) == before
    assert not prepared.with_name("faces.partial").exists()


@pytest.mark.parametrize("content", ["text", "[]", None])
def test_folder_that_is_no_data_set_is_left_alone(tmp_path, content):
    (tmp_path / "thesis.tex").write_text("mine")
    if content:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        prepare("typefaces", tmp_path, **SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_file_in_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        prepare("typefaces", tmp_path / "out")
    with pytest.raises(UserError, match="a part of the path is a file"):
        prepare("typefaces", tmp_path / "out" / "below", workers=1, **SMALL)
    assert (tmp_path / "out").read_text() == "mine"


def test_empty_folder_is_filled_and_missing_parents_are_made(tmp_path, prepared):
    (tmp_path / "out").mkdir()
    prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert contents(tmp_path / "out") == contents(prepared)
    deep = tmp_path / "a" / "b"
    prepare("typefaces", deep, workers=1, **SMALL)
    assert contents(deep) == contents(prepared)


def test_leftovers_of_a_killed_run_are_replaced(tmp_path, prepared):
    partial = tmp_path / "out.partial"
    (partial / "train" / "cmr10").mkdir(parents=True)
    (partial / "dataset.json").write_text('{"format": 1}')
    (partial / "train" / "cmr10" / "99999.png").write_bytes(b"half")
    prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert contents(tmp_path / "out") == contents(prepared)
    assert not partial.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_partial_of_someone_else_is_left_alone(tmp_path, kind):
    partial = tmp_path / "out.partial"
    mine = partial
    if kind == "folder":
        partial.mkdir()
        mine = partial / "thesis.tex"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"out\.partial is in the way"):
        prepare("typefaces", tmp_path / "out", **SMALL)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in Linux's /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_leaves_no_folder_and_no_process(tmp_path, workers):
    process = start_prepare(tmp_path / "out", workers=workers)
    first = tmp_path / "out.partial" / "train" / FACES[0] / "00000.png"
    wait_until(lambda: first.exists() or process.poll() is not None)
    children = children_of(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert first.exists()
    assert not (tmp_path / "out").exists()
    assert len(children) >= (workers if workers > 1 else 0)
    wait_until(lambda: not any(map(is_alive, children)))
    assert not any(map(is_alive, children))


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("number", "message", "kept"),
    [
        (errno.ENOSPC, "the disk is full; free some space", True),
        (errno.EDQUOT, "quota is used up", True),
        (errno.EROFS, "read-only", False),
    ],
)
def test_full_disk_is_named_and_what_was_written_is_kept(
    prepared, tmp_path, monkeypatch, number, message, kept
):
    written = []

    encode = Typefaces.encode

    def write(self, key, file):
        written.append(key)
        if len(written) == 5:
            raise OSError(number, os.strerror(number), file.name)
        encode(self, key, file)

    with monkeypatch.context() as patch:
        patch.setattr(Typefaces, "encode", write)
        with pytest.raises(UserError, match=f"cannot write .*out: .*{message}"):
            prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"] * kept
    calls = count_encoded(monkeypatch)
    prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert len(calls) == (76 if kept else 80)
    assert contents(tmp_path / "out") == contents(prepared)


def count_encoded(monkeypatch):
    """Notes what is encoded from now on."""
    calls, encode = [], Typefaces.encode

    def counted(self, key, file):
        calls.append(key)
        encode(self, key, file)

    monkeypatch.setattr(Typefaces, "encode", counted)
    return calls


def test_broken_disk_passes_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def encode(self, key, file):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(Typefaces, "encode", encode)
    with pytest.raises(OSError, match="broken disk"):
        prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", [False, True])
def test_interrupted_run_goes_on_unless_a_version_has_changed(prepared, tmp_path, monkeypatch, changed):
    encode = Typefaces.encode

    def interrupted(self, key, file):
        if key == ("train", FACES[5], 1):
            raise KeyboardInterrupt
        encode(self, key, file)

    with monkeypatch.context() as patch:
        patch.setattr(Typefaces, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    # as after a power failure
    (tmp_path / "out.partial" / "train" / FACES[0] / "00001.png").write_bytes(b"")
    calls = count_encoded(monkeypatch)
    if changed:
        versions = {"pillow": "1.0"}
        monkeypatch.setattr(Typefaces, "versions", lambda self: versions)
    prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert len(calls) == (80 if changed else 80 - 11 + 1)
    found, expected = contents(tmp_path / "out"), contents(prepared)
    if changed:
        del found["dataset.json"], expected["dataset.json"]
    assert found == expected


def test_verify_finds_what_has_changed_although_it_was_checked(prepared, tmp_path, capsys):
    folder = tmp_path / "out"
    prepare("typefaces", folder, workers=1, **SMALL)
    verify(folder)
    assert "80 images of 20 classes, all as the manifest lists them" in capsys.readouterr().out
    path = folder / "test" / "cmr10" / "00000.png"
    stat, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(UserError, match=r"00000\.png differs from what the manifest lists"):
        verify(folder)


def test_classes_are_numbered_the_same_where_a_split_lacks_one(prepared, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    classes = check_folder(folder).classes
    assert (folder / "classes.txt").read_text().split() == classes
    shutil.rmtree(folder / "val" / classes[0])
    write_manifest(
        folder, [r for r in read_manifest(folder) if (r.split, r.class_name) != ("val", classes[0])]
    )
    assert check_folder(folder).classes == classes
    (folder / "classes.txt").write_text("cmr10\n")
    with pytest.raises(UserError, match=r"has images but is not in .*classes\.txt"):
        check_folder(folder)
    (folder / "classes.txt").unlink()
    with pytest.raises(UserError, match="has no images in"):
        check_folder(folder)


def test_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'typeface'; did you mean 'typefaces'"):
        prepare("typeface", tmp_path / "out")


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_must_be_positive(tmp_path, workers):
    with pytest.raises(UserError, match=f"workers is {workers}"):
        prepare("typefaces", tmp_path / "out", workers=workers)


def test_default_workers_are_few_for_few_images(tmp_path, capsys):
    prepare("typefaces", tmp_path / "out", **SMALL)
    assert "writing 80 images with 1 process\n" in capsys.readouterr().out


def parse(*words):
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    return parser.parse_args(words)


def test_command_line_options_reach_the_data_set(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(prepare_command, "prepare", lambda *args, **options: calls.append((args, options)))
    prepare_command.run(
        parse("typefaces", "out", "--seed", "3", "--size", "32", "--train", "7", "--workers", "2")
    )
    prepare_command.run(parse("fashion-mnist", "there"))
    typefaces = {"seed": 3, "size": 32, "train": 7, "val": 40, "test": 100, "workers": 2}
    fashion = {"seed": 0, "train": 5400, "val": 600, "test": 1000, "workers": None}
    assert calls == [(("typefaces", "out"), typefaces), (("fashion-mnist", "there"), fashion)]


@pytest.mark.parametrize("words", [["typefaces"], ["typeface", "out"], ["typefaces", "out", "--seed", "x"]])
def test_wrong_command_line_exits_with_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(*words)
    assert "usage" in capsys.readouterr().err


def test_every_data_set_has_a_summary_and_defaults():
    assert {"fashion-mnist", "typefaces", "cub200", "stanford-dogs"} <= DATASETS.keys()
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.summary
    assert Typefaces().versions()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a data set"),
        (["--verify", "here", "typefaces", "out"], "leave the data set out"),
        (["cub200", "out"], "say where it is with --archive"),
        (["stanford-dogs", "out", "--images", "a"], "say where it is with --images"),
    ],
)
def test_incomplete_command_line_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        prepare_command.run(parse(*words))


def test_folder_just_written_is_not_read_again(tmp_path, monkeypatch):
    summary = prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    monkeypatch.setattr(manifest, "_read_image", None)
    assert check_folder(tmp_path / "out") == summary
