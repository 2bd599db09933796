"""A stage 1 that takes a second, and processes that run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.stores import Track, write_store
from datasets.store import Store
from tests.engine.processes import finished

SMALL = (
    "backbone=cnn_gru_attention_small", "backbone.arguments.channels=[4,8]", "backbone.arguments.pools=[2,2]",
    "backbone.arguments.input_size=32", "backbone.arguments.stem_stride=4", "backbone.arguments.hidden=8",
    "backbone.arguments.dim=16",
    "audio_backbone=audio_resnet18_small", "audio_backbone.arguments.width=4", "batch=4", "epochs=10",
    "warmup_epochs=1", "learning_rate=1e-2", "precision=fp32", "workers=0", "log_every=1", "validate_every=5",
    "validation_clips=4", "device=cpu",
)  # fmt: skip


def talking(seed: int, frames: int = 29) -> tuple[np.ndarray, np.ndarray]:
    """A bright patch whose height follows the loudness of a hum: uint8 (frames, 150, 150, 3), int16 (frames * 640,)."""
    rng = np.random.default_rng(seed)
    loud = np.clip(np.interp(np.arange(frames), np.arange(0, frames + 4, 4), rng.random(len(range(0, frames + 4, 4)))),
                   0.05, 1)  # fmt: skip
    crops = np.full((frames, 150, 150, 3), rng.integers(40, 160, 3), np.uint8)
    for t, height in enumerate((loud * 60).astype(int)):
        crops[t, 75 - height // 2 : 76 + height // 2, 40:110] = 230
    hum = np.sin(2 * np.pi * rng.uniform(90, 250) * np.arange(frames * 640) / 16_000)
    return crops, (8000 * hum * np.repeat(loud, 640)).astype(np.int16)


def small_store(root: Path, train: int = 16, val: int = 4, sound: bool = True) -> Store:
    tracks = []
    for number in range(train + val):
        crops, hum = talking(number)
        about = {"split": "train" if number < train else "val", "word": ("AS", "IF")[number % 2]}
        tracks.append(Track(crops, hum if sound else None, about))
    return write_store(root, tracks)


def pretrain(store: Path, run: Path, *arguments: str, world: int = 1, prepare=None) -> tuple[list[int], str]:
    """Exit codes of the ranks and all that they said."""
    return finished("pretrain", run, f"store={store}", *SMALL, *arguments, world=world, prepare=prepare)
