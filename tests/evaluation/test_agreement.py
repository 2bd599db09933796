"""Lips against sound: known offsets are found, with the right sign, and what cannot be told has its reason.

Most of it with a reader of brightness: what a "face" says is how bright it is, what is heard is how loud it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datasets.media import encode, read_frames, read_sound
from datasets.views import ViewSettings, evaluation_view, log_mel
from engine.errors import UserError
from evaluation.verdict import agreement
from evaluation.verdict.agreement import DOUBT, FARTHEST, KEPT, OFFSETS, Hearing, Soundtrack, peak_of
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.stream import FaceWindow
from tests.evaluation.small import small_detector
from tests.finetune.small import small_bundle

MS = 40


class Brightness:
    """Predicts loudness from brightness: a level 0 .. 1 is a direction on a half circle."""

    generated = False

    def predictions(self, crops: torch.Tensor) -> torch.Tensor:
        return self._direction(crops.float().mean(dim=(2, 3, 4)) / 255)

    def targets(self, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loud = sound.unflatten(1, (-1, 640)).float().abs().mean(dim=2)
        return self._direction(loud / 10_000), loud > 0

    @staticmethod
    def _direction(level: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.cos(torch.pi * level), torch.sin(torch.pi * level)], dim=-1)


def levels(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 0.9, frames)


def loud_as(level: np.ndarray) -> np.ndarray:
    """int16 (frames * 640,): a hum whose mean size in each frame is 10,000 times the level."""
    hum = np.sign(np.sin(2 * np.pi * 500 * (np.arange(640) + 0.5) / 16_000))
    return (10_000 * np.asarray(level)[:, None] * hum).round().astype(np.int16).ravel()


def pictures_of(level: np.ndarray, side: int = 150) -> np.ndarray:
    return np.broadcast_to((255 * level).round().astype(np.uint8)[:, None, None, None], (len(level), side, side, 3))


def windows_of(level: np.ndarray, face: int = 0, start: int = 0, stride: int = 25) -> list[FaceWindow]:
    crops = pictures_of(level)
    return [FaceWindow(face, start + first, np.ascontiguousarray(crops[first : first + 25]), np.zeros((25, 68, 2)))
            for first in range(0, len(level) - 24, stride)]  # fmt: skip


def heard(monkeypatch, sound: np.ndarray, reader=None, chunk: int = 1000) -> Hearing:
    chunks = [sound[k : k + chunk] for k in range(0, len(sound), chunk)]
    monkeypatch.setattr(agreement, "read_sound", lambda path: iter(chunks))
    return Hearing(reader or Brightness(), Path("it.mp4"), has_sound=True)


# ------------------------------------------------------------------------------------------- the measure

@pytest.mark.parametrize("top", [-9.7, -0.5, 0.0, 2.3, 11.25])
def test_a_parabola_is_found_at_its_top(top):
    similarity = np.array([1 - (offset - top) ** 2 / 1000 for offset in OFFSETS])
    assert peak_of(similarity, OFFSETS).offset_ms == pytest.approx(40 * top)


def test_the_score_is_how_far_the_best_is_above_the_best_of_those_far_away():
    similarity = np.full(31, 0.1)
    similarity[18], similarity[19], similarity[22], similarity[23] = 0.8, 0.75, 0.7, 0.4  # +3, +4, +7; +8 is 5 away
    found = peak_of(similarity, OFFSETS)
    assert found.score == pytest.approx((0.8 - 0.4) / (1 - 0.4))
    # Through 0.1, 0.8, 0.75 at 2, 3, 4: half the difference of the neighbours over the bend.
    assert found.offset_ms == pytest.approx(40 * (3 + (0.75 - 0.1) / (2 * (1.6 - 0.85))))


def test_two_peaks_of_the_same_height_or_no_peak_at_all_score_nothing():
    twin = np.zeros(31)
    twin[[4, 20]] = 0.9
    assert peak_of(twin, OFFSETS).score == 0
    assert peak_of(np.full(31, 0.3), OFFSETS).score == 0


def test_at_the_end_of_the_range_nothing_is_interpolated():
    assert peak_of(np.linspace(0, 0.5, 31), OFFSETS).offset_ms == 600


# ------------------------------------------------------------------------------------------ known offsets

@pytest.mark.parametrize("late", [-400, -240, -40, 0, 80, 400])
@pytest.mark.parametrize("frames", [29, 120])
def test_sound_shifted_by_a_known_amount(monkeypatch, late, frames):
    """Cut to the length of the video, as an editor would leave it: what is shifted in is silence."""
    level = levels(frames)
    moved = np.zeros(frames)
    k = late // MS
    moved[max(k, 0) : frames + min(k, 0)] = level[max(-k, 0) : frames - max(k, 0)]
    hearing = heard(monkeypatch, loud_as(moved))
    windows = [*windows_of(level), *windows_of(level[-25:], start=frames - 25)]
    hearing.add(windows)
    found = hearing.found()
    assert abs(found.offset_ms - late) < 20  # the parabola may lean to a neighbour
    # Every frame that has sound at this offset agrees wholly; one in two windows counts once, on average.
    agree = sum(0 <= t + k < frames and moved[t + k] > 0 for one in windows for t in range(one.start, one.start + 25))
    agree *= frames / (25 * len(windows))
    assert found.similarity[found.offsets_ms.index(late)] == pytest.approx(agree / (agree + DOUBT), abs=1e-3)
    assert found.score > 0.3


def test_the_curve_is_what_a_plain_loop_over_frames_gives(monkeypatch):
    level, other = levels(75), levels(80, seed=1)
    other[30:37] = 0  # silence in between
    hearing = heard(monkeypatch, loud_as(other))
    windows = windows_of(level, start=2)
    hearing.add(windows)
    found = hearing.found()
    assert found.offsets_ms == tuple(40.0 * offset for offset in OFFSETS)
    for offset, similarity in zip(OFFSETS, found.similarity, strict=True):
        cosines = [np.cos(np.pi * (round(255 * level[t]) / 255 - other[t + 2 + offset])) for t in range(75)
                   if 0 <= t + 2 + offset < 80 and other[t + 2 + offset] > 0]  # fmt: skip
        assert similarity == pytest.approx(np.sum(cosines) / (len(cosines) + DOUBT), abs=2e-4)


def test_each_window_has_its_own_offset(monkeypatch):
    """The sound slips by 120 ms in the middle."""
    level = levels(150)
    slipped = np.concatenate([level[:75], levels(3, seed=5), level[75:]])
    hearing = heard(monkeypatch, loud_as(slipped))
    hearing.add(windows_of(level))
    found = hearing.found().windows
    assert [start for start, _, _ in found] == [0, 25, 50, 75, 100, 125]
    assert np.allclose([offset for _, offset, _ in found], [0, 0, 0, 120, 120, 120], atol=20)
    assert all(score > 0.2 for _, _, score in found)


def test_batches_and_the_number_of_chunks_change_nothing(monkeypatch):
    level = levels(130)
    sound = loud_as(np.roll(level, 3))
    windows = windows_of(level, stride=5)
    together = heard(monkeypatch, sound, chunk=10**9)
    together.add(windows)
    alone = heard(monkeypatch, sound, chunk=333)
    for window in windows:
        alone.add([window])
    assert alone.found() == together.found()


def test_a_second_of_sound_must_agree_better_than_many_and_windows_that_overlap_are_no_more_of_it(monkeypatch):
    level = levels(500)
    scores = []
    for frames, stride in ((25, 25), (500, 25), (500, 5)):
        hearing = heard(monkeypatch, loud_as(level))
        hearing.add(windows_of(level[:frames], stride=stride))
        scores.append(hearing.found().score)
    assert scores[0] < scores[1] - 0.1
    assert scores[2] == pytest.approx(scores[1], abs=0.01)


def test_of_two_faces_the_one_that_says_it(monkeypatch):
    """The other is larger, and in sight for longer."""
    speaks, listens = levels(75), levels(150, seed=1)
    sound = np.concatenate([levels(50, seed=2), speaks, levels(25, seed=3)])
    hearing = heard(monkeypatch, loud_as(sound))
    hearing.add(sorted([*windows_of(listens), *windows_of(speaks, face=1, start=52)], key=lambda one: one.start))
    found = hearing.found()
    assert abs(found.offset_ms + 80) < 20 and [start for start, _, _ in found.windows] == [52, 77, 102]


# ------------------------------------------------------------------------------------- what cannot be told

def test_no_sound_no_face_silence_and_too_little_sound(monkeypatch):
    level = levels(75)
    without = Hearing(Brightness(), Path("it.mp4"), has_sound=False)
    without.add(windows_of(level))
    nobody = heard(monkeypatch, loud_as(level))
    nobody.add([])
    silent = heard(monkeypatch, np.zeros(75 * 640, np.int16))
    silent.add(windows_of(level))
    brief = heard(monkeypatch, loud_as(level[:9]))
    brief.add(windows_of(level))
    reasons = {hearing.found().reason for hearing in (without, nobody, silent, brief)}
    assert reasons == {agreement.NO_SOUND, agreement.NO_FACE, agreement.SILENT, agreement.BRIEF}
    for hearing in (without, nobody, silent, brief):
        assert replace(hearing.found(), reason=None) == agreement.Agreement(None, None)


def test_sound_that_cannot_be_read_is_a_reason(monkeypatch):
    def broken(path):
        yield np.ones(640, np.int16)
        raise agreement.MediaError("damaged")

    monkeypatch.setattr(agreement, "read_sound", broken)
    hearing = Hearing(Brightness(), Path("it.mp4"), has_sound=True)
    hearing.add(windows_of(levels(50)))
    assert hearing.found().reason == "the sound cannot be read: damaged"


def test_sound_of_half_the_video_is_enough(monkeypatch):
    level = levels(250)
    hearing = heard(monkeypatch, np.concatenate([np.zeros(130 * 640, np.int16), loud_as(level[130:])]))
    hearing.add(windows_of(level))
    found = hearing.found()
    assert abs(found.offset_ms) < 20 and found.similarity[15] == pytest.approx(120 / (120 + DOUBT), abs=1e-3)
    assert min(start for start, _, _ in found.windows) >= 100


# ------------------------------------------------------------------------------------------------- memory

def test_what_is_held_does_not_grow_with_the_video(monkeypatch):
    hearing = heard(monkeypatch, loud_as(levels(1500)))
    for start in range(0, 1500, 25):
        hearing.add(windows_of(levels(25, seed=start), start=start))
    assert len(hearing._embedded) <= KEPT + 2 * FARTHEST + 1
    assert len(hearing._sound._held) <= (KEPT + 2 * 25) * 640


def test_a_soundtrack_gives_every_frame_once_it_is_read_and_zeros_where_there_is_none():
    samples = np.random.default_rng(0).integers(-9999, 9999, 640 * 40 + 100, np.int16)
    track = Soundtrack(iter([samples[:50], samples[50:7000], samples[7000:]]))
    assert np.array_equal(track.frames(3, 25), samples[3 * 640 : 28 * 640])
    assert np.array_equal(track.frames(-2, 3), np.concatenate([np.zeros(1280, np.int16), samples[:640]]))
    assert np.array_equal(track.frames(39, 3), np.concatenate([samples[39 * 640 :], np.zeros(2 * 640 - 100, np.int16)]))
    assert not track.frames(-40, 25).any() and not track.frames(41, 25).any()


# ---------------------------------------------------------------------------------------------- real media

def media(path: Path, level: np.ndarray, sound: np.ndarray, late: float = 0.0) -> Path:
    """A file whose sound begins `late` seconds after its picture, by its time stamps."""
    encode(path.with_suffix(".first.mp4"), pictures_of(level, side=64), sound=sound)
    with av.open(str(path.with_suffix(".first.mp4"))) as source, av.open(str(path), "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            shift = round((late if packet.stream.type == "audio" else 0.0) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, streams[packet.stream]
            target.mux(packet)
    return path


def found_in(video: Path) -> agreement.Agreement:
    crops = np.stack([np.resize(frame.rgb(), (150, 150, 3)) for frame in read_frames(video)])
    hearing = Hearing(Brightness(), video, has_sound=True)
    hearing.add([FaceWindow(0, first, crops[first : first + 25], np.zeros((25, 68, 2)))
                 for first in range(0, len(crops) - 24, 25)])  # fmt: skip
    return hearing.found()


@pytest.mark.parametrize("late", [-200, 0, 200])
def test_a_file_whose_sound_stream_begins_late_or_early(tmp_path, late):
    """200 ms late by the container's time stamps is +200: whoever watches it sees the lips first."""
    level = np.repeat(levels(38), 2)[:75]  # an encoder of sound needs more than a frame for a level
    video = media(tmp_path / "it.mkv", level, loud_as(level), late=late / 1000)
    assert sum(map(len, read_sound(video))) == pytest.approx((75 + late // MS) * 640, abs=1500)
    found = found_in(video)
    assert abs(found.offset_ms - late) < 25
    assert found.score > 0.3


# ----------------------------------------------------------------------------------------------- networks

@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("agreement") / "bundle", audio=True)


def test_predictions_and_targets_are_those_of_the_networks(bundle):
    reader = LipReader.load(bundle)
    crops = torch.randint(0, 256, (2, 25, 150, 150, 3), dtype=torch.uint8)
    sound = torch.randint(-9999, 9999, (2, 16_000), dtype=torch.int16)
    video, mel = evaluation_view(reader.views, crops, sound)
    with torch.inference_mode():
        expected = F.normalize(reader.student(video).prediction, dim=-1)
        target = reader.teacher(mel)
    assert torch.allclose(reader.predictions(crops), expected, atol=1e-6)
    vectors, known = reader.targets(sound)
    assert known.all()
    assert torch.allclose(vectors, F.normalize(target, dim=-1), atol=1e-6)
    vectors, _ = replace(reader, centred=True).targets(sound)
    assert torch.allclose(vectors, F.normalize(target - target.mean(dim=1, keepdim=True), dim=-1), atol=1e-6)


def test_a_frame_without_sound_is_the_mean_of_those_with_and_counts_for_nothing():
    class Loudest(nn.Module):
        def forward(self, mel):  # (B, 1, 100, 80) -> (B, 25, 80): the first of every four audio frames
            self.mel = mel
            return mel[:, 0, ::4]

    teacher = Loudest()
    reader = LipReader(nn.Linear(1, 1), teacher, ViewSettings(), True, {}, Path())  # the student says which device
    sound = torch.randint(-9999, 9999, (1, 16_000), dtype=torch.int16)
    sound[:, 5 * 640 : 9 * 640] = 1  # not quite nothing, as decoders leave it
    vectors, known = reader.targets(sound)
    assert known[0].tolist() == [True] * 5 + [False] * 4 + [True] * 16
    mel = log_mel(ViewSettings(), sound)[0, 0]  # (100, 80)
    rest = torch.cat([mel[:20], mel[36:]])
    assert torch.allclose(teacher.mel[0, 0, 20:36], rest.mean(dim=0).expand(16, 80), atol=1e-5)
    assert torch.equal(torch.cat([teacher.mel[0, 0, :20], teacher.mel[0, 0, 36:]]), rest)
    firsts = rest[::4]  # (21, 80)
    assert torch.allclose(vectors[0][known[0]], F.normalize(firsts - firsts.mean(dim=0), dim=-1), atol=1e-5)


def test_other_bundles_are_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match="expected a bundle of stage 1"):
        LipReader.load(small_detector(tmp_path / "detector"))
    with pytest.raises(UserError, match="does not say which audio_backbone it has"):
        LipReader.load(small_bundle(tmp_path / "video_only"))
