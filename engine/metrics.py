"""What is measured on scores, each with its definition. Labels and scores are those of `engine.scores`.

One class only, a NaN or a label that is neither 0 nor 1 is a `UserError`: there is no AUC of 0.5 for want of data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from engine.calibration import Calibration
from engine.errors import UserError
from engine.scores import Floats, both_classes

# The challenge's page gives the formula; Kaggle's pages on log loss say that predictions are "bounded away from the
# extremes by a small value" but not by which. 1e-15 is that of the code Kaggle published for its log-loss challenges,
# and was scikit-learn's in the year of the challenge. A certain and wrong verdict costs 34.5.
KAGGLE_CLIP = 1e-15


@dataclass(frozen=True)
class Metrics:
    """All of one set of scores. `dataclasses.asdict` makes a flat dictionary of it."""

    n_real: int
    n_forged: int
    auc: float
    average_precision: float
    eer: float
    tpr_at_fpr_1: float
    tpr_at_fpr_10: float
    # At the calibrated threshold; forged is the positive class.
    tn: int
    fp: int
    fn: int
    tp: int
    accuracy: float
    balanced_accuracy: float  # mean of recall and specificity
    precision: float | None  # undefined, hence None, where nothing was called forged
    recall: float
    specificity: float
    f1: float  # 2 tp / (2 tp + fp + fn), which is 0 where nothing was called forged
    # Of the calibrated probability.
    log_loss: float


def measure(labels: ArrayLike, scores: ArrayLike, calibration: Calibration | None = None,
            what: str = "scores") -> Metrics:  # fmt: skip
    """`what` is named in errors: the dataset and the method. Without a calibration the threshold is a logit of 0."""
    marks, values = both_classes(labels, scores, what)
    calibration = calibration or Calibration()
    positive, forged = marks == 1, calibration.forged(values)
    tp, fp = int(np.sum(forged & positive)), int(np.sum(forged & ~positive))
    fn, tn = int(np.sum(~forged & positive)), int(np.sum(~forged & ~positive))
    recall, specificity = tp / (tp + fn), tn / (tn + fp)
    return Metrics(
        n_real=tn + fp,
        n_forged=tp + fn,
        auc=auc(marks, values),
        average_precision=average_precision(marks, values),
        eer=equal_error_rate(marks, values),
        tpr_at_fpr_1=tpr_at_fpr(marks, values, 0.01),
        tpr_at_fpr_10=tpr_at_fpr(marks, values, 0.10),
        tn=tn, fp=fp, fn=fn, tp=tp,
        accuracy=(tp + tn) / len(marks),
        balanced_accuracy=(recall + specificity) / 2,
        precision=tp / (tp + fp) if tp + fp else None,
        recall=recall,
        specificity=specificity,
        f1=2 * tp / (2 * tp + fp + fn),
        log_loss=log_loss(marks, calibration.probability(values), what),
    )  # fmt: skip


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The chance that a random forged video scores higher than a random real one, a tie counting one half."""
    return float(roc_auc_score(*both_classes(labels, scores)))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision at each threshold, weighted by the recall it adds; no interpolation. Depends on the mix of classes."""
    return float(average_precision_score(*both_classes(labels, scores)))


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """Where the ROC curve, its points joined by lines as for the AUC, has as many false positives as misses (rates)."""
    fpr, tpr = _roc(labels, scores)
    excess = fpr - (1 - tpr)  # from -1 to 1, and each threshold adds to it
    after = int(np.argmax(excess >= 0))
    before = after - 1
    share = excess[before] / (excess[before] - excess[after])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """The largest true-positive rate of all thresholds whose false-positive rate is at most `fpr`; no interpolation.

    With fewer than 1 / fpr real videos that means no false positive at all.
    """
    rates, tpr = _roc(labels, scores)
    return float(tpr[rates <= fpr].max())


def log_loss(labels: ArrayLike, probabilities: ArrayLike, what: str = "scores") -> float:
    """Mean of -log of the probability given to the truth, clipped as on Kaggle. Defined for one class as well."""
    marks, values = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if marks.shape != values.shape or not marks.size:
        raise ValueError(f"one label per probability, and at least one: shapes {marks.shape} and {values.shape}")
    if not (np.isin(marks, (0, 1)).all() and ((values >= 0) & (values <= 1)).all()):
        raise UserError(f"{what}: log loss needs labels 0 or 1 and probabilities between 0 and 1")
    values = np.clip(values, KAGGLE_CLIP, 1 - KAGGLE_CLIP)
    return float(-np.mean(np.log(np.where(marks == 1, values, 1 - values))))


def _roc(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    fpr, tpr, _ = roc_curve(*both_classes(labels, scores), drop_intermediate=False)
    return fpr, tpr


# Those that need scores only: what an interval can be asked for by name.
BY_NAME: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "auc": auc,
    "average_precision": average_precision,
    "eer": equal_error_rate,
    "tpr_at_fpr_1": partial(tpr_at_fpr, fpr=0.01),
    "tpr_at_fpr_10": partial(tpr_at_fpr, fpr=0.10),
}
