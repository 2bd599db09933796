"""The four networks of stage 1 and the loss between them. Needs torch alone.

    video  (B, 3, T, H, W)   log-mel (B, 1, 4 T, M)   features (B, T, D)   embedding, prediction, target (B, T, E)

    student = encoder (backbone -> projector) -> predictor        gradients
    teacher = encoder, a moving average of the student's          none

Haliassos et al., "Leveraging Real Talking Faces via Self-Supervision for Robust Forgery Detection", CVPR 2022.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Backbone
from backbones.heads import Encoder, Predictor
from engine.ema import teacher_of, update_teacher


class Answer(NamedTuple):
    features: Tensor  # (B, T, D)
    prediction: Tensor  # (B, T, E), of the other modality's target


class Student(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = Encoder(backbone)
        self.predictor = Predictor()

    def forward(self, x: Tensor) -> Answer:
        features = self.encoder.backbone(x)
        return Answer(features, self.predictor(self.encoder.projector(features)))

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {**parts_of(self.encoder), "predictor": self.predictor}


def parts_of(encoder: Encoder) -> dict[str, nn.Module]:
    return {"backbone": encoder.backbone, "projector": encoder.projector}


class Students(nn.Module):
    """Both students as one module, because what is trained in one step crosses the ranks as one."""

    def __init__(self, video_backbone: Backbone, audio_backbone: Backbone) -> None:
        super().__init__()
        self.video = Student(video_backbone)
        self.audio = Student(audio_backbone)

    def forward(self, video: Tensor, log_mel: Tensor) -> tuple[Answer, Answer]:
        return self.video(video), self.audio(log_mel)

    def embeddings(self, video: Tensor, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """What teachers would say that are the students themselves, gradient and all: the way to collapse."""
        return self.video.encoder(video), self.audio.encoder(log_mel)


class Teachers(nn.Module):
    """Copies of the students' encoders. They stay in train mode while training: see engine/ema.py."""

    def __init__(self, students: Students) -> None:
        super().__init__()
        self.video = teacher_of(students.video.encoder)
        self.audio = teacher_of(students.audio.encoder)

    @torch.no_grad()
    def forward(self, video: Tensor, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.video(video), self.audio(log_mel)

    def follow(self, students: Students, momentum: float) -> None:
        update_teacher(self.video, students.video.encoder, momentum)
        update_teacher(self.audio, students.audio.encoder, momentum)


def agreement_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Minus the cosine similarity, averaged over the frames of each clip, then over clips: (B, T, E) twice -> ().

    Masked frames are in it: predicting what was hidden is the task. Padded ones are not: `valid` (B, T) says which
    frames exist, all of them if it is left out. A clip without any is an error.
    """
    cosine = F.cosine_similarity(prediction.float(), target.float(), dim=-1)  # (B, T)
    if valid is None:
        return -cosine.mean()
    frames = valid.sum(dim=1)
    if not bool(frames.all()):
        raise ValueError("a clip of padding only has no loss")
    return -((cosine * valid).sum(dim=1) / frames).mean()


def centred(target: Tensor) -> Tensor:
    """Targets without what every frame of the clip shares, then without what every clip shares at that frame.

    (B, T, E) -> (B, T, E). What is left can be predicted neither from who speaks nor from where in the clip a frame
    is: of the two shortcuts that let the loss fall while nothing is learned about speech. Over all ranks' clips.
    """
    target = target.float()
    target = target - target.mean(dim=1, keepdim=True)
    common = target.mean(dim=0)
    if dist.is_initialized():
        dist.all_reduce(common)
        common = common / dist.get_world_size()
    return target - common
