"""`convnext-ablation data-report`: what it finds, what it writes, and that nothing is read twice."""

import csv
import itertools
import os

import numpy as np
import pytest
from page_reader import read
from PIL import Image, ImageEnhance

from convnext_ablation.cli.main import main
from convnext_ablation.data import audit, folder, measure, overlap
from convnext_ablation.data.audit import data_report
from convnext_ablation.data.folder import Record, check_folder, write_manifest
from convnext_ablation.data.overlap import HASHES, near_pairs
from convnext_ablation.errors import UserError
from convnext_ablation.training.predictions import excluded_ids


def photograph(number, size=(96, 72)):
    """A picture unlike those of other numbers, with large shapes and fine detail."""
    rng = np.random.default_rng(number)
    shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    detail = rng.normal(0, 4, (size[1], size[0], 3))
    pixels = np.asarray(shapes.resize(size, Image.Resampling.BICUBIC)) + detail
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def put(root, id_, content, quality=85):
    path = root / id_
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, quality=quality)


@pytest.fixture
def birds(tmp_path):
    """Two classes in three splits, no two images alike."""
    root = tmp_path / "birds"
    numbers = itertools.count()
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for name in ("crow", "wren"):
            for index in range(count):
                put(root, f"{split}/{name}/{index}.jpg", photograph(next(numbers)))
    return root


def found(report, *kinds):
    return {(each.kind, each.id, each.other) for each in report.findings if each.kind in kinds}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def excluded(folder):
    return (folder / "report" / "exclude_test.txt").read_text().split()


def test_a_faultless_set_has_no_findings_and_is_left_as_it_is(birds, capsys):
    fingerprint = check_folder(birds).fingerprint
    assert data_report(birds).findings == rows(birds / "report" / "findings.csv") == excluded(birds) == []
    assert check_folder(birds).fingerprint == fingerprint
    out = capsys.readouterr().out
    assert "train: 8 images, 2 classes of 4 to 4 images (ratio 1.00)" in out
    assert "0 test images in exclude_test.txt\n" in out


def test_copies_are_found_within_and_across_splits(birds, capsys):
    original = (birds / "train/crow/0.jpg").read_bytes()
    put(birds, "test/crow/same.jpg", original)
    put(birds, "val/wren/same.jpg", original)
    put(birds, "train/wren/again.png", Image.open(birds / "train/wren/0.jpg"))
    # copies of validation images are listed and not excluded
    put(birds, "test/wren/val.jpg", (birds / "val/crow/0.jpg").read_bytes())
    assert found(data_report(birds), "same_pixels", "near") == {
        ("same_pixels", "test/wren/val.jpg", "val/crow/0.jpg"),
        ("same_pixels", "test/crow/same.jpg", "train/crow/0.jpg"),
        ("same_pixels", "val/wren/same.jpg", "train/crow/0.jpg"),
        ("same_pixels", "train/wren/again.png", "train/wren/0.jpg"),
    }
    assert excluded(birds) == ["test/crow/same.jpg"]
    listed, ids = birds / "report" / "exclude_test.txt", ["crow/0.jpg", "crow/same.jpg"]
    assert excluded_ids(listed, ids, str(birds / "test"), "test") == {"crow/same.jpg"}
    lines = {row["id"]: row for row in rows(birds / "report" / "findings.csv")}
    other = lines["val/wren/same.jpg"]
    assert [other[name] for name in ("class", "other_split", "other_class")] == ["wren", "train", "crow"]
    assert "4 exact copies: 3 across splits, 2 with different classes" in capsys.readouterr().out


COPIES = {
    "crow/0": lambda image: image.resize((48, 36), Image.Resampling.BICUBIC),
    "crow/1": lambda image: image.resize((80, 80), Image.Resampling.BILINEAR),
    "crow/2": lambda image: image.crop((1, 1, 95, 71)),
    "crow/3": lambda image: image,  # only compressed again, as all are
    "wren/0": lambda image: image.convert("L"),
    "wren/1": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
}


def test_changed_copies_are_near_and_others_are_not(birds):
    ids = {}
    for name, change in COPIES.items():
        ids[f"test/wren/{name[0]}{name[-1]}.jpg"] = f"train/{name}.jpg"
        put(birds, f"test/wren/{name[0]}{name[-1]}.jpg", change(Image.open(birds / f"train/{name}.jpg")), 40)
    report = data_report(birds)
    assert found(report, "near", "same_pixels") == {("near", *both) for both in ids.items()}
    assert excluded(birds) == sorted(ids)
    pairs = [row for row in rows(birds / "report" / "findings.csv") if row["kind"] == "near"]
    assert all(int(pair["distance"]) <= 6 for pair in pairs)


def test_broken_images_and_odd_ones_stop_nothing(birds):
    whole = (birds / "train/crow/1.jpg").read_bytes()
    put(birds, "train/crow/cut.jpg", whole[: len(whole) // 2])
    put(birds, "test/wren/text.png", b"no image")
    (birds / "train/crow/gone.jpg").symlink_to(birds / "nowhere.jpg")
    put(birds, "train/wren/blank.png", Image.new("RGB", (40, 40), "red"))
    put(birds, "val/wren/grey.png", photograph(51).convert("L").convert("RGB"))
    put(birds, "train/wren/notes.txt", b"")
    put(birds, "test/astray.jpg", whole)
    put(birds, "train/jay/0.jpg", photograph(60))
    (birds / "val/jay").mkdir()
    report = data_report(birds)
    assert {(each.kind, each.id or f"{each.split}/{each.class_name}") for each in report.findings} == {
        ("broken", "train/crow/cut.jpg"),
        ("broken", "train/crow/gone.jpg"),
        ("broken", "test/wren/text.png"),
        ("flat", "train/wren/blank.png"),
        ("greyscale", "val/wren/grey.png"),
        ("not_read", "train/wren/notes.txt"),
        ("not_read", "test/astray.jpg"),
        ("missing_class", "val/jay"),
        ("missing_class", "test/jay"),
    }
    notes = {each.id: each.note for each in report.findings}
    assert "truncated" in notes["train/crow/cut.jpg"]
    assert notes["test/wren/text.png"] == "cannot identify image file"
    assert "<code>test/jay</code>" in (birds / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("top", "train"),
    [("", "train/"), ("", "Training/"), ("", ""), ("deep/set/", "TRAIN/"), ("deep/set/", "")],
)
def test_other_layouts_are_looked_at_before_anything_is_prepared(tmp_path, top, train):
    root = tmp_path / "mine"
    for number, name in enumerate(("crow", "wren", "jay")):
        for index in range(3):
            put(root, f"{top}{train}{name}/{index}.jpg", photograph(number * 10 + index))
    put(root, f"{top}{train}crow/same.jpg", (root / f"{top}{train}crow/0.jpg").read_bytes())
    put(root, f"{top}{train}crow/note.txt", b"x")
    put(root, f"{top}README.md", b"x")
    report = data_report(root)
    assert found(report, "same_pixels") == {("same_pixels", f"{train}crow/same.jpg", f"{train}crow/0.jpg")}
    assert f"{train}crow/note.txt" in {each.id for each in report.findings if each.kind == "not_read"}
    assert [counts.total() for counts in report.contents.counts().values()] == [10]
    place = tmp_path / "mine_report" if not top and not train else root / "report"
    assert (place / "index.html").exists()
    assert data_report(root).findings == report.findings
    if not train:
        with pytest.raises(UserError, match="is among the images of"):
            data_report(root, output=root / top / "report")


@pytest.fixture
def seen(monkeypatch):
    """Names of the images that are measured."""
    names, original = [], measure.measure_image
    monkeypatch.setattr(measure, "measure_image", lambda path: names.append(path.name) or original(path))
    return names


def test_images_are_read_again_only_when_they_change(birds, seen):
    data_report(birds)
    seen.clear()
    put(birds, "train/crow/3.jpg", photograph(80))
    os.utime(birds / "val/crow/0.jpg", ns=(1, 1))
    data_report(birds)
    assert sorted(seen) == ["0.jpg", "3.jpg"]


def test_an_interrupted_run_resumes(birds, monkeypatch, capsys, seen):
    monkeypatch.setattr(folder, "_AT_A_TIME", 2)
    monkeypatch.setattr(folder, "available_cores", lambda: 0)
    original = measure.measure_image

    def interrupted(path):
        if path.parts[-3:] == ("train", "wren", "2.jpg"):
            raise KeyboardInterrupt
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "measure_image", interrupted)
        assert main(["data-report", str(birds)]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    with open(birds / "report" / "cache" / "measured.jsonl", "a") as file:  # as a killed run leaves it
        file.write('["train/wren/2.jpg", "1:2", ["ab", ')
    seen.clear()
    assert main(["data-report", str(birds)]) == 0
    assert len(seen) == 8


def random_hashes(rng, count, centres):
    """Hashes a few bits from some centres, so that many are near."""
    found = np.zeros(count, HASHES)
    found["number"] = rng.permutation(count)
    found["group"] = rng.integers(0, count // 2, count)
    for name in ("phash", "dhash"):
        found[name] = centres[rng.integers(0, len(centres), count)]
        for _ in range(3):
            found[name] ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
    return found


@pytest.mark.parametrize(("within", "most"), [(False, 5), (True, 10_000)])
def test_all_pairs_agree_with_one_by_one(monkeypatch, within, most):
    monkeypatch.setattr(overlap, "_AT_A_TIME", 7)
    monkeypatch.setattr(overlap, "MOST_PAIRS", most)
    rng = np.random.default_rng(3)
    centres = rng.integers(0, 2**63, 6, dtype=np.uint64)
    one, two = random_hashes(rng, 60, centres), random_hashes(rng, 45, centres)
    other = one if within else two
    expected = set()
    for a in range(60):
        for b in range(a + 1 if within else 0, len(other)):
            p, d = ((int(one[name][a]) ^ int(other[name][b])).bit_count() for name in ("phash", "dhash"))
            if p <= 6 and d <= 6 and one["group"][a] != other["group"][b]:
                expected.add((int(one["number"][a]), int(other["number"][b]), max(p, d)))
    assert len(expected) > 30
    pairs = near_pairs(one, None if within else two, 6)
    assert set(map(tuple, pairs.tolist())) <= expected
    assert pairs[:, 2].tolist() == sorted(bits for _, _, bits in expected)[:most]


def test_images_with_imagenet_ids_are_looked_up_without_reading_any(tmp_path):
    dogs, imagenet = tmp_path / "dogs", tmp_path / "imagenet"
    for number in (1, 3, 33):
        put(imagenet, f"train/n02085620/n02085620_{number}.JPEG", b"not read")
    # with a manifest the id is that of the source
    sources = {
        "train/Chihuahua/n02085620_1.jpg": "n02085620_1",
        "train/Chihuahua/n02085620_2.jpg": "n02085620_2",
        "test/Chihuahua/0001.jpg": "n02085620_33",
        "test/Chihuahua/n02085620_3.jpg": "n02085620_3",
    }
    for number, id_ in enumerate(sources):
        put(dogs, id_, photograph(number))
    records = [Record(id_, *id_.split("/")[:2], f"{each}.jpg", "") for id_, each in sources.items()]
    write_manifest(dogs, records)
    assert found(data_report(dogs, against=imagenet), "pretraining_id") == {
        ("pretraining_id", id_, f"train/n02085620/{each}.JPEG")
        for id_, each in sources.items()
        if each != "n02085620_2"
    }
    assert excluded(dogs) == ["test/Chihuahua/0001.jpg", "test/Chihuahua/n02085620_3.jpg"]


def test_other_images_are_compared_by_hash_and_hashed_once(birds, tmp_path, seen, capsys):
    imagenet = tmp_path / "imagenet"
    small = Image.open(birds / "test/crow/1.jpg").resize((64, 50), Image.Resampling.BICUBIC)
    put(imagenet, "train/n01530575/n01530575_1.JPEG", small)
    put(imagenet, "train/n01530575/n01530575_3.JPEG", b"broken")
    put(imagenet, "val/ILSVRC2012_val_00000001.JPEG", (birds / "train/wren/3.jpg").read_bytes())
    data_report(birds)
    seen.clear()
    for _ in range(2):
        assert found(data_report(birds, against=imagenet), "pretraining_near") == {
            ("pretraining_near", "test/crow/1.jpg", "train/n01530575/n01530575_1.JPEG"),
            ("pretraining_near", "train/wren/3.jpg", "val/ILSVRC2012_val_00000001.JPEG"),
        }
    assert seen[3:] == ["n01530575_3.JPEG"]  # all of them once; that without a hash again
    assert excluded(birds) == ["test/crow/1.jpg"]
    assert "2 images in the pre-training set (train: 1, val: 0, test: 1)" in capsys.readouterr().out


def test_the_page_stands_alone_and_says_how_many_pairs_there_are(birds, monkeypatch):
    odd = "jay <b>&amp;"
    put(birds, f"train/{odd}/0.jpg", photograph(90))
    put(birds, f"test/{odd}/0.jpg", photograph(90), quality=50)
    for name in ("crow/0", "wren/0"):
        put(birds, f"train/{name}_copy.jpg", Image.open(birds / f"train/{name}.jpg"), 50)
    monkeypatch.setattr(audit, "SHOWN", 1)
    data_report(birds)
    reader, text = read(birds / "report" / "index.html")
    assert "http" not in text
    assert not reader.all("script") + reader.all("link") + reader.all("b")
    # a pair across training and test comes first
    pictures = reader.all("img")
    assert [picture["alt"] for picture in pictures] == [f"test/{odd}/0.jpg", f"train/{odd}/0.jpg"]
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in pictures)
    assert "3 in all; 1 are shown, all are in findings.csv" in "".join(reader.text)


def test_the_command_line_has_all_of_it(birds, tmp_path, capsys):
    put(birds, "test/wren/copy.jpg", Image.open(birds / "train/crow/2.jpg").crop((3, 2, 93, 70)), 60)
    arguments = ["data-report", str(birds), "--output", str(tmp_path / "out"), "--distance"]
    for distance, pairs in (("20", 1), ("2", 0)):
        assert main([*arguments, distance]) == 0
        assert f"{pairs} near duplicates" in capsys.readouterr().out
        assert ("<img" in (tmp_path / "out" / "index.html").read_text()) == bool(pairs)
    assert not (birds / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: holds no split"),
        (["birds", "--against", "empty"], "empty: holds no image; --against"),
        (["birds", "--output", "birds/train/report"], "is among the images of train"),
        (["birds", "--distance", "-1"], "distance is -1"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_before_anything_is_read(
    birds, tmp_path, monkeypatch, capsys, seen, arguments, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["data-report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert seen == []
