"""Each `bash` and `python` block of README and docs runs; each command in a `text` block is a valid one.

The blocks of a page run in their order, in one folder. What they read is there in miniature: data sets of
a few images, networks at a quarter of the width on small images, and a hub on loopback.
"""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from huggingface_hub import constants
from inline_engine import Inline
from official_archives import bird_files, dog_files, jpeg, write_folder, write_imagenet, write_tar
from PIL import Image
from safetensors.torch import save
from test_data_sets import write_archives
from test_docs import FENCED, PAGES, ROOT
from test_weights import CLASSES, MODEL, release

import convnext_ablation.data.prepare as preparing
from convnext_ablation.cli import asked, study_run, train, validate
from convnext_ablation.cli import main as cli
from convnext_ablation.dataclass_options import option

BLOCKS = {
    page.stem: [(language, code) for _, language, code in FENCED.findall(page.read_text())] for page in PAGES
}
RUN = ("bash", "python")
# fewer images, and archives that aren't the published ones
SMALL = {
    "typefaces": {"train": 2, "val": 1, "test": 2},
    **{name: {"unofficial": True, "val": 1} for name in ("cub200", "stanford-dogs")},
    **{name: {"unofficial": True} for name in ("imagenet", "fgvc-aircraft")},
}
# what else is smaller than printed
INSTEAD = {
    r'(create_model\("model_[iv]+)(?=", num_classes|"\))': r"\1_atto",
    r"size=224|(?<=3, )224, 224": lambda match: match[0].replace("224", "32"),
    "path/to/convnext_ablation": str(ROOT),
    "mylab/": "lab/",  # the hub's only user
    "--device cpu": "--device cpu --workers 0",
    "--design stages --seeds 0 1 2": "--design two.yaml --seeds 0 1",
    "epochs: 10": "epochs: 1",
    "batch_size: 32": "batch_size: 8",
}
# what a page takes for granted, in commands
BEFORE = {
    "data_report": """
        convnext-ablation prepare cub200 data/cub --archive CUB_200_2011.tgz
        convnext-ablation prepare imagenet data/imagenet --archives ARCHIVES --size none""",
    "deploying": """
        convnext-ablation prepare cub200 data/cub --archive CUB_200_2011.tgz
        python train.py data/cub -c mine.yaml --model model_iv_atto --device cpu --epochs 1 \
            --batch-size 2 --output runs --experiment model_iv_cub""",
    "publishing": """
        convnext-ablation prepare cub200 data/cub --archive CUB_200_2011.tgz
        python train.py data/cub -c mine.yaml --model model_iv_atto --device cpu --epochs 1 \
            --batch-size 2 --test-split test --output runs --experiment model_iv_cub""",
}


def miniature(name, **defaults):
    """A data set whose options have other defaults."""
    dataset = preparing.DATASETS[name]
    known = {each.name: each for each in dataclasses.fields(dataset)}
    options = [(key, known[key].type, option(value, key)) for key, value in defaults.items()]
    return dataclasses.make_dataclass(dataset.__name__, options, bases=(dataset,), frozen=True)


@pytest.fixture
def here(tmp_path, monkeypatch, hub):
    """A folder to work in that has all that pages read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study_run, "engine_of", lambda *_: Inline())
    for name, defaults in SMALL.items():
        monkeypatch.setitem(preparing.DATASETS, name, miniature(name, **defaults))
    archives = Path("ARCHIVES")
    archives.mkdir()
    write_imagenet(archives)
    write_tar(archives / "CUB_200_2011.tgz", bird_files(), "w:gz")
    write_tar(archives / "images.tar", dog_files()["images"])
    write_tar(archives / "lists.tar", dog_files()["lists"])
    shutil.copytree(archives, "archives/imagenet")
    write_archives("fgvc-aircraft", Path("archives/aircraft"))
    for archive in archives.glob("[CIil]*.t*"):
        shutil.copy(archive, ".")
    write_photographs()
    Path("two.yaml").write_text("networks: [model_i, model_v]")
    Path("mine.yaml").write_text(smaller(next(code for kind, code in BLOCKS["tutorial"] if kind == "yaml")))
    return tmp_path


def smaller(code):
    """A block as it runs here."""
    for printed, small in INSTEAD.items():
        code = re.sub(printed, small, code)
    return code


def write_photographs():
    """Photographs of three classes, with a list of all and one for each split."""
    rng = np.random.default_rng(0)
    names = [f"{label}/{at}.jpg" for label in ("ash", "oak", "yew") for at in range(20)]
    for name in names:
        path = Path("photographs", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    rows = [f"{name},{name[:3]},site{at // 2}" for at, name in enumerate(names)]
    Path("list.csv").write_text("\n".join(["path,class,site", *rows]))
    write_folder(Path("images"), {f"{label}/{at}.jpg": jpeg(at) for label in (0, 1) for at in range(6)})
    shutil.copy("images/0/0.jpg", "one.jpg")
    for split, numbers in {"train": range(4), "val": [4], "test": [5]}.items():
        rows = [f"{label},{label}/{at}.jpg" for label in (0, 1) for at in numbers]
        Path(f"{split}.csv").write_text("\n".join(["class_id,dir", *rows]))
    Path("classid_classname.csv").write_text("class_id,class_name\n0,cat\n1,dog\n")


@pytest.fixture
def weights_on_hub(hub):
    """What docs/weights.md loads: public weights, and a release."""
    for name in ("convnext_tiny.in12k_ft_in1k", "resnet50.tv_in1k"):
        hub.add(f"timm/{name}", {"model.safetensors": save(timm.create_model(name).state_dict())})
    trained = timm.create_model(MODEL, num_classes=len(CLASSES))
    hub.add("lab/model_iv.cub200_448", release(save(trained.state_dict())))


def commands(code):
    """The words of each command in a block of a shell."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words):
    """Runs a command in this process."""
    match words:
        case ["convnext-ablation", *argv]:
            code = cli.main(argv)
        case ["python", "train.py", *argv]:
            code = train.main(argv)
        case ["python", "validate.py", *argv]:
            code = validate.main(argv)
        case _:
            pytest.fail(f"{words} can't be run here; tag its block `text`")
    assert code == 0, words


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if {*RUN} & dict(blocks).keys()])
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub and httpx
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deploying shows it nevertheless
def test_blocks_run(page, here, request):
    if page == "weights":
        request.getfixturevalue("weights_on_hub")
    if page != "README":  # figures take most of a report's time
        request.getfixturevalue("no_charts")
    blocks = [("bash", BEFORE.get(page, "")), *BLOCKS[page]]
    names = {}
    for language, code in blocks:
        if language == "bash":
            for words in commands(smaller(code)):
                run_command(words)
        elif language == "python":
            exec(compile(smaller(code), f"{page}.md", "exec"), names)


TEXT = [
    (page, words)
    for page, blocks in BLOCKS.items()
    for language, code in blocks
    if language == "text" and page != "weights"
    for words in commands(code)
]
OURS = [(page, words[1:]) for page, words in TEXT if words[0] == "convnext-ablation"]
SCRIPTS = [each for each in TEXT if "train.py" in each[1] or each[1][0] == "./distributed_train.sh"]


def test_blocks_have_a_language():
    assert {language for blocks in BLOCKS.values() for language, _ in blocks} <= {*RUN, "text", "yaml"}


@pytest.mark.parametrize(("page", "argv"), OURS)
def test_commands_that_are_only_shown_are_valid(page, argv):
    assert cli.parsed(argv).module.startswith(argv[0].replace("-", "_"))


@pytest.mark.parametrize(("page", "words"), SCRIPTS)
def test_arguments_of_train_that_are_only_shown_are_valid(page, words):
    at = words.index("train.py") + 1 if "train.py" in words else 2
    arguments = [word for word in words[at:] if word != "..."]
    assert asked.train(cli.parsed(arguments, "train.py")).device in ("cuda", "cpu")
