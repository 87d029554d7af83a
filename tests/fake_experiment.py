"""An experiment that nobody ran: predictions with planted effects on a general set and two others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulated_studies import simulated_experiments

from convnext_ablation.study.designs.design import design_of, with_models
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.store import folder_of, save_phases
from convnext_ablation.study.tuning import as_known
from convnext_ablation.training.predictions import Predictions

CLASSES = 10
IMAGES = {"imagenet": 500, "cub200": 400, "dogs": 300}
PHASES = (*IMAGES, "dogs_448")
MODELS = ("resnet50.tv_in1k", "resnet50.a1_in1k", "convnext_tiny.fb_in1k")
GENERAL = np.array([0.60, 0.62, 0.62, 0.64, 0.66])
TUNED = np.array([0.60, 0.80, 0.80, 0.82, 0.84])
STAGES = design_of("stages", "full")


def experiment_of(folder: Path, pretraining=3, seeds=2, design=STAGES):
    """Its phases: a general set, two sets that start from it, models beside the second; and models alone."""
    general = Study(
        design=design,
        data_name="imagenet",
        data_dir=str(folder / "data" / "imagenet"),
        data_fingerprint="imagenet",
        recipe_name="in1k_112",
        recipe={"epochs": 2, "batch_size": 8, "input_size": [3, 112, 112]},
        learning_rates={},
        seeds=list(range(pretraining)),
        precision="float32",
        device="cpu",
        threads=1,
        command="convnext-ablation study fgvc",
        test_split="val",
        phase="imagenet",
    )
    general = replace(general, learning_rates=_rates(general))
    phases = [general]
    models = {name: {} for name in MODELS}
    for name, data, size, points in (
        ("cub200", "cub200", 224, design),
        ("dogs", "stanford-dogs", 224, with_models(design, {name: {} for name in MODELS[:2]})),
        ("dogs_448", "stanford-dogs", 448, with_models(design, models, alone=True)),
    ):
        phases.append(
            replace(
                general,
                design=points,
                data_name=data,
                data_dir=str(folder / "data" / name),
                data_fingerprint=data,
                recipe={**general.recipe, "input_size": [3, size, size], "pretrained": True},
                seeds=list(range(seeds)),
                phase=name,
                test_split="test",
                start=general if name in IMAGES else None,
            )
        )
    return [replace(phase, learning_rates=_rates(phase)) for phase in phases]


def _rates(study):
    return {point.key: 0.001 for point in study.points}


def simulated_tables(pretraining=3, seeds=2):
    """What the design's networks get right, (networks, pre-trainings[, seeds], images), by phase."""
    spread = 0.003 if pretraining > 1 else 0.0
    sets = [
        {"images": IMAGES[name], "top1": TUNED, "seeds": seeds, "seed_sd": 0.003, "pretraining_sd": spread}
        for name in ("cub200", "dogs")
    ]
    general = {"images": IMAGES["imagenet"], "top1": GENERAL, "pretraining_sd": spread}
    drawn = simulated_experiments(np.random.default_rng(5), 1, pretraining, general, sets)
    return {name: table[:, 0] for name, table in zip(IMAGES, drawn, strict=True)}


def right_of(run, tables):
    """What a run gets right: of a network of the design by its table, of another by its name and seed."""
    seed, keys = run.arguments.seed, [point.key for point in STAGES.points]
    if run.point.key not in keys:
        images, place = IMAGES["dogs"], MODELS.index(run.point.key)
        return np.random.default_rng([place, seed, len(run.phase)]).random(images) < 0.7 + 0.05 * place
    table = tables[run.phase][keys.index(run.point.key)]
    return table[seed] if run.phase == "imagenet" else table[run.pretraining_seed, seed]


def finish(run, folder, right=(True,), **said):
    """Makes the files of a finished run that is right on these images, with what else its result says."""
    path = run.folder(folder)
    path.mkdir(parents=True, exist_ok=True)
    targets = np.arange(len(right)) % CLASSES
    top1 = np.where(right, targets, (targets + 1) % CLASSES)
    ids = np.array([f"class_{target}/{number}.jpg" for number, target in enumerate(targets)])
    Predictions(ids, targets, top1[:, None], np.ones(len(ids), np.float32), 1.0).save(
        path / "predictions.npz"
    )
    result = {
        "identity": run.identity, "learning_rate": run.arguments.lr, "parameters": 10, "gmacs": 0.5,
        "train_images_per_second": 50.0, "train_seconds": 2.0, "val_top1_percent": 60.0, "val_loss": 1.0,
        "host": "here", "device": "cpu", "versions": {"torch": "2.9.0"}, **said,
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(result))


def finished(phases, folder, tables, is_done=lambda run: True):
    """An experiment's folder, where those runs are finished that `is_done` says."""
    save_phases(folder, phases)
    for phase in phases:
        data = Path(phase.data_dir)
        data.mkdir(parents=True, exist_ok=True)
        (data / "dataset.json").write_text(json.dumps({"name": phase.data_name}))
        own = folder_of(phase, folder)
        for run in filter(is_done, as_known(phase, own).runs()):
            finish(run, own, right_of(run, tables))
    return folder
