"""Classes are numbered by their names, whatever else is in a folder, in any spelling and locale."""

import builtins
import csv
import json
import pickle
import re
import shutil
import unicodedata

import pytest
import torch
from safetensors.torch import save_file

from convnext_ablation.cli import train as train_command
from convnext_ablation.cli import validate as validate_command
from convnext_ablation.data.class_names import read_class_map, spelled
from convnext_ablation.errors import UserError
from convnext_ablation.training.checkpoints import load_checkpoint, save_checkpoint
from convnext_ablation.training.parts import Parts
from convnext_ablation.training.splits import open_split, open_splits


@pytest.fixture
def data(image_folder, tmp_path):
    """A folder of images whose classes have names that are hard."""
    for split in ("train", "val"):
        for name, hard in {
            "dark": "Weiß",
            "grey": unicodedata.normalize("NFD", "é"),
            "light": "a b ",
        }.items():
            shutil.copytree(image_folder / split / name, tmp_path / "data" / split / hard)
    return tmp_path / "data"


def targets(images):
    return {images.id(i).split("/")[0].strip(): images.load(i)[1] for i in range(len(images))}


def test_a_list_of_classes_is_utf8_and_matches_either_form_of_accents(data, arguments, monkeypatch):
    (data / "classes.txt").write_bytes("\ufeffé\r\na b\r\nWeiß\r\n".encode())
    opened = builtins.open

    def as_on_windows(file, mode="r", *args, **options):
        if "b" not in mode and len(args) < 2:
            options["encoding"] = options.get("encoding") or "cp1252"
        return opened(file, mode, *args, **options)

    monkeypatch.setattr(builtins, "open", as_on_windows)
    images = open_split(arguments(data_dir=str(data)), "train")
    assert images.classes == ["é", "a b", "Weiß"]
    assert targets(images) == {unicodedata.normalize("NFD", "é"): 0, "a b": 1, "Weiß": 2}


def test_names_are_spelled_alike_in_any_locale():
    in_ascii = "Wei\udcc3\udc9f"  # what Python makes of UTF-8 there
    assert spelled(in_ascii) == spelled(" Weiß ") == "Weiß"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/oak/0.png", "b/oak/0.png"), "would be one class; rename one"),
        (("dark/0.png", "oak/0.HEIC"), "no picture beside oak/0.HEIC is of a format that is read"),
    ],
)
def test_a_class_is_neither_joined_nor_lost_in_training(arguments, tmp_path, files, message):
    for name in files:
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        open_split(arguments(data_dir=str(tmp_path)), "train")


def test_two_folders_of_one_name_are_refused(data, arguments):
    (data / "train" / "é").mkdir()
    image = next((data / "train").glob("*/*.png"))
    shutil.copy(image, data / "train" / "é")
    with pytest.raises(UserError, match="two classes are called 'é' but for blanks or accents; rename one"):
        open_split(arguments(data_dir=str(data)), "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "map.txt",
            "dark\ngray\nlight\n",
            r"lacks the class 'grey' \(nearest: 'gray'\), whose images are in .*train",
        ),
        ("map.txt", "dark\n\ngrey\nlight\n", "line 2 is empty"),
        ("map.txt", "dark\ngrey\nlight\ndark\n", "two classes are called 'dark'"),
        (
            "map.txt",
            "dark\ngrey\nlight\nrare\n",
            r"map\.txt: of 'rare' there is no image in .*train; fix the map",
        ),
        ("map.txt", b"dark\xe9\n", "can't be read as a class map, names in UTF-8"),
        (
            "map.pkl",
            {"dark": 1, "grey": 2, "light": 3},
            "numbered 0, 1, 2, .* and here 1, 2, 3; renumber them",
        ),
        ("map.pkl", {"dark": 0, "grey": 2, "light": 3}, "without a gap, and here 0, 2, 3"),
        ("map.pkl", {"dark": "0"}, "and here '0'"),
        ("map.pkl", ["dark"], "holds a list; a class map is a dictionary"),
        ("map.pkl", {"dark": eval}, r"refused, it names builtins\.eval"),
        ("none.txt", None, "can't be read as a class map"),
    ],
)
def test_a_class_map_that_does_not_fit_is_one_line(arguments, tmp_path, name, content, message):
    if content is not None:
        as_bytes = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(as_bytes if name.endswith(".txt") else pickle.dumps(content))
    with pytest.raises(UserError, match=message) as raised:
        open_splits(arguments(class_map=str(tmp_path / name)))
    assert "\n" not in str(raised.value)


def test_a_class_map_may_join_classes(arguments, tmp_path):
    (tmp_path / "map.pkl").write_bytes(pickle.dumps({"dark": 1, "light": 0, "grey": 1}))
    assert read_class_map(tmp_path / "map.pkl") == {"dark": 1, "light": 0, "grey": 1}
    images = open_split(arguments(class_map=str(tmp_path / "map.pkl")), "val")
    assert images.classes == ["light", "dark, grey"]
    assert targets(images) == {"dark": 1, "grey": 1, "light": 0}


@pytest.mark.parametrize("labels", [["ash", None, "oak"], [0, -1, 1], [0, None, 1]])
def test_images_without_a_label_are_refused(arguments, tmp_path, image_folder, labels):
    datasets = pytest.importorskip("datasets")
    files = [str(image_folder / "train" / "dark" / f"0{number}.png") for number in range(3)]
    table = datasets.Dataset.from_dict({"image": files, "label": labels})
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "d" / "train.parquet")
    given = arguments(dataset=f"hfds/{tmp_path / 'd'}", data_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="train: 1 of 3 images have no label, such as number 1;"):
        open_split(given, "train")


def test_a_data_set_whose_labels_are_words_is_numbered_by_a_class_map(arguments, tmp_path, image_folder):
    datasets = pytest.importorskip("datasets")
    files = [str(image_folder / "train" / "dark" / f"0{number}.png") for number in range(3)]
    table = datasets.Dataset.from_dict({"image": files, "label": ["oak", "ash", "oak"]})
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "d" / "train.parquet")
    given = {"dataset": f"hfds/{tmp_path / 'd'}", "data_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=re.escape("its labels are strings; number them with --class-map")):
        open_split(arguments(**given), "train")
    (tmp_path / "map.txt").write_text("oak\nash\n")
    images = open_split(arguments(**given, class_map=str(tmp_path / "map.txt")), "train")
    assert [images.load(index)[1] for index in range(3)] == [0, 1, 0]
    assert images.classes == ["oak", "ash"]


CPU = ("--device", "cpu", "-j", "0")


@pytest.fixture(scope="module")
def trained(image_folder, recipe_file, tmp_path_factory):
    """A checkpoint of a network that tells three classes apart."""
    folder = tmp_path_factory.mktemp("trained")
    given = (image_folder, "-c", recipe_file, "--model", "model_i_atto", "--output", folder, "--epochs", "1")
    assert train_command.main([*map(str, (*given, "--experiment", "run", *CPU))]) == 0
    return folder / "run" / "last.pth.tar"


@pytest.fixture
def validate(tmp_path):
    """Validates; returns the predictions by image and the lines of the classes."""

    def run(data, *more):
        files = tmp_path / "predictions.csv", tmp_path / "classes.csv"
        written = ("--predictions-file", files[0], "--per-class-file", files[1])
        code = validate_command.main([*map(str, (data, "--split", "test", *CPU, *written, *more))])
        if code:
            return code
        rows, classes = (list(csv.DictReader(file.open(encoding="utf-8"))) for file in files)
        return {row["id"]: row for row in rows}, [(each["class"], each["images"]) for each in classes]

    return run


@pytest.fixture
def without_dark(image_folder, tmp_path):
    """The test images without the first class."""
    shutil.copytree(image_folder / "test", tmp_path / "less" / "test")
    shutil.rmtree(tmp_path / "less" / "test" / "dark")
    return tmp_path / "less"


def test_a_split_that_lacks_a_class_is_validated_by_name(
    trained, validate, image_folder, without_dark, capsys
):
    assert load_checkpoint(trained)["convnext_ablation"]["classes"] == ["dark", "grey", "light"]
    every, _ = validate(image_folder, "--checkpoint", trained)
    capsys.readouterr()
    less, classes = validate(without_dark, "--checkpoint", trained)
    assert classes == [("dark", "0"), ("grey", "7"), ("light", "7")]
    assert less == {name: row for name, row in every.items() if not name.startswith("dark")}
    assert "test: has no image of 'dark'" in capsys.readouterr().out


def test_classes_of_other_names_are_named_or_mapped(
    trained, validate, image_folder, without_dark, tmp_path, capsys
):
    (without_dark / "test" / "grey").rename(without_dark / "test" / "gray")
    assert validate(without_dark, "--checkpoint", trained) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"last\.pth\.tar: lacks the class 'gray' \(nearest: 'grey'\), whose images are in", error
    )
    assert error.count("\n") == 1
    (tmp_path / "map.txt").write_text("dark\ngray\nlight\n")
    _, classes = validate(without_dark, "--checkpoint", trained, "--class-map", tmp_path / "map.txt")
    assert classes == [("dark", "0"), ("gray", "7"), ("light", "7")]
    (tmp_path / "map.txt").write_text("light\ngray\ndark\n")
    assert validate(without_dark, "--checkpoint", trained, "--class-map", tmp_path / "map.txt") == 2
    assert "numbers 'light', 'dark' differently; leave --class-map out" in capsys.readouterr().err


def test_fine_tuning_takes_over_the_head_of_a_release_by_name(trained, arguments, tmp_path):
    state = {name: each.contiguous() for name, each in load_checkpoint(trained)["state_dict"].items()}
    save_file(state, tmp_path / "model.safetensors")
    labels = {"architecture": "model_i_atto", "num_classes": 3, "label_names": ["light", "dark", "grey"]}
    (tmp_path / "config.json").write_text(json.dumps({**labels, "pretrained_cfg": {}}))
    run = Parts(arguments(initial_checkpoint=str(tmp_path / "model.safetensors")), tmp_path)
    order = [1, 2, 0]  # of dark, grey and light in the release
    weight = state["head.fc.weight"][order]
    torch.testing.assert_close(run.model.get_classifier().weight, weight, rtol=0, atol=0)


@pytest.mark.parametrize("args", [True, False])
def test_a_network_without_names_needs_all_its_classes_or_a_map(
    trained, validate, without_dark, tmp_path, capsys, args
):
    state = load_checkpoint(trained)
    del state["convnext_ablation"]
    if not args:  # bare weights
        state = {"state_dict": state["state_dict"]}
    save_checkpoint(tmp_path / "timms.pth.tar", state)
    given = (without_dark, "--checkpoint", tmp_path / "timms.pth.tar")
    if not args:
        given += ("--model", "model_i_atto", "--input-size", "1", "32", "32", "--mean", "0.5", "--std", "0.5")
        given += ("--crop-pct", "1", "--interpolation", "bilinear")
    assert validate(*given) == 2
    error = capsys.readouterr().err
    assert re.search(
        "has 2 classes and the network 3, whose names aren't known; number .*--class-map\n", error
    )
    (tmp_path / "map.txt").write_text("dark\ngrey\nlight\n")
    by_map, _ = validate(*given, "--class-map", tmp_path / "map.txt")
    assert by_map == validate(without_dark, "--checkpoint", trained)[0]


def test_fine_tuning_takes_over_a_head_by_name(trained, arguments, tmp_path, image_folder):
    weight = load_checkpoint(trained)["state_dict"]["head.fc.weight"]
    (tmp_path / "map.txt").write_text("light\ndark\ngrey\n")
    given = {"initial_checkpoint": str(trained), "class_map": str(tmp_path / "map.txt")}
    run = Parts(arguments(**given), tmp_path)
    torch.testing.assert_close(run.model.get_classifier().weight, weight[[2, 0, 1]], rtol=0, atol=0)
    shutil.copytree(image_folder, tmp_path / "other")
    for split in ("train", "val"):
        (tmp_path / "other" / split / "dark").rename(tmp_path / "other" / split / "black")
    with pytest.raises(
        UserError, match=r"lacks the class 'black', .*--pretrained-path, which makes a new head"
    ):
        Parts(arguments(initial_checkpoint=str(trained), data_dir=str(tmp_path / "other")), tmp_path)


def test_a_run_resumes_with_the_numbers_that_it_began_with(
    trained, tmp_path, image_folder, recipe_file, capsys
):
    shutil.copytree(trained.parent, tmp_path / "run")
    data = shutil.copytree(image_folder, tmp_path / "data")
    (data / "classes.txt").write_text("light\ndark\ngrey\n")
    given = (data, "-c", recipe_file, "--model", "model_i_atto", "--output", tmp_path, "--epochs", "2")
    given = [*map(str, (*given, "--experiment", "run", *CPU, "--resume", "auto"))]
    assert train_command.main(given) == 0
    assert load_checkpoint(tmp_path / "run" / "last.pth.tar")["convnext_ablation"]["classes"][0] == "dark"
