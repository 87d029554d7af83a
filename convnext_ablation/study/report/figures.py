"""Figures of matplotlib and of Vega-Lite as files, SVG and PDF, with the fonts that their letters need."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext_ablation.files import write_text, written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SETTINGS: Any = {  # matplotlib's annotations accept no plain dict of str
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and restyled
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
}
# Neither the date nor the program's version may get into a file.
_SAVED: Any = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_CJK = ("BOPOMOFO", "CJK", "FULLWIDTH", "HALFWIDTH", "HANGUL", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA")
_NO_FONTS = ("LastResort", "AdobeBlank")  # files that have a box, or nothing, for every character
_LETTERS = 10  # that a message names


def write_chart(folder: Path, name: str, draw: Callable[[], Figure]) -> Path:
    """Draws a chart as SVG and PDF into a folder, with the fonts that it needs; returns the SVG file."""
    folder.mkdir(parents=True, exist_ok=True)
    lacking = _save(folder, name, draw)
    if lacking and (families := fonts_with(lacking)[0]):
        lacking = _save(folder, name, draw, families)
    tell_of_boxes(folder, name, lacking)
    return folder / f"{name}.svg"


def tell_of_boxes(folder: Path, name: str, lacking: Collection[str]) -> None:
    """Says which letters a figure's PDF lacks, if it lacks any."""
    if lacking:
        letters = "".join(sorted(lacking)[:_LETTERS])
        print(
            f"{folder / name}.pdf: has boxes for {letters}, as no font here has these letters; install "
            f"{to_install(lacking)}, and write it again. {name}.svg has the letters",
            file=sys.stderr,
        )


def _save(folder: Path, name: str, draw: Callable[[], Figure], families: Sequence[str] = ()) -> set[str]:
    """Draws a chart with further fonts; returns the letters that none of its fonts has."""
    import matplotlib

    # The user's own settings must not change the bytes, nor ours the user's.
    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": name})
        if families:  # type 3 takes any outlines, which those of fonts for Chinese often aren't TrueType's
            further: Any = {"font.family": ["sans-serif", *families], "pdf.fonttype": 3}
            matplotlib.rcParams.update(further)
        figure = draw()
        for kind, metadata in _SAVED.items():
            with written_whole(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, bbox_inches="tight", metadata=metadata)
    found = (re.match(r"Glyph (\d+) ", str(each.message)) for each in caught)
    return {chr(int(each[1])) for each in found if each}


def fonts_with(characters: Collection[str]) -> tuple[list[str], set[str]]:
    """Families that together have the characters, which matplotlib is told of, and those that none has."""
    from matplotlib import font_manager

    manager, lacking = font_manager.fontManager, set(characters)
    known = {str(entry.fname) for entry in manager.ttflist}
    has: dict[str, set[str]] = {}
    for path in sorted(known.union(font_manager.findSystemFonts())):  # matplotlib's list may be of years ago
        with suppress(OSError, RuntimeError):
            font = font_manager.get_font(path)
            if not font.postscript_name.startswith(_NO_FONTS):
                has[path] = {each for each in lacking if font.get_char_index(ord(each))}
    families: list[str] = []
    while lacking and has:
        # of fonts with as many, an upright one of usual weight
        path = max(has, key=lambda path: (len(has[path] & lacking), "Regular" in path))
        if not has[path] & lacking:
            break
        manager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
        lacking -= has.pop(path)
    return families, lacking


def to_install(characters: Collection[str]) -> str:
    """Names of fonts that have the characters, such as ``Noto Sans CJK``."""
    scripts = {unicodedata.name(each, "").partition(" ")[0] for each in characters}
    found = {"CJK" if script in _CJK else script.title() for script in scripts}
    return " and ".join(f"Noto Sans {script}".strip() for script in sorted(found))


def write_specification(folder: Path, name: str, spec: Mapping[str, Any]) -> None:
    """Writes a chart in Vega-Lite as SVG and PDF into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = _converter().vegalite_to_svg(spec)
    svg = re.sub('<text[^>]* opacity="0"[^>]*>.*?</text>', "", svg)  # numbers that an axis has no room for
    drawn = iter(range(len(svg)))  # Vega numbers what it clips through all charts of a process
    numbers: dict[str, int] = defaultdict(lambda: next(drawn))
    svg = re.sub(r'(id="|url\(#)clip(\d+)', lambda found: f"{found[1]}clip{numbers[found[2]]}", svg)
    write_text(folder / f"{name}.svg", svg)
    with written_whole(folder / f"{name}.pdf") as temporary:
        pdf = _converter().svg_to_pdf(svg)  # what made it is left out, in as many bytes
        temporary.write_bytes(re.sub(rb"/Producer \([^)]*\)", lambda found: b" " * len(found[0]), pdf))
    others = {letter for letter in json.dumps(spec, ensure_ascii=False) if ord(letter) not in _letters()}
    if others:  # vl-convert takes a font of the machine that has them
        tell_of_boxes(folder, name, fonts_with(others)[1])


@cache
def chart_library() -> str:
    """The JavaScript of Vega, Vega-Lite and vega-embed in one piece, to stand in a page."""
    script = str(_converter().javascript_bundle())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _converter() -> Any:
    """vl-convert, with the fonts that matplotlib brings."""
    import vl_convert

    vl_convert.register_font_directory(str(_fonts()))
    return vl_convert


@cache
def _letters() -> frozenset[int]:
    """The letters that these have."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_fonts() / "DejaVuSans.ttf")).get_charmap())


def _fonts() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
