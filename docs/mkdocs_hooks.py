"""Hooks of mkdocs: the repository's files at their own paths, and what is made from the code."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path

import import_diagram
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from convnext_ablation.cli import main as command_line

FOLDERS = ("docs", "results", "benchmarks", "tests", "convnext_ablation")
SUFFIXES = {".md", ".py", ".svg", ".pdf", ".csv", ".tex", ".txt", ".html", ".yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the pages of docs/ by all files that pages may link to, at their paths in the repository."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    root = Path(config.config_file_path).parent
    paths = [*root.glob("*.md"), *(path for folder in FOLDERS for path in root.glob(f"{folder}/**/*"))]
    for path in paths:
        if path.suffix in SUFFIXES and "templates" not in path.parts:
            uri = path.relative_to(root).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, "docs/commands.md", content="\n".join(_commands())))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Draws the diagram of imports where the page on architecture has its place."""
    if page.file.src_uri != "docs/architecture.md":
        return markdown
    return markdown.replace("<!-- imports -->", import_diagram.draw(*import_diagram.imports()))


def _commands() -> Iterator[str]:
    yield "# Commands\n\nWhat `--help` prints of each.\n"
    for name, what in command_line.COMMANDS.items():
        for command in [f"{name} {part}" for part in what] if isinstance(what, Mapping) else [name]:
            yield _help(command)


def _help(command: str) -> str:
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}  # of argparse
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        command_line.main([*command.split(), "--help"])
    return f"## convnext-ablation {command}\n\n```text\n{said.getvalue().rstrip()}\n```\n"
