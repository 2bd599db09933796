"""What a run tells people: lines while it learns, a card for its bundle, a picture of its curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.clips import ClipDataset
from engine.report import Lines, draw_curves, validations
from ssl_pretrain.monitor import OFFSETS
from ssl_pretrain.settings import PretrainSettings

MEASURES = {  # in validation: how the picture and the card call them
    "retrieval_video_to_audio": "retrieval, the sound that belongs to a video",
    "retrieval_audio_to_video": "retrieval, the video that belongs to a sound",
    "synchrony": "synchrony, the right offset",
    "word_video": "word probe on the video features",
    "word_audio": "word probe on the sound features",
    "spread_video": "spread of the video targets",
    "spread_audio": "spread of the sound targets",
    "loss": "loss",
}


def validation_line(epoch: int, epochs: int, found: Mapping[str, float]) -> str:
    line = (f"epoch {epoch} of {epochs}: loss {found['loss']:.3f}; among {found['gallery']:.0f} clips the right "
            f"sound {found['retrieval_video_to_audio']:.2f}, the right face "
            f"{found['retrieval_audio_to_video']:.2f}; right of {len(OFFSETS)} offsets {found['synchrony']:.2f}; "
            f"spread {found['spread_video']:.2f} and {found['spread_audio']:.2f}")  # fmt: skip
    if "word_video" in found:
        line += f"; words {found['word_video']:.2f} from faces, {found['word_audio']:.2f} from sound"
    return line


def card(settings: PretrainSettings, data: ClipDataset, lines: Lines) -> str:
    """The bundle's card.md."""
    found = validations(lines)
    text = [
        "# Stage 1: students and teachers of faces and voices", "",
        f"Video backbone `{settings.backbone.name}`, audio backbone `{settings.audio_backbone.name}`, trained for "
        f"{settings.epochs} epochs in batches of {settings.batch} on {data.summary()} "
        f"({', '.join(data.dataset_names)}), seed {settings.seed}. `config.yaml` has all settings.", "",
    ]  # fmt: skip
    if data.generated:
        text += ["**The training data is generated.** No figure below says anything about real faces.", ""]
    if found:
        values = found[-1]["values"]
        chance = {"synchrony": 1 / len(OFFSETS)}
        for name in ("video_to_audio", "audio_to_video"):
            chance[f"retrieval_{name}"] = 1 / values["gallery"]
        for name in ("video", "audio"):
            chance[f"word_{name}"] = 1 / max(len(data.word_names), 1)
        text += [f"On {found[-1]['split']} clips, after step {found[-1]['step']}:", "",
                 "| measure | value | chance |", "| --- | --- | --- |"]  # fmt: skip
        text += [f"| {what} | {values[name]:.3f} | {f'{chance[name]:.3f}' if name in chance else ''} |"
                 for name, what in MEASURES.items() if name in values]  # fmt: skip
    text += ["", "For research. What it was trained on decides which faces and voices it knows.", ""]
    return "\n".join(text)


def curves(runs: Mapping[str, Lines], path: Path) -> None:
    """One run (its name may be empty) or several in comparison."""
    draw_curves({
        "loss (-2 is the best)": ["loss"],
        "retrieval: right sound for a face": ["retrieval_video_to_audio"],
        "retrieval: right face for a sound": ["retrieval_audio_to_video"],
        f"synchrony: right of {len(OFFSETS)} offsets": ["synchrony"],
        "word probe on the face": ["word_video"],
        "spread of targets (0: collapse)": ["spread_video", "spread_audio"],
    }, runs, path)  # fmt: skip
