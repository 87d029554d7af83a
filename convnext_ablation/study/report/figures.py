"""Charts in Vega-Lite as files, SVG and PDF, with the fonts that their letters need."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from convnext_ablation.files import write_text, written_whole

_CJK = ("BOPOMOFO", "CJK", "FULLWIDTH", "HALFWIDTH", "HANGUL", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA")
_NO_FONTS = ("LastResort", "AdobeBlank")  # files that have a box, or nothing, for every character
_LETTERS = 10  # that a message names


def to_install(characters: Collection[str]) -> str:
    """Names of fonts that have the characters, such as ``Noto Sans CJK``."""
    scripts = {unicodedata.name(each, "").partition(" ")[0] for each in characters}
    found = {"CJK" if script in _CJK else script.title() for script in scripts}
    return " and ".join(f"Noto Sans {script}".strip() for script in sorted(found))


def write_specification(folder: Path, name: str, spec: Mapping[str, Any]) -> None:
    """Writes a chart in Vega-Lite as SVG and PDF into a folder, and says which letters the PDF lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = {letter for letter in json.dumps(spec, ensure_ascii=False) if ord(letter) not in _letters()}
    lacking = _lacking(letters) if letters else letters
    svg = _converter().vegalite_to_svg(spec)
    svg = re.sub('<text[^>]* opacity="0"[^>]*>.*?</text>', "", svg)  # numbers that an axis has no room for
    drawn = iter(range(len(svg)))  # Vega numbers what it clips through all charts of a process
    numbers: dict[str, int] = defaultdict(lambda: next(drawn))
    svg = re.sub(r'(id="|url\(#)clip(\d+)', lambda found: f"{found[1]}clip{numbers[found[2]]}", svg)
    write_text(folder / f"{name}.svg", svg)
    with written_whole(folder / f"{name}.pdf") as temporary:
        pdf = _converter().svg_to_pdf(svg)  # what made it is left out, in as many bytes
        temporary.write_bytes(re.sub(rb"/Producer \([^)]*\)", lambda found: b" " * len(found[0]), pdf))
    if lacking:
        print(
            f"{folder / name}.pdf: has boxes for {''.join(sorted(lacking)[:_LETTERS])}, as no font here has "
            f"these letters; install {to_install(lacking)}, and write it again. {name}.svg has the letters",
            file=sys.stderr,
        )


def _lacking(letters: Collection[str]) -> set[str]:
    """The letters that no font of this machine has; vl-convert is told where the others are."""
    from matplotlib import font_manager

    lacking = set(letters)
    for path in sorted(font_manager.findSystemFonts()):
        with suppress(OSError, RuntimeError):
            font = font_manager.get_font(path)
            has = {each for each in lacking if font.get_char_index(ord(each))}
            if has and not font.postscript_name.startswith(_NO_FONTS):
                _converter().register_font_directory(str(Path(path).parent))
                lacking -= has
    return lacking


@cache
def chart_library() -> str:
    """The JavaScript of Vega, Vega-Lite and vega-embed in one piece, to stand in a page."""
    script = str(_converter().javascript_bundle())
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _converter() -> Any:
    """vl-convert, with DejaVu Sans of matplotlib, whose folder also has a font of a box for every letter."""
    import vl_convert

    folder = Path(tempfile.mkdtemp(prefix="fonts_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in _fonts().glob("DejaVuSans*.ttf"):
        (folder / path.name).symlink_to(path)
    vl_convert.register_font_directory(str(folder))
    return vl_convert


@cache
def _letters() -> frozenset[int]:
    """The letters that DejaVu Sans has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_fonts() / "DejaVuSans.ttf")).get_charmap())


def _fonts() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"
