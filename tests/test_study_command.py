"""The `study` command from start to end, killed and started again, and refused where it can't run."""

import csv
import json
import shutil

import pytest
from inline_engine import Inline
from test_study_running import finished

from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_run
from convnext_ablation.study import setup


@pytest.fixture
def arguments(image_folder, recipe_file, tmp_path):
    """The command line of a small study: five networks, two seeds, two epochs."""
    return [
        "study",
        "run",
        f"--data={image_folder}",
        f"--recipe={recipe_file}",
        "--jobs=2",
        f"--output={tmp_path / 'study'}",
        *("--seeds", "0", "1"),
    ]


@pytest.fixture
def in_this_process(monkeypatch, no_charts):
    """Has the command do the runs itself, which takes less time than to start processes, and draw nothing."""
    monkeypatch.setattr(study_run, "engine_of", lambda *_: Inline())


@pytest.fixture(scope="module")
def small(image_folder, recipe_file, tmp_path_factory):
    """A finished study of one network, and the command line that made it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "design.yaml").write_text("networks: [model_i, model_v]\n")
    (folder / "init").mkdir()
    command = [
        "study",
        f"--data={image_folder}",
        f"--recipe={recipe_file}",
        f"--design={folder / 'design.yaml'}",
        "--jobs=1",
        f"--output={folder / 'study'}",
    ]
    with pytest.MonkeyPatch.context() as patch:  # test_study_running.py has processes
        patch.setattr(study_run, "engine_of", lambda *_: Inline())
        assert cli.main([*command, "--seeds", "0"]) == 0
    return command, folder


def test_a_study_ends_with_a_report_and_what_is_finished_is_not_done_again(small, capsys):
    call, folder = small
    before = finished(folder / "study")
    assert len(before) == 2
    assert (folder / "study" / "report" / "index.html").is_file()
    (folder / "study" / "report" / "index.html").unlink()
    assert cli.main([*call, "--seeds", "0"]) == 0
    output = capsys.readouterr().out
    assert "2 runs (2 networks x 1 seed), 2 done before; float32" in output
    assert "took" in output
    assert finished(folder / "study") == before
    assert (folder / "study" / "report" / "index.html").is_file()


def test_networks_start_from_the_runs_of_a_study_that_pretrained_them(
    small, in_this_process, tmp_path, capsys
):
    call, folder = small
    weights = f"{folder}/study/runs/{{model}}-seed{{pretraining_seed}}-*/model_best.pth.tar"
    call = [*call, f"--output={tmp_path}", f"--init={weights}", "--seeds", "1"]
    assert cli.main([*call, "--pretraining-seeds", "0", "4"]) == 2
    assert "model_i_atto-seed4-*/model_best.pth.tar: no such file; " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert cli.main([*call, "--pretraining-seeds", "0"]) == 0
    assert "x 1 seed x 1 pre-training seed)" in capsys.readouterr().out
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert [result["pretraining_seed"] for result in results] == [0, 0]
    with open(tmp_path / "report" / "seeds.csv", newline="") as file:
        assert [row["pretraining_seed"] for row in csv.DictReader(file)] == ["0", "0"]


def test_a_failed_run_stops_no_other_and_another_study_is_refused(
    small, in_this_process, tmp_path, capsys, monkeypatch
):
    call = [*small[0], f"--output={tmp_path}", "--seeds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(setup, "learning_rates", lambda *_: {"model_i_atto": 0.002, "model_v_atto": 1e30})
        assert cli.main(call) == 2
    captured = capsys.readouterr()
    assert "1 of 2 runs failed (model_v_atto seed 0: " in captured.err
    assert "the loss is" in captured.err
    assert "model_v_atto seed 0 failed: " in captured.out
    assert len(finished(tmp_path)) == 1
    assert cli.main(call) == 2
    assert "holds another study: model_v_atto of its learning rates is" in capsys.readouterr().err


def test_networks_without_a_learning_rate_that_trains_them_are_named(
    small, in_this_process, tmp_path, capsys
):
    call = [*small[0], f"--output={tmp_path}", "--seeds", "0", "--tune", "lr=1e30,1e31"]
    assert cli.main(call) == 2
    assert "no learning rate of those tried trains model_i_atto, model_v_atto" in capsys.readouterr().err
    assert len((tmp_path / "tuning.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--seeds", "0", "1", "0"], "a seed is given twice"),
        (["--seeds", "-1"], "seed is -1; it must be"),
        (["--device=nvidia"], "device is 'nvidia'; it takes cpu, cuda, mps or xpu"),
        (["--data", "one", "--data", "two"], "--data: name one data set or folder"),
        (["--data", "more", "data"], "--data: name one data set or folder"),
        (["--data=imagenet"], "make its folder first with `convnext-ablation prepare imagenet OUT`"),
        (["--threads=0"], "--threads is 0"),
        (["--precision=float64"], "invalid choice: 'float64'"),
        (["--sbatch", "partition=gpu"], "--sbatch: is for --engine slurm"),
        (["--ray-address", "auto"], "--ray-address: is for --engine ray"),
        (["--engine=slurm", "--sbatch", "gpu"], "--engine slurm: "),
        (["--tune", "lr=0.1,0.2", "--seeds", "1000003"], "learning rates are chosen with this seed"),
        (["--pretraining-seeds", "0"], "say where the pre-trained weights are, with --init"),
        (["--groups", "macro=wide"], "takes no groups"),
        (["--recipe="], "a folder of your own needs --recipe"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(arguments, tmp_path, capsys, extra, message):
    if any(word.startswith("--data") for word in extra):
        arguments = [word for word in arguments if not word.startswith("--data")]
    assert cli.main([*arguments, *extra]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def spoil_class_not_in_train(folder):
    shutil.copytree(folder / "test" / "dark", folder / "test" / "black")


def spoil_image(folder):
    (folder / "train" / "grey" / "03.png").write_bytes(b"not an image")


def spoil_batch(folder):
    for path in folder.glob("train/*/*.png"):
        if int(path.stem) > 1:
            path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_class_not_in_train, "black"),
        (spoil_image, "03.png"),
        (spoil_batch, "6 training images are fewer than one batch of 8; give --batch-size 6\n"),
    ],
)
def test_bad_data_are_named_before_anything_is_trained(
    arguments, image_folder, tmp_path, capsys, spoil, message
):
    folder = tmp_path / "data"
    shutil.copytree(image_folder, folder)
    spoil(folder)
    arguments[2] = f"--data={folder}"
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "study").exists()
