"""Faces followed through a video, smoothed and weighed: what `prepare` writes and `detect` judges at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datasets.faces import Smoother, face_side, track_faces
from datasets.landmarks import LandmarkSource
from datasets.media import Frame

SEARCH_EVERY, LONGEST_GAP = 10, 12  # frames; what `prepare` takes unless told otherwise


@dataclass(frozen=True)
class Aligned:
    """A face in a frame, ready to be cut out."""

    frame: Frame
    own: np.ndarray  # (68, 2) as fitted in this frame
    landmarks: np.ndarray  # (68, 2) smoothed


class FaceTrack:
    """One face from where it comes in to where it is lost. It grows while its video is read."""

    def __init__(self, number: int, start: int):
        self.number, self.start = number, start
        self.frames = 0  # that were handed out
        self._side_sum = 0.0
        self._smoother = Smoother()

    def add(self, frame: Frame, landmarks: np.ndarray) -> Iterator[Aligned]:
        """Faces that are ready now: smoothing looks some frames ahead."""
        yield from self._ready(self._smoother.add(frame, landmarks))

    def end(self) -> Iterator[Aligned]:
        yield from self._ready(self._smoother.rest())

    def _ready(self, smoothed: Iterable[tuple[Frame, np.ndarray, np.ndarray]]) -> Iterator[Aligned]:
        for frame, own, landmarks in smoothed:
            self._side_sum += face_side(own)
            self.frames += 1
            yield Aligned(frame, own, landmarks)

    @property
    def side(self) -> float:
        """Mean side of the face in pixels of the frames."""
        return self._side_sum / max(self.frames, 1)

    @property
    def rank(self) -> tuple[float, int, int]:
        """Sorts the longest and largest first: frames times the face's mean side."""
        return -self._side_sum, self.start, self.number


def follow(
    frames: Iterable[Frame], source: LandmarkSource, *, search_every: int = SEARCH_EVERY, longest_gap: int = LONGEST_GAP
) -> Iterator[tuple[FaceTrack, Aligned | None]]:
    """Every face of every frame with its track, each track's in order of time; None once, at the end of its track."""
    tracks: dict[int, FaceTrack] = {}
    for sighting in track_faces(frames, source, search_every=search_every, longest_gap=longest_gap):
        if sighting.frame is None or sighting.landmarks is None:  # both or neither
            track = tracks.pop(sighting.track)
            yield from ((track, face) for face in track.end())
            yield track, None
            continue
        if sighting.track not in tracks:
            tracks[sighting.track] = FaceTrack(sighting.track, sighting.frame.index)
        track = tracks[sighting.track]
        yield from ((track, face) for face in track.add(sighting.frame, sighting.landmarks))
