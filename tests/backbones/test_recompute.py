"""Recomputing blocks in the backward pass changes what is kept and nothing else."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones import create
from benchmarks.train_step import Kept

TINY = {
    "cnn_gru_attention": {"channels": (4, 8), "pools": (2, 2), "hidden": 8, "dim": 12, "input_size": 32},
    "cnn_lstm": {"channels": (4, 8), "pools": (2, 2), "hidden": 8, "dim": 12, "input_size": 32},
    "csn_r101": {"depths": (2, 1, 1, 1), "width": 8},
}


def step(backbone: nn.Module, video: Tensor, kind: str) -> tuple[Tensor, int]:
    """Forward and backward; the features, and how many bytes were kept in between."""
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        with Kept() as kept:
            features = backbone(video)
            bytes_kept = kept.bytes()
        features.float().square().sum().backward()
    return features, bytes_kept


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(TINY))
def test_features_gradients_and_running_statistics_are_the_same(name, kind):
    torch.manual_seed(0)
    plain, video = create(name, **TINY[name]), torch.randn(2, 3, 5, 32, 32)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    recomputing = copy.deepcopy(plain)
    recomputing.recompute = True
    for _ in range(2):
        (expected, much), (features, little) = step(plain, video, kind), step(recomputing, video, kind)
        assert torch.equal(features, expected)
        for mine, its in zip(recomputing.parameters(), plain.parameters(), strict=True):
            assert torch.equal(mine.grad, its.grad)
    buffers = dict(plain.named_buffers())
    for key, buffer in recomputing.named_buffers():
        assert torch.equal(buffer, buffers[key]), key
        assert not key.endswith("num_batches_tracked") or buffer == 2
    assert bool(buffers) == (name == "csn_r101")
    if name == "csn_r101":
        assert little < 0.6 * much
    assert list(recomputing.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", list(TINY))
def test_a_gradient_in_evaluation_mode_is_the_same(name):
    """As for a heat map: running statistics are used, and stay."""
    torch.manual_seed(0)
    backbone, video = create(name, **TINY[name]).eval(), torch.randn(1, 3, 5, 32, 32, requires_grad=True)
    before = copy.deepcopy(backbone.state_dict())
    (expected,) = torch.autograd.grad(backbone(video).square().sum(), video)
    backbone.recompute = True
    (gradient,) = torch.autograd.grad(backbone(video).square().sum(), video)
    assert torch.equal(gradient, expected)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
