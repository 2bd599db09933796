"""Convolutions whose edges in time are either zeros, as published, or the first and the last frame repeated.

Zeros at a clip's ends tell every layer how far from them it is, and a network trained to agree with another one can
agree on that instead of on what is seen (docs/backbones.md, "The position shortcut"). Repeated frames tell nothing: of
a still picture, all frames then have the same features. Space is padded with zeros either way. With "zeros" these
classes are nn.Conv2d and nn.Conv3d to the bit, and their weights have the same names and shapes in both cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

TIME_PADDINGS = ("zeros", "replicate")
_TIME = 2  # axis of time in (B, C, T, H, W) and, for sound, in (B, C, A, M)


class _RepeatingEnds(_ConvNd):
    """What both have before PyTorch's own convolution."""

    padding: tuple[int, ...]
    convolve: Callable[..., Tensor]

    def __init__(self, *args: Any, time_padding: str = "zeros", **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.time_padding = _checked(time_padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.time_padding == "zeros":
            return super().forward(x)
        x, space = repeat_ends(x, self.padding[0]), (0, *self.padding[1:])
        return self.convolve(x, self.weight, self.bias, self.stride, space, self.dilation, self.groups)


class TimeConv3d(_RepeatingEnds, nn.Conv3d):
    """nn.Conv3d over (B, C, T, H, W) with a choice of what surrounds the clip in time."""

    convolve = staticmethod(F.conv3d)


class TimeConv2d(_RepeatingEnds, nn.Conv2d):
    """nn.Conv2d over (B, C, A, M) with a choice of what surrounds the sound in time."""

    convolve = staticmethod(F.conv2d)


def _checked(time_padding: str) -> str:
    if time_padding not in TIME_PADDINGS:
        raise ValueError(f"time_padding must be one of {', '.join(TIME_PADDINGS)}, not {time_padding!r}")
    return time_padding


def repeat_ends(x: Tensor, steps: int) -> Tensor:
    """Concatenation keeps the memory format, and unlike F.pad's replication it is deterministic on a GPU."""
    if not steps:
        return x
    return torch.cat([x[:, :, :1]] * steps + [x] + [x[:, :, -1:]] * steps, dim=_TIME)
