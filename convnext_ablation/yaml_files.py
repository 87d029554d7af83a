"""Strict YAML reading for recipes, experiments, designs, command-line values and saved arguments."""

from __future__ import annotations

import stat
from collections.abc import Collection, Hashable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from convnext_ablation.errors import UserError, in_one_line, shown, unknown_name

ENDINGS = (".yaml", ".yml")
_MOST_BYTES = 256 << 10
_MOST_VALUES = 100_000  # counting values repeated by aliases
_MOST_LEVELS = 100  # of nested lists and mappings


def built_in(folder: str) -> dict[str, Path]:
    """The YAML files of a folder of this package, ``recipes`` or ``experiments``, by name."""
    files = Path(str(resources.files("convnext_ablation") / folder)).glob("*.yaml")
    return {path.stem: path for path in sorted(files)}


def find_yaml(kind: str, name_or_file: str) -> Path:
    """Path of a YAML file, or of a built-in ``recipe`` or ``experiment``; `UserError` for an unknown name."""
    if name_or_file.endswith(ENDINGS):
        return Path(name_or_file)
    known = built_in(f"{kind}s")
    if name_or_file not in known:
        raise unknown_name(kind, name_or_file, known)
    return known[name_or_file]


def read_yaml(path: Path, what: str = "") -> Any:
    """Reads a YAML file; `what` names it in messages, by default its path.

    Raises:
        UserError: It isn't a regular file of up to 256 KiB, or isn't valid, unambiguous YAML.
    """
    what = what or str(path)
    with in_one_line(f"{what}: can't be read"):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{what}: is no file; give a YAML file")
        if status.st_size > _MOST_BYTES:
            raise UserError(f"{what}: has {status.st_size:,} bytes; a YAML file may have {_MOST_BYTES:,}")
        content = path.read_bytes()
    with in_one_line(f"{what}: not valid YAML, which is text in UTF-8"):
        text = content.decode("utf-8-sig")
    return parse_yaml(text, what)


def parse_yaml(text: str, what: str) -> Any:
    """Parses YAML text; `what` names it in messages. Raises a `UserError` if it is invalid or ambiguous."""
    with in_one_line(f"{what}: not valid YAML"):
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error


def mapping(value: Any, where: str, keys: Collection[str] = ()) -> dict[str, Any]:
    """Returns a mapping as a dict, after checking that its keys are text and, if given, among `keys`.

    Raises:
        UserError: It isn't such a mapping; `where` names its source.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UserError(
            f"{where}: write lines of `key: value`" + (f" with {', '.join(keys)}" if keys else "")
        )
    for key in value:
        if keys and key not in keys:
            raise unknown_name(f"key in {where}:", key, keys)
    return dict(value)


class _Loader(yaml.SafeLoader):
    """Refuses ambiguous YAML, deep nesting and alias bombs before they take memory."""

    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._level > _MOST_LEVELS:
            problem = f"more than {_MOST_LEVELS} lists or mappings in one another"
            raise ConstructorError(None, None, problem, self.peek_event().start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def get_single_node(self) -> Any:
        root = super().get_single_node()
        if root is not None and self._size(root, {}) > _MOST_VALUES:
            problem = f"aliases repeat more than {_MOST_VALUES:,} values"
            raise ConstructorError(None, None, problem, root.start_mark)
        return root

    def _size(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """Number of values in a node; aliased ones count each time."""
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_VALUES  # until computed, since a node may contain itself
            pairs = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(node)] = 1 + sum(self._size(part, sizes) for part in pairs)
        return sizes[id(node)]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"{shown(key.value)} appears twice; leave one"
                    raise ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> int | float:
        text = str(node.value).lstrip("+-")
        if ":" in text or (text.isdigit() and text.startswith("0") and text.strip("0")):
            problem = f"{node.value} would be read to the base {60 if ':' in text else 8}; write it otherwise"
            raise ConstructorError(None, None, problem, node.start_mark)
        whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.number)
