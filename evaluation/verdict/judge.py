"""A detector and a file: the judgement. Reading and following faces is one thread, the network another.

A window's logit is what `crosstalk benchmark` computes for the same crops, by the same function, whatever the batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from datasets.appearance import SIZES, looks
from datasets.clips import CLIP_FRAMES
from datasets.media import MediaError
from datasets.views import ViewSettings
from engine.ahead import ahead
from engine.calibration import Calibration
from engine.familiarity import Familiarity
from engine.precision import Kind, Precision
from evaluation.verdict import rules
from evaluation.verdict.agreement import Hearing
from evaluation.verdict.judgement import Judgement, Window
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.stream import FaceStream, FaceWindow
from finetune.model import Detector as Networks
from finetune.scoring import features_and_logits

PROGRESS_EVERY = 0.5  # seconds


class Model(Protocol):
    """What is needed of `evaluation.Detector`."""

    @property
    def network(self) -> Networks: ...

    @property
    def views(self) -> ViewSettings: ...

    @property
    def calibration(self) -> Calibration | None: ...

    @property
    def familiarity(self) -> Familiarity | None: ...


@dataclass(frozen=True)
class Settings:
    stride: int = CLIP_FRAMES  # frames from one window to the next; 25 as in benchmarks, fewer look closer
    frames: int | None = None  # look at this many first frames; None: at all
    smallest_face: float = rules.SMALLEST_FACE  # pixels
    batch: int = 4  # windows at a time; changes no logit
    precision: Kind = "fp32"  # bf16 is quicker where the processor has it, and moves a logit by some hundredths

    def __post_init__(self) -> None:
        if min(self.stride, self.batch, 1 if self.frames is None else self.frames) < 1 or self.smallest_face < 0:
            raise ValueError(f"expected positive numbers: {self}")


@dataclass(frozen=True)
class Progress:
    frames: int  # that were read
    expected: int | None  # that the file says it has
    so_far: Callable[[], Judgement]  # what would be said if it ended here


def judge(model: Model, video: Path, settings: Settings = Settings(), *, reader: LipReader | None = None,
          stop: Callable[[], bool] = lambda: False,
          seen: Callable[[FaceWindow, Window], None] = lambda window, judged: None,
          progress: Callable[[Progress], None] = lambda progress: None) -> Judgement:  # fmt: skip
    """What there is to be said of the file, whatever it holds: what cannot be read is a reason, not an exception.

    `reader` is to say whether lips and sound belong together. `seen` is called for each window in the order in which
    they are judged; `progress` now and then; `stop` is asked for each frame, from another thread, and ends the reading:
    the judgement then is not `complete`.
    """
    began, told = time.perf_counter(), time.perf_counter()
    ended = False
    try:
        stream = FaceStream(video, stride=settings.stride, limit=settings.frames, stop=lambda: ended or stop())
    except MediaError as error:
        return rules.unreadable(video, str(error))
    precision = Precision(settings.precision, model.network.classifier.weight.device)
    windows: dict[int, list[Window]] = defaultdict(list)
    hearing = None if reader is None else Hearing(reader, video, stream.has_sound)

    def so_far() -> Judgement:
        found = _concluded(model, stream, windows, settings)
        return replace(found, agreement=hearing.found() if hearing else None, took=time.perf_counter() - began)

    try:
        with one_thread_less(), ahead(stream, settings.batch) as read:
            for batch in _batches(read, settings.batch):
                for window, judged in zip(batch, _judged(model, batch, precision), strict=True):
                    windows[window.face].append(judged)
                    seen(window, judged)
                if hearing:
                    hearing.add(batch)
                if time.perf_counter() - told > PROGRESS_EVERY:
                    told = time.perf_counter()
                    progress(Progress(stream.frames, stream.expected, lambda: replace(so_far(), complete=False)))
    finally:
        ended = True
    return so_far()


@contextmanager
def one_thread_less() -> Iterator[None]:
    """The network's threads and the one that reads would wait for each other, were they more than there are cores."""
    usual = torch.get_num_threads()
    torch.set_num_threads(max(1, usual - 1))
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _batches(read: Iterator[FaceWindow | None], most: int) -> Iterator[list[FaceWindow]]:
    """Full batches; what there is, none perhaps, when nothing comes for a while; the rest at the end."""
    batch: list[FaceWindow] = []
    for window in read:
        if window is not None:
            batch.append(window)
        if window is None or len(batch) == most:
            yield batch
            batch = []
    yield batch


@torch.inference_mode()
def _judged(model: Model, batch: Sequence[FaceWindow], precision: Precision) -> list[Window]:
    if not batch:
        return []
    crops = torch.from_numpy(np.stack([window.crops for window in batch])).to(precision.device)
    _, logits = features_and_logits(model.network, crops, model.views, precision)
    far = _distances(model.familiarity, batch)
    return [Window(window.start, logit, distance)
            for window, logit, distance in zip(batch, logits.double().tolist(), far, strict=True)]  # fmt: skip


def _distances(known: Familiarity | None, batch: Sequence[FaceWindow]) -> Sequence[float | None]:
    if known is None:
        return [None] * len(batch)
    seen = [looks(window.crops) for window in batch]
    return known.distance({name: torch.from_numpy(np.stack([one[name] for one in seen])) for name in SIZES}).tolist()


def _concluded(model: Model, stream: FaceStream, windows: dict[int, list[Window]], settings: Settings) -> Judgement:
    faces = [
        rules.Seen(face.track.start, face.track.frames, face.track.side, face.inside, face.track.rank,
                   tuple(windows[number]), face.places)
        for number, face in list(stream.faces.items()) if number in windows
    ]  # fmt: skip
    height, width = stream.size
    watched = rules.Watched(stream.frames, width, height, stream.has_sound, stream.complete, stream.damage,
                            stream.brief, stream.longest_brief)  # fmt: skip
    return rules.concluded(stream.path, watched, faces, model.calibration, settings.smallest_face)
