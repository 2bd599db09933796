"""What `crosstalk pretrain` can be told; configs/pretrain.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from datasets.views import ViewSettings
from engine.errors import UserError
from engine.precision import Kind
from engine.settings import Needed, Network

# What may change between two sessions of a run, because it does not change what is computed.
MAY_DIFFER = ("run", "store", "device", "precision", "recompute", "workers", "accumulate",
              "log_every", "save_every", "keep", "checkpoint")  # fmt: skip


@dataclass(frozen=True)
class PretrainSettings:
    store: Annotated[tuple[Path, ...], Needed("store=DIR is missing: a store with sound, made by `crosstalk prepare`")]
    run: Annotated[Path, Needed("run=DIR is missing: the folder for this run's checkpoints, journal and bundle")]
    backbone: Network
    audio_backbone: Network
    batch: int
    accumulate: int
    epochs: int
    seed: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    predictor_rate: float
    teacher_momentum: float
    momentum_ramp: bool
    teacher: Literal["momentum", "student", "student_with_gradient"]
    centred_targets: bool
    mask_fill: Literal["zero", "clip_mean"]
    mask_begin: float
    mask_share: float
    device: Literal["auto", "cpu", "cuda"]
    precision: Kind
    recompute: bool
    workers: int
    log_every: int
    save_every: int
    keep: int
    validate_every: int
    validation_split: Literal["train", "val", "test"] | None
    validation_clips: int
    probe_clips: int
    checkpoint: Path | None

    def __post_init__(self) -> None:
        at_least = {"batch": 2, "accumulate": 1, "epochs": 1, "seed": 0, "warmup_epochs": 0, "weight_decay": 0,
                    "workers": 0, "log_every": 1, "save_every": 1, "keep": 1, "validate_every": 1,
                    "validation_clips": 2, "probe_clips": 0}  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: at least {least}")
        for name in ("learning_rate", "predictor_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: must be greater than 0")
        for name in ("teacher_momentum", "mask_begin", "mask_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs={self.warmup_epochs:g} is longer than the run (epochs={self.epochs})")

    @property
    def views(self) -> ViewSettings:
        return ViewSettings.of_network(self.backbone.arguments, mask_fill=self.mask_fill)
