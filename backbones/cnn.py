"""Frame maps from a few 3-D convolutions, time from a recurrent network: `cnn_gru_attention` and `cnn_lstm`.

Axes: B clips, T frames, C channels, h w of the last map, N = 2 * hidden (both directions), D = dim.

    video (B, 3, T, H, W) -> blocks -> (B, C, T, h, w) -> flattened (B, T, C h w) -> recurrence (B, T, N)
                          -> attention (B, T, N), the GRU model only -> linear (B, T, D)

Recurrent networks over frames are an old tool of the field: Sabir et al., "Recurrent Convolutional Strategies for Face
Manipulation Detection in Videos", CVPR workshops 2019 (GRU); Güera and Delp, "Deepfake Video Detection Using Recurrent
Neural Networks", AVSS 2018 (LSTM). Attention over time is that of Zhang et al., "Self-Attention Generative Adversarial
Networks", ICML 2019, along the time axis instead of over the picture.

How the parameters add up is in docs/backbones.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import MaxPool
from backbones.recompute import run_block
from backbones.registry import register
from backbones.time_padding import TimeConv3d


class ConvBlock(nn.Module):
    """3x3x3 convolution, maximum over `pool` x `pool` pixels, ReLU: (B, C, T, H, W) -> (B, C', T, H', W').

    The maximum of rectified values is the rectified maximum, and pooling first leaves ReLU a quarter of the pixels.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, pool: int, time_padding: str) -> None:
        super().__init__()
        side = max(3, 2 * (stride // 2) + 1)  # at least the stride: no pixel falls between two positions of the kernel
        self.conv = TimeConv3d(
            channels_in,
            channels_out,
            kernel_size=(3, side, side),
            stride=(1, stride, stride),
            padding=(1, side // 2, side // 2),
            time_padding=time_padding,
        )
        self.pool = MaxPool(pool, stride=pool) if pool > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pool(self.conv(x)))


class TemporalAttention(nn.Module):
    """x + values weighted by softmax(query . key): (B, T, N) -> (B, T, N) and the weights (B, T, T).

    As published for pictures: 1x1 maps (a linear map per frame), queries and keys an eighth as wide, no scaling before
    the softmax. The residual has no learned factor, which the published parameter count excludes.
    weights[b, i, j] is how much frame i takes from frame j; each row sums to one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width // 8)
        self.key = nn.Linear(width, width // 8)
        self.value = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(dim=-1)
        return x + weights @ self.value(x), weights


class _RecurrentCnn(nn.Module):
    """What both models share, up to the recurrent network's output."""

    recurrence: nn.RNNBase
    recompute = False  # see backbones/recompute.py

    def __init__(
        self,
        channels: Sequence[int],
        pools: Sequence[int],
        hidden: int,
        dim: int,
        input_size: int,
        stem_stride: int,
        time_padding: str,
        recurrence: type[nn.GRU | nn.LSTM],
    ) -> None:
        super().__init__()
        if len(channels) != len(pools) or not channels:
            raise ValueError(f"channels and pools must name the same blocks, not {list(channels)} and {list(pools)}")
        self.dim, self.input_size = dim, input_size
        blocks, before, side = [], 3, input_size
        for index, (width, pool) in enumerate(zip(channels, pools, strict=True)):
            stride = stem_stride if index == 0 else 1
            blocks.append(ConvBlock(before, width, stride=stride, pool=pool, time_padding=time_padding))
            before, side = width, ((side - 1) // stride + 1) // pool
        if side < 1:
            raise ValueError(f"input_size={input_size} is too small for stem_stride={stem_stride}, pools={list(pools)}")
        self.blocks = nn.Sequential(*blocks)
        self.recurrence = recurrence(before * side * side, hidden, bidirectional=True)
        self.output = nn.Linear(2 * hidden, dim)

    @property
    def spatial_layer(self) -> str:
        return f"blocks.{len(self.blocks) - 1}"

    @property
    def spatial_grid(self) -> tuple[float, float]:
        """See backbones/registry.py: a stride keeps the first cell where it was, a pool takes the middle of its own."""
        first, apart = 0.0, 1
        for block in self.blocks:
            assert isinstance(block, ConvBlock)
            apart *= block.conv.stride[-1]
            pool = block.pool.window[0] if isinstance(block.pool, MaxPool) else 1
            first, apart = first + apart * (pool - 1) / 2, apart * pool
        return first, float(apart)

    def __setstate__(self, state: dict) -> None:
        # A copied or unpickled RNN has its weights in scattered memory; cuDNN would gather them again at every call.
        super().__setstate__(state)
        self.recurrence.flatten_parameters()

    def _over_time(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, 2 * hidden)"""
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[3:] != (self.input_size, self.input_size):
            raise ValueError(f"expected clips (B, 3, T, {self.input_size}, {self.input_size}), not "
                             f"{tuple(video.shape)}; another size is another input_size=")  # fmt: skip
        maps = video.contiguous(memory_format=torch.channels_last_3d)
        for block in self.blocks:
            maps = run_block(block, maps, recompute=self.recompute)  # (B, C, T, h, w)
        # Time first and without gaps: else PyTorch multiplies each step by the large matrix for itself.
        frames = maps.permute(2, 0, 1, 3, 4).flatten(2)  # (T, B, C h w)
        # Under autocast cuDNN's recurrent layers compute in float16 even where bfloat16 is asked for, and without a
        # loss scale small gradients vanish there. So they stay in float32 (TF32 on a GPU that has it); the default's
        # convolutions are fourteen times as much work.
        with torch.autocast(device_type=video.device.type, enabled=False):
            return self.recurrence(frames.float())[0].transpose(0, 1)


@register("cnn_gru_attention")
class CnnGruAttention(_RecurrentCnn):
    """The default video backbone, 44,689,664 parameters. Clips may have any length; the picture must be input_size."""

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128, 256),
        pools: Sequence[int] = (2, 2, 2, 2),
        hidden: int = 512,
        dim: int = 2048,
        input_size: int = 112,
        stem_stride: int = 1,
        time_padding: str = "zeros",
    ) -> None:
        super().__init__(channels, pools, hidden, dim, input_size, stem_stride, time_padding, nn.GRU)
        self.attention = TemporalAttention(2 * hidden)

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, dim)"""
        return self.forward_with_attention(video)[0]

    def forward_with_attention(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) -> features (B, T, dim), attention (B, T, T): row i is what frame i looks at, sum one."""
        attended, weights = self.attention(self._over_time(video))
        return self.output(attended), weights


@register("cnn_lstm")
class CnnLstm(_RecurrentCnn):
    """Three blocks and an LSTM, 107,244,288 parameters, nearly all of them between the 14x14 map and the LSTM."""

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128),
        pools: Sequence[int] = (2, 2, 2),
        hidden: int = 512,
        dim: int = 2048,
        input_size: int = 112,
        stem_stride: int = 1,
        time_padding: str = "zeros",
    ) -> None:
        super().__init__(channels, pools, hidden, dim, input_size, stem_stride, time_padding, nn.LSTM)

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, dim)"""
        return self.output(self._over_time(video))
