"""What is trained on and evaluated: the same images for any number of workers and processes, none lost."""

import gc
import multiprocessing
import os
import shutil
from collections import UserList

import pytest
import torch
from official_archives import jpeg, write_folder
from timm.data import create_dataset, resolve_data_config

from convnext_ablation.data.folder import check_folder
from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.images import EvaluatedImages, Images, TrainingImages, balanced_weights
from convnext_ablation.training.loaders import evaluation_loader, training_loader, worker_errors
from convnext_ablation.training.splits import count_classes, leave_out_broken, open_split, open_splits

CPU = torch.device("cpu")


def test_a_folder_is_read_in_the_order_of_timm(tmp_path):
    names = ["b2/10.jpg", "b2/9.png", "b10/B.JPEG", "b10/a.jpg", "Cat/x/y/1.jpg", "b10/sub/2.jpg"]
    write_folder(tmp_path / "train", dict.fromkeys(names, jpeg(1)))
    ours = open_split(TrainingArguments(data_dir=str(tmp_path)), "train")
    reader = create_dataset("", root=str(tmp_path), split="train").reader
    assert ours.reader.samples == reader.samples
    assert ours.reader.class_to_idx == reader.class_to_idx
    assert ours.ids() == reader.filenames()


def test_a_folder_is_read_by_the_rule_of_prepare(tmp_path):
    used = ["ash/0.jfif", "ash/1.TIF", "oak/0.bmp", "oak/photo", "yew/0.webp"]
    other = {"ash/._0.jpg": b"x", "oak/notes.txt": b"x", "yew/a.eps": b"%!PS", ".git/a.png": b"x"}
    write_folder(tmp_path / "train", dict.fromkeys(used, jpeg(1)) | other)
    images = open_split(TrainingArguments(data_dir=str(tmp_path)), "train")
    assert images.classes == ["ash", "oak", "yew"]
    assert images.ids() == used
    assert [images.load(index)[1] for index in range(5)] == [0, 0, 1, 1, 2]
    assert images.reader.skipped == {
        ".git/a.png": "hidden",
        "ash/._0.jpg": "macOS metadata",
        "oak/notes.txt": "licence or notes",
        "yew/a.eps": "not a picture",
    }
    assert "not a picture: 1 .eps ('yew/a.eps')" in images.skipped
    assert check_folder(tmp_path, ["train"]).counts == {"train": 5}
    (tmp_path / "train" / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(UserError, match=r"train/1\.jpg is in no class folder; move it into one"):
        open_split(TrainingArguments(data_dir=str(tmp_path)), "train")


def batches(given, epoch=0, first=0, rank=0, world_size=1, chances=None):
    """The training batches of a process from a point of an epoch on, with new workers."""
    train = open_split(given, "train")
    images = TrainingImages(train, given.batch_size, 7, rank, world_size, chances=chances)
    images.start_at(epoch, first)
    return list(training_loader(images, given, resolve_data_config(given.preprocessing()), 3, CPU))


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


AUGMENTED = {"mixup": 0.4, "cutmix": 1.0, "color_jitter": 0.4, "aa": "rand-m9-mstd0.5"}


def test_any_number_of_workers_reads_the_same_batches_from_any_on(arguments):
    alone = batches(arguments(**AUGMENTED), epoch=2)
    assert len(alone) == 6
    assert same(batches(arguments(**AUGMENTED), epoch=2, first=4), alone[4:])
    assert same(batches(arguments(**AUGMENTED, workers=2), epoch=2, first=0), alone)
    assert same(batches(arguments(**AUGMENTED, workers=2), epoch=2, first=4), alone[4:])


def test_an_epoch_is_another_order_with_other_crops(arguments):
    one, two = batches(arguments(), epoch=0), batches(arguments(), epoch=1)
    assert not torch.equal(one[0][1], two[0][1]) or not torch.equal(one[1][1], two[1][1])
    assert not same(one, two)
    counts = torch.bincount(torch.cat([targets for _, targets in two]))
    assert counts.tolist() == [16, 16, 16]


@pytest.mark.parametrize("chances", [None, torch.arange(48.0)])
def test_two_processes_share_out_the_batches_of_one(arguments, chances):
    halves = [batches(arguments(batch_size=4), rank=rank, world_size=2, chances=chances) for rank in (0, 1)]
    whole = batches(arguments(batch_size=8), chances=chances)
    for (images, targets), one, two in zip(whole, *halves, strict=True):
        assert torch.equal(images, torch.cat([one[0], two[0]]))
        assert torch.equal(targets, torch.cat([one[1], two[1]]))


def test_a_balanced_epoch_has_as_many_images_and_its_classes_are_equally_frequent(arguments, tmp_path):
    counts = {"dark": 90, "grey": 9, "light": 1}
    names = (f"{name}/{number}.jpg" for name, count in counts.items() for number in range(count))
    write_folder(tmp_path / "train", dict.fromkeys(names, jpeg(1)))
    images = open_split(arguments(data_dir=str(tmp_path)), "train")
    labels = images.labels()
    weights = balanced_weights(labels, 4)  # of a fourth class there is no image
    assert weights.tolist() == pytest.approx([100 / 270, 100 / 27, 100 / 3, 0])
    drawn = TrainingImages(images, 8, 7, 0, 1, chances=weights[labels])
    orders = [drawn.order(epoch) for epoch in range(30)]
    assert {len(order) for order in orders} == {100}
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], drawn.order(1))
    assert all(900 < count < 1100 for count in torch.bincount(labels[torch.cat(orders)]))


def test_labels_are_told_before_images_are_read_or_that_is_said():
    reader = UserList("abc")
    reader.class_to_idx = {"ash": 0, "oak": 1}
    images = Images(reader, "L", "mine")
    with pytest.raises(
        UserError, match="mine: doesn't tell the classes of its images before they are read; le"
    ):
        images.labels()
    reader.targets = torch.tensor([1, 1, 0])
    assert images.labels().tolist() == [1, 1, 0]
    images.number_by({"oak": 0, "ash": 1}, "a map", "fix it")
    assert images.labels().tolist() == [0, 0, 1]


def test_an_image_that_is_drawn_twice_is_augmented_anew(arguments):
    given, once = arguments(batch_size=24, aa="rand-m9-mstd0.5"), torch.eye(48)[5]
    (one, _), (two, _) = batches(given, chances=once)
    crops = torch.cat([one, two]).flatten(1).unique(dim=0)
    assert len(crops) > 40
    assert same(batches(given, first=1, chances=once), [batches(given, chances=once)[1]])


def test_mixing_ends_at_its_epoch(arguments):
    given = arguments(mixup=1.0, mixup_off_epoch=1, smoothing=0.0, workers=1)
    largest = [torch.stack([targets.max(1).values for _, targets in batches(given, e)]) for e in (0, 1)]
    assert largest[0].min() < 0.9
    assert torch.equal(largest[1], torch.ones_like(largest[1]))


@pytest.mark.parametrize(("split", "workers"), [("train", 2), ("train", 0), ("test", 2)])
def test_a_broken_image_is_named_in_one_line(arguments, tmp_path, image_folder, split, workers):
    root = tmp_path / "broken"
    shutil.copytree(image_folder, root)
    cut = root / split / "dark" / "02.png"
    cut.write_bytes(cut.read_bytes()[:200])
    given = arguments(data_dir=str(root), workers=workers)
    images = EvaluatedImages(open_split(given, "test"), 0, 1)
    evaluated = evaluation_loader(images, given, resolve_data_config(given.preprocessing()), CPU)
    message = rf"^{cut}: can't be decoded: .*truncated.*; fix or remove it$"
    with pytest.raises(UserError, match=message), worker_errors():
        batches(given) if split == "train" else list(evaluated)
    gc.collect()
    for worker in multiprocessing.active_children():  # told to end; on a busy machine it takes its time
        worker.join(60)
    assert not multiprocessing.active_children()


def test_an_image_that_cannot_be_prepared_is_named_in_one_line(arguments, image_folder):
    images = EvaluatedImages(open_split(arguments(), "test"), 0, 1)
    images.transform = lambda image: 1 / 0
    first = image_folder / "test" / "dark" / "00.png"
    message = rf"^{first}: can't be prepared \(32 x 32 pixels\): division by zero; fix or remove it$"
    with pytest.raises(UserError, match=message):
        images[0]


def test_a_class_whose_images_are_all_broken_keeps_its_number(arguments, tmp_path, image_folder):
    shutil.copytree(image_folder / "val", tmp_path / "val")
    for path in (tmp_path / "val" / "dark").iterdir():
        path.write_bytes(b"no image")
    images = open_split(given := arguments(data_dir=str(tmp_path), skip_bad_images=14), "val")
    assert len(leave_out_broken([images], given, Processes(CPU))) == 5
    assert [images.load(index)[1] for index in range(len(images))] == 5 * [1] + 5 * [2]
    assert images.unseen == ["dark"]
    for path in (tmp_path / "val").glob("[gl]*/*"):
        path.write_bytes(b"no image")
    images = open_split(given := arguments(data_dir=str(tmp_path), skip_bad_images=15), "val")
    with pytest.raises(UserError, match="val: none of its images can be decoded"):
        leave_out_broken([images], given, Processes(CPU))


def test_splits_go_by_the_synonyms_that_timm_knows(arguments, tmp_path, image_folder):
    shutil.copytree(image_folder / "val", tmp_path / "eval")
    assert len(open_split(arguments(data_dir=str(tmp_path)), "validation")) == 15
    assert len(open_split(arguments(data_dir=str(tmp_path / "eval")), "")) == 15
    (tmp_path / "eval").rename(tmp_path / "Valid")
    assert open_split(arguments(data_dir=str(tmp_path)), "val").name == str(tmp_path / "Valid")


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"data_dir": None}, "train", "no data are given; name their folder with --data-dir"),
        ({"dataset": "wds/shards"}, "train", r"dataset is 'wds/shards'; leave .* are for timm's train.py"),
        ({"dataset": "torch/cifar10"}, "train", r"torch/cifar10: can't be read as the split 'train'"),
        ({}, "exam", r"exam: no such folder; .* \(there: test, train, val\)"),
    ],
)
def test_splits_that_are_not_there_are_an_error(arguments, changes, split, message):
    with pytest.raises(UserError, match=message):
        open_split(arguments(**changes), split)


@pytest.mark.parametrize("kind", ["torch", "hfds"])
def test_data_sets_of_torchvision_and_the_hub_have_the_images_of_their_folder(
    arguments, image_folder, tmp_path, kind
):
    given = arguments(dataset="torch/image_folder")
    if kind == "hfds":
        pytest.importorskip("datasets")
        given = arguments(dataset=f"hfds/{image_folder}", data_dir=str(tmp_path), val_split="test")
    splits, expected = open_splits(given), open_split(arguments(), "train")
    assert count_classes(given, splits) == 3
    loaded = sorted((target, image.tobytes()) for image, target in map(splits["train"].load, range(48)))
    assert loaded == sorted((target, image.tobytes()) for image, target in map(expected.load, range(48)))
    assert len(set(splits["train"].ids())) == 48


def test_a_class_without_an_image_in_a_split_shifts_no_label_where_classes_are_listed(
    arguments, tmp_path, image_folder
):
    root = tmp_path / "data"
    shutil.copytree(image_folder, root)
    shutil.rmtree(root / "val" / "grey")
    given = arguments(data_dir=str(root))
    with pytest.raises(UserError, match=r"its classes are not those of .*train \(such as grey\)"):
        count_classes(given, open_splits(given))
    (root / "classes.txt").write_text("dark\ngrey\nlight\nrare\n")
    splits = open_splits(given)
    assert count_classes(given, splits) == 4
    assert [splits["val"].load(index)[1] for index in range(10)] == [0] * 5 + [2] * 5
    (root / "classes.txt").write_text("dark\nlight\n")
    with pytest.raises(UserError, match=r"classes\.txt: lacks the class 'grey', whose images are in .*train"):
        open_splits(given)
    (root / "map.txt").write_text("light\ngrey\ndark\n")
    mapped = open_splits(arguments(data_dir=str(root), class_map=str(root / "map.txt")))
    assert mapped["train"].classes == ["light", "grey", "dark"]


def test_more_workers_than_cores_are_taken_without_a_warning(arguments):
    """A warning would be printed into the bar; here it would be an error."""
    given = arguments(workers=(os.cpu_count() or 1) + 1)
    images = TrainingImages(open_split(given, "train"), 2, 0, 0, 1)
    assert training_loader(images, given, resolve_data_config(given.preprocessing()), 2, CPU) is not None
