"""The process that judges: it holds the model, takes one upload after another and writes their reports.

A process of its own, since a file may bring its decoder down and work that is called off must end at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.media import FRAME_RATE, MediaError, probe
from engine.distributed import distributed
from engine.errors import from_setting
from evaluation.detector import Detector
from evaluation.serve.settings import ServeSettings
from evaluation.verdict import phrases, report
from evaluation.verdict.heat import heat, temporal_attention
from evaluation.verdict.judge import Settings, judge
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.moments import moments

LOOKING, DRAWING = 1.0, 2.0  # stages of the progress


@dataclass(frozen=True)
class Task:
    video: Path
    name: str  # what its sender calls it
    report: Path


@dataclass(frozen=True)
class Outcome:
    headline: str
    tone: str


def setup(settings: ServeSettings, progress: Any) -> Callable[[Task | None], Outcome | str]:
    """Answers a task with its outcome or with why there is none. None is answered once the model is loaded."""
    torch.backends.cudnn.allow_tf32 = False  # on a GPU: fp32 is fp32, as in benchmarks
    context = ExitStack().enter_context(distributed(settings.device))
    with from_setting("model"):
        detector = Detector.load(settings.model, context.device)
    with from_setting("sound"):
        reader = None if settings.sound is None else LipReader.load(settings.sound, context.device)
    limit = settings.max_minutes * 60 * FRAME_RATE

    def answer(task: Task | None) -> Outcome | str:
        if task is None:
            return "ready"
        _set(progress, LOOKING, 0, 0)  # a short video has been looked at before there is more to say
        try:
            seconds = probe(task.video).seconds
        except MediaError as error:
            return str(error)
        too_long = f"it is longer than {settings.max_minutes} minutes"
        if (seconds or 0) * FRAME_RATE > limit:
            return too_long
        # A file that does not say how long it is, or lies, is read no further than that.
        how = Settings(stride=settings.stride, frames=limit + 1, precision=settings.precision)
        found = judge(detector, task.video, how, reader=reader,
                      progress=lambda now: _set(progress, LOOKING, now.frames, now.expected or 0))  # fmt: skip
        if found.frames > limit:
            return too_long
        if not found.frames:
            return found.reason or "nothing in it could be read"
        pictures = moments(found, partial(heat, detector), partial(temporal_attention, detector),
                           progress=lambda done, total: _set(progress, DRAWING, done, total))  # fmt: skip
        report.write(task.report, found, detector, pictures, task.name)
        return Outcome(phrases.headline(found), phrases.tone(found))

    return answer


def _set(progress: Any, stage: float, done: int, total: int) -> None:
    progress[:] = (stage, float(done), float(total))
