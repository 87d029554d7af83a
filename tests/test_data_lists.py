"""Lists as people bring them."""

import unicodedata
from collections import Counter

import pytest
from official_archives import jpeg, refused, write_folder
from test_data_own import by_split

from convnext_ablation.data.folder import read_manifest
from convnext_ablation.data.prepare import prepare

NAMES = [f"{name}/{index}.jpg" for name in ("ash", "birch") for index in range(6)]


@pytest.fixture
def images(tmp_path):
    return write_folder(tmp_path, {name: jpeg(at, size=(12, 12)) for at, name in enumerate(NAMES)})


def lines(row, header="path,class"):
    rows = [row.format(name=name, at=at, label=name.split("/")[0]) for at, name in enumerate(NAMES)]
    return "\n".join([header, *rows, ""])


def classes_by_source(out):
    return {record.source: record.class_name for record in read_manifest(out)}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (lines("{name};{label}", "path;class"), "utf-8"),
        (lines("{name}, {label}", "path, class"), "utf-8"),
        (lines("{name}\t{label}", "filename\tlabel"), "utf-16"),
        (lines("{name}|{label}", "file_name|category_id"), "utf-8-sig"),
        ("sep=;\r\n" + lines("{name};{label};;", "path;class;;").replace("\n", "\r\n"), "utf-8"),
        (lines('"{name}","{label}"', '"path","class"') + ",\n", "utf-8"),
        (lines("{at},./{name},{label}", "number,image,target"), "utf-8"),
        (lines("{label},{name}", "class_id,dir"), "utf-8"),
        (lines("{name},{label}").replace("/", "\\"), "utf-8"),
        (lines("{name},{label}").replace(".jpg", ""), "utf-8"),
        (lines("{name},{label}").replace("\n", "\r"), "utf-8"),
    ],
    ids="semicolon blank tab-utf16 bar-bom excel quotes dot-slash fgir windows stems returns".split(),
)
def test_list_is_read_however_it_was_written(tmp_path, images, text, encoding):
    path = images / "list.csv"
    path.write_bytes(text.encode(encoding))
    prepare("csv", tmp_path / "out", file=path, size=16)
    assert classes_by_source(tmp_path / "out") == {name: name.split("/")[0] for name in NAMES}


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_either_unicode_form(tmp_path, listed, stored):
    names = [f"Müller/{index}.jpg" for index in range(6)]
    files = {unicodedata.normalize(stored, name): jpeg(at) for at, name in enumerate(names)}
    folder = write_folder(tmp_path / "images", files)
    rows = [f"{unicodedata.normalize(listed, name)},Müller" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["path,class", *rows]), encoding="utf-8")
    prepare("csv", tmp_path / "out", file=tmp_path / "list.csv", root=folder, size=16)
    assert classes_by_source(tmp_path / "out") == dict.fromkeys(names, "Müller")


def test_absolute_paths_and_columns_by_option(tmp_path, images):
    path = tmp_path / "list.txt"
    path.write_text(lines(f"{images}/{{name}},{{label}},{{at}}", "where,What,is_test").replace(",11", ",1"))
    text = path.read_text().splitlines()
    rows = [f"{line.rpartition(',')[0]},{int(at % 3 == 0)}" for at, line in enumerate(text[1:])]
    path.write_text("\n".join([text[0], *rows]))
    options = {"path_column": "where", "class_column": "what"}
    prepare("csv", tmp_path / "out", file=path, size=16, **options)
    assert set(by_split(tmp_path / "out")["test"]) == set(NAMES[::3])
    assert set(classes_by_source(tmp_path / "out")) == set(NAMES)


@pytest.mark.parametrize(
    ("written", "class_name", "said"),
    [
        ("3.0", "3", "3.0 is called 3"),
        ("a/b", "a_b", "renamed classes: 1, such as 'a/b' is called 'a_b'"),
        ("1.5", "1.5", "used: 'kind'"),
    ],
)
def test_a_class_whose_name_is_changed_is_said(tmp_path, images, capsys, written, class_name, said):
    other = "3" if written == "3.0" else "2.0"
    rows = [f"{name},{written if at % 2 else other},x" for at, name in enumerate(NAMES)]
    (images / "list.csv").write_text("\n".join(["path,class,kind", *rows]))
    summary = prepare("csv", tmp_path / "out", file=images / "list.csv", size=16)
    assert summary.classes == sorted({class_name, other})
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "content", "message"),
    [
        ("names.txt", "oak\nash\nbirch\n", "numbers its lines from 0, and no image has 0"),
        ("names.csv", "1,crane\n2,crane\n", "the classes 1 and 2 are both called 'crane'"),
        ("names.yaml", "names:\n  0: ash\n  1: birch\n", "is JSON or YAML; save the table as CSV"),
    ],
)
def test_names_of_numbered_classes_are_never_shifted_or_joined(tmp_path, images, names, content, message):
    (tmp_path / names).write_text(content)
    (images / "list.csv").write_text(lines("{name},{label}").replace(",ash", ",1").replace(",birch", ",2"))
    refused("csv", tmp_path, message, file=images / "list.csv", names=tmp_path / names)


@pytest.mark.parametrize("names", ["class_id,class_name\n0,Ash tree\n1,Birch\n", "Ash tree\nBirch\n"])
def test_list_for_each_split_with_numbered_classes(tmp_path, images, names):
    number = {"ash": 0, "birch": 1}
    lists = {"train_file": (0, 1, 2), "val_file": (3,), "test_file": (4, 5)}
    for name, indices in lists.items():
        rows = [f"{number[label]},{label}/{at}.jpg" for at in indices for label in number]
        (tmp_path / f"{name}.csv").write_text("\n".join(["class_id,dir", *rows]))
    (tmp_path / "names.csv").write_text(names)
    given = {name: tmp_path / f"{name}.csv" for name in lists}
    summary = prepare("csv", tmp_path / "out", **given, names=tmp_path / "names.csv", size=16)
    assert summary.classes == ["Ash tree", "Birch"]
    assert summary.counts == {"train": 6, "val": 2, "test": 4}
    assert by_split(tmp_path / "out")["val"] == {"ash/3.jpg": "Ash tree", "birch/3.jpg": "Birch"}


@pytest.mark.parametrize(
    ("column", "flags", "split"),
    [
        ("is_training_img", "10", "test"),
        ("is_train", ("True", "False"), "test"),
        ("is_valid", ("false", "true"), "val"),
        ("isTest", "01", "test"),
    ],
)
def test_columns_that_say_yes_or_no_to_a_split_are_found(tmp_path, images, capsys, column, flags, split):
    rows = [f"{name},{name.split('/')[0]},{flags[at % 6 == 5]}" for at, name in enumerate(NAMES)]
    (images / "list.csv").write_text("\n".join([f"filepath,target,{column}", *rows]))
    prepare("csv", tmp_path / "out", file=images / "list.csv", size=16)
    assert by_split(tmp_path / "out")[split] == {"ash/5.jpg": "ash", "birch/5.jpg": "birch"}
    assert f"split in column '{column}'\n" in capsys.readouterr().out


def test_paths_may_lack_their_first_folders(tmp_path):
    names = [f"{split}/{name}" for split in ("train", "val") for name in NAMES]
    folder = write_folder(tmp_path / "images", {name: jpeg(at) for at, name in enumerate(names)})
    for split in ("train", "val"):  # as one folder for each split, and equal names in both
        files = [name.replace("/", f"/{split}_", 1) for name in NAMES]
        for name, file in zip(NAMES, files, strict=True):
            (folder / split / name).rename(folder / split / file)
        rows = [f"{name},{name.split('/')[0]}" for name in files]
        (tmp_path / f"{split}.csv").write_text("\n".join(["dir,class_id", *rows]))
    lists = {f"{split}_file": tmp_path / f"{split}.csv" for split in ("train", "val")}
    summary = prepare("csv", tmp_path / "out", **lists, root=folder, size=16)
    assert summary.counts == {"train": 10, "val": 12, "test": 2}
    assert set(by_split(tmp_path / "out")["val"]) == {f"val/{name.replace('/', '/val_')}" for name in NAMES}


def grouped(tmp_path, split=""):
    names = [f"{label}/{index}.jpg" for label in ("ash", "birch") for index in range(30)]
    write_folder(tmp_path, {name: jpeg(at, size=(8, 8)) for at, name in enumerate(names)})
    site = {name: f"site{int(name.split('/')[1][:-4]) // 3}" for name in names}
    text = [f"{name},{name.split('/')[0]},{site[name]}" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["path,class,site", *text]))
    return site


def test_groups_stay_in_one_split(tmp_path):
    site = grouped(tmp_path)
    options = {"file": tmp_path / "list.csv", "group_column": "site", "size": 8}
    summary = prepare("csv", tmp_path / "out", **options)
    assert summary.counts == {"train": 48, "val": 6, "test": 6}
    sites = [{site[name] for name in found} for found in by_split(tmp_path / "out").values()]
    assert sum(map(len, sites)) == len(set.union(*sites)) == 10


@pytest.mark.parametrize("group_column", [None, "site"])
def test_folds_are_stratified_and_hold_each_image_once(tmp_path, group_column):
    site = grouped(tmp_path)
    options = {"file": tmp_path / "list.csv", "group_column": group_column, "size": 8, "folds": 5}
    tested = Counter()
    for fold in range(1, 6):
        prepare("csv", tmp_path / f"out{fold}", **options, fold=fold)
        found = by_split(tmp_path / f"out{fold}")
        assert Counter(found["test"].values()) == {"ash": 6, "birch": 6}
        if group_column:
            others = {site[name] for split in ("train", "val") for name in found[split]}
            assert not others & {site[name] for name in found["test"]}
        tested.update(found["test"].keys())
    assert tested == Counter(site.keys())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,class\nash/0.jpg,a/b\nash/1.jpg,a_b\n", {}, "'a/b' and 'a_b' would both become 'a_b'"),
        ("path,class\nash/0.jpg,.net\nash/1.jpg,net\n", {}, "would both become 'net'"),
        ("path\nash/0.jpg\n", {}, "has no column 'class'"),
        ("path,class\n,ash\n", {}, "line 2 has no path"),
        ("path,class,split\nash/0.jpg,ash,all\n", {}, "line 2 has the split 'all'"),
        ("path,class\nash/0.jpg,ash\nash/0.jpg,oak\n", {}, "line 3 lists ash/0.jpg a second time"),
        ("path,class\nash/9.jpg,ash\n", {}, r"line 2: .*9\.jpg can't be read"),
        (lines("{name}," + "a" * 300), {}, r"jpg: '.*/a{30}.* is longer than 250 bytes; it needs"),
        ("path,class\nash/0.jpg,-1\n", {}, "line 2 has the class -1, which means no label"),
        ("path,class\nash/0.jpg,NaN\n", {}, "line 2 has the class NaN, which means no label"),
        ("image,kind\nash/0.jpg,ash\n", {}, "no column 'class' .* 'kind'; name it with --class-column"),
        ("path,class\nash/0.jpg,ash\n", {"path_column": "p"}, "no column 'p'.*--path-column"),
        ("path,class\n0,ash\n", {}, r"'0' may be 'ash/0.jpg' or 'birch/0.jpg'"),
        ("path,class\nash/0.jpg,a,b\n", {}, "line 2 has 3 fields, more than the first line's 2"),
        ("path,class,split\nash/0.jpg,ash,\n", {}, "line 2 has no split"),
        ("path,class,split\nash/0.jpg,ash,train\nash/0.jpg,ash,test\n", {}, "as 'test' and not 'train'"),
        ("p\0a\0", {}, "perhaps in UTF-16"),
        ("PK\3\4", {}, "is a workbook"),
        ("", {}, "is empty"),
        (None, {}, "can't be read .No such file or directory.; name a table"),
        (
            "path,class,split,site\nash/0.jpg,a,train,x\nash/1.jpg,a,test,x\n",
            {"group_column": "site"},
            "the group 'x' is in train and in test",
        ),
        (lines("{name},{label}"), {"folds": 3}, "--folds and --fold go together"),
        (lines("{name},{label}"), {"folds": 3, "fold": 4}, "fold is 4; give at most 3"),
        (lines("{name},{label}"), {"folds": 99, "fold": 1}, "12 groups for 99 folds"),
    ],
)
def test_list_that_is_wrong_is_refused_in_one_line(tmp_path, images, text, options, message):
    path = images / "list.csv"
    if text is not None:
        path.write_bytes(text.encode())
    refused("csv", tmp_path, message, file=path, **options)


def test_what_is_not_listed_or_listed_twice_is_said(tmp_path, images, capsys):
    (images / "list.csv").write_text(lines("{name},{label}").replace("ash/0", "ash/1"))
    prepare("csv", tmp_path / "out", file=images / "list.csv", size=16)
    said = capsys.readouterr().out
    assert "duplicate rows, used once: 1, such as 'ash/1.jpg'" in said
    assert "not listed: 1 .jpg ('ash/0.jpg')" in said
