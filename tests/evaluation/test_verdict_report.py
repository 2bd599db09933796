"""The report on one video: the verdict first, no surer than it may be; all pictures within; no foreign word a tag."""

import base64
import hashlib
import re
from itertools import pairwise

import pytest

from engine.calibration import Calibration
from evaluation.detector import Detector
from evaluation.verdict import phrases, report
from evaluation.verdict.judgement import Window
from evaluation.verdict.moments import chosen
from evaluation.verdict.rules import NO_CALIBRATION, UNFAMILIAR
from tests.evaluation.judgements import agreeing, judgement, moment, person
from tests.evaluation.small import small_detector
from tests.evaluation.test_report import Page

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>{{ 7 * 7 }}.mp4"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = small_detector(tmp_path_factory.mktemp("a <b>&") / "bundle", generated=False,
                            trained_on={"datasets": [HOSTILE]}, methods=[HOSTILE])  # fmt: skip
    (folder / "card.md").write_text(f"# {HOSTILE}\n")
    return Detector.load(folder)


def rendered(detector, found=None, moments=(), **values) -> str:
    return report.render(found or judgement(**values), detector, list(moments))


def test_foreign_words_are_text(detector):
    found = judgement(HOSTILE.replace("/", ""), notes=(HOSTILE,), agreement=agreeing(None, None, reason=HOSTILE),
                      people=(person(), person(2, reason=HOSTILE, verdict="cannot tell",
                                               probability=None)))  # fmt: skip
    text = report.render(found, detector, [moment()], name=HOSTILE)
    page = Page(text)
    assert page.tags.count("script") == 1 and "{{ 7 * 7 }}" in page.text
    for once in (f"Crosstalk on {HOSTILE}", f"cannot tell: {HOSTILE}", f"# {HOSTILE}",
                 f"{HOSTILE}; forgeries: {HOSTILE}"):  # fmt: skip
        assert once in page.text, once
    assert page.tags.count("img") == 2 + 2 * 2, "a moment's, and each timeline's empty ones"


def test_a_name_has_no_say_in_how_the_page_reads(detector):
    """It ends no line, turns no direction, hides nothing; and it is the sender's, not that of the server's copy."""
    text = report.render(judgement("video"), detector, [], name="a\n\u202e4pm.\x00\u200b\x1b[31m\udcff.mp4")
    shown = "a\\n\\u202e4pm.\\x00\\u200b\\x1b[31m\\udcff.mp4"
    assert Page(text).text.count(shown) == 3, "title, head, and the file among the facts"
    assert not any(char in text for char in "\u202e\x00\u200b\x1b\udcff") and "<td>video</td>" not in text


def test_what_the_verdict_says_is_not_said_again(detector):
    said = judgement(people=(person(familiar=False),), notes=(UNFAMILIAR, NO_CALIBRATION, "interrupted"))
    assert "<ul><li>interrupted</li></ul>" in rendered(detector, said)


def test_nothing_is_loaded_and_no_other_script_may_run(detector):
    text = rendered(detector, moments=[moment(), moment(25)], agreement=agreeing())
    loads = Page(text).loads
    assert loads and all(source.startswith(("data:image/jpeg;base64,", "#")) for source in loads)
    assert "http" not in text.replace("http-equiv", "") and "@import" not in text and "url(" not in text
    [policy] = re.findall(r'Security-Policy" content="([^"]*)"', text)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and policy.endswith(f"script-src 'sha256-{digest}'".replace("'", "&#39;"))


@pytest.mark.parametrize(("probability", "verdict", "title", "words"), [
    (0.83, "forged", "Looks forged", "about 8 in 10 of those that score like this one would be forged"),
    (0.17, "real", "Looks real", "about 8 in 10 of those that score like this one would be real"),
    (0.999, "forged", "Looks forged", "more than 19 in 20"),
    (0.6, "forged", "Leans towards forged", "about 6 in 10"),
    (0.49, "real", "Leans towards real", "about half"),
])
def test_the_verdict_is_as_sure_as_the_calibration(detector, probability, verdict, title, words):
    text = rendered(detector, people=(person(probability=probability, verdict=verdict),))
    assert f"<h1>{title}</h1>" in text and words in text and 'class="gauge"' in text
    assert text.index(title) < text.index(words) < text.index("<svg")


def test_numbers_for_people_never_say_more_than_tens_of_videos_carry():
    said = {share: phrases.in_numbers(share) for share in (0.5, 0.54, 0.56, 0.75, 0.84, 0.88, 0.949, 0.95, 1.0)}
    assert said == {0.5: "about half", 0.54: "about half", 0.56: "about 6 in 10", 0.75: "about 8 in 10",
                    0.84: "about 8 in 10", 0.88: "about 9 in 10", 0.949: "about 9 in 10",
                    0.95: "more than 19 in 20", 1.0: "more than 19 in 20"}  # fmt: skip
    assert (phrases.shown(0.001), phrases.shown(0.4), phrases.shown(1.0)) == (pytest.approx(0.05), 0.4, 0.95)


def test_unfamiliar_faces_come_before_the_verdict_and_take_its_certainty(detector):
    text = rendered(detector, people=(person(familiar=False),))
    assert text.index("does not know faces like these") < text.index("<h1>Outside what this model knows</h1>")
    assert "<h1>Looks" not in text and "in 10" not in text and 'class="gauge"' not in text
    assert 'class="verdict none"' in text
    known = rendered(detector, people=(person(familiar=True),))
    assert "does not know faces" not in known and 'class="verdict forged"' in known


def test_an_uncalibrated_model_and_one_of_generated_faces_say_so(detector, tmp_path):
    other = Detector.load(small_detector(tmp_path / "bundle", generated=True, calibration=None))
    text = rendered(other)
    assert "How sure that is nobody can say" in text and 'class="gauge"' not in text
    assert text.index("trained on generated faces only") < text.index("<h1>")
    assert "generated faces only" not in rendered(detector)


def test_nothing_to_tell_says_why_and_shows_no_pictures(detector):
    text = rendered(detector, people=())
    assert "<h1>Cannot tell</h1>" in text and "No face in any of 75 frames." in text
    assert "<svg" not in text and "<img" not in text and "Most suspicious" not in text


def test_a_bar_stands_for_a_window_from_the_threshold_to_its_score():
    """Threshold 2, the farthest score 6 away: the axis goes from 2 - 1.08 * 6 to 2 + 1.08 * 6."""
    line = report.timeline(person(logits=(8.0, 2.0, -1.0)), Calibration(2.0, 1.0), "")
    bars = [dict(re.findall(r'([\w-]+)="([^"]*)"', rect))
            for rect in re.findall(r"<rect ([^>]*)>", str(line.picture))]  # fmt: skip
    assert [bar["data-start"] for bar in bars] == ["0", "25", "50"] and line.bars == 3
    height = 210 - 34 - 10  # of the drawn area; the middle is at 10 + 83
    assert [float(bar["y"]) for bar in bars] == pytest.approx([10 + height * (0.5 - 0.5 / 1.08), 93.0, 93.0], abs=0.06)
    expected = [height / 2 / 1.08, 0.0, height / 2 / 1.08 / 2]
    assert [float(bar["height"]) for bar in bars] == pytest.approx(expected, abs=0.06)
    assert ["--forged" in bar["style"] for bar in bars] == [True, True, False], "the threshold itself is forged"
    assert [bar for bar in bars if "data-first" in bar] == bars[:1], "the most suspicious is shown first"
    assert bars[2]["data-says"] == "0:02 – 0:03: score -1.00, looks real"


def test_bars_of_a_long_video_stand_for_several_windows_by_the_worst():
    line = report.timeline(person(logits=tuple(float(k % 7) for k in range(2000))), Calibration(), "")
    assert line.bars == 667 and len(re.findall("<rect", str(line.picture))) == 667
    assert re.findall(r'data-start="(\d+)"', str(line.picture))[:3] == ["50", "125", "150"]  # scores 012 345 601


def test_pictures_are_bounded_half_by_suspicion_half_spread():
    found = judgement(people=(person(logits=tuple(float(k == 70) + k / 1000 for k in range(100))),
                              person(2, logits=(9.0, -9.0))))  # fmt: skip
    picked = chosen(found, 10)
    assert len(picked) == 10 and {(2, 0), (1, 70 * 25), (1, 99 * 25), (1, 98 * 25), (1, 97 * 25)} <= picked
    spread = sorted(start for number, start in picked if number == 1 and start < 97 * 25 and start != 70 * 25)
    assert len(spread) == 5 and spread[0] == 0 and max(b - a for a, b in pairwise(spread)) <= 25 * 25
    assert chosen(found, 102) == {(p.number, w.start) for p in found.people for w in p.windows}


def test_every_kept_picture_has_its_place_and_the_worst_come_first(detector):
    moments = [moment(25 * k, logit=float(k)) for k in range(9)]
    text = rendered(detector, moments=moments, people=(person(logits=tuple(map(float, range(9)))),))
    places = [int(start) for start in re.findall(r'id="moment-1-(\d+)"', text)]
    assert places == [25 * k for k in (8, 7, 6, 5, 4, 3)] + [0, 25, 50]
    assert "All pictures that were kept (9)" in text


@pytest.mark.parametrize(("found", "words"), [
    (agreeing(40.0, 0.7), "Lips and sound go together."),
    (agreeing(-200.0, 0.7), "the sound is moved: it comes 200 ms too early"),
    (agreeing(160.0, 0.7), "the sound is moved: it comes 160 ms too late"),
    (agreeing(40.0, 0.05), "No offset was found at which the lips go with the sound."),
    (agreeing(-200.0, 0.25), "whether they go together cannot be told"),
    (agreeing(40.0, 0.7, generated=True), "go together. That was measured by a model that has learned from generated"),
    (agreeing(None, None, reason="the video has no sound", offsets_ms=(), similarity=()), "The video has no sound."),
])
def test_lips_and_sound(detector, found, words):
    text = rendered(detector, agreement=found)
    assert words in text and ("agreement of lips and sound over the offset" in text) == bool(found.similarity)


def test_clock():
    assert [report.clock(frame) for frame in (0, 25, 37, 1500, 1565, 90_000)] == [
        "0:00", "0:01", "0:01.5", "1:00", "1:02.6", "60:00"]  # fmt: skip


def test_axis_times_are_round_and_few():
    assert list(report.seconds_of(person(logits=(0.0,) * 5, start=30))) == [2, 3, 4, 5, 6]
    assert list(report.seconds_of(person(logits=(0.0,) * 600))) == list(range(0, 601, 60))


def test_a_window_of_no_picture_is_still_a_bar(detector):
    lone = person(logits=(1.0,))
    text = rendered(detector, people=(lone,))
    assert lone.windows == (Window(0, 1.0),) and text.count('data-start="0"') == 1
    assert "No picture of this second" in text and "<h2>Most suspicious" not in text
