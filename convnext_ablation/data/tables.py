"""Reads delimited text as written by spreadsheets, pandas or by hand; detects delimiter and encoding."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.errors import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """A table of text fields, stripped and in NFC."""

    path: Path
    delimiter: str
    columns: list[str]  # names in the first line
    rows: dict[int, list[str]]  # by line number, with a field per column, without blank rows


def read_table(path: Path, known: Collection[str] = ()) -> Table:
    """Reads a table whose first line names the columns.

    Args:
        path: The file: UTF-8, or UTF-16 with a byte order mark.
        known: Expected column names in lower case, used to detect the delimiter.

    Raises:
        UserError: The file can't be read or is empty, or a row has more fields than the first line.
    """
    text = _read_text(path)
    first, _, rest = text.partition("\n")
    skipped = 0
    if said := re.fullmatch(r"sep=(.)\r?", first):  # Excel's delimiter line
        first, skipped, text = rest.partition("\n")[0], 1, rest
    delimiter = said[1] if said else max(DELIMITERS, key=lambda each: _rank(first, each, known))
    try:
        lines = io.StringIO(text, newline="")  # keep line ends, since quoted fields may contain them
        reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
        read = [(reader.line_num + skipped, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path} can't be read as CSV ({error}); fix it") from error
    rows = {line: row for line, row in read if any(row)}
    columns = rows.pop(next(iter(rows)), []) if rows else []
    if not columns:
        raise UserError(f"{path} is empty; it needs a line with the names of columns, and a row per image")
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise UserError(f"{path} has two columns {twice[0]!r}; rename one")
    for line, row in rows.items():
        if any(row[len(columns) :]):
            what = f"{path} line {line} has {len(row)} fields, more than the first line's {len(columns)}"
            raise UserError(f"{what}; put quotes around a field with {delimiter!r} in it")
        row[:] = (row + [""] * len(columns))[: len(columns)]
    return Table(path, delimiter, columns, rows)


def _rank(header: str, delimiter: str, known: Collection[str]) -> tuple[int, int]:
    try:
        fields = next(csv.reader([header.strip("\r")], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return 0, 0
    return sum(field.strip().lower() in known for field in fields), len(fields)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(b"PK\3\4"):
            raise UserError(f"{path} is a workbook or an archive, no text; save the table as CSV")
        if path.suffix.lower() in (".json", ".jsonl", ".yaml", ".yml") or data.lstrip()[:1] in (b"{", b"["):
            raise UserError(f"{path} is JSON or YAML; save the table as CSV")
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); name a table") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read as CSV in UTF-8 ({error}); save it in UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} is no text in UTF-8, perhaps in UTF-16; save it as CSV in UTF-8")
    if "\n" not in text:  # old Mac line ends
        text = text.replace("\r", "\n")
    return unicodedata.normalize("NFC", text)
