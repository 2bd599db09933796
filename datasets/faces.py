"""From frames to face crops: follow every face, smooth, align to a reference face, cut out.

All of it streams: what is held at a time are the frames between two searches for faces and half a smoothing window,
whatever the video's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from datasets.landmarks import LandmarkSource, bounds, overlap, spread
from datasets.media import Frame

CROP = 150
SMOOTHING_FRAMES = 12
CUT = 35.0  # mean change of grey between two frames, of 255, that is no movement any more

# The reference face, 256x256: eye centres (102, 94) and (156, 94), nose tip (128, 128), mouth centre (129, 158), outer
# eye corners 74 px apart. Those anchors fix the eyes; 28 and 33 lie on the nose and 48 and 54 on the mouth in the
# proportions of the mean over talking heads once their eyes, nose tip and mouth are on the anchors.
STABLE_POINTS = {
    28: (128.5, 104.0), 33: (128.5, 139.0),  # bridge and base of the nose
    36: (92.0, 94.5), 39: (112.5, 94.5), 42: (145.5, 94.5), 45: (166.0, 94.5),  # corners of the eyes
    48: (107.0, 158.0), 54: (151.0, 158.0),  # corners of the mouth
}
_STABLE = list(STABLE_POINTS)
_REFERENCE = np.array(list(STABLE_POINTS.values()))


# ---------------------------------------------------------------------------------------------- following faces

@dataclass(frozen=True)
class Sighting:
    """A face in a frame. `landmarks` is None once, at the end of its track."""

    track: int
    frame: Frame | None
    landmarks: np.ndarray | None  # (68, 2)


@dataclass
class _Track:
    number: int
    last: np.ndarray  # newest landmarks
    known: np.ndarray  # landmarks where a search last confirmed the face
    known_at: int
    missed: bool = False  # a search since then did not see it
    pending: list[tuple[Frame, np.ndarray | None]] = field(default_factory=list)  # since then


def track_faces(
    frames: Iterable[Frame], source: LandmarkSource, *, search_every: int = 10, longest_gap: int = 12
) -> Iterator[Sighting]:
    """Every face in every frame, one number per person and unbroken run, each track's sightings in order of time.

    Faces are searched in every `search_every`-th frame and followed in between; what was followed counts only once the
    next search confirms it, so a track never runs on over a wall. A face that searches miss for at most `longest_gap`
    frames is bridged. A new face is followed back to where it came in. A cut ends all tracks.
    """
    tracker = _Tracker(source, longest_gap)
    previous = None
    for frame in frames:
        thumbnail = frame.grey[::8, ::8].astype(np.int16)
        cut = previous is not None and (thumbnail.shape != previous.shape or np.abs(thumbnail - previous).mean() > CUT)
        previous = thumbnail
        if cut:
            yield from tracker.end()
        tracker.add(frame)
        if cut or frame.index % search_every == 0:
            yield from tracker.search()
    yield from tracker.end()


class _Tracker:
    def __init__(self, source: LandmarkSource, longest_gap: int):
        self._source, self._longest_gap = source, longest_gap
        self._tracks: list[_Track] = []
        self._recent: list[Frame] = []  # since the last search
        self._count = 0

    def add(self, frame: Frame) -> None:
        self._recent.append(frame)
        for track in self._tracks:
            landmarks = self._source.follow(frame, track.last)
            track.pending.append((frame, landmarks))
            track.last = track.last if landmarks is None else landmarks

    def search(self) -> Iterator[Sighting]:
        if not self._recent:
            return
        frame = self._recent[-1]
        found = self._source.find(frame)
        taken: list[np.ndarray] = []
        for track in sorted(self._tracks, key=lambda t: -max((overlap(f, t.last) for f in found), default=0.0)):
            free = [f for f in found if not _among(f, taken)]
            seen = max(free, key=lambda f: overlap(f, track.last), default=None)
            if seen is None or overlap(seen, track.last) <= 0.3:
                seen = self._source.confirm(frame, track.last)  # looks closer than the search over the whole picture
                if seen is not None and _among(seen, taken):
                    seen = None
            if seen is not None:
                taken.append(seen)
                yield from _confirmed(track, frame, seen)
            elif frame.index - track.known_at > self._longest_gap:
                yield from self._trimmed(track)
                self._tracks.remove(track)
            else:
                track.missed = True
        for face in found:
            if not _among(face, taken):
                taken.append(face)
                yield from self._begin(frame, face)
        self._recent.clear()

    def end(self) -> Iterator[Sighting]:
        """A last search, then every track ends where its face was last really seen."""
        yield from self.search()
        for track in self._tracks:
            yield from self._trimmed(track)
        self._tracks.clear()

    def _begin(self, frame: Frame, face: np.ndarray) -> Iterator[Sighting]:
        number, self._count = self._count, self._count + 1
        earlier: list[tuple[Frame, np.ndarray]] = []
        at = face
        for past in reversed(self._recent[:-1]):
            found = self._source.confirm(past, at)
            if found is None or _among(found, [t.last for t in self._tracks]):
                break
            at = found
            earlier.append((past, at))
        for past, landmarks in reversed(earlier):
            yield Sighting(number, past, landmarks)
        yield Sighting(number, frame, face)
        self._tracks.append(_Track(number, last=face, known=face, known_at=frame.index))

    def _trimmed(self, track: _Track) -> Iterator[Sighting]:
        """The part of what was followed in which the face can still be confirmed, frame by frame; then the end."""
        at = track.known
        for frame, _ in track.pending:
            found = self._source.confirm(frame, at)
            if found is None:
                break
            at = found
            yield Sighting(track.number, frame, at)
        yield Sighting(track.number, None, None)


def _among(face: np.ndarray, others: list[np.ndarray]) -> bool:
    return any(overlap(face, other) > 0.3 for other in others)


def _confirmed(track: _Track, frame: Frame, seen: np.ndarray) -> Iterator[Sighting]:
    """The pending frames, now known to be good; inside a gap, fits that left the straight line are put back on it."""
    steps = frame.index - track.known_at
    for past, landmarks in track.pending[:-1]:
        line = track.known + (seen - track.known) * np.float32((past.index - track.known_at) / steps)
        strayed = track.missed and landmarks is not None and np.abs(landmarks - line).mean() > 0.1 * spread(line)
        yield Sighting(track.number, past, line if landmarks is None or strayed else landmarks)
    yield Sighting(track.number, frame, seen)
    track.last = track.known = seen
    track.known_at, track.missed, track.pending = frame.index, False, []


# ---------------------------------------------------------------------------------------------- alignment

def similarity(source: np.ndarray, target: np.ndarray) -> tuple[complex, complex]:
    """The least-squares similarity z -> a z + b (points as complex numbers x + iy) from (n, 2) to (n, 2) points.

    With points as complex numbers a rotation with scale is one factor, and the closed form is a plain regression.
    """
    z, w = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    centred = z - z.mean()
    power = np.square(np.abs(centred)).sum()
    if power == 0:
        raise ValueError("points that all coincide have no similarity transform")
    a = (centred.conj() * (w - w.mean())).sum() / power
    return complex(a), complex(w.mean() - a * z.mean())


def align(landmarks: np.ndarray) -> tuple[complex, complex]:
    """The transform of a picture that lays a face with these (68, 2) landmarks over the reference face."""
    return similarity(landmarks[_STABLE].astype(np.float64), _REFERENCE)


def transformed(landmarks: np.ndarray, a: complex, b: complex) -> np.ndarray:
    """(n, 2) points under z -> a z + b."""
    w = a * (landmarks[:, 0] + 1j * landmarks[:, 1]) + b
    return np.stack([w.real, w.imag], axis=1)


def place(landmarks: np.ndarray) -> tuple[complex, complex]:
    """Where the aligned crop of smoothed (68, 2) landmarks lies in its picture: (origin, step).

    Crop pixel u = x + iy shows picture point origin + step * u.
    """
    a, b = align(landmarks)
    centre = transformed(landmarks[15:], a, b).mean(0)
    corner = complex(*(centre - (CROP - 1) / 2))  # reference coordinates of the crop's first pixel
    return (corner - b) / a, 1 / a


def crop(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) and smoothed (68, 2) landmarks to the aligned uint8 (150, 150, 3) crop."""
    return cut(picture, *place(landmarks))


def cut(picture: np.ndarray, origin: complex, back: complex) -> np.ndarray:
    """The uint8 (150, 150, 3) crop of a uint8 (H, W, 3) picture that `place` names.

    One resampling, at sub-pixel position: cutting whole pixels out of an aligned picture would let the crop hop by one.
    """
    corners = [origin + back * complex(x, y) for x in (0, CROP - 1) for y in (0, CROP - 1)]
    height, width = picture.shape[:2]
    left = max(0, int(min(z.real for z in corners)) - 4)
    top = max(0, int(min(z.imag for z in corners)) - 4)
    right = min(width, int(max(z.real for z in corners)) + 5)
    bottom = min(height, int(max(z.imag for z in corners)) + 5)
    if right <= left or bottom <= top:
        return np.zeros((CROP, CROP, 3), np.uint8)
    part = Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
    origin -= complex(left, top)
    factor = max(1, int(abs(back)))  # large faces: average blocks first, or bilinear sampling would alias
    if factor > 1:
        part = part.reduce(factor)
        origin = (origin - (factor - 1) / 2 * (1 + 1j)) / factor  # of pixel centres
        back /= factor
    # Pillow counts from pixel corners: shift by half a pixel on both sides.
    origin += 0.5 * (1 + 1j) - back * 0.5 * (1 + 1j)
    coefficients = (back.real, -back.imag, origin.real, back.imag, back.real, origin.imag)
    return np.asarray(part.transform((CROP, CROP), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


class Smoother:
    """Landmarks averaged over 12 frames about each frame: the eleven nearest whole, the two beyond by half, so that the
    window is symmetric and adds no lag. Near the ends of a track, what there is of the window.
    """

    _REACH = SMOOTHING_FRAMES // 2

    def __init__(self) -> None:
        self._window: deque[tuple[Frame, np.ndarray]] = deque()
        self._next = 0  # place in the window of the next frame to give out

    def add(self, frame: Frame, landmarks: np.ndarray) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
        """Frames that are ready now: (frame, its own landmarks, smoothed landmarks)."""
        self._window.append((frame, landmarks))
        if len(self._window) > self._next + self._REACH:
            yield self._give()

    def rest(self) -> Iterator[tuple[Frame, np.ndarray, np.ndarray]]:
        while self._next < len(self._window):
            yield self._give()

    def _give(self) -> tuple[Frame, np.ndarray, np.ndarray]:
        distance = np.abs(np.arange(len(self._window)) - self._next)
        weights = np.where(distance < self._REACH, 1.0, np.where(distance == self._REACH, 0.5, 0.0))
        smoothed = np.average([landmarks for _, landmarks in self._window], axis=0, weights=weights)
        frame, own = self._window[self._next]
        if self._next < self._REACH:
            self._next += 1
        else:
            self._window.popleft()
        return frame, own, smoothed.astype(np.float32)


class Jitter:
    """Mean frame-to-frame displacement of aligned landmarks, in crop pixels: as fitted, and after smoothing."""

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._sums, self._count = np.zeros(2), 0

    def add(self, own: np.ndarray, smoothed: np.ndarray) -> None:
        now = transformed(own, *align(own)), transformed(smoothed, *align(smoothed))
        if self._last is not None:
            self._sums += [np.linalg.norm(new - old, axis=1).mean() for new, old in zip(now, self._last, strict=True)]
            self._count += 1
        self._last = now

    @property
    def before_and_after(self) -> tuple[float, float]:
        before, after = self._sums / max(self._count, 1)
        return round(float(before), 4), round(float(after), 4)


def face_side(landmarks: np.ndarray) -> float:
    """Pixels: the geometric mean of the sides of the landmarks' bounding box."""
    left, top, right, bottom = bounds(landmarks)
    return float(np.sqrt(max(right - left, 0) * max(bottom - top, 0)))
