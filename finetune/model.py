"""The networks of stage 2 and its two losses. Needs torch alone.

    video (B, 3, T, H, W) -> features (B, T, D) -> mean over time -> cosine classifier -> logit (B,)
                                                -> projector -> predictor -> prediction (B, T, E), real clips only

Haliassos et al., "Leveraging Real Talking Faces via Self-Supervision for Robust Forgery Detection", CVPR 2022. Logit
adjustment: Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Backbone
from backbones.heads import CosineClassifier, Encoder, Predictor, Projector


class Detector(nn.Module):
    """What a stage-2 bundle holds: backbone and classifier. A clip's logit is high where it looks forged."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = CosineClassifier(backbone.dim)

    def forward(self, video: Tensor) -> Tensor:
        return self.logit(self.backbone(video))

    def logit(self, features: Tensor) -> Tensor:
        """(B, T, D) -> (B,)"""
        return self.classifier(features.mean(dim=1))


class Student(nn.Module):
    """The detector, and beside it, if there is an auxiliary task, the projector and predictor of that task."""

    def __init__(self, backbone: Backbone, *, auxiliary: bool, freeze: bool = False) -> None:
        super().__init__()
        self.detector, self.freeze = Detector(backbone), freeze
        backbone.requires_grad_(not freeze)
        self.projector = Projector(backbone.dim) if auxiliary else None
        self.predictor = Predictor() if auxiliary else None

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        if self.freeze:  # neither weights nor statistics move
            self.detector.backbone.eval()
        return self

    def forward(self, video: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B,) of all clips; predictions (R, T, E) of those that the indices `real` (R,) name."""
        features = self.detector.backbone(video)
        prediction = None
        if self.projector is not None and self.predictor is not None and real is not None:
            prediction = self.predictor(self.projector(features[real]))
        return self.detector.logit(features), prediction


class Teacher(Encoder):
    """The video teacher of stage 1 as it is: no gradient, statistics of its own, evaluation mode whatever is asked."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        return super().forward(video)


def supervised_loss(logits: Tensor, forged: Tensor, prior: float) -> Tensor:
    """Binary cross-entropy of logits (B,) moved by the log odds of the training mix: `prior` is its forged share.

    The move makes up for the mix, so that without it, in evaluation, 0 stands for even odds whatever the mix was.
    """
    adjusted = logits.float() + math.log(prior / (1 - prior))
    return F.binary_cross_entropy_with_logits(adjusted, forged.float())


def auxiliary_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Minus the cosine similarity, averaged over frames: (R, T, E) twice, weights (R,) that sum to one or none -> ().

    Disagreement costs, agreement pays: with the sign the other way round the student would unlearn stage 1.
    """
    return -(F.cosine_similarity(prediction.float(), target.float(), dim=-1).mean(dim=1) * weight).sum()
