"""The CNN models compute what their papers say, checked against slow loops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create
from backbones.cnn import ConvBlock, TemporalAttention


def test_block_is_convolution_relu_maximum():
    torch.manual_seed(0)
    block = ConvBlock(3, 5, stride=1, pool=2, time_padding="zeros")
    video = torch.randn(2, 3, 4, 9, 9)
    plain = nn.Sequential(nn.Conv3d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)))
    plain[0].load_state_dict(block.conv.state_dict())
    assert torch.equal(block(video), plain(video))
    assert (block(video) == 0).any()


def test_stem_of_stride_four_sees_every_pixel():
    block = ConvBlock(1, 1, stride=4, pool=1, time_padding="zeros")
    nn.init.constant_(block.conv.weight, 1.0)
    nn.init.ones_(block.conv.bias)
    video = torch.ones(1, 1, 3, 32, 32, requires_grad=True)
    block(video).sum().backward()
    seen = video.grad[0, 0, 1] > 0
    assert seen[:-1, :-1].all() and not seen[-1].any()  # all but the outermost on one side
    assert block(video).shape == (1, 1, 3, 8, 8)


def test_temporal_attention_by_loops():
    torch.manual_seed(0)
    attention = TemporalAttention(16)
    x = 3 * torch.randn(2, 5, 16)
    out, weights = attention(x)
    for b in range(2):
        query, key, value = ([layer.weight @ frame + layer.bias for frame in x[b]]
                             for layer in (attention.query, attention.key, attention.value))  # fmt: skip
        assert len(query[0]) == 2  # an eighth of the width
        for i in range(5):
            scores = [math.exp((query[i] * key[j]).sum().item()) for j in range(5)]
            taken = [score / sum(scores) for score in scores]
            torch.testing.assert_close(weights[b, i], torch.tensor(taken), rtol=1e-4, atol=1e-6)
            expected = x[b, i] + sum(share * v for share, v in zip(taken, value, strict=True))
            torch.testing.assert_close(out[b, i], expected, rtol=1e-4, atol=1e-5)


def tiny(name: str = "cnn_gru_attention", **more) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"channels": [4, 8], "pools": [2, 2], "hidden": 8, "dim": 12, "input_size": 16}
    return create(name, **{**sizes, **more}).eval()


@pytest.mark.parametrize("name", ["cnn_gru_attention", "cnn_lstm"])
def test_whole_model_step_by_step(name):
    """Convolutions through unfolded windows, both directions of the recurrence by hand, then the linear map."""
    backbone, video = tiny(name), torch.randn(1, 3, 4, 16, 16)
    x = video
    for block in backbone.blocks:
        windows = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)  # (1, C, T, H, W, 3, 3, 3)
        x = torch.einsum("bcthwijk,ocijk->bothw", windows, block.conv.weight) + block.conv.bias.view(1, -1, 1, 1, 1)
        x = x.clamp(min=0).unfold(3, 2, 2).unfold(4, 2, 2).amax(dim=(-2, -1))
    frames = [x[0, :, t].reshape(-1) for t in range(4)]  # channel first, then row, then column
    forward = _recur(backbone.recurrence, frames, "")
    backward = _recur(backbone.recurrence, frames[::-1], "_reverse")[::-1]
    over_time = torch.stack([torch.cat(pair) for pair in zip(forward, backward, strict=True)])[None]
    if name == "cnn_gru_attention":
        over_time = backbone.attention(over_time)[0]
    expected = over_time @ backbone.output.weight.T + backbone.output.bias
    torch.testing.assert_close(backbone(video), expected, rtol=1e-4, atol=1e-5)


def _recur(rnn: nn.RNNBase, frames: list[torch.Tensor], suffix: str) -> list[torch.Tensor]:
    wi, wh, bi, bh = (getattr(rnn, f"{kind}_l0{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = c = torch.zeros(rnn.hidden_size)
    out = []
    for frame in frames:
        a, b = wi @ frame + bi, wh @ h + bh
        if isinstance(rnn, nn.GRU):
            (ra, za, na), (rb, zb, nb) = a.chunk(3), b.chunk(3)
            r, z = torch.sigmoid(ra + rb), torch.sigmoid(za + zb)
            h = (1 - z) * torch.tanh(na + r * nb) + z * h
        else:
            i, f, g, o = (a + b).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return out


def test_attention_can_be_had():
    backbone, video = tiny(), torch.randn(2, 3, 6, 16, 16)
    features, weights = backbone.forward_with_attention(video)
    assert torch.equal(features, backbone(video))
    assert weights.shape == (2, 6, 6)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 6))
    assert not torch.allclose(weights.sum(dim=1), torch.ones(2, 6), atol=1e-6)  # rows, not columns


def test_every_frame_knows_the_whole_clip():
    backbone, video = tiny("cnn_lstm"), torch.randn(1, 3, 6, 16, 16, requires_grad=True)
    for frame in (0, 5):
        (gradient,) = torch.autograd.grad(backbone(video)[0, frame].sum(), video)
        assert (gradient.abs().amax(dim=(0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", ["cnn_gru_attention", "cnn_lstm"])
def test_recurrence_stays_in_float32(name):
    backbone, seen = tiny(name), {}
    backbone.blocks[-1].conv.register_forward_hook(lambda module, args, out: seen.update(maps=out.dtype))
    backbone.recurrence.register_forward_hook(
        lambda module, args, out: seen.update(into=args[0].dtype, out=out[0].dtype)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backbone(torch.randn(1, 3, 2, 16, 16))
    assert seen == {"maps": torch.bfloat16, "into": torch.float32, "out": torch.float32}


def test_copies_gather_their_recurrent_weights_again(monkeypatch):
    backbone, calls = tiny(), []
    monkeypatch.setattr(nn.GRU, "flatten_parameters", lambda self: calls.append(self))
    teacher = copy.deepcopy(backbone)
    assert teacher.recurrence in calls


@pytest.mark.parametrize("shape", [(1, 3, 5, 15, 16), (1, 3, 5, 32, 32), (1, 1, 5, 16, 16), (3, 5, 16, 16)])
def test_other_shapes_are_refused_in_words(shape):
    with pytest.raises(ValueError, match=r"expected clips \(B, 3, T, 16, 16\), not .*; another size is another inp"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(("more", "said"), [
    ({"pools": [2]}, "channels and pools must name the same blocks"),
    ({"channels": [], "pools": []}, "channels and pools must name the same blocks"),
    ({"input_size": 3}, "input_size=3 is too small for stem_stride=1"),
])
def test_impossible_sizes_are_refused_in_words(more, said):
    with pytest.raises(ValueError, match=said):
        tiny(**more)


@pytest.mark.parametrize("size", [16, 19, 30])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_input_size_fits_its_recurrence(size, stride):
    backbone = tiny(input_size=size, stem_stride=stride)
    assert backbone(torch.randn(2, 3, 1, size, size)).shape == (2, 1, 12)
