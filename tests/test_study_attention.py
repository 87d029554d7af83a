"""Where networks look: the maps themselves, and how the page shows them."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from fake_study import again, fake_study, write_images
from PIL import Image

from convnext_ablation.errors import UserError
from convnext_ablation.study.report.attention import attention
from convnext_ablation.study.report.html_page import attention_maps
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.settings import read_recipe


def save_network(folder, name, classes=4, size=64, **arguments):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, in_chans=1)
    given = TrainingArguments(model=name, input_size=(1, size, size), mean=(0.5,), std=(0.25,), **arguments)
    state = {"epoch": 0, "arch": name, "state_dict": model.state_dict(), "args": given.to_dict()}
    if arguments.get("model_ema"):
        zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
        state |= {"state_dict": zeros, "state_dict_ema": model.state_dict()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "model_best.pth.tar")
    return model.eval()


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "image.png"
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", ["model_i_atto", "model_v_atto"])
def test_a_map_is_grad_cam_of_the_last_stage(name, image, tmp_path):
    model = save_network(tmp_path, name, size=128, crop_pct=1.0, interpolation="bilinear")
    found = attention(tmp_path, [image] * 4, [0, 1, 2, 3])
    assert (found.layer, found.grid) == ("stages.3", (4, 4))
    with Image.open(image) as file:
        pixels = np.asarray(file.resize((128, 128), Image.Resampling.BILINEAR), np.float32) / 255
    batch = torch.tensor((pixels - 0.5) / 0.25)[None, None]
    features = model.forward_features(batch).detach().requires_grad_()
    logits = model.forward_head(features)
    share, first = (each.item() for each in logits.detach().softmax(1)[0].max(0))
    for target, map_ in enumerate(found.maps):
        gradient = torch.autograd.grad(logits[0, target], features, retain_graph=True)[0]
        expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()[0].detach()
        expected = expected / expected.max() if expected.max() > 0 else expected
        assert map_.heat == pytest.approx(expected.numpy(), abs=1e-3)
        assert map_.picture.size == (160, 160)
        assert (map_.predicted, map_.probability) == (first, pytest.approx(share, abs=1e-4))
    assert any(map_.heat.any() for map_ in found.maps)


def test_averaged_weights_are_taken_where_they_were_evaluated(image, tmp_path):
    save_network(tmp_path / "plain", "model_i_atto")
    save_network(tmp_path / "averaged", "model_i_atto", model_ema=True)
    plain, averaged = (attention(tmp_path / name, [image], [1]) for name in ("plain", "averaged"))
    assert averaged.maps[0].probability == plain.maps[0].probability > 0.25


def test_small_images_are_mapped_at_an_earlier_stage(image, tmp_path):
    save_network(tmp_path, "model_v_atto", size=32)
    found = attention(tmp_path, [image], [1])
    assert (found.layer, found.grid) == ("stages.1", (4, 4))


def test_a_trained_run_says_what_it_said_in_its_test(image_folder, recipe_file, tmp_path):
    recipe = {**read_recipe(str(recipe_file)), "model": "model_iv_atto", "epochs": 1}
    trainer = Trainer(
        TrainingArguments(**recipe, data_dir=str(image_folder), device="cpu", workers=0, test_split="test"),
        tmp_path,
    )
    trainer.run()
    trainer.load_best()
    tested = trainer.evaluate("test")
    images = [image_folder / "test" / name for name in tested.ids]
    found = attention(tmp_path, images, tested.targets.tolist())
    assert [map_.predicted for map_ in found.maps] == tested.top5[:, 0].tolist()
    assert [map_.probability for map_ in found.maps] == pytest.approx(tested.probability, abs=1e-4)
    repeated = read_recipe(str(tmp_path / "args.yaml"))
    assert TrainingArguments(**repeated) == trainer.arguments, "the page's command repeats the run"


def test_what_cannot_be_read_is_refused_in_a_line(image, tmp_path):
    save_network(tmp_path, "model_v_atto")
    path = tmp_path / "model_best.pth.tar"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "arch": "model_i_atto"}, path)
    with pytest.raises(UserError, match=r"model_best.pth.tar: the checkpoint .* is not one of model_i_atto"):
        attention(tmp_path, [image], [1])
    torch.save(state, path)
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image.png: can't be decoded"):
        attention(tmp_path, [image], [1])


@pytest.fixture
def mapped(tmp_path):
    """A study of which two networks have weights."""
    made = fake_study(tmp_path, seeds=1)
    write_images(made.evidence)
    for run in (made.evidence.runs[0], made.evidence.runs[2]):
        save_network(run.folder, "model_iii_atto", crop_pct=1.0)
    return made


def test_maps_stand_side_by_side_on_the_same_images(mapped):
    found = attention_maps(mapped)
    assert len(found.images) == 4
    for label, (original, *maps) in found.images.items():
        assert original.alt == f"Test image {label.split(': ')[1]}"
        assert maps[0].alt.startswith("Attention map: Model 0, seed 0: says bird ")
        assert maps[1].alt.startswith("Attention map: Model 2, seed 0: says bird ")
    lacking, layers = found.remarks
    gone = r"Not drawn: Model 1: model_1-seed0-\w+/model_best.pth.tar: no such checkpoint\."
    assert re.fullmatch(gone, lacking)
    assert layers == "Maps are of: stages.2, 4x4 positions."
    assert next(iter(found.images)) in again(mapped, mapped.folder)[0].words()


def test_of_many_networks_some_are_mapped(mapped, monkeypatch):
    first = mapped.findings.rows[0]
    rows = [replace(first, network=replace(first.network, label=f"Model {number}")) for number in range(20)]
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    found = attention_maps(replace(mapped, findings=replace(mapped.findings, rows=rows)))
    assert found.remarks[0].startswith("Not drawn: Model 0: captum isn't installed: pip install")
    named = re.findall(r"Model (\d+):", found.remarks[0])
    assert named == ["0", "3", "6", "9", "12", "15", "18"]
    assert found.remarks[1:] == ["7 of 20 networks are shown."]
    assert found.images == {}
