"""Where in a face, and at which frames, a detector found what made it say forged.

Of each cell of the last map that still has a height and a width: its activations times the logit's gradient there, so
what the logit would lose, to first order, without that cell. Where it is positive, it speaks for a forgery. That is
HiResCAM (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", 2020). Grad-CAM (Selvaraju et al., ICCV 2017) averages the gradient over all cells first. For a network that
averages its map, as `csn_r101`, both are the same; the others weigh each cell by itself, and there many of
Grad-CAM's maps were measured to be empty (docs/detect.md).

A map is as fine as its cells: of the default backbone they are 20 pixels of the crop wide, of `csn_r101` 40.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from captum.attr import LayerGradientXActivation
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.views import ViewSettings, evaluation_view
from finetune.model import Detector as Networks


class Model(Protocol):
    """What is needed of `evaluation.Detector`."""

    @property
    def network(self) -> Networks: ...

    @property
    def views(self) -> ViewSettings: ...


def heat(model: Model, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The crops of a window, uint8 (T, 150, 150, 3) -> (T, 150, 150), from 0 to 1, its hottest place.

    All zero where nothing speaks for a forgery. How hot one window is beside another its logit says, not its map. What
    the network does not see, five pixels along the edge, is cold.
    """
    maps = cell_heat(model, crops)
    hottest = maps.max()
    return laid_out(maps / hottest if hottest > 0 else maps, model.network.backbone, model.views, crops.shape[1])


def cell_heat(model: Model, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, h, w), one value for each cell of the network's last map, at least 0."""
    backbone = model.network.backbone
    explained = LayerGradientXActivation(model.network, backbone.get_submodule(backbone.spatial_layer))
    # Whoever asks may be in inference mode; and cuDNN's recurrent layers have no backward pass in evaluation mode.
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        maps = explained.attribute(_clip(model, crops)).sum(dim=1)  # (1, T', h, w)
    return _at_frames(maps.detach().clamp(min=0), len(crops))[0].float().cpu().numpy()


def temporal_attention(model: Model, crops: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """(T,): how much all frames together look at each one; sums to 1. None: the backbone has no such attention."""
    look = getattr(model.network.backbone, "forward_with_attention", None)
    if look is None:
        return None
    with torch.inference_mode():
        return look(_clip(model, crops))[1][0].mean(dim=0).float().cpu().numpy()


def laid_out(maps: NDArray[np.float32], backbone: nn.Module, views: ViewSettings, stored: int) -> NDArray[np.float32]:
    """Cells (T, h, w) over the crops that they look at: (T, stored, stored), straight lines from centre to centre."""
    down, across = (_spread(cells, backbone, views, stored) for cells in maps.shape[1:])
    return np.einsum("yh,thw,xw->tyx", down, maps, across, optimize=True)


def _spread(cells: int, backbone: nn.Module, views: ViewSettings, stored: int) -> NDArray[np.float32]:
    """(stored, cells): what a pixel of a crop takes from each cell, along one side."""
    even = views.size / cells
    first, apart = getattr(backbone, "spatial_grid", ((even - 1) / 2, even))
    margin, scale = (stored - views.crop) // 2, views.crop / views.size
    centres = margin + (first + apart * np.arange(cells) + 0.5) * scale - 0.5  # as `evaluation_view` cuts and resizes
    pixels = np.arange(stored)
    weights = np.stack([np.interp(pixels, centres, row) for row in np.eye(cells)], axis=1)
    weights[(pixels < margin) | (pixels >= margin + views.crop)] = 0
    return weights.astype(np.float32)


def _clip(model: Model, crops: NDArray[np.uint8]) -> Tensor:
    device = model.network.classifier.weight.device
    return evaluation_view(model.views, torch.from_numpy(crops)[None].to(device))[0]


def _at_frames(maps: Tensor, frames: int) -> Tensor:
    """(B, T', h, w) -> (B, T, h, w), where a backbone strides in time."""
    if maps.shape[1] == frames:
        return maps
    size = (frames, *maps.shape[2:])
    return nn.functional.interpolate(maps[:, None], size, mode="trilinear", align_corners=False)[:, 0]
