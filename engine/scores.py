"""Scores: what a model says of videos, before anything is measured on them.

A label is 1 for a forged video (the positive class) and 0 for a real one. A score is a logit: the higher, the more
forged. A video's score is the mean of its clips' logits. The table of scores is what every published number can be
computed from again.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import UserError
from engine.files import said_plainly, write_atomically

Floats = NDArray[np.float64]


class VideoScores(NamedTuple):
    names: list[str]  # in the order in which they first appeared
    logits: Floats
    clips: NDArray[np.int64]  # how many clips each mean is over


def video_scores(logits: ArrayLike, videos: Sequence[str], expected: Iterable[str] = ()) -> VideoScores:
    """The mean logit of each video, summed in double precision; `logits[i]` is of a clip of `videos[i]`.

    A video of `expected` that has no clip is an error; who would rather report such videos asks `without_clips`.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.shape != (len(videos),):
        raise ValueError(f"one logit per clip: {len(videos)} clips, logits of shape {values.shape}")
    places: dict[str, int] = {}
    index = np.array([places.setdefault(video, len(places)) for video in videos], dtype=np.int64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(f"the model's score is {values[bad[0]]} for a clip of {videos[bad[0]]} "
                        f"({len(bad)} of {len(values)} clips are not finite): no mean can be taken")
    missing = without_clips(places, expected)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{len(missing)} of the videos to score have no clip: {shown}")
    clips = np.bincount(index, minlength=len(places))
    return VideoScores(list(places), np.bincount(index, values, minlength=len(places)) / clips, clips)


def judged(rows: Iterable[Score]) -> tuple[list[int], list[float]]:
    """Labels and logits of those videos that have both."""
    known = [(row.label, row.logit) for row in rows if row.label is not None and row.logit is not None]
    return [label for label, _ in known], [logit for _, logit in known]


def without_clips(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    """The expected videos that nothing was scored of, in their order."""
    scored = set(names)
    return [video for video in expected if video not in scored]


def both_classes(labels: ArrayLike, scores: ArrayLike, what: str = "scores") -> tuple[NDArray[np.int64], Floats]:
    """Labels and scores as arrays, or one line: nothing here has a meaning for one class, or for a NaN."""
    marks, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if marks.ndim != 1 or marks.shape != values.shape:
        raise ValueError(f"one label per score: shapes {marks.shape} and {values.shape}")
    if not np.isin(marks, (0, 1)).all():
        raise UserError(f"{what}: label {marks[~np.isin(marks, (0, 1))][0]}; expected 0 (real) or 1 (forged)")
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise UserError(f"{what}: {bad} of {len(values)} scores are NaN or infinite; expected finite numbers")
    forged = int(marks.sum())
    real = len(marks) - forged
    if not (real and forged):
        raise UserError(f"{what}: {real} real and {forged} forged; measuring needs at least one of each")
    return marks.astype(np.int64), values


@dataclass(frozen=True)
class Score:
    """One line of the table. A video that nothing could be scored of has no clips and no logit, and is listed."""

    video: str
    dataset: str
    method: str  # how it was forged, or "real"
    label: int | None  # None where nobody has said
    identity: str  # whom to resample together (engine.bootstrap); empty where unknown
    clips: int
    logit: float | None

    def __post_init__(self) -> None:
        if not self.video:
            raise ValueError("the video has no name")
        if self.label not in (0, 1, None):
            raise ValueError(f"label {self.label!r}; expected 0 (real), 1 (forged) or nothing")
        if self.clips < 0 or (self.logit is None) != (self.clips == 0):
            raise ValueError(f"{self.clips} clips and logit {self.logit}; expected a logit exactly if there are clips")
        if self.logit is not None and not math.isfinite(self.logit):
            raise ValueError(f"logit {self.logit}; expected a finite number")


COLUMNS = tuple(field.name for field in fields(Score))


def write_scores(path: Path, rows: Iterable[Score]) -> None:
    """Logits have all their digits, so reading gives back the same numbers."""
    seen: set[tuple[str, ...]] = set()
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        _require_new(row, seen, str(path))
        label = "" if row.label is None else int(row.label)
        logit = "" if row.logit is None else repr(float(row.logit))
        writer.writerow((row.video, row.dataset, row.method, label, row.identity, int(row.clips), logit))
    with said_plainly(f"writing {path}"):
        write_atomically(path, table.getvalue().encode("utf-8", "surrogateescape"))  # file names may be any bytes


def read_scores(path: Path) -> list[Score]:
    rows: list[Score] = []
    seen: set[tuple[str, ...]] = set()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise UserError(f"{path}:1: expected the columns {','.join(COLUMNS)}, found {','.join(header)!r}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                rows.append(_parsed(row, where))
                _require_new(rows[-1], seen, where)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    return rows


def _parsed(row: list[str], where: str) -> Score:
    if len(row) != len(COLUMNS):
        raise UserError(f"{where}: {len(row)} columns; expected {len(COLUMNS)}: {','.join(COLUMNS)}")
    video, dataset, method, label, identity, clips, logit = row
    # Python's own int and float also take blanks, underscores and the digits of other scripts.
    if label not in ("", "0", "1"):
        raise UserError(f"{where}: label {label!r}; expected 0 (real), 1 (forged) or nothing")
    if not re.fullmatch(r"[0-9]{1,9}", clips):
        raise UserError(f"{where}: clips {clips!r}; expected a whole number")
    if logit and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", logit):
        raise UserError(f"{where}: logit {logit!r}; expected a number")
    try:
        return Score(video, dataset, method, int(label) if label else None, identity, int(clips),
                     float(logit) if logit else None)  # fmt: skip
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _require_new(row: Score, seen: set[tuple[str, ...]], where: str) -> None:
    key = (row.dataset, row.method, row.video)
    if key in seen:
        raise UserError(f"{where}: dataset {row.dataset!r}, method {row.method!r}, video {row.video!r} is listed twice")
    seen.add(key)
