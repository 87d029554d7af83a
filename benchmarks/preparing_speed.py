"""Time of `convnext-ablation prepare` against decoding and resizing alone.

The data are 12,000 JPEGs of 500x375 pixels in the layout of CUB-200-2011. Ours reads lists and images, joins
them, decodes, resizes to 256x256, encodes, writes, hashes and checks. The two baselines only decode and
resize, with Pillow and torchvision: in as many threads as ours, and in a pool of warmed-up processes. They
take turns; times are wall-clock on all cores.

    python benchmarks/preparing_speed.py --output results/preparing_speed.csv
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import PIL
import torchvision
from common import (
    MACHINE,
    SIZE,
    Row,
    in_turn,
    parsed,
    parser_of,
    ratio_columns,
    write_photographs,
    write_rows,
)
from PIL import Image
from torchvision.transforms import Resize

from convnext_ablation.machine import available_cores

PER_CLASS = 60


def main() -> None:
    """Measures, and writes the CSV file."""
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=["jpeg", "webp", "png"])
    options = parsed(parser, images=2 * PER_CLASS, rounds=1, formats=["jpeg"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = write_originals(folder / "CUB_200_2011", options.images)
        # in the format of the official archives, without an extra header per file for its time
        with tarfile.open(folder / "CUB_200_2011.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(folder / "CUB_200_2011", "CUB_200_2011")
        rows = [
            measure(folder, source, stored, options)
            for stored in options.formats
            for source in (["folder", "tar"] if stored == "jpeg" else ["folder"])
        ]
    common = {
        "images": options.images,
        "original": f"{SIZE[0]}x{SIZE[1]}, {kilobytes:.0f} kB",
        "rounds": options.rounds,
        "machine": MACHINE,
        "pillow": PIL.__version__,
        "torchvision": torchvision.__version__,
    }
    write_rows(options.output, [{**row, **common} for row in rows])


def write_originals(folder: Path, count: int) -> float:
    """Writes a data set in the official layout; returns the mean file size in kB."""
    paths = {}
    for id_ in range(1, count + 1):
        label = (id_ - 1) // PER_CLASS + 1
        path = f"{label:03d}.Bird_{label}/Bird_{label}_{id_:04d}_{id_}.jpg"
        paths[id_] = (label, path)
    kilobytes = write_photographs([folder / "images" / path for _, path in paths.values()], quality=90)
    classes = sorted({(label, path.split("/")[0]) for label, path in paths.values()})
    for name, lines in {
        "images": [f"{id_} {path}" for id_, (_, path) in paths.items()],
        "image_class_labels": [f"{id_} {label}" for id_, (label, _) in paths.items()],
        "train_test_split": [f"{id_} {id_ % 2}" for id_ in paths],
        "classes": [f"{label} {name}" for label, name in classes],
    }.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return kilobytes


def measure(folder: Path, source: str, stored: str, options: argparse.Namespace) -> Row:
    """Times ours and both baselines in turn; returns a row."""
    archive = folder / ("CUB_200_2011" if source == "folder" else "CUB_200_2011.tar")
    alone = {
        means: partial(decode_and_resize, folder / "CUB_200_2011" / "images", means)
        for means in ("threads", "processes")
    }
    out = (folder / f"{stored}_{source}_{number}" for number in range(options.rounds))
    times = in_turn({**alone, "ours": lambda: prepare(archive, next(out), stored)}, options.rounds)
    row = {"format": stored, "from": source, "seconds": f"{times['ours'].median:.1f}"}
    for means in alone:
        names = [f"{figure}_to_{means}" for figure in ("ratio", "lowest", "highest")]
        row[f"alone_in_{means}"] = f"{times[means].median:.1f}"
        row |= ratio_columns(times[means].times_faster_than(times["ours"]), names)
    print(row, flush=True)
    return row


def decode_and_resize(folder: Path, means: str) -> float:
    """Seconds for all images of a folder, excluding the start of threads or processes."""
    paths = sorted(folder.glob("*/*.jpg"))
    pools = {"threads": multiprocessing.pool.ThreadPool, "processes": multiprocessing.Pool}
    with pools[means](available_cores()) as pool:
        pool.map(_resized, paths[:64])
        start = time.perf_counter()
        for _ in pool.imap_unordered(_resized, paths, chunksize=32):
            pass
        return time.perf_counter() - start


_RESIZE = Resize((256, 256))


def _resized(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return _RESIZE(image.convert("RGB")).size


def prepare(archive: Path, out: Path, stored: str) -> float:
    """Seconds of the command, excluding Python's start.

    Always writes to a new folder and removes nothing in between: for minutes after files are removed, ext4
    takes up to a millisecond to create a new one.
    """
    script = f"""
import time
from pathlib import Path
from convnext_ablation.data.prepare import prepare
start = time.perf_counter()
prepare("cub200", Path({str(out)!r}), archive=Path({str(archive)!r}), unofficial=True, format={stored!r})
print("seconds", time.perf_counter() - start)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    os.sync()  # flushes writes, so that they don't slow the next round down
    return float(output.rsplit("seconds", 1)[1])


if __name__ == "__main__":
    main()
