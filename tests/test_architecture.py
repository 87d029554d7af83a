"""The package's structure: imports point one way, what must stand alone does, and nothing stands twice."""

import ast
import itertools
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_point_one_way():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--config", "pyproject.toml", "--no-cache"]
    # in a process of its own, as import-linter switches off the loggers that there are
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_the_diagram_of_imports_is_that_of_the_code():
    diagram = runpy.run_path(str(ROOT / "docs" / "import_diagram.py"))
    layers, edges = diagram["imports"]()
    level = {part: number for number, layer in enumerate(layers) for part in layer}
    packages = {path.parent.name for path in (ROOT / "convnext_ablation").glob("*/__init__.py")}
    assert packages <= level.keys()
    assert {("study", "training"), ("cli", "study"), ("files", "errors")} <= edges
    assert all(level[importer] <= level[used] for importer, used in edges)
    drawn = diagram["draw"](layers, edges)
    assert drawn.count("<rect") == len(level)
    assert drawn.count("marker-end") == len(diagram["reduced"](edges))
    assert all(f">{part}</text>" in drawn for part in level)
    assert "| `files` | `errors` |" in drawn


def test_the_diagram_leaves_out_what_other_arrows_imply():
    diagram = runpy.run_path(str(ROOT / "docs" / "import_diagram.py"))
    chain = set(itertools.pairwise("abcd"))
    assert diagram["reduced"](chain | {("a", "c"), ("b", "d"), ("a", "d")}) == chain


def test_make_bench_runs_the_short_form_of_every_benchmark():
    benchmarks = {path.name: path.read_text() for path in ROOT.glob("benchmarks/*.py")}
    del benchmarks["common.py"]
    done = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"benchmarks/(\w+\.py) --short", done.stdout)) == benchmarks.keys()
    assert [name for name, text in benchmarks.items() if not re.search(r"= parsed\(\s*parser", text)] == []


def statements(source):
    """Lines with their numbers, without blank ones, comments, docstrings, imports and signatures."""
    left_out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            left_out |= {*range(node.lineno, node.body[0].lineno)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out |= {*range(node.lineno, node.end_lineno + 1)}
    lines = enumerate((line.partition("#")[0].strip() for line in source.splitlines()), start=1)
    return [(number, line) for number, line in lines if line and number not in left_out]


def copies(sources):
    """Where ten statements' lines stand a second time: the two files and lines."""
    first, found = {}, []
    for name, source in sources.items():
        lines = statements(source)
        for at in range(len(lines) - 9):
            place = f"{name}:{lines[at][0]}"
            before = first.setdefault(tuple(line for _, line in lines[at : at + 10]), place)
            found += [(before, place)] if before != place else []
    return found


def test_no_ten_lines_of_the_package_stand_in_it_twice():
    files = sorted((ROOT / "convnext_ablation").rglob("*.py"))
    assert copies({str(path.relative_to(ROOT)): path.read_text() for path in files}) == []
    block = "".join(f"a{number} = f(\n    {number})  # as elsewhere\n" for number in range(5))
    own = f'def g():\n    """Other."""\n    import os\n\n{textwrap.indent(block, "    ")}'
    assert copies({"one": block, "two": own}) == [("one:1", "two:5")]
