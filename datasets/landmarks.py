"""Where the 68 facial landmarks of a picture come from: one small interface, three sources.

Coordinates are pixels of the shown picture: (x, y), the centre of the top left pixel is (0, 0). Landmarks are
float32 (68, 2) in the usual iBUG order.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from datasets.media import Frame, MediaError
from engine.errors import UserError

DETECTION_SIDE = 960  # faces are searched in pictures of this longer side; twice as large only where none is found
SMALLEST_FACE = 80  # pixels: what dlib's detector can see
# dlib's landmark model expects its own detector's square. Between detections the square is rebuilt from the last
# landmarks by these two ratios (means over talking heads), so that the fit does not jump at every detection.
SQUARE_PER_SPREAD = 2.89  # its side, over the landmarks' root mean square distance from their mean
SQUARE_CENTRE = np.array([-0.01, -0.032])  # its centre, relative to the landmarks' mean, in sides


class LandmarkSource(Protocol):
    """Everything that face tracking needs to know about a picture."""

    def find(self, frame: Frame) -> list[np.ndarray]:
        """Landmarks of every face in the picture; the expensive call."""

    def follow(self, frame: Frame, last: np.ndarray) -> np.ndarray | None:
        """Landmarks of the face that was at `last` a frame ago; may be wrong if it is gone. The cheap call."""

    def confirm(self, frame: Frame, near: np.ndarray) -> np.ndarray | None:
        """Landmarks of the face at `near` if there really is one."""


def landmark_source(name: str, video: Path) -> LandmarkSource:
    """`dlib` (ships in packages), `npy` (computed by others, beside the video) or `face-alignment` (an extra)."""
    if name == "npy":
        return PrecomputedLandmarks(video)
    if name in ("dlib", "face-alignment"):
        return _loaded_once(name)
    raise UserError(f"landmarks={name}: unknown; known are dlib, npy, face-alignment")


@functools.cache
def _loaded_once(name: str) -> LandmarkSource:
    """A second and 100 MB: the same for all videos of a process."""
    return DlibLandmarks() if name == "dlib" else FaceAlignmentLandmarks()


def bounds(landmarks: np.ndarray) -> np.ndarray:
    """(left, top, right, bottom) of (68, 2) landmarks."""
    return np.concatenate([landmarks.min(0), landmarks.max(0)])


def spread(landmarks: np.ndarray) -> float:
    """The face's size: root mean square distance of its landmarks from their mean."""
    return float(np.sqrt(np.square(landmarks - landmarks.mean(0)).sum(1).mean()))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of the two faces' bounding boxes."""
    (al, at, ar, ab), (bl, bt, br, bb) = bounds(a), bounds(b)
    shared = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - shared
    return shared / union if union > 0 else 0.0


def _best(found: Iterable[np.ndarray], near: np.ndarray) -> np.ndarray | None:
    best = max(found, key=lambda landmarks: overlap(landmarks, near), default=None)
    return best if best is not None and overlap(best, near) > 0.3 else None


class DlibLandmarks:
    """dlib's frontal face detector (HOG) and its 68-point regression trees, from files inside installed packages.

    The landmark model was trained on data that is licensed for research use only (docs/store.md).
    """

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()
        self._one_at_a_time = threading.Lock()  # it lets other threads run, and keeps its pyramid in itself
        self._rectangle = dlib.rectangle
        self._fit_in = dlib.shape_predictor(str(_packaged_model("shape_predictor_68_face_landmarks.dat")))

    def find(self, frame: Frame) -> list[np.ndarray]:
        height, width = frame.size
        scale = min(1.0, DETECTION_SIDE / max(height, width))
        squares = self._detect(frame.grey, scale)
        if not squares:  # small faces: half the size can be seen at twice the scale
            squares = self._detect(frame.grey, min(2 * scale, 2.0))
        return [self._fit(frame.grey, square) for square in squares]

    def follow(self, frame: Frame, last: np.ndarray) -> np.ndarray | None:
        return self._fit_square(frame.grey, _square_around(last))

    def confirm(self, frame: Frame, near: np.ndarray) -> np.ndarray | None:
        left, top, right, bottom = _square_around(near)
        side = right - left
        height, width = frame.size
        x0, y0 = max(0, int(left - side / 2)), max(0, int(top - side / 2))
        x1, y1 = min(width, int(right + side / 2)), min(height, int(bottom + side / 2))
        if x1 - x0 < 8 or y1 - y0 < 8:
            return None
        scale = float(np.clip(1.5 * SMALLEST_FACE / side, 0.05, 8.0))
        squares = self._detect(frame.grey[y0:y1, x0:x1], scale)
        return _best((self._fit(frame.grey, square + np.array((x0, y0, x0, y0))) for square in squares), near)

    def _detect(self, grey: np.ndarray, scale: float) -> list[np.ndarray]:
        height, width = grey.shape
        if scale != 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            # reducing_gap: halve cheaply first where the picture is more than twice too large
            grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        if min(grey.shape) < SMALLEST_FACE // 2:  # nothing to be seen, and dlib's pyramid needs some pixels
            return []
        with self._one_at_a_time:
            found = self._detector(np.ascontiguousarray(grey), 0)
        return [np.array([r.left(), r.top(), r.right(), r.bottom()], float) / scale for r in found]

    def _fit(self, grey: np.ndarray, square: np.ndarray) -> np.ndarray:
        """Twice: from the detector's coarse square, then from the square that following will use."""
        return self._fit_square(grey, _square_around(self._fit_square(grey, square)))

    def _fit_square(self, grey: np.ndarray, square: np.ndarray) -> np.ndarray:
        left, top, right, bottom = (round(float(value)) for value in square)
        points = self._fit_in(grey, self._rectangle(left, top, right, bottom)).parts()
        return np.array([(point.x, point.y) for point in points], np.float32)


def _square_around(landmarks: np.ndarray) -> np.ndarray:
    side = SQUARE_PER_SPREAD * max(spread(landmarks), 2.0)
    centre = landmarks.mean(0) + SQUARE_CENTRE * side
    return np.concatenate([centre - side / 2, centre + side / 2])


def _packaged_model(name: str) -> Path:
    # By path: the package's own import needs `pkg_resources`, which new setuptools no longer bring.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package face_recognition_models is missing: run `make setup`, or pip install it")
    return Path(next(iter(spec.submodule_search_locations))) / "models" / name


class PrecomputedLandmarks:
    """Landmarks that somebody else computed: NAME.npy beside NAME.mp4, float (source frames, 68, 2), NaN where there
    is no face; or a folder NAME/ with one (68, 2) file per source frame, named by its number, missing where no face.

    They count the file's own pictures, before any change of frame rate.
    """

    def __init__(self, video: Path) -> None:
        table, folder = video.with_suffix(".npy"), video.with_suffix("")
        if table.is_file():
            self._rows = self._checked(table, (-1, 68, 2))
        elif folder.is_dir():
            numbered = {int(re.findall(r"\d+", file.stem)[-1]): file
                        for file in folder.glob("*.npy") if re.search(r"\d", file.stem)}
            if not numbered or max(numbered) > 10_000_000:
                raise MediaError(f"no landmarks: {folder.name}/ holds no numbered .npy files")
            self._rows = np.full((max(numbered) + 1, 68, 2), np.nan, np.float32)
            for number, file in numbered.items():
                self._rows[number] = self._checked(file, (68, 2))
        else:
            raise MediaError(f"no landmarks: neither {table.name} nor {folder.name}/ beside the video")

    def find(self, frame: Frame) -> list[np.ndarray]:
        row = self._row(frame)
        return [] if row is None else [row]

    def follow(self, frame: Frame, last: np.ndarray) -> np.ndarray | None:
        return self._row(frame)

    def confirm(self, frame: Frame, near: np.ndarray) -> np.ndarray | None:
        return self._row(frame)

    def _row(self, frame: Frame) -> np.ndarray | None:
        if frame.source_index >= len(self._rows):
            return None
        row = self._rows[frame.source_index] * frame.shrink  # they were measured on the full picture
        return row if np.isfinite(row).all() else None

    @staticmethod
    def _checked(file: Path, shape: tuple[int, ...]) -> np.ndarray:
        try:
            rows = np.load(file, allow_pickle=False)  # a pickle would run whatever it likes
        except (ValueError, OSError, EOFError) as error:
            raise MediaError(f"no landmarks: {file.name} is not a plain .npy file") from error
        wanted = rows.ndim == len(shape) and rows.shape[-2:] == shape[-2:] and np.issubdtype(rows.dtype, np.number)
        if not wanted or np.iscomplexobj(rows):
            found = f"{rows.dtype} {rows.shape}"
            raise MediaError(f"no landmarks: {file.name} holds {found}, expected numbers (frames, 68, 2)")
        return rows.astype(np.float32)


class FaceAlignmentLandmarks:
    """The SFD detector and FAN landmarks of the original work; downloads its weights when first used."""

    def __init__(self) -> None:
        try:
            import face_alignment
        except ImportError as error:
            what = "landmarks=face-alignment needs an extra package: pip install 'crosstalk[face-alignment]'"
            raise UserError(what) from error
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = face_alignment.FaceAlignment(face_alignment.LandmarksType.TWO_D, device=device, flip_input=False)

    def find(self, frame: Frame) -> list[np.ndarray]:
        return self._fit(frame, None)

    def follow(self, frame: Frame, last: np.ndarray) -> np.ndarray | None:
        return _best(self._fit(frame, [_square_around(last)]), last)

    def confirm(self, frame: Frame, near: np.ndarray) -> np.ndarray | None:
        return _best(self.find(frame), near)

    def _fit(self, frame: Frame, squares: list[np.ndarray] | None) -> list[np.ndarray]:
        found = self._model.get_landmarks_from_image(frame.rgb(), detected_faces=squares) or []
        return [np.asarray(landmarks, np.float32)[:, :2] for landmarks in found]
