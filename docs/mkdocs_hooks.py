"""Hooks of mkdocs: the repository's files at their own paths, and what is made from the code."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path

import import_diagram
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient

from convnext_ablation.cli import main as command_line

FOLDERS = ("docs", "results", "benchmarks", "tests", "convnext_ablation")
SUFFIXES = {".md", ".py", ".svg", ".pdf", ".csv", ".tex", ".txt", ".html", ".yaml", ".ipynb"}


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
    notebook = "\n\n".join(_executed(root / "docs" / "notebook.ipynb"))
    files.append(File.generated(config, "docs/notebook.md", content=notebook))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Draws the diagram of imports where it has its place, and links the notebook's page, not its file."""
    if page.file.src_uri == "docs/architecture.md":
        markdown = markdown.replace("<!-- imports -->", import_diagram.draw(*import_diagram.imports()))
    return markdown.replace("notebook.ipynb)", "notebook.md)")


def _executed(path: Path) -> Iterator[str]:
    """Runs a notebook, and gives its cells with what they put out as Markdown."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for its commands
    notebook = NotebookClient(
        nbformat.read(path, as_version=4), kernel_name="python3", coalesce_streams=True
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        yield f"```python\n{cell.source}\n```"
        for output in (each for each in cell.outputs if each.get("name") != "stderr"):
            data = output.get("data", {})
            if "image/svg+xml" in data:
                encoded = base64.b64encode(data["image/svg+xml"].encode()).decode()
                yield f"![Figure](data:image/svg+xml;base64,{encoded})"
            else:
                text = output.get("text") or data.get("text/plain")
                yield data.get("text/html") or f"```text\n{text.rstrip()}\n```"


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
