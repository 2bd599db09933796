"""From a logit to a verdict and a probability, by two numbers fitted on validation videos.

    forged       if logit >= threshold
    probability  sigmoid((logit - threshold) / temperature)

The temperature is fitted about the threshold, so a probability of 0.5 is the threshold and the two cannot contradict
each other. Both classes weigh the same, however many videos each has: the verdict maximises balanced accuracy, and the
probability is that of a video about which nothing was known beforehand (the training's prior is left out of the logits
as well). Who expects one forgery in a hundred videos must say so: add log(0.01 / 0.99) to the probability's logit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from engine.errors import UserError
from engine.scores import Floats, both_classes


@dataclass(frozen=True)
class Calibration:
    threshold: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"threshold {self.threshold}, temperature {self.temperature}; "
                             "expected finite numbers, the temperature above 0")

    def forged(self, logits: ArrayLike) -> NDArray[np.bool_]:
        return np.asarray(logits, dtype=np.float64) >= self.threshold

    def probability(self, logits: ArrayLike) -> Floats:
        with np.errstate(over="ignore"):  # far away is infinitely far away, which is 0 or 1
            return expit((np.asarray(logits, dtype=np.float64) - self.threshold) / self.temperature)

    def to_dict(self) -> dict[str, float]:
        return {"threshold": float(self.threshold), "temperature": float(self.temperature)}

    @classmethod
    def from_dict(cls, values: Any, where: str = "calibration") -> Calibration:
        """What somebody's bundle says; anything but two usable numbers is one line."""
        if not isinstance(values, Mapping) or set(values) != {"threshold", "temperature"}:
            found = ", ".join(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise UserError(f"{where}: expected the keys threshold and temperature, found {found[:100]}")
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{where}: {key} is {str(value)[:100]!r}; expected a number")
        try:
            return cls(float(values["threshold"]), float(values["temperature"]))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{where}: {error}") from error


def calibrate(labels: ArrayLike, logits: ArrayLike, what: str = "calibration") -> Calibration:
    """Threshold, then temperature, of one logit per validation video."""
    marks, values = both_classes(labels, logits, what)
    if values.min() == values.max():
        raise UserError(f"{what}: all {len(values)} scores are {values[0]}; expected a model that tells videos apart")
    threshold = _threshold(marks, values)
    return Calibration(threshold, _temperature(marks, values - threshold))


def _threshold(labels: NDArray[np.int64], logits: Floats) -> float:
    """Maximises balanced accuracy (Youden's J): the middle of the widest of the best gaps between two scores.

    Cuts below or above all scores are left out: a threshold has to be finite.
    """
    levels, level = np.unique(logits, return_inverse=True)
    forged = np.bincount(level, labels).astype(np.int64)
    real = np.bincount(level) - forged
    # Cut i lies between levels i and i+1. Specificity + recall - 1, times both class sizes: whole numbers, exact ties.
    correct_real, missed = np.cumsum(real)[:-1], np.cumsum(forged)[:-1]
    youden = correct_real * forged.sum() - missed * real.sum()
    best = np.flatnonzero(youden == youden.max())
    cut = best[np.argmax(levels[best + 1] - levels[best])]
    low, high = float(levels[cut]), float(levels[cut + 1])
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high  # neighbouring numbers have no middle


def _temperature(labels: NDArray[np.int64], distances: Floats) -> float:
    """Minimises the negative log-likelihood, both classes weighing the same; convex in 1 / temperature.

    The targets are those of Platt (1999), (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0: otherwise classes that
    validation happens to separate would ask for a temperature of 0, and every verdict would be certain. The temperature
    stays within a hundredth and a hundred times the mean distance from the threshold. A model no better than chance
    ends at the upper bound, where every probability is about 0.5.
    """
    forged = labels == 1
    sizes = np.where(forged, forged.sum(), (~forged).sum())
    targets = np.where(forged, sizes + 1, 1) / (sizes + 2)
    unit = np.abs(distances).mean()
    steps = distances / unit

    def slope(inverse: float) -> float:
        return float(np.sum((expit(inverse * steps) - targets) * steps / sizes))

    low, high = 0.01, 100.0
    if slope(low) >= 0:
        inverse = low
    elif slope(high) <= 0:
        inverse = high
    else:
        inverse = brentq(slope, low, high, xtol=1e-12)
    return float(unit / inverse)


class Bin(NamedTuple):
    low: float
    high: float
    videos: int
    weight: float  # its share of all, the classes weighing the same
    predicted: float | None  # mean probability; None where the bin is empty
    observed: float | None  # share of forged videos


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[Bin]:
    """Bins of equal width, for a picture. Both classes weigh the same, as in the fit: another mix is no error."""
    marks, values = both_classes(labels, probabilities, "reliability")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("probabilities lie between 0 and 1")
    weights = 0.5 / np.bincount(marks)[marks]
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    total, predicted, observed = (np.bincount(place, w, minlength=bins) for w in
                                  (weights, weights * values, weights * marks))  # fmt: skip
    return [
        Bin(i / bins, (i + 1) / bins, int(counts[i]), float(total[i]),
            float(predicted[i] / total[i]) if counts[i] else None,
            float(observed[i] / total[i]) if counts[i] else None)
        for i in range(bins)
    ]  # fmt: skip


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean distance between what was predicted and what was observed, each bin by its weight."""
    full = [(b.weight, b.predicted, b.observed) for b in bins if b.predicted is not None and b.observed is not None]
    return sum(weight * abs(predicted - observed) for weight, predicted, observed in full)
