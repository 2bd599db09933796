"""Scoring: clips per second of `crosstalk benchmark` against a plain loop, clip by clip, in fp32.

Both look at the same windows of the same store with the same network. The plain loop is what evaluation code usually
does: read a clip, crop, resize and normalise it as floats, one forward pass, fetch the logit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from backbones import arguments, create
from benchmarks.machine import describe, report
from benchmarks.stores import Track, write_store
from datasets.clips import ClipDataset
from datasets.loaders import WindowOrder
from datasets.views import ViewSettings
from engine.distributed import Context
from engine.precision import Precision
from finetune.model import Detector
from finetune.scoring import clip_logits

FRAMES = 110  # of a video: five windows, the last one moved back


def usual(detector: Detector, data: ClipDataset, device: torch.device, size: int) -> list[float]:
    """As a loop over clips is written first."""
    view = v2.Compose([v2.CenterCrop(140), v2.Resize(size, antialias=False),
                       v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])  # fmt: skip
    windows = WindowOrder(data).epoch(0, 0)
    logits = []
    with torch.no_grad():
        for clip, start in zip(windows.clips.tolist(), windows.starts.tolist(), strict=True):
            read = data.__getitems__([(clip, start)])
            if isinstance(read, Exception):
                raise read
            frames, _ = read
            video: Tensor = view(frames[0].permute(0, 3, 1, 2).float() / 255)  # T x C x H x W
            logits.append(detector(video.permute(1, 0, 2, 3)[None].to(device)).item())
    return logits


def ours(detector: Detector, data: ClipDataset, device: torch.device, size: int, batch: int, workers: int,
         precision: str) -> list[float]:  # fmt: skip
    pieces = clip_logits(detector, data, ViewSettings(size=size), Precision(precision, device), Context(device=device),
                         batch=batch, workers=workers)  # fmt: skip
    return np.concatenate([piece.logits for piece in pieces]).tolist()


def seconds(work: Callable[[], list[float]]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("backbone", nargs="?", default="cnn_gru_attention")
    parser.add_argument("--small", action="store_true", help="a small variant of cnn_gru_attention, for a CPU")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0 if not torch.cuda.is_available() else 4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    chosen = {"channels": [8, 16, 32, 64], "hidden": 64, "dim": 256, "stem_stride": 4} if options.small else {}
    size = arguments(options.backbone).get("input_size", 112)
    detector = Detector(create(options.backbone, **chosen)).to(device).eval()
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (FRAMES, 150, 150, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        data = ClipDataset(write_store(Path(folder) / "store", [Track(crops)] * options.videos))
        clips = len(WindowOrder(data))
        ways = {"clip by clip, fp32": partial(usual, detector, data, device, size)}
        for precision in ("fp32", "bf16"):
            ways[f"ours, batches of {options.batch}, {precision}"] = partial(
                ours, detector, data, device, size, options.batch, options.workers, precision)
        logits = {name: np.array(work()) for name, work in ways.items()}  # also warms up
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, work in ways.items():
                rates[name].append(clips / seconds(work))

    middle = {name: statistics.median(values) for name, values in rates.items()}
    plain, fp32, bf16 = middle
    distance = {name: float(np.abs(logits[name] - logits[plain]).max()) for name in ways}
    rows: list[tuple[Any, ...]] = [
        ("way", "clips/s", "slowest", "fastest", "x clip by clip", "largest difference of a logit")]  # fmt: skip
    rows += [(name, middle[name], min(values), max(values), middle[name] / middle[plain], f"{distance[name]:.1e}")
             for name, values in rates.items()]  # fmt: skip
    result = {"usual_clips_per_s": round(middle[plain], 2), "fp32_clips_per_s": round(middle[fp32], 2),
              "bf16_clips_per_s": round(middle[bf16], 2), "fp32_ratio": round(middle[fp32] / middle[plain], 2),
              "bf16_ratio": round(middle[bf16] / middle[plain], 2), "backbone": options.backbone,
              "small": options.small, "clips": clips, "batch": options.batch, "workers": options.workers,
              "machine": describe()}  # fmt: skip
    report(f"Scoring with {options.backbone}: {clips} clips of {options.videos} videos", rows, result)


if __name__ == "__main__":
    main()
