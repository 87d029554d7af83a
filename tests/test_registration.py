"""When the networks are registered, in processes that have imported nothing yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "{'torch', 'timm', 'torchvision', 'scipy', 'matplotlib'}"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import timm, convnext_ablation",
        "import convnext_ablation\nfrom timm.models import create_model\nimport timm",
        "import convnext_ablation.models.network, timm",
        "import convnext_ablation.models.zoo, timm",
    ],
)
def test_networks_are_there_whichever_is_imported_first(imports):
    out = run(
        f"{imports}\n"
        "import inspect, importlib.resources\n"
        "assert timm.is_model('model_iv') and '.webp' not in timm.data.get_img_extensions()\n"
        "assert timm.__spec__.loader is timm.__loader__ and inspect.getsource(timm)\n"
        "assert timm.__loader__.__class__.__module__.startswith('_frozen_importlib'), timm.__loader__\n"
        "assert (importlib.resources.files(timm) / 'version.py').is_file()\n"
        "print(len(timm.list_models('model_*')))"
    )
    assert int(out) == 10


def test_the_package_alone_imports_nothing_heavy_and_has_all_it_says():
    run(
        "import sys, convnext_ablation\n"
        f"assert not {HEAVY} & sys.modules.keys()\n"
        "assert all(getattr(convnext_ablation, name) for name in convnext_ablation.__all__)\n"
        "assert 'timm' in sys.modules\n"
        "assert convnext_ablation.ResNetToConvNeXt.__name__ == 'ResNetToConvNeXt'\n"
        "assert not hasattr(convnext_ablation, 'zo')"
    )


@pytest.mark.parametrize(
    "module",
    ["cli.main", "cli.recipes", "cli.prepare", "cli.data_report", "cli.study_status"],
)
def test_commands_that_need_no_network_import_nothing_heavy(module):
    run(f"import sys, convnext_ablation.{module}\nassert not {HEAVY} & sys.modules.keys()")
