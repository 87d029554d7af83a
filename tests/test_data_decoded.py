"""Images that are decoded once: what is read of them is what the folder holds, and no half of it ever is."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD
from PIL import Image
from timm.data import create_transform, resolve_data_config

from convnext_ablation.cli import train as command
from convnext_ablation.cli import validate as validation
from convnext_ablation.data import Record, write_manifest
from convnext_ablation.data.decoded import CACHE_VARIABLE, FOLDER, DecodedSplit, open_decoded
from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.images import (
    UNREADABLE,
    EvaluatedImages,
    TrainingImages,
    UnreadableImageError,
    UnreadableImages,
)
from convnext_ablation.training.loaders import evaluation_loader, training_loader
from convnext_ablation.training.splits import count_classes, open_split, open_splits
from convnext_ablation.training.tensor_transforms import on_tensors, to_image

CPU = torch.device("cpu")
NAMES = {"train": {"a1": 5, "a10": 3, "a2": 4}, "val": {"a1": 2, "a2": 2, "a10": 2}}


def write_images(root, grey=()):
    """Photographs of different sizes, as JPEG and PNG; returns `root`."""
    rng = np.random.default_rng(0)
    for split, classes in NAMES.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = (int(side) for side in rng.integers(34, 60, 2))
                pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
                path = root / split / name / f"{number}.{'jpg' if number % 2 else 'png'}"
                Image.fromarray(pixels).convert("L" if number in grey else "RGB").save(path)
    return root


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "data", grey=(2,))


def arguments(root, **changes):
    settings = {
        "input_size": (3, 32, 32),
        "batch_size": 4,
        "validation_batch_size": 4,
        "workers": 0,
        "device": "cpu",
        "color_jitter": None,
        "val_split": "val",
        **changes,
    }
    return TrainingArguments(data_dir=str(root), **settings)


def decoded_files(root):
    return sorted(path.name for path in (root / FOLDER).iterdir() if path.name != ".lock")


def write_folders_manifest(root):
    paths = sorted(path.relative_to(root) for path in root.glob("*/*/*.*"))
    write_manifest(root, [Record(str(p), p.parts[0], p.parts[1], str(p), "0" * 64) for p in paths])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_ids_classes_labels_and_pixels_are_those_of_the_folder(folder, split, mode):
    plain = open_split(arguments(folder, input_img_mode=mode), split)
    cached = open_split(arguments(folder, input_img_mode=mode, dataset="cached"), split)
    assert cached.ids() == plain.ids()
    assert cached.classes == plain.classes == ["a1", "a2", "a10"]
    assert cached.name == plain.name
    sizes = set()
    for index in range(len(plain)):
        (image, target), (pixels, number) = plain.load(index), cached.load(index)
        assert number == target
        assert pixels.shape[0] == len(mode)
        assert np.array_equal(np.asarray(image), np.asarray(to_image(pixels)))
        sizes.add(image.size)
    assert len(sizes) > 1


def test_a_class_map_numbers_classes_and_leaves_out_others(folder, tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("a10\nnone\na1\n")
    plain = open_split(arguments(folder, class_map=str(path)), "train")
    cached = open_split(arguments(folder, class_map=str(path), dataset="cached"), "train")
    assert cached.classes == plain.classes == ["a10", "none", "a1"]
    assert cached.ids() == plain.ids()
    assert len(cached) == 8
    assert [cached.load(index)[1] for index in range(8)] == [2] * 5 + [0] * 3


@pytest.mark.parametrize("dataset", ["", "cached"])
def test_a_class_without_an_image_in_a_split_shifts_no_label_where_classes_are_listed(folder, dataset):
    shutil.rmtree(folder / "val" / "a2")
    given = arguments(folder, dataset=dataset)
    with pytest.raises(UserError, match="its classes are not those of"):
        count_classes(given, open_splits(given))
    (folder / "classes.txt").write_text("a1\na2\na10\nrare\n")
    splits = open_splits(given)
    assert count_classes(given, splits) == 4
    assert [splits["val"].load(index)[1] for index in range(4)] == [0, 0, 2, 2]
    (folder / "classes.txt").write_text("a1\na2\n")
    with pytest.raises(UserError, match=r"classes\.txt: lacks the class 'a10', whose images are in .*train"):
        open_splits(given)
    (folder / "map.txt").write_text("a10\na2\na1\n")
    given = arguments(folder, dataset=dataset, class_map=str(folder / "map.txt"))
    assert open_splits(given)["train"].classes == ["a10", "a2", "a1"]


def test_a_folder_is_decoded_once(folder, capsys):
    open_split(arguments(folder, dataset="cached"), "train")
    assert "12 images decoded, 0.1 MB" in capsys.readouterr().out
    before = [(folder / FOLDER / name).stat().st_ino for name in decoded_files(folder)]
    open_split(arguments(folder, dataset="cached"), "train")
    assert capsys.readouterr().out == ""
    assert [(folder / FOLDER / name).stat().st_ino for name in decoded_files(folder)] == before
    assert len(before) == 1


def test_another_manifest_is_another_file(folder):
    write_folders_manifest(folder)
    first = open_decoded(folder / "train", "RGB")
    Image.new("RGB", (40, 40)).save(folder / "train" / "a1" / "0.png")
    again = open_decoded(folder / "train", "RGB")  # the manifest stands for the images
    assert again.path == first.path
    assert again.pixels(0).any()
    with open(folder / "manifest.csv", "a") as file:
        file.write("val/a1/9.png,val,a1,x," + "1" * 64 + "\n")
    other = open_decoded(folder / "train", "RGB")
    assert other.path != first.path
    assert not other.pixels(0).any()
    assert decoded_files(folder) == [other.path.name]  # the old one is of no use any more
    assert first.pixels(0).any()  # but to those who have it


def test_a_changed_image_without_a_manifest_is_another_file(folder):
    first = open_decoded(folder / "train", "RGB")
    Image.new("RGB", (40, 40)).save(folder / "train" / "a1" / "0.png")
    assert not open_decoded(folder / "train", "RGB").pixels(0).any()
    assert first.pixels(0).any()


def test_a_manifest_without_the_split_says_nothing_of_it(folder):
    write_manifest(folder, [Record("test/a/0.png", "test", "a", "0.png", "0" * 64)])
    before = open_decoded(folder / "train", "RGB").path
    (folder / "train" / "a1" / "0.png").unlink()
    assert open_decoded(folder / "train", "RGB").path != before


DECODE = "import sys; from pathlib import Path; from convnext_ablation.data import decoded, decoding; "


def start(code, folder):
    command = [sys.executable, "-c", DECODE + code, str(folder / "train")]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(folder):
    slow = start(
        "finish = decoding.Build._finish; "
        "decoding.Build._finish = lambda *a: (finish(*a), a[1].flush(), print('there', flush=True), "
        "__import__('time').sleep(60)); decoded.open_decoded(Path(sys.argv[1]), 'RGB')",
        folder,
    )
    assert slow.stdout.readline() == "there\n"
    slow.kill()
    slow.communicate()
    (left,) = decoded_files(folder)
    assert left.endswith(".tmp")
    split = open_decoded(folder / "train", "RGB")
    assert decoded_files(folder) == [split.path.name]
    assert len(split) == 12


def test_two_processes_decode_once(folder):
    code = (
        "run = decoding.Build.run; "
        "decoding.Build.run = lambda build: (__import__('time').sleep(1), run(build), print('built'))[:0]; "
        "print(len(decoded.open_decoded(Path(sys.argv[1]), 'RGB')))"
    )
    both = [start(code, folder) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("built" in output for output in outputs) == 1
    assert all(output.endswith("12\n") for output in outputs)
    assert sum("another process decodes images into" in output for output in outputs) <= 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_file_is_made_again(folder, damage):
    path = open_decoded(folder / "train", "RGB").path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(ValueError, match="is not whole"):
        DecodedSplit(path)
    open_decoded(folder / "train", "RGB")
    assert path.read_bytes() == whole


def test_a_full_disk_is_an_error_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"decoded, .*train takes 0\.1 MB, but 0\.0 MB are free; make room"):
        open_split(arguments(folder, dataset="cached"), "train")
    assert decoded_files(folder) == []


@pytest.fixture
def locked(folder, monkeypatch):
    """The folder as if nothing could be written to it."""
    make = Path.mkdir

    def mkdir(path, *args, **kwargs):
        if path == folder / FOLDER:
            raise PermissionError(13, "Permission denied")
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return folder


def test_a_folder_that_cannot_be_written_to_is_decoded_elsewhere(locked, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=rf"can't be written to \(Permission denied\); .*{CACHE_VARIABLE}"):
        open_decoded(locked / "train", "RGB")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    split = open_decoded(locked / "train", "RGB")
    assert split.path.parent == tmp_path / "elsewhere"
    (locked / "train" / "a1" / "0.png").unlink()
    other = open_decoded(locked / "train", "RGB")
    assert (len(split), len(other)) == (12, 11)
    assert split.path.is_file()  # that may be of another folder


def test_a_place_without_locks_will_do(folder, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / ".train-RGB-0.pixels.1.tmp").touch()  # may be of one who is at work
    assert len(open_decoded(folder / "train", "RGB")) == 12
    assert len(decoded_files(folder)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_img_mode": "RGBA"}, "images of mode RGBA can't be kept decoded"),
        ({"train_split": "tarred"}, r"tarred\.tar is no folder"),
        ({"input_key": ".bmp"}, "train: can't be read as the split 'train': Found 0 images"),
    ],
)
def test_what_cannot_be_decoded_is_an_error(folder, changes, message):
    (folder / "tarred.tar").touch()
    given = arguments(folder, dataset="cached", **changes)
    with pytest.raises(UserError, match=message):
        open_split(given, given.train_split)


@pytest.fixture
def broken(folder):
    """An image cut short, and one that is text."""
    cut = folder / "train" / "a1" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:-900])
    (folder / "train" / "a10" / "0.png").write_text("text")
    return folder


@pytest.mark.parametrize("manifest", [False, True])
def test_broken_images_are_named_and_mended_ones_are_read(broken, manifest):
    if manifest:
        write_folders_manifest(broken)
    with pytest.raises(UserError, match=r"train/a1/1\.jpg: can't be decoded: .*--skip-bad-images 2"):
        open_split(arguments(broken, dataset="cached", skip_bad_images=1), "train")
    given = arguments(broken, skip_bad_images=2)
    plain, cached = (
        open_split(arguments(broken, skip_bad_images=2, dataset=d), "train") for d in ("", "cached")
    )
    index = plain.ids().index("a1/1.jpg")
    for images in (plain, cached):
        with pytest.raises(UnreadableImageError, match=r"a1/1\.jpg: .*truncated"):
            images.load(index)
    assert loaded(cached, given) == loaded(plain, given)
    shutil.copy(broken / "train" / "a1" / "3.jpg", broken / "train" / "a1" / "1.jpg")
    cached = open_split(arguments(broken, dataset="cached", skip_bad_images=1), "train")
    assert torch.equal(cached.load(index)[0], cached.load(cached.ids().index("a1/3.jpg"))[0])


def loaded(images, given):
    """What training and evaluation get to see, and what they say of images that can't be decoded."""
    unreadable = UnreadableImages(allowed=10)
    config = resolve_data_config({"input_size": given.input_size})
    training = TrainingImages(images, given.batch_size, 7, 0, 1, unreadable.path)
    batches = [*training_loader(training, given, config, 3, CPU)]
    evaluated = EvaluatedImages(images, 0, 1, unreadable.path)
    batches += evaluation_loader(evaluated, given, config, CPU)
    unreadable.check()
    targets = torch.cat([targets for _, targets in batches])
    bad = sum(int(target == UNREADABLE) for target in targets.flatten()) if targets.dim() == 1 else 0
    assert bad in (0, len(unreadable.reasons))
    return [(image.numpy().tobytes(), target.tolist()) for image, target in batches], unreadable.reasons


AUGMENTATIONS = {
    "none": {"no_aug": True},
    "default": {},
    "random interpolation": {"train_interpolation": "random", "vflip": 0.5},
    "jitter": {"color_jitter": 0.4},
    "RandAugment": {"aa": "rand-m9-mstd0.5-inc1"},
    "rkrc": {"train_crop_mode": "rkrc"},
}


@pytest.mark.parametrize(
    ("augmentation", "workers"), [*((name, 0) for name in AUGMENTATIONS), ("default", 2)]
)
def test_training_and_evaluation_see_what_they_see_of_the_folder(folder, augmentation, workers):
    given = arguments(folder, workers=workers, **AUGMENTATIONS[augmentation])
    plain, cached = (open_split(arguments(folder, dataset=dataset), "train") for dataset in ("", "cached"))
    assert loaded(cached, given) == loaded(plain, given)


@pytest.mark.parametrize("mode", ["pair", "elem", "batch"])
def test_mixing_mixes_the_same_and_leaves_the_decoded_images_alone(folder, mode):
    for number, path in enumerate(sorted((folder / "train").glob("*/*"))):
        Image.new("RGB", (32, 32), (9 * number, 99, 200)).save(path)  # the crop is all of it
    given = arguments(folder, mixup=0.5, cutmix=1.0, mixup_mode=mode, no_aug=True)
    plain, cached = (open_split(arguments(folder, dataset=dataset), "train") for dataset in ("", "cached"))

    def batches(images):
        training = TrainingImages(images, 4, 7, 0, 1, "")
        config = resolve_data_config({"input_size": given.input_size})
        return [image.numpy().tobytes() for image, _ in training_loader(training, given, config, 3, CPU)]

    before = cached.split.path.read_bytes()
    assert batches(cached) == batches(plain)
    assert cached.split.path.read_bytes() == before


RECIPE = {"scale": (0.765625,) * 2, "ratio": (1.0, 1.0), "color_jitter": None, "interpolation": "bilinear"}
TRANSFORMS = {
    "fine-tuning": {"is_training": True, **RECIPE},
    "fine-tuning, both flips, random interpolation": {
        "is_training": True,
        **RECIPE,
        "vflip": 0.5,
        "interpolation": "random",
    },
    "ImageNet": {"is_training": True, "color_jitter": None},
    "no augmentation": {"is_training": True, "no_aug": True},
    "evaluation": {"crop_pct": 0.875},
    "evaluation, squashed": {"crop_pct": 0.875, "crop_mode": "squash"},
    "evaluation, bordered": {"crop_pct": 0.875, "crop_mode": "border"},
    "evaluation, larger than the image": {"crop_pct": 0.5},
}


@pytest.mark.parametrize("size", [(64, 64), (64, 91), (56, 56), (70, 65)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_tensors_are_those_of_timm_bit_for_bit(name, size):
    transform = create_transform((3, 56, 56), use_prefetcher=True, **TRANSFORMS[name])
    ours = on_tensors(transform)
    rng = np.random.default_rng(0)
    for seed in range(40):
        pixels = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
        before, results, left = pixels.clone(), [], []
        for prepare, image in ((transform, to_image(pixels)), (ours, pixels)):
            random.seed(seed)
            torch.manual_seed(seed)
            results.append(prepare(image))
            left.append((random.random(), torch.rand(1).item()))
        assert torch.equal(*results)
        assert left[0] == left[1]
        assert torch.equal(pixels, before)


def test_what_the_recipe_for_birds_does_needs_no_pillow(monkeypatch):
    def refuse(*_):
        raise AssertionError("Pillow is used")

    monkeypatch.setattr("convnext_ablation.training.tensor_transforms.to_image", refuse)
    pixels = torch.zeros((3, 256, 256), dtype=torch.uint8)
    for options in (TRANSFORMS["fine-tuning"], TRANSFORMS["evaluation"]):
        transform = create_transform((3, 224, 224), use_prefetcher=True, **options)
        assert on_tensors(transform)(pixels).shape == (3, 224, 224)


def test_other_processes_open_the_same_file(folder):
    split = open_decoded(folder / "train", "RGB")
    copy = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 500  # and get no copy of it
    assert all(torch.equal(copy.pixels(number), split.pixels(number)) for number in range(len(split)))
    assert copy.id(3) == split.id(3)


def train(root, output, dataset):
    options = (
        f"--model model_v_atto --input-size 3 32 32 --batch-size 4 --epochs 1 --warmup-epochs 0 --lr 0.01 \
        --val-split val --device cpu --workers 0 --dataset={dataset} --output {output} --experiment run"
    )
    assert command.main([str(root), *options.split()]) == 0
    return load_checkpoint(output / "run" / "last.pth.tar")["state_dict"]


def test_train_py_and_validate_py_come_to_the_same_from_either(folder, tmp_path, capsys):
    plain, cached = (train(folder, tmp_path / (name or "plain"), name) for name in ("", "cached"))
    assert plain.keys() == cached.keys()
    assert all(torch.equal(plain[name], cached[name]) for name in plain)
    checkpoint = tmp_path / "plain" / "run" / "last.pth.tar"
    written = []
    for name in ("", "cached"):
        options = f"--split val --checkpoint {checkpoint} --device cpu --workers 0 --dataset={name} \
            --predictions-file {tmp_path / 'predictions.csv'}"
        assert validation.main([str(folder), *options.split()]) == 0
        written.append((tmp_path / "predictions.csv").read_text())
    assert written[0] == written[1]
    assert "a10/0.png,2," in written[0]
    assert json.loads(capsys.readouterr().out.split("--result\n")[-1])["top1"] >= 0
