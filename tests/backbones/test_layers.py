"""The layers that are PyTorch's own but for their cost have PyTorch's values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import DepthwiseConv3d, MaxPool, PointwiseConv3d
from backbones.time_padding import TimeConv3d

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def values_and_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Of the layer and of a random weighting of what it puts out: output, gradient of the input and of parameters."""
    x = x.detach().clone().requires_grad_()
    out = layer(x)
    weighting = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad((out * weighting).sum(), [x, *layer.parameters()])]


def assert_equal(ours: nn.Module, theirs: nn.Module, x: Tensor, **tolerance: float) -> None:
    theirs.load_state_dict(ours.state_dict(), strict=True)
    found, expected = values_and_gradients(ours, x), values_and_gradients(theirs, x)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, **tolerance)


def clips(channels: int, frames: int, height: int, width: int, layout: torch.memory_format) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, channels, frames, height, width, dtype=torch.float64).contiguous(memory_format=layout)


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])


@LAYOUTS
@pytest.mark.parametrize("time_padding", ["zeros", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 3)])
@pytest.mark.parametrize(("frames", "height", "width"), [(5, 6, 6), (4, 7, 5), (1, 3, 4), (2, 1, 1)])
def test_depthwise_convolution(layout, time_padding, stride, frames, height, width):
    stride = stride if isinstance(stride, tuple) else (1, stride, stride)
    form = {"kernel_size": 3, "stride": stride, "padding": 1, "groups": 6, "bias": False, "time_padding": time_padding}
    ours, theirs = (kind(6, 6, **form).double() for kind in (DepthwiseConv3d, TimeConv3d))
    assert_equal(ours, theirs, clips(6, frames, height, width, layout), **EXACT)


def test_depthwise_convolution_of_another_kernel():
    form = {"kernel_size": (5, 3, 1), "padding": (2, 1, 0), "groups": 4, "bias": False}
    assert_equal(DepthwiseConv3d(4, 4, **form).double(), TimeConv3d(4, 4, **form).double(),
                 clips(4, 6, 5, 4, torch.channels_last_3d), **EXACT)  # fmt: skip


def test_depthwise_convolution_in_float32_and_bfloat16():
    form = {"kernel_size": 3, "stride": (1, 2, 2), "padding": 1, "groups": 32, "bias": False}
    ours, theirs = DepthwiseConv3d(32, 32, **form), TimeConv3d(32, 32, **form)
    x = clips(32, 6, 9, 9, torch.channels_last_3d).float()
    assert_equal(ours, theirs, x, rtol=1e-4, atol=1e-4)
    exact = values_and_gradients(theirs, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = values_and_gradients(ours, x)
    assert rough[0].dtype == torch.bfloat16 and rough[1].dtype == rough[2].dtype == torch.float32
    for mine, its in zip(rough, exact, strict=True):
        assert (mine.float() - its).norm() < 0.01 * its.norm()


def test_a_gradient_that_nobody_wants_is_not_computed():
    conv = DepthwiseConv3d(2, 2, kernel_size=3, padding=1, groups=2, bias=False)
    conv(torch.randn(1, 2, 3, 4, 4)).sum().backward()
    assert conv.weight.grad is not None
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None


@LAYOUTS
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_convolution(layout, stride, bias):
    form = {"kernel_size": 1, "stride": (1, stride, stride), "bias": bias}
    ours, theirs = PointwiseConv3d(6, 4, **form).double(), nn.Conv3d(6, 4, **form).double()
    assert_equal(ours, theirs, clips(6, 4, 7, 5, layout), **EXACT)


@LAYOUTS
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 3, 0), (3, 2, 1)])
@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 11), (190, 180)])
def test_maximum_over_pixels(layout, size, stride, padding, height, width):
    theirs = nn.MaxPool3d((1, size, size), (1, stride, stride), (0, padding, padding))
    x = clips(2, 3, height, width, layout)
    assert_equal(MaxPool(size, stride, padding), theirs, x, rtol=0, atol=0)
    assert_equal(MaxPool(size, stride, padding), theirs, x.round(), rtol=0, atol=0)  # with equals in most windows


def test_maximum_keeps_two_bytes_for_each():
    kept = []
    x = torch.randn(1, 4, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes), lambda _: None):
        assert MaxPool(2, 2)(x).numel() * 2 == sum(kept)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes), lambda _: None):
        assert F.max_pool3d(x, (1, 2, 2)).numel() * (2 + 4 * 4) < sum(kept)
