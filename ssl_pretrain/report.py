"""What a run tells people: lines while it learns, a card for its bundle, a picture of its curves."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.clips import ClipDataset
from engine.checkpoint import Resumed
from engine.distributed import Context
from engine.files import said_plainly
from engine.run import Run
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


class Speaker:
    """Only the main process speaks: results on stdout, what needs attention on stderr."""

    def __init__(self, context: Context):
        self._silent = not context.is_main

    def beginning(self, run: Run, resumed: Resumed | None, data: ClipDataset, steps: int, epoch: int) -> None:
        if self._silent:
            return
        for note in (*run.notes, *([resumed.note] if resumed and resumed.note else [])):
            print(f"note: {note}", file=sys.stderr)
        print(f"data: {data.summary()}")
        if resumed and resumed.step == steps:
            print(f"all {steps} steps were made already")
        elif resumed:
            print(f"continuing after step {resumed.step} of {steps}")
        else:
            print(f"{steps} steps, {epoch} an epoch")
        sys.stdout.flush()

    def warnings(self, step: int, lines: Sequence[str]) -> None:
        for line in () if self._silent else lines:
            print(f"warning: step {step}: {line}", file=sys.stderr, flush=True)

    def validation(self, epoch: int, epochs: int, found: Mapping[str, float]) -> None:
        if self._silent:
            return
        line = (f"epoch {epoch} of {epochs}: loss {found['loss']:.3f}; among {found['gallery']:.0f} clips the right "
                f"sound {found['retrieval_video_to_audio']:.2f}, the right face "
                f"{found['retrieval_audio_to_video']:.2f}; right of {len(OFFSETS)} offsets {found['synchrony']:.2f}; "
                f"spread {found['spread_video']:.2f} and {found['spread_audio']:.2f}")  # fmt: skip
        if "word_video" in found:
            line += f"; words {found['word_video']:.2f} from faces, {found['word_audio']:.2f} from sound"
        print(line, flush=True)

    def end(self, run: Run) -> None:
        if not self._silent:
            print(f"bundle: {run.bundle}\ncurves: {run.folder / 'curves.png'}", flush=True)


def validations(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["split"] != "train"]


def card(settings: PretrainSettings, data: ClipDataset, lines: Sequence[Mapping[str, Any]]) -> str:
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


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """The validation measures over the steps, a line for each run (its name and its journal's lines)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "loss (-2 is the best)": ("loss",),
        "retrieval: right sound for a face": ("retrieval_video_to_audio",),
        "retrieval: right face for a sound": ("retrieval_audio_to_video",),
        f"synchrony: right of {len(OFFSETS)} offsets": ("synchrony",),
        "word probe on the face": ("word_video",),
        "spread of targets (0: collapse)": ("spread_video", "spread_audio"),
    }
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=True):
        for number, (label, lines) in enumerate(runs.items()):
            for name, style in zip(names, ("-", "--"), strict=False):
                points = [(line["step"], line["values"][name]) for line in validations(lines) if name in line["values"]]
                if points:
                    shown = f"{label} {'sound' if name.endswith('audio') else 'face'}".strip()
                    axis.plot(*zip(*points, strict=True), style, marker=".", color=f"C{number % 10}",
                              label=shown if len(names) > 1 else label)  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if "loss" not in title:
            axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes.flat[0].legend(fontsize=7)
    axes.flat[-1].legend(fontsize=7)
    with said_plainly(f"picture {path}"):
        temporary = path.with_name(f".{path.name}.tmp")
        figure.savefig(temporary, format="png", dpi=110)
        temporary.replace(path)
    plt.close(figure)
