"""Layers that are PyTorch's own but for what they cost: the same parameters, values and gradients for less.

All want clips (B, C, T, H, W) in channels_last_3d, where a pixel's channels lie side by side. What they gain is in
docs/performance.md; tests hold them to PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from backbones.time_padding import TimeConv3d, repeat_ends


def as_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B T, C, H, W), without a copy if x is in channels_last_3d."""
    return x.transpose(1, 2).flatten(0, 1)


def as_clips(frames: Tensor, clips: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H, W)"""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)


class MaxPool(nn.Module):
    """nn.MaxPool3d over the pixels of each frame, which until the backward pass keeps two bytes for each maximum.

    PyTorch's keeps eight, and what it read as well: most of the memory that training a CNN on a clip takes.
    """

    def __init__(self, kernel_size: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        self.window = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return as_clips(_MaxPool.apply(as_frames(x), *self.window), len(x))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *window: int) -> Tensor:
        size, stride, padding = ([number, number] for number in window)
        largest, pixel = F.max_pool2d_with_indices(x, size, stride, padding)
        ctx.save_for_backward(pixel.to(torch.int16 if x[0, 0].numel() <= 2**15 else torch.int32))
        ctx.window, ctx.shape = window, x.shape
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (pixel,) = ctx.saved_tensors
        shape_alone = gradient.new_empty(ctx.shape).to(memory_format=torch.channels_last)
        size, stride, padding = ([number, number] for number in ctx.window)
        to_x = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, shape_alone, size, stride, padding, [1, 1], False, pixel.long()
        )
        return to_x, None, None, None


class PointwiseConv3d(nn.Conv3d):
    """A 1x1x1 convolution, which may stride in space, as one in 2-D: for that PyTorch has the better paths."""

    def forward(self, x: Tensor) -> Tensor:
        return as_clips(F.conv2d(as_frames(x), self.weight[:, :, 0], self.bias, self.stride[1:]), len(x))


class DepthwiseConv3d(TimeConv3d):
    """A depthwise convolution without bias and without stride in time.

    On a CPU, oneDNN has quick kernels for the 3-D convolution and for gradients in 2-D, but takes up to a hundred times
    as long for gradients in 3-D (docs/performance.md). So gradients are put together from the quick ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        time, height, width = self.padding
        if self.time_padding == "replicate":
            x, time = repeat_ends(x, time), 0
        return _Depthwise.apply(x, self.weight, self.stride, (time, height, width))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # it is static
        x, weight = ctx.saved_tensors
        if ctx.stride != (1, 1, 1):
            # A convolution with a stride is one without, thinned out; what was dropped gets no gradient.
            thin, (height, width) = gradient, x.shape[3:]
            gradient = thin.new_zeros(*thin.shape[:3], height, width).to(memory_format=torch.channels_last_3d)
            gradient[..., :: ctx.stride[1], :: ctx.stride[2]] = thin
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            opposite = tuple(size - 1 - pad for size, pad in zip(weight.shape[2:], ctx.padding, strict=True))
            to_x = F.conv3d(gradient, weight.flip(2, 3, 4), None, 1, opposite, groups=len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = _gradient_of_weight(x.to(gradient.dtype), weight.to(gradient.dtype), gradient, ctx.padding)
            to_weight = to_weight.to(weight.dtype)
        return to_x, to_weight, None, None


def _gradient_of_weight(x: Tensor, weight: Tensor, gradient: Tensor, padding: tuple[int, ...]) -> Tensor:
    """One 2-D gradient for each step of the kernel in time, between the frames that this step brings together.

    Clips are strung together with as many empty frames between them as keep them apart.
    """
    steps, (time, *space) = weight.shape[2], padding
    x = as_frames(F.pad(x, (0, 0, 0, 0, time, time)))
    gradient = as_frames(F.pad(gradient, (0, 0, 0, 0, 0, steps - 1)))
    frames = len(x) - (steps - 1)
    return torch.stack([
        torch.ops.aten.convolution_backward(
            gradient[:frames], x[step : step + frames], weight[:, :, step], None, [1, 1], space, [1, 1], False, [0, 0],
            len(weight), [False, True, False],
        )[1]
        for step in range(steps)
    ], dim=2)  # fmt: skip
