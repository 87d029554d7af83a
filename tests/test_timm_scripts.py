"""`convnext-ablation timm-scripts`: where timm's scripts are, and whether a checkout fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from timm_repo import FOLDER, needs_timm_repo

from convnext_ablation import stock
from convnext_ablation.cli import main as cli
from convnext_ablation.errors import UserError

TAG = f"v{timm.__version__}"


def checkout(folder: Path, version: str = timm.__version__, train: str = "import timm") -> Path:
    """A folder that looks like a checkout of timm's repository."""
    (folder / "timm").mkdir()
    (folder / "timm" / "version.py").write_text(f"__version__ = '{version}'\n")
    for name in stock.SCRIPTS:
        (folder / name).write_text(train)
    return folder


def test_says_where_the_scripts_of_the_installed_timm_are(capsys):
    assert cli.main(["timm-scripts"]) == 0
    said, command = capsys.readouterr().out.splitlines()
    assert f"timm {timm.__version__} is installed" in said
    assert command == (
        f"git clone --depth 1 --branch {TAG} https://github.com/huggingface/pytorch-image-models "
        f"timm-{timm.__version__}"
    )
    assert cli.main(["timm-scripts", "--version"]) == 0
    assert capsys.readouterr().out == f"{TAG}\n"


@pytest.mark.parametrize("version", ["1.0.32.dev0", "1.1.0rc1", "1.0+local"])
def test_a_version_between_releases_has_no_tag(version):
    with pytest.raises(UserError, match=r"has no tag; take the scripts from where it was installed from"):
        stock.command(version)


def test_a_checkout_of_the_same_version_fits(capsys, tmp_path):
    assert cli.main(["timm-scripts", str(checkout(tmp_path))]) == 0
    has, fits = capsys.readouterr().out.splitlines()
    assert has == f"{tmp_path}: has {', '.join(stock.SCRIPTS)}"
    assert fits == f"{tmp_path}: timm {timm.__version__}, as installed"


def test_a_checkout_of_another_version_is_told_apart_but_usable(capsys, tmp_path):
    scripts = "from timm.data import create_loader\nfrom timm import utils\nfrom os import none_such"
    assert cli.main(["timm-scripts", str(checkout(tmp_path, "0.9.9", scripts))]) == 0
    fits = capsys.readouterr().out.splitlines()[1]
    assert f"made for timm 0.9.9, not for the installed {timm.__version__}" in fits
    assert f"--branch {TAG}" in fits


@pytest.mark.parametrize(
    ("script", "missing"),
    [
        ("from timm.data import none_such", "imports none_such from timm.data"),
        ("from timm.none_such import create_loader", "imports create_loader from timm.none_such"),
        ("from timm import none_such", "imports none_such from timm"),
    ],
)
def test_a_checkout_that_needs_another_timm_is_refused(capsys, tmp_path, script, missing):
    assert cli.main(["timm-scripts", str(checkout(tmp_path, "9.9.9", script))]) == 2
    captured = capsys.readouterr()
    assert f"train.py: made for timm 9.9.9, {missing}" in captured.err
    assert f"--branch {TAG}" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_what_a_script_imports_only_when_used_is_no_reason_to_refuse_it(tmp_path):
    script = "def load():\n    from timm.data import none_such"
    assert len(stock.check(checkout(tmp_path, train=script))) == 2


def test_a_folder_without_the_scripts_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"train.py, validate.py, .* missing; this is no checkout"):
        stock.check(tmp_path)
    (checkout(tmp_path) / "validate.py").unlink()
    with pytest.raises(UserError, match=r": validate.py missing"):
        stock.check(tmp_path)
    (tmp_path / "validate.py").write_text("def")
    with pytest.raises(UserError, match=r"validate.py: not a Python script: invalid syntax"):
        stock.check(tmp_path)
    (tmp_path / "timm" / "version.py").unlink()
    with pytest.raises(UserError, match=r"no such folder|timm/version.py missing"):
        stock.check(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        stock.check(tmp_path / "nowhere")


@needs_timm_repo
def test_timms_repository_has_what_the_installed_timm_runs():
    has, fits = stock.check(FOLDER)
    assert has.endswith(", ".join(stock.SCRIPTS))
    assert timm.__version__ in fits
