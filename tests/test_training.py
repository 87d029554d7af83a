"""The loop: exact resumption, exact evaluation, timm's files, and one line for what is wrong."""

import copy
import dataclasses

import numpy as np
import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.errors import UserError
from convnext_ablation.training.checkpoints import load_checkpoint, save_checkpoint
from convnext_ablation.training.distributed import make_deterministic
from convnext_ablation.training.evaluation import merge, predict
from convnext_ablation.training.history import BEST, LAST, SUMMARY, Epoch, stops_early
from convnext_ablation.training.logs import Log
from convnext_ablation.training.loop import StoppedError, Trainer
from convnext_ablation.training.predictions import Predictions


@pytest.fixture(autouse=True)
def _on_one_thread():
    make_deterministic(threads=1)


def same_weights(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(arguments, tmp_path):
    everything = {"amp": True, "amp_dtype": "bfloat16", "drop_path": 0.2, "drop": 0.1, "reprob": 0.3}
    settings = arguments(
        epochs=2, warmup_epochs=1, model="model_v_atto", opt_kwargs={"fused": True}, **everything
    )
    undisturbed = Trainer(settings, tmp_path / "undisturbed")
    undisturbed.run()

    class Interrupting(Log):
        def epoch(self, epoch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "interrupted", log=Interrupting()).run()
    torch.rand(5)  # another process would start from other random numbers
    resumed = Trainer(dataclasses.replace(settings, resume="auto"), tmp_path / "interrupted")
    assert [epoch.epoch for epoch in resumed.run()] == [0, 1]
    assert same_weights(undisturbed.model.state_dict(), resumed.model.state_dict())
    assert (tmp_path / "undisturbed" / SUMMARY).read_text() == (
        tmp_path / "interrupted" / SUMMARY
    ).read_text()
    undisturbed.load_best()
    resumed.load_best()
    assert same_weights(undisturbed.model.state_dict(), resumed.model.state_dict())


def test_a_run_learns_and_keeps_the_best_epoch(arguments, tmp_path):
    trainer = Trainer(arguments(model="test_resnet", epochs=10, scale=(1.0, 1.0)), tmp_path)
    history = trainer.run()
    assert history[-1].train_loss < history[0].train_loss
    assert trainer.best.eval_top1 == max(epoch.eval_top1 for epoch in history) > 60.0
    first_best = next(epoch for epoch in history if epoch.eval_top1 == trainer.best.eval_top1)
    assert trainer.best is first_best
    trainer.load_best()
    assert trainer.evaluate("val").top1 == trainer.best.eval_top1
    assert load_checkpoint(tmp_path / BEST)["epoch"] == first_best.epoch
    by_timm = timm.create_model(
        "test_resnet", num_classes=3, in_chans=1, checkpoint_path=str(tmp_path / BEST)
    )
    assert same_weights(by_timm.state_dict(), trainer.model.state_dict())


@pytest.mark.parametrize(
    ("top1", "settings", "stops"),
    [
        ([50, 60, 60, 59], {}, [False, False, False, True]),
        ([60, 50, 61, 50, 50], {}, [False, False, False, False, True]),
        ([60, 50, 50, 50], {"warmup_epochs": 2}, [False, False, False, True]),
        ([None, 60, None, 60, None, 60], {"val_interval": 2}, [False] * 5 + [True]),
        ([60, 60, 60, 60], {"early_stopping": 0}, [False] * 4),
        ([50, 60, 70], {"eval_metric": "loss"}, [False, False, True]),  # the loss is as large here
    ],
)
def test_a_run_stops_after_evaluations_without_a_better_one(arguments, top1, settings, stops):
    given = arguments(**{"early_stopping": 2, **settings})
    history = [Epoch(epoch, 1.0, value, value, value, 0.1) for epoch, value in enumerate(top1)]
    assert [stops_early(history[: done + 1], given) for done in range(len(history))] == stops


def test_a_run_that_stops_early_resumes_with_its_count(arguments, tmp_path):
    lines = []
    for epochs in (2, 9, 9):
        still = arguments(model="test_convnext", lr=1e-30, early_stopping=2, epochs=epochs, resume="auto")
        trainer = Trainer(still, tmp_path)
        trainer.log.line = lines.append
        trainer.run()
    assert [epoch.epoch for epoch in trainer.history] == [0, 1, 2]
    told = "stopped early, after 3 of 9 epochs: 2 evaluations without a better top1 than that of epoch 0"
    assert lines.count(told) == 2


def test_learning_rates_are_those_of_timms_schedule(arguments, tmp_path):
    settings = arguments(epochs=2, warmup_epochs=1, warmup_prefix=True, warmup_lr=0.0, lr=0.01, val_split="")
    trainer = Trainer(settings, tmp_path)
    optimizer = create_optimizer_v2(torch.nn.Linear(1, 1), "sgd", lr=0.01)
    schedule, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(settings), updates_per_epoch=6)
    expected = []
    for update in range(1, 6 * epochs + 1):
        expected.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(update)

    used = []
    trainer.step = lambda *_: used.append(trainer.optimizer.param_groups[0]["lr"]) or torch.zeros(())
    trainer.run()
    assert (epochs, used) == (3, expected)
    assert used[0] == 0.0
    assert max(used) == 0.01


def test_a_global_batch_is_reached_by_batches_of_any_size(arguments, tmp_path):
    # LayerNorm looks at one image, so nothing but the order of sums can differ
    settings = arguments(model="model_v_atto", epochs=1, global_batch=20, opt="momentum", lr=0.05)
    found = {}
    for size in (20, 4):
        trainer = Trainer(dataclasses.replace(settings, batch_size=size), tmp_path / str(size))
        updates = []
        trainer.optimizer.register_step_post_hook(lambda *_, made=updates: made.append(1))
        history = trainer.run()
        assert (len(updates), history[0].images, trainer.images_an_update) == (2, 40, 20)  # of 48 images
        found[size] = trainer.model.state_dict()
    for name, value in found[20].items():
        torch.testing.assert_close(found[4][name], value, rtol=1e-3, atol=2e-5)


def test_a_run_resumes_within_an_epoch_with_smaller_batches_for_the_same_updates(arguments, tmp_path):
    settings = arguments(model="test_convnext", epochs=2, opt="momentum", lr=0.05, batch_size=8)
    whole = Trainer(settings, tmp_path / "whole")
    whole.run()
    updates = []
    parts = Trainer(settings, tmp_path / "parts", should_stop=lambda: len(updates) == 9)
    parts.optimizer.register_step_post_hook(lambda *_: updates.append(1))
    with pytest.raises(StoppedError):
        parts.run()
    half = dataclasses.replace(settings, batch_size=4, resume="auto")
    with pytest.raises(
        UserError, match="an update had 8 images and an epoch 48, and now they would have 4 and 48 "
    ):
        Trainer(half, tmp_path / "parts").run()
    resumed = Trainer(dataclasses.replace(half, grad_accum_steps=2), tmp_path / "parts")
    seen, step = [], resumed.step
    resumed.step = lambda images, *more: seen.append(len(images)) or step(images, *more)
    history = resumed.run()
    assert seen == [4] * 6  # three updates of the second epoch
    assert [past.train_loss for past in history] == pytest.approx([past.train_loss for past in whole.history])
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_class_weights_are_those_of_torchs_loss_over_an_update(arguments, tmp_path, unbalanced_folder, mixup):
    settings = {"model": "test_convnext", "opt": "momentum", "momentum": 0.0, "lr": 0.1, "weight_decay": 0.0}
    settings |= {"epochs": 1, "val_split": "", "mixup": mixup, "data_dir": str(unbalanced_folder)}
    given = arguments(**settings, batch_size=8, global_batch=16, class_weights="balanced")
    trainer = Trainer(given, tmp_path)
    before = copy.deepcopy(trainer.model)
    trainer.train_images.start_at(0, 0)
    images, targets = map(torch.cat, zip(*trainer.train_batches, strict=True))
    weights = 28 / (3 * torch.tensor([16.0, 8.0, 4.0]))
    smoothing = 0.0 if mixup else 0.1  # mixed targets are smoothed before
    torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)(before(images), targets).backward()
    trainer.run()
    for (name, old), new in zip(before.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_class_weights_go_by_the_numbers_that_a_checkpoint_gives_to_classes(
    arguments, tmp_path, unbalanced_folder
):
    settings = {"model": "test_convnext", "epochs": 1, "data_dir": str(unbalanced_folder)}
    given = arguments(**settings, class_weights="balanced", resume="auto")
    Trainer(given, tmp_path).run()
    state = load_checkpoint(tmp_path / LAST)
    state["convnext_ablation"]["classes"] = ["light", "dark", "grey"]
    save_checkpoint(tmp_path / LAST, state)
    resumed = Trainer(given, tmp_path)
    resumed.run()
    assert resumed.loss.weight.tolist() == pytest.approx([28 / 12, 28 / 48, 28 / 24])


def test_evaluation_counts_every_image_once(arguments, tmp_path):
    trainer = Trainer(arguments(test_split="test"), tmp_path)
    trainer.model.train()
    for batch_size in (4, 21, 64):
        trainer.arguments = dataclasses.replace(trainer.arguments, validation_batch_size=batch_size)
        predictions = trainer.evaluate("test")
        assert trainer.model.training
        assert len(set(predictions.ids.tolist())) == len(predictions.ids) == 21
        assert predictions.targets.tolist() == [0] * 7 + [1] * 7 + [2] * 7
        assert all(name.startswith("light/") for name in predictions.ids[14:].tolist())
        assert predictions.top5.shape == (21, 3)


def test_predictions_hold_what_the_logits_say(tmp_path):
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6], [9.0, 8, 7, 6, 5, 4, 3], [5.0, 4, 3, 2, 1, 0, 9]])
    targets = torch.tensor([6, 4, 5])
    part = predict(_Constant(logits), [(torch.zeros(3, 1, 2, 2), targets)])
    predictions = merge([part], ["a", "b", "c"])
    assert predictions.correct.tolist() == [True, False, False]
    assert predictions.top1 == pytest.approx(100 / 3)
    assert predictions.top5_accuracy == pytest.approx(200 / 3)
    assert predictions.top5[0].tolist() == [6, 5, 4, 3, 2]
    assert predictions.probability[0] == pytest.approx(float(logits[0].softmax(0)[6]))
    assert predictions.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)))

    predictions.save(tmp_path / "p.npz")
    again = Predictions.load(tmp_path / "p.npz")
    for field in dataclasses.fields(Predictions):
        assert np.array_equal(getattr(again, field.name), getattr(predictions, field.name))


class _Constant(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits[: len(images)]


def test_images_that_come_or_go_during_evaluation_are_noticed():
    batches = [(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))]
    with pytest.raises(UserError, match="3 images listed but 2 read"):
        merge([predict(_Constant(torch.eye(2)), batches)], ["a", "b", "c"])


def test_damaged_predictions_are_named(tmp_path):
    (tmp_path / "p.npz").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(UserError, match=r"p\.npz: predictions can't be read"):
        Predictions.load(tmp_path / "p.npz")


def test_losses_under_autocast_are_computed_in_float32(arguments, tmp_path):
    trainer = Trainer(arguments(model="test_resnet", epochs=1, amp=True, amp_dtype="bfloat16"), tmp_path)
    kinds, loss = set(), trainer.loss

    def noted(outputs, targets):
        kinds.add(outputs.dtype)
        return loss(outputs, targets)

    trainer.loss = noted
    trainer.run()
    assert kinds == {torch.float32}
