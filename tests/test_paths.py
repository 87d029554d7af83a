"""Names from outside stay below their own folder, whoever says them: a hub, an archive, a list, a release."""

import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest
from fake_experiment import experiment_of
from huggingface_hub import constants
from official_archives import jpeg, write_folder

from convnext_ablation.cli.train import main as train
from convnext_ablation.data.image_list import ImageList
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.data.prepare import _write_images, prepare
from convnext_ablation.errors import UserError
from convnext_ablation.files import below
from convnext_ablation.hub.verify import claim_of
from convnext_ablation.study.experiment_file import _checked_name
from convnext_ablation.study.report.evidence import Evidence
from convnext_ablation.study.store import read_phases, read_study, save_study
from convnext_ablation.weights.download import fetch
from convnext_ablation.weights.release import Release, read_release

VICTIM = "victim.txt"
HOSTILE = [
    f"../{VICTIM}", f"../../../../{VICTIM}", f"a/../../{VICTIM}", f"/{VICTIM}", f"C:{VICTIM}", f"c:/{VICTIM}",
    f"..\\{VICTIM}", f"\\\\host\\{VICTIM}", f"{VICTIM}\0.jpg", f"a\n{VICTIM}", f"a\u2028{VICTIM}",
    "\x1b[2J.jpg", "\udcff.jpg", f"~/{VICTIM}", "~", "con", "a/NUL.txt", "", ".", "..", "a./b.jpg", "b.jpg ",
    251 * "a", 126 * "ä",
]  # fmt: skip
HARMLESS = [
    "b.jpg", "a/b.jpg", "./a.jpg", "%2e%2e%2fvictim.txt", "..a", "a..b/c", "Müller/1.jpg", "~x", "12:30.jpg",
]  # fmt: skip
hostile = pytest.mark.parametrize("name", HOSTILE, ids=ascii)


def one_line(error):
    line = str(error.value)
    assert line.isprintable()
    assert len(line) <= 400
    return line


@pytest.fixture
def victim(tmp_path):
    """The folder that names must stay below; above it lies a file that must stay as it is."""
    path = tmp_path / VICTIM
    path.write_text("mine")
    before = set(tmp_path.iterdir())
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    yield folder
    assert path.read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} - {each.name for each in before} <= {"a", "out"}


@pytest.mark.parametrize("name", HARMLESS)
def test_usual_names_are_taken(tmp_path, name):
    assert below(tmp_path, name, "here") == tmp_path / name


@hostile
def test_a_name_that_leads_out_or_is_none_is_refused_in_one_line(victim, name):
    with pytest.raises(UserError, match="the list line 3: ") as error:
        below(victim, name, "the list line 3")
    one_line(error)


@pytest.mark.parametrize("target", ["../..", "/", "/etc/passwd", "link"])
def test_links_that_lead_out_or_in_a_circle_are_refused(victim, target):
    (victim / "link").symlink_to(target)
    with pytest.raises(UserError, match="link") as error:
        below(victim, "link" if target.endswith(("passwd", "link")) else f"link/{VICTIM}", "here")
    one_line(error)
    (victim / "other").symlink_to(victim)
    assert below(victim, "other/a", "here") == victim / "other/a"


# who says names


def by_etag(name, folder, hub, monkeypatch):
    hub.names["etag"] = name
    by_file("model.safetensors", folder, hub, monkeypatch)


def by_commit(name, folder, hub, monkeypatch):
    hub.names["commit"] = f"{name}." if name in ("", "b.jpg ") else name  # a header has no spaces at its ends
    by_file("model.safetensors", folder, hub, monkeypatch)


def by_revision(name, folder, hub, monkeypatch):
    by_file("model.safetensors", folder, hub, monkeypatch, f"lab/x@{name or '..'}")


def by_file(name, folder, hub, monkeypatch, repository="lab/x"):
    hub.add("lab/x", {"model.safetensors": b"w"})
    fetch(repository, name, folder)


def by_release(name, folder, hub, monkeypatch):
    config = {"architecture": "model_i", "num_classes": 3, "pretrained_cfg": {}}
    config["weights"] = {"file": name and f"{name}.safetensors", "sha256": 64 * "0"}
    (folder / "config.json").write_text(json.dumps(config))
    read_release(folder)


def by_claim(name, folder, hub, monkeypatch):
    result = {"split": name, "top1_percent": 1, "top5_percent": 1}
    values = {"name": "x", "trained": {"results": [result]}, "sha256": 64 * "0"}
    fields = dict.fromkeys(Release.__dataclass_fields__) | values
    claim_of(Release(**fields), name)


def by_archive(name, folder, hub, monkeypatch):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for at, path in enumerate(["ash/1.jpg", "ash/2.jpg", "ash/3.jpg", "ash/4.jpg", f"ash/{name}"]):
            info = tarfile.TarInfo(path)
            info.size = len(data := jpeg(at))
            tar.addfile(info, io.BytesIO(data))
    prepare("folder", folder / "out", images=folder / "a.tar", size=8)
    raise UserError("".join(sorted(each.name for each in folder.iterdir())))


def by_list(name, folder, hub, monkeypatch):
    write_folder(folder, {f"ash/{at}.jpg": jpeg(at) for at in range(6)})
    row = '"' + name.replace('"', '""') + '",ash\n'
    text = "path,class\n" + "".join(f"ash/{at}.jpg,ash\n" for at in range(6)) + row
    (folder / "list.csv").write_bytes(text.encode(errors="surrogateescape"))
    prepare("csv", folder / "out", file=folder / "list.csv", size=8)


def by_record(name, folder, hub, monkeypatch):
    found = Photograph("1", name, "ash", "train", None)
    data_set = ImageList(file=folder / "none.csv", size=8)
    monkeypatch.setattr(ImageList, "photographs", lambda *_: [found])
    ((record, _),) = data_set.records(folder)
    record = record.__class__(name, "train", "ash", name)
    _write_images(data_set, folder, [(record, found)], 1)


def by_experiment(name, folder, hub, monkeypatch):
    _checked_name(name)


def by_study(name, folder, hub, monkeypatch):
    (folder / "experiment.json").write_text(json.dumps({"phases": [name]}))
    read_phases(folder)


def by_study_file(name, folder, hub, monkeypatch):
    study = experiment_of(folder)[0]
    save_study(folder / "imagenet", study)
    path = folder / "imagenet" / "study.json"
    content = json.loads(path.read_text())
    if not name:
        raise UserError("a study of one phase has none")
    for changes in (
        {"phase": name},
        {"starts from phase": name},
        {"study": {**content["study"], "networks": [{**content["study"]["networks"][0], "key": name}]}},
    ):
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(UserError, match=r"study\.json: ") as error:
            read_study(folder / "imagenet")
    raise error.value


def by_predictions(name, folder, hub, monkeypatch):
    evidence = Evidence([type("Run", (), {"folder": folder})], np.array([name]), ["ash"], folder)
    if evidence.image(0) is None:
        raise UserError("not there")


def by_run_name(name, folder, hub, monkeypatch):
    words = ["--model", "model_i_atto", "--output", str(folder), "--device", "cpu", "--experiment", name]
    if "\udcff" in name or not name:
        raise UserError("the command line is UTF-8, and nothing is no name")
    assert train([str(folder / "data"), *words]) == 2
    raise UserError("refused")


WAYS = [by_etag, by_commit, by_revision, by_file, by_release, by_claim, by_archive, by_list, by_record]
WAYS += [by_experiment, by_study, by_study_file, by_predictions, by_run_name]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@hostile
def test_whoever_says_it_nothing_outside_is_read_written_or_removed(victim, hub, monkeypatch, way, name):
    with pytest.raises(UserError) as error:
        way(name, victim, hub, monkeypatch)
    one_line(error)


def test_phases_that_start_from_one_another_are_refused(tmp_path):
    save_study(tmp_path / "imagenet", experiment_of(tmp_path)[0])
    path = tmp_path / "imagenet" / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "starts from phase": "imagenet"}))
    with pytest.raises(UserError, match=r"study\.json: damaged .*Recursion"):
        read_study(tmp_path / "imagenet")


def test_a_hub_that_links_out_of_its_cache_removes_nothing_there(victim, hub, monkeypatch):
    hub.add("lab/x", {"model.safetensors": b"w"})
    path = fetch("lab/x", "model.safetensors", victim)
    path.unlink()
    path.symlink_to(os.path.relpath(victim.parents[2] / VICTIM, path.parent))
    with pytest.raises(UserError, match="link that leads out of"):
        fetch("lab/x", "model.safetensors", victim, hashlib.sha256(b"other").hexdigest())
    assert fetch("lab/x", "model.safetensors", victim).read_bytes() == b"w"


def test_a_file_of_a_hub_data_set_is_read_from_its_own_folder_only(victim, monkeypatch):
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", victim / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(victim / "hub"))
    outside = write_folder(victim.parent, {"mine.jpg": jpeg(1)}) / "mine.jpg"
    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ash"])})
    write_folder(victim / "set", {"a.jpg": jpeg(7)})
    for path, refused in (
        (victim / "set/a.jpg", False),
        (outside, True),
        (victim / "set/../../mine.jpg", True),
    ):
        rows = {"image": [{"bytes": jpeg(at), "path": None} for at in range(5)], "label": [0] * 6}
        rows["image"].append({"bytes": None, "path": str(path)})
        table = datasets.Dataset.from_dict(rows, kind).data.table
        parquet.write_table(table, victim / "set/train.parquet")
        if refused:
            with pytest.raises(UserError, match=r"outside of the data set|leads out of its folder"):
                prepare("hfds", victim / "out", source=str(victim / "set"), size=8, workers=1)
        else:
            prepare("hfds", victim / "fine", source=str(victim / "set"), size=8)
