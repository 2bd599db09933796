"""What `crosstalk finetune` can be told; configs/finetune.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from engine.errors import UserError
from engine.precision import Kind
from engine.settings import Needed, Network

# What may change between two sessions of a run, because it does not change what is computed.
MAY_DIFFER = ("run", "store", "real_store", "device", "precision", "recompute", "workers", "log_every", "save_every",
              "keep", "checkpoint")  # fmt: skip


@dataclass(frozen=True)
class FinetuneSettings:
    init: Annotated[Path, Needed("init=BUNDLE is missing: what `crosstalk pretrain` wrote to RUN/bundle; init=none "
                                 "starts from scratch")]  # fmt: skip
    teacher: Path | None
    backbone: Network | None
    store: Annotated[tuple[Path, ...], Needed("store=DIR is missing: a store that `crosstalk prepare` made")]
    run: Annotated[Path, Needed("run=DIR is missing: the folder for this run's checkpoints, journal and bundle")]
    methods: tuple[str, ...] | None
    leave_out: tuple[str, ...]
    ssl_weight: float
    freeze_backbone: bool
    real_ratio: int
    real_store: Path | None
    real_share: float | None
    batch: int
    epochs: int
    seed: int
    learning_rate: float
    warmup_epochs: float
    cosine: bool
    weight_decay: float
    mask_share: float
    mask_fill: Literal["zero", "clip_mean"]
    device: Literal["auto", "cpu", "cuda"]
    precision: Kind
    recompute: bool
    workers: int
    log_every: int
    save_every: int
    keep: int
    validate_every: int
    patience: int | None
    checkpoint: Path | None

    def __post_init__(self) -> None:
        at_least = {"ssl_weight": 0, "real_ratio": 0, "batch": 2, "epochs": 1, "seed": 0, "warmup_epochs": 0,
                    "weight_decay": 0, "workers": 0, "log_every": 1, "save_every": 1, "keep": 1, "validate_every": 1,
                    "patience": 1}  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: at least {least}")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate={self.learning_rate}: must be greater than 0")
        if not 0 <= self.mask_share <= 1:
            raise UserError(f"mask_share={self.mask_share}: must lie between 0 and 1")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs={self.warmup_epochs:g} is longer than the run (epochs={self.epochs})")
        if self.from_scratch and self.ssl_weight and self.teacher is None:
            raise UserError(f"ssl_weight={self.ssl_weight:g} needs the teacher of a stage-1 bundle: init=BUNDLE or "
                            "teacher=BUNDLE, or ssl_weight=0")  # fmt: skip
        if self.teacher is not None and not self.ssl_weight:
            raise UserError(f"teacher={self.teacher} with ssl_weight=0: nothing would be learned from it")
        if self.freeze_backbone and (self.from_scratch or self.ssl_weight):
            wrong = "init=none" if self.from_scratch else f"ssl_weight={self.ssl_weight:g}"
            raise UserError(f"freeze_backbone=true with {wrong}: a linear probe needs init=BUNDLE and ssl_weight=0")
        if bool(self.real_ratio) != (self.real_store is not None):
            raise UserError(f"real_ratio={self.real_ratio} and real_store={self.real_store or 'null'}: give both, or "
                            "neither")  # fmt: skip

    @property
    def teaching(self) -> Path | None:
        """The bundle whose video teacher the auxiliary task predicts."""
        return (self.teacher or self.init) if self.ssl_weight else None

    @property
    def from_scratch(self) -> bool:
        return str(self.init) == "none"
