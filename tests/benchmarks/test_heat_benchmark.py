"""The share of heat inside a forged region: arithmetic by hand, and that the region lies where pixels were forged."""

import json

import numpy as np
import pytest

from benchmarks.heat import Shares, beyond, first_window, inside, mean, pairs, region
from datasets.faces import cut, place
from datasets.media import read_frames
from engine.errors import UserError
from evaluation.verdict.stream import FaceWindow


def test_inside_by_hand():
    heat, where = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    heat[0] = [[3, 1], [0, 4]]
    where[0] = [[1, 0.5], [1, 0]]
    where[1] = 1
    assert inside(heat, where) == pytest.approx((3 + 0.5) / 8)
    assert inside(np.zeros((2, 2, 2)), where) is None, "of an empty map there is no share"


def test_a_region_is_where_the_picture_has_it():
    """Masks that grow evenly to the right and downwards, in a wide picture, seen by a face that is turned a little."""
    width, height, start = 320, 192, 7
    masks = np.zeros((start + 2, 64, 64), np.uint8)
    masks[start], masks[start + 1] = 4 * np.arange(64), 4 * np.arange(64)[:, None]
    face = np.random.default_rng(0).normal((150, 100), 30, (68, 2))
    window = FaceWindow(0, start, np.zeros((2, 150, 150, 3), np.uint8), np.stack([face, face]))
    found = region(masks, window, (height, width))
    origin, step = place(face)
    checked = 0
    for x, y in ((40, 40), (75, 75), (110, 60), (60, 120)):
        point = origin + step * complex(x, y)
        for frame, at, side in ((0, point.real, width), (1, point.imag, height)):
            if 8 < at < side - 8:
                expected = 4 * ((at + 0.5) * 64 / side - 0.5) / 255
                assert found[frame, y, x] == pytest.approx(expected, abs=0.012)
                checked += 1
    assert checked >= 6 and found.shape == (2, 150, 150)


def test_the_region_lies_where_the_forgery_differs_from_the_video_it_was_made_from(corpus):
    root = corpus / "faceforensics"
    path = min((root / "masks" / "FaceSwap").glob("*.npz"))
    target = path.stem.split("_")[0]
    found = first_window(root / f"manipulated_sequences/FaceSwap/c23/videos/{path.stem}.mp4")
    assert found is not None
    window, size = found
    real = [frame.rgb() for frame in read_frames(root / f"original_sequences/youtube/c23/videos/{target}.mp4")]
    before = np.stack([cut(real[window.start + k], *place(face)) for k, face in enumerate(window.landmarks)])
    change = np.abs(before.astype(float) - window.crops).mean(axis=-1)
    where = region(np.load(path)["mask"], window, size)
    assert change[where > 0.9].mean() > 2.5 * change[where < 0.01].mean() > 0


def test_both_of_a_pair_are_forged(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test.json").write_text(json.dumps([["000", "003"], ["007", "001"]]))
    assert pairs(tmp_path, "test") == [("000", "003"), ("007", "001"), ("003", "000"), ("001", "007")]
    with pytest.raises(UserError, match=r"val\.json is missing"):
        pairs(tmp_path, "val")


def test_beyond_is_a_difference_of_means_without_empty_maps():
    rows = [Shares("FaceSwap", "000", 0.4, 0.4, 0.9, 0.6, None), Shares("FaceSwap", "001", 0.4, 0.5, 0.7, None, 0.1),
            Shares("FaceSwap", "002", 0.4, 0.1, None, 0.3, 0.2), Shares("FaceSwap", "003", 0.4, 0.3, 0.5, 0.5, 0.3)]
    assert beyond(rows, "random").value == pytest.approx((0.9 + 0.7 + 0.5) / 3 - (0.4 + 0.5 + 0.3) / 3)
    found = beyond(rows, "real")
    assert found.value == pytest.approx((0.9 + 0.5) / 2 - (0.6 + 0.5) / 2) and found.low <= found.value <= found.high
    assert mean([row.grad_cam for row in rows]) == pytest.approx(0.2) and np.isnan(mean([None]))
