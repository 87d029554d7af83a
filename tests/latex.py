"""Checks LaTeX: that tables are well-formed, and that pdflatex takes them."""

import re
import shutil
import subprocess

PDFLATEX = shutil.which("pdflatex")
_ESCAPED = re.compile(r"\\[&%$#_{}]|\\(textbackslash|textasciitilde)\{\}|\\\^\{\}|\\ensuremath\{[<>]\}|\$-\$")


def table_of(text):
    """The cells of a booktabs table by line: as many in each, braces closed, special characters escaped."""
    begin, top, head, middle, *rows, bottom, end = text.strip().splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", begin)[1]
    assert (top, middle, bottom, end) == ("\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}")
    table = []
    for line in (head, *rows):
        assert line.endswith("\\\\"), line
        cells = re.split(r"(?<!\\)&", line.removesuffix("\\\\"))
        assert len(cells) == len(columns), line
        for cell in cells:
            plain = _ESCAPED.sub("", cell)
            assert not re.search(r"[\\&%$#_^~<>]", plain), cell
            assert plain.count("{") == plain.count("}"), cell
            assert not re.match(r"\s*[\[*]", cell), "the line before would take it for its own"
        table.append([cell.strip() for cell in cells])
    return table


def compiled(folder, *bodies):
    """What pdflatex complains of when it is given some bodies; empty if of nothing."""
    text = "\n\n".join(bodies)
    (folder / "all.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\n"
        f"\\begin{{document}}\n{text}\n\\end{{document}}\n",
        encoding="utf-8",
    )
    call = [PDFLATEX, "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(call, cwd=folder, capture_output=True, timeout=120)
    output = done.stdout.decode("utf-8", "replace")
    return "" if done.returncode == 0 and (folder / "all.pdf").is_file() else output[-2000:]
