"""The half of a stage-1 bundle that tells whether a face says what is heard: no forged video was needed to train it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones import create
from backbones.heads import Encoder
from datasets.media import SAMPLES_PER_FRAME
from datasets.views import ViewSettings, evaluation_view, log_mel
from engine.bundle import load_into
from finetune.transfer import backbone_of, stage_1, views_of
from ssl_pretrain.model import Student

SILENCE = 2  # of 32768: what encoding leaves of samples that are all 0


@dataclass(frozen=True)
class LipReader:
    """The video student, which predicts from a face what the audio teacher makes of the sound."""

    student: Student  # both in evaluation mode
    teacher: Encoder
    views: ViewSettings
    centred: bool  # the targets of training were: see `ssl_pretrain.model.centred`
    config: Mapping[str, Any]
    bundle: Path

    @classmethod
    def load(cls, bundle: Path | str, device: torch.device | str = "cpu") -> Self:
        found = stage_1(Path(bundle))
        student = Student(backbone_of(found).built(create))
        teacher = Encoder(backbone_of(found, "audio_backbone").built(create))
        for name, module in student.parts.items():
            load_into(module, found, f"video_student.{name}")
        for name, module in (("backbone", teacher.backbone), ("projector", teacher.projector)):
            load_into(module, found, f"audio_teacher.{name}")
        for network in (student, teacher):
            network.requires_grad_(False).eval().to(device)
        return cls(student, teacher, views_of(found), bool(found.config.get("centred_targets")), found.config,
                   Path(bundle))  # fmt: skip

    @property
    def generated(self) -> bool:
        """It has learned from generated people alone, as far as its bundle says."""
        return bool(self.config.get("generated"))

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device

    @torch.inference_mode()
    def predictions(self, crops: Tensor) -> Tensor:
        """uint8 (B, T, 150, 150, 3) -> unit vectors (B, T, E): what these lips should sound like, frame by frame."""
        video, _ = evaluation_view(self.views, crops.to(self.device))
        return F.normalize(self.student(video).prediction.float(), dim=-1)

    @torch.inference_mode()
    def targets(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """int16 (B, T * 640) -> unit vectors (B, T, E) and bool (B, T): the frames in which there is any sound.

        The others (before the sound begins, after it ends, muted) get the mean of what is heard, in the log-mel, as
        masked frames do in training; they count for nothing.
        """
        sound = sound.to(self.device)
        heard = sound.unflatten(1, (-1, SAMPLES_PER_FRAME)).int().abs().amax(dim=2) > SILENCE  # (B, T)
        mel = log_mel(self.views, sound)  # (B, 1, A, M)
        known = heard.repeat_interleave(mel.shape[2] // heard.shape[1], dim=1)[:, None, :, None]  # (B, 1, A, 1)
        embedding = self.teacher(torch.where(known, mel, mean_of(mel, known, dim=2))).float()
        if self.centred:
            # Training also takes away the mean over the batch at each frame: here there is only one video.
            embedding = embedding - mean_of(embedding, heard[..., None], dim=1)
        return F.normalize(embedding, dim=-1), heard


def mean_of(values: Tensor, counted: Tensor, dim: int) -> Tensor:
    """Over the places along `dim` that count; 0 where none does."""
    return (values * counted).sum(dim, keepdim=True) / counted.sum(dim, keepdim=True).clamp(min=1)
