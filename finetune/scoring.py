"""What a detector says of videos: in validation here, in benchmarks above, from one function.

A clip's logit comes from the centre crop of one uniform window; a video's is the mean over all its clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.clips import NO_LABEL, ClipDataset
from datasets.loaders import make_evaluation_loader
from datasets.views import ViewSettings, evaluation_view
from engine.distributed import Context
from engine.precision import Precision
from engine.scores import Score, video_scores
from finetune.model import Detector

BATCH = 8  # clips at a time and rank: whatever it is, a clip's logit is the same
BATCHES_TOGETHER = 8  # of each rank, between two exchanges of logits


@dataclass(frozen=True)
class ClipLogits:
    """Of some windows: which track each is of, its first frame there, and its logit."""

    tracks: NDArray[np.int32]
    starts: NDArray[np.int32]
    logits: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    rows: list[Score]  # one for each video, in the order of the data
    clips: ClipLogits


def score(detector: Detector, data: ClipDataset, views: ViewSettings, precision: Precision, context: Context,
          *, workers: int = 0) -> Scored:  # fmt: skip
    """All windows of all tracks; every rank gets all the scores."""
    pieces = list(clip_logits(detector, data, views, precision, context, workers=workers))
    clips = ClipLogits(*(np.concatenate([getattr(piece, field.name) for piece in pieces])
                         for field in fields(ClipLogits)))  # fmt: skip
    return Scored(by_video(data, clips.tracks, clips.logits), clips)


@torch.inference_mode()
def clip_logits(detector: Detector, data: ClipDataset, views: ViewSettings, precision: Precision, context: Context,
                *, tracks: Sequence[int] | None = None, batch: int = BATCH, workers: int = 0,
                ) -> Iterator[ClipLogits]:  # fmt: skip
    """All windows of all tracks, or of those named, piece by piece in the order of the data. The windows are divided
    over the ranks, and every rank gets all the logits.

    The detector is put into evaluation mode and, at the end, into the mode it was in.
    """
    loader = make_evaluation_loader(data, batch, tracks=tracks, rank=context.rank, ranks=context.world,
                                    workers=workers)  # fmt: skip
    windows = loader.order.epoch(0, 0)
    piece = batch * context.world * BATCHES_TOGETHER
    training = detector.training
    detector.eval()
    batches = iter(loader)
    try:
        for begin in range(0, len(windows.clips), piece):
            clips, starts = windows.clips[begin : begin + piece], windows.starts[begin : begin + piece]
            place = {pair: number for number, pair in enumerate(zip(clips.tolist(), starts.tolist(), strict=True))}
            logits = torch.zeros(len(clips), dtype=torch.float64)
            with context.together("scoring"):  # a rank that cannot read must not leave the others waiting
                for read in islice(batches, BATCHES_TOGETHER):
                    crops = read.frames.to(context.device, non_blocking=True)
                    _, found = features_and_logits(detector, crops, views, precision)
                    places = [place[pair] for pair in zip(read.clip.tolist(), read.start.tolist(), strict=True)]
                    logits[places] = found.double().cpu()
            yield ClipLogits(clips, starts, context.sum(logits).numpy())
    finally:  # also if whoever asks wants no more
        detector.train(training)
        loader.close()


@torch.inference_mode()
def features_and_logits(detector: Detector, crops: Tensor, views: ViewSettings,
                        precision: Precision) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Crops as in a store, uint8 (B, T, 150, 150, 3), on the detector's device -> its features, averaged over time
    (B, D), and logits (B,). The detector must be in evaluation mode."""
    video, _ = evaluation_view(views, crops)
    with precision.autocast():
        features = detector.backbone(video)
        return features.mean(dim=1).float(), detector.logit(features)


def by_video(data: ClipDataset, tracks: NDArray, logits: NDArray[np.float64]) -> list[Score]:
    """A row for each video that the windows of `tracks` belong to; `logits[i]` is of a window of `tracks[i]`."""
    means = video_scores(logits, data.videos[tracks].tolist())
    track_of: dict[str, int] = {}  # the first of each video, to say what the video is
    for track in tracks.tolist():
        track_of.setdefault(str(data.videos[track]), track)
    return [described(data, track_of[name], int(clips), float(logit))
            for name, logit, clips in zip(means.names, means.logits, means.clips, strict=True)]  # fmt: skip


def described(data: ClipDataset, track: int, clips: int, logit: float | None) -> Score:
    """The row of the video that a track is of."""
    label = int(data.label[track])
    return Score(
        video=str(data.videos[track]), dataset=data.dataset_names[data.dataset[track]],
        method=data.method_names[data.method[track]], label=None if label == NO_LABEL else label,
        identity=data.identity(track), clips=clips, logit=logit,
    )  # fmt: skip
