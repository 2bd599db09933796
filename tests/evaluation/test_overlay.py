"""What is drawn on a video lies where its face is, when it is there; pictures, their number and the sound stay."""

import numpy as np
import pytest

from datasets.media import Writer, read_frames, read_sound
from engine.calibration import Calibration
from engine.errors import UserError
from evaluation.verdict import overlay
from evaluation.verdict.drawing import with_box, with_heat
from evaluation.verdict.judge import Settings, judge
from evaluation.verdict.judgement import Window
from evaluation.verdict.replay import replay
from tests.evaluation.judgements import judgement, person
from tests.evaluation.small import small_detector


def spot(u: int, v: int, reach: int = 4) -> np.ndarray:
    """Heat about one place of the crop, 9 pixels wide."""
    heat = np.zeros((25, 150, 150), np.float32)
    heat[:, v - reach : v + reach + 1, u - reach : u + reach + 1] = 1.0
    return heat


@pytest.mark.parametrize(("origin", "step"), [(20 + 30j, 0.5 + 0j), (150 + 20j, 0.9j), (-30 - 20j, 1.3 * np.exp(0.4j))])
def test_heat_lies_where_the_crop_was_cut(origin, step):
    """The hot place of crop pixel u is the picture's origin + step * u, and nowhere else anything changes."""
    grey = np.full((240, 260, 3), 128, np.uint8)
    changed = np.abs(with_heat(grey, spot(90, 60)[0], origin, step).astype(int) - 128).sum(-1)
    rows, columns = np.nonzero(changed)
    expected = origin + step * (90 + 60j)
    assert columns.mean() == pytest.approx(expected.real, abs=0.5)
    assert rows.mean() == pytest.approx(expected.imag, abs=0.5)
    assert 0.6 < len(rows) / (81 * abs(step) ** 2) < 2.2, "81 crop pixels, and the rim that is smoothed"


def test_heat_of_a_face_beyond_the_picture_changes_nothing():
    grey = np.full((40, 40, 3), 128, np.uint8)
    assert (with_heat(grey, spot(75, 75)[0], 500 + 500j, 1 + 0j) == 128).all()
    assert (with_heat(grey, np.zeros((150, 150)), 0j, 0.2 + 0j) == 128).all(), "no heat, no change"


def test_a_box_is_the_crops_outline():
    drawn = with_box(np.zeros((200, 200, 3), np.uint8), 30 + 40j, 0.5 + 0j, "", (255, 0, 0))
    rows, columns = np.nonzero(drawn[..., 0])
    assert (columns.min(), columns.max()) == pytest.approx((30, 30 + 149 / 2), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((40, 40 + 149 / 2), abs=2)
    assert not drawn[45:110, 35:100].any()
    named = with_box(np.zeros((200, 200, 3), np.uint8), 30 + 1j, 0.5 + 0j, "person 1", (255, 0, 0))
    assert named[78:90, 30:70].any(), "no room above: below"


@pytest.fixture(scope="module")
def grey_video(tmp_path_factory):
    """Four seconds of grey, 97 x 81 pixels, with a click in the left ear at 1 s and in the right one at 3 s."""
    path = tmp_path_factory.mktemp("grey") / "a.mkv"
    sound = np.zeros((4 * 44_100, 2), np.int16)
    sound[44_100 : 44_100 + 300, 0] = sound[3 * 44_100 : 3 * 44_100 + 300, 1] = 20_000
    with Writer(path, 81, 97, codec="ffv1", pixels="yuv444p", sound="stereo", sound_rate=44_100,
                sound_codec="pcm_s16le") as writer:  # fmt: skip
        for _ in range(100):
            writer.show(np.full((81, 97, 3), 128, np.uint8))
        writer.play(sound)
    return path


def hot_columns(path, rows: slice, columns: slice) -> list[float | None]:
    """The column of each frame's strongest red, within a part of the picture."""
    found = []
    for frame in read_frames(path):
        red = frame.rgb()[rows, columns].astype(int)
        red = red[..., 0] - red[..., 2]
        found.append(float(np.nonzero(red > 60)[1].mean()) if (red > 60).sum() > 3 else None)
    return found


def test_each_frame_has_the_heat_of_the_window_that_it_is_in_the_middle_of(grey_video, tmp_path):
    """Windows at 10, 20 and 60. The k-th window's heat lies in column 30 + 40 k of the crop, a sixth of that drawn."""
    places = np.tile([10 + 20j, 0.4 + 0j], (80, 1))
    windows = tuple(Window(start, 1.0) for start in (10, 20, 60))
    found = judgement(grey_video, (person(start=10, frames=80, windows=windows, places=places, verdict="cannot tell"),),
                      frames=100, width=97, height=81)  # fmt: skip
    calls = iter((30, 70, 110))
    told = []
    notes = overlay.write(tmp_path / "o.mp4", found, Calibration(), lambda crops: spot(next(calls), 75, 15),
                          lambda done, total: told.append((done, total)))  # fmt: skip
    assert notes == () and told[-1] == (100, 100) and [path.name for path in tmp_path.iterdir()] == ["o.mp4"]
    columns = hot_columns(tmp_path / "o.mp4", slice(40, 60), slice(12, 68))
    assert len(columns) == 100
    # Frames 20 to 34 lie in two windows, whose middles are 22 and 32: 27 is as near to both and stays with the first.
    for frames, crop_column in ((range(10, 28), 30), (range(28, 45), 70), (range(60, 85), 110)):
        for frame in frames:
            assert columns[frame] == pytest.approx(0.4 * crop_column - 2, abs=1.5), frame
    assert {columns[frame] for frame in (*range(10), *range(45, 60), *range(85, 100))} == {None}


def test_the_sound_stays_in_both_ears(grey_video, tmp_path):
    overlay.write(tmp_path / "o.mp4", judgement(grey_video, (), frames=100, width=97, height=81), None, None)
    heard = np.concatenate(list(read_sound(tmp_path / "o.mp4", 48_000, "stereo")))
    assert len(heard) == pytest.approx(4 * 48_000, abs=2048)
    for ear, second in ((0, 1), (1, 3)):
        assert np.abs(heard[:, ear].astype(int)).argmax() / 48_000 == pytest.approx(second, abs=0.01)
    first = next(read_frames(tmp_path / "o.mp4"))
    assert first.size == (82, 98) and np.abs(first.rgb().astype(int) - 128).max() < 6, "even sizes; nothing else drawn"


def test_colours_are_claims(grey_video, tmp_path):
    def edge(**values) -> np.ndarray:
        who = person(logits=(2.0,), places=np.tile([20 + 20j, 0.3 + 0j], (25, 1)), **values)
        found = judgement(grey_video, (who,), frames=25, width=97, height=81, has_sound=False)
        overlay.write(tmp_path / "c.mp4", found, Calibration(), lambda crops: np.zeros((25, 150, 150), np.float32))
        return next(read_frames(tmp_path / "c.mp4")).rgb()[62:67, 30:50].mean((0, 1))

    forged, real, unknown = edge(), edge(windows=(Window(0, -2.0),)), edge(familiar=False)
    assert forged[0] - forged[2] > 30 and real[2] - real[0] > 30 and abs(unknown[0] - unknown[2]) < 15


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(grey_video, tmp_path):
    found = judgement(grey_video, (), frames=100, width=97, height=81)
    with pytest.raises(UserError, match="no such file or folder"):
        overlay.write(tmp_path / "none" / "o.mp4", found, None, None)

    def stopped(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlay.write(tmp_path / "o.mp4", found, None, None, stopped)
    assert list(tmp_path.iterdir()) == []


def test_the_second_reading_sees_what_the_detector_saw(corpus, tmp_path):
    """Bit by bit, windows that overlap included."""
    from evaluation.detector import Detector

    video = sorted((corpus / "faceforensics" / "original_sequences" / "youtube" / "c23" / "videos").glob("*.mp4"))[0]
    detector = Detector.load(small_detector(tmp_path / "bundle"))
    seen = {}
    found = judge(detector, video, Settings(stride=10),
                  seen=lambda window, judged: seen.__setitem__(window.start, window.crops))  # fmt: skip
    assert len(found.people) == 1 and len(seen) == len(found.people[0].windows) >= 2
    wanted = sorted(seen)[1:]
    again = {}
    for _, ended in replay(found, lambda person, window: window.start in wanted):
        again |= {shown.window.start: shown.crops for shown in ended}
    assert sorted(again) == wanted and all(np.array_equal(again[start], seen[start]) for start in wanted)
