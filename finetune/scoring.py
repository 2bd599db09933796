"""What a detector says of videos: in validation here, in benchmarks above, from one function.

A clip's logit comes from the centre crop of one uniform window; a video's is the mean over all its clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.clips import NO_LABEL, ClipDataset
from datasets.loaders import make_evaluation_loader
from datasets.views import ViewSettings, evaluation_view
from engine.distributed import Context
from engine.precision import Precision
from engine.scores import Score, video_scores
from finetune.model import Detector

BATCH = 8  # clips at a time and rank: whatever it is, a clip's logit is the same


@dataclass(frozen=True)
class Scored:
    rows: list[Score]  # one for each video, in the order of the data
    clip_logits: NDArray[np.float64]  # (windows,)
    clip_rows: NDArray[np.int64]  # (windows,): which video each belongs to


@torch.inference_mode()
def score(detector: Detector, data: ClipDataset, views: ViewSettings, precision: Precision, context: Context,
          *, workers: int = 0, advance: Callable[[int], None] | None = None) -> Scored:  # fmt: skip
    """All windows of all tracks, divided over the ranks; every rank gets all the scores.

    The detector is put into evaluation mode and left in the mode it was in.
    """
    loader = make_evaluation_loader(data, BATCH, rank=context.rank, ranks=context.world, workers=workers)
    windows = loader.order.epoch(0, 0)
    pairs = zip(windows.clips.tolist(), windows.starts.tolist(), strict=True)
    place = {pair: number for number, pair in enumerate(pairs)}
    logits = torch.zeros(len(windows.clips), dtype=torch.float64)
    training = detector.training
    detector.eval()
    for batch in loader:
        video, _ = evaluation_view(views, batch.frames.to(context.device))
        with precision.autocast():
            found = detector(video).double().cpu()
        places = [place[pair] for pair in zip(batch.clip.tolist(), batch.start.tolist(), strict=True)]
        logits[places] = found
        if advance:
            advance(len(batch))
    detector.train(training)
    loader.close()
    context.sum(logits)
    return _by_video(data, windows.clips, logits.numpy())


def _by_video(data: ClipDataset, tracks: NDArray, logits: NDArray[np.float64]) -> Scored:
    means = video_scores(logits, data.videos[tracks].tolist())
    row_of = {name: number for number, name in enumerate(means.names)}
    clip_rows = np.array([row_of[name] for name in data.videos[tracks].tolist()], dtype=np.int64)
    first = {}  # a track of each video, to say what the video is
    for track, row in zip(tracks.tolist(), clip_rows.tolist(), strict=True):
        first.setdefault(row, track)
    rows = []
    for row, name in enumerate(means.names):
        track = first[row]
        label = int(data.label[track])
        rows.append(Score(
            video=str(name), dataset=data.dataset_names[data.dataset[track]],
            method=data.method_names[data.method[track]], label=None if label == NO_LABEL else label,
            identity=data.identity(track), clips=int(means.clips[row]), logit=float(means.logits[row]),
        ))  # fmt: skip
    return Scored(rows, logits, clip_rows)
