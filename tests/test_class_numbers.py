"""Classes are numbered by their names, whatever else is in a folder, in any spelling and locale."""

import builtins
import pickle
import re
import shutil
import unicodedata

import pytest

from convnext_ablation.data.class_names import read_class_map, spelled
from convnext_ablation.errors import UserError
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
            r"map\.txt: of 'rare' there is no image in .*train; mend the map",
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
        ("map.pkl", {"dark": print}, r"refused, it names builtins\.print"),
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
    with pytest.raises(UserError, match=re.escape("its labels are words; number them with --class-map")):
        open_split(arguments(**given), "train")
    (tmp_path / "map.txt").write_text("oak\nash\n")
    images = open_split(arguments(**given, class_map=str(tmp_path / "map.txt")), "train")
    assert [images.load(index)[1] for index in range(3)] == [0, 1, 0]
    assert images.classes == ["oak", "ash"]
