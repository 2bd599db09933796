"""Every number against its definition: worked by hand, or counted over all pairs and thresholds."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from engine import metrics
from engine.calibration import Calibration
from engine.errors import UserError

# Descending by score: forged .9, forged .8, real .7, forged .6, real .6 (a tie), real .2
LABELS = [1, 1, 0, 1, 0, 0]
SCORES = [0.9, 0.8, 0.7, 0.6, 0.6, 0.2]


def random_sets(count=60):
    """Small sets with many ties, of any mix of classes."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        size = int(generator.integers(2, 25))
        labels = generator.integers(0, 2, size)
        labels[:2] = 0, 1
        yield labels, np.round(generator.normal(size=size) + labels, int(generator.integers(0, 3)))


def roc_by_counting(labels, scores):
    """(FPR, TPR) of every possible threshold, from the highest to the lowest."""
    points = []
    for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
        forged = scores >= threshold
        points.append((forged[labels == 0].mean(), forged[labels == 1].mean()))
    return points


def test_auc_by_hand_and_over_all_pairs():
    assert metrics.auc(LABELS, SCORES) == pytest.approx((3 + 3 + 1.5) / 9)  # pairs won by .9, .8 and .6
    for labels, scores in random_sets():
        pairs = [(f > r) + (f == r) / 2 for f in scores[labels == 1] for r in scores[labels == 0]]
        assert metrics.auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_average_precision_by_hand_and_by_counting():
    # Recall rises to 1/3 and 2/3 at precision 1, and to 1 at the tie, where 3 of 5 are forged.
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(1 / 3 + 1 / 3 + 1 / 3 * 3 / 5)
    for labels, scores in random_sets():
        total, recall = 0.0, 0.0
        for threshold in sorted(set(scores), reverse=True):
            called = scores >= threshold
            now = labels[called].sum() / labels.sum()
            total, recall = total + (now - recall) * labels[called].mean(), now
        assert metrics.average_precision(labels, scores) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("labels", "scores", "expected"), [
    (LABELS, SCORES, 1 / 3),  # threshold .7: 1 of 3 reals called forged, 1 of 3 forged ones missed
    ([0, 0, 1, 1], [1, 2, 3, 4], 0),
    ([1, 1, 0, 0], [1, 2, 3, 4], 1),
    ([0, 0, 1, 1], [1, 3, 2, 4], 1 / 2),
    ([0, 1, 1], [2, 3, 1], 1 / 2),  # from (0, 1/2) straight right to (1, 1/2): met at one half
    ([0, 1, 0, 1], [5, 5, 5, 5], 1 / 2),  # one line from (0, 0) to (1, 1)
    ([0, 0, 1, 1, 1], [1, 2, 2, 3, 3], 1 / 5),  # (0, 2/3) to (1/2, 1) meets the diagonal at FPR 1/5
])  # fmt: skip
def test_equal_error_rate_by_hand(labels, scores, expected):
    assert metrics.equal_error_rate(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_equal_error_rate_by_scanning():
    for labels, scores in random_sets():
        fpr, tpr = np.array(roc_by_counting(labels, scores)).T
        along = np.linspace(0, len(fpr) - 1, 40_001)  # a walk along the joined points
        walked = np.interp(along, np.arange(len(fpr)), fpr), np.interp(along, np.arange(len(fpr)), 1 - tpr)
        nearest = np.argmin(np.abs(walked[0] - walked[1]))
        assert metrics.equal_error_rate(labels, scores) == pytest.approx(walked[0][nearest], abs=1e-3)


def test_true_positive_rate_at_a_false_positive_rate():
    assert metrics.tpr_at_fpr(LABELS, SCORES, 0.0) == pytest.approx(2 / 3)
    assert metrics.tpr_at_fpr(LABELS, SCORES, 0.3) == pytest.approx(2 / 3)
    assert metrics.tpr_at_fpr(LABELS, SCORES, 1 / 3) == pytest.approx(2 / 3)
    assert metrics.tpr_at_fpr(LABELS, SCORES, 0.67) == 1  # the tie brings the second false positive with it
    assert metrics.tpr_at_fpr([0, 1] * 3, [3, 3, 2, 2, 1, 1], 0.7) == 2 / 3  # a point on a straight part of the curve
    for labels, scores in random_sets():
        for rate in (0.0, 0.01, 0.1, 0.5):
            allowed = [tpr for fpr, tpr in roc_by_counting(labels, scores) if fpr <= rate]
            assert metrics.tpr_at_fpr(labels, scores, rate) == max(allowed)


@pytest.mark.parametrize("reals", [10, 30, 70, 100, 700, 900])
def test_a_rate_that_is_met_exactly_counts(reals):
    """One forged video just below exactly 1 % or 10 % of the reals, as the rates round."""
    for rate in (0.01, 0.1):
        allowed = round(reals * rate)
        if allowed / reals == rate:
            scores = [*range(reals), reals - allowed - 0.5]
            assert metrics.tpr_at_fpr([0] * reals + [1], scores, rate) == 1
            scores[-1] -= 1
            assert metrics.tpr_at_fpr([0] * reals + [1], scores, rate) == 0


def test_at_the_threshold():
    found = asdict(metrics.measure(LABELS, SCORES, Calibration(threshold=0.6)))
    assert (found["tn"], found["fp"], found["fn"], found["tp"]) == (1, 2, 0, 3)  # a score at the threshold is forged
    expected = {"n_real": 3, "n_forged": 3, "accuracy": 4 / 6, "balanced_accuracy": (1 + 1 / 3) / 2, "precision": 3 / 5,
                "recall": 1, "specificity": 1 / 3, "f1": 6 / 8, "auc": 7.5 / 9, "tpr_at_fpr_1": 2 / 3}  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_classes_of_different_size():
    found = metrics.measure([0, 1, 1, 1, 1], [-1.0, -1, 1, 1, 1])
    assert (found.n_real, found.n_forged) == (1, 4)
    assert found.accuracy == pytest.approx(4 / 5) and found.balanced_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert found.specificity == 1 and found.precision == 1 and found.f1 == pytest.approx(6 / 7)


def test_nothing_called_forged():
    found = metrics.measure(LABELS, SCORES, Calibration(threshold=2))
    assert found.precision is None  # undefined, not 0
    assert found.recall == 0 and found.specificity == 1 and found.f1 == 0
    everything = metrics.measure(LABELS, SCORES, Calibration(threshold=-2))
    assert everything.recall == 1 and everything.specificity == 0 and everything.precision == 0.5


def test_all_scores_equal_is_computed_not_assumed():
    found = metrics.measure([0, 1, 1, 1], [3.0] * 4)
    assert (found.auc, found.eer, found.average_precision) == (0.5, 0.5, 0.75)
    assert found.tpr_at_fpr_1 == found.tpr_at_fpr_10 == 0


def test_log_loss():
    assert metrics.log_loss([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert metrics.log_loss([1, 0, 1], [0.8, 0.3, 0.1]) == pytest.approx(-math.log(0.8 * 0.7 * 0.1) / 3)
    assert metrics.log_loss([1], [0.0]) == pytest.approx(15 * math.log(10))  # certain and wrong: 34.5
    assert metrics.log_loss([0], [1.0]) == pytest.approx(15 * math.log(10), rel=1e-4)  # 1 - 1e-15 is rounded
    assert metrics.log_loss([0, 1], [0.0, 1.0]) == pytest.approx(0, abs=1e-14)
    at = Calibration(threshold=1, temperature=2)
    assert metrics.measure([0, 1], [1 - 2 * math.log(3), 1 + 2 * math.log(3)], at).log_loss == pytest.approx(
        -math.log(0.75)
    )


@pytest.mark.parametrize(("labels", "scores", "message"), [
    ([1, 1], [0.1, 0.2], "Celeb-DF: 0 real and 2 forged; measuring needs at least one of each"),
    ([0, 0, 0], [0.1, 0.2, 0.3], "Celeb-DF: 3 real and 0 forged; measuring needs at least one of each"),
    ([], [], "Celeb-DF: 0 real and 0 forged; measuring needs at least one of each"),
    ([0, 1, 1], [0.1, math.nan, math.inf], "Celeb-DF: 2 of 3 scores are NaN or infinite; expected finite numbers"),
    ([0, 2], [0.1, 0.2], "Celeb-DF: label 2.0; expected 0 (real) or 1 (forged)"),
    ([0, None], [0.1, 0.2], "Celeb-DF: label nan; expected 0 (real) or 1 (forged)"),
])  # fmt: skip
def test_what_cannot_be_measured_is_one_line(labels, scores, message):
    with pytest.raises(UserError) as caught:
        metrics.measure(labels, scores, what="Celeb-DF")
    assert str(caught.value) == message
    for metric in metrics.BY_NAME.values():
        with pytest.raises(UserError):
            metric(labels, scores)


def test_log_loss_of_what_is_no_probability():
    with pytest.raises(UserError, match="DFDC: log loss needs labels 0 or 1 and probabilities between 0 and 1"):
        metrics.log_loss([0, 1], [0.5, 1.1], "DFDC")
    with pytest.raises(UserError):
        metrics.log_loss([0, 1], [0.5, math.nan])
