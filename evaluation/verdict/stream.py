"""One video file as it is read: its faces, followed and cut out as for a store, in windows of 25 crops.

What is held at a time is one window for each face in sight, whatever the video's length; of each face there remains
where it was (32 bytes a frame).
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.clips import CLIP_FRAMES
from datasets.faces import cut, place
from datasets.landmarks import landmark_source
from datasets.media import FRAME_RATE, Frame, MediaError, probe, read_frames
from datasets.tracks import SEARCH_EVERY, Aligned, FaceTrack, follow


@dataclass(frozen=True)
class FaceWindow:
    """25 consecutive crops of one face: what a detector looks at."""

    face: int  # its number in the stream, by which it stands in `FaceStream.faces`
    start: int  # first frame of the video
    crops: np.ndarray  # uint8 (25, 150, 150, 3)
    landmarks: np.ndarray  # float32 (25, 68, 2), smoothed, in pixels of the frames


class Face:
    """What is kept of one face, and its newest crops."""

    def __init__(self, track: FaceTrack):
        self.track = track
        self._crops: deque[np.ndarray] = deque(maxlen=CLIP_FRAMES)
        self._landmarks: deque[np.ndarray] = deque(maxlen=CLIP_FRAMES)
        self._places = array("d")
        self._inside = 0.0

    def add(self, seen: Aligned) -> None:
        origin, step = place(seen.landmarks)
        self._crops.append(cut(seen.frame.rgb(), origin, step))
        self._landmarks.append(seen.landmarks)
        self._places.extend((origin.real, origin.imag, step.real, step.imag))
        height, width = seen.frame.size
        x, y = seen.landmarks.T
        self._inside += float(((x >= 0) & (y >= 0) & (x < width) & (y < height)).mean())

    def window(self) -> FaceWindow:
        """The newest 25 crops."""
        start = self.track.start + self.track.frames - CLIP_FRAMES
        return FaceWindow(self.track.number, start, np.stack(self._crops), np.stack(self._landmarks))

    def end(self) -> None:
        self._crops.clear()
        self._landmarks.clear()

    @property
    def places(self) -> np.ndarray:
        """complex (frames, 2): `place` of each frame."""
        return np.array(self._places).view(complex).reshape(-1, 2)

    @property
    def inside(self) -> float:
        """Mean share of its landmarks that lie inside the picture."""
        return self._inside / max(self.track.frames, 1)


class FaceStream:
    """Iterate once: the windows of all faces, as soon as they are complete.

    A face's windows begin every `stride` frames; the last one is moved back to fit. Faces that are in sight for less
    than a window have none: how many there were and how long the longest was is counted. What ends the reading early,
    damage or `stop`, ends the faces as well, and what was in sight by then has its last windows.

    Raises `MediaError` when made of something that is no video.
    """

    def __init__(self, path: Path, *, stride: int = CLIP_FRAMES, limit: int | None = None,
                 search_every: int = SEARCH_EVERY, stop: Callable[[], bool] = lambda: False):  # fmt: skip
        self.path, self._stride, self._limit, self._search_every, self._stop = path, stride, limit, search_every, stop
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                raise MediaError("not a file" if path.exists() else "no such file")
            about = probe(path)
        except PermissionError as error:
            raise MediaError("no permission to read the file") from error
        self.has_sound = about.has_sound
        self.expected = None if about.seconds is None else round(about.seconds * FRAME_RATE)  # frames, says the file
        if limit is not None:
            self.expected = min(limit, self.expected or limit)
        self.frames = 0  # that were read
        self.size = (0, 0)  # (H, W) of the frames
        self.complete = True  # False: stopped
        self.damage: str | None = None  # why reading ended before the end
        self.faces: dict[int, Face] = {}  # that have a window or may still get one
        self.brief, self.longest_brief = 0, 0

    def __iter__(self) -> Iterator[FaceWindow]:
        for track, seen in follow(self._read(), landmark_source("dlib", self.path), search_every=self._search_every):
            face = self.faces.get(track.number)
            if face is None:
                face = self.faces[track.number] = Face(track)
            beyond = track.frames - CLIP_FRAMES  # frames after the first window
            if seen is not None:
                face.add(seen)
                if beyond >= 0 and beyond % self._stride == 0:
                    yield face.window()
                continue
            if beyond > 0 and beyond % self._stride:
                yield face.window()
            face.end()
            if beyond < 0:
                del self.faces[track.number]
                self.brief, self.longest_brief = self.brief + 1, max(self.longest_brief, track.frames)

    def _read(self) -> Iterator[Frame]:
        try:
            for frame in read_frames(self.path, limit=self._limit):
                if self._stop():
                    self.complete = False
                    return
                self.frames, self.size = frame.index + 1, frame.size
                yield frame
        except MediaError as error:
            self.damage = str(error)
