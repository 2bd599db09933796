"""Faces are followed while they are there and no longer; crops lie where the reference face says, and lie still."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.faces import (
    CROP,
    STABLE_POINTS,
    Jitter,
    Smoother,
    align,
    crop,
    place,
    similarity,
    track_faces,
    transformed,
)
from datasets.landmarks import DlibLandmarks, PrecomputedLandmarks, bounds, landmark_source, overlap, spread
from datasets.media import MediaError, encode, read_frames
from engine.errors import UserError
from tests.grid_clips import CLIPS, needs_clips

RNG = np.random.default_rng(7)
SHAPE = np.random.default_rng(3).uniform(-40, 40, (68, 2)).astype(np.float32)  # any 68 points are a face to the tracker


def face_at(x: float, y: float, size: float = 1.0) -> np.ndarray:
    return (SHAPE * size + (x, y)).astype(np.float32)


@dataclass
class Seen:
    """A frame of a scripted video: what the tracker asks of a real one."""

    index: int
    scene: int = 0

    @property
    def grey(self) -> np.ndarray:
        return np.full((90, 160), 60 + 100 * (self.scene % 2), np.uint8)


@dataclass
class Script:
    """A landmark source that knows where everybody is, and can be made blind."""

    people: list[dict[int, np.ndarray]]  # per person: frame index -> landmarks
    blind: set[int] = field(default_factory=set)  # frames in which neither searching nor looking closely sees anyone
    noise: dict[int, float] = field(default_factory=dict)  # frames in which following goes astray, by so many pixels
    searches: list[int] = field(default_factory=list)

    def find(self, frame):
        self.searches.append(frame.index)
        if frame.index in self.blind:
            return []
        return [person[frame.index] for person in self.people if frame.index in person]

    def follow(self, frame, last):
        """Like a regression: always answers. On a wall it answers with what it was given."""
        near = [p[frame.index] for p in self.people if frame.index in p and overlap(p[frame.index], last) > 0.2]
        answer = max(near, key=lambda face: overlap(face, last), default=last)
        return answer + np.float32(self.noise.get(frame.index, 0))

    def confirm(self, frame, near):
        if frame.index in self.blind:
            return None
        found = [p[frame.index] for p in self.people if frame.index in p and overlap(p[frame.index], near) > 0.3]
        return max(found, key=lambda face: overlap(face, near), default=None)


def tracks(script: Script, frames: int, scenes=None, **settings) -> list[tuple[int, int, list[np.ndarray]]]:
    """(first frame, last frame, landmarks) of every track; checks that each is unbroken and ends exactly once."""
    open_tracks, ended = {}, []
    for sighting in track_faces([Seen(k, scenes[k] if scenes else 0) for k in range(frames)], script, **settings):
        if sighting.frame is None:
            ended.append(open_tracks.pop(sighting.track))
        else:
            open_tracks.setdefault(sighting.track, []).append((sighting.frame.index, sighting.landmarks))
    assert not open_tracks
    for track in ended:
        assert [index for index, _ in track] == list(range(track[0][0], track[-1][0] + 1))
    result = [(track[0][0], track[-1][0], [landmarks for _, landmarks in track]) for track in ended]
    return sorted(result, key=lambda track: track[:2])


def spans(*arguments, **settings) -> list[tuple[int, int]]:
    return [(first, last) for first, last, _ in tracks(*arguments, **settings)]


def walk(first: int, last: int, x: float = 80, step: float = 0.5) -> dict[int, np.ndarray]:
    return {k: face_at(x + step * k, 60) for k in range(first, last + 1)}


def test_one_face_all_the_time_is_one_track_with_its_own_landmarks():
    person = walk(0, 46)
    [(first, last, landmarks)] = tracks(Script([person]), 47)
    assert (first, last) == (0, 46)
    assert all(np.array_equal(landmarks[k], person[k]) for k in range(47))


def test_faces_are_searched_only_now_and_then():
    script = Script([walk(0, 99)])
    tracks(script, 100, search_every=10)
    assert script.searches == [*range(0, 100, 10), 99]


@pytest.mark.parametrize(("first", "last"), [(0, 33), (4, 46), (17, 38), (40, 46)])
def test_a_track_begins_and_ends_where_the_face_does(first, last):
    """Also between two searches; the regression never says that it is looking at a wall."""
    assert spans(Script([walk(first, last)]), 47) == [(first, last)]


def test_a_face_between_two_searches_is_overlooked():
    """The price of searching in every tenth frame only: nothing shorter than that could be used anyway."""
    assert spans(Script([walk(11, 19)]), 47) == []
    assert spans(Script([walk(11, 19)]), 47, search_every=5) == [(11, 19)]


def test_two_people_are_two_tracks():
    assert spans(Script([walk(0, 46, x=80), walk(0, 46, x=400)]), 47) == [(0, 46), (0, 46)]


def test_people_who_meet_are_not_one_face_twice():
    """Somebody walks into another's place and stays behind him: his track ends, it does not double the other's."""
    standing = {k: face_at(300, 60) for k in range(61)}
    walking = {k: face_at(100 + 6 * k, 60) for k in range(25)}
    result = spans(Script([standing, walking]), 61)
    assert len(result) == 2 and (0, 60) in result and min(last for _, last in result) < 36


def test_a_short_gap_is_bridged_on_the_straight_line():
    """The search at 20 misses, and in frames 15..20 following went astray by 30 px: those lie on the line."""
    person = walk(0, 40)
    script = Script([person], blind={20}, noise=dict.fromkeys(range(15, 21), 30.0))
    [(first, last, landmarks)] = tracks(script, 41)
    assert (first, last) == (0, 40)
    assert max(np.abs(landmarks[k] - person[k]).max() for k in range(41)) < 1e-3


def test_a_long_gap_ends_the_track_and_a_new_one_begins():
    person = {k: v for k, v in walk(0, 80).items() if not 22 <= k <= 57}
    assert spans(Script([person], blind=set(range(22, 58))), 81) == [(0, 21), (58, 80)]


def test_a_cut_ends_all_tracks_at_the_cut():
    """The same place, another scene: without looking at the picture nobody could tell."""
    assert spans(Script([walk(0, 46)]), 47, scenes=[0] * 23 + [1] * 24) == [(0, 22), (23, 46)]


def test_no_face_no_track():
    assert spans(Script([{}]), 47) == []


# ---------------------------------------------------------------------------------------------- alignment

def test_similarity_is_the_least_squares_one():
    source, target = RNG.normal(size=(8, 2)) * 20, RNG.normal(size=(8, 2)) * 20
    a, b = similarity(source, target)
    # Independent: the linear system in (scale cos, scale sin, tx, ty).
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        right += [u, v]
    solved, *_ = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)
    np.testing.assert_allclose([a.real, a.imag, b.real, b.imag], solved, atol=1e-9)


def test_the_reference_face_is_the_published_one():
    points = {k: np.array(v) for k, v in STABLE_POINTS.items()}
    np.testing.assert_allclose((points[36] + points[39]) / 2, (102, 94), atol=0.6)  # centres of the eyes
    np.testing.assert_allclose((points[42] + points[45]) / 2, (156, 94), atol=0.6)
    np.testing.assert_allclose((points[48] + points[54]) / 2, (129, 158), atol=0.6)  # of the mouth
    assert points[45][0] - points[36][0] == 74
    assert points[28][1] < 128 < points[33][1]  # the tip of the nose lies between the two


def random_face(scale: float, angle: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """68 reference landmarks (stable ones exact) and the same seen by a camera."""
    reference = np.random.default_rng(5).uniform(80, 180, (68, 2))
    reference[list(STABLE_POINTS)] = list(STABLE_POINTS.values())
    return reference, transformed(reference, scale * np.exp(1j * angle), complex(*shift))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.37, 2.6, 5.0])
@pytest.mark.parametrize("angle", [0.0, 0.4, -0.9])
def test_crop_shows_the_right_place(scale, angle):
    """Against an analytic picture: colours are smooth functions of the place, so every crop pixel has a known value."""
    reference, seen = random_face(scale, angle, (300.3, 180.7))
    a, b = align(seen)
    np.testing.assert_allclose(transformed(seen, a, b), reference, atol=1e-6)
    corners = transformed(np.array([[0.0, 0], [0, 255], [255, 0], [255, 255]]), 1 / a, -b / a)
    offset = 20 - corners.min(0)  # somewhere inside a picture that is large enough
    seen = seen + offset
    height, width = (corners.max(0) + offset + 20).astype(int)[::-1]
    y, x = np.mgrid[:height, :width].astype(float)

    def colours(x, y):
        wave = 24.0 * scale
        return 120 + 100 * np.stack([np.sin(x / wave), np.cos(y / wave), np.sin((x + y) / wave)], -1)

    picture = np.round(colours(x, y)).astype(np.uint8)
    result = crop(picture, seen.astype(np.float32))
    assert result.shape == (CROP, CROP, 3) and result.dtype == np.uint8
    corner = reference[15:].mean(0) - (CROP - 1) / 2
    v, u = np.mgrid[:CROP, :CROP]
    places = np.stack([u + corner[0], v + corner[1]], -1).reshape(-1, 2)
    back = transformed(places, scale * np.exp(1j * angle), complex(300.3, 180.7) + complex(*offset))
    expected = colours(back[:, 0], back[:, 1]).reshape(CROP, CROP, 3)
    assert np.abs(result - expected).max() < 4  # rounding twice, and averaging blocks of a curve
    assert np.abs(result.astype(float) - expected).mean() < 1.0
    origin, step = place(seen)
    np.testing.assert_allclose(origin + step * (u + 1j * v).ravel(), back[:, 0] + 1j * back[:, 1], atol=1e-6)


def test_crop_moves_by_parts_of_a_pixel():
    _, seen = random_face(1.0, 0.0, (60.0, 40.0))
    x = np.mgrid[:360, :400][1].astype(float)
    picture = np.repeat((np.round(128 + 100 * np.sin(x / 9)).astype(np.uint8))[..., None], 3, -1)
    still = crop(picture, seen.astype(np.float32)).astype(float)
    moved = crop(picture, (seen + np.array((0.25, 0))).astype(np.float32)).astype(float)
    a_whole_pixel = np.abs(still[:, 1:] - still[:, :-1]).mean()
    assert np.abs(moved - still).mean() == pytest.approx(a_whole_pixel / 4, rel=0.15)


def test_crop_beyond_the_picture_is_black():
    _, seen = random_face(1.0, 0.0, (-120.0, 0.0))
    result = crop(np.full((256, 120, 3), 200, np.uint8), seen.astype(np.float32))
    assert result[:, :20].max() == 0 and (result == 200).any()
    assert crop(np.full((50, 50, 3), 200, np.uint8), (seen + 4000).astype(np.float32)).max() == 0


def smoothed(values: list[float]) -> list[float]:
    smoother, out = Smoother(), []
    for k, value in enumerate(values):
        out += smoother.add(k, np.full((68, 2), value, np.float32))
    out += smoother.rest()
    assert [k for k, _, _ in out] == list(range(len(values)))
    assert [own[0, 0] for _, own, _ in out] == values
    return [float(mean[0, 0]) for _, _, mean in out]


def test_smoothing_by_hand():
    impulse = smoothed([0.0] * 20 + [12.0] + [0.0] * 20)
    assert impulse[13:28] == pytest.approx([0, 0.5] + [1.0] * 11 + [0.5, 0])  # twelve frames
    line = smoothed([float(k) for k in range(40)])
    assert line[6:34] == pytest.approx([float(k) for k in range(6, 34)])  # no lag
    assert line[0] == pytest.approx((1 + 2 + 3 + 4 + 5 + 3) / 6.5)
    assert smoothed([3.0]) == [3.0]


def test_jitter_measures_noise_and_smoothing_removes_it():
    reference, _ = random_face(1, 0, (0, 0))
    rng, smoother, jitter = np.random.default_rng(0), Smoother(), Jitter()
    noise = 0.8
    for k in range(400):
        for _, own, mean in smoother.add(k, reference + rng.normal(0, noise, (68, 2))):
            jitter.add(own, mean)
    before, after = jitter.before_and_after
    # The difference of two noisy points is Rayleigh distributed with sigma = noise * sqrt 2; fitting eight of them adds
    # some noise of its own to all.
    rayleigh = noise * np.sqrt(2) * np.sqrt(np.pi / 2)
    assert rayleigh < before < 1.2 * rayleigh
    assert after < before / 8


# ---------------------------------------------------------------------------------------------- sources

def video(path: Path, frames: int = 40, rate: int = 25) -> Path:
    encode(path, (np.full((64, 64, 3), 90, np.uint8) for _ in range(frames)), rate=rate)
    return path


def test_precomputed_landmarks_follow_the_files_own_pictures(tmp_path):
    path = video(tmp_path / "a.mp4", frames=60, rate=50)
    rows = np.stack([face_at(30 + k, 30) for k in range(60)])
    np.save(tmp_path / "a.npy", rows)
    [track] = _landmarks_of(path)
    assert [row[0, 0] for row in track] == [rows[frame.source_index][0, 0] for frame in read_frames(path)]
    assert len(track) == 30


def _landmarks_of(path: Path) -> list[list[np.ndarray]]:
    tracks_found: dict[int, list] = {}
    for sighting in track_faces(read_frames(path), PrecomputedLandmarks(path)):
        if sighting.frame is not None:
            tracks_found.setdefault(sighting.track, []).append(sighting.landmarks)
    return list(tracks_found.values())


def test_precomputed_landmarks_with_gaps_and_as_a_folder(tmp_path):
    path = video(tmp_path / "a.mp4", frames=80)
    rows = np.stack([face_at(30 + k / 4, 30) for k in range(80)])
    gaps = rows.copy()
    gaps[13:16] = np.nan  # bridged
    gaps[33:60] = np.nan  # too long
    np.save(tmp_path / "a.npy", gaps)
    first, second = _landmarks_of(path)
    assert len(first) == 33 and len(second) == 20
    np.testing.assert_allclose(first[14], rows[14], atol=1e-3)
    (tmp_path / "a.npy").unlink()
    (tmp_path / "a").mkdir()
    for k in (*range(33), *range(60, 80)):
        np.save(tmp_path / "a" / f"{k:05d}.npy", rows[k])
    assert [len(track) for track in _landmarks_of(path)] == [33, 20]


def test_precomputed_landmarks_that_are_wrong(tmp_path):
    path = video(tmp_path / "a.mp4", frames=5)
    with pytest.raises(MediaError, match=r"neither a\.npy nor a/"):
        PrecomputedLandmarks(path)
    np.save(tmp_path / "a.npy", np.zeros((5, 51, 2)))
    with pytest.raises(MediaError, match=r"expected numbers \(frames, 68, 2\)"):
        PrecomputedLandmarks(path)
    np.save(tmp_path / "a.npy", np.array([{"code": "anything"}], dtype=object), allow_pickle=True)
    with pytest.raises(MediaError, match=r"not a plain \.npy"):
        PrecomputedLandmarks(path)


def test_sources_by_name(monkeypatch):
    with pytest.raises(UserError, match="known are dlib, npy, face-alignment"):
        landmark_source("dlip", Path("a.mp4"))
    monkeypatch.setitem(__import__("sys").modules, "face_alignment", None)
    with pytest.raises(UserError, match=r"pip install 'crosstalk\[face-alignment\]'"):
        landmark_source("face-alignment", Path("a.mp4"))


class FakeFaceAlignment:
    """What the adapter uses of the package, with its shapes: lists of (68, 2) or (68, 3), None where nobody is."""

    class LandmarksType:
        TWO_D = 1

    class FaceAlignment:
        def __init__(self, kind, device, flip_input):
            self.arguments = kind, device, flip_input

        def get_landmarks_from_image(self, picture, detected_faces=None):
            assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3)
            if detected_faces is None:
                return [np.hstack([face_at(30, 30), np.ones((68, 1))]), face_at(300, 30).astype(np.float64)]
            [(left, top, right, bottom)] = detected_faces
            return [face_at((left + right) / 2, (top + bottom) / 2)] if left < 200 else None


def test_the_face_alignment_adapter(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "face_alignment", FakeFaceAlignment)
    source = landmark_source("face-alignment", Path("a.mp4"))
    frame = next(iter(read_frames(video(tmp_path / "a.mp4", frames=1))))
    first, second = source.find(frame)
    assert first.shape == second.shape == (68, 2) and first.dtype == np.float32
    assert np.array_equal(first, face_at(30, 30))
    assert np.array_equal(source.confirm(frame, face_at(304, 33)), second)
    assert source.confirm(frame, face_at(900, 0)) is None
    followed = source.follow(frame, face_at(32, 31))
    assert np.abs(followed.mean(0) - face_at(32, 31).mean(0)).max() < 4
    assert source.follow(frame, face_at(400, 30)) is None


# ---------------------------------------------------------------------------------------------- real faces

@needs_clips
@pytest.mark.parametrize("clip", CLIPS[:3], ids=lambda clip: clip.stem)
def test_real_faces_in_every_frame_and_no_jitter(clip):
    source, smoother, jitter, crops = DlibLandmarks(), Smoother(), Jitter(), []
    for sighting in track_faces(read_frames(clip), source):
        assert sighting.track == 0
        ready = smoother.rest() if sighting.frame is None else smoother.add(sighting.frame, sighting.landmarks)
        for frame, own, mean in ready:
            jitter.add(own, mean)
            crops.append(crop(frame.rgb(), mean))
    assert len(crops) == 75
    before, after = jitter.before_and_after
    assert after < 0.2 < before
    # Found again in the crops, the eyes lie where the reference has them, relative to the crop's place.
    eyes = []
    for picture in crops[::10]:
        enlarged = np.asarray(Image.fromarray(picture).convert("L").resize((300, 300)))
        [square] = source._detect(enlarged, 1.0)
        landmarks = source._fit(enlarged, square) / 2
        eyes.append([landmarks[36:42].mean(0), landmarks[42:48].mean(0)])
    distance = np.array(eyes)[:, 1] - np.array(eyes)[:, 0]
    np.testing.assert_allclose(distance.mean(0), (54, 0), atol=4)  # people differ from the reference face


@needs_clips
def test_small_faces_and_two_faces_in_one_picture():
    big = next(iter(read_frames(CLIPS[0]))).rgb()
    other = next(iter(read_frames(CLIPS[5]))).rgb()
    canvas = np.full((720, 1280, 3), 128, np.uint8)
    canvas[100 : 100 + 288, 100 : 100 + 360] = big
    small = np.asarray(Image.fromarray(other).resize((300, 240)))
    canvas[300:540, 800:1100] = small

    class Picture:
        size = canvas.shape[:2]
        grey = np.ascontiguousarray(canvas.mean(-1).astype(np.uint8))

    faces = DlibLandmarks().find(Picture())
    assert len(faces) == 2
    sizes = sorted(spread(face) for face in faces)
    assert 1.05 < sizes[1] / sizes[0] < 1.6
    assert {bool(bounds(face)[0] > 640) for face in faces} == {True, False}
