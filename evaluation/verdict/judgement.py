"""What was found out about one video, and how windows become people and people a verdict. Pure: no network, no file.

Times are frames of the video at 25 a second, counted from its start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

FRAME_RATE = 25
Verdict = Literal["real", "forged", "cannot tell"]


@dataclass(frozen=True)
class Window:
    """One clip of 25 frames of one face."""

    start: int  # its first frame
    logit: float  # of the network, uncalibrated; high is forged
    distance: float | None = None  # of its looks from those of training; 1 is the farthest that is familiar


@dataclass(frozen=True)
class Person:
    """One face, followed without a break. The same person out of sight for long comes back as another one."""

    number: int  # in the order of weight: 1 is the face that is seen longest and largest
    start: int  # first frame
    frames: int
    side: float  # mean side of the face in pixels of the video
    windows: tuple[Window, ...]
    logit: float | None  # mean over its windows; None: see `reason`
    probability: float | None  # calibrated
    verdict: Verdict
    reason: str | None = None  # why nothing can be told of it
    familiar: bool | None = None  # None: the model brings nothing to tell by
    # Where its crops were cut out, for whoever reads the file again to draw on it: complex (frames, 2), the origin and
    # the step of `datasets.faces.place`. 32 bytes a frame.
    places: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def suspicion(self) -> tuple[bool, float]:
        """Sorts: a face that the model does not know never outweighs one that it knows and calls forged."""
        return self.verdict == "forged" and self.familiar is not False, self.probability or 0.0

    def place(self, frame: int) -> tuple[complex, complex]:
        """Where its crop of this frame of the video was cut out."""
        if self.places is None:
            raise ValueError(f"where the crops of person {self.number} were cut out was not kept")
        origin, step = self.places[frame - self.start]
        return complex(origin), complex(step)


@dataclass(frozen=True)
class Agreement:
    """Do lips and sound belong together? From a model of stage 1, which has seen no forged video."""

    offset_ms: float | None  # most likely; positive: the sound comes late. None: see `reason`
    score: float | None  # 0 (no better than a wrong offset) to 1
    offsets_ms: tuple[float, ...] = ()  # those that were tried
    similarity: tuple[float, ...] = ()  # at each of them, over the whole video
    windows: tuple[tuple[int, float, float], ...] = ()  # first frame, its own best offset in ms, its score
    reason: str | None = None
    generated: bool = False  # by a model that has learned from generated people alone


@dataclass(frozen=True)
class Judgement:
    video: Path
    verdict: Verdict
    reason: str | None  # why nothing can be told, in words for whoever asked
    logit: float | None  # of the main person: the same number as in a benchmark
    probability: float | None  # of the person that decides the verdict
    people: tuple[Person, ...]
    frames: int  # that were read
    width: int
    height: int
    has_sound: bool
    complete: bool = True  # False: interrupted, and this is what was known by then
    familiar: bool | None = None  # of the person that decides
    agreement: Agreement | None = None  # None: not asked for
    notes: tuple[str, ...] = ()
    took: float | None = field(default=None, compare=False)  # seconds that all this needed

    @property
    def seconds(self) -> float:
        return self.frames / FRAME_RATE
