"""Each perturbation against a calculation of its own kind, and stores of the clean one's crops, but worse."""

import json
import shutil
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datasets.faces import Smoother, crop, track_faces
from datasets.inspection import main as inspect_main
from datasets.landmarks import DlibLandmarks
from datasets.media import read_frames
from datasets.perturbations import PARAMETERS, SEVERITIES, perturbed
from datasets.prepare import main as prepare_main
from datasets.store import Store, read_index
from engine.errors import UserError
from tests.conftest import prepared


def one(frame: np.ndarray, name: str, severity: int, **keys: object) -> np.ndarray:
    [out] = perturbed([frame], name, severity, **{"video": "v"} | keys)
    assert out.dtype == np.uint8 and out.shape == frame.shape
    return out


def flat(*colour: int, size: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (size, size, 3)).copy()


def noisy(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------- frame by frame

def test_saturation_of_one_pixel_by_hand():
    """Y = 124.2, Cb = 0.564 (50 - Y) = -41.85, Cr = 0.713 (200 - Y) = 54.05; of the two, 0.4 are left."""
    red, green, blue = 124.2 + 1.403 * 21.617, 124.2 + 0.344 * 16.741 - 0.714 * 21.617, 124.2 - 1.773 * 16.741
    assert [int(value) for value in (red, green, blue)] == [154, 114, 94]
    assert (one(flat(200, 100, 50), "saturation", 1) == [154, 114, 94]).all()
    assert (one(flat(200, 100, 50), "saturation", 5) == [124, 124, 124]).all()
    assert (one(flat(100, 100, 100), "saturation", 3) == [99, 100, 99]).all()  # the published code's trace of green
    assert (one(flat(0, 0, 0), "saturation", 5) == 0).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_of_every_value(severity):
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    thousandths = (850, 725, 600, 475, 350)[severity - 1]
    assert (one(every, "contrast", severity)[..., 1].ravel() == [v * thousandths // 1000 for v in range(256)]).all()


@pytest.mark.parametrize(("height", "width", "unit"), [(300, 400, 1), (600, 520, 2), (720, 1280, 2), (100, 120, 1)])
def test_blocks_are_grey_squares_in_the_published_number(height, width, unit):
    black, room = np.zeros((height, width, 3), np.uint8), (height - 8) * (width - 8)
    for severity, count in enumerate((16, 32, 48, 64, 80), 1):
        count *= unit
        covered = []
        for frame in perturbed([black] * 8, "block", severity, video="v"):
            mask = frame.any(axis=2)
            assert set(np.unique(frame)) == {0, 128} and (frame[mask] == 128).all()
            assert (ndimage.binary_opening(mask, np.ones((8, 8))) == mask).all()  # made of whole squares
            assert not mask[-1].any() and not mask[:, -1].any()
            covered.append(int(mask.sum()))
        assert max(covered) <= 64 * count
        # A pixel is covered from 64 of all places, unless none of the blocks lies there.
        assert np.mean(covered) == pytest.approx(room * (1 - (1 - 64 / room) ** count), rel=0.03)


def test_blocks_lie_elsewhere_in_every_frame_and_everywhere():
    black = np.zeros((40, 40, 3), np.uint8)
    frames = list(perturbed([black] * 400, "block", 1, video="v"))
    assert len({frame.tobytes() for frame in frames}) == 400
    seen = np.mean([frame[..., 0] > 0 for frame in frames], axis=0)
    assert (seen[:39, :39] > 0).all()
    inside = seen[7:32, 7:32]  # where all 64 places are there
    assert np.abs(inside - (1 - (1 - 64 / 32**2) ** 16)).max() < 0.12


def test_blocks_of_a_lower_severity_are_among_those_of_a_higher():
    black = np.zeros((300, 300, 3), np.uint8)
    masks = [one(black, "block", severity)[..., 0] > 0 for severity in SEVERITIES]
    assert all((more | less == more).all() for less, more in pairwise(masks))


@pytest.mark.parametrize(("severity", "variance"), [(1, 0.001), (2, 0.002), (3, 0.005)])
def test_noise_is_white_and_has_the_published_covariance(severity, variance):
    """Up to severity 3 hardly a value of a middle grey is cut off at 0 or 255."""
    first, second = (f.astype(float) - 128 for f in perturbed([flat(128, 128, 128, size=512)] * 2, "noise", severity,
                                                              video="v"))
    y, c = variance * (255 * 255 / 219) ** 2, variance * (255 * 255 / 224) ** 2
    expected = np.array([[y + 1.403**2 * c, y - 1.403 * 0.714 * c, y],
                         [y - 1.403 * 0.714 * c, y + (0.714**2 + 0.344**2) * c, y - 1.773 * 0.344 * c],
                         [y, y - 1.773 * 0.344 * c, y + 1.773**2 * c]])
    measured = np.cov(first.reshape(-1, 3).T)
    assert np.abs(measured - expected).max() < 0.015 * expected.max()
    assert np.abs(first.mean((0, 1)) + 0.5).max() < 0.3  # rounded down
    spread = first.var((0, 1))
    for other in (np.roll(first, 1, 0), np.roll(first, 1, 1), second):  # neighbours and the next frame know nothing
        assert np.abs((first * other).mean((0, 1)) / spread).max() < 0.01


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_a_direct_convolution_with_mirrored_edges(severity):
    side = (7, 9, 13, 17, 21)[severity - 1]
    frame, reach = noisy(24, 30), side // 2
    kernel = np.array([[np.exp(-(x * x + y * y) / (2 * (side / 6) ** 2)) for x in range(-reach, reach + 1)]
                       for y in range(-reach, reach + 1)])
    kernel /= kernel.sum()
    mirrored = np.pad(frame.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = np.array([[(mirrored[i : i + side, j : j + side] * kernel[..., None]).sum((0, 1)) for j in range(30)]
                         for i in range(24)])
    assert np.abs(one(frame, "blur", severity) - expected).max() < 0.501


def test_pixelation_by_an_odd_factor_keeps_the_middle_of_each_block():
    frame = noisy(24, 30)
    for severity, factor in ((2, 3), (4, 5)):
        out = one(frame[: 24 // factor * factor], "pixelation", severity)
        middle = slice(factor // 2, None, factor)
        assert (out[middle, middle] == frame[: 24 // factor * factor][middle, middle]).all()
        assert (out[0, 0] == frame[factor // 2, factor // 2]).all()  # beyond the outermost middles: as they are
    # Between two middles it runs in a straight line.
    out = one(frame, "pixelation", 2).astype(float)
    assert np.abs(out[1, 2] - (2 * out[1, 1] + out[1, 4]) / 3).max() <= 0.5


def test_pixelation_by_an_even_factor_averages_the_four_in_the_middle():
    frame = noisy(24, 32)
    for severity, factor in ((1, 2), (3, 4)):
        low, high = factor // 2 - 1, factor // 2
        small = sum(frame[i::factor, j::factor].astype(float) for i in (low, high) for j in (low, high)) / 4
        out = one(frame, "pixelation", severity)
        assert np.abs(out[0, 0] - small[0, 0]).max() <= 0.5
        near, far = 1 - 0.5 / factor, 0.5 / factor  # the pixel beside a block's middle, and the next block
        expected = (near * near * small[1, 1] + near * far * (small[1, 2] + small[2, 1]) + far * far * small[2, 2])
        assert np.abs(out[factor + high, factor + high] - expected).max() <= 1.0
    assert (one(flat(9, 80, 200), "pixelation", 5) == [9, 80, 200]).all()


# ---------------------------------------------------------------------------------------------- all of them

def moving(count: int, height: int, width: int) -> list[np.ndarray]:
    """Smooth coloured waves that wander, and a little texture."""
    y, x = np.mgrid[:height, :width]
    texture = np.random.default_rng(1).integers(-8, 9, (height, width, 3))
    return [(128 + 90 * np.sin(np.stack([x / 9 + k / 3, y / 7 - k / 4, (x + y) / 11 + k / 5], 2)) + texture)
            .astype(np.uint8) for k in range(count)]


@pytest.mark.parametrize("name", PARAMETERS)
def test_higher_severities_are_further_from_the_clean_frame(name):
    frames = moving(12, 144, 176)
    clean = np.stack(frames).astype(int)
    distances = [np.abs(np.stack(list(perturbed(frames, name, severity, video="v"))) - clean).mean()
                 for severity in SEVERITIES]
    assert distances[0] > 0 and all(a < b for a, b in pairwise(distances)), distances


@pytest.mark.parametrize("name", PARAMETERS)
def test_frames_are_not_written_to_and_come_out_the_same_again(name):
    frames = moving(5, 40, 50)
    kept = [frame.copy() for frame in frames]
    first, second = (np.stack(list(perturbed(iter(frames), name, 4, video="v"))) for _ in range(2))
    assert (first == second).all() and all((a == b).all() for a, b in zip(frames, kept, strict=True))


@pytest.mark.parametrize("name", ["block", "noise"])
def test_chance_hangs_on_video_frame_and_seed(name):
    grey = flat(90, 90, 90, size=64)
    frames = [next(perturbed([grey], name, 2, video=video, seed=seed)) for video in ("v", "w") for seed in (0, 1)]
    frames += list(perturbed([grey] * 3, name, 2, video="v"))[1:]
    assert len({frame.tobytes() for frame in frames}) == 6


@pytest.mark.parametrize(("name", "severity", "said"), [
    ("blurr", 3, r"perturb=blurr: no such perturbation \(did you mean blur\?\); known are saturation, contrast, block"),
    ("blur", 0, "severity=0: from 1 to 5"),
    ("blur", 6, "severity=6: from 1 to 5"),
    ("blur", None, "perturb=blur needs a severity: from 1 to 5"),
    (None, 3, "severity=3 is of no use without perturb=NAME, one of saturation"),
])
def test_what_is_unknown_is_one_line(name, severity, said):
    given = [f"{key}={value}" for key, value in (("perturb", name), ("severity", severity)) if value is not None]
    with pytest.raises(UserError, match=said) as caught:
        prepare_main(["data=folder", "root=/nowhere", "store=/nowhere/store", *given])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- compression

def numbered(count: int, height: int, width: int) -> list[np.ndarray]:
    """Each frame shows its number: eight stripes, black or white."""
    stripes = np.arange(width) * 8 // width
    return [np.broadcast_to(((k >> stripes) % 2 * 219 + 18).astype(np.uint8)[None, :, None], (height, width, 3)).copy()
            for k in range(count)]


def number(frame: np.ndarray) -> int:
    width = frame.shape[1]
    middles = [frame[:, (2 * bit + 1) * width // 16].mean() for bit in range(8)]
    return sum((value > 128) << bit for bit, value in enumerate(middles))


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize(("height", "width"), [(48, 128), (33, 131)])
@pytest.mark.parametrize("count", [1, 2, 25, 110])
def test_compression_keeps_number_order_and_size(count, height, width, severity):
    out = list(perturbed(numbered(count, height, width), "compression", severity, video="v"))
    assert [number(frame) for frame in out] == list(range(count))
    assert {frame.shape for frame in out} == {(height, width, 3)}


def test_compression_of_tiny_frames_and_of_a_video_that_changes_its_size():
    frames = [*moving(3, 1, 1), *moving(30, 31, 64), *moving(2, 64, 31)]
    out = list(perturbed(frames, "compression", 3, video="v"))
    assert [frame.shape for frame in out] == [frame.shape for frame in frames]
    assert list(perturbed([], "compression", 3, video="v")) == []


def test_compression_neither_darkens_nor_tints():
    """Of frames of one colour x264 loses nothing: what is off is the conversion, there and back."""
    colours = [np.full((3, 33, 35, 3), colour, np.uint8) for colour in product((30, 90, 150, 220), repeat=3)]
    errors = [np.stack(list(perturbed(colour, "compression", 1, video="v"))).astype(float) - colour
              for colour in colours]
    assert np.abs(np.mean(errors, (0, 1, 2, 3))).max() < 0.2  # the quick conversion: 1.2
    assert np.abs(errors).max() <= 1


def test_compression_spares_odd_edges():
    frames = moving(10, 97, 131)
    error = np.stack(list(perturbed(frames, "compression", 1, video="v"))).astype(float) - np.stack(frames)
    assert np.abs(error[:, -1]).mean() < 2 * np.abs(error).mean()  # a black or green border would be far off
    assert np.abs(error[:, :, -1]).mean() < 2 * np.abs(error).mean()


@pytest.mark.parametrize(("height", "width"), [(144, 176), (97, 131)])
def test_compression_gives_the_same_picture_every_time(height, width):
    """These sizes did not, with x264's AVX-512."""
    frames = moving(10, height, width)
    assert len({np.stack(list(perturbed(frames, "compression", 1, video="v"))).tobytes() for _ in range(8)}) == 1


def test_compression_holds_a_bounded_number_of_frames():
    taken = 0

    def source():
        nonlocal taken
        for frame in moving(8, 32, 48) * 40:
            taken += 1
            yield frame

    ahead = [taken - given for given, _ in enumerate(perturbed(source(), "compression", 2, video="v"))]
    assert len(ahead) == 320 and max(ahead) < 60


# ---------------------------------------------------------------------------------------------- prepare

@pytest.fixture(scope="module")
def talking(corpus, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("talking")
    for k, video in enumerate(sorted((corpus / "lrw").rglob("*.mp4"))[:3]):
        shutil.copy(video, root / f"{k}.mp4")
    return root


@pytest.fixture(scope="module")
def clean(talking, tmp_path_factory) -> Store:
    return prepared(talking, tmp_path_factory.mktemp("clean") / "store", "data=folder")


@pytest.mark.parametrize("name", ["noise", "pixelation", "compression"])
def test_a_perturbed_store_has_the_clean_crops_of_worse_frames(talking, clean, name, tmp_path):
    store = prepared(talking, tmp_path / "store", "data=folder", f"perturb={name}", "severity=3", "workers=2")
    assert store.manifest["perturb"] == {"name": name, "severity": 3} and clean.manifest["perturb"] is None
    for i, (entry, before) in enumerate(zip(read_index(store.root), read_index(clean.root), strict=True)):
        elsewhere = ("checksum", "pack", "offset")
        assert all(value == asdict(before)[key] for key, value in asdict(entry).items() if key not in elsewhere)
        assert (store.sound(i, 0, entry.frames) == clean.sound(i, 0, entry.frames)).all()
        video = talking / entry.video.removeprefix("folder/")
        frames = list(read_frames(video))
        worse = list(perturbed([frame.rgb() for frame in frames], name, 3, video=entry.video))
        smoother, crops = Smoother(), []
        for sighting in track_faces(frames, DlibLandmarks()):
            ready = smoother.rest() if sighting.frame is None else smoother.add(sighting.frame, sighting.landmarks)
            crops += [crop(worse[frame.index], mean) for frame, _, mean in ready]
        stored = store.frames(i, 0, entry.frames)
        assert (stored == np.stack(crops)).all() and (stored != clean.frames(i, 0, entry.frames)).any()


def test_the_number_of_processes_and_an_interruption_do_not_matter(talking, tmp_path):
    one, two, resumed = tmp_path / "one", tmp_path / "two", tmp_path / "resumed"
    for store, workers in ((one, 1), (two, 3), (resumed, 1)):
        prepared(talking, store, "data=folder", "perturb=noise", "severity=2", f"workers={workers}")
    (resumed / "manifest.json").unlink()
    lines = (resumed / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (resumed / "journal.jsonl").write_bytes(b"".join(lines[:2]))  # as if killed after the first video
    prepared(talking, resumed, "data=folder", "perturb=noise", "severity=2")
    assert len({Store.open(store).manifest["digest"] for store in (one, two, resumed)}) == 1


def test_another_perturbation_is_refused_and_the_head_names_it(talking, clean, tmp_path, capsys):
    store = tmp_path / "store"
    prepared(talking, store, "data=folder", "perturb=contrast", "severity=3")
    for others, said in ((["perturb=contrast", "severity=4"], "begun with severity=3, now severity=4"),
                         (["perturb=blur", "severity=3"], "begun with perturb=contrast, now perturb=blur"),
                         ([], "begun with perturb=contrast, now perturb=None")):
        with pytest.raises(UserError, match=said):
            prepare_main(["data=folder", f"root={talking}", f"store={store}", *others])
    capsys.readouterr()
    assert inspect_main([f"store={store}", "baseline_videos=0", "sheet=none"]) == 0
    assert "PERTURBED: contrast, severity 3 of 5" in capsys.readouterr().out
    assert inspect_main([f"store={clean.root}", "baseline_videos=0", "sheet=none"]) == 0
    assert "PERTURBED" not in capsys.readouterr().out


def test_a_store_from_before_perturbations_goes_on_and_is_inspected(talking, clean, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(clean.root, store)
    header, *lines = (store / "journal.jsonl").read_text().splitlines(keepends=True)
    header, manifest = json.loads(header), json.loads((store / "manifest.json").read_text())
    for settings in (header["settings"], manifest["settings"]):
        del settings["perturb"], settings["severity"]
    del manifest["perturb"]
    (store / "journal.jsonl").write_text("".join([json.dumps(header) + "\n", *lines]))
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert inspect_main([f"store={store}", "baseline_videos=0", "sheet=none"]) == 0
    assert prepare_main(["data=folder", f"root={talking}", f"store={store}"]) == 0
    assert "nothing to do" in capsys.readouterr().out
