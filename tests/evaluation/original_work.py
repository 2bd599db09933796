"""Networks with the structure and the names of the original CSN work, computed in another way than ours are.

The published files are not at hand, so the tests write files of the same form from these. Names are those of its code
at the revision a72e3f3; the arithmetic is written plainly: convolutions instead of linear maps, one head after another.
"""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from pytorchvideo.models.csn import create_csn
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

WIDTH = 8  # of both backbones' stems; 64 in the published ones
ARGUMENTS = {"video": {"depths": (3, 4, 6, 3), "width": WIDTH}, "audio": {"width": WIDTH}}  # the same, told to ours


class SpatialMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(3).mean(dim=3)


def video_backbone(depth: int = 50, width: int = WIDTH) -> nn.Module:
    """(B, 3, T, H, W) -> (B, D, T)"""
    network = create_csn(model_depth=depth, stem_dim_out=width, stem_pool=nn.MaxPool3d,
                         stage_temporal_stride=(1, 1, 1, 1))  # fmt: skip
    network.blocks[5] = SpatialMean()
    return network


class AudioBackbone(nn.Module):
    """(B, 1, 100, 80) -> (B, D, 25); torchvision's blocks."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(1, WIDTH, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(WIDTH),
                                        "relu": nn.ReLU(), "maxpool": nn.MaxPool2d(3, 2, 1)}  # fmt: skip
        before = WIDTH
        for number, after in enumerate((WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH), start=1):
            down = None
            if after != before:
                down = nn.Sequential(nn.Conv2d(before, after, 1, (1, 2), bias=False), nn.BatchNorm2d(after))
            first = BasicBlock(before, after, stride=(1, 2) if down else 1, downsample=down)
            layers[f"layer{number}"] = nn.Sequential(first, BasicBlock(after, after))
            before = after
        self.model = nn.Sequential(OrderedDict(layers))

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.model(log_mel).mean(dim=3)


class Projector(nn.Module):
    """(B, D, T) -> (B, T, 256)"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Linear(dim, 256)
        self.norm_layer = nn.BatchNorm1d(256)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm_layer(F.conv1d(features, self.net.weight[:, :, None], self.net.bias)).transpose(1, 2)


def batch_norm_between() -> nn.Sequential:
    return nn.Sequential(nn.Identity(), nn.BatchNorm1d(512), nn.Identity())


class Predictor(nn.Module):
    """(B, T, 256) -> (B, T, 256)"""

    def __init__(self) -> None:
        super().__init__()
        self.projection_layer = nn.Linear(256, 512)
        attention, mlp = nn.Module(), nn.Module()
        attention.norm, attention.fn = nn.LayerNorm(512), nn.Module()
        attention.fn.to_qkv = nn.Linear(512, 1536, bias=False)
        attention.fn.to_out = nn.Sequential(nn.Linear(512, 512), nn.Dropout(0))
        mlp.norm, mlp.fn = batch_norm_between(), nn.Module()
        mlp.fn.net = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Dropout(0), nn.Linear(2048, 512), nn.Dropout(0))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList([nn.ModuleList([attention, mlp])])
        self.mlp_head = nn.Sequential(*batch_norm_between(), nn.Linear(512, 256))

    def forward(self, x: Tensor) -> Tensor:
        def normed(norm: nn.Module, x: Tensor) -> Tensor:
            return norm(x.transpose(1, 2)).transpose(1, 2)

        attention, mlp = self.transformer.layers[0]
        x = self.projection_layer(x)
        queries, keys, values = attention.fn.to_qkv(attention.norm(x)).split(512, dim=2)
        heads = []
        for head in range(8):
            part = slice(64 * head, 64 * head + 64)
            weights = torch.softmax(queries[..., part] @ keys[..., part].mT / 8, dim=2)
            heads.append(weights @ values[..., part])
        x = x + attention.fn.to_out(torch.cat(heads, dim=2))
        x = x + mlp.fn.net(normed(mlp.norm, x))
        return self.mlp_head[3](normed(self.mlp_head[1], x))


class Classifier(nn.Module):
    """(B, D, T) -> (B, 1): 64 times the cosine"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, dim))

    def forward(self, features: Tensor) -> Tensor:
        return 64 * F.cosine_similarity(features.mean(dim=2), self.weight, dim=1)[:, None]


def stage1(*, early: bool = False) -> nn.Module:
    """What stage 1's training object holds: `model` and the probes."""
    learner, learner.model = nn.Module(), nn.Module()
    for name, create, dim in (("model1", video_backbone, 32 * WIDTH), ("model2", AudioBackbone, 8 * WIDTH)):
        single = nn.Module()
        single.backbone, single.projector, single.predictor = create(), Projector(dim), Predictor()
        if early:
            single.target_encoder = nn.Sequential(create(), Projector(dim))
        else:
            single.target_backbone, single.target_projector = create(), Projector(dim)
        learner.model.add_module(name, single)
    learner.prober_video, learner.prober_audio = nn.Linear(32 * WIDTH, 500), nn.Linear(8 * WIDTH, 500)
    return filled(learner)


def stage2(*, auxiliary: bool) -> nn.Module:
    model = nn.Module()
    model.backbone, model.df_head = video_backbone(), Classifier(32 * WIDTH)
    if auxiliary:
        model.ssl_head = nn.Sequential(Projector(32 * WIDTH), Predictor())
        model.target_encoder = nn.Sequential(video_backbone(), Projector(32 * WIDTH))
    return filled(model)


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every number at random, so that no two weights could be exchanged unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(int(torch.randint(1, 1000, (), generator=generator)))
        elif tensor.ndim == 1:  # biases, scales, running means and variances
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network.eval()


def save_lightning(path: Path, state: dict[str, Tensor], **more: object) -> Path:
    """As PyTorch Lightning 1.3 writes it: weights among settings, callbacks and optimisers."""
    torch.save({
        "epoch": 149, "global_step": 7500, "pytorch-lightning_version": "1.3.8",
        "callbacks": {Namespace: {"best_model_score": torch.tensor(0.5), "best_model_path": path}},
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [{"scale": np.float64(0.5), "seen": {1, 2}}],
        "state_dict": OrderedDict(state),
        "hparams_name": "cfg", "hyper_parameters": OmegaConf.create({"batch_size": 256, "a": [1, {"b": None}]}),
        "arguments": Namespace(gpus=8),
        **more,
    }, path)  # fmt: skip
    return path
