"""The command `predict`: every picture gets one row, whatever it is, from weights wherever they are."""

import csv
import json
import os
import shutil
import signal
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm_repo import needs_timm_repo, stock

from convnext_ablation.cli.main import main
from convnext_ablation.console import Progress
from convnext_ablation.data.pictures import as_seen, open_picture
from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of
from convnext_ablation.inference import prediction

MODEL, CLASSES, SIZE = "model_iv_atto", ["dark", "=grey", "light"], (3, 32, 32)
CPU = ("--device", "cpu", "-j", 0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=len(CLASSES)).eval()
    with torch.no_grad():  # else all pictures are alike to it
        model.head.fc.weight.mul_(40)
    return model


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """A folder with the network's weights: of a run, of a release, and bare."""
    root, state = tmp_path_factory.mktemp("weights"), network.state_dict()
    (root / "run").mkdir()
    saved = {"arch": MODEL, "state_dict": state, "args": {"model": MODEL, "input_size": SIZE}}
    saved["convnext_ablation"] = {"classes": CLASSES}
    torch.save(saved, root / "run" / "model_best.pth.tar")
    torch.save(state, root / "bare.pth")
    release = root / f"{MODEL}.shades"
    release.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, release / "model.safetensors")
    config = {"architecture": MODEL, "num_classes": len(CLASSES), "label_names": CLASSES}
    config["pretrained_cfg"] = {"input_size": SIZE, "classifier": "head.fc", "first_conv": "stem.conv"}
    config["weights"] = {"file": "model.safetensors", "sha256": sha256_of(release / "model.safetensors")}
    (release / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def pictures(image_folder):
    return image_folder / "test"


@pytest.fixture
def predict(tmp_path, weights):
    """Predicts with the run's weights, or others; returns the rows of the CSV file."""

    def run(*inputs, weights=weights / "run", **options):
        given = ["--checkpoint", weights] if isinstance(weights, Path) else weights
        file = tmp_path / "results" / "rows.csv"
        file.parent.mkdir(exist_ok=True)
        flags = {name.replace("_", "-"): value for name, value in options.items()}
        words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
        command = ["predict", *inputs, *given, *CPU, *words, "--fullname", "--results-file", file, "--force"]
        if code := main([*map(str, command)]):
            return code
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as text:
            return list(csv.DictReader(text))

    return run


def expected(network, image):
    """The probabilities of a picture's classes, by timm alone."""
    transform = create_transform(**resolve_data_config({"input_size": SIZE}, model=network))
    with torch.inference_mode():
        return network(transform(image)[None])[0].softmax(0)


def probabilities(row):
    ranks = range(sum(name.startswith("prob_") for name in row))
    found = {int(row[f"index_{rank}"]): float(row[f"prob_{rank}"]) for rank in ranks}
    return [found[number] for number in range(len(CLASSES))]


NAMED = "{}/model_iv_atto.shades"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["--checkpoint", "{}/run"], True),
        (["--checkpoint", "{}/run/model_best.pth.tar"], True),
        (["--checkpoint", NAMED], True),
        (["--checkpoint", "hf-hub:lab/model_iv_atto.shades"], True),
        (["--model", "hf-hub:lab/model_iv_atto.shades"], True),
        (["--model", "model_iv_atto"], True),  # found by CONVNEXT_ABLATION_WEIGHTS
        (["--model", MODEL, "--checkpoint", "{}/bare.pth", "--img-size", "32"], False),
    ],
)
def test_weights_are_taken_from_wherever_they_are(
    predict, network, weights, pictures, given, names, monkeypatch, tmp_path, hub
):
    hub.add("lab/model_iv_atto.shades", {
        path.name: path.read_bytes() for path in (weights / "model_iv_atto.shades").iterdir()
    })  # fmt: skip
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(weights))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    rows = predict(pictures, weights=[word.format(weights) for word in given], topk=3)
    assert [row["filename"] for row in rows] == [
        f"{name}/{number:02d}.png" for name in ("dark", "grey", "light") for number in range(7)
    ]
    for row in rows:
        image = Image.open(pictures / row["filename"]).convert("RGB")
        assert probabilities(row) == pytest.approx(expected(network, image).tolist(), rel=1e-4, abs=1e-6)
        if names:  # a formula for spreadsheets, as all CSV files have it
            assert row["label_0"] == ["dark", "'=grey", "light"][int(row["index_0"])]
        assert not row["error"]
        assert ("label_0" in row) == names


def test_a_size_that_is_given_goes_before_that_of_the_run(predict, weights, pictures):
    bare = ["--model", MODEL, "--checkpoint", weights / "bare.pth"]
    rows, small = (predict(pictures / "dark", topk=3, **size) for size in ({"img_size": 64}, {}))
    for row, other, tiny in zip(
        rows, predict(pictures / "dark", weights=bare, topk=3, img_size=64), small, strict=True
    ):
        assert probabilities(row) == probabilities(other) != probabilities(tiny)


@needs_timm_repo
def test_timms_script_gives_the_same(weights, pictures, tmp_path, predict):
    given = ["--model", MODEL, "--checkpoint", weights / "bare.pth", "--num-classes", 3, "--img-size", 32]
    stock(
        tmp_path, "inference.py", *map(str, (pictures, *given, "--device", "cpu", "-j", 0, "--topk", 3)),
        "--results-separate-col", "--include-index", "--fullname", "--results-file", "timm.csv",
    )  # fmt: skip
    ours = predict(pictures, weights=given, topk=3)
    with open(tmp_path / "timm.csv", newline="") as file:
        timms = list(csv.DictReader(file))
    assert len(ours) == len(timms) == 21
    for mine, theirs in zip(ours, timms, strict=True):
        assert (mine["filename"], mine["index_0"]) == (theirs["filename"], theirs["index_0"])
        assert probabilities(mine) == pytest.approx(probabilities(theirs), rel=1e-4)


def listed(folder, pictures):
    lines = [str(pictures / "dark/00.png"), "gone.png", str(pictures / "dark"), "", " beside.png "]
    (folder / "list.txt").write_bytes("\r\n".join(lines).encode())
    shutil.copy(pictures / "grey/00.png", folder / "beside.png")
    return [folder / "list.txt"], [lines[0], "gone.png", lines[2], "beside.png"]


def zipped(folder, pictures):
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(pictures.glob("*/*.png")):
            archive.write(path, path.relative_to(pictures))
        archive.writestr("README.md", "notes")
    return [folder / "all.zip"], sorted(str(path.relative_to(pictures)) for path in pictures.glob("*/*.png"))


def tarred(folder, pictures, kind="tar.gz"):
    with tarfile.open(folder / f"all.{kind}", "w:gz" if kind == "tar.gz" else "w") as archive:
        archive.add(pictures / "dark", "deep/er")
    return [folder / f"all.{kind}"], [f"deep/er/{number:02d}.png" for number in range(7)]


def several(folder, pictures):
    one = pictures / "dark/00.png"
    tar, inside = tarred(folder, pictures, "tar")
    return [one, *tar, pictures / "grey", one], [
        str(one), *(f"{tar[0]}/{name}" for name in inside),
        *(f"{pictures}/grey/{number:02d}.png" for number in range(7)), str(one),
    ]  # fmt: skip


def pattern(folder, pictures):
    (folder / "notes.txt").write_text("no list")
    shutil.copytree(pictures / "dark", folder / "a" / "b")
    (folder / "a" / "b" / "00.png").unlink()
    (folder / "a" / "b" / "00.png").symlink_to("nowhere.png")
    return [folder / "**" / "*"], [f"{folder}/a/b/{number:02d}.png" for number in range(7)]


@pytest.mark.parametrize("make", [listed, zipped, tarred, several, pattern])
def test_pictures_are_taken_in_any_form_and_a_stable_order(predict, pictures, tmp_path, make, capsys):
    (tmp_path / "given").mkdir()
    inputs, names = make(tmp_path / "given", pictures)
    rows = predict(*inputs, batch_size=4)
    assert [row["filename"] for row in rows] == names
    why = {row["filename"]: row["error"] for row in rows if row["error"]}
    unread = {
        listed: {"gone.png": "no such file", str(pictures / "dark"): "is a folder"},
        pattern: {names[0]: "No such file or directory"},
    }
    assert why == unread.get(make, {})
    skipped = "skipped, licence or notes: 1 .md ('README.md')" if make is zipped else ""
    assert skipped in capsys.readouterr().out
    if make is zipped:  # by processes, each of which opens the archive
        assert predict(*inputs, workers=2, batch_size=4) == rows


# what people have among their pictures, and whether it can be read
ODD = {
    "0 good.png": True, "broken.jpg": False, "empty.png": False, "sixteen.png": True, "cmyk.jpg": True,
    "turned.jpg": True, "moving.gif": True, "clear.png": True, "no ending": True, "thin.png": True,
    "gone.jpg": False, "phone.heic": False, "=cmd|'calc'!A0.png": True, "two\nlines.png": True,
    "Stra\udcdfe.png": True, "a,b\";'.png": True, "folder.png/inner.png": True,
}  # fmt: skip


@pytest.fixture
def odd(tmp_path):
    """A folder of them."""
    folder = tmp_path / "odd"
    (folder / "folder.png").mkdir(parents=True)
    rng = np.random.default_rng(0)
    good = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
    for name, is_read in ODD.items():
        good.save(folder / name, "PNG") if is_read else (folder / name).write_bytes(
            b"\x89PNG\r\n\x1a\n broken"
        )
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.jpg").unlink()
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    Image.fromarray(rng.integers(0, 65535, (40, 60), np.uint16)).save(folder / "sixteen.png")
    good.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[274] = 6
    good.save(folder / "turned.jpg", exif=exif)
    good.save(folder / "moving.gif", save_all=True, append_images=[good.rotate(90), good.rotate(180)])
    good.convert("RGBA").save(folder / "clear.png")
    Image.new("RGB", (1, 300)).save(folder / "thin.png")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_every_picture_gets_one_row_whatever_it_is(predict, network, odd, workers, capfd):
    rows = predict(odd, topk=3, workers=workers, batch_size=4)
    by_name = {row["filename"].removeprefix("'"): row for row in rows}
    assert len(rows) == len(by_name) == len(ODD)
    assert by_name.keys() == ODD.keys()
    assert {name: not row["error"] for name, row in by_name.items()} == ODD
    assert predict(odd, topk=3, batch_size=4) == rows  # and always in one order
    for name, is_read in ODD.items():
        row = by_name[name]
        if not is_read:
            assert row["error"].isprintable()
            assert row["index_0"] == row["prob_0"] == ""
            continue
        with open_picture(odd / name) as image:
            seen = as_seen(image)[0]
        assert probabilities(row) == pytest.approx(expected(network, seen).tolist(), rel=1e-3, abs=1e-5)
    said = capfd.readouterr().out
    assert f"{len(ODD)} pictures; 4 of them can't be read, see the column error" in said
    assert "skipped, hidden: 1 .png ('.hidden.png')" in said
    assert by_name["phone.heic"]["error"] == "picture of a format that isn't read; convert it"


def test_results_are_written_in_each_format(weights, odd, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["predict", "odd", "--checkpoint", str(weights / "run"), *map(str, CPU)]
    forms = ["--results-format", "csv", "json", "parquet", "--results-dir", "new/er"]
    assert main([*command, *forms, "--topk", "2"]) == 0
    stem = f"new/er/{MODEL}-32"
    with open(f"{stem}.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    columns = ["filename", *(f"{name}_{rank}" for name in ("index", "label", "prob") for rank in (0, 1))]
    assert list(rows[0]) == [*columns, "error"]
    said = json.loads(Path(f"{stem}.json").read_text())
    parquet = pytest.importorskip("pyarrow.parquet").read_table(f"{stem}.parquet").to_pylist()
    assert parquet == said
    assert len(said) == len(ODD)
    for row, mine in zip(rows, said, strict=True):
        assert row["filename"].removeprefix("'") in (mine["filename"], "Stra\udcdfe.png")
        assert row["index_1"] == str("" if mine["index_1"] is None else mine["index_1"])
        assert mine["label_0"] == (None if mine["error"] else CLASSES[mine["index_0"]])
    assert {mine["filename"] for mine in said} >= {"two\nlines.png", "Stra\\xdfe.png", "inner.png"}
    assert main([*command, *forms]) == 2
    assert f"{stem}.csv: exists; give --force to overwrite it" in capsys.readouterr().err
    assert main([*command, "--results-file", "x.json"]) == 0
    assert [row["filename"] for row in json.loads(Path("x.json").read_text())] == [
        row["filename"] for row in said
    ]


def test_files_of_one_name_are_told_apart(weights, pictures, tmp_path, capsys):
    command = ["predict", str(pictures), "--checkpoint", str(weights / "run"), *map(str, CPU)]
    assert main([*command, "--results-file", str(tmp_path / "x.csv")]) == 0
    assert "dark/00.png," in (tmp_path / "x.csv").read_text()
    assert "several files have the same name: paths are output" in capsys.readouterr().out


def test_many_pictures_are_seen_by_the_fastest_form(predict, pictures, monkeypatch):
    plain, made = predict(pictures, topk=3), []
    optimize = prediction.optimize_for_inference
    monkeypatch.setattr(prediction, "_WORTH_MEASURING", 21)
    monkeypatch.setattr(
        prediction, "optimize_for_inference", lambda *x, **y: made.append(optimize(*x, **y)) or made[-1]
    )
    for row, fast in zip(plain, predict(pictures, topk=3, batch_size=8), strict=True):
        assert probabilities(fast) == pytest.approx(probabilities(row), abs=1e-4)
    assert [network.choice.form for network in made] in (["packed"], ["folded"])
    assert predict(pictures, topk=3, no_optimize=True) == plain
    assert predict(pictures, amp=True, amp_dtype="bfloat16")[0]["filename"] == plain[0]["filename"]
    assert len(made) == 1


def test_classes_are_called_as_asked(predict, weights, pictures, tmp_path, monkeypatch, capsys):
    one, bare = pictures / "dark/00.png", ["--model", MODEL, "--checkpoint", weights / "bare.pth"]
    (number,) = (int(row["index"]) for row in predict(one))
    (tmp_path / "map.txt").write_text("ash\nbirch\noak\n")
    (row,) = predict(one, weights=[*bare, "--img-size", 32], class_map=tmp_path / "map.txt")
    assert row["label"] == ["ash", "birch", "oak"][number]
    assert "label" not in predict(one, label_type="none")[0]
    assert "aren't known" not in capsys.readouterr().out
    assert "label" not in predict(one, weights=bare)[0]
    assert "class names aren't known" in capsys.readouterr().out
    # weights that are registered with timm are of ImageNet
    create = timm.create_model

    def untrained(*given, **options):
        torch.manual_seed(0)
        return create(*given, **{**options, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", untrained)
    found = {
        kind: predict(one, weights=["--model", "test_resnet.r160_in1k"], label_type=kind)[0]["label"]
        for kind in ("name", "description", "detailed")
    }
    assert found["name"].startswith("n0") or found["name"].startswith("n1")
    assert found["detailed"].startswith(f"{found['description']}: ")


def test_pictures_with_odd_logits_are_named(predict, network, pictures, tmp_path):
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["head.fc.weight"].fill_(3e38)
    torch.save(state, tmp_path / "huge.pth")
    rows = predict(pictures, weights=["--model", MODEL, "--checkpoint", tmp_path / "huge.pth"])
    assert {row["error"] for row in rows} == {"the network's logits aren't finite"}
    assert {row["index"] for row in rows} == {""}


@pytest.mark.parametrize("given", [None, 256])
def test_a_gpu_gets_as_many_images_at_a_time_as_fit(given, weights, monkeypatch):
    arguments = {"checkpoint": str(weights / "run"), "device": "cpu", "batch_size": given, "workers": 9}
    seen = prediction.Prediction(prediction.PredictionArguments.of(arguments))
    seen.run = replace(seen.run, batch_size=256)

    def small(images):
        if len(images) > 70:
            raise torch.cuda.OutOfMemoryError

    seen.model.forward, seen.device = small, torch.device("cuda")
    if given:
        with pytest.raises(UserError, match="256 images don't fit the GPU; give a smaller --batch-size"):
            seen.sized(1000)
    else:
        assert seen.sized(1000).batch_size == 64
        assert [seen.sized(images).workers for images in (1, 64, 65, 1000)] == [0, 0, 1, 9]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_stopped_it_leaves_nothing(predict, pictures, tmp_path, number, monkeypatch):
    monkeypatch.setattr(Progress, "move", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stopped:
        predict(pictures, batch_size=2)
    assert stopped.value.code == 128 + number
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{run}", "no pictures are given"),
        ("{pictures}", "no network is given; name it with --model, or a --checkpoint"),
        ("{pictures} {run} --model model_v", "{folder}/run/model_best.pth.tar: the checkpoint"),
        ("{pictures} --model model_iv_atto", "there are no public weights of it"),
        ("{pictures} --checkpoint gone", "gone: no such checkpoint"),
        ("{pictures} --checkpoint {pictures}", "is no run and no release"),
        ("gone {run}", "'gone': no such file or folder, and no file that matches it"),
        ("gone*.png {run}", "'gone*.png': no such file or folder, and no file that matches it"),
        ("empty {run}", "empty: there is no picture in it; give a folder, list or archive of some"),
        ("text.txt {run}", "text.txt: is no picture and no archive that can be read, and no list"),
        ("binary {run}", "binary: is no picture and no archive that can be read, and no list"),
        ("broken.zip {run}", "broken.zip can't be read as a zip"),
        ("/dev/null {run}", "/dev/null: is neither a file nor a folder"),
        ("{pictures} {run} -b 0", "batch_size is 0; it must be at least 1"),
        ("{pictures} {run} --topk 0", "topk is 0; it must be at least 1"),
        ("{pictures} {run} --class-map two.txt", "two.txt: names 2 classes, and the network has 3"),
        (
            "{pictures} --model model_iv_atto --checkpoint {folder}/bare.pth --in-chans 1",
            "give --input-size 1 HEIGHT WIDTH",
        ),
        (
            "{pictures} {run} --results-format xlsx",
            "unknown results_format 'xlsx'; known: csv, json, parquet",
        ),
        ("{pictures} {run} --results-file gone/x.csv", "gone/x: no file can be made there"),
        ("{pictures} {run} --results-file .", ".: no file can be made there"),
        ("{pictures} {run} --results-file folder.csv", "folder.csv: is no file"),
        ("{pictures} {run} --device gpu", "device is 'gpu'"),
        ("{pictures} {run} --gpu", "unknown argument '--gpu'"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, weights, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "folder.csv"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text.txt").write_text("no\npaths\n")
    (tmp_path / "two.txt").write_text("ash\noak\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    before = sorted(tmp_path.rglob("*"))
    given = words.format(run=f"--checkpoint {weights / 'run'}", pictures=pictures, folder=weights).split()
    device = [] if "--device" in given else ["--device", "cpu"]
    assert main(["predict", *given, *device, "-j", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("convnext-ablation: error: ")
    assert said.count("\n") == 1
    assert message.format(folder=weights) in said
    assert sorted(tmp_path.rglob("*")) == before
