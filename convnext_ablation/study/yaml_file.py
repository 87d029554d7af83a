"""YAML files that people write, read so that a slip is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from convnext_ablation.errors import UserError


def read_yaml(path: Path) -> Any:
    """Reads a YAML file; a key that is there twice, which YAML lets pass, is an error.

    Raises:
        UserError: The file is missing or isn't such YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"{key.value!r} is there twice; leave one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)
