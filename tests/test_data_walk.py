"""Trees of files as people bring them: each file is used, skipped for a reason, or refused."""

import io
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_archives import jpeg, write_folder, write_tar
from PIL import Image
from test_data_own import by_split, plain
from test_data_packed import write_zip
from test_data_pictures import encoded, turned

from convnext_ablation.data.folder import check_folder, listing, sort_classes
from convnext_ablation.data.layout import SPLIT_OF, SPLITS
from convnext_ablation.data.prepare import prepare
from convnext_ablation.data.walk import read_skipped as skipped
from convnext_ablation.errors import UserError
from convnext_ablation.study.experiment import splits_of
from convnext_ablation.training.splits import open_split


def test_links_to_classes_and_images_are_followed(tmp_path):
    images = write_folder(tmp_path / "mine", plain())
    write_folder(tmp_path / "store", {f"oak/{at}.jpg": jpeg(at) for at in range(6)})
    (images / "oak").symlink_to(tmp_path / "store" / "oak")
    (images / "ash" / "linked.jpg").symlink_to(tmp_path / "store" / "oak" / "0.jpg")
    summary = prepare("folder", tmp_path / "out", images=images, size=16)
    assert summary.classes == ["ash", "birch", "oak"]
    assert sum(summary.counts.values()) == 24 + 1 + 6


def doubled(folder):
    """Links by which 12 folders are reached on 2 ** 12 ways."""
    for step in range(12):
        (folder / str(step)).mkdir()
        if step:
            for name in "ab":
                (folder / str(step - 1) / name).symlink_to(folder / str(step))


SPOILT = {
    "loop": (
        lambda root: (root / "ash" / "up").symlink_to(root),
        "ash/up is a link to a folder that it is in",
    ),
    "dangling": (
        lambda root: (root / "ash" / "x.jpg").symlink_to("/nowhere.jpg"),
        r"ash/x\.jpg is a link to '/nowhere\.jpg', which is not there; fix or remove it",
    ),
    "link to itself": (lambda root: (root / "ash" / "x").symlink_to("x"), "ash/x can't be read"),
    "pipe": (lambda root: os.mkfifo(root / "ash" / "x.jpg"), r"ash/x\.jpg is neither a file nor a folder"),
    "links that double": (lambda root: doubled(root / "ash"), "is a folder that more than 100 links lead to"),
    "no UTF-8": (
        lambda root: (root / "ash").rename(os.fsdecode(bytes(root) + b"/caf\xe9")),
        r"the name 'caf\\udce9/0\.jpg' is not valid UTF-8, or has a line break",
    ),
    "one name after stripping": (
        lambda root: shutil.copytree(root / "ash", root / "ash "),
        "the classes 'ash' and 'ash ' would both become 'ash'",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_can_not_be_used_is_refused_in_one_line(tmp_path, case):
    spoil, message = SPOILT[case]
    spoil(write_folder(tmp_path / "mine", plain(3)))
    with pytest.raises(UserError, match=message) as caught:
        prepare("folder", tmp_path / "out", images=tmp_path / "mine", size=16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["loop", "dangling", "link to itself", "pipe"])
def test_check_before_training_refuses_the_same(tmp_path, case):
    spoil, message = SPOILT[case]
    spoil(write_folder(tmp_path / "mine" / "train", plain(3)))
    with pytest.raises(UserError, match=message):
        check_folder(tmp_path / "mine", ["train"])


@pytest.mark.parametrize("names", [("Train", "valid", "Testing"), ("training_set", "Dev", "TEST_IMAGES")])
def test_splits_have_the_names_that_people_give_them_everywhere(tmp_path, arguments, names):
    files = {f"{split}/{name}": data for split in names for name, data in plain(2).items()}
    root = write_folder(tmp_path / "mine", files)
    assert prepare("folder", tmp_path / "out", images=root, size=16).counts == dict.fromkeys(SPLITS, 4)
    assert splits_of(root) == SPLITS
    assert check_folder(root).counts == dict.fromkeys(SPLITS, 4)
    assert set(listing(root, ("train", "test"))) == {name for name in files if not name.startswith(names[1])}
    for split, name in zip(("train", "validation", "test"), names, strict=True):
        assert open_split(arguments(data_dir=str(root)), split).name == str(root / name)
    shutil.copytree(root / names[2], root / "test")
    with pytest.raises(UserError, match=f"'{names[2]}' and 'test' are both the split test; rename one"):
        check_folder(root)


@pytest.mark.parametrize("nested", [False, True])
def test_tar_of_a_split_is_read_by_the_rules_of_folders(tmp_path, arguments, nested):
    files = {**plain(3), "ash/photo.dat": jpeg(70), "ash/._0.jpg": b"x", "ash/note.txt": b"x"}
    files["birch/late.webp"] = jpeg(71)
    root = write_folder(tmp_path / "folder", {f"train/{name}": data for name, data in files.items()})
    (tmp_path / "tar").mkdir()
    if nested:  # a tar a class, as ImageNet has it
        tars = {name: io.BytesIO() for name in ("ash", "birch")}
        for name, tar in tars.items():
            inner = {each.split("/")[1]: data for each, data in files.items() if each.startswith(name)}
            write_tar(None, inner, fileobj=tar)
        files = {f"{name}.tar": tar.getvalue() for name, tar in tars.items()}
    write_tar(tmp_path / "tar" / "train.tar", files)
    one, two = (open_split(arguments(data_dir=str(place)), "train") for place in (root, tmp_path / "tar"))
    assert one.ids() == two.ids()
    assert one.classes == two.classes == ["ash", "birch"]
    assert one.skipped == two.skipped
    for index in range(len(one)):
        (first, label), (second, other) = one.load(index), two.load(index)
        assert (label, first.tobytes()) == (other, second.tobytes())


def test_folder_that_can_not_be_read_is_refused(tmp_path, monkeypatch):
    images = write_folder(tmp_path / "mine", plain(3))
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("mine/ash"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        with pytest.raises(UserError, match=r"mine/ash can't be read \(Permission denied\)"):
            prepare("folder", tmp_path / "out", images=images)


def test_a_link_to_nothing_that_no_list_names_is_not_in_the_way(tmp_path):
    images = write_folder(tmp_path / "mine", plain(3))
    (images / "gone.jpg").symlink_to("/nowhere.jpg")
    rows = [f"{name},{name.split('/')[0]}" for name in plain(3)]
    (images / "list.csv").write_text("\n".join(["path,class", *rows]))
    prepare("csv", tmp_path / "out", file=images / "list.csv", size=16)
    assert skipped(tmp_path / "out") == {"gone.jpg": "not listed", "list.csv": "not a picture"}
    (images / "list.csv").write_text("\n".join(["path,class", "gone.jpg,ash", *rows]))
    with pytest.raises(UserError, match=r"gone\.jpg"):
        prepare("csv", tmp_path / "other", file=images / "list.csv", size=16)


def test_blank_at_the_end_of_a_class_folder_is_stripped_and_said(tmp_path, capsys):
    files = {name.replace("ash/", "ash /"): data for name, data in plain(3).items()}
    images = write_folder(tmp_path / "mine", files)
    assert prepare("folder", tmp_path / "out", images=images, size=16).classes == ["ash", "birch"]
    assert "renamed classes: 1, such as 'ash ' is called 'ash'" in capsys.readouterr().out
    assert (tmp_path / "out" / "classes.txt").read_text() == "ash\nbirch\n"


def test_folders_without_a_picture_are_named(tmp_path, capsys):
    images = write_folder(tmp_path / "mine", {**plain(3), "elm/film.mp4": b"x", ".git/config": b""})
    (images / "oak").mkdir()
    prepare("folder", tmp_path / "out", images=images, size=16)
    said = capsys.readouterr().out.partition("folders next to the classes without images: ")[2]
    assert sorted(said.splitlines()[0].split(", ")) == ["'elm'", "'oak'"]


def test_digits_of_other_scripts_sort_without_a_traceback():
    assert sort_classes(["m²", "m10", "m2", "m٣"]) == ["m2", "m٣", "m10", "m²"]


SKIPPED = {
    "notes.txt": ("licence or notes", b"x"),
    "ash/LICENSE": ("licence or notes", b"x"),
    "ash/sketch.eps": ("not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "ash/IMG_1.HEIC": ("picture of a format that isn't read; convert it", b"x"),
    "birch/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg": ("metadata of a file server", jpeg(3)),
    "#recycle/oak/0.jpg": ("metadata of a file server", jpeg(4)),
    "birch/labels.csv": ("not a picture", b"BM,1,2\n"),
    ".DS_Store": ("macOS metadata", b"x"),
    "ash/._0.jpg": ("macOS metadata", b"x"),
    "__MACOSX/ash/0.jpg": ("macOS metadata", b"x"),
    "ash/Thumbs.db": ("Windows metadata", b"x"),
    "ash/.ipynb_checkpoints/0-checkpoint.jpg": ("notebook checkpoint", jpeg(1)),
    ".cache/x/1.jpg": ("hidden", jpeg(2)),
}


def test_litter_is_skipped_and_pictures_are_told_by_content(tmp_path, capsys):
    odd = {"ash/photo": jpeg(50), "ash/photo.bak": jpeg(51), "ash/really_a.png": jpeg(52)}
    litter = {name: data for name, (_, data) in SKIPPED.items()}
    images = write_folder(tmp_path / "mine", {**plain(4), **odd, **litter})
    (images / ".#lock").symlink_to("user@host.1234")  # to nothing
    prepare("folder", tmp_path / "out", images=images, size=16)
    assert set().union(*by_split(tmp_path / "out").values()) == {*plain(4), *odd}
    reasons = {name: reason for name, (reason, _) in SKIPPED.items()}
    assert skipped(tmp_path / "out") == {**reasons, ".#lock": "hidden"}
    said = capsys.readouterr().out
    assert f"used 11, skipped 14 ({tmp_path / 'out' / 'skipped.csv'}), refused 0 of 25\n" in said
    assert "not a picture: 1 .eps, 1 .csv ('ash/sketch.eps', 'birch/labels.csv')" in said


@pytest.mark.parametrize(
    ("tops", "beside"),
    [
        ("flower_photos/", {"flower_photos/LICENSE.txt": "licence or notes"}),
        ("a/b/", {"README.md": "licence or notes", "a/overview.jpg": "outside of the classes"}),
    ],
)
def test_top_folders_are_left_out_whatever_lies_beside(tmp_path, tops, beside):
    files = {f"{tops}{name}": data for name, data in plain().items()}
    images = write_folder(tmp_path / "mine", {**files, **dict.fromkeys(beside, b"x")})
    packed = write_tar(tmp_path / "mine.tgz", {**files, **dict.fromkeys(beside, b"x")}, "w:gz")
    for each in (images, packed, images / tops):
        prepare("folder", tmp_path / f"out {each.suffix} {each.name}", images=each, size=16)
    found = [by_split(out) for out in tmp_path.glob("out *")]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    assert set().union(*found[0].values()) == set(plain())
    assert skipped(tmp_path / "out .tgz mine.tgz") == beside


def test_splits_are_found_in_any_case_and_depth_and_unlabelled_images_skipped(tmp_path):
    files = {
        f"set/{split}/{name}": data for split in ("Training", "VALID") for name, data in plain(4).items()
    }
    beside = {
        "set/Test/1.jpg": "no label",
        "set/preview.jpg": "outside of the splits",
        "set/extra/ash/1.jpg": "outside of the splits",
        "set/set/Training/ash/1.jpg": "outside of the splits",
        "__MACOSX/set/Training/ash/1.jpg": "macOS metadata",
    }
    images = write_folder(tmp_path / "mine", {**files, **dict.fromkeys(beside, jpeg(1))})
    prepare("folder", tmp_path / "out", images=images, size=16)
    found = by_split(tmp_path / "out")
    assert {split: len(sources) for split, sources in found.items()} == {"train": 6, "val": 8, "test": 2}
    assert all(source.startswith("VALID/") for source in found["val"])
    assert skipped(tmp_path / "out") == beside


NOISE = Image.effect_noise((8, 8), 60)
KINDS = {"I;16": "PNG", "RGBA": "PNG", "CMYK": "JPEG", "P": "GIF"}
_CONTENTS = st.sampled_from(
    [jpeg(3, size=(8, 8)), turned(6, kind="JPEG"), b"", b"text", b"%!PS-Adobe-3.0",
     *(encoded(NOISE.convert(mode), kind) for mode, kind in KINDS.items())]
)  # fmt: skip
_CLASSES = st.sampled_from([("ash", "birch"), ("ash ", "e\u0301lm"), ("2", "10"), ("x y.", "[b]")])
_FOLDERS = st.sampled_from([0, 0, 0, 1, 1, 1, ".h", "__MACOSX", "@eaDir", "oak"])
_STEMS = st.sampled_from(["a", "B", "2", "é", "x y", "._a", "Thumbs.db", "LICENSE"])
_ENDINGS = st.sampled_from(["", ".jpg", ".PNG", ".tiff", ".txt", ".eps", ".dat", ".heic"])
_LAYOUTS = st.sampled_from(
    [[""], ["set/"], ["Train/", "TEST/"], ["a/b/training/", "a/b/Valid/", "a/b/test/"]]
)


@settings(max_examples=10, deadline=None)
@given(
    _LAYOUTS, _CLASSES,
    st.dictionaries(st.tuples(_FOLDERS, _STEMS, _ENDINGS), _CONTENTS, min_size=3, max_size=12), st.data(),
)  # fmt: skip
def test_each_file_is_used_or_skipped_and_folder_archives_and_lists_agree(tops, classes, odd, data):
    """Or else all are refused alike."""
    own = {f"{classes['birch' in name]}/{name.split('/')[1]}": each for name, each in plain(3).items()}
    files = {f"{top}{name}": content for top in tops for name, content in own.items()}
    for (folder, stem, ending), content in odd.items():
        folder = classes[folder] if isinstance(folder, int) else folder
        files[f"{data.draw(st.sampled_from(tops))}{folder}/{stem}{ending}"] = content
    files = {unicodedata.normalize("NFC", name): content for name, content in files.items()}
    if any(one.startswith(f"{other}/") for one in files for other in files):
        return  # no file system has it
    found = []
    with tempfile.TemporaryDirectory() as root:
        top = Path(root)
        images = [write_folder(top / "mine", files), write_tar(top / "mine.tar", files)]
        images.append(write_zip(top / "mine.zip", files))
        for number, path in enumerate(images):
            out = top / str(number)
            try:
                prepare("folder", out, images=path, size=8, workers=1, skip_bad_images=99)
            except UserError as error:
                found.append(str(error).replace(str(path), ""))
                continue
            used, rest = by_split(out), skipped(out)
            found.append((used, rest))
            base = max(tops, key=len).rpartition("/")[0].rpartition("/")[0] if len(tops) > 1 else tops[0][:-1]
            sources = [f"{base}/{name}".lstrip("/") for each in used.values() for name in each]
            assert sorted([*sources, *rest]) == sorted(files)
            for split, each in used.items():
                for source, label in each.items():
                    assert label == source.split("/")[-2].strip().rstrip(". ")
                    assert len(tops) == 1 or SPLIT_OF[source.split("/")[0].lower()] in (split, "train")
        if not isinstance(found[0], str):
            listed = {f"{base}/{name}".lstrip("/"): (label, split)
                      for split, each in found[0][0].items() for name, label in each.items()}  # fmt: skip
            mark = data.draw(st.sampled_from(",;\t|"))
            rows = [mark.join(f'"{field}"' for field in (name, *rest)) for name, rest in listed.items()]
            (top / "list.csv").write_text("\n".join([mark.join(("file", "label", "subset")), *rows]))
            prepare("csv", top / "4", file=top / "list.csv", root=images[2], size=8, workers=1)
            assert {name: (label, split) for split, each in by_split(top / "4").items()
                    for name, label in each.items()} == listed  # fmt: skip
            assert sorted([*listed, *skipped(top / "4")]) == sorted(files)
    assert all(each == found[0] for each in found)
