"""What a study is before it runs: identities, learning rates, and whose folder it is."""

import dataclasses
import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import Components
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Script, Study, Weights
from convnext_ablation.study.pretrained import find_weights
from convnext_ablation.study.store import read_study, save_study
from convnext_ablation.study.tuning import learning_rates, mixed_origins
from convnext_ablation.training.settings import read_recipe

STAGES = design_of("stages", "atto")
POINTS = STAGES.points
KEYS = [point.key for point in POINTS]
STUDY = Study(
    design=STAGES,
    data_name="typefaces",
    data_dir="data/typefaces",
    data_fingerprint="f" * 64,
    recipe_name="typefaces",
    recipe={"epochs": 2, "batch_size": 8, "input_size": [1, 32, 32]},
    learning_rates=dict.fromkeys(KEYS, 0.001),
    seeds=[0, 1],
    precision="float32",
    device="cpu",
    threads=1,
    command="convnext-ablation study",
)


def weights(sha256="a", seeds=(None,)):
    return tuple(Weights(key, seed, f"/{key}", sha256, "in1k") for seed in seeds for key in KEYS)


def test_every_network_runs_with_every_seed_one_seed_after_the_other():
    runs = [(run.point.label, run.arguments.seed) for run in STUDY.runs()]
    labels = ["Model I", "Model II", "Model III", "Model IV", "Model V"]
    assert runs == [(label, seed) for seed in (0, 1) for label in labels]
    assert len({run.identity for run in STUDY.runs()}) == 10


def test_runs_are_made_and_checked_once():
    assert all(one is other for one, other in zip(STUDY.runs(), STUDY.all_runs(), strict=True))
    assert STUDY.one_run_each()[0] is STUDY.runs()[0]


def test_runs_of_earlier_versions_are_found_by_their_identity(tmp_path):
    first = STUDY.runs()[0]
    assert first.identity == "c9ce21bbdaf5d09751a2fb45b092d4ec6358a0d464bd2d928875f03388bfc0ea"
    assert first.folder(tmp_path) == tmp_path / "runs" / "model_i_atto-seed0-c9ce21bb"
    more = replace(STUDY, weights=weights("a"), script=Script("/t", "1", "1.0"))
    assert more.runs()[3].identity[:8] == "48a35cb1"
    tuning = replace(STUDY, design=design_of("screening", "atto"), learning_rates={}, tuning=(0.1, 0.2))
    assert tuning.tuning_runs()[5].identity[:8] == "66a14c82"


def test_a_component_that_is_added_later_changes_no_run_or_study_without_it(tmp_path):
    later = dataclasses.make_dataclass("Later", [("squeeze", bool, False)], bases=(Components,), frozen=True)

    def with_later(**switches):
        points = [replace(each, components=later(**asdict(each.components), **switches)) for each in POINTS]
        return replace(STUDY, design=replace(STAGES, points=tuple(points)))

    assert [run.identity for run in with_later().runs()] == [run.identity for run in STUDY.runs()]
    assert not {run.identity for run in with_later(squeeze=True).runs()} & {r.identity for r in STUDY.runs()}
    save_study(tmp_path, STUDY)
    save_study(tmp_path, with_later())
    with pytest.raises(UserError, match="its networks is"):
        save_study(tmp_path, with_later(squeeze=True))


def test_whatever_determines_a_result_is_in_its_identity_and_where_files_lie_is_not():
    changes = [
        {"data_fingerprint": "0" * 64},
        {"recipe": {**STUDY.recipe, "epochs": 3}},
        {"recipe": {**STUDY.recipe, "global_batch": 8}},
        {"recipe": {**STUDY.recipe, "early_stopping": 3}},
        {"recipe": {**STUDY.recipe, "freeze": "head-only"}},
        *({"recipe": {**STUDY.recipe, name: "balanced"}} for name in ("sampler", "class_weights")),
        {"learning_rates": dict.fromkeys(STUDY.learning_rates, 0.002)},
        {"precision": "bfloat16"},
        {"threads": 2},
        {"processes": 2},
        {"seeds": [2]},
        *({"weights": weights(sha256)} for sha256 in "ab"),
        *({"script": Script("/a", *versions)} for versions in (("1", "1.0"), ("2", "1.0"), ("1", "1.1"))),
    ]
    studies = [STUDY, *(replace(STUDY, **each) for each in changes)]
    identities = [study.runs()[0].identity for study in studies]
    assert len(set(identities)) == len(studies)
    for study, identity in zip(studies, identities, strict=True):
        moved = tuple(replace(each, path="/elsewhere") for each in study.weights)
        script = study.script and replace(study.script, path="/elsewhere")
        elsewhere = replace(study, data_dir="/elsewhere", weights=moved, script=script)
        assert elsewhere.runs()[0].identity == identity


@pytest.mark.parametrize(
    ("processes", "whole", "batch_size", "steps"),
    [(1, 128, 16, 8), (2, 128, 16, 4), (8, 128, 16, 1), (1, None, 16, 1), (2, None, 8, 1), (8, None, 2, 1)],
)
def test_processes_share_a_global_batch_by_steps_or_else_the_batch(processes, whole, batch_size, steps):
    study = replace(STUDY, recipe={**STUDY.recipe, "batch_size": 16, "global_batch": whole})
    share = replace(study, processes=processes).runs()[0].share()
    assert (share.batch_size, share.grad_accum_steps) == (batch_size, steps)


def test_a_study_of_an_earlier_version_has_one_process_a_run(tmp_path):
    save_study(tmp_path, STUDY)
    content = json.loads((tmp_path / "study.json").read_text())
    assert content["study"].pop("processes") == 1
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert read_study(tmp_path).processes == 1
    with pytest.raises(UserError, match="its processes is 1, not 2"):
        save_study(tmp_path, replace(STUDY, processes=2))
    assert save_study(tmp_path, STUDY).runs()[0].identity == STUDY.runs()[0].identity
    two = replace(STUDY, processes=2)
    save_study(tmp_path / "two", two)
    assert read_study(tmp_path / "two").runs()[0].identity == two.runs()[0].identity


def test_a_free_network_is_made_of_its_switches_and_told_by_its_key(tmp_path):
    design = design_of("screening", "atto")
    study = replace(STUDY, design=design, learning_rates={point.key: 0.001 for point in design.points})
    runs = study.runs()
    free = next(run for run in runs if run.point.model_kwargs)
    assert free.arguments.model == "resnet_to_convnext_atto"
    assert free.arguments.model_kwargs == free.point.model_kwargs
    assert free.folder(tmp_path).name.startswith(f"{free.point.key}-seed0-")
    assert len({run.identity for run in runs}) == 2 * len(study.points)


def test_pretraining_seeds_multiply_the_runs_and_start_from_their_weights():
    study = replace(STUDY, weights=weights("a", (0,)) + weights("b", (1,)))
    runs = study.runs()
    assert len(runs) == 2 * 2 * 5
    seeds = [(run.arguments.seed, run.pretraining_seed) for run in runs[::5]]
    assert seeds == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert runs[0].arguments.pretrained_path == "/model_i_atto"
    assert len({run.identity for run in runs}) == 20
    assert study.is_pretrained
    assert not STUDY.is_pretrained


def test_tuning_runs_try_all_values_for_all_networks_with_one_seed_and_no_test(tmp_path):
    study = replace(STUDY, learning_rates={}, tuning=(0.1, 0.2))
    runs = study.tuning_runs()
    tried = [(run.point.key, run.arguments.lr) for run in runs]
    assert tried == [(key, lr) for key in KEYS for lr in (0.1, 0.2)]
    assert {run.arguments.seed for run in runs}.isdisjoint(study.seeds)
    assert {run.arguments.test_split for run in runs} == {None}
    assert runs[0].folder(tmp_path).parent.name == "tuning"
    assert study.runs() == []
    assert [run.arguments.lr for run in replace(study, learning_rates={KEYS[1]: 0.2}).runs()] == [0.2, 0.2]


@pytest.mark.parametrize(
    "study",
    [
        STUDY,
        replace(STUDY, weights=weights("a", (3,)), script=Script("/train.py", "1", "1.0")),
        replace(STUDY, design=design_of("screening", "atto"), learning_rates={}, tuning=(0.1, 0.2)),
    ],
)
def test_what_is_read_back_makes_the_same_runs(tmp_path, study):
    folder = tmp_path / "study"
    assert save_study(folder, study).seeds == [0, 1]
    again = read_study(folder)
    assert [run.identity for run in again.all_runs()] == [run.identity for run in study.all_runs()]
    assert again.command == study.command
    assert again.design.contrasts == study.design.contrasts
    assert {path.name for path in folder.iterdir()} == {"study.json"}


def test_seeds_may_be_added_to_a_study_and_none_is_lost(tmp_path):
    save_study(tmp_path, STUDY)
    before = (tmp_path / "study.json").stat().st_mtime_ns
    save_study(tmp_path, STUDY)
    assert (tmp_path / "study.json").stat().st_mtime_ns == before
    assert save_study(tmp_path, replace(STUDY, seeds=[3, 1])).seeds == [0, 1, 3]
    assert read_study(tmp_path).seeds == [0, 1, 3]
    save_study(tmp_path / "more", replace(STUDY, weights=weights("a", (0,))))
    study = save_study(tmp_path / "more", replace(STUDY, weights=weights("b", (1,)), published={"a": "b"}))
    assert read_study(tmp_path / "more").published == {"a": "b"}
    assert study.pretraining_seeds == [0, 1]
    assert len(read_study(tmp_path / "more").runs()) == 20


def test_a_study_may_call_its_networks_otherwise_than_when_it_was_begun(tmp_path):
    named = [replace(point, label=f"Network {number}") for number, point in enumerate(POINTS)]
    save_study(tmp_path, replace(STUDY, design=replace(STAGES, points=tuple(named))))
    save_study(tmp_path, STUDY)
    assert [point.label for point in read_study(tmp_path).points] == [point.label for point in POINTS]


PRETRAINED = replace(STUDY, weights=weights("a"))


@pytest.mark.parametrize(
    ("study", "changes", "message"),
    [
        (
            STUDY,
            {"recipe": {**STUDY.recipe, "epochs": 3}},
            "another study: epochs of its recipe is 2, not 3; its 0 finished runs would not count",
        ),
        (STUDY, {"data_fingerprint": "0" * 64}, "another study: its data fingerprint is"),
        (STUDY, {"design": design_of("stages", "full")}, "another study: its networks is"),
        (STUDY, {"weights": weights()}, "another study: its start is"),
        (STUDY, {"script": Script("/train.py", "1", "1.0")}, "another study: its training script is"),
        (PRETRAINED, {"weights": weights("b")}, "starts from /model_i_atto with SHA-256 a, not b"),
        (PRETRAINED, {"weights": weights("a", (0,))}, "its study has no pre-training seeds"),
        (
            replace(STUDY, published={"resnet50.tv_in1k": "a" * 64}),
            {"published": {"resnet50.tv_in1k": "b" * 64}},
            r"published weights of resnet50\.tv_in1k have changed since the study began \(SHA-256 b{12},",
        ),
    ],
)
def test_another_study_is_not_written_into_the_folder(tmp_path, study, changes, message):
    save_study(tmp_path, study)
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UserError, match=message):
        save_study(tmp_path, replace(study, **changes))
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something else than a study"):
        save_study(tmp_path, STUDY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="something else"):
        save_study(tmp_path / "thesis.tex", STUDY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"form', r"study\.json: damaged"),
        ('{"format": 2}', r"study\.json: damaged \(KeyError"),
        ("{}", "of format 1, and this version works with format 2; give another --output"),
        (None, "no study is there"),
    ],
)
def test_a_folder_without_a_study_that_can_be_read_is_named(tmp_path, content, message):
    if content:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)
    if content:
        with pytest.raises(UserError, match=message):
            save_study(tmp_path, STUDY)


def checkpoint(path, arch="model_i_atto", **arguments):
    settings = {"data_dir": "/x/in1k", "epochs": 100, "input_size": [3, 112, 112], "seed": 4, **arguments}
    torch.save({"state_dict": {"stem.conv.weight": torch.zeros(1)}, "arch": arch, "args": settings}, path)


def test_the_files_to_start_from_are_found_and_told_apart(tmp_path):
    for seed in (0, 1):
        for key in KEYS:
            checkpoint(tmp_path / f"{key}-seed{seed}-{seed}abc.pth.tar", key, seed=seed, lr=0.1 * seed)
    found = find_weights(f"{tmp_path}/{{model}}-seed{{pretraining_seed}}-*.pth.tar", POINTS, [0, 1])
    networks = [(each.network, each.pretraining_seed) for each in found]
    assert networks == [(key, seed) for seed in (0, 1) for key in KEYS]
    assert len({each.sha256 for each in found}) == 10
    assert {each.origin.partition(" (")[0] for each in found} == {"in1k, 112 px, 100 epochs"}
    assert mixed_origins(found) == ""


@pytest.mark.parametrize(
    ("pattern", "seeds", "message"),
    [
        ("{model}.pth", [], r"model_ii_atto\.pth: no such file; Model II would start from it"),
        ("{model}*", [], "fits 2 files"),
        ("model_i_atto.pth", [], "names one file for 5 networks"),
        ("{model}.pth", [0], "names one file for all pre-training seeds"),
        ("{model}-{pretraining_seed}.pth", [], "give --pretraining-seeds"),
    ],
)
def test_files_to_start_from_that_are_missing_or_not_clear_are_named(tmp_path, pattern, seeds, message):
    checkpoint(tmp_path / "model_i_atto.pth")
    if "*" in pattern:
        checkpoint(tmp_path / "model_i_atto_too.pth")
    with pytest.raises(UserError, match=message):
        find_weights(f"{tmp_path}/{pattern}", POINTS, seeds)


@pytest.mark.parametrize(
    ("arch", "kwargs"), [("model_ii_atto", {}), ("model_i", {}), ("model_i_atto", {"gelu": True})]
)
def test_weights_of_another_network_are_refused(tmp_path, arch, kwargs):
    checkpoint(tmp_path / "model_i_atto.pth", arch, model_kwargs=kwargs)
    with pytest.raises(UserError, match=f"holds {arch}, not model_i_atto"):
        find_weights(f"{tmp_path}/{{model}}.pth", POINTS[:1], [])


@pytest.mark.parametrize("kwargs", [{"uniform_drop_path": True}, {"layer_scale_init": 1.0}])
def test_arguments_of_a_network_that_are_no_components_make_no_other_network(tmp_path, kwargs):
    checkpoint(tmp_path / "model_v_atto.pth", "model_v_atto", model_kwargs=kwargs)
    assert len(find_weights(f"{tmp_path}/{{model}}.pth", POINTS[4:], [])) == 1


def test_what_safetensors_say_of_themselves_is_their_origin(tmp_path):
    path = tmp_path / "model_i_atto.safetensors"
    save_file({"stem.conv.weight": torch.zeros(1)}, path, {"model": "model_i_atto", "source_format": "timm"})
    assert find_weights(str(path), POINTS[:1], [])[0].origin == "converted from timm"
    save_file({"stem.conv.weight": torch.zeros(1)}, path)
    assert find_weights(str(path), POINTS[:1], [])[0].origin == "not told"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="not a checkpoint, or a damaged one"):
        find_weights(str(path), POINTS[:1], [])


def test_a_learning_rate_in_the_table_comes_before_the_recipes_own():
    assert all(rate < 0.5 for rate in learning_rates(POINTS, "typefaces", {"lr": 0.5}).values())
    assert learning_rates(POINTS, "my.yaml", {"lr": 0.5}) == dict.fromkeys(KEYS, 0.5)
    based = {"lr_base": 0.1, "lr_base_size": 256, "batch_size": 32}
    assert learning_rates(POINTS, "my.yaml", based) == dict.fromkeys(KEYS, 0.1 * 32 / 256)
    adam = {**based, "opt": "adamw", "global_batch": 64}
    assert learning_rates(POINTS, "my.yaml", adam) == dict.fromkeys(KEYS, 0.1 * (64 / 256) ** 0.5)
    assert learning_rates(POINTS, "in1k_112", read_recipe("in1k_112")) == dict.fromkeys(KEYS, 4e-3)
    with pytest.raises(UserError, match=r"my\.yaml sets no lr for model_i_atto; give --tune"):
        learning_rates(POINTS, "my.yaml", {})
