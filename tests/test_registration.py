"""When the networks are registered, in processes that have imported nothing yet."""

import subprocess
import sys

import convnext_ablation


def output(*command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT = """
import sys, warnings
import timm.models, torch
theirs = set(timm.list_models(include_tags=False)) | set(dir(timm.models))
assert "zoo" not in timm.list_modules(), "timm has a module of that name"
built = []
construct = torch.nn.Module.__init__
torch.nn.Module.__init__ = lambda self, *a, **kw: (built.append(self), construct(self, *a, **kw))
warnings.simplefilter("error")
before = set(sys.modules)
from convnext_ablation import Components
loaded = {".".join(name.split(".")[:2]) for name in set(sys.modules) - before}
ours = set(timm.list_models("*", module="zoo"))
for name in ours:
    timm.get_pretrained_cfg(name)
assert not built, f"{len(built)} modules were built"
assert not ours & theirs, f"names that timm has: {ours & theirs}"
assert '.webp' not in timm.data.get_img_extensions()
timm.create_model("model_iv_atto", device="meta")
needed = {f"convnext_ablation{each}" for each in ("", ".models", ".weights", ".files", ".errors", ".version")}
assert loaded == needed, f"import takes {loaded - needed}"
print(len(timm.list_models("model_*")))
"""


def test_objects_of_the_import_are_not_looked_through_for_garbage_at_its_end():
    program = (
        "import gc, convnext_ablation; print(gc.isenabled(), len(gc.get_objects(generation=2)) > 100_000)"
    )
    assert output("-c", program) == "True True\n"


def test_import_behind_timm_is_quick_builds_nothing_and_takes_no_name_of_timm():
    assert output("-c", IMPORT) == "10\n"


COMMAND = """
import multiprocessing, sys
from convnext_ablation.cli.main import main

if __name__ == "__main__":
    assert main(["recipes"]) == 0
    assert not {"torch", "timm", "torchvision", "scipy", "matplotlib"} & set(sys.modules)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(eval, ["__import__('timm').is_model('model_iv')"]))
"""


def test_commands_that_need_no_network_import_no_torch_and_processes_they_spawn_have_the_networks(tmp_path):
    script = tmp_path / "convnext-ablation"  # the name goes for the command itself
    script.write_text(COMMAND)
    assert output(script).endswith("\nTrue\n")


def test_the_package_has_all_it_says():
    assert all(getattr(convnext_ablation, name) for name in convnext_ablation.__all__)
    assert convnext_ablation.ResNetToConvNeXt.__name__ == "ResNetToConvNeXt"
    assert not hasattr(convnext_ablation, "zo")
