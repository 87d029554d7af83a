"""When the networks are registered, in processes that have imported nothing yet."""

import subprocess
import sys
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "convnext_ablation.cli.main"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_networks_are_there_when_timm_was_imported_first():
    code = (
        "import timm.models\nfrom convnext_ablation import Components\nimport timm\n"
        "timm.create_model('model_iv_atto', device='meta')\n"
        "assert '.webp' not in timm.data.get_img_extensions()\n"
        "print(len(timm.list_models('model_*')))"
    )
    assert run([sys.executable, "-c", code]).stdout == "10\n"


SPAWNS = """
import multiprocessing
import convnext_ablation, timm

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(timm.is_model("model_iv"), pool.apply(timm.is_model, ["model_iv"]))
"""


def test_processes_that_the_command_spawns_have_the_networks(tmp_path):
    script = tmp_path / "convnext-ablation"
    script.write_text(SPAWNS)
    assert run([sys.executable, script]).stdout == "False True\n"


def test_the_package_has_all_it_says():
    import convnext_ablation

    assert all(getattr(convnext_ablation, name) for name in convnext_ablation.__all__)
    assert convnext_ablation.ResNetToConvNeXt.__name__ == "ResNetToConvNeXt"
    assert not hasattr(convnext_ablation, "zo")


@pytest.mark.parametrize("installed", [True, False], ids=["script", "module"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["study", "status", "--help"],
        ["recipes"],
        ["prepare", "--help"],
        ["data-report", "--help"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_network_import_no_torch(arguments, installed, monkeypatch):
    script = str(Path(sys.executable).with_name("convnext-ablation"))
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # prints what is imported
    imported = run([*([script] if installed else MODULE), *arguments]).stderr
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "convnext_ablation.errors" in modules
    assert not {"torch", "timm", "torchvision", "scipy", "matplotlib"} & modules
