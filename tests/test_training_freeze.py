"""What is frozen stays bit for bit, and nothing else does."""

import dataclasses

import pytest
import timm
import torch

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.errors import UserError
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.network import freeze, share_statistics


@pytest.mark.parametrize(
    ("model", "what", "first"),
    [
        ("model_i_atto", "head-only", "head.fc.weight"),
        ("test_vit", "head-only", "head.weight"),
        ("test_efficientnet", "head-only", "classifier.weight"),
        *((f"model_{number}_atto", "stages=2", "stages.2.") for number in ("i", "ii", "iii", "iv", "v")),
        ("model_v_atto", "stages=0", "stages.0."),
        ("model_v_atto", "stages=4", "head.norm.weight"),
        ("test_resnet", "stages=1", "layer2."),
        ("test_convnext", "stages=3", "stages.3."),
        ("test_efficientnet", "stages=2", "blocks.2."),
    ],
)
def test_all_layers_before_the_first_that_is_trained_are_frozen(model, what, first):
    network = timm.create_model(model, num_classes=3)
    freeze(network, what)
    trained = [parameter.requires_grad for _, parameter in network.named_parameters()]
    names = [name for name, _ in network.named_parameters()]
    start = trained.index(True)
    assert names[start].startswith(first)
    assert not names[start - 1].startswith(first)
    assert all(trained[start:])


@pytest.mark.parametrize("what", ["head-only", "stages=2"])
def test_frozen_layers_stay_and_a_run_resumes_bit_identical(arguments, tmp_path, what):
    make_deterministic(threads=1)
    given = arguments(
        freeze=what, drop=0.2, drop_path=0.5, model_ema=True, model_ema_decay=0.9, weight_decay=0.5,
        layer_decay=0.8, grad_checkpointing=True, sched="step",
    )  # fmt: skip
    trainer = Trainer(given, tmp_path / "whole")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    after, average = trainer.model.state_dict(), trainer.average.module.state_dict()
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    frozen = ("stem.", "stages.0.", "stages.1.", *(("stages.", "head.norm.") * (what == "head-only")))
    assert still == {name for name in before if name.startswith(frozen)}
    assert still == {name for name, value in before.items() if torch.equal(value, average[name])}

    Trainer(dataclasses.replace(given, epochs=1), tmp_path / "parts").run()
    resumed = Trainer(dataclasses.replace(given, resume="auto"), tmp_path / "parts")
    resumed.run()
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in after.items())


def test_statistics_of_frozen_layers_are_not_averaged_over_processes(monkeypatch):
    def rounded(model, processes, mean):
        assert (processes, mean) == (8, True)
        for name, buffer in model.named_buffers():
            buffer.add_("running" in name)

    monkeypatch.setattr("convnext_ablation.training.network.distribute_bn", rounded)
    model = timm.create_model("model_i_atto", num_classes=3)
    parts = freeze(model, "stages=2")
    assert parts == ["stem", "stages.0", "stages.1"]
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    share_statistics(model, parts, 8, mean=True)
    for name, buffer in model.named_buffers():
        if "running" in name:
            frozen = name.startswith(("stem.", "stages.0.", "stages.1."))
            assert torch.equal(buffer, before[name] if frozen else before[name] + 1), name


@pytest.mark.parametrize(
    ("model", "what", "message"),
    [
        ("test_vit", "stages=2", "test_vit has no stages known to timm; give head-only"),
        ("poolformer_s12", "stages=2", "poolformer_s12 has no stages known to timm; give head-only"),
        ("model_v_atto", "stages=5", "freeze is stages=5, and model_v_atto has 4 stages; give a smaller"),
        ("model_v_atto", "head", "freeze is 'head'; give head-only to train the classifier alone, or st"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(model, what, message):
    with pytest.raises(UserError, match=message):
        freeze(timm.create_model(model), TrainingArguments(freeze=what).freeze)
