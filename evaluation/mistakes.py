"""The videos that a detector got most wrong, as strips of pictures: eight frames of the clip that misled it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.clips import CLIP_FRAMES
from engine.calibration import Calibration
from engine.scores import Score
from evaluation.measures import Tables
from evaluation.page import data_address
from evaluation.plan import Line, Part

FRAMES, SIDE, EACH = 8, 96, 6


@dataclass(frozen=True)
class Mistake:
    row: Score
    distance: float  # of the video's logit from the threshold, to the wrong side
    picture: str  # data: address of a JPEG


def worst(lines: Sequence[Line], tables: Tables, count: int = EACH) -> dict[str, list[Mistake]]:
    """Of all the lines' videos the `count` worst of each class; a real video that several lines share comes once."""
    parts = {part.name: part for line in lines for part in (line.reals, line.forged)}
    rows = {(row.dataset, row.method, row.video): row for line in lines for row in tables.of(line)}
    distances = [(_wrong_by(row.label, row.logit, parts[row.dataset]), key) for key, row in rows.items()
                 if row.logit is not None]  # fmt: skip
    wrong = sorted((item for item in distances if item[0] >= 0), reverse=True)
    found: dict[str, list[Mistake]] = {}
    for label, title in ((0, "Real videos called forged"), (1, "Forged videos called real")):
        chosen = [(distance, rows[key]) for distance, key in wrong if rows[key].label == label][:count]
        found[title] = [Mistake(row, distance, _strip(row, parts[row.dataset], tables)) for distance, row in chosen]
    return found


def _wrong_by(label: int | None, logit: float, part: Part) -> float:
    """Below 0: it is right. The threshold itself is called forged."""
    beyond = logit - (part.detector.calibration or Calibration()).threshold
    return beyond if label == 0 else -beyond if beyond < 0 else -1.0


def _strip(row: Score, part: Part, tables: Tables) -> str:
    pick = max if row.label == 0 else min
    clip = pick(tables.clips_of(row), key=lambda clip: clip.logit)
    track = int(np.flatnonzero(part.store.table.ids == clip.track)[0])
    strip = Image.new("RGB", (FRAMES * SIDE, SIDE))
    for place in range(FRAMES):
        at = clip.start + round(place * (CLIP_FRAMES - 1) / (FRAMES - 1))
        picture = Image.fromarray(part.store.frames(track, at, at + 1)[0])
        strip.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (place * SIDE, 0))
    return data_address(strip)
