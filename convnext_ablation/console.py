"""What commands print: progress by tqdm (a bar on a terminal, plain lines elsewhere), tables by tabulate."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TextIO, TypeVar

__all__ = [
    "Progress", "counted", "duration", "latex_text", "markdown_text", "printable", "seeds_text", "table",
    "track",
]  # fmt: skip

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 30.0
_bars: list[Any] = []  # tqdm's, those that a terminal shows now
_NARROWEST = 13  # characters of a column that is wrapped: the longest of its usual words
_FORMATS = {"terminal": "simple", "markdown": "pipe", "latex": "latex_booktabs"}  # tabulate's names
_BAR = re.compile(r"\|")
# what Markdown would take for its own: in running text, and in words of a table
_LINKS = re.compile(r"<(?=[a-z/!?])|\](?=[(\[])", re.IGNORECASE)
_MARKUP = re.compile(r"<(?=[a-z/!?])|[\\`*|\[\]]", re.IGNORECASE)


class _AboveBars:
    """Stands for a terminal's stream while it shows bars: what is printed has lines of its own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.begun = stream, ""

    def write(self, text: str) -> int:
        """Prints whole lines; holds what has begun one."""
        *lines, self.begun = (self.begun + text).split("\n")
        if lines:
            with _without_bars():
                self.stream.write("".join(f"{line}\n" for line in lines))
                self.stream.flush()
        return len(text)

    def end(self) -> TextIO:
        """Prints what is left; gives the stream back."""
        self.stream.write(self.begun)
        self.begun = ""
        return self.stream

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self.stream, name)


@contextmanager
def _without_bars() -> Iterator[None]:
    for bar in _bars:
        bar.clear()
    yield
    for bar in _bars:
        bar.refresh()


def _show_bar(bar: Any) -> None:
    if not _bars:
        # a file in the place of either is not in a bar's way
        sys.stdout = _AboveBars(sys.stdout) if sys.stdout.isatty() else sys.stdout
        sys.stderr = _AboveBars(sys.stderr)
    _bars.append(bar)


def _hide_bar(bar: Any) -> None:
    bar.close()
    if bar in _bars:
        _bars.remove(bar)
    if not _bars:
        sys.stdout, sys.stderr = (
            stream.end() if isinstance(stream, _AboveBars) else stream for stream in (sys.stdout, sys.stderr)
        )


class Progress:
    """How far long work is: a bar with the time left on a terminal, a line now and then elsewhere.

    Elsewhere there is a line whenever there was none for half a minute. On a terminal the bar makes room for
    all that is printed meanwhile.

    Args:
        what: What is being done, such as ``checking images``; the bar's title.
        total: How much there is to do; None if that is not known.
        unit: What is counted, in the plural, such as ``images``; ``B`` for bytes.
        quiet: Show nothing.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        unit: str = "images",
        quiet: bool = False,
    ) -> None:
        from tqdm import tqdm  # the commands that print help need none

        self.what, self.unit, self.quiet, self.total = what, unit, quiet, total
        self.done: float = 0  # an int where whole things are counted, which the bar then shows as such
        self.begun: float = 0
        self.start = time.monotonic()
        self._told, self._noted = self.start, ""
        stream = sys.stderr.stream if isinstance(sys.stderr, _AboveBars) else sys.stderr
        self.bar = tqdm(
            desc=what,
            file=stream,
            total=total,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            disable=quiet or not stream.isatty(),
            leave=False,
            dynamic_ncols=True,
        )
        if self.on_terminal:
            _show_bar(self.bar)

    @property
    def on_terminal(self) -> bool:
        """Whether there is a bar."""
        return not self.bar.disable

    def begin(self, total: float, done: float = 0) -> None:
        """Restarts counting: `total` to do; the first `done` of it took none of this time."""
        self.total, self.done, self.begun, self.start = total, done, done, time.monotonic()
        if self.on_terminal:
            self.bar.reset(total=total)
            self.bar.initial = self.bar.n = done
            self.bar.refresh()

    def update(self, more: float = 1) -> None:
        """Counts what has been done since the last call."""
        self.move(self.done + more)

    def move(self, done: float, total: float | None = None) -> None:
        """Sets how much is done, and how much there is to do if that has changed."""
        self.done, self.total = done, total or self.total
        if self.on_terminal:
            self.bar.total = self.total
            self.bar.update(done - self.bar.n)
        elif self.is_due:
            of = f" of {self.total:,.0f}" if self.total else ""
            seconds = self.seconds_left()
            left = f", about {duration(seconds)} left" if seconds else ""
            noted = f"; {self._noted}" if self._noted else ""
            print(f"{self.what}: {self.done:,.0f}{of} {self.unit}{left}{noted}", file=sys.stderr, flush=True)
            self._told, self._noted = time.monotonic(), ""

    @property
    def is_due(self) -> bool:
        """Whether it is time for a line: there is no bar, and was no line for half a minute."""
        silent = time.monotonic() - self._told
        return not self.quiet and not self.on_terminal and silent > _SECONDS_BETWEEN_LINES

    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed so far; None while that is unknown."""
        done = self.done - self.begun
        if not self.total or done <= 0:
            return None
        return (time.monotonic() - self.start) * (self.total - self.done) / done

    def note(self, text: str) -> None:
        """Shows a text behind the bar, or at the end of the next line."""
        if self.on_terminal:
            self.bar.set_postfix_str(text)
        else:
            self._noted = text
            self.move(self.done)

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self.quiet:
            print(text, flush=True)
            self._told, self._noted = time.monotonic(), ""

    def close(self) -> None:
        """Leaves the terminal as it was."""
        _hide_bar(self.bar)

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""
        self.close()


def track(
    items: Iterable[T], what: str, total: float | None = None, unit: str = "images", quiet: bool = False
) -> Iterator[T]:
    """Yields the items and shows how many have been taken; `total` is their number if that is known."""
    with Progress(what, total, unit, quiet) as progress:
        for item in items:
            yield item
            progress.update()


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    words: Sequence[int] = (0,),
    wrap: dict[int, int] | None = None,
    form: Literal["terminal", "markdown", "latex"] = "terminal",
    fit: int | None = None,
) -> str:
    """Lays a table out; for a terminal, with a bold heading, unless ``NO_COLOR`` is set.

    Args:
        header: Headings of the columns.
        rows: Cells; numbers as the text that is to stand there.
        words: Which columns are words and stand on the left; numbers stand on the right.
        wrap: Columns and the most characters that they may be wide.
        form: Markdown and LaTeX show special characters in cells as they are. LaTeX is a ``tabular`` with
            the rules of the package booktabs.
        fit: Which column is wrapped where the table would be wider than the terminal. Where that is not
            enough, a row becomes a paragraph.
    """
    import tabulate

    tabulate.MIN_PADDING = 0  # headings need no more room than cells
    cells = [[_cell(str(cell), form, place in words) for place, cell in enumerate(row)] for row in rows]
    if form == "latex":
        cells = cells or [[""] * len(header)]  # tabulate aligns no columns without rows
    align = ["left" if place in words else "right" for place in range(len(header))]
    on_terminal = form == "terminal" and sys.stdout.isatty()
    if on_terminal and fit is not None:
        longest = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        width = shutil.get_terminal_size().columns
        room = width - sum(longest) + longest[fit] - 2 * len(longest) + 2
        if room < max(len(header[fit]), _NARROWEST):
            return "\n".join(_record(header, row, width) for row in cells)
        wrap = {fit: room}
    widths = [wrap.get(place) for place in range(len(header))] if wrap and cells else None
    text: str = tabulate.tabulate(
        cells,
        headers=list(header),
        tablefmt=_FORMATS[form],
        colalign=align if cells else None,
        headersglobalalign=None,
        maxcolwidths=widths,
        disable_numparse=True,
    )
    lines = [line.rstrip() for line in text.splitlines()]
    if on_terminal:
        lines[0] = _bold(lines[0])
    return "\n".join(map(_math, lines) if form == "latex" else lines)


def _bold(line: str) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return line if plain else f"\x1b[1m{line}\x1b[0m"


def _record(header: Sequence[str], row: Sequence[str], width: int) -> str:
    """A row as a paragraph below its first cell, for a terminal of so many columns."""
    said = "; ".join(f"{name}: {cell}" for name, cell in zip(header[1:], row[1:], strict=True))
    indent: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
    fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, **indent).fill
    return f"{_bold(row[0])}\n{fill(said)}"


def latex_text(text: str) -> str:
    """Running text as LaTeX shows it as it is."""
    from tabulate import LATEX_ESCAPE_RULES

    escaped = "".join(LATEX_ESCAPE_RULES.get(character, character) for character in _one_line(text))
    return _signs(escaped.replace("--", "-{}-"))


def markdown_text(text: str) -> str:
    """A paragraph as Markdown shows it as it is: no HTML, links or pictures; code between backticks."""
    return _LINKS.sub(r"\\\g<0>", _one_line(text))


def printable(text: str) -> str:
    """A text with question marks for its control characters, which no format can show."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _signs(text: str) -> str:
    return text.replace("−", "$-$").replace("–", "--")


def _cell(text: str, form: str, words: bool) -> str:
    """A cell on one line, Markdown's own characters escaped, and in LaTeX with a true minus in numbers."""
    text = _one_line(text)
    if form == "markdown":
        return (_MARKUP if words else _BAR).sub(r"\\\g<0>", text)
    return text if words or form == "terminal" else text.replace("-", "−")


def _math(line: str) -> str:
    """A line of a table with its signs for LaTeX; ``\\\\`` would take a bracket or a star for its own."""
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", _signs(line))


def duration(seconds: float) -> str:
    """A duration in its largest unit, such as ``45 s``, ``12 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def counted(number: int, what: str) -> str:
    """A number of things, such as ``1 seed`` or ``3,000 seeds``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def seeds_text(seeds: Sequence[int]) -> str:
    """Which seeds there are, such as ``seed 0`` or ``seeds 0, 1, 2``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
