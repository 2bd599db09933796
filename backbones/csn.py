"""`csn_r101`: channel-separated 3-D convolutions, the video network of the original work.

Tran et al., "Video Classification with Channel-Separated Convolutional Networks", ICCV 2019: a ResNet whose 3x3x3
convolutions are depthwise (the interaction-reduced form, ir-CSN), so that channels meet only in 1x1x1 convolutions.
As in Haliassos et al., CVPR 2022, nothing strides in time and only space is averaged: one vector per frame.

    video (B, 3, T, H, W) -> stem, a quarter of each side -> four stages, 1/4 1/8 1/16 1/32 -> mean (B, T, 32 * width)

Names: the submodules are pytorchvideo's, `blocks.0` (stem) and `blocks.1` to `blocks.4` (stages), so a state dict of
a CSN built by pytorchvideo fits as it is once its head, `blocks.5`, is left out. In the original work's checkpoints
every key of the network has the prefix `backbone.`: `backbone.blocks.0.conv.weight` is our `blocks.0.conv.weight`, and
their `blocks.5` is an average without weights.

pytorchvideo is imported when a network is created, not before: all else here runs without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from backbones.layers import DepthwiseConv3d, MaxPool, PointwiseConv3d
from backbones.recompute import run_block
from backbones.registry import register
from backbones.time_padding import TimeConv3d

BOTTLENECK = 4  # a stage's output is four times as wide as its 3x3x3 convolutions


class Stage(nn.Module):
    """Residual blocks, one after the other; pytorchvideo's name for them."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, *, recompute: bool) -> Tensor:
        for block in self.res_blocks:
            x = run_block(block, x, recompute=recompute)
        return x


@register("csn_r101")
class Csn(nn.Module):
    """ir-CSN-101, 21,394,176 parameters. Clips may have any length and size; 112 pixels become a 4x4 map."""

    spatial_layer = "blocks.4"
    spatial_grid: tuple[float, float]
    recompute = False  # see backbones/recompute.py

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 23, 3),
        width: int = 64,
        stem_stride: int = 2,
        time_padding: str = "zeros",
    ) -> None:
        super().__init__()
        from pytorchvideo.models.resnet import create_bottleneck_block, create_res_block
        from pytorchvideo.models.stem import create_res_basic_stem
        from pytorchvideo.models.weight_init import init_net_weights

        if len(depths) != 4:
            raise ValueError(f"depths must be the blocks of four stages, not {list(depths)}")
        activation = partial(nn.ReLU, inplace=True)  # what it overwrites, no gradient needs
        stem = create_res_basic_stem(
            in_channels=3,
            out_channels=width,
            conv=partial(TimeConv3d, time_padding=time_padding),
            conv_kernel_size=(3, 7, 7),
            conv_stride=(1, stem_stride, stem_stride),
            conv_padding=(1, 3, 3),
            pool=MaxPool,
            pool_kernel_size=3,
            pool_stride=2,
            pool_padding=1,
            activation=activation,
        )
        blocks, before, after = [stem], width, BOTTLENECK * width
        for index, depth in enumerate(depths):
            stride = 1 if index == 0 else 2
            inner = after // BOTTLENECK
            blocks.append(Stage(
                create_res_block(
                    dim_in=before if place == 0 else after,
                    dim_inner=inner,
                    dim_out=after,
                    bottleneck=create_bottleneck_block,
                    conv_a=PointwiseConv3d,
                    conv_a_kernel_size=(1, 1, 1),
                    conv_a_stride=(1, 1, 1),
                    conv_a_padding=(0, 0, 0),
                    conv_b=partial(DepthwiseConv3d, time_padding=time_padding),
                    conv_b_kernel_size=(3, 3, 3),
                    conv_b_stride=(1, stride, stride) if place == 0 else (1, 1, 1),
                    conv_b_padding=(1, 1, 1),
                    conv_b_num_groups=inner,  # depthwise
                    conv_c=PointwiseConv3d,
                    conv_skip=PointwiseConv3d,
                    activation_bottleneck=activation,
                    activation_block=activation,
                )
                for place in range(depth)
            ))  # fmt: skip
            before, after = after, 2 * after
        self.blocks = nn.ModuleList(blocks)
        self.dim = before
        # Every kernel is odd and padded by half, so whatever strides keeps the first cell on the first pixel.
        self.spatial_grid = (0.0, float(16 * stem_stride))
        init_net_weights(self)  # pytorchvideo's own start: each residual branch ends in a BatchNorm of weight 0

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, T, dim)"""
        stem, *stages = self.blocks
        x = run_block(stem, video.contiguous(memory_format=torch.channels_last_3d), recompute=self.recompute)
        for stage in stages:
            x = stage(x, recompute=self.recompute)
        return x.mean(dim=(3, 4)).transpose(1, 2)
