import errno
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from official_archives import contents, jpeg, write_folder, write_tar

from convnext_ablation.cli.main import main
from convnext_ablation.data import folder as manifest
from convnext_ablation.data import prepare as module
from convnext_ablation.data.birds import CUB200
from convnext_ablation.data.drawn import FACES, Typefaces
from convnext_ablation.data.fashion_mnist import FashionMNIST
from convnext_ablation.data.folder import manifest_hash
from convnext_ablation.data.prepare import prepare, verify
from convnext_ablation.data.stanford import StanfordDogs
from convnext_ablation.errors import UserError

SMALL = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "faces"
    prepare("typefaces", out, workers=1, **SMALL)
    return out


def test_bytes_are_the_same_for_any_number_of_workers_and_any_run(prepared, tmp_path):
    prepare("typefaces", tmp_path / "again", workers=3, **SMALL)
    assert contents(tmp_path / "again") == contents(prepared)


def test_folder_says_what_made_it_and_is_not_made_or_read_again(prepared, capsys, monkeypatch):
    description = json.loads((prepared / "dataset.json").read_text())
    assert (description["format"], description["name"]) == (1, "typefaces")
    assert description["parameters"]["train"] == 2
    assert description["parameters"]["rendering"]["tilt"] == [-3.0, 3.0]
    versions = {name: description["versions"][name] for name in ("freetype2", "matplotlib", "numpy", "zlib")}
    assert all(re.match(r"\d", version) for version in versions.values())
    monkeypatch.setattr(module, "_make", None)
    monkeypatch.setattr(manifest, "_read_image", None)
    summary = prepare("typefaces", prepared, **SMALL)
    assert summary.counts == {"train": 40, "val": 20, "test": 20}
    assert summary.classes == manifest.sort_classes(FACES)
    assert summary.fingerprint == manifest_hash(prepared)
    assert "already holds typefaces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("typefaces", {**SMALL, "seed": 1}, "seed is 0, not 1"),
        ("fashion-mnist", {}, "name is typefaces, not fashion-mnist"),
    ],
)
def test_folder_with_another_set_is_left_alone(prepared, name, parameters, message):
    before = contents(prepared)
    with pytest.raises(UserError, match=message):
        prepare(name, prepared, **parameters)
    assert contents(prepared) == before
    assert not prepared.with_name("faces.partial").exists()


@pytest.mark.parametrize("content", ["[]", None])
def test_what_is_no_data_set_is_left_alone(tmp_path, content):
    out, partial = tmp_path / "out", tmp_path / "other.partial"
    for folder in (out, partial):
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")
        if content:
            (folder / "dataset.json").write_text(content)
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        prepare("typefaces", out, **SMALL)
    with pytest.raises(UserError, match=r"other\.partial is in the way"):
        prepare("typefaces", tmp_path / "other", **SMALL)
    with pytest.raises(UserError, match="exists and is no prepared data set"):
        prepare("typefaces", out / "thesis.tex", **SMALL)
    assert (out / "thesis.tex").read_text() == (partial / "thesis.tex").read_text() == "mine"


def test_leftovers_and_an_empty_folder_are_replaced(tmp_path, prepared):
    out, partial = tmp_path / "parent" / "out", tmp_path / "parent" / "out.partial"
    out.mkdir(parents=True)
    (partial / "train" / "cmr10").mkdir(parents=True)
    (partial / "dataset.json").write_text('{"format": 1}')
    (partial / "train" / "cmr10" / "99999.png").write_bytes(b"half")
    prepare("typefaces", out, workers=1, **SMALL)
    assert contents(out) == contents(prepared)
    assert not partial.exists()


@pytest.fixture
def encoded(monkeypatch):
    """What is encoded, and how to have something raised in place of the fifth."""
    calls, encode = [], Typefaces.encode

    def counted(self, key, file):
        calls.append(key)
        if len(calls) == 5 and counted.error:
            raise counted.error
        encode(self, key, file)

    counted.error = None
    counted.calls = calls
    monkeypatch.setattr(Typefaces, "encode", counted)
    return counted


FULL, READ_ONLY = (OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS))


@pytest.mark.parametrize(
    ("error", "changed"),
    [(FULL, False), (READ_ONLY, False), (KeyboardInterrupt(), False), (KeyboardInterrupt(), True)],
    ids=["full", "read-only", "interrupted", "another version"],
)
def test_run_that_ended_early_resumes_unless_a_version_has_changed(
    prepared, tmp_path, monkeypatch, encoded, error, changed
):
    encoded.error = error
    said = f"cannot make .*{error.strerror}.*run the same command again" if error in (FULL, READ_ONLY) else ""
    with pytest.raises(UserError if said else KeyboardInterrupt, match=said or None):
        prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    encoded.error = None
    encoded.calls.clear()
    # as after a power failure
    (tmp_path / "out.partial" / "train" / FACES[0] / "00001.png").write_bytes(b"")
    if changed:
        monkeypatch.setattr(module, "library_versions", lambda: {"pillow": "1.0"})
    prepare("typefaces", tmp_path / "out", workers=1, **SMALL)
    assert len(encoded.calls) == 80 if changed else 0 < len(encoded.calls) <= 80 - 4 + 1
    found, expected = contents(tmp_path / "out"), contents(prepared)
    if changed:
        del found["dataset.json"], expected["dataset.json"]
    assert found == expected


def own(folder, kind):
    """Images of one's own, and how to replace one of them, of as many bytes."""
    files = {f"ash/{index}.jpg": jpeg(index) for index in range(5)}
    write = write_tar if kind == "tar" else write_folder
    other = jpeg(77)
    longest = max(len(other), *(len(data) for data in files.values()))
    files = {name: data.ljust(longest, b"\0") for name, data in files.items()}
    write(folder, files)
    return lambda more=0: write(folder, {**files, "ash/0.jpg": other.ljust(longest + more, b"\0")})


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_interrupted_run_begins_anew_with_other_originals(tmp_path, monkeypatch, kind):
    images = tmp_path / "mine"
    replace = own(images, kind)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare("folder", tmp_path / "out", images=images, size=None)
    replace()
    prepare("folder", tmp_path / "out", images=images, size=None)
    [path] = (tmp_path / "out").glob("*/ash/0.jpg")
    assert path.read_bytes().startswith(jpeg(77))


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_a_folder_made_of_other_originals_is_left_alone(tmp_path, kind, capsys):
    images, copy = tmp_path / "mine", tmp_path / "copy"
    replace = own(images, kind)
    prepare("folder", tmp_path / "out", images=images, size=16)
    own(copy, kind)  # its times are others
    prepare("folder", tmp_path / "out", images=copy, size=16)
    assert "nothing to do" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    replace(more=1)
    with pytest.raises(UserError, match=r"was made of other originals .what --images names has changed"):
        prepare("folder", tmp_path / "out", images=images, size=16)
    shutil.rmtree(images) if kind == "folder" else images.unlink()
    prepare("folder", tmp_path / "out", images=images, size=16)
    assert contents(tmp_path / "out") == before


def test_a_folder_below_its_own_images_is_refused(tmp_path):
    own(tmp_path / "mine", "folder")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for out in (tmp_path / "mine/out", tmp_path / "mine/ash/out", tmp_path / "link/out"):
        with pytest.raises(UserError, match=r"is in .*mine, the folder of --images; choose a place outside"):
            prepare("folder", out, images=tmp_path / "mine", size=16)
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["ash"]


def test_of_several_at_once_one_makes_the_folder_and_the_others_wait(prepared, tmp_path, encoded, capsys):
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(prepare, "typefaces", tmp_path / "out", workers=1, **SMALL) for _ in range(3)]
        assert len({each.result().fingerprint for each in made}) == 1
    assert len(encoded.calls) == 80
    assert contents(tmp_path / "out") == contents(prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert capsys.readouterr().out.count("another `prepare` makes it; waiting for it") == 2


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a data set"),
        (["--verify", "here", "typefaces", "out"], "leave the data set out"),
        (["cub200", "out"], "folder of CUB_200_2011.tgz with --archives, or --archive, or --download"),
        (["stanford-dogs", "out", "--images", "a"], "folder of lists.tar with --archives, or --lists, or"),
        (["stanford-cars", "out", "--download"], "can't be downloaded by a program; get it from others who"),
        (["imagenet", "out", "--download", "a"], "get it from https://image-net.org, and name its folder"),
        (["typefaces", "out", "--workers", "0"], "workers is 0"),
    ],
)
def test_incomplete_command_line_is_one_line(words, message, capsys):
    assert main(["prepare", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("dataset", "parameters", "message"),
    [
        (Typefaces, {"seed": -1}, "seed is -1; give 0 or more"),
        (Typefaces, {"size": 15}, "size is 15; give 16 or more"),
        (Typefaces, {"size": 10**12}, "size is 1000000000000; give at most 16384 pixels"),
        (FashionMNIST, {"train": 5401}, r"train \+ val is 6001 images per class; there are 6000"),
        (CUB200, {"size": 4}, "size is 4; give 8 or more"),
        (CUB200, {"fit": "crop"}, "unknown fit 'crop'"),
        (CUB200, {"format": "gif"}, "unknown format 'gif'"),
        (CUB200, {"val": 0}, "val is 0; give 1 or more"),
        (StanfordDogs, {"crop_to_box": True}, r"folder of annotation\.tar with --archives, or --annot"),
    ],
)
def test_parameter_out_of_range_is_named(dataset, parameters, message):
    paths = {name: Path() for name in ("archive", "images", "lists") if hasattr(dataset, name)}
    with pytest.raises(UserError, match=message):
        dataset(**paths, **parameters)
    with pytest.raises(UserError, match="unknown data set 'typeface'; did you mean 'typefaces'"):
        prepare("typeface", "out")
