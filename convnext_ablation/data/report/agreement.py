"""Whether two pictures whose hashes are near are one picture: both are decoded and compared.

The threshold is 0.9. It was chosen on 125 photographs, one each of as many ImageNet classes, and tried on 125
others, all at most 500 px wide and high. Of their copies with near hashes (see `near`) at least 0.9 had

- rescaled to a half or a third, or squashed to 112x112: 375 of 375
- recompressed as JPEG of quality 75, 50, 30, or halved and then at 50: 500 of 500
- brightened by a fifth (until white), with 0.8 of the contrast, 0.6 of the colour or none: 624 of 624
- cropped by 1, 2, 3 or 5 % at each edge, or by 2 % and recompressed: 452 of 452
- cut by 4 to 5 % at the left, the bottom, or right and bottom: 200 of 201

Unrelated were tiles (96 to 240 px, shrunk to 96x96) of different ones of 1,000 photographs: of 9e8 pairs of
42,208 tiles 22 have near hashes, and the one that agrees best reaches 0.68; of 164 that are near at 12 bits
one reaches 0.9 (0.92). Pixels alone don't tell: they correlate to 0.87 in the first.

Of Fashion-MNIST (28x28, clothes on black) 2,880 pairs among 6,000 images have near hashes; 109 reach 0.9,
while by pixels alone 2,637 do. So small pictures lose copies, too: of those recompressed at quality 50 and 30
with near hashes 194 of 195 and 172 of 189 are kept, of those halved to 14x14 none of 198.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext_ablation.data.report.remember import kept, state_of

__all__ = ["AGREEMENT", "agreement", "agreements", "thumbnail"]

AGREEMENT = 0.9
_SIDE = 64
_COMPARED = 32  # pixels of a side: what is finer differs after recompression
_CUT = (0, 0.015, 0.03, 0.045, 0.06)  # of a side, that a copy may lack at an edge
_ROUNDS = 2
_GREY = 6  # mean difference of an image's channels, of 255, below which it is compared without colours
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's greyscale
_FLAT = 1e-3  # length of a picture of one colour, but for rounding
_THUMBNAILS = 4096  # that are kept while pairs are compared, 50 MB

Thumbnail = NDArray[np.uint8]
Pixels = NDArray[np.float32]


def thumbnail(path: Path) -> Thumbnail | None:
    """A small version of an image in RGB, ``(64, 64, 3)``; None if it can't be decoded."""
    try:
        # read whole: threads that read little by little wait for each other
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft(None, (2 * _SIDE, 2 * _SIDE))  # a large JPEG needs no decoding at full size
            colours = image.convert("RGB")
    except Exception:  # decoders raise anything
        return None
    return np.asarray(colours.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def agreement(one: Thumbnail, two: Thumbnail) -> float:
    """How well two pictures agree, 0 to 1.

    It is the correlation of their pixels over all channels, each less its mean, so that brightness and
    contrast don't matter, or that of the differences of neighbouring pixels, whichever is less: pictures of
    like outline have the first, only copies have both. If one is grey, both are compared without colours.
    Either may lack a little at each edge, as a cropped copy does: the best fit counts.

    Args:
        one: As `thumbnail` returns it.
        two: The same.
    """
    first, second = one.astype(np.float32), two.astype(np.float32)
    if _is_grey(one) or _is_grey(two):
        first, second = first @ _LUMA[:, None], second @ _LUMA[:, None]
    best = max(_fit(first, second), _fit(second, first), key=lambda fit: fit[0])
    edges = [_normalised(_differences(image)) for image in best[1:]]
    return float(np.clip(min(best[0], (edges[0] * edges[1]).sum()), 0, 1))


def _is_grey(image: Thumbnail) -> bool:
    return float(np.ptp(image.astype(np.int16), axis=2).mean()) < _GREY


def _fit(whole: Pixels, part: Pixels) -> tuple[float, Pixels, Pixels]:
    """Cuts the first picture to fit the second, one side after the other; their correlation, and both."""
    cuts = _cuts()
    small = _along(cuts[:1], _along(cuts[:1], part, 0)[0], 1)
    target = _normalised(small)
    chosen = [cuts[0], cuts[0]]
    for axis in (0, 1) * _ROUNDS:
        other = _along(chosen[1 - axis][None], whole, 1 - axis)[0]
        cut = _along(cuts, other, axis)
        scores = (_normalised(cut) * target).sum((1, 2, 3))
        best = int(scores.argmax())
        chosen[axis] = cuts[best]
    return float(scores[best]), cut[best][None], small


def _differences(images: Pixels) -> Pixels:
    """Each pixel less its neighbours to the left and above, as channels."""
    inner = images[:, 1:, 1:]
    return np.concatenate([inner - images[:, 1:, :-1], inner - images[:, :-1, 1:]], axis=3)


def _along(weights: Pixels, image: Pixels, axis: int) -> Pixels:
    """An image resized along one side by each of some weights, ``(K, 32, 64)``."""
    if axis:
        return np.einsum("kij,hjc->khic", weights, image, optimize=True)
    return np.einsum("kij,jwc->kiwc", weights, image, optimize=True)


def _normalised(images: Pixels) -> Pixels:
    """Channels less their mean, at length 1 over all; 0 for images of one colour."""
    centred = images - images.mean((1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum((1, 2, 3), keepdims=True))
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > _FLAT)


@cache
def _cuts() -> Pixels:
    """Weights that resize a side by area, ``(K, 32, 64)``: first the whole, then less some at its ends."""
    pixels = np.arange(_SIDE)
    found = []
    for low, high in itertools.product(_CUT, repeat=2):
        edges = np.linspace(_SIDE * low, _SIDE * (1 - high), _COMPARED + 1)[:, None]
        covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        found.append(np.clip(covered, 0, None) / (edges[1] - edges[0]))
    return np.array(found, np.float32)


def agreements(
    roots: tuple[Path, Path], pairs: Sequence[tuple[str, str]], file: Path, workers: int
) -> NDArray[np.float64]:
    """Compares the pictures of pairs; no image is decoded that is in none.

    Args:
        roots: Folders of the first and the second images.
        pairs: Their paths below these.
        file: Keeps what was found.
        workers: Number of threads.

    Returns:
        How well each pair agrees, as `agreement` says, ``(P,)``; 0 where one can't be decoded any more.
    """
    found = np.zeros(len(pairs))
    if not pairs:
        return found
    # the pairs of an image one after the other, so that it is decoded once; memory is bounded all the same
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    small, state = lru_cache(_THUMBNAILS)(thumbnail), lru_cache(None)(state_of)

    def compare(index: int) -> tuple[str]:
        one, two = (small(root / name) for root, name in zip(roots, pairs[order[index]], strict=True))
        return ("" if one is None or two is None else f"{agreement(one, two):.4f}",)

    names = ["\t".join(pairs[number]) for number in order]
    states = []
    for number in order:
        both = [state(root / name) for root, name in zip(roots, pairs[number], strict=True)]
        states.append(" ".join(both) if all(both) else "")
    for index, row in kept(names, states, compare, ("agreement",), file, workers, "comparing pictures"):
        found[order[index]] = float(row[0] or 0)
    return found
