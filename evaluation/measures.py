"""From the two tables of scores on the disk to what is measured of each line, with 95 % intervals.

    scores.csv   a line a video (engine.scores): its logit is the mean of its clips'
    clips.csv    a line a clip: video, dataset, method, track, start, logit

Everything in a report is computed from these two files, so that anybody can compute it again.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from engine import bootstrap as draws_of
from engine.bootstrap import Interval, bootstrap, bootstrap_many
from engine.calibration import Bin, Calibration, expected_calibration_error, reliability
from engine.errors import UserError
from engine.files import said_plainly, write_atomically
from engine.metrics import Metrics, auc, measure
from engine.scores import Floats, Score, judged, read_scores, write_scores
from engine.tables import Cell
from evaluation.plan import Line
from evaluation.scored import Clip

SCORES, CLIPS = "scores.csv", "clips.csv"
COLUMNS = tuple(field.name for field in fields(Clip))


@dataclass(frozen=True)
class Tables:
    """What was read back from the disk."""

    rows: dict[str, list[Score]]  # by part
    clips: dict[tuple[str, str, str], list[Clip]]  # by part, method and video

    @classmethod
    def read(cls, folder: Path) -> Tables:
        rows: dict[str, list[Score]] = defaultdict(list)
        for row in read_scores(folder / SCORES):
            rows[row.dataset].append(row)
        clips: dict[tuple[str, str, str], list[Clip]] = defaultdict(list)
        for clip in read_clips(folder / CLIPS):
            clips[clip.dataset, clip.method, clip.video].append(clip)
        return cls(dict(rows), dict(clips))

    def of(self, line: Line) -> list[Score]:
        """The videos of a line, those without a clip among them."""
        real = [row for row in self.rows[line.reals.name] if row.label == 0]
        return real + [row for row in self.rows[line.forged.name] if row.label == 1 and row.method in line.methods]

    def clips_of(self, row: Score) -> list[Clip]:
        return self.clips.get((row.dataset, row.method, row.video), [])


def write_tables(folder: Path, rows: Sequence[Score], clips: Sequence[Clip]) -> None:
    write_scores(folder / SCORES, rows)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((c.video, c.dataset, c.method, c.track, c.start, repr(c.logit)) for c in clips)
    with said_plainly(f"writing {folder / CLIPS}"):
        write_atomically(folder / CLIPS, table.getvalue().encode("utf-8", "surrogateescape"))


def read_clips(path: Path) -> list[Clip]:
    with said_plainly(f"reading {path}"), path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        if tuple(next(reader, ())) != COLUMNS:
            raise UserError(f"{path}:1: expected the columns {','.join(COLUMNS)}")
        return [Clip(video, dataset, method, track, int(start), float(logit))
                for video, dataset, method, track, start, logit in reader]  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Of one line. Rates are shares; a table makes per cent of them."""

    line: Line
    metrics: Metrics
    auc: Cell
    clip_auc: Cell
    average_precision: Cell
    eer: Cell
    clips: int
    without_clips: int  # videos of which nothing could be scored
    calibration_error: float
    bins: list[Bin]
    roc: tuple[Floats, Floats]
    real: list[float]  # logits of the videos
    forged: list[float]


def measured(line: Line, tables: Tables, draws: int, seed: int, notes: list[str]) -> Found:
    """`notes` is told where no interval can be given."""
    rows = tables.of(line)
    scored = [row for row in rows if row.logit is not None]
    labels, logits = judged(scored)
    calibration = line.forged.detector.calibration or Calibration()
    metrics = measure(labels, logits, calibration, line.name)
    units = [unit(line, row) for row in scored]
    bins = reliability(labels, calibration.probability(logits))
    per_clip = [(row.label, clip.logit, name) for row, name in zip(scored, units, strict=True)
                for clip in tables.clips_of(row)]  # fmt: skip
    clip_labels, clip_logits, clip_units = zip(*per_clip, strict=True)

    def interval(value: float, metric: str, of: tuple = (labels, logits, units), what: str = "") -> Cell:
        named = f"{line.name}{what}"
        return _cell(value, lambda: bootstrap(*of, metric=metric, draws=draws, seed=seed, what=named), notes)

    fpr, tpr, _ = roc_curve(labels, logits)
    return Found(
        line, metrics, interval(metrics.auc, "auc"),
        interval(auc(clip_labels, clip_logits), "auc", (clip_labels, clip_logits, clip_units), ", clips"),
        interval(metrics.average_precision, "average_precision"), interval(metrics.eer, "eer"),
        len(per_clip), len(rows) - len(scored), expected_calibration_error(bins), bins, (fpr, tpr),
        *([logit for logit, mark in zip(logits, labels, strict=True) if mark == label] for label in (0, 1)),
    )  # fmt: skip


def unit(line: Line, row: Score) -> str:
    """What a video is drawn with: the person, a name within a data set; where nobody knows, the video alone."""
    return f"{line.people}: {row.identity}" if row.identity else row.video


def mean_of(name: str, lines: Sequence[Line], tables: Tables, draws: int, seed: int, notes: list[str]) -> Cell:
    """The plain mean of the lines' AUC, on draws of people that all lines share."""
    columns = {}
    for line in lines:
        rows = [row for row in tables.of(line) if row.logit is not None]
        columns[line.name] = draws_of.Scored(*judged(rows), [unit(line, row) for row in rows])
    value = float(np.mean([auc(column.labels, column.scores) for column in columns.values()]))
    return _cell(value, lambda: bootstrap_many(columns, draws=draws, seed=seed, what=name)[1], notes)


def _cell(value: float, interval: Callable[[], Interval], notes: list[str]) -> Cell:
    """The number with its interval; without one, and a note of the reason, where the data are too few for it."""
    try:
        found = interval()
    except UserError as error:
        note = f"no interval: {error}"
        if note not in notes:
            notes.append(note)
        return Cell(value)
    return Cell(value, found.low, found.high)
