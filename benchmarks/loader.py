"""Clips per second and core: our store, loader and views against the field's usual path, in the same run.

    python -m benchmarks.loader [--videos 64] [--batch 16] [--repeats 5] [--seconds 2]

Usual path: pytorchvideo's dataset over lossless FFV1 AVI crops of 150x150 with 16 kHz sound, a random second decoded
with PyAV, two views in float with torchvision, a log-mel for each view with torchaudio. Ours: the same crops in a
store; "host" reads a random window and collates it (uint8 frames, int16 sound), "views" computes both views and
log-mels as well. Everything in one process on one core with one thread. The videos have 29 frames, as in LRW, which
is kind to the usual path: with longer ones it decodes more than it uses. All files are in the page cache.

The ways take turns (usual, host, views, usual, ...), each for a while; the figures are medians over the turns.
The clock is the process's CPU time, which other people's programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from torch import Tensor
from torch.utils.data import DataLoader
from torchaudio.transforms import AmplitudeToDB, FrequencyMasking, MelSpectrogram
from torchvision.transforms import v2

from benchmarks.machine import describe, report
from benchmarks.stores import Track, write_store
from datasets.clips import ClipDataset
from datasets.loaders import make_loader
from datasets.store import Store
from datasets.views import ViewSettings, draw_views, make_views

FRAMES, RATE, SAMPLES = 29, 25, 16_000
GRAIN = 0.25  # standard deviation in levels of 255


# -------------------------------------------------------------------------------------------------- material

def moving_picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (29, 150, 150, 3) and int16 (29 * 640,): large and small shapes that move, and a little grain.

    The mix is such that FFV1 takes 19 kB for a frame, as it did for crops of a real talking head (GRID corpus).
    """
    rng = np.random.default_rng(seed)

    def shapes(coarse: int, contrast: int, colours: int) -> np.ndarray:
        noise = rng.integers(128 - contrast, 128 + contrast, (coarse, coarse, colours), dtype=np.uint8)
        noise = np.broadcast_to(noise, (coarse, coarse, 3))
        return np.asarray(Image.fromarray(noise.copy()).resize((180, 180), Image.Resampling.BICUBIC), np.float32) - 128

    picture = 128 + shapes(12, 90, 1) + shapes(8, 30, 3) + shapes(60, 6, 1)
    grain = GRAIN * rng.standard_normal((FRAMES, 150, 150, 1))
    frames = np.stack([picture[t // 2 : t // 2 + 150, t : t + 150] for t in range(FRAMES)]) + grain
    seconds = np.arange(FRAMES * 640) / SAMPLES
    sound = np.sin(2 * np.pi * rng.uniform(90, 250) * seconds) + 0.1 * rng.standard_normal(len(seconds))
    return np.clip(frames, 0, 255).astype(np.uint8), (8000 * sound).astype(np.int16)


def write_avi(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    """FFV1 in RGB (bgr0: yuv420p would halve the cost but lose colour) and uncompressed sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=RATE)
        video.width, video.height, video.pix_fmt, video.thread_count = 150, 150, "bgr0", 1
        audio = container.add_stream("pcm_s16le", rate=SAMPLES, layout="mono")
        for number, frame in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            samples = sound[None, 640 * number : 640 * (number + 1)]
            piece = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            piece.sample_rate, piece.pts = SAMPLES, 640 * number
            container.mux(audio.encode(piece))
        container.mux(video.encode())
        container.mux(audio.encode())


# ------------------------------------------------------------------------------------------------- usual path

class UsualTransform:
    """What public code of the field does with a decoded clip: float transforms, view by view, on the CPU."""

    def __init__(self) -> None:
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        # No antialiasing, as in the original code and in ours; with it the usual path is slower.
        place = [v2.RandomCrop(140), v2.Resize(112, antialias=False), v2.RandomHorizontalFlip()]
        erase = v2.RandomErasing(0.5, scale=(0.02, 0.33))
        self.student = v2.Compose([*place, v2.RandomGrayscale(0.5), normalise, erase])
        self.teacher = v2.Compose([*place, normalise])
        self.mel = MelSpectrogram(SAMPLES, n_fft=512, win_length=320, hop_length=160, n_mels=80)
        self.decibel = AmplitudeToDB("power", top_db=80)
        self.frequency_mask = FrequencyMasking(27)

    def log_mel(self, sound: Tensor) -> Tensor:
        decibel = self.decibel(self.mel(sound)[:, :100])  # (80, 100)
        return (decibel - decibel.max() + 40) / 40

    def __call__(self, sample: dict) -> dict:
        frames = sample["video"].div(255).transpose(0, 1)  # (T, 3, 150, 150)
        sound = torch.nn.functional.pad(sample["audio"], (0, SAMPLES))[:SAMPLES] / 32768
        student, teacher = self.student(frames), self.teacher(frames)
        heard = self.frequency_mask(self.log_mel(sound)[None])[0]
        length = random.randrange(13)
        start = random.randrange(len(frames) - length + 1)
        student[start : start + length] = 0
        heard[:, 4 * start : 4 * (start + length)] = 0
        return {"student": student.transpose(0, 1), "student_log_mel": heard.T[None], "label": sample["label"],
                "teacher": teacher.transpose(0, 1), "teacher_log_mel": self.log_mel(sound).T[None]}  # fmt: skip


def usual_clips(folder: Path, batch: int) -> Iterator[int]:
    """Yields the number of clips of each batch, for ever."""
    paths = [(str(path), {"label": 0}) for path in sorted(folder.glob("*.avi"))]
    sampler, transform = make_clip_sampler("random", 1.0), UsualTransform()
    while True:
        dataset = LabeledVideoDataset(paths, sampler, transform=transform, decoder="pyav")
        for read in DataLoader(dataset, batch_size=batch, drop_last=True):
            assert read["student"].shape == (batch, 3, 25, 112, 112) == read["teacher"].shape
            assert read["student_log_mel"].shape == (batch, 1, 100, 80)
            yield batch


# -------------------------------------------------------------------------------------------------- our path

def host_clips(store: Store, batch: int) -> Iterator[int]:
    loader = make_loader(ClipDataset(store, sound=True), batch)
    while True:
        for read in loader:
            yield len(read)


def view_clips(store: Store, batch: int) -> Iterator[int]:
    loader = make_loader(ClipDataset(store, sound=True), batch)
    settings, generator = ViewSettings(), torch.Generator().manual_seed(0)
    while True:
        for read in loader:
            make_views(settings, draw_views(settings, batch, generator), read.frames, read.sound)
            yield len(read)


# ------------------------------------------------------------------------------------------------ measurement

def rate(clips: Iterator[int], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Clips per second over at least `seconds`."""
    done, begin = 0, clock()
    while (passed := clock() - begin) < seconds or not done:
        done += next(clips)
    return done / passed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of each way in each turn")
    options = parser.parse_args()
    if options.batch > options.videos:
        parser.error(f"--batch {options.batch} is larger than --videos {options.videos}")

    # For both ways: PyTorch then asks for huge pages for large tensors. It looks at this when it makes the first.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    machine = describe()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # FFmpeg starts as many threads as it sees cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"writing {options.videos} clips of {FRAMES} frames twice, as FFV1 AVI and into a store", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tracks = []
        for number in range(options.videos):
            frames, sound = moving_picture(number)
            write_avi(root / f"{number:04d}.avi", frames, sound)
            tracks.append(Track(frames, sound))
        store = write_store(root / "store", tracks)
        avi_bytes = sum(path.stat().st_size for path in root.glob("*.avi")) / options.videos / FRAMES
        ways = {"usual": usual_clips(root, options.batch), "host": host_clips(store, options.batch),
                "views": view_clips(store, options.batch)}  # fmt: skip
        for clips in ways.values():
            next(clips)  # the first batch builds tables and fills caches
        print(f"measuring {options.repeats} turns, each way {options.seconds} s, one core, one thread", flush=True)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, clips in ways.items():
                rates[name].append(rate(clips, options.seconds))

    middle = {name: statistics.median(values) for name, values in rates.items()}
    what = {"usual": "usual path, decode to views", "host": "ours, store to batch", "views": "ours, store to views"}
    rows: list[tuple[Any, ...]] = [("way", "clips/s", "slowest", "fastest", "ms/clip", "x usual")]
    rows += [(what[name], middle[name], min(values), max(values), 1000 / middle[name], middle[name] / middle["usual"])
             for name, values in rates.items()]  # fmt: skip
    result: dict[str, Any] = {f"{name}_clips_per_s": round(value, 2) for name, value in middle.items()}
    result |= {f"{name}_ratio": round(middle[name] / middle["usual"], 2) for name in ("host", "views")}
    result |= {"batch": options.batch, "avi_bytes_per_frame": round(avi_bytes), "clock": "process CPU time"}
    result["machine"] = machine
    report("Loading: clips per second and core", rows, result)


if __name__ == "__main__":
    main()
