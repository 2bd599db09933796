"""Windows by hand, what a selection keeps and reports, and that the frames asked for are the frames read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.stores import Track, entry, write_store
from datasets.clips import ClipDataset, uniform_windows
from datasets.store import Store, Table
from engine.errors import UserError


@pytest.mark.parametrize(("frames", "starts"), [
    (0, []),
    (24, []),  # too short: the caller reports it
    (25, [0]),
    (26, [0, 1]),
    (49, [0, 24]),
    (50, [0, 25]),
    (51, [0, 25, 26]),
    (110, [0, 25, 50, 75, 85]),  # FaceForensics++'s 110 frames
    (125, [0, 25, 50, 75, 100]),
    (270, [0, 25, 50, 75, 100, 125, 150, 175, 200, 225, 245]),
])  # fmt: skip
def test_uniform_windows(frames, starts):
    assert uniform_windows(frames) == starts


def test_uniform_windows_of_another_length():
    assert uniform_windows(10, length=4) == [0, 4, 6]


# ------------------------------------------------------------------------------------------------ selection

def index_only(*lines: dict, root: str = "somewhere") -> Store:
    """A store whose index is known and whose files are not needed."""
    entries = [entry(**{"id": f"v{k:02d}", "frames": 40, "sound": True} | line) for k, line in enumerate(lines)]
    return Store(Path(root), {}, Table(entries))


REAL, DEEP, SWAP = {}, {"method": "Deepfakes", "label": 1}, {"method": "FaceSwap", "label": 1}
UNKNOWN = {"method": "unknown", "label": None}


def mixed() -> Store:
    return index_only(REAL, REAL | {"split": "val"}, DEEP, DEEP | {"split": "val"}, SWAP, UNKNOWN)


@pytest.mark.parametrize(("filters", "ids"), [
    ({}, "v00 v01 v02 v03 v04 v05"),
    ({"split": "train"}, "v00 v02 v04 v05"),
    ({"split": "val"}, "v01 v03"),
    ({"labels": (0,)}, "v00 v01"),
    ({"labels": (0, 1)}, "v00 v01 v02 v03 v04"),
    ({"methods": ("Deepfakes",)}, "v00 v01 v02 v03 v05"),  # reals and unlabelled ones are not touched
    ({"methods": ("Deepfakes",), "labels": (1,)}, "v02 v03"),
    ({"leave_out": ("Deepfakes",)}, "v00 v01 v04 v05"),
    ({"leave_out": ("FaceSwap",), "split": "train", "labels": (0, 1)}, "v00 v02"),
])  # fmt: skip
def test_filters(filters, ids):
    assert ClipDataset(mixed(), **filters).ids.tolist() == ids.split()


def test_limits_count_from_the_videos_first_frame():
    data = ClipDataset(index_only(
        {"frames": 300},
        {"frames": 300, "limit": 110},
        {"frames": 300, "limit": 110, "start": 30},  # the track begins at frame 30: 80 frames are left
        {"frames": 60, "limit": 110, "start": 30},
        {"frames": 300, "limit": 110, "start": 86},  # 24 are left
        {"frames": 300, "limit": 110, "start": 200},
    ))  # fmt: skip
    assert data.ids.tolist() == ["v00", "v01", "v02", "v03"]
    assert data.usable.tolist() == [300, 110, 80, 60]
    assert data.excluded["fewer than 25 frames"].tolist() == ["v04", "v05"]


def test_what_gives_no_clip_is_named():
    data = ClipDataset(index_only({"frames": 24}, {"frames": 25}, {"sound": False}, {"frames": 9, "split": "val"}),
                       split="train", sound=True)  # fmt: skip
    assert data.ids.tolist() == ["v01"]
    assert {reason: ids.tolist() for reason, ids in data.excluded.items()} == {
        "fewer than 25 frames": ["v00"], "no sound": ["v02"]}  # fmt: skip
    assert data.summary() == "1 tracks (real 1); excluded 1 with fewer than 25 frames; excluded 1 with no sound"
    assert ClipDataset(index_only({"sound": False})).excluded == {}  # sound was not asked for


def test_several_stores_are_one_dataset():
    first = index_only(REAL | {"id": "a", "word": "ABOUT"}, SWAP | {"id": "b"}, root="one")
    second = index_only({"id": "c", "word": "YOUNG", "dataset": "lrw"}, DEEP | {"id": "d"}, root="two")
    data = ClipDataset([first, second])
    assert data.ids.tolist() == ["a", "b", "c", "d"]
    assert [data.method_names[code] for code in data.method] == ["real", "FaceSwap", "real", "Deepfakes"]
    assert [data.dataset_names[code] for code in data.dataset] == ["small", "small", "lrw", "small"]
    assert data.word_names == ["ABOUT", "YOUNG"] and data.word.tolist() == [0, -1, 1, -1]
    assert data.label.tolist() == [0, 1, 0, 1]


def test_words_are_numbered_from_zero_where_all_have_one():
    data = ClipDataset(index_only({"word": "YOUNG"}, {"word": "ABOUT"}))
    assert data.word_names == ["ABOUT", "YOUNG"] and data.word.tolist() == [1, 0]


def test_fingerprint_tells_selections_apart():
    assert ClipDataset(mixed()).fingerprint() == ClipDataset(mixed()).fingerprint()
    assert ClipDataset(mixed()).fingerprint() != ClipDataset(mixed(), leave_out=("FaceSwap",)).fingerprint()
    longer = index_only({"frames": 41})
    assert ClipDataset(index_only({})).fingerprint() != ClipDataset(longer).fingerprint()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ClipDataset(mixed(), split="test"),
     "no clips with split=test in the store somewhere; it has splits train 4, val 2; "
     "methods Deepfakes 2, FaceSwap 1, real 2, unknown 1"),
    (lambda: ClipDataset(mixed(), leave_out=("Deepfake",)),
     "no forgeries of method 'Deepfake' in the store somewhere; there are: Deepfakes, FaceSwap"),
    (lambda: ClipDataset(mixed(), methods=("real",)),
     "no forgeries of method 'real' in the store somewhere; there are: Deepfakes, FaceSwap"),
    (lambda: ClipDataset(index_only({"frames": 3}, {"sound": False}), sound=True),
     "no clips with no filter and with sound in the store somewhere; 1 that match have fewer than 25 frames; "
     "1 that match have no sound; it has splits train 2; methods real 2"),
    (lambda: ClipDataset([index_only({}, root="one"), index_only({}, root="two")]),
     "1 ids come more than once in the stores one and two: 'v00', ..."),
])  # fmt: skip
def test_errors_are_one_line_that_says_what_there_is(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == message


# -------------------------------------------------------------------------------------------------- reading

def numbered_tracks(count: int, frames: int, *, sound: bool) -> list[Track]:
    """Red tells the track, green the frame; each sound sample tells the frame that it belongs to."""
    tracks = []
    for number in range(count):
        crops = np.zeros((frames, 150, 150, 3), np.uint8)
        crops[..., 0], crops[..., 1] = 10 * number, 4 * np.arange(frames)[:, None, None]
        wave = np.repeat(np.arange(frames) + 100 * number, 640).astype(np.int16) if sound else None
        tracks.append(Track(crops, wave))
    return tracks


@pytest.mark.parametrize("quality", [None, 95])
def test_the_windows_asked_for_are_read(tmp_path, quality):
    store = write_store(tmp_path / "store", numbered_tracks(3, 30, sound=True), jpeg_quality=quality)
    frames, sound = ClipDataset(store, sound=True).__getitems__([(2, 5), (0, 0), (1, 3)])
    assert frames.shape == (3, 25, 150, 150, 3) and frames.dtype == torch.uint8
    assert sound.shape == (3, 16_000) and sound.dtype == torch.int16
    for b, (track, start) in enumerate([(2, 5), (0, 0), (1, 3)]):
        steps = torch.arange(start, start + 25)
        tolerance = 0 if quality is None else 3
        assert (frames[b, ..., 0].int() - 10 * track).abs().max() <= tolerance
        assert (frames[b, ..., 1].int() - 4 * steps[:, None, None]).abs().max() <= tolerance
        assert torch.equal(sound[b].long(), (steps + 100 * track).repeat_interleave(640))


def test_sound_is_read_only_where_it_is_asked_for(tmp_path):
    store = write_store(tmp_path / "store", numbered_tracks(1, 25, sound=True))
    assert ClipDataset(store).__getitems__([(0, 0)])[1] is None


def test_tracks_of_a_second_store_come_from_its_files(tmp_path):
    first = write_store(tmp_path / "one", numbered_tracks(1, 25, sound=False))
    tracks = numbered_tracks(3, 25, sound=False)
    for number, track in enumerate(tracks):
        track.about = {"id": f"other/{number}"}
    both = ClipDataset([first, write_store(tmp_path / "two", tracks)])
    frames, _ = both.__getitems__([(3, 0), (0, 0), (2, 0)])
    assert frames[:, 0, 0, 0, 0].tolist() == [20, 0, 10]
