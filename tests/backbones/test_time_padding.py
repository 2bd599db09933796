"""Repeated ends hide where in a clip a frame is; zeros give it away, and are the default."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create
from backbones.time_padding import TimeConv2d, TimeConv3d

STILL = {
    "cnn_gru_attention": {"channels": (4, 8, 8), "pools": (2, 2, 1), "hidden": 8, "dim": 8, "input_size": 24},
    "cnn_lstm": {"channels": (4, 8, 8), "pools": (2, 2, 1), "hidden": 8, "dim": 8, "input_size": 24},
    "csn_r101": {"depths": (2, 1, 1, 1), "width": 8},
}


def still_maps(name: str, **more) -> torch.Tensor:
    """The last map (1, C, 9, h, w) of a clip that shows one picture nine times."""
    torch.manual_seed(0)
    backbone = create(name, **STILL[name], **more).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    seen = {}
    backbone.get_submodule(backbone.spatial_layer).register_forward_hook(lambda *args: seen.update(maps=args[-1]))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 1, 24, 24).expand(1, 3, 9, 24, 24))
    return seen["maps"]


def spread_over_time(x: torch.Tensor, axis: int) -> float:
    return ((x.amax(dim=axis) - x.amin(dim=axis)).max() / x.abs().max()).item()


@pytest.mark.parametrize("name", list(STILL))
def test_still_picture_has_one_feature_for_all_times(name):
    assert spread_over_time(still_maps(name, time_padding="replicate"), 2) < 1e-4
    assert spread_over_time(still_maps(name, time_padding="zeros"), 2) > 0.05
    assert torch.equal(still_maps(name), still_maps(name, time_padding="zeros"))


def test_steady_sound_has_one_feature_for_all_times():
    def features(**more) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            backbone = create("audio_resnet18", width=8, **more).eval()
            return backbone(torch.randn(1, 1, 1, 80).expand(1, 1, 100, 80))

    assert spread_over_time(features(time_padding="replicate"), 1) < 1e-4
    assert spread_over_time(features(time_padding="zeros"), 1) > 0.05
    assert torch.equal(features(), features(time_padding="zeros"))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (1, 1)])
def test_repeated_ends_by_hand(kernel, stride):
    """Time is padded by its ends, space by zeros; what needs no padding in time is left alone."""
    torch.manual_seed(0)
    half = kernel // 2
    conv = TimeConv3d(4, 6, (kernel, 3, 3), stride=(stride, 1, 1), padding=(half, 1, 1), groups=2, bias=True,
                      time_padding="replicate")  # fmt: skip
    x = torch.randn(2, 4, 7, 5, 5)
    longer = F.pad(x, (0, 0, 0, 0, half, half), mode="replicate")
    expected = F.conv3d(longer, conv.weight, conv.bias, stride=(stride, 1, 1), padding=(0, 1, 1), groups=2)
    torch.testing.assert_close(conv(x), expected)

    conv = TimeConv2d(4, 6, kernel, stride=(stride, 2), padding=half, bias=False, time_padding="replicate")
    x = torch.randn(2, 4, 7, 9)
    longer = F.pad(x, (0, 0, half, half), mode="replicate")
    torch.testing.assert_close(conv(x), F.conv2d(longer, conv.weight, stride=(stride, 2), padding=(0, half)))


def test_inside_of_a_clip_is_the_same_either_way():
    torch.manual_seed(0)
    zeros, ends = TimeConv3d(2, 3, 3, padding=1), TimeConv3d(2, 3, 3, padding=1, time_padding="replicate")
    ends.load_state_dict(zeros.state_dict(), strict=True)
    x = torch.randn(1, 2, 6, 4, 4)
    torch.testing.assert_close(ends(x)[:, :, 1:-1], zeros(x)[:, :, 1:-1])
    assert not torch.allclose(ends(x)[:, :, 0], zeros(x)[:, :, 0], atol=1e-3)
