"""`convnext-ablation timm-scripts`: where timm's scripts are, and whether a checkout fits."""

from __future__ import annotations

import timm
from timm_repo import FOLDER, needs_timm_repo

from convnext_ablation import stock
from convnext_ablation.cli import main as cli

CLONE = (
    f"git clone --depth 1 --branch v{timm.__version__} "
    f"https://github.com/huggingface/pytorch-image-models timm-{timm.__version__}"
)


def test_says_where_the_scripts_of_the_installed_timm_are(capsys):
    assert cli.main(["timm-scripts"]) == 0
    said, command = capsys.readouterr().out.splitlines()
    assert f"timm {timm.__version__} is installed" in said
    assert command == CLONE


def test_a_checkout_fits_if_it_is_of_the_installed_version(capsys, tmp_path):
    assert cli.main(["timm-scripts", str(tmp_path)]) == 2
    assert f"{tmp_path}: no train.py and timm/version.py; no checkout" in capsys.readouterr().err
    (tmp_path / "train.py").touch()
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "version.py").write_text("__version__ = '0.9.9'\n")
    assert cli.main(["timm-scripts", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"made for timm 0.9.9, not for the installed {timm.__version__}" in out
    assert out.endswith(f"those that fit: {CLONE}\n")
    (tmp_path / "timm" / "version.py").write_text(f"__version__ = '{timm.__version__}'\n")
    assert cli.main(["timm-scripts", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: timm {timm.__version__}, as installed\n"


@needs_timm_repo
def test_timms_repository_has_the_scripts():
    assert "timm" in stock.check(FOLDER)
