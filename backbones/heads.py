"""What stands upon a backbone: projector (together: an encoder), predictor and classifier. Both stages use them.

Axes: B clips, T frames, D features of the backbone, E = 256 of the embedding, K = 512 inside the predictor.
BatchNorm takes its statistics over all frames of all clips, (batch x time), throughout.

Haliassos et al., "Leveraging Real Talking Faces via Self-Supervision for Robust Forgery Detection", CVPR 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.registry import Backbone


def over_frames(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm over (batch x time): (B, T, C) -> (B, T, C).

    A function beside a plain BatchNorm1d and no subclass of it: `convert_sync_batchnorm` replaces modules of that class
    and would drop whatever else a subclass did.
    """
    return norm(x.flatten(0, 1)).view_as(x)


class Projector(nn.Module):
    """A linear map per frame (a 1x1 convolution), then BatchNorm: (B, T, D) -> (B, T, E).

    525,056 parameters from D = 2048, 131,840 from 512.
    """

    def __init__(self, dim_in: int, dim_out: int = 256) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)
        self.norm = nn.BatchNorm1d(dim_out)

    def forward(self, features: Tensor) -> Tensor:
        return over_frames(self.norm, self.linear(features))


class Encoder(nn.Module):
    """What a teacher is, and what a student has below its predictor: a clip -> one embedding per frame (B, T, E)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))


class SelfAttention(nn.Module):
    """Every frame looks at every frame of its clip, without knowing their order: (B, T, K) -> (B, T, K).

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017. Queries, keys and values have no bias; the output has.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, head width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, head width)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention behind LayerNorm and an MLP behind BatchNorm, each beside a shortcut: (B, T, K) -> (B, T, K)."""

    def __init__(self, width: int, heads: int, head_width: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, head_width)
        self.mlp_norm = nn.BatchNorm1d(width)
        self.mlp_in = nn.Linear(width, mlp)
        self.mlp_out = nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp_out(F.gelu(self.mlp_in(over_frames(self.mlp_norm, x))))


class Predictor(nn.Module):
    """From a student's embedding to the other modality's teacher: (B, T, E) -> (B, T, E), 3,414,784 parameters.

    A transformer encoder of one block without position code, between two linear maps; BatchNorm stands before the MLP
    and before the last map, where a transformer usually has LayerNorm.
    """

    def __init__(self, dim: int = 256, width: int = 512, heads: int = 8, head_width: int = 64, mlp: int = 2048) -> None:
        super().__init__()
        self.input = nn.Linear(dim, width)
        self.block = TransformerBlock(width, heads, head_width, mlp)
        self.norm = nn.BatchNorm1d(width)
        self.output = nn.Linear(width, dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.output(over_frames(self.norm, self.block(self.input(embedding))))


class CosineClassifier(nn.Module):
    """scale * cosine(feature, weight), one logit: (B, D) -> (B,).

    Sums are float32 whatever autocast says: in bfloat16 a cosine has steps of 1/256, which the scale makes 1/4.
    """

    def __init__(self, dim: int, scale: float = 64.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(1, dim) / dim**0.5)

    def forward(self, feature: Tensor) -> Tensor:
        cosines = F.normalize(feature.float(), dim=-1) * F.normalize(self.weight.float(), dim=-1)
        return self.scale * cosines.sum(dim=-1)
