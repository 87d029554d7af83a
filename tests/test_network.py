import copy
import math

import pytest
import timm
import torch
import torchvision
from timm.layers import LayerNorm2d
from timm.optim import create_optimizer_v2
from timm.utils import reparameterize_model
from torch import nn

from convnext_ablation import UserError
from convnext_ablation.models.blocks import Layers, LayerScale, SubsampledConv
from convnext_ablation.models.components import RESNET_50, Components
from convnext_ablation.models.convert import checkpoint_filter_fn

# BatchNorm and ReLU, and LayerNorm and GELU; timm's own tests run on all networks
KINDS = ["model_iv_atto", "model_v_atto"]


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


def randomise(model):
    """Gives every parameter and statistic a value of its own, so that one in the wrong place shows."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.05, 0.2)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.02)
    return model


def settle(model):
    """Lets statistics fit the weights; without it outputs, and with them rounding errors, explode."""
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(8, 3, 64, 64))
    return model


def stage_outputs(model, stages, images):
    """What the given modules put out, and the logits."""
    outputs = []
    hooks = [stage.register_forward_hook(lambda _, __, output: outputs.append(output)) for stage in stages]
    with torch.no_grad():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    return [*outputs, logits]


def stages_of(model):
    if hasattr(model, "stages"):
        return list(model.stages)
    return [model.layer1, model.layer2, model.layer3, model.layer4]


ORIGINALS = {
    "timm resnet50": ("model_i", lambda: timm.create_model("resnet50")),
    "torchvision resnet50": ("model_i", torchvision.models.resnet50),
    "timm convnext_tiny": ("model_v", lambda: timm.create_model("convnext_tiny")),
}


@pytest.mark.parametrize("original", ORIGINALS)
def test_network_gives_the_logits_and_features_of_the_original(original):
    name, create = ORIGINALS[original]
    other = randomise(create())
    model = timm.create_model(name)
    model.load_state_dict(checkpoint_filter_fn(other.state_dict(), model))
    # 112 / 16 is odd: Model V's last downsampling drops a row and a column
    images = torch.randn(2, 3, 112, 112)
    for training in (False, True):
        theirs = stage_outputs(other.train(training), stages_of(other), images)
        ours = stage_outputs(model.train(training), list(model.stages), images)
        assert theirs[-1].std() > 0.1
        for mine, expected in zip(ours, theirs, strict=True):
            scale = max(1.0, expected.abs().max().item())
            assert (mine - expected).abs().max() / scale <= 1e-5
        assert (ours[-1] - theirs[-1]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["model_i_atto", "model_iv_atto"])
def test_reparameterised_network_has_no_batch_norm_and_equal_outputs(name, images):
    model = settle(randomise(timm.create_model(name)))
    folded = reparameterize_model(model)  # in train mode, as timm's scripts do it
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, outputs = model.eval()(images), folded.eval()(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    layer_normed = timm.create_model("model_v_atto")
    assert str(reparameterize_model(layer_normed)) == str(layer_normed)


def test_features_only_gives_the_stages_asked_for(images):
    features = timm.create_model("model_iv_atto", features_only=True, out_indices=(1, 3))
    assert [tuple(output.shape[1:]) for output in features(images)] == [(48, 8, 8), (192, 2, 2)]
    assert features.feature_info.channels() == [48, 192]
    assert features.feature_info.reduction() == [8, 32]


@pytest.mark.parametrize(
    ("indices", "taken"), [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, 2], [0, 2]), ([-1], [3])]
)
def test_forward_intermediates_are_the_outputs_of_the_stages(indices, taken, images):
    model = timm.create_model("model_v_atto").eval()
    every = stage_outputs(model, list(model.stages), images)[:4]
    with torch.no_grad():
        last, outputs = model.forward_intermediates(images, indices=indices)
        early = model.forward_intermediates(images, indices=indices, stop_early=True, intermediates_only=True)
    torch.testing.assert_close(last, every[3])
    torch.testing.assert_close(outputs, [every[index] for index in taken])
    torch.testing.assert_close(early, outputs)


def test_stages_that_do_not_exist_are_an_error(images):
    model = timm.create_model("model_i_atto", device="meta")
    for indices in (0, 5, [-5]):
        with pytest.raises(ValueError, match="out of range; there are 4 stages"):
            model.forward_intermediates(images.to("meta"), indices=indices)


def test_pruned_network_keeps_its_features_and_drops_the_rest(images):
    model = timm.create_model("model_iv_atto").eval()
    expected = stage_outputs(model, list(model.stages), images)[1]
    assert model.prune_intermediate_layers([1]) == [1]
    assert len(model.stages) == 2
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), expected)
    model.reset_classifier(7, "avg")
    assert model(images).shape == (2, 7)
    assert model.num_features == model.head_hidden_size == expected.shape[1]


@pytest.mark.parametrize("pool", ["max", "catavgmax", ""])
def test_pool_can_be_chosen_and_changed(pool, images):
    chosen = timm.create_model("model_iii_atto", num_classes=5, global_pool=pool)
    changed = timm.create_model("model_iii_atto", num_classes=7)
    changed.reset_classifier(5, pool)
    changed.load_state_dict(chosen.state_dict())
    outputs = chosen.eval()(images)
    assert outputs.shape == ((2, 5) if pool else (2, 5, 2, 2))
    torch.testing.assert_close(changed.eval()(images), outputs)
    features = chosen.forward_head(chosen.forward_features(images), pre_logits=True)
    assert features.shape[1] == chosen.head_hidden_size


def test_pool_that_doubles_channels_is_refused_in_front_of_a_norm():
    model = timm.create_model("model_v_atto", device="meta")
    with pytest.raises(UserError, match="use 'avg', 'max' or 'avgmax'"):
        model.reset_classifier(5, "catavgmax")
    assert model.head.global_pool.pool_type == "avg"


def test_drop_rates_act_in_training_only(images):
    for name, rates in (("model_i_atto", {"drop_rate": 0.5}), ("model_v_atto", {"drop_path_rate": 0.5})):
        model = timm.create_model(name, layer_scale_init=1.0, **rates)
        assert not torch.equal(model(images), model(images))
        assert torch.equal(model.eval()(images), model.eval()(images))


def drop_path_rates(model):
    return [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]


def test_drop_path_grows_linearly_over_the_blocks_or_is_the_same_in_all():
    model = timm.create_model("model_v_atto", drop_path_rate=0.17)
    assert drop_path_rates(model) == pytest.approx([0.17 * index / 17 for index in range(18)])
    model = timm.create_model("model_v_atto", drop_path_rate=0.17, uniform_drop_path=True)
    assert drop_path_rates(model) == [0.17] * 18


@pytest.mark.parametrize("name", KINDS)
def test_gradient_checkpointing_changes_neither_outputs_nor_gradients(name, images):
    results = []
    model = randomise(timm.create_model(name, drop_path_rate=0.2))
    for checkpointing in (False, True):
        trained = copy.deepcopy(model)
        trained.set_grad_checkpointing(checkpointing)
        assert all(stage.grad_checkpointing == checkpointing for stage in trained.stages)
        torch.manual_seed(1)
        outputs = trained(images)
        outputs.square().mean().backward()
        results.append((outputs, [parameter.grad for parameter in trained.parameters()]))
    torch.testing.assert_close(*results)


def test_layer_decay_slows_the_layers_near_the_image():
    model = timm.create_model("model_iv_atto")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    scale_of = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    scales = {parameter_name: scale_of[id(p)] for parameter_name, p in model.named_parameters()}
    blocks = [
        scales[f"stages.{index}.blocks.{block}.conv1.weight"]
        for index, stage in enumerate(model.stages)
        for block in range(len(stage.blocks))
    ]
    ordered = [scales["stem.conv.weight"], *blocks, scales["head.fc.weight"]]
    assert ordered == sorted(set(ordered))
    assert scales["head.fc.weight"] == 1.0


@pytest.mark.parametrize("side", [32, 31])
def test_conv_of_few_channels_is_the_strided_conv(side):
    conv = Layers(RESNET_50).conv(15, 8, stride=2, normed=False)
    plain = nn.Conv2d(15, 8, 1, stride=2)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 15, side, side)
    torch.testing.assert_close(conv(x), plain(x))
    assert type(conv) is SubsampledConv
    assert type(Layers(RESNET_50).conv(16, 8, stride=2)) is nn.Conv2d  # the same bits as ever


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch 2.15 advises against TorchScript
def test_network_is_traced_scripted_compiled_and_exported(images, monkeypatch):
    monkeypatch.setattr(Components, "depths", (2, 2, 2, 2))  # each block takes as long
    model = randomise(timm.create_model("model_v", width_factor=1 / 8, downsampling="block")).eval()
    assert {SubsampledConv, LayerScale, LayerNorm2d} <= {type(module) for module in model.modules()}
    forms = [torch.fx.symbolic_trace(model), torch.jit.script(model)]
    forms.append(torch.compile(model, backend="aot_eager", fullgraph=True))
    forms.append(torch.export.export(model, (images,)).module())
    with torch.no_grad():
        for form in forms:
            torch.testing.assert_close(form(images), model(images), rtol=1e-4, atol=1e-4)


def test_batch_norm_network_starts_as_resnet():
    model = timm.create_model("model_i")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert all(not block.norm3.weight.any() for block in blocks)
    ours = timm.create_model("model_i_atto", zero_init_last=False)
    assert all((block.norm3.weight == 1).all() for stage in ours.stages for block in stage.blocks)


def test_layer_norm_network_starts_as_convnext():
    model = timm.create_model("model_v")
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert not module.bias.any(), name
    assert all((block.scale.gamma == 1e-6).all() for stage in model.stages for block in stage.blocks)


@pytest.mark.parametrize("name", ["resnet50_with_layer_norm_atto", "resnet50_with_layer_scale_atto"])
def test_residual_branch_starts_at_zero_and_learns_from_the_first_step(name, images):
    model = timm.create_model(name, num_classes=5)
    blocks = [block for stage in model.stages for block in stage.blocks]
    branches = []
    for block in blocks:
        block.drop_path.register_forward_hook(lambda _, __, output: branches.append(output))
    model(images).logsumexp(1).mean().backward()
    assert len(branches) == len(blocks)
    for block, branch in zip(blocks, branches, strict=True):
        assert branch.abs().max() < 1e-4  # layer scale starts at 1e-6
        # a norm at zero behind a layer scale would leave both without a gradient
        last = block.scale.gamma if isinstance(block.scale, LayerScale) else block.norm3.weight
        assert last.grad.abs().max() > 1e-6


def test_network_made_on_meta_can_be_given_weights(images):
    model = timm.create_model("model_v_atto", device="meta").to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan"))
    model.init_weights()
    assert model(images).isfinite().all()


def test_network_runs_in_bfloat16(images):
    model = timm.create_model("model_v_atto", dtype=torch.bfloat16)
    assert model(images.bfloat16()).dtype == torch.bfloat16
