"""Judgements and moments made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.verdict.judgement import Agreement, Judgement, Person, Window
from evaluation.verdict.moments import Moment

PIXEL = "data:image/jpeg;base64,/9j/4AAQ"


def person(number: int = 1, logits: tuple[float, ...] = (3.0, 1.0, 4.0), start: int = 0, **values) -> Person:
    """25 frames a window, side by side; its crops lie at 10 + 20i, a third of a picture's pixel for each of theirs."""
    windows = tuple(Window(start + 25 * k, logit) for k, logit in enumerate(logits))
    frames = 25 * len(logits)
    mean = float(np.mean(logits)) if logits else None
    return Person(**{
        "number": number, "start": start, "frames": frames, "side": 90.0, "windows": windows, "logit": mean,
        "probability": 0.83, "verdict": "forged", "places": np.tile([10 + 20j, 1 / 3 + 0j], (frames, 1)), **values,
    })  # fmt: skip


def judgement(video: Path | str = "clip.mp4", people: tuple[Person, ...] | None = None, **values) -> Judgement:
    people = (person(),) if people is None else people
    first = people[0] if people else None
    return Judgement(**{
        "video": Path(video), "verdict": first.verdict if first else "cannot tell",
        "reason": None if first else "no face in any of 75 frames", "logit": first and first.logit,
        "probability": first and first.probability, "people": people, "frames": 75, "width": 96, "height": 80,
        "has_sound": True, "familiar": first and first.familiar, "took": 1.5, **values,
    })  # fmt: skip


def moment(start: int = 0, logit: float = 3.0, person: int = 1) -> Moment:
    return Moment(person, start, start + 12, logit, f"{PIXEL}{person}{start}P", f"{PIXEL}{person}{start}H")


def agreeing(offset: float | None = 40.0, score: float | None = 0.7, **values) -> Agreement:
    offsets = tuple(float(x) for x in range(-400, 401, 40))
    curve = tuple(1 - abs(x - (offset or 0)) / 1000 for x in offsets)
    return Agreement(offset, score, **{"offsets_ms": offsets, "similarity": curve, **values})
