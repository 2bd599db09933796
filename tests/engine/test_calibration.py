"""Threshold and temperature: against all cuts tried one by one, against a grid, and against what they promise."""

import math

import numpy as np
import pytest
import yaml

from engine.calibration import Calibration, calibrate, expected_calibration_error, reliability
from engine.errors import UserError


def sample(seed=0, reals=60, forged=200, apart=2.0, scale=1.0, shift=0.0):
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, forged])
    return labels, scale * (generator.normal(size=reals + forged) + apart * labels) + shift


def balanced_accuracy(labels, logits, threshold):
    forged = logits >= threshold
    return (forged[labels == 1].mean() + (~forged[labels == 0]).mean()) / 2


@pytest.mark.parametrize(("labels", "logits", "threshold"), [
    ([0, 0, 1, 1], [0, 1, 5, 6], 3),
    ([0, 0, 0, 1, 1], [0, 1, 9, 5, 12], 3),  # 5/6 of balanced accuracy; 10.5 would have 3/4
    ([0, 1, 0, 1], [0, 2, 5, 6], 1),  # 1 and 5.5 both have 3/4; the gap about 1 is wider
    ([0, 1, 0, 1], [0, 2, 5, 9], 7),  # now the other one
    ([0, 0, 1, 1], [0, 1, 1, 2], 0.5),  # a tie: between 0 and 1, or between 1 and 2; equally wide, so the first
    ([1, 0], [0, 1], 0.5),  # worse than chance: still a finite threshold
])  # fmt: skip
def test_threshold_by_hand(labels, logits, threshold):
    assert calibrate(labels, logits).threshold == pytest.approx(threshold)


def test_no_threshold_has_a_better_balanced_accuracy():
    for seed in range(20):
        labels, logits = sample(seed, apart=1.0)
        logits = np.round(logits, 1)
        found = calibrate(labels, logits).threshold
        best = max(balanced_accuracy(labels, logits, cut) for cut in np.arange(-6, 8, 0.05))
        assert balanced_accuracy(labels, logits, found) == pytest.approx(best, abs=1e-12)
        assert np.abs(logits - found).min() >= 0.05 - 1e-9  # not glued to a score


@pytest.mark.parametrize("low", [0.3, np.nextafter(0.3, 1), -1.0, 1e-30])  # whichever way the middle rounds
def test_neighbouring_numbers_have_no_middle(low):
    pair = [low, np.nextafter(low, 1)]
    assert calibrate([0, 1], pair).forged(pair).tolist() == [False, True]


def likelihood(labels, logits, threshold, temperature):
    """The fitted loss in plain words: Platt's targets, each class's mean, one half each."""
    total = 0.0
    for label in (0, 1):
        own = logits[labels == label]
        target = (len(own) + 1) / (len(own) + 2) if label else 1 / (len(own) + 2)
        x = (own - threshold) / temperature
        total += np.mean(target * np.logaddexp(0, -x) + (1 - target) * np.logaddexp(0, x)) / 2
    return total


@pytest.mark.parametrize("apart", [0.3, 1, 2, 4])
def test_temperature_minimises_the_likelihood_on_a_grid(apart):
    labels, logits = sample(apart=apart)
    found = calibrate(labels, logits)
    at = likelihood(labels, logits, found.threshold, found.temperature)
    grid = [likelihood(labels, logits, found.threshold, found.temperature * f) for f in np.geomspace(0.2, 5, 201)]
    assert at == pytest.approx(min(grid), abs=1e-9) and at <= min(grid) + 1e-12


def test_a_known_temperature_is_found():
    """Two normals a apart, of variance 1: the true log-odds are a * (x - a / 2), so threshold a/2, temperature 1/a."""
    labels, logits = sample(reals=40_000, forged=80_000, apart=2.0)
    found = calibrate(labels, logits)
    assert found.threshold == pytest.approx(1.0, abs=0.1) and found.temperature == pytest.approx(0.5, abs=0.02)
    bins = reliability(labels, found.probability(logits))
    assert expected_calibration_error(bins) < 0.02
    hot = Calibration(found.threshold, found.temperature / 5)  # overconfident
    assert expected_calibration_error(reliability(labels, hot.probability(logits))) > 0.05


def test_another_unit_of_the_logits_changes_no_probability():
    labels, logits = sample()
    plain = calibrate(labels, logits)
    moved = calibrate(labels, 1000 * logits - 64)
    assert moved.threshold == pytest.approx(1000 * plain.threshold - 64)
    np.testing.assert_allclose(moved.probability(1000 * logits - 64), plain.probability(logits), atol=1e-9)


def test_more_videos_of_one_class_change_nothing_but_certainty():
    labels, logits = sample(reals=100, forged=100)
    real, forged = logits[labels == 0], logits[labels == 1]
    ten = calibrate([0] * 100 + [1] * 1000, np.concatenate([real, np.tile(forged, 10)]))
    one = calibrate(labels, logits)
    assert ten.threshold == pytest.approx(one.threshold)
    assert ten.temperature == pytest.approx(one.temperature, rel=0.05)  # Platt's targets differ a little


def test_classes_apart_do_not_make_every_verdict_certain():
    for videos in (2, 10, 1000):
        labels = np.repeat([0, 1], videos)
        logits = np.where(labels, 3.0, 1.0)
        found = calibrate(labels, logits)
        assert found.threshold == 2 and 0 < found.temperature < math.inf
        # Of n videos, all right: the chance to be right next time is (n + 1) / (n + 2).
        assert found.probability(3.0) == pytest.approx((videos + 1) / (videos + 2))


def test_worse_than_chance_says_one_half():
    labels, logits = sample(apart=-2.0)
    found = calibrate(labels, logits)
    assert np.abs(found.probability(logits) - 0.5).max() < 0.02


def test_verdict_and_probability_agree():
    labels, logits = sample(apart=1.0)
    found = calibrate(labels, logits)
    assert (found.forged(logits) == (found.probability(logits) >= 0.5)).all()
    assert found.probability(found.threshold) == 0.5 and found.forged(found.threshold)
    order = np.argsort(logits)
    assert (np.diff(found.probability(logits)[order]) >= 0).all()
    assert Calibration(0, 1e-300).probability([-1e300, 0, 1e300]).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("labels", "logits", "message"), [
    ([0, 1, 1], [2, 2, 2], "validation: all 3 scores are 2.0; expected a model that tells videos apart"),
    ([1, 1], [1, 2], "validation: 0 real and 2 forged; measuring needs at least one of each"),
    ([0, 1], [1, math.nan], "validation: 1 of 2 scores are NaN or infinite; expected finite numbers"),
])  # fmt: skip
def test_what_cannot_be_calibrated(labels, logits, message):
    with pytest.raises(UserError) as caught:
        calibrate(labels, logits, "validation")
    assert str(caught.value) == message


def test_through_a_bundles_yaml():
    for threshold, temperature in ((0.1 + 0.2, 1e-7), (-64.0, 123456.789), (0.0, 1.0)):
        found = Calibration(threshold, temperature)
        assert Calibration.from_dict(yaml.safe_load(yaml.safe_dump(found.to_dict()))) == found
    assert Calibration.from_dict({"threshold": 1, "temperature": 2}) == Calibration(1.0, 2.0)


@pytest.mark.parametrize(("values", "message"), [
    (None, "expected the keys threshold and temperature, found None"),
    ([1, 2], "expected the keys"),
    ({"threshold": 0.5}, "expected the keys threshold and temperature, found threshold"),
    ({"threshold": 0.5, "temperature": 1, "bias": 1}, "expected the keys"),
    ({1: 0.5, None: 1}, "expected the keys"),
    ({"threshold": "0.5", "temperature": 1}, "threshold is '0.5'; expected a number"),
    ({"threshold": True, "temperature": 1}, "threshold is 'True'; expected a number"),
    ({"threshold": None, "temperature": 1}, "threshold is 'None'; expected a number"),
    ({"threshold": [1] * 10_000, "temperature": 1}, "threshold is "),
    ({"threshold": math.nan, "temperature": 1}, "threshold nan, temperature 1.0; expected finite numbers"),
    ({"threshold": 0.5, "temperature": math.inf}, "threshold 0.5, temperature inf"),
    ({"threshold": 0.5, "temperature": 0}, "threshold 0.5, temperature 0.0; expected finite numbers, the temperature"),
    ({"threshold": 0.5, "temperature": -1}, "threshold 0.5, temperature -1.0"),
    ({"threshold": 10**400, "temperature": 1}, "int too large"),
])  # fmt: skip
def test_a_bundle_of_somebody_else(values, message):
    with pytest.raises(UserError) as caught:
        Calibration.from_dict(values, "bundle x")
    assert str(caught.value).startswith(f"bundle x: {message}") and len(str(caught.value)) < 200


def test_reliability_by_hand():
    bins = reliability([0, 0, 1, 1], [0.0, 0.6, 0.7, 1.0], bins=2)
    assert [(b.low, b.high, b.videos, b.weight) for b in bins] == [(0, 0.5, 1, 0.25), (0.5, 1, 3, 0.75)]
    assert bins[0].predicted == 0 and bins[0].observed == 0
    assert bins[1].predicted == pytest.approx(2.3 / 3) and bins[1].observed == pytest.approx(2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(0.75 * (2.3 - 2) / 3)


def test_in_reliability_the_classes_weigh_the_same():
    once = reliability([0, 1], [0.3, 0.8])
    many = reliability([0] + [1] * 9, [0.3] + [0.8] * 9)
    assert expected_calibration_error(many) == pytest.approx(expected_calibration_error(once))
    assert expected_calibration_error(once) == pytest.approx((0.3 + 0.2) / 2)
    assert many[0].videos == 0 and many[0].predicted is None and many[0].observed is None


def test_probabilities_at_the_edges_have_a_bin():
    bins = reliability([0, 1, 0, 1], [0.0, 1.0, 0.1, 0.9], bins=10)
    assert [b.videos for b in bins] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    with pytest.raises(ValueError):
        reliability([0, 1], [0.5, 1.5])
