"""`detect --sound` and `serve sound=`: what they say of lips and sound, and that the verdict does not hang on it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crosstalk
from datasets.media import encode, read_frames, read_sound
from engine.errors import UserError
from engine.settings import load_exactly
from evaluation import Detector
from evaluation.serve import judging
from evaluation.serve.settings import ServeSettings
from evaluation.verdict import agreement, detect
from evaluation.verdict.judge import Settings, judge
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.stream import FaceStream
from tests.evaluation.small import small_detector
from tests.finetune.small import small_bundle

BUNDLES = {"missing": "no such folder", "detector": "expected a bundle of stage 1", "empty": "is no bundle",
           "silent": "does not say which audio_backbone it has"}  # fmt: skip


@pytest.fixture(scope="module")
def spoken(corpus) -> Path:
    return min((corpus / "lrw").rglob("*.mp4"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    small_detector(root / "detector")
    small_bundle(root / "lips", audio=True, generated=True)
    small_bundle(root / "silent")
    (root / "empty").mkdir()
    return root


def detected(capsys, bundles: Path, *arguments: object) -> tuple[int, list[dict], list[str]]:
    code = crosstalk.main(["detect", "--model", str(bundles / "detector"), *map(str, arguments)])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err.splitlines()


def without_time(found: dict, **other) -> dict:
    return found | {"took": None} | other


def test_what_is_said_of_lips_and_sound_and_that_the_verdict_is_the_same(spoken, bundles, capsys):
    _, [without], quiet = detected(capsys, bundles, spoken)
    code, [found], said = detected(capsys, bundles, spoken, "--sound", bundles / "lips")
    assert code == 0
    assert without["agreement"] is None and not any("lips" in line for line in quiet)
    assert without_time(found, agreement=None) == without_time(without), "the verdict and every logit are the same"
    heard = found["agreement"]
    # 29 frames are two windows, which begin at frames 0 and 4. 14 frames back there is sound for 11 and 15 of their 25
    # frames, which is more than half; 15 back, for 10 and 14. At the end an encoder of sound leaves a frame more.
    assert [start for start, _, _ in heard["windows"]] == [0, 4]
    assert heard["offsets_ms"] == [40.0 * k for k in range(-14, 16)] and len(heard["similarity"]) == 30
    best = heard["offsets_ms"][int(np.argmax(heard["similarity"]))]
    assert abs(heard["offset_ms"] - best) <= 20 and 0 <= heard["score"] <= 1
    assert heard["reason"] is None and heard["generated"] is True
    [line] = [line for line in said if line.startswith("  lips and sound: ")]
    assert line.endswith(f"offset is {heard['offset_ms']:+.0f} ms, agreement {heard['score']:.2f} of 1)")
    assert "generated faces" in line


def test_the_api_and_the_parts_that_it_is_made_of_say_the_same(spoken, bundles):
    reader = LipReader.load(bundles / "lips")
    found = Detector.load(bundles / "detector").score(spoken, reader=reader, stride=2, batch=3)
    windows = list(FaceStream(spoken, stride=2))
    hearing = agreement.Hearing(reader, spoken, has_sound=True)
    hearing.add(windows)
    whole = hearing.found()
    assert len(found.agreement.windows) == len(windows) == 3
    assert found.agreement.offset_ms == pytest.approx(whole.offset_ms, abs=0.1)
    assert found.agreement.similarity == pytest.approx(whole.similarity, abs=1e-5)


def test_a_video_without_sound_or_whose_sound_is_silent_says_so(corpus, spoken, bundles, capsys, tmp_path):
    mute = min((corpus / "faceforensics" / "original_sequences").rglob("*.mp4"))
    muted = tmp_path / "muted.mp4"
    pictures = [frame.rgb() for frame in read_frames(spoken)]
    encode(muted, pictures, sound=np.zeros(640 * len(pictures), np.int16))
    code, found, said = detected(capsys, bundles, mute, muted, "--sound", bundles / "lips")
    assert code == 0
    for one, reason in zip(found, (agreement.NO_SOUND, agreement.SILENT), strict=True):
        assert one["agreement"]["reason"] == reason and one["agreement"]["score"] is None
        assert f"  lips and sound: {reason[0].upper()}{reason[1:]}." in said
        assert one["verdict"] in ("real", "forged")


@pytest.mark.parametrize("name", BUNDLES)
def test_another_bundle_is_one_line_before_any_video_is_read(name, spoken, bundles, capsys, monkeypatch):
    monkeypatch.setattr(detect, "judge", lambda *arguments, **more: pytest.fail("a video was read"))
    code, found, said = detected(capsys, bundles, spoken, "--sound", bundles / name)
    assert code == 2 and found == [] and len(said) == 1
    assert said[0].startswith("crosstalk detect: --sound: ") and BUNDLES[name] in said[0]


def test_interrupted_it_tells_what_was_heard_by_then(spoken, bundles, tmp_path):
    pictures, sound = [frame.rgb() for frame in read_frames(spoken)], np.concatenate(list(read_sound(spoken)))
    encode(tmp_path / "long.mp4", pictures + pictures[::-1] + pictures, sound=np.tile(sound, 3))
    seen = []
    found = judge(Detector.load(bundles / "detector"), tmp_path / "long.mp4", Settings(stride=1, batch=1),
                  reader=LipReader.load(bundles / "lips"), stop=lambda: len(seen) > 1,
                  seen=lambda window, judged: seen.append(window.start))  # fmt: skip
    assert not found.complete and 1 < len(seen) < 87 - 24
    assert [start for start, _, _ in found.agreement.windows] == seen


def test_a_first_part_of_a_video_is_heard_with_its_own_sound(spoken, bundles):
    """`frames` ends the pictures, not the sound: what follows is compared as well."""
    reader = LipReader.load(bundles / "lips")
    found = Detector.load(bundles / "detector").score(spoken, reader=reader, frames=25)
    assert found.frames == 25 and [start for start, _, _ in found.agreement.windows] == [0]
    hearing = agreement.Hearing(reader, spoken, has_sound=True)
    hearing.add(list(FaceStream(spoken, limit=25)))
    assert found.agreement == hearing.found()
    # 12 frames back 13 of the 25 are heard, more than half; 15 ahead some 15, the last after the pictures' end.
    assert (min(found.agreement.offsets_ms), max(found.agreement.offsets_ms)) == (-12 * 40, 15 * 40)


def test_the_page_hears_too(spoken, bundles, tmp_path):
    reports = {}
    for name, chosen in (("with", [f"sound={bundles / 'lips'}"]), ("without", [])):
        settings = load_exactly("serve", [f"model={bundles / 'detector'}", "device=cpu", *chosen], ServeSettings)
        answer = judging.setup(settings, [0.0, 0.0, 0.0])
        outcome = answer(judging.Task(spoken, "a.mp4", tmp_path / f"{name}.html"))
        reports[name] = (outcome, (tmp_path / f"{name}.html").read_text())
    assert reports["with"][0] == reports["without"][0]
    assert "Lips and sound" in reports["with"][1] and "most likely offset" in reports["with"][1]
    assert "Lips and sound" not in reports["without"][1]
    with pytest.raises(UserError, match=r"^sound: .*expected a bundle of stage 1"):
        judging.setup(replace(settings, sound=bundles / "detector"), [0.0, 0.0, 0.0])
