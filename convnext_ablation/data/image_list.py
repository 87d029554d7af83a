"""Images listed in tables: one table for all splits, or one per split."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from convnext_ablation.data.archives import Source, open_source
from convnext_ablation.data.groups import check_groups, fold_out
from convnext_ablation.data.layout import SPLIT_OF, SPLITS
from convnext_ablation.data.own import OwnPhotographs, class_folders
from convnext_ablation.data.photographs import Photograph
from convnext_ablation.data.pictures import is_called_picture
from convnext_ablation.data.tables import DELIMITERS, Table, read_table
from convnext_ablation.data.walk import Piece, why_skipped
from convnext_ablation.dataclass_options import option
from convnext_ablation.errors import UserError, shown
from convnext_ablation.files import below, leads_out

# usual column names, the likeliest first
_PATH_COLUMNS = (
    "path file filename file_name filepath file_path image_path image image_name image_id id dir".split()
)
CLASS_COLUMNS = "class label class_name class_id category category_id target".split()
_SPLIT_COLUMNS = "split subset".split()
_FLAGS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True)
class ImageList(OwnPhotographs):
    """Images listed in tables with their classes and, optionally, splits and groups."""

    name = "csv"
    summary = "your own images, listed in CSV files: path, class and, optionally, split"
    required = ("file", "train_file", "val_file", "test_file")

    file: Path | None = option(None, "image list: CSV or other delimited text", identity=False)
    train_file: Path | None = option(None, "training list, instead of --file", identity=False)
    val_file: Path | None = option(None, "validation list, if any", identity=False)
    test_file: Path | None = option(None, "test list, if any", identity=False)
    root: Path | None = option(
        None, "folder that paths are relative to; the list's own if not given", identity=False
    )
    names_encoding: str | None = option(
        None, "encoding of file names in archives that declare none, e.g. cp932; UTF-8 if not given"
    )
    names: Path | None = option(
        None, "file naming numbered classes: number and name, or one name per line", identity=False
    )
    path_column: str | None = option(None, f"path column; by default {', '.join(_PATH_COLUMNS[:4])}, ...")
    class_column: str | None = option(None, f"class column; by default {', '.join(CLASS_COLUMNS[:4])}, ...")
    split_column: str | None = option(
        None, f"split column; by default {', '.join(_SPLIT_COLUMNS)}, is_test, is_train, ..."
    )
    group_column: str | None = option(None, "group column, e.g. site; each group stays in one split")
    folds: int | None = option(None, "number of cross-validation folds, one of which is the test split")
    fold: int | None = option(None, "test fold, from 1")

    def __post_init__(self) -> None:
        """Validates the options."""
        super().__post_init__()
        if self.file and self.lists().keys() != {""}:
            raise UserError("csv: give --file, or --train-file, --val-file and --test-file, not both")
        if (self.folds is None) != (self.fold is None):
            raise UserError("csv: --folds and --fold go together; give both")
        self.check_least(folds=2, fold=1)
        if self.folds and self.fold and self.fold > self.folds:
            raise UserError(f"csv: fold is {self.fold}; give at most {self.folds}, the number of folds")

    def lists(self) -> dict[str, Path]:
        """The lists by split; a list for all splits has the key ``""``."""
        paths = {"": self.file, **{split: getattr(self, f"{split}_file") for split in SPLITS}}
        return {split: path for split, path in paths.items() if path is not None}

    def check_place(self, out: Path) -> None:
        """Accepts any place, since the output can't be mistaken for listed images."""

    def photographs(self, scratch: Path) -> list[Photograph]:
        """Returns all listed images, after resolving their paths, classes, splits and groups."""
        lists = self.lists()
        where = ", ".join(str(path) for path in lists.values())
        place = self.root or next(iter(lists.values())).parent
        files = _Files(open_source(place, scratch, encoding=self.names_encoding))
        rows: dict[str, Photograph] = {}
        lines: dict[str, str] = {}
        twice, shortened = [], []
        listings = (self._rows(path, split) for split, path in lists.items())
        for line, listed, label, split, group in itertools.chain.from_iterable(listings):
            path, piece = files.find(listed, line)
            if listed in files.short and listed != path:
                shortened.append(f"{listed!r} for {path!r}")
            row = Photograph(path, path, label, split, piece, group=group)
            first = rows.setdefault(path, row)
            for what in ("class_name", "split", "group"):
                one, other = getattr(first, what), getattr(row, what)
                if one != other:
                    again = f"{line} lists {path} a second time"
                    raise UserError(f"{again}, as {other!r} and not {one!r} ({lines[path]}); remove one")
            if lines.setdefault(path, line) != line:
                twice.append(path)
        if shortened:
            what = "rows that name an image without its folder or extension"
            print(f"{where}: {what}: {len(shortened)}, such as {shortened[0]}")
        if twice:
            print(f"{where}: duplicate rows, used once: {len(twice)}, such as {twice[0]!r}")
        for name, piece in files.source.items():
            if name not in rows:
                self.skipped[name] = why_skipped(name, piece) or "not listed"
        named = self._named({row.class_name for row in rows.values()})
        folders = class_folders(sorted(named.values()), where)
        found = [replace(row, class_name=folders[named[row.class_name]]) for row in rows.values()]
        check_groups(found, where)
        if self.folds and self.fold:
            if others := sorted({original.split for original in found} - {"train"}):
                raise UserError(f"{where} has a {others[0]} split already; leave that out, or --folds")
            found = fold_out(found, self.folds, self.fold, self.seed)
        return self.completed(found, where)

    def _rows(self, path: Path, list_split: str) -> Iterator[tuple[str, str, str, str, str]]:
        """Yields the place in the list, path, class, split and group of each image."""
        usual = {"path": _PATH_COLUMNS, "class": CLASS_COLUMNS, "split": _SPLIT_COLUMNS, "group": []}
        asked = {what: getattr(self, f"{what}_column") for what in usual}
        known = itertools.chain(*usual.values(), (name.lower() for name in asked.values() if name))
        table = read_table(path, set(known))
        flags = [name for name in map(str.lower, table.columns) if name.startswith("is") and _flagged(name)]
        usual["split"] = [*_SPLIT_COLUMNS, *flags]
        found = {what: _column(table, what, asked[what], names) for what, names in usual.items()}
        columns = {what: at for what, at in found.items() if at is not None}
        _say(table, columns)
        for line, fields in table.rows.items():
            where = f"{path} line {line}"
            row = {what: fields[at] for what, at in columns.items()}
            if lacking := [what for what, value in row.items() if not value]:
                raise UserError(f"{where} has no {lacking[0]}; complete or remove it")
            if re.fullmatch(r"-\d+(\.0+)?|nan", label := row["class"], re.I):
                raise UserError(f"{where} has the class {label}, which means no label; complete or remove it")
            split = list_split or "train"
            if "split" in row:
                split = _split(row["split"], table.columns[columns["split"]], where)
                if list_split not in ("", split):
                    raise UserError(f"{where} has the split {split!r} in the list for {list_split}; fix it")
            yield where, row["path"], label, split, row.get("group", "")

    def _named(self, labels: Iterable[str]) -> dict[str, str]:
        """Maps labels to class names."""
        wanted = {label: _plain(label) for label in labels}
        if self.names is None:
            whole = all(re.fullmatch(r"[0-9]+(\.0+)?", label) for label in wanted)
            shorter = {label: label.partition(".")[0] if whole else label for label in wanted}
            if odd := sorted(label for label in wanted if shorter[label] != label):
                print(f"classes are numbers: {odd[0]} is called {shorter[odd[0]]}, and so on")
            return shorter
        names = _read_names(self.names, set(wanted.values()))
        first: dict[str, str] = {}
        for label, plain in sorted(wanted.items()):
            if not names.get(plain):
                raise UserError(f"{self.names} has no name for the class {label!r}; add it")
            if first.setdefault(names[plain], plain) != plain:
                both = f"the classes {first[names[plain]]} and {plain} are both called {names[plain]!r}"
                raise UserError(f"{self.names}: {both}; rename one")
        return {label: names[plain] for label, plain in wanted.items()}


@dataclass
class _Files:
    """The available files, indexed by every partial path that a list may use."""

    source: Source
    short: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for name in self.source:
            if is_called_picture(name):
                path = PurePosixPath(name)
                for other in (path, path.with_suffix("")):
                    for at in range(len(path.parts)):
                        self.short["/".join(other.parts[at:])].append(name)

    def find(self, listed: str, where: str) -> tuple[str, Any]:
        """Returns the path and file for a listed full or partial path, which must be unambiguous."""
        root = self.source.path
        for name in dict.fromkeys([listed, listed.replace("\\", "/")]):
            path = PurePosixPath(name)
            if path.is_absolute():
                with_root = PurePosixPath(unicodedata.normalize("NFC", str(root.absolute())))
                path = path.relative_to(with_root) if path.is_relative_to(with_root) else path
            if str(path) in self.source:
                return str(path), self.source[str(path)]
            if not leads_out(str(path)) and os.path.isfile(root / path):  # via a symbolic link
                file = below(root, str(path), where)
                return str(path), Piece(file, 0, file.stat().st_size)
            found = self.short.get(str(path), [])
            found = [each for each in found if PurePosixPath(each).with_suffix("") == path] or found
            if len(found) > 1:
                what = f"{where}: {listed!r} may be {found[0]!r} or {found[1]!r}"
                raise UserError(f"{what}; write the path, or give their folder with --root")
            if found:
                return found[0], self.source[found[0]]
        if leads_out(str(path)):
            raise UserError(f"{where}: {shown(listed)} is not below {root}; give its folder with --root")
        what = f"{where}: {root / listed} can't be read, there is no such file"
        raise UserError(f"{what}; fix the line, or give the folder that the paths are below with --root")


def _column(table: Table, what: str, asked: str | None, usual: Iterable[str]) -> int | None:
    """The index of a column; None if an optional one is missing, a `UserError` for a required one."""
    lowered = [name.lower() for name in table.columns]
    if asked is not None:
        for names, name in ((table.columns, asked.strip()), (lowered, asked.strip().lower())):
            if name in names:
                return names.index(name)
    elif found := [name for name in usual if name in lowered]:
        return lowered.index(found[0])
    elif what not in ("path", "class"):
        return None
    lacks = f"has no column {asked or what!r} in its first line, only {', '.join(map(repr, table.columns))}"
    raise UserError(f"{table.path} {lacks}; name it with --{what}-column")


def _say(table: Table, columns: Mapping[str, int]) -> None:
    """Prints how a table was interpreted, unless its delimiter and column names are the standard ones."""
    taken = {what: table.columns[at] for what, at in columns.items()}
    said = [f"{what} in column {name!r}" for what, name in taken.items() if name != what]
    if table.delimiter != ",":
        delimiter = DELIMITERS.get(table.delimiter, repr(table.delimiter))
        said.insert(0, f"{delimiter} between fields")
    unused = [name for name in table.columns if name and name not in taken.values()]
    rest = f"not used: {', '.join(repr(name) for name in unused)}" if unused else ""
    if said or rest:
        print(f"{table.path}: {'; '.join(filter(None, (', '.join(said), rest)))}")


def _flagged(column: str) -> str | None:
    """The split flagged by a boolean column such as is_test or CUB's is_training_img; None for others."""
    name = re.sub(r"^is[_ ]?|[_ ](img|image)$", "", column.lower())
    return SPLIT_OF.get(name.replace(" ", "_"))


def _split(value: str, column: str, where: str) -> str:
    """The split given by a field."""
    flagged = _flagged(column)
    if flagged and (flag := _FLAGS.get(value.lower().removesuffix(".0"))) is not None:
        return flagged if flag else ("test" if flagged == "train" else "train")
    if value.lower() not in SPLIT_OF:
        raise UserError(f"{where} has the split {value!r}; write train, val or test")
    return SPLIT_OF[value.lower()]


def _plain(label: str) -> str:
    """Normalises a numeric label, so that 3, 03 and 3.0 are equal."""
    return str(int(float(label))) if re.fullmatch(r"[0-9]{1,9}(\.0+)?", label) else label


def _read_names(path: Path, labels: set[str]) -> dict[str, str]:
    """Reads class names by label: from a label column and its neighbour, or by line number from 0."""
    table = read_table(path, {*CLASS_COLUMNS, "name"})
    rows = [table.columns, *table.rows.values()]
    if len(table.columns) == 1:
        worded = [row[0].partition(" ") for row in rows]
        spaced = {_plain(word): name.strip() for word, _, name in worded}
        if labels <= spaced.keys():
            return spaced
        if "0" not in labels:
            what = f"{path} numbers its lines from 0, and no image has 0"
            raise UserError(f"{what}; write the numbers before the names")
        return {str(at): row[0] for at, row in enumerate(rows)}
    keys = [{_plain(row[at]) for row in rows} for at in range(len(table.columns))]
    at = next((at for at, found in enumerate(keys) if labels <= found), 0)
    name_at = 1 if at == 0 else 0
    names: dict[str, str] = {}
    for row in rows:
        if names.setdefault(_plain(row[at]), row[name_at]) != row[name_at]:
            raise UserError(f"{path} has two names for the class {row[at]!r}; remove one")
    return names
