"""A judgement in words for somebody who is no researcher, and no surer than what was measured.

A calibrated probability is that of a video about which nothing was known beforehand: of as many real as forged videos
that score like it, this share were forged. Validation counts its videos in tens, not thousands, so the words never say
more than nineteen in twenty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evaluation.verdict.judgement import Agreement, Judgement, Person, Verdict

LEANING = 0.65  # a verdict with less behind it only leans that way
SUREST = 0.95
# Agreement of lips and sound from which they go together, and below which they do not, whatever the offset. Measured by
# benchmarks.agreement with four models and people unknown to them, generated all: of other people's sounds 5 % reach
# FITTING in videos of 1.2 s, 0.3 % in 3 s and none in 10 s; of their own, 7 % of those of 1.2 s are below FOREIGN, and
# none of the longer ones.
FITTING, FOREIGN = 0.3, 0.2
# Of 24 measurements on real, untouched clips by such models (docs/detect.md), 20 were below FOREIGN.
OF_GENERATED = ("That was measured by a model that has learned from generated faces alone: untouched videos of real "
                "people seldom agree well by it, so that a low agreement says nothing of them.")  # fmt: skip
NOTICEABLE_MS = 80  # two frames


def headline(judgement: Judgement) -> str:
    unknown = judgement.verdict != "cannot tell" and judgement.familiar is False
    return "Outside what this model knows" if unknown else of_verdict(judgement.verdict, judgement.probability)


def of_verdict(verdict: Verdict, probability: float | None) -> str:
    if verdict == "cannot tell":
        return "Cannot tell"
    leans = probability is not None and max(probability, 1 - probability) < LEANING
    return f"{'Leans towards' if leans else 'Looks'} {verdict}"


def of_person(person: Person) -> str:
    if person.verdict == "cannot tell":
        return f"cannot tell: {person.reason}" if person.reason else "cannot tell"
    text = of_verdict(person.verdict, person.probability).lower()
    return f"{text}, but unlike the faces that the model knows" if person.familiar is False else text


def tone(judgement: Judgement) -> str:
    """forged, real or none: the colour that the verdict has earned."""
    plain = judgement.verdict == "cannot tell" or judgement.familiar is False
    return "none" if plain else judgement.verdict


def how_sure(judgement: Judgement, calibrated: bool) -> str:
    """To be read right after the headline."""
    if judgement.verdict == "cannot tell":
        return f"{_sentence(judgement.reason or 'nothing could be judged')} That says nothing for or against the video."
    answer = of_verdict(judgement.verdict, judgement.probability).lower()
    if judgement.familiar is False:
        return (f"The face in this video is unlike those that the model learned from. It would have answered "
                f"\"{answer}\", but nobody knows how often it is right about such faces: take this as no finding in "
                "either direction.")  # fmt: skip
    if not calibrated or judgement.probability is None:
        return ("How sure that is nobody can say: this model was never checked on videos other than those it learned "
                "from.")  # fmt: skip
    share = judgement.probability if judgement.verdict == "forged" else 1 - judgement.probability
    return (f"Were every second video forged, {in_numbers(share)} of those that score like this one would be "
            f"{judgement.verdict}. That was measured on the videos that the model was checked on; for others it is an "
            "estimate.")  # fmt: skip


def in_numbers(share: float) -> str:
    """As people count, and no finer than a calibration carries: 0.83 is about 8 in 10."""
    if share >= SUREST:
        return "more than 19 in 20"
    if share >= 0.85:
        return "about 9 in 10"
    tenths = math.floor(10 * share + 0.5)
    return "about half" if tenths <= 5 else f"about {tenths} in 10"


def shown(probability: float) -> float:
    """As far as a picture may go: no further than the words."""
    return min(max(probability, 1 - SUREST), SUREST)


def of_agreement(found: Agreement) -> str:
    if found.offset_ms is None or found.score is None:
        return _sentence(found.reason or "nothing could be measured")
    return _fit(found.offset_ms, found.score) + (f" {OF_GENERATED}" if found.generated else "")


def _fit(offset_ms: float, score: float) -> str:
    late = round(offset_ms)
    if score < FOREIGN:
        return ("No offset was found at which the lips go with the sound. A dubbed or generated voice does that, and "
                "so do a voice from off screen, music, noise, and faces or voices of a kind that the model does not "
                "know.")  # fmt: skip
    if score < FITTING:
        return ("Lips and sound fit a little, as short pieces of speech may by chance: whether they go together cannot "
                "be told.")  # fmt: skip
    if abs(late) < NOTICEABLE_MS:
        return "Lips and sound go together."
    side = "late" if late > 0 else "early"
    return f"Lips and sound go together once the sound is moved: it comes {abs(late)} ms too {side}."


def of_training(config: Mapping[str, Any]) -> str:
    """What the model learned from."""
    known = config.get("trained_on") or {}
    data = ", ".join(map(str, known.get("datasets", []))) or "data that its bundle does not name"
    text = f"{data}; forgeries: {', '.join(config.get('methods') or []) or 'all that it has'}"
    left_out = config.get("leave_out") or []
    generated = "; all of it generated, no real person in it" if config.get("generated") else ""
    return f"{text}{', without ' + ', '.join(left_out) if left_out else ''}{generated}"


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:].rstrip('.')}."
