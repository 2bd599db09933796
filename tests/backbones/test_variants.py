"""Every backbone and every YAML keeps the contract, and the published sizes come out to the last parameter."""

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from backbones import arguments, available, create, registry
from backbones.heads import Predictor, Projector

PROJECT = Path(__file__).resolve().parents[2]
YAMLS = sorted(PROJECT.glob("configs/*backbone/*.yaml"))
SMALL = [path for path in YAMLS if path.stem.endswith("_small")]
CNN = {"channels": (4, 8), "pools": (2, 2), "hidden": 16, "dim": 24, "input_size": 16}
TINY = {  # small enough for gradients in a moment
    "cnn_gru_attention": CNN,
    "cnn_lstm": CNN,
    "csn_r101": {"depths": (1, 1, 1, 1), "width": 4},
    "audio_resnet18": {"depths": (1, 1, 1, 1), "width": 4},
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def named(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def tiny(name: str, **more) -> nn.Module:
    """With BatchNorms away from their start, where the weights of residual branches are zero and hide mistakes."""
    torch.manual_seed(0)
    backbone = create(name, **{**TINY[name], **more})
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return backbone


def clips(name: str, batch: int = 2, frames: int = 5, size: int = 16) -> torch.Tensor:
    """Input for `frames` video frames."""
    if name in available("audio"):
        return torch.randn(batch, 1, 4 * frames, 24)
    return torch.randn(batch, 3, frames, size, size)


ALL = [*available(), *available("audio")]


@pytest.mark.parametrize(("name", "expected"), [
    ("cnn_gru_attention", 44_689_664),
    ("csn_r101", 21_394_176),
    ("cnn_lstm", 107_244_288),
    ("audio_resnet18", 11_170_240),
])
def test_published_parameter_counts(name, expected):
    with torch.device("meta"):
        assert parameters(create(name)) == expected
        assert parameters(create(**_variant(name))) == expected


def _variant(stem: str) -> dict:
    (path,) = (path for path in YAMLS if path.stem == stem)
    return {"name": named(path)["name"], **named(path)["arguments"]}


def test_published_parameter_counts_of_the_heads():
    assert parameters(Projector(2048)) == 525_056
    assert parameters(Projector(512)) == 131_840
    assert parameters(Predictor()) == 3_414_784


def test_every_backbone_has_its_published_yaml_and_a_small_one():
    assert {path.stem for path in YAMLS} == {f"{name}{suffix}" for name in ALL for suffix in ("", "_small")}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_yaml_names_every_argument_and_its_cost(path):
    variant = named(path)
    assert set(variant) == {"name", "arguments"}
    assert path.parent.name == ("backbone" if variant["name"] in available() else "audio_backbone")
    defaults = arguments(variant["name"])
    assert set(variant["arguments"]) == set(defaults)
    if not path.stem.endswith("_small"):
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in variant["arguments"].items()} == defaults
    with torch.device("meta"):
        count = f"{parameters(create(**_variant(path.stem))):,} parameters"
    assert re.search(rf"# {count}; [\d.]+ ms forward", path.read_text())
    assert count.removesuffix(" parameters") in (PROJECT / "docs" / "backbones.md").read_text()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_hydra_puts_a_variant_under_its_groups_name(path):
    group = path.parent.name
    with initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        config = compose(overrides=[f"+{group}={path.stem}", f"{group}.arguments.time_padding=replicate"])
    assert config[group].name == named(path)["name"]
    assert config[group].arguments.time_padding == "replicate"


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
@pytest.mark.parametrize("frames", [25, 7])
def test_contract_at_full_size(path, frames):
    """Shapes only, by tensors without data; whoever asked one of them for its value would be refused."""
    variant = _variant(path.stem)
    audio = variant["name"] in available("audio")
    with FakeTensorMode():
        backbone = create(**variant)
        x = torch.empty(2, 1, 4 * frames, 80) if audio else torch.empty(2, 3, frames, *_size(path.stem))
        assert backbone(x).shape == (2, frames, backbone.dim)
        if not audio:
            last = _last_map(backbone, x)
            assert last.ndim == 5 and (last.shape[0], last.shape[2]) == (2, frames)


def _size(stem: str) -> tuple[int, int]:
    """Pixels of the views; what says nothing takes any, and gets the published ones."""
    side = _variant(stem).get("input_size", 112)
    return side, side


def _last_map(backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = backbone.get_submodule(backbone.spatial_layer).register_forward_hook(lambda *args: seen.append(args[-1]))
    backbone(x)
    handle.remove()
    (found,) = seen
    return found


@pytest.mark.parametrize(("stem", "expected"), [
    ("cnn_gru_attention", (1, 256, 25, 7, 7)),
    ("cnn_gru_attention_small", (1, 64, 25, 4, 4)),
    ("cnn_lstm", (1, 128, 25, 14, 14)),
    ("csn_r101", (1, 2048, 25, 4, 4)),
])
def test_last_map_for_grad_cam(stem, expected):
    with FakeTensorMode():
        assert _last_map(create(**_variant(stem)), torch.empty(1, 3, 25, *_size(stem))).shape == expected


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_small_variants_run(path):
    backbone = create(**_variant(path.stem)).eval()
    audio = named(path)["name"] in available("audio")
    x = torch.randn(1, 1, 100, 80) if audio else torch.randn(1, 3, 25, *_size(path.stem))
    with torch.inference_mode():
        features = backbone(x)
    assert features.shape == (1, 25, backbone.dim) and features.dtype == torch.float32
    assert features.isfinite().all() and features.std(dim=1).max() > 1e-4  # frames differ


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("time_padding", ["zeros", "replicate"])
def test_clips_of_a_batch_do_not_touch_each_other(name, time_padding):
    backbone, x = tiny(name, time_padding=time_padding).eval(), clips(name, batch=3)
    with torch.no_grad():
        together, apart = backbone(x), torch.cat([backbone(clip) for clip in x.split(1)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_gradient_reaches_every_parameter(name):
    backbone = tiny(name).train()
    out = backbone(clips(name, batch=4))
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in backbone.named_parameters():
        # What the bias of the keys adds to a row of attention is the same in each place, and softmax takes it out.
        if key == "attention.key.bias":
            assert parameter.grad.abs().max() < 1e-4 * backbone.attention.query.bias.grad.abs().max().clamp(min=1e-2)
        else:
            assert parameter.grad.abs().max() > 1e-8, key


@pytest.mark.parametrize(("name", "expected"), [
    ("cnn_gru_attention", ["blocks", "recurrence", "output", "attention"]),
    ("cnn_lstm", ["blocks", "recurrence", "output"]),
    ("csn_r101", ["blocks"]),
    ("audio_resnet18", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
])
@pytest.mark.parametrize("time_padding", ["zeros", "replicate"])
def test_names_of_weights_are_stable(name, expected, time_padding):
    keys = list(tiny(name, time_padding=time_padding).state_dict())
    assert list(dict.fromkeys(key.split(".")[0] for key in keys)) == expected
    first = {"blocks": "blocks.0.conv.weight", "conv1": "conv1.weight"}[expected[0]]
    assert keys[0] == first


@pytest.mark.parametrize("name", ALL)
def test_copies_are_equal_and_independent(name):
    """As the teacher is: a deep copy whose weights then move on their own."""
    backbone, x = tiny(name).eval(), clips(name)
    teacher = copy.deepcopy(backbone)
    with torch.no_grad():
        before = backbone(x)
        assert torch.equal(teacher(x), before)
        for parameter in teacher.parameters():
            parameter.mul_(0.5)
        assert torch.equal(backbone(x), before) and not torch.allclose(teacher(x), before)


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_autocast_and_channels_last_agree_with_float32(name):
    backbone, x = tiny(name).eval(), clips(name)
    with torch.no_grad():
        expected = backbone(x)
        backbone.to(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = backbone(x)
    assert rough.dtype in (torch.bfloat16, torch.float32)
    error = (rough.float() - expected).norm() / (expected - expected.mean()).norm()
    assert error < 0.05


@pytest.mark.parametrize("name", ALL)
def test_torch_compile_gives_the_same(name):
    backbone, x = tiny(name).eval(), clips(name)
    recurrent = hasattr(backbone, "recurrence")  # dynamo breaks its graph at nn.GRU and nn.LSTM, by intent
    with torch.no_grad():
        compiled = torch.compile(backbone, backend="eager", fullgraph=not recurrent)
        torch.testing.assert_close(compiled(x), backbone(x))
        if recurrent:
            blocks = torch.compile(backbone.blocks, backend="eager", fullgraph=True)
            torch.testing.assert_close(blocks(x), backbone.blocks(x))


def test_the_documented_example_is_a_backbone():
    text = (PROJECT / "docs" / "backbones.md").read_text().split("## Adding a backbone in one file")[1]
    code, variant = (re.search(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL)[1] for kind in ("python", "yaml"))
    variant = yaml.safe_load(variant)
    try:
        exec(compile(code, "docs/backbones.md", "exec"), {"__name__": "example"})
        assert available()[-1] == variant["name"] and set(arguments(variant["name"])) == set(variant["arguments"])
        backbone, x = create(variant["name"], **variant["arguments"]), torch.randn(2, 3, 5, 32, 32)
        assert backbone(x).shape == (2, 5, backbone.dim)
        assert _last_map(backbone, x).shape == (2, 64, 5, 2, 2)
    finally:
        registry._BACKBONES.pop(variant["name"], None)
