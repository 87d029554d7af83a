"""Console output: progress by tqdm (a bar on a terminal, plain lines elsewhere) and tables by tabulate."""

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
_bars: list[Any] = []  # tqdm bars now on the terminal
_NARROWEST = 13  # characters; minimum width of a wrapped column, enough for its longest usual word
_FORMATS = {"terminal": "simple", "markdown": "pipe", "latex": "latex_booktabs"}  # tabulate's names
_BAR = re.compile(r"\|")
# Markdown syntax to escape, in running text and in the text cells of a table
_LINKS = re.compile(r"<(?=[a-z/!?])|\](?=[(\[])", re.IGNORECASE)
_MARKUP = re.compile(r"<(?=[a-z/!?])|[\\`*|\[\]]", re.IGNORECASE)


class _AboveBars:
    """Wraps a terminal stream while progress bars are shown, so that output doesn't mix with them."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.begun = stream, ""

    def write(self, text: str) -> int:
        """Prints complete lines and buffers an incomplete one."""
        *lines, self.begun = (self.begun + text).split("\n")
        if lines:
            with _without_bars():
                self.stream.write("".join(f"{line}\n" for line in lines))
                self.stream.flush()
        return len(text)

    def end(self) -> TextIO:
        """Flushes the buffer and returns the original stream."""
        self.stream.write(self.begun)
        self.begun = ""
        return self.stream

    def __getattr__(self, name: str) -> Any:
        """Delegates all other attributes to the stream."""
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
        # stdout redirected to a file doesn't interfere with the bars
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
    """Progress of a long task: a bar with the remaining time on a terminal, occasional lines elsewhere.

    Without a terminal, a line is printed at most every 30 s. On a terminal, other output appears above the
    bar.

    Args:
        what: Title of the task, such as ``checking images``.
        total: Amount of work in units; None if unknown.
        unit: Unit of the count, in the plural, such as ``images``; ``B`` for bytes.
        quiet: Show nothing.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        unit: str = "images",
        quiet: bool = False,
    ) -> None:
        from tqdm import tqdm  # not needed to print help

        self.what, self.unit, self.quiet, self.total = what, unit, quiet, total
        self.done: float = 0  # stays an int for integer counts, so that the bar shows no decimals
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
        """Whether a progress bar is shown."""
        return not self.bar.disable

    def begin(self, total: float, done: float = 0) -> None:
        """Restarts the count and the clock; `done` units of earlier work don't enter the time estimate."""
        self.total, self.done, self.begun, self.start = total, done, done, time.monotonic()
        if self.on_terminal:
            self.bar.reset(total=total)
            self.bar.initial = self.bar.n = done
            self.bar.refresh()

    def update(self, more: float = 1) -> None:
        """Adds the work done since the last call."""
        self.move(self.done + more)

    def move(self, done: float, total: float | None = None) -> None:
        """Sets the amount of work done, and the total if it has changed."""
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
        """Whether to print a line: there is no bar, and nothing was printed for 30 s."""
        silent = time.monotonic() - self._told
        return not self.quiet and not self.on_terminal and silent > _SECONDS_BETWEEN_LINES

    def seconds_left(self) -> float | None:
        """Estimated remaining seconds at the average speed so far; None if unknown."""
        done = self.done - self.begun
        if not self.total or done <= 0:
            return None
        return (time.monotonic() - self.start) * (self.total - self.done) / done

    def note(self, text: str) -> None:
        """Shows a text after the bar, or at the end of the next progress line."""
        if self.on_terminal:
            self.bar.set_postfix_str(text)
        else:
            self._noted = text
            self.move(self.done)

    def line(self, text: str) -> None:
        """Prints a line, above the bar if one is shown."""
        if not self.quiet:
            print(text, flush=True)
            self._told, self._noted = time.monotonic(), ""

    def close(self) -> None:
        """Removes the bar and restores stdout and stderr."""
        _hide_bar(self.bar)

    def __enter__(self) -> Progress:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Calls `close`."""
        self.close()


def track(
    items: Iterable[T], what: str, total: float | None = None, unit: str = "images", quiet: bool = False
) -> Iterator[T]:
    """Yields the items and shows progress; `total` is their number, None if unknown."""
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
    """Formats a table; on a terminal, the header is bold unless ``NO_COLOR`` is set.

    Args:
        header: Column headings.
        rows: Cells; numbers are formatted by the caller.
        words: Indices of the text columns, which are left-aligned; all others are right-aligned.
        wrap: Maximum width in characters, by column index.
        form: Markdown and LaTeX escape special characters in cells. LaTeX is a ``tabular`` with booktabs
            rules.
        fit: Index of the column to wrap if the table is wider than the terminal. If that isn't enough, each
            row becomes a paragraph.
    """
    import tabulate

    tabulate.MIN_PADDING = 0  # no extra padding of headings
    cells = [[_cell(str(cell), form, place in words) for place, cell in enumerate(row)] for row in rows]
    if form == "latex":
        cells = cells or [[""] * len(header)]  # tabulate can't align columns without rows
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
    """Formats a row as a paragraph of at most `width` columns below its first cell."""
    said = "; ".join(f"{name}: {cell}" for name, cell in zip(header[1:], row[1:], strict=True))
    indent: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
    fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, **indent).fill
    return f"{_bold(row[0])}\n{fill(said)}"


def latex_text(text: str) -> str:
    """Escapes running text for LaTeX, on one line."""
    from tabulate import LATEX_ESCAPE_RULES

    escaped = "".join(LATEX_ESCAPE_RULES.get(character, character) for character in _one_line(text))
    return _signs(escaped.replace("--", "-{}-"))


def markdown_text(text: str) -> str:
    """Escapes HTML, links and images in a paragraph of Markdown; keeps code in backticks."""
    return _LINKS.sub(r"\\\g<0>", _one_line(text))


def printable(text: str) -> str:
    """Replaces unprintable characters by question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _signs(text: str) -> str:
    return text.replace("−", "$-$").replace("–", "--")


def _cell(text: str, form: str, words: bool) -> str:
    """Puts a cell on one line, escapes Markdown syntax, and uses a minus sign (U+2212) in LaTeX numbers."""
    text = _one_line(text)
    if form == "markdown":
        return (_MARKUP if words else _BAR).sub(r"\\\g<0>", text)
    return text if words or form == "terminal" else text.replace("-", "−")


def _math(line: str) -> str:
    """Converts minus signs and dashes to LaTeX; braces a leading ``[`` or ``*``, special after ``\\\\``."""
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", _signs(line))


def duration(seconds: float) -> str:
    """Formats a duration in its largest unit, such as ``45 s``, ``12 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def counted(number: int, what: str) -> str:
    """Formats a count with its noun, such as ``1 seed`` or ``3,000 seeds``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def seeds_text(seeds: Sequence[int]) -> str:
    """Formats seeds, such as ``seed 0`` or ``seeds 0, 1, 2``."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
