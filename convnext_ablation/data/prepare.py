"""Prepares a data set as an image folder, atomically.

The folder gets its final name only when complete. After a crash, the same command resumes if parameters,
original files and library versions are unchanged.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from PIL import features

from convnext_ablation.data import birds, drawn, food101, image_list, imagenet, own, stanford, vgg
from convnext_ablation.data.fashion_mnist import FashionMNIST
from convnext_ablation.data.folder import (
    CHANGED,
    CLASSES,
    DESCRIPTION,
    FolderSummary,
    Record,
    changed_line,
    check_folder,
    decode,
    in_threads,
    mark_checked,
    read_description,
    read_manifest,
    sort_classes,
    told,
    write_manifest,
)
from convnext_ablation.data.hub_images import HubPhotographs
from convnext_ablation.data.photographs import BrokenPictureError, DataSet, Photographs
from convnext_ablation.data.pictures import pixels_allowed
from convnext_ablation.data.walk import SKIPPED, skipped_lines, write_skipped
from convnext_ablation.dataclass_options import identity
from convnext_ablation.errors import UserError, in_one_line, unknown_name
from convnext_ablation.files import check_path, locked, resolved

FORMAT = 1  # folder format; increment when the same parameters give different images
_SCRATCH = ".scratch"  # in the unfinished folder: decompressed archives and the state needed to resume

_OFFICIAL = (
    birds.CUB200, stanford.StanfordDogs, vgg.FGVCAircraft, stanford.StanfordCars, vgg.Flowers102,
    vgg.OxfordPets, food101.Food101, birds.NABirds, imagenet.ImageNet,
)  # fmt: skip
_BUILT_IN = (FashionMNIST, drawn.Characters, drawn.Typefaces, drawn.FewTypefaces, drawn.Diacritics)
_OWN = (own.ImageFolder, image_list.ImageList, HubPhotographs)
DATASETS: dict[str, type[DataSet]] = {each.name: each for each in (*_OFFICIAL, *_BUILT_IN, *_OWN)}
BUILT_IN = tuple(dataset.name for dataset in _BUILT_IN)  # need no user-supplied files


def prepare(
    name: str, out: str | os.PathLike[str], *, workers: int | None = None, **parameters: Any
) -> FolderSummary:
    """Prepares a data set of `DATASETS` as an image folder, unless it exists already.

    The unfinished folder is called ``<out>.partial``; a second process waits until it is complete. The files
    don't depend on the number of threads, `workers`. `parameters` are fields of the data set's class, such as
    ``seed``.

    Raises:
        UserError: The name or a parameter is invalid, `out` holds other data, or writing fails.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    dataset = DATASETS[name](**parameters)
    out = Path(out)
    try:
        out = resolved(out)
        if not _is_there(out, dataset):
            dataset.check_place(out)
            busy = f"{out}: another `prepare` makes it"
            with locked(out.with_name(f".{out.name}.lock"), busy, wait=True):
                if not _is_there(out, dataset):
                    with pixels_allowed(getattr(dataset, "max_pixels", None)):
                        return _make(dataset, out, workers)
    except OSError as error:
        raise UserError(f"cannot make {out} ({error}); fix that and run the same command again") from error
    print(f"{out} already holds {name} with these parameters; nothing to do", *told(out), sep="\n  ")
    return check_folder(out, dataset.splits)


def as_published(name: str) -> FolderSummary | None:
    """Image and class counts of a data set prepared with the defaults, without names; None if unknown.

    A suffix with the image size, such as in ``cub200_512``, is ignored.
    """
    dataset = DATASETS.get(re.sub(r"_\d+$", "", name))
    size = dataset.published_size() if dataset else None
    return FolderSummary(Path(name), [""] * size[1], size[0], "") if size else None


def verify(out: Path) -> None:
    """Compares a prepared folder with its manifest; raises a `UserError` at the first difference."""
    splits = dict.fromkeys(record.split for record in read_manifest(out))
    summary = check_folder(out, sorted(splits, key="train val test".find), anew=True)
    images, classes = sum(summary.counts.values()), len(summary.classes)
    print(f"{out}: {images} images of {classes} classes, all as the manifest lists them")


def _is_there(out: Path, dataset: DataSet) -> bool:
    """Whether the folder holds this data set; False if missing or empty, a `UserError` for other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_description(out / DESCRIPTION)
    if not found:
        raise UserError(f"{out} exists and is no prepared data set; remove it or choose another place")
    # ignore library versions, or an upgrade would invalidate every folder
    there, wanted = ({**each, **(each.get("parameters") or {})} for each in (found, _describe(dataset)))
    for key in ("format", "name", *identity(dataset)):
        if there.get(key) != wanted[key]:
            what = f"{key} is {there.get(key)}, not {wanted[key]}"
            raise UserError(f"{out} holds another data set ({what}); remove it or choose another place")
    before = found.get("originals") or {}  # missing in folders of earlier versions
    for key, digest in dataset.content().items() if before else ():
        if before.get(key, digest) != digest:
            what = f"what {dataset.option_of(key)} names has changed or is another"
            raise UserError(f"{out} was made of other originals ({what}); remove it or choose another place")
    return True


def _describe(dataset: DataSet) -> dict[str, Any]:
    """The content of ``dataset.json``, as JSON types."""
    made_by = {"parameters": identity(dataset), "versions": library_versions()}
    return {"format": FORMAT, "name": dataset.name, **made_by}


def library_versions() -> dict[str, str]:
    """Versions of all libraries that may affect the bytes of an image."""
    with in_one_line("`prepare` needs `pip install '.[study]'`"):
        packages = {name: version(name) for name in ("matplotlib", "numpy", "pillow")}
    codecs = ("freetype2", "libjpeg_turbo", "webp", "zlib", "zlib_ng")
    return packages | {name: str(features.version(name)) for name in codecs}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _make(dataset: DataSet, out: Path, workers: int | None) -> FolderSummary:
    partial = out.with_name(f"{out.name}.partial")
    _begin(dataset, partial)
    beside = ThreadPool(1)  # hashes the original files in the background
    content = beside.apply_async(dataset.content)
    try:
        images = list(dataset.records(partial / _SCRATCH))
        classes = _numbered_classes(dataset, [record for record, _ in images])
        records = _write_images(dataset, partial, images, workers)
        if lost := set(classes) - set(_numbered_classes(dataset, records)):
            raise UserError(f"class {min(lost)!r}: no image of it in train can be decoded; fix or remove it")
        write_manifest(partial, records)
        (partial / CLASSES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        skipped, changed = getattr(dataset, "skipped", {}), _count_changes(partial)
        write_skipped(partial, skipped)
        description = _describe(dataset)
        if originals := content.get():
            description["originals"] = originals
        if isinstance(dataset, Photographs):
            description[CHANGED] = changed
        _write_json(partial / DESCRIPTION, description)
        shutil.rmtree(partial / _SCRATCH)
        fingerprint = mark_checked(partial, records)
        partial.replace(out)
    except UserError:  # after other errors, such as a full disk, the same command resumes
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        beside.terminate()
    counts = {split: sum(record.split == split for record in records) for split in dataset.splits}
    numbers = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{out}: {len(classes)} classes, {numbers}; manifest {fingerprint[:12]}")
    if len(classes) == 1:
        print(f"there is only one class, {classes[0]!r}, so nothing to classify")
    if isinstance(dataset, Photographs):
        place = f" ({out / SKIPPED})" if skipped else ""
        total = len(records) + len(skipped)
        used = f"used {len(records)}, skipped {len(skipped)}{place}, refused 0 of {total}"
        print(used, *skipped_lines(skipped), sep="\n  ")
    if changed:
        print(changed_line(changed))
    for split in dataset.splits:
        found = {record.class_name for record in records if record.split == split}
        if missing := [name for name in classes if name not in found]:
            print(
                f"classes without an image in {split}: {len(missing)}, such as {missing[0]}; give timm's own "
                f"scripts --class-map {out / CLASSES}, or they number the classes of {split} differently"
            )
    return FolderSummary(out, classes, counts, fingerprint)


def _write_images(
    dataset: DataSet, folder: Path, images: Sequence[tuple[Record, Any]], workers: int | None
) -> list[Record]:
    """Writes all images that aren't there yet; returns the records with file hashes."""
    seen: dict[str, Record] = {}
    for record, _ in images:  # many file systems are case-insensitive
        check_path(record.id, record.source[:99])
        other = seen.setdefault(record.id.casefold(), record)
        if other is not record:
            raise UserError(f"{record.source} and {other.source} would both become {record.id}; rename one")
    for parent in sorted({os.path.dirname(record.id) for record, _ in images}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
    print(f"{dataset.name}: writing {len(images)} images", flush=True)
    resumed = any(folder.glob("*/*/*"))
    write = functools.partial(_write_image, dataset, folder, resumed)
    records: list[Record] = []
    broken: dict[str, BrokenPictureError] = {}
    for (record, _), done in zip(images, in_threads(write, images, "writing images", workers), strict=True):
        if isinstance(done, Record):
            records.append(done)
            continue
        broken[record.id] = done
        assert isinstance(dataset, Photographs)  # other data sets have no broken images
        if len(broken) > (most := dataset.skip_bad_images):
            more = f"more than {most} such images: " if most else ""
            raise UserError(f"{next(iter(broken.values()))}; {more}--skip-bad-images N leaves out up to N")
        dataset.skipped[done.path] = f"can't be decoded: {done.reason}"
    for id_ in broken:
        with suppress(OSError):  # the folder isn't empty
            (folder / id_).parent.rmdir()
    return records


def _write_image(
    dataset: DataSet, folder: Path, resumed: bool, image: tuple[Record, Any]
) -> Record | BrokenPictureError:
    record, key = image
    path = f"{folder}/{record.id}"
    data = _written_before(path) if resumed else None
    if data is None:
        try:
            with open(f"{path}.tmp", "w+b") as file:
                changes = dataset.encode(key, file)
                file.seek(0)
                data = file.read()
        except BrokenPictureError as error:
            os.remove(f"{path}.tmp")
            return error
        if changes:  # saved in case the run is resumed
            with open(folder / _SCRATCH / CHANGED, "a", encoding="utf-8") as lines:
                lines.write(json.dumps([record.id, list(changes)]) + "\n")
        os.replace(f"{path}.tmp", path)
    return replace(record, sha256=hashlib.sha256(data).hexdigest())


def _count_changes(partial: Path) -> dict[str, int]:
    """Counts the changed images by kind of change, as logged by `_write_image`."""
    changes: dict[str, list[str]] = {}
    with suppress(FileNotFoundError), open(partial / _SCRATCH / CHANGED, encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):  # a line truncated by a killed run
                id_, kinds = json.loads(line)
                changes[id_] = kinds
    return dict(sorted(Counter(kind for kinds in changes.values() for kind in kinds).items()))


def _written_before(path: str) -> bytes | None:
    """The content of an image written by an interrupted run; None if missing or broken by a power cut."""
    with suppress(FileNotFoundError, ValueError):
        data = Path(path).read_bytes()
        decode(data, checksums=False)
        return data
    return None


def _numbered_classes(dataset: DataSet, records: Iterable[Record]) -> list[str]:
    """The classes in index order; raises a `UserError` for an empty split or a class missing from train."""
    classes: dict[str, set[str]] = {split: set() for split in dataset.splits}
    for record in records:
        classes[record.split].add(record.class_name)
    for split, names in classes.items():
        if not names:
            raise UserError(f"{dataset.name}: there is no image for {split}; add some")
        if extra := sorted(names - classes["train"]):
            raise UserError(f"class {extra[0]!r} has images in {split} but none in train; add or remove some")
    return sort_classes(classes["train"])


def _begin(dataset: DataSet, partial: Path) -> None:
    """Creates the unfinished folder, or reuses that of a killed run if nothing has changed."""
    description = _describe(dataset)
    origin = {"description": description, "originals": dataset.state()}
    if partial.exists():
        if not partial.is_dir() or (any(partial.iterdir()) and not read_description(partial / DESCRIPTION)):
            raise UserError(f"{partial} is in the way and not from an earlier `prepare`; move it")
        if read_description(partial / _SCRATCH / "origin.json") == origin:
            print(f"resuming with what {partial} holds")
            return
        shutil.rmtree(partial)
    (partial / _SCRATCH).mkdir(parents=True)
    _write_json(partial / DESCRIPTION, description)
    _write_json(partial / _SCRATCH / "origin.json", origin)
