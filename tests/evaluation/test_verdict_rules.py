"""From windows to people to a verdict, worked by hand. Logits at a threshold of 1 and a temperature of 2."""

import math
from pathlib import Path

import pytest

from engine.calibration import Calibration
from engine.errors import UserError
from evaluation.verdict.judgement import Window
from evaluation.verdict.output import as_text
from evaluation.verdict.rules import NO_CALIBRATION, UNFAMILIAR, Seen, Watched, concluded, unreadable

MEASURE = Calibration(threshold=1.0, temperature=2.0)
VIDEO = Path("a.mp4")


def face(*logits, start=0, frames=100, side=100.0, inside=1.0, far=(None,) * 12) -> Seen:
    windows = tuple(Window(start + 25 * number, logit, far[number]) for number, logit in enumerate(logits))
    return Seen(start, frames, side, inside, (-frames * side, start), windows)


def said(*faces, frames=100, calibration=MEASURE, **about):
    return concluded(VIDEO, Watched(frames, 640, 480, True, **about), faces, calibration)


def test_a_person_is_forged_where_the_mean_of_its_windows_reaches_the_threshold():
    found = said(face(0.0, 4.0, -1.0))
    assert found.people[0].logit == found.logit == 1.0
    assert (found.verdict, found.reason, found.probability) == ("forged", None, 0.5)
    assert found.notes == ("close to the threshold: it could as well be the other way round",)
    found = said(face(-3.0, -3.0))
    assert found.verdict == "real" and found.probability == pytest.approx(1 / (1 + math.exp(2))) and not found.notes


def test_the_video_is_as_forged_as_its_most_suspicious_person():
    main, other = face(-4.0, frames=100), face(5.0, frames=50, start=10)
    found = said(other, main)
    assert [person.logit for person in found.people] == [-4.0, 5.0] and [p.number for p in found.people] == [1, 2]
    assert found.verdict == "forged" and found.probability == pytest.approx(1 / (1 + math.exp(-2)))
    assert found.logit == -4.0, "of the main person, as in a benchmark, which looks at no other"
    assert [person.verdict for person in found.people] == ["real", "forged"]


def test_the_longest_and_largest_comes_first():
    found = said(face(1.0, frames=60, side=100), face(2.0, frames=90, side=50), face(3.0, frames=50, side=150))
    assert [person.logit for person in found.people] == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("bad, reason", [
    ({"side": 31.4}, "the face is 31 pixels large; 40 are needed"),
    ({"inside": 0.6}, "60 % of the face lies inside the picture; 75 % are needed"),
])  # fmt: skip
def test_of_a_face_that_shows_too_little_nothing_is_told(bad, reason):
    found = said(face(9.0, **bad))
    assert (found.verdict, found.reason, found.probability) == ("cannot tell", reason, None)
    assert found.logit == 9.0 and found.people[0].reason == reason, "the number is there, the verdict is not"
    found = said(face(9.0, **bad), face(-9.0, frames=30))
    assert found.verdict == "real" and "1 of 2 faces could not be judged" in found.notes
    found = said(face(9.0, **bad), face(9.0, frames=30, side=20))
    assert found.reason == f"none of 2 faces can be judged; of the main one, {reason}"


def test_real_is_said_of_a_video_only_if_enough_of_it_was_seen():
    seen = face(-9.0, frames=50)
    found = said(seen, frames=501)
    assert found.verdict == "cannot tell" and found.probability is None
    assert found.reason == "faces could be judged in 10 % of the video only; what was judged looks real"
    assert found.people[0].verdict == "real"
    found = said(seen, frames=500)
    assert found.verdict == "real" and found.notes == ("faces could be judged in 10 % of the video only",)
    assert said(face(9.0, frames=50), frames=5000).verdict == "forged", "one forged second is enough"
    assert said(face(-9.0, frames=50), face(-9.0, frames=50), frames=501).verdict == "cannot tell", "seen at one time"
    assert said(face(-9.0, frames=50), face(-9.0, start=40, frames=50), frames=501).verdict == "real"


@pytest.mark.parametrize("about, reason", [
    ({"frames": 80}, "no face in any of 80 frames"),
    ({"frames": 12}, "only 12 frames; 25 are needed, which is a second"),
    ({"frames": 80, "brief": 3, "longest_brief": 17},
     "a face in at most 17 frames in a row; 25 are needed, which is a second"),
    ({"frames": 0, "damage": "no picture could be decoded"}, "no picture could be decoded"),
    ({"frames": 0, "complete": False}, "interrupted before the first picture"),
])  # fmt: skip
def test_why_there_is_nobody(about, reason):
    found = said(**about)
    assert (found.verdict, found.reason, found.logit, found.people) == ("cannot tell", reason, None, ())


def test_what_must_be_known_along_with_the_verdict():
    found = said(face(9.0), calibration=None, complete=False, damage="cut off", brief=1, longest_brief=9)
    assert found.verdict == "forged" and not found.complete and found.probability == pytest.approx(1, abs=1e-3)
    assert found.notes == (
        "interrupted: this is what was known after 4.0 s", "the file could be read for 4.0 s only (cut off)",
        NO_CALIBRATION, "1 face was in sight for less than a second and not judged",
    )  # fmt: skip


def test_a_face_is_known_where_half_of_its_windows_are():
    assert said(face(0.0, 0.0, 0.0, far=(0.3, 0.9, 30.0))).people[0].familiar is True, "the middle one counts"
    assert said(face(0.0, 0.0, far=(0.8, 1.2))).familiar is True, "1 is the farthest that is familiar"
    found = said(face(0.0, 0.0, 0.0, far=(0.3, 1.01, 2.0)))
    assert found.people[0].familiar is False and found.familiar is False and UNFAMILIAR in found.notes
    assert found.verdict == "real", "what it would say is told all the same"
    found = said(face(0.0))
    assert found.familiar is None and UNFAMILIAR not in found.notes, "nothing to tell by"


def test_whose_face_must_be_known_is_who_decides():
    known, strange = face(-9.0, far=(0.5,)), face(9.0, frames=50, far=(3.0,))
    found = said(known, strange)
    assert [person.familiar for person in found.people] == [True, False]
    assert found.verdict == "forged" and found.familiar is False and UNFAMILIAR in found.notes
    found = said(face(9.0, far=(0.5,)), face(-9.0, frames=50, far=(3.0,)))
    assert found.verdict == "forged" and found.familiar is True and UNFAMILIAR not in found.notes
    [note] = found.notes
    assert note.startswith("1 of 2 faces are unlike"), "and what is said of the other rests on nothing"
    found = said(face(9.0, far=(3.0,)), face(5.0, frames=50, far=(0.5,)))
    assert found.familiar is True and found.probability == pytest.approx(1 / (1 + math.exp(-2))), "the known one counts"
    found = said(face(9.0, side=20, far=(3.0,)))
    assert found.verdict == "cannot tell" and found.familiar is None and UNFAMILIAR not in found.notes


def test_words_for_people():
    [line, below] = as_text(said(face(-3.0, -3.0, side=80.4), frames=100)).splitlines()
    assert line == "a.mp4: real (probability of a forgery 12 %)"
    assert below == "  1 face, 2 windows of a second in 4.0 s of video"
    crowd = [face(float(number), start=number, frames=100 + number) for number in range(12)]
    lines = as_text(said(*crowd, frames=200)).splitlines()
    assert lines[1] == "  the 10 most suspicious of 12:"
    assert [line.split(",")[0].strip() for line in lines[2:12]] == [f"person {number}" for number in range(1, 11)]
    assert lines[2] == "  person 1, 0.4 to 4.9 s, 100 pixels: forged (probability of a forgery 99 %)"
    found = concluded(Path("a\nb\x1b[31m.mp4"), Watched(9, 1, 1, False), [], MEASURE)
    assert as_text(found) == "a\\nb\\x1b[31m.mp4: cannot tell: only 9 frames; 25 are needed, which is a second"
    [line, _, note] = as_text(said(face(9.0, far=(1.1,)))).splitlines()
    assert line == ("a.mp4: outside what this model knows: no finding; it would say forged (probability of a forgery "
                    "98 %)")  # fmt: skip
    assert note == f"  note: {UNFAMILIAR}"


def test_a_model_that_gives_no_numbers_is_refused():
    with pytest.raises(UserError, match="score is nan"):
        said(face(1.0, math.nan))


def test_what_cannot_be_read_is_a_reason():
    found = unreadable(VIDEO, "empty file")
    assert (found.verdict, found.reason, found.frames, found.people) == ("cannot tell", "empty file", 0, ())
