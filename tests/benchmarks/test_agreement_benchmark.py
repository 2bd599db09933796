"""The material is what it is said to be: sound moved by exactly that much, and counted as found only where it is."""

import numpy as np
import pytest

from benchmarks.agreement import Found, moved, summary, with_sound
from datasets.media import encode, read_frames, read_sound

SAMPLES_PER_MS = 16


def test_moved_samples():
    sound = np.arange(1, 16_001, dtype=np.int16)
    assert np.array_equal(moved(sound, 400), [0] * 6400 + [*range(1, 9601)])
    assert np.array_equal(moved(sound, -400), [*range(6401, 16_001)] + [0] * 6400)
    assert np.array_equal(moved(sound, 0), sound)


@pytest.mark.parametrize("late", [-80, 0, 400])
def test_in_the_written_file_the_sound_is_late_by_that_much_and_the_pictures_are_the_same(tmp_path, late):
    rng = np.random.default_rng(0)
    sound = (3000 * rng.normal(size=48_000)).astype(np.int16)
    encode(tmp_path / "a.mp4", rng.integers(0, 256, (75, 64, 64, 3), np.uint8), sound=sound)
    path = with_sound(tmp_path / "a.mp4", moved(sound, late), tmp_path / "b.mp4")
    heard = np.concatenate(list(read_sound(path)))[: len(sound)]
    lags = np.arange(-500, 501) * SAMPLES_PER_MS
    middle = slice(10_000, 38_000)
    likeness = [float(np.dot(np.roll(sound, lag)[middle].astype(float), heard[middle])) for lag in lags]
    assert lags[int(np.argmax(likeness))] == late * SAMPLES_PER_MS
    both = zip(read_frames(tmp_path / "a.mp4"), read_frames(path), strict=True)
    assert all(np.array_equal(one.rgb(), other.rgb()) for one, other in both)


def test_a_summary_by_hand():
    def found(person, late, offset, score):
        return Found(person, 30, late, offset, score)

    rows = [found("a", 80, 100.0, 0.9), found("a", -80, 30.0, 0.2), found("b", 80, 41.0, 0.8),
            found("b", -80, None, None), found("a", None, 0.0, 0.1), found("b", None, 80.0, 0.3)]  # fmt: skip
    one = summary(rows)
    # |100 - 80| = 20 and |41 - 80| = 39 are within 40 ms, |30 + 80| = 110 is not, and nothing told is not found.
    assert one["files"] == 4 and one["told"] == 3 and one["within_40_ms"][0] == 0.5
    assert one["mean_error_ms"] == pytest.approx((20 + 39 + 110) / 3) and one["median_error_ms"] == 39
    # Of six pairs of an own and a foreign score the own one is higher in five: 0.2 is above 0.1 and below 0.3.
    assert one["auc"][0] == pytest.approx(5 / 6)
    assert one["within_40_ms_by_shift"][80] == 1 and one["within_40_ms_by_shift"][-80] == 0
