"""timm's own scripts with our networks: `python -m convnext_ablation.stock`, and `--device-modules`."""

import csv
import json
import math
import os
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import yaml
from timm_repo import FOLDER, STOCK, needs_timm_repo, run, stock
from two_processes import finished, run_script, start

import convnext_ablation  # noqa: F401  (registers the networks)
from convnext_ablation import stock as stock_module
from convnext_ablation.training.history import read_summary
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import built_in

# A script like timm's: a data set of its own, loader workers, an exit code. Each time it runs, it says so.
SCRIPT = """
import json, sys, timm, torch

with open("log", "a") as log:
    print(__name__, file=log)


class Probe(torch.utils.data.Dataset):
    def __init__(self, name: "no such name"):
        self.name = name

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return type(timm.create_model(self.name, device="meta")).__name__, timm.__file__


if __name__ == "__main__":
    seen = {
        "argv": sys.argv,
        "file": __file__,
        "path": sys.path,
        "known": timm.is_model("model_iv_atto"),
        "timm": timm.__file__,
        "annotation": repr(Probe.__init__.__annotations__["name"]),
    }
    loaders = {}
    for method in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            Probe("model_iv_atto"), batch_size=None, num_workers=1, multiprocessing_context=method
        )
        loaders[method] = iter(loader)  # all start before one is read: they take seconds to import
    for method, images in loaders.items():
        seen[method] = list(images)
    print(json.dumps(seen))
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What a script sees that lies beside another timm, and is run from its own folder."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "timm").mkdir()
    (folder / "timm" / "version.py").write_text("__version__ = '0.0.1'")
    (folder / "timm" / "__init__.py").write_text("raise ImportError('the wrong timm')")
    (folder / "script.py").write_text(SCRIPT)
    work = tmp_path_factory.mktemp("work")
    script = os.path.relpath(folder / "script.py", work)
    done = run([sys.executable, *STOCK, script, "--opt", "a b", "-h"], work)
    assert done.returncode == 3, done.stderr
    return {
        "script": script,
        "folder": str(folder),
        "work": str(work),
        "stderr": done.stderr,
        "log": (work / "log").read_text().split(),
        **json.loads(done.stdout),
    }


def test_a_script_sees_our_networks_its_own_arguments_and_the_installed_timm(seen):
    assert seen["known"]
    assert seen["argv"] == [seen["script"], "--opt", "a b", "-h"]
    assert seen["file"] == seen["script"]
    assert seen["annotation"] == "'no such name'"  # compiled by its own rules, not by ours
    assert seen["timm"] == timm.__file__
    assert seen["path"][-1] == seen["folder"]
    assert seen["work"] not in seen["path"]
    assert (
        f"convnext_ablation.stock: script.py runs with timm {timm.__version__} "
        f"({Path(timm.__file__).parent}), not with the timm 0.0.1 beside it\n"
    ) in seen["stderr"]


def test_loader_workers_see_our_networks_and_the_same_timm(seen):
    for method in ("fork", "spawn"):
        assert seen[method] == 2 * [["ResNetToConvNeXt", timm.__file__]]
    # a worker by spawn, as one by forkserver, defines what the script defines; one process is the main one
    assert sorted(seen["log"]) == ["__main__", "__mp_main__"]


def test_torchrun_starts_a_script_in_each_process(tmp_path):
    (tmp_path / "script.py").write_text(
        "import sys, timm, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "timm.create_model('model_i_atto', device='meta')\n"
        "open(f'{dist.get_rank()}', 'w').write(' '.join(sys.argv))\n"
        "dist.destroy_process_group()\n"
    )
    agent = start(tmp_path / "log", run_script, tmp_path, "script.py", "--lr", "1")
    output = finished(agent, tmp_path / "log")
    assert agent.exitcode == 0, output
    assert [(tmp_path / rank).read_text() for rank in "01"] == 2 * ["script.py --lr 1"]
    assert output.count("convnext_ablation.stock: script.py runs with timm") == 1


def test_usage_and_a_script_that_is_not_there(capsys, tmp_path):
    assert stock_module.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{stock_module.USAGE}\nto get timm's scripts: git clone ")
    assert f" --branch v{timm.__version__} https://github.com/huggingface/" in out
    script = str(tmp_path / "train.py")
    assert stock_module.main([script, "--model", "model_i"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"convnext_ablation.stock: error: {script}: no such script; to get")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "timm_folder", "expected"),
    [
        # from anywhere, with timm installed
        (["work", "site"], "site", ["site", "checkout"]),
        # in the checkout, whose timm python -m finds first: all processes find that one
        (["checkout", "site"], "checkout", ["checkout", "site", "checkout"]),
        # in another checkout
        (["other", "site"], "other", ["other", "site", "checkout"]),
    ],
)
def test_all_processes_find_the_timm_that_was_found_first(tmp_path, path, timm_folder, expected):
    script = tmp_path / "checkout" / "train.py"
    found = stock_module.search_path([str(tmp_path / name) for name in path], script, tmp_path / timm_folder)
    assert found == [str(tmp_path / name) for name in expected]


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory) -> Path:
    """The folder of a run of timm's train.py itself, told of our networks by --device-modules."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, FOLDER / "train.py", "--device-modules", "convnext_ablation"]
    command += ["-c", built_in("recipes")["fashion_mnist"], "--data-dir", image_folder]
    command += ["--model", "model_v_atto"]
    command += "--device cpu --num-classes 3 --epochs 2 -b 16 -j 1 --input-size 3 32 32".split()
    command += ["--mean", *3 * ["0.5"], "--std", *3 * ["0.5"], "--output", folder, "--experiment", "run"]
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@needs_timm_repo
def test_train_takes_the_package_as_a_device_module(trained):
    assert [row.epoch for row in read_summary(trained / "summary.csv")] == [0, 1]
    weights = timm.models.load_state_dict(trained / "last.pth.tar", use_ema=False)
    timm.create_model("model_v_atto", num_classes=3).load_state_dict(weights, strict=True)


@needs_timm_repo
def test_avg_checkpoints_averages_ours(trained, tmp_path):
    arguments = ("--input", trained, "--filter", "checkpoint-*.pth.tar", "-n", "2")
    stock(tmp_path, "avg_checkpoints.py", *arguments)
    average = timm.models.load_state_dict(tmp_path / "averaged.pth")
    epochs = [timm.models.load_state_dict(path) for path in sorted(trained.glob("checkpoint-*.pth.tar"))]
    assert len(epochs) == 2
    name = "head.fc.weight"
    torch.testing.assert_close(average[name], (epochs[0][name] + epochs[1][name]) / 2)
    assert not torch.equal(epochs[0][name], epochs[1][name])


@needs_timm_repo
def test_onnx_export_gives_our_logits(trained, tmp_path):
    weights = trained / "model_best.pth.tar"
    options = "model.onnx --model model_v_atto --num-classes 3 --img-size 64 --dynamo"
    stock(tmp_path, "onnx_export.py", *options.split(), "--checkpoint", weights)
    model = timm.create_model("model_v_atto", num_classes=3, checkpoint_path=weights).eval()
    images = torch.rand(1, 3, 64, 64)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(logits, model(images).detach().numpy(), atol=1e-5)


@needs_timm_repo
def test_inference_finds_a_class_for_each_image(trained, image_folder, tmp_path):
    pytest.importorskip("pandas", reason="timm's inference.py needs pandas")
    options = "--model model_v_atto --num-classes 3 --device cpu --workers 0 -b 4 --input-size 3 32 32"
    options += " --results-file found.csv --fullname --include-index"
    read = ("--data-dir", image_folder / "test", "--checkpoint", trained / "last.pth.tar")
    stock(tmp_path, "inference.py", *options.split(), *read)
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 1 + 21


@needs_timm_repo
def test_benchmark_counts_our_parameters(tmp_path):
    options = "--model model_iv_atto --device cpu --bench infer --img-size 64 -b 2"
    options += " --num-warm-iter 1 --num-bench-iter 10 --results-file speed.csv"
    stock(tmp_path, "benchmark.py", *options.split())
    with open(tmp_path / "speed.csv") as lines:
        (row,) = csv.DictReader(lines)
    parameters = sum(p.numel() for p in timm.create_model("model_iv_atto", device="meta").parameters())
    assert row["model"] == "model_iv_atto"
    assert float(row["param_count"]) == pytest.approx(parameters / 1e6, abs=0.01)


# those for other fine-grained sets differ from that for CUB in their classes alone (tests/test_recipes.py)
RECIPES = [
    n for n in built_in("recipes") if not n.endswith(("_224", "_448")) or n.startswith(("cub", "photo"))
]


@needs_timm_repo
@pytest.mark.parametrize("name", RECIPES)
def test_timms_script_trains_by_the_recipe(name, image_folder, tmp_path):
    recipe = read_recipe(name)
    options = f"--model {recipe.get('model', 'model_iv')}_atto --device cpu --workers 0 --num-classes 3"
    options += " --train-split test"  # enough images for two batches of 8 only
    options += " --epochs 1 --warmup-epochs 0 --batch-size 8 --amp-dtype bfloat16 --experiment run"
    if recipe.get("pretrained"):
        torch.save(timm.create_model("model_iv_atto").state_dict(), tmp_path / "weights.pth")
        options += f" --pretrained-path {tmp_path / 'weights.pth'}"
    folders = ("--data-dir", image_folder, "--output", tmp_path)
    stock(tmp_path, "train.py", "-c", built_in("recipes")[name], *folders, *options.split())
    (row,) = read_summary(tmp_path / "run" / "summary.csv")
    assert math.isfinite(row.train_loss)
    arguments = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    changed = {"train_split", "model", "num_classes", "epochs", "warmup_epochs", "batch_size", "amp_dtype"}
    kept = recipe.keys() - changed
    assert {key: arguments[key] for key in kept} == {key: recipe[key] for key in kept}
    with torch.serialization.safe_globals([Namespace]):
        groups = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=True)["optimizer"]["param_groups"]
    # one group means that weight decay is on all parameters
    on_all = recipe.get("opt_kwargs", {}).get("filter_bias_and_bn") is False
    assert {group["weight_decay"] for group in groups} == {recipe["weight_decay"], *([] if on_all else [0.0])}
    if recipe["opt"] == "momentum":
        assert (groups[0]["momentum"], groups[0]["nesterov"]) == (0.9, False)
