"""`audio_resnet18`: a ResNet-18 over log-mels that keeps one step per video frame.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the strides of Haliassos et al., CVPR 2022:
stem and max-pool halve both axes, so 4 audio frames become one step; later stages stride in frequency only.

    log-mel (B, 1, A, M) = (B, 1, 100, 80) -> (B, width, 25, 20) -> (B, 8 * width, 25, 3) -> mean (B, 25, 8 * width)

Submodules are named as in torchvision's ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.registry import register
from backbones.time_padding import TimeConv2d


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the first one may stride in frequency: (B, C, A, M) -> (B, C', A, M')."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, time_padding: str) -> None:
        super().__init__()
        same: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False, "time_padding": time_padding}
        self.conv1 = TimeConv2d(channels_in, channels_out, stride=(1, stride), **same)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = TimeConv2d(channels_out, channels_out, **same)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=(1, stride), bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


@register("audio_resnet18", kind="audio")
class AudioResNet(nn.Module):
    """ResNet-18 for one channel of log-mels, 11,170,240 parameters. Sound may have any length of 4 T frames."""

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        time_padding: str = "zeros",
    ) -> None:
        super().__init__()
        if not depths or min(depths) < 1:
            raise ValueError(f"depths must be the blocks of each stage, at least one, not {list(depths)}")
        self.conv1 = TimeConv2d(
            1, width, kernel_size=7, stride=2, padding=3, bias=False, time_padding=time_padding
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = len(depths)
        before = width
        for index, depth in enumerate(depths):
            after = width * 2**index
            blocks = [
                BasicBlock(
                    before if place == 0 else after,
                    after,
                    stride=2 if index and place == 0 else 1,
                    time_padding=time_padding,
                )
                for place in range(depth)
            ]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            before = after
        self.dim = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, 1, A, M) -> (B, A / 4, dim)"""
        if log_mel.ndim != 4 or log_mel.shape[1] != 1 or log_mel.shape[2] % 4:
            raise ValueError(f"expected log-mels (B, 1, A, M) with 4 audio frames per video frame, not "
                             f"{tuple(log_mel.shape)}")  # fmt: skip
        x = self.maxpool(F.relu(self.bn1(self.conv1(log_mel))))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        return x.mean(dim=3).transpose(1, 2)
