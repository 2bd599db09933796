"""A trained detector as others use it: a bundle of stage 2, read strictly, ready to judge clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from backbones import create
from datasets.appearance import SIZES
from datasets.views import ViewSettings
from engine.bundle import Bundle, load_bundle, load_into
from engine.calibration import Calibration
from engine.errors import UserError
from engine.familiarity import Familiarity, sizes_from
from engine.files import said_plainly
from evaluation.verdict.judge import Settings, judge
from evaluation.verdict.judgement import Judgement
from evaluation.verdict.lipreader import LipReader
from finetune.model import Detector as Networks
from finetune.transfer import backbone_of, views_of


@dataclass(frozen=True)
class Detector:
    """`Detector.load(bundle).score(path)` for a video, `.logits(clips)` for clips."""

    network: Networks  # in evaluation mode
    views: ViewSettings  # what its clips must look like
    calibration: Calibration | None  # None: nobody has measured where its threshold is
    config: Mapping[str, Any]  # the settings that made it
    bundle: Path
    digest: str  # of the weights and settings, not of where they lie
    familiarity: Familiarity | None = None  # which faces it knows; None: the bundle brings nothing to tell by

    @classmethod
    def load(cls, bundle: Path | str, device: torch.device | str = "cpu") -> Self:
        found = load_bundle(bundle)
        stage = found.config.get("stage")
        if stage != "finetune":
            hint = f"; crosstalk finetune init={bundle} makes one of it" if stage == "pretrain" else ""
            raise UserError(f"{bundle}: expected a bundle of stage 2 (crosstalk finetune); its config.yaml says stage "
                            f"{stage}{hint}")  # fmt: skip
        network = Networks(backbone_of(found).built(create))
        load_into(network.backbone, found, "video_student.backbone")
        load_into(network.classifier, found, "classifier")
        network.requires_grad_(False).eval().to(device)
        calibration = found.config.get("calibration")
        if calibration is not None:
            calibration = Calibration.from_dict(calibration, f"{bundle}: config.yaml, calibration")
        return cls(network, views_of(found), calibration, found.config, Path(bundle), digest_of(found.folder),
                   _familiarity(found))  # fmt: skip

    @torch.inference_mode()
    def logits(self, clips: Tensor) -> Tensor:
        """Normalised clips, float (B, 3, 25, 112, 112), RGB -> uncalibrated logits, float (B,): high is forged."""
        size = self.views.size
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[3:] != (size, size) or not clips.is_floating_point():
            raise ValueError(f"clips must be float (B, 3, T, {size}, {size}), not {clips.dtype} {tuple(clips.shape)}")
        return self.network(clips.to(self.network.classifier.weight.device)).float()

    def score(self, video: Path | str, *, reader: LipReader | None = None, **settings: Any) -> Judgement:
        """What it says of a video file, and why; `settings` are those of `evaluation.verdict.judge.Settings`.

        `reader`, from `LipReader.load(bundle of stage 1)`, says in `agreement` whether lips and sound belong together.
        """
        return judge(self, Path(video), Settings(**settings), reader=reader)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Methods that it was told not to train on."""
        return tuple(self.config.get("leave_out") or ())

    def trained_on(self, dataset: str, method: str) -> bool | None:
        """None where the bundle does not say: it was imported."""
        if "leave_out" not in self.config:
            return None
        chosen, known = self.config.get("methods"), self.config.get("trained_on") or {}
        if method in self.left_out or (chosen is not None and method not in chosen):
            return False
        return dataset in known["datasets"] if "datasets" in known else None


def _familiarity(bundle: Bundle) -> Familiarity | None:
    if bundle.config.get("familiarity") is None:
        return None
    where = f"{bundle.folder}: config.yaml, familiarity"
    known = Familiarity(sizes_from(bundle.config["familiarity"], SIZES, where))
    load_into(known, bundle, "familiarity")
    known.require_sound(f"bundle {bundle.folder}: familiarity")
    return known


def digest_of(bundle: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    with said_plainly(f"bundle {bundle}"):
        with (bundle / "model.safetensors").open("rb") as file:
            # The header's keys come in another order every time that the same weights are written.
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total.update(json.dumps(header, sort_keys=True).encode())
            total.update(hashlib.file_digest(file, "blake2b").digest())
        total.update((bundle / "config.yaml").read_bytes())
    return total.hexdigest()
