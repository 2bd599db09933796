"""A judged video a second time. Where its faces are is known by now, so that decoding it is all there is to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from datasets.clips import CLIP_FRAMES
from datasets.faces import cut
from datasets.media import Frame, read_frames
from evaluation.verdict.judgement import Judgement, Person, Window


@dataclass(frozen=True)
class Shown:
    """One window of one person with its pixels, as the network saw them."""

    person: Person
    window: Window
    crops: np.ndarray  # uint8 (25, 150, 150, 3)

    def place(self, frame: int) -> tuple[complex, complex]:
        """Where the crop of this frame of the video lies in it, as in `datasets.faces.place`."""
        return self.person.place(frame)


def replay(judgement: Judgement, wanted: Callable[[Person, Window], bool]) -> Iterator[tuple[Frame, list[Shown]]]:
    """Every frame that was judged, each with the wanted windows that end with it.

    What is held at a time are the crops of one window for each person in sight. Raises `MediaError` if the file is not
    what it was.
    """
    reels = [_Reel(person, [w for w in person.windows if wanted(person, w)]) for person in judgement.people]
    for frame in read_frames(judgement.video, limit=judgement.frames):
        yield frame, [shown for reel in reels for shown in reel.add(frame)]


class _Reel:
    """The newest crops of one person, cut only where a wanted window needs them."""

    def __init__(self, person: Person, windows: list[Window]):
        self._person = person
        self._windows = deque(sorted(windows, key=lambda window: window.start))
        self._crops: deque[np.ndarray] = deque(maxlen=CLIP_FRAMES)

    def add(self, frame: Frame) -> Iterator[Shown]:
        if not self._windows or frame.index < self._windows[0].start:
            return
        self._crops.append(cut(frame.rgb(), *self._person.place(frame.index)))
        while self._windows and self._windows[0].start + CLIP_FRAMES - 1 == frame.index:
            yield Shown(self._person, self._windows.popleft(), np.stack(self._crops))
