"""Intervals by bootstrap: how much a number would move with other videos of the same kind (Efron and Tibshirani 1993).

Videos, or whole groups of them, are drawn with replacement, as many as there are; the interval lies between the
percentiles of what is measured on the draws. Clips are never resampled: those of one video are no independent
evidence, and neither are videos of one person. Groups are therefore the identities, where they are known; for a swap,
the identity of the video that it was made from.

Draws that lack a class are left out and counted. Where the classes are separated without error every draw says so too,
and the interval has no width: that is the method's limit, not certainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import metrics
from engine.errors import UserError
from engine.scores import Floats, both_classes

Metric = Callable[[NDArray[np.int64], Floats], float | None]
LEVEL = 0.95
USABLE = 0.9  # of the draws; with two real videos 13 % of the draws have none, with three 5 %
_ENTRIES = 1_000_000  # of the matrix draws x units that is in memory at a time


@dataclass(frozen=True)
class Interval:
    value: float  # of all videos as they are
    low: float
    high: float
    level: float
    draws: int
    used: int  # draws in which the number was defined
    units: int  # what was drawn: videos or groups


class Scored(NamedTuple):
    """Labelled scores, and for each the name of the unit that it is drawn with: its identity or itself."""

    labels: ArrayLike
    scores: ArrayLike
    units: Sequence[str]


def bootstrap(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[str | None] | None = None,
    *,
    metric: str | Metric = "auc",
    draws: int = 1000,
    seed: int = 0,
    what: str = "interval",
) -> Interval:
    """Of one metric: a name of `metrics.BY_NAME`, or a function of labels and scores that may return None.

    A video whose group is None or empty is a group of its own.
    """
    marks, values = both_classes(labels, scores, what)
    of, units = _units(groups, len(marks))
    if metric == "auc":
        ranked = _rank(marks, values, of)
        estimates = [_aucs(ranked, counts) for counts in _draw(units, draws, seed)]
        return _interval(metrics.auc(marks, values), np.concatenate(estimates), units, what)
    function = metrics.BY_NAME[metric] if isinstance(metric, str) else metric
    found = [_measured(function, marks, values, row[of]) for counts in _draw(units, draws, seed) for row in counts]
    return _interval(_measured(function, marks, values, np.ones_like(of)), np.array(found), units, what)


def paired_difference(
    labels: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    groups: Sequence[str | None] | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    what: str = "difference",
) -> Interval:
    """AUC of `scores` minus that of `others`: two models on the same videos, and on the same draws of them.

    What makes a video hard is hard for both, so this is narrower than two intervals side by side. "Better" may be
    claimed where 0 lies outside.
    """
    of, units = _units(groups, len(np.asarray(scores)))
    pair = [both_classes(labels, each, what) for each in (scores, others)]
    ranked = [_rank(marks, values, of) for marks, values in pair]
    estimates = [_aucs(ranked[0], counts) - _aucs(ranked[1], counts) for counts in _draw(units, draws, seed)]
    value = metrics.auc(*pair[0]) - metrics.auc(*pair[1])
    return _interval(value, np.concatenate(estimates), units, what)


def bootstrap_many(
    columns: Mapping[str, Scored], *, draws: int = 1000, seed: int = 0, what: str = "interval"
) -> tuple[dict[str, Interval], Interval]:
    """The AUC of each column of a table (a method, a dataset) and their plain mean, on draws shared by all columns.

    Units of the same name are drawn together: real videos that every method is held against, or the same videos scored
    by several models. The mean counts draws in which every column is defined.
    """
    if not columns:
        raise ValueError("no columns")
    of, units = _indexed([unit for column in columns.values() for unit in column.units])
    ends = np.cumsum([len(column.units) for column in columns.values()])
    values, ranked = {}, {}
    for (name, column), own in zip(columns.items(), np.split(of, ends[:-1]), strict=True):
        marks, scores = both_classes(column.labels, column.scores, f"{what}, {name}")
        values[name], ranked[name] = metrics.auc(marks, scores), _rank(marks, scores, own)
    drawn = [[_aucs(each, counts) for each in ranked.values()] for counts in _draw(units, draws, seed)]
    estimates = np.concatenate(drawn, axis=1)  # columns x draws
    each = {name: _interval(values[name], estimates[i], len(set(columns[name].units)), f"{what}, {name}")
            for i, name in enumerate(columns)}  # fmt: skip
    mean = _interval(float(np.mean(list(values.values()))), estimates.mean(axis=0), units, f"{what}, mean")
    return each, mean


def _units(groups: Sequence[str | None] | None, videos: int) -> tuple[NDArray[np.int64], int]:
    """Which unit each video belongs to, and how many there are."""
    if groups is None:
        return np.arange(videos), videos
    if len(groups) != videos:
        raise ValueError(f"one group per video: {len(groups)} groups, {videos} videos")
    return _indexed([group or i for i, group in enumerate(groups)])  # a number never equals a name


def _indexed(keys: Sequence[str | int]) -> tuple[NDArray[np.int64], int]:
    places: dict[str | int, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64), len(places)


def _draw(units: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each unit is in each draw: arrays of some draws x units, `draws` rows in all."""
    generator = np.random.default_rng(seed)
    rows = max(1, _ENTRIES // units)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = generator.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)


class _Ranked(NamedTuple):
    """Videos in ascending order of score."""

    forged: NDArray[np.bool_]
    unit: NDArray[np.int64]
    starts: NDArray[np.int64]  # where a new score begins


def _rank(labels: NDArray[np.int64], scores: Floats, of: NDArray[np.int64]) -> _Ranked:
    if labels.shape != of.shape:
        raise ValueError(f"one unit per score: {len(of)} units, {len(labels)} scores")
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return _Ranked(labels[order] == 1, of[order], starts)


def _aucs(videos: _Ranked, counts: NDArray[np.int64]) -> Floats:
    """The AUC of each draw; NaN where a class is absent. Whole numbers up to the division, so nothing is rounded."""
    weights = counts[:, videos.unit]
    real = np.add.reduceat(np.where(videos.forged, 0, weights), videos.starts, axis=1)  # per distinct score
    forged = np.add.reduceat(np.where(videos.forged, weights, 0), videos.starts, axis=1)
    below = np.cumsum(real, axis=1) - real
    won = np.sum(forged * (2 * below + real), axis=1)  # twice the pairs in which the forged video scores higher
    pairs = real.sum(axis=1) * forged.sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(2 * pairs, 1), np.nan)


def _measured(function: Metric, labels: NDArray[np.int64], scores: Floats, weights: NDArray[np.int64]) -> float:
    index = np.repeat(np.arange(len(labels)), weights)
    labels = labels[index]
    if labels.all() or not labels.any():
        return np.nan
    value = function(labels, scores[index])
    return np.nan if value is None else float(value)


def _interval(value: float, estimates: Floats, units: int, what: str) -> Interval:
    """Percentiles of the draws that are defined, if these are enough to stand for all."""
    if units < 2:
        raise UserError(f"{what}: everything belongs to one group; an interval needs at least two to draw from")
    usable = estimates[np.isfinite(estimates)]
    if not np.isfinite(value) or len(usable) < USABLE * len(estimates):
        raise UserError(f"{what}: defined in only {len(usable)} of {len(estimates)} draws from {units} videos or "
                        "groups; an interval needs more of the rarer class")
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), LEVEL, len(estimates), len(usable), units)
