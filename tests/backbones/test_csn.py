"""`csn_r101` is pytorchvideo's CSN without strides in time and without its head."""

import pytest
import torch
from pytorchvideo.models.csn import create_csn
from torch import nn

from backbones import create


def published(depth: int) -> nn.Module:
    return create_csn(model_depth=depth, stem_pool=nn.MaxPool3d, stage_temporal_stride=(1, 1, 1, 1))


def test_weights_of_a_csn_built_by_pytorchvideo_fit_strictly():
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in published(101).state_dict().items() if not k.startswith("blocks.5.")}
        ours = {k: v.shape for k, v in create("csn_r101").state_dict().items()}
    assert ours == theirs


@pytest.mark.parametrize(("frames", "height", "width"), [(5, 32, 48), (1, 64, 64)])
def test_features_are_those_of_pytorchvideo(frames, height, width):
    torch.manual_seed(0)
    theirs = published(50).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    ours = create("csn_r101", depths=(3, 4, 6, 3)).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("blocks.5.")}, strict=True)
    video = torch.randn(1, 3, frames, height, width)
    with torch.no_grad():
        x = video
        for block in list(theirs.blocks)[:5]:
            x = block(x)
        features = ours(video)
    assert x.shape[2] == frames
    expected = torch.stack([x[:, :, t].flatten(2).mean(dim=2) for t in range(frames)], dim=1)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert expected.std() > 1e-2


def test_no_layer_strides_in_time_and_threes_are_depthwise():
    with torch.device("meta"):
        convolutions = [m for m in create("csn_r101").modules() if isinstance(m, nn.Conv3d)]
    assert {m.stride[0] for m in convolutions} == {1}
    stem, *others = convolutions
    assert stem.kernel_size == (3, 7, 7)
    assert all((m.kernel_size == (3, 3, 3)) == (m.groups == m.in_channels) for m in others)
    assert sum(m.kernel_size == (3, 3, 3) for m in others) == 33  # 3 of each pair of ones: (101 - 2) / 3


def test_clip_of_a_second_has_25_steps():
    backbone = create("csn_r101", depths=(1, 1, 1, 1), width=4).eval()
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 25, 112, 112)).shape == (1, 25, 128) and backbone.dim == 128


def test_four_stages_are_asked_for():
    with pytest.raises(ValueError, match="depths must be the blocks of four stages"):
        create("csn_r101", depths=(1, 1, 1))
