"""The judged video with what was found drawn on it: a box for each face, its score, its heat map. The sound stays.

It is read a second time and written as it is read, 25 frames a second, beside its place and renamed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from datasets.clips import CLIP_FRAMES
from datasets.media import FRAME_RATE, Frame, Layout, MediaError, Writer, read_sound
from engine.calibration import Calibration
from engine.files import said_plainly
from evaluation.verdict.drawing import with_box, with_heat
from evaluation.verdict.judgement import Judgement, Window
from evaluation.verdict.moments import Explain
from evaluation.verdict.replay import Shown, replay

SOUND_RATE = 48_000
COLOURS = {"forged": (201, 58, 32), "real": (38, 104, 178), "none": (96, 104, 114)}


def write(path: Path, judgement: Judgement, calibration: Calibration | None, explain: Explain,
          progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[str, ...]:  # fmt: skip
    """`progress` is told the frames that are written. Returns what people should be told of the result."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with said_plainly(f"writing {path}"):
        try:
            notes = _write(temporary, judgement, calibration or Calibration(), explain, progress)
            temporary.replace(path)
            return notes
        finally:
            temporary.unlink(missing_ok=True)


def _write(path: Path, judgement: Judgement, calibration: Calibration, explain: Explain,
           progress: Callable[[int, int], None]) -> tuple[str, ...]:  # fmt: skip
    height, width = judgement.height + judgement.height % 2, judgement.width + judgement.width % 2  # as H.264 wants it
    sound = _Sound(judgement)
    layout: Layout | None = "stereo" if judgement.has_sound else None
    with closing(sound), Writer(path, height, width, sound=layout, sound_rate=SOUND_RATE, sound_bits=160_000) as writer:
        for done, (frame, heats) in enumerate(_explained(judgement, explain), 1):
            picture = _drawn(frame, heats, judgement, calibration)
            missing = height - picture.shape[0], width - picture.shape[1]
            writer.show(np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), "edge"))
            for samples in sound.until(done * SOUND_RATE // FRAME_RATE):
                writer.play(samples)
            progress(done, judgement.frames)
    return () if sound.trouble is None else (f"its sound ends early: {sound.trouble}",)


def _explained(judgement: Judgement, explain: Explain) -> Iterator[tuple[Frame, dict[int, tuple[Window, np.ndarray]]]]:
    """Each frame with, by person, the window that it is nearest the middle of, and its heat there (150, 150).

    A frame waits until no later window can cover it, which is one window long.
    """
    waiting: deque[Frame] = deque()
    known: deque[tuple[Shown, np.ndarray]] = deque()

    def give() -> tuple[Frame, dict[int, tuple[Window, np.ndarray]]]:
        frame = waiting.popleft()
        while known and known[0][0].window.start + CLIP_FRAMES <= frame.index:
            known.popleft()
        nearest: dict[int, tuple[int, Window, np.ndarray]] = {}
        for shown, heat in known:
            place = frame.index - shown.window.start
            if 0 <= place < CLIP_FRAMES:
                away, number = abs(place - CLIP_FRAMES // 2), shown.person.number
                if number not in nearest or away < nearest[number][0]:
                    nearest[number] = away, shown.window, heat[place]
        return frame, {number: (window, heat) for number, (_, window, heat) in nearest.items()}

    for frame, ended in replay(judgement, lambda person, window: True):
        waiting.append(frame)
        known.extend((shown, explain(shown.crops)) for shown in ended)
        if len(waiting) == CLIP_FRAMES:
            yield give()
    while waiting:
        yield give()


def _drawn(frame: Frame, heats: dict[int, tuple[Window, np.ndarray]], judgement: Judgement,
           calibration: Calibration) -> np.ndarray:  # fmt: skip
    picture = frame.rgb()
    here = [person for person in judgement.people
            if person.start <= frame.index < person.start + person.frames]  # fmt: skip
    for person in here:
        if person.number in heats:
            picture = with_heat(picture, heats[person.number][1], *person.place(frame.index))
    for person in here:
        window = heats[person.number][0] if person.number in heats else None
        forged = None if window is None else bool(calibration.forged(window.logit))
        label = f"person {person.number}" + ("" if window is None else f"  {window.logit:+.1f}")
        # A colour is a claim: a face of which nothing can be told has none.
        told = forged is not None and person.verdict != "cannot tell" and person.familiar is not False
        picture = with_box(picture, *person.place(frame.index), label,
                           COLOURS[("forged" if forged else "real") if told else "none"])  # fmt: skip
    return picture


class _Sound:
    """The video's own sound, handed out as its pictures go by."""

    def __init__(self, judgement: Judgement):
        self._pieces = read_sound(judgement.video, SOUND_RATE, "stereo") if judgement.has_sound else iter(())
        self.trouble: str | None = None  # why it ends early
        self._given = 0
        self._kept = np.zeros((0, 2), np.int16)

    def until(self, sample: int) -> Iterator[np.ndarray]:
        while self._given < sample:
            if not len(self._kept):
                try:
                    self._kept = next(self._pieces)
                except StopIteration:
                    return
                except MediaError as error:
                    self.trouble = str(error)
                    return
            piece, self._kept = np.split(self._kept, [sample - self._given])
            self._given += len(piece)
            yield piece

    def close(self) -> None:
        if hasattr(self._pieces, "close"):
            self._pieces.close()
