"""How windows become people, people a verdict, and when there is none: every number and every sentence. Pure.

A person is forged where the mean logit of its windows reaches the model's threshold, as a video of a benchmark is. A
video is forged if one of its people is, first of all one whose face the model knows; it is real if all who can be
judged are real and they are in sight for a tenth of it; otherwise nobody can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.media import FRAME_RATE
from engine.calibration import Calibration
from engine.scores import video_scores
from evaluation.verdict.judgement import Judgement, Person, Verdict, Window

# A face's side is that of its landmarks' bounding box. Crops show it at about 120 pixels, whatever it was: of one with
# 40 pixels, detail finer than three pixels of the crop is what the enlargement made up.
SMALLEST_FACE = 40.0
INSIDE = 0.75  # share of a face's landmarks inside the picture; of less, the crop is mostly black
IN_SIGHT = 0.1  # share of the video in which faces are judged, for `real` to be said of all of it
MOSTLY = 0.5  # ... and below which a note says how little was looked at
UNSURE = 0.1  # a probability nearer than this to 0.5 is a verdict, and a note says how near it is
NO_CALIBRATION = ("nobody has measured where this model's threshold lies: 0 is taken, and the probability is "
                  "uncalibrated")  # fmt: skip
UNFAMILIAR = ("this face is unlike those that the model learned from, and nobody knows how often it is right about "
              "such faces")  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One face as the video shows it, and what the network says of it."""

    start: int
    frames: int
    side: float
    inside: float  # share of its landmarks inside the picture
    rank: tuple  # sorts the longest and largest first
    windows: tuple[Window, ...]
    places: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Watched:
    """What was read of the video, faces apart."""

    frames: int
    width: int
    height: int
    has_sound: bool
    complete: bool = True
    damage: str | None = None  # why it could not be read to its end
    brief: int = 0  # faces too short for a window
    longest_brief: int = 0  # frames of the longest of them


def unreadable(video: Path, reason: str) -> Judgement:
    return Judgement(video, "cannot tell", reason, None, None, (), 0, 0, 0, has_sound=False)


def concluded(video: Path, watched: Watched, faces: Sequence[Seen], calibration: Calibration | None,
              smallest_face: float = SMALLEST_FACE) -> Judgement:  # fmt: skip
    measure = calibration or Calibration()
    by_weight = sorted((face for face in faces if face.windows), key=lambda face: face.rank)
    people = tuple(_person(number, face, measure, smallest_face) for number, face in enumerate(by_weight, 1))
    judged = [person for person in people if person.verdict != "cannot tell"]
    suspect = max(judged, key=lambda person: person.suspicion, default=None)
    verdict: Verdict = "cannot tell" if suspect is None else suspect.verdict
    share = _in_sight(judged) / max(watched.frames, 1)
    reason = None
    if suspect is None:
        reason = _nobody(watched, people)
    elif verdict == "real" and share < IN_SIGHT:
        verdict, suspect = "cannot tell", None
        reason = f"faces could be judged in {_percent(share)} of the video only; what was judged looks real"
    notes = []
    if not watched.complete:
        notes.append(f"interrupted: this is what was known after {_seconds(watched.frames)}")
    if watched.damage and watched.frames:
        notes.append(f"the file could be read for {_seconds(watched.frames)} only ({watched.damage})")
    if judged and calibration is None:
        notes.append(NO_CALIBRATION)
    if suspect is not None and suspect.probability is not None and abs(suspect.probability - 0.5) < UNSURE:
        notes.append("close to the threshold: it could as well be the other way round")
    strange = sum(person.familiar is False for person in judged)
    if suspect is not None and suspect.familiar is False:
        notes.append(UNFAMILIAR)
    elif strange:
        notes.append(f"{strange} of {len(people)} faces are unlike those that the model learned from: what it says of "
                     "them is no finding")  # fmt: skip
    if suspect is not None and share < MOSTLY:
        notes.append(f"faces could be judged in {_percent(share)} of the video only")
    if judged and len(judged) < len(people):
        notes.append(f"{len(people) - len(judged)} of {len(people)} faces could not be judged")
    if people and watched.brief:
        notes.append(f"{watched.brief} {'face was' if watched.brief == 1 else 'faces were'} in sight for less than a "
                     "second and not judged")  # fmt: skip
    return Judgement(
        video, verdict, reason, people[0].logit if people else None, suspect.probability if suspect else None, people,
        watched.frames, watched.width, watched.height, watched.has_sound, complete=watched.complete,
        familiar=suspect.familiar if suspect else None, notes=tuple(notes),
    )  # fmt: skip


def _person(number: int, face: Seen, measure: Calibration, smallest_face: float) -> Person:
    [logit] = video_scores([window.logit for window in face.windows], ["it"] * len(face.windows)).logits.tolist()
    reason = None
    if face.side < smallest_face:
        reason = f"the face is {face.side:.0f} pixels large; {smallest_face:g} are needed"
    elif face.inside < INSIDE:
        reason = f"{_percent(face.inside)} of the face lies inside the picture; {_percent(INSIDE)} are needed"
    verdict: Verdict = "cannot tell" if reason else "forged" if measure.forged(logit) else "real"
    probability = None if reason else float(measure.probability(logit))
    far = [window.distance for window in face.windows if window.distance is not None]
    familiar = float(np.median(far)) <= 1 if far else None
    return Person(number, face.start, face.frames, face.side, face.windows, logit, probability, verdict, reason,
                  familiar=familiar, places=face.places)  # fmt: skip


def _nobody(watched: Watched, people: Sequence[Person]) -> str:
    """Why there is nobody of whom something could be told."""
    if len(people) == 1 and people[0].reason:
        return people[0].reason
    if people:
        return f"none of {len(people)} faces can be judged; of the main one, {people[0].reason}"
    if not watched.frames:
        return watched.damage or "interrupted before the first picture"
    if watched.frames < FRAME_RATE:
        return f"only {watched.frames} frames; {FRAME_RATE} are needed, which is a second"
    if watched.brief:
        return f"a face in at most {watched.longest_brief} frames in a row; {FRAME_RATE} are needed, which is a second"
    return f"no face in any of {watched.frames} frames"


def _in_sight(people: Sequence[Person]) -> int:
    """Frames in which at least one of them is in sight."""
    total = end = 0
    for person in sorted(people, key=lambda person: person.start):
        begin, after = max(person.start, end), person.start + person.frames
        total, end = total + max(0, after - begin), max(end, after)
    return total


def _seconds(frames: int) -> str:
    return f"{frames / FRAME_RATE:.1f} s"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
