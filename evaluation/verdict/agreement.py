"""Do lips and sound belong together? Window by window, as a video is read.

A network of stage 1 predicts from 25 frames of a face what the second should sound like. That is compared with the
video's own sound at every offset of -600 to 600 ms in steps of a frame; an offset's similarity is the mean cosine over
all frames of the face for which there is sound at that offset, and some frames of no similarity: so a second of video
needs to agree better than a minute. The best offset is refined by a parabola through it and its neighbours. Shifted
sound is what is heard further back or ahead in the video, never silence put in its place.

    score = (best - rival) / (1 - rival)

where the rival is the highest similarity among offsets at least 200 ms away from the best: 0 says that another offset
does as well, as it happens where sound and lips have nothing to do with each other; 1 would be a perfect prediction of
an endless sound that fits no other moment at all.

What is held at a time is some ten seconds of sound and their embeddings; of each face a sum for each offset and three
numbers for each window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.clips import CLIP_FRAMES
from datasets.media import FRAME_RATE, SAMPLES_PER_FRAME, MediaError, read_sound
from evaluation.verdict.judgement import Agreement
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.stream import FaceWindow

FARTHEST = 15  # frames of offset that are tried either way
OFFSETS = range(-FARTHEST, FARTHEST + 1)
FRAME_MS = 1000 / FRAME_RATE
APART = 5  # frames: offsets nearer to the best are the same peak
KEPT = 10 * FRAME_RATE  # frames of sound behind the newest window: other faces' windows may still come from there
LEAST = 10  # frames of sound without which an offset is not judged, nor with less than half of what the best-heard has
DOUBT = 15  # frames of no similarity that are added to each mean: of a little, much may agree by chance
NO_SOUND = "the video has no sound"
SILENT = "the sound is silent while a face is in sight"
NO_FACE = "no face is in sight for an unbroken second"
BRIEF = f"less than {LEAST / FRAME_RATE:g} s of sound while a face is in sight"


@dataclass(frozen=True)
class Peak:
    offset_ms: float
    score: float


def peak_of(similarity: np.ndarray, offsets: Sequence[int]) -> Peak:
    """Of similarities at offsets in frames, rising by one: the best, between them, and how far it stands out."""
    best = int(similarity.argmax())
    offset = float(offsets[best])
    if 0 < best < len(similarity) - 1:
        before, at, after = similarity[best - 1 : best + 2].tolist()
        bend = 2 * at - before - after
        offset += (after - before) / (2 * bend) if bend > 0 else 0.0
    far = np.abs(np.asarray(offsets) - offsets[best]) >= APART
    rival = float(similarity[far].max()) if far.any() else float(similarity[best])
    return Peak(offset * FRAME_MS, max(0.0, (float(similarity[best]) - rival) / max(1 - rival, 1e-6)))


@dataclass
class Tally:
    """Of windows of one face in order of time: at each offset the sum of the cosines, and of how many frames."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(len(OFFSETS)))
    heard: np.ndarray = field(default_factory=lambda: np.zeros(len(OFFSETS)))
    frames: int = 0  # of the face that were looked at, each once
    looked: int = 0  # the same, each as often as it was in a window
    end: int = 0  # the frame after the newest window
    windows: list[tuple[int, float, float]] = field(default_factory=list)  # first frame, offset in ms, score

    def add(self, start: int, cosine: np.ndarray, heard: np.ndarray) -> None:
        """float and bool (offsets, T)"""
        alone = Tally((cosine * heard).sum(axis=1), heard.sum(axis=1), CLIP_FRAMES, CLIP_FRAMES)
        self.total, self.heard = self.total + alone.total, self.heard + alone.heard
        end = start + CLIP_FRAMES
        self.frames += CLIP_FRAMES if self.looked == 0 else max(0, end - max(start, self.end))
        self.looked += CLIP_FRAMES
        self.end = max(end, self.end)
        peak = alone.peak()
        if peak:
            self.windows.append((start, peak.offset_ms, peak.score))

    def curve(self) -> tuple[Sequence[int], np.ndarray]:
        """The offsets at which there is sound enough, without a gap, and the similarity at each."""
        once = self.frames / max(self.looked, 1)  # windows that overlap show a frame more than once: it counts as one
        total, heard = self.total * once, self.heard * once
        enough = np.flatnonzero(heard >= max(LEAST, heard.max() / 2))
        run = max(np.split(enough, np.flatnonzero(np.diff(enough) > 1) + 1), key=len)
        return [OFFSETS[k] for k in run], total[run] / (heard[run] + DOUBT)

    def peak(self) -> Peak | None:
        offsets, similarity = self.curve()
        return peak_of(similarity, offsets) if len(offsets) > 2 * APART else None


class Hearing:
    """The sound of one video against its faces: give it each window as it comes."""

    def __init__(self, reader: LipReader, video: Path, has_sound: bool):
        self._reader, self._has_sound = reader, has_sound
        self._sound = Soundtrack(read_sound(video) if has_sound else iter(()))
        self._embedded: dict[int, tuple[Tensor, Tensor]] = {}  # by first frame; windows that overlap share theirs
        self._faces: dict[int, Tally] = defaultdict(Tally)
        self._trouble: str | None = None
        self._silent = True

    def add(self, windows: Sequence[FaceWindow]) -> None:
        if not windows or not self._has_sound or self._trouble:
            return
        predicted = self._reader.predictions(torch.from_numpy(np.stack([window.crops for window in windows])))
        for window, prediction in zip(windows, predicted, strict=True):  # (T, E)
            try:
                targets, heard = self._around(window.start)
            except MediaError as error:
                self._trouble = f"the sound cannot be read: {error}"
                return
            cosine = (prediction * targets).sum(dim=-1).double().cpu().numpy()
            self._faces[window.face].add(window.start, cosine, heard.cpu().numpy())
            self._silent = self._silent and not bool(heard.any())

    def _around(self, start: int) -> tuple[Tensor, Tensor]:
        """What the teacher makes of the sound at each offset: unit vectors (offsets, T, E), heard (offsets, T)."""
        firsts = [start + offset for offset in OFFSETS]
        new = [first for first in firsts if first not in self._embedded]
        if new:
            sound = torch.from_numpy(np.stack([self._sound.frames(first, CLIP_FRAMES) for first in new]))
            self._embedded.update(zip(new, zip(*self._reader.targets(sound), strict=True), strict=True))
            for old in [first for first in self._embedded if first < start - KEPT]:
                del self._embedded[old]
        targets, heard = zip(*(self._embedded[first] for first in firsts), strict=True)
        return torch.stack(targets), torch.stack(heard)

    def found(self) -> Agreement:
        """What is known by now."""
        return replace(self._found(), generated=self._reader.generated)

    def _found(self) -> Agreement:
        """Of several faces, of the one that there is most reason to take for the speaker."""
        if self._trouble or not self._has_sound:
            return Agreement(None, None, reason=self._trouble or NO_SOUND)
        if not self._faces:
            return Agreement(None, None, reason=NO_FACE)
        judged = [(tally, peak) for tally in self._faces.values() if (peak := tally.peak())]
        if not judged:
            return Agreement(None, None, reason=SILENT if self._silent else BRIEF)
        tally, peak = max(judged, key=lambda one: one[1].score * one[0].frames)
        offsets, similarity = tally.curve()
        tried = tuple(offset * FRAME_MS for offset in offsets)
        return Agreement(peak.offset_ms, peak.score, tried, tuple(similarity.tolist()), tuple(tally.windows))


class Soundtrack:
    """The sound of a video by its frames, read as far as it is asked for; what lies long behind is forgotten."""

    def __init__(self, chunks: Iterator[np.ndarray]):
        self._chunks = chunks
        self._held = np.zeros(0, np.int16)
        self._begin = 0  # sample at which `_held` begins

    def frames(self, first: int, count: int) -> np.ndarray:
        """int16 (count * 640,) from that frame on; 0 where there is no sound, or none any more."""
        begin, end = first * SAMPLES_PER_FRAME, (first + count) * SAMPLES_PER_FRAME
        self._read_to(end)
        out = np.zeros(end - begin, np.int16)
        low, high = max(begin, self._begin), min(end, self._begin + len(self._held))
        if low < high:
            out[low - begin : high - begin] = self._held[low - self._begin : high - self._begin]
        return out

    def _read_to(self, end: int) -> None:
        pieces, reached = [self._held], self._begin + len(self._held)
        while reached < end and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            reached += len(chunk)
        if len(pieces) > 1:
            held = np.concatenate(pieces)
            old = max(0, end - KEPT * SAMPLES_PER_FRAME - self._begin)
            self._held, self._begin = held[old:].copy(), self._begin + min(old, len(held))
