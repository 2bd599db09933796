"""How far from what is known: distances worked out by hand, the limit, what a bundle may hold."""

import math

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.familiarity import Familiarity, Gaussian, sizes_from, tolerance


def test_distance_with_all_axes_is_mahalanobis_by_hand():
    """Four points (+-2, 0), (0, +-1): spreads sqrt(2) and sqrt(1/2), so (2, 1) is sqrt(2) spreads off in each."""
    look = Gaussian.fitted(torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]] * 8))
    found = look.distance(torch.tensor([[2.0, 1.0], [0.0, 0.0], [4.0, 0.0]]))
    # mean of squared spreads: (2 + 2) / 2, 0, (8 + 0) / 2
    assert found.tolist() == pytest.approx([math.sqrt(2), 0, 2], rel=1e-3, abs=1e-6)


def test_what_no_axis_holds_counts_by_the_variance_of_the_rest():
    """One axis of three numbers, by hand: along it 2 spreads, beside it a length of 3 at variance 1/2 each."""
    look = Gaussian(3, 1)
    look.load_state_dict({"mean": torch.tensor([1.0, 0, 0]), "scale": torch.tensor([2.0, 1, 1]),
                          "axes": torch.tensor([[1.0, 0, 0]]), "variance": torch.tensor([4.0]),
                          "rest": torch.tensor(0.5)})  # fmt: skip
    # standardised: (9 - 1) / 2 = 4 along, so 16 / 4; (0, 3) beside, so 9 / 0.5; mean over three numbers
    assert look.distance(torch.tensor([[9.0, 0, 3]])).item() == pytest.approx(math.sqrt((4 + 18) / 3))


def test_agrees_with_the_covariance_matrix():
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 3
    look = Gaussian.fitted(torch.from_numpy(rows))
    new = rows[:7] + 1
    centred = new - rows.mean(axis=0)
    inverse = np.linalg.inv(np.cov(rows.T, ddof=0))
    expected = [math.sqrt(one @ inverse @ one / 5) for one in centred]
    np.testing.assert_allclose(look.distance(torch.from_numpy(new)), expected, rtol=1e-3)


@pytest.fixture(scope="module")
def known():
    """Two looks of 12 and 3 numbers; validation is drawn as training is."""
    random = np.random.default_rng(1)

    def clips(count, off=0.0):
        return {"one": torch.from_numpy(random.normal(off, 1, (count, 12))),
                "two": torch.from_numpy(random.normal(off, 2, (count, 3)))}  # fmt: skip

    validation = clips(300)
    return Familiarity.fitted(clips(300), validation, people=300), validation, clips


def test_fewer_than_one_in_a_hundred_of_the_same_kind_is_unfamiliar(known):
    made, _, clips = known
    assert (made.distance(clips(5000)) > 1).double().mean() < 0.015
    assert (made.distance(clips(50, off=8)) > 1).all()


@pytest.mark.parametrize("people, published", [(2, 37.094), (10, 3.981), (30, 3.064), (50, 2.862), (1, 37.094)])
def test_the_limit_is_that_of_the_tables_of_tolerance_factors(people, published):
    """For a content of 0.99 at a confidence of 0.95; of one person nobody can tell, so it is put as for two."""
    assert tolerance(people) == pytest.approx(published, abs=2e-3)


def test_of_twenty_validations_of_ten_people_one_sets_the_limit_too_near():
    """Drawn anew: the true 99th percentile of a normal distribution lies below the limit in 95 % of the cases."""
    draws = np.random.default_rng(2).normal(3, 2, (4000, 10))
    limits = draws.mean(axis=1) + tolerance(10) * draws.std(axis=1, ddof=1)
    assert (limits > 3 + 2 * 2.3263).mean() == pytest.approx(0.95, abs=0.012)


def test_of_few_people_the_limit_is_farther(known):
    made, validation, clips = known
    few = Familiarity.fitted(clips(300), validation, people=10)
    spread = made._unusual(validation).std(correction=0).item()
    assert made.limit.item() == pytest.approx(tolerance(300) * spread, rel=1e-5)
    assert few.limit.item() / few._unusual(validation).std(correction=0).item() == pytest.approx(3.981, abs=1e-2)


def test_the_mean_of_deviations_by_hand(known):
    made, validation, _ = known
    new = {name: rows[:4] * 3 for name, rows in validation.items()}
    total = np.zeros(4)
    for look, (name, rows) in zip(made.looks.values(), validation.items(), strict=True):
        usual = np.log(look.distance(rows).numpy())
        total += (np.log(look.distance(new[name]).numpy()) - usual.mean()) / usual.std() / 2
    np.testing.assert_allclose(made.distance(new).numpy(), np.exp(total - made.limit.item()), rtol=1e-3)


def test_what_is_infinitely_far_has_a_number(known):
    made, _, _ = known
    far = made.distance({"one": torch.full((1, 12), 1e30), "two": torch.full((1, 3), 1e30)})
    assert torch.isfinite(far).all() and far.item() > 1e6


def test_few_clips_are_enough_for_numbers():
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    made = Familiarity.fitted({"look": rows}, {"look": rows[:3]}, people=3)
    assert made.sizes == {"look": [40, 1]} and torch.isfinite(made.distance({"look": rows})).all()
    still = Familiarity.fitted({"look": torch.ones(6, 4)}, {"look": torch.ones(2, 4)}, people=2)
    assert torch.isfinite(still.distance({"look": torch.ones(1, 4)})).all()


def test_what_a_bundle_says_is_checked(known):
    made, validation, _ = known
    again = Familiarity(sizes_from(made.sizes, {"one": 12, "two": 3}, "here"))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.distance(validation), made.distance(validation))
    again.require_sound("here")
    again.looks["two"].rest.fill_(0)
    with pytest.raises(UserError, match=r"^here: looks\.two\.rest must hold finite numbers above 0$"):
        again.require_sound("here")
    again.looks["two"].rest.fill_(math.nan)
    with pytest.raises(UserError, match="finite"):
        again.require_sound("here")


@pytest.mark.parametrize("values", [
    None, [], {}, {"one": [12, 4]}, {"one": 12, "two": 3}, {"one": [12, 4], "two": [4, 1]},
    {"one": [12, 0], "two": [3, 3]}, {"one": [12, 13], "two": [3, 3]}, {"one": [12, True], "two": [3, 3]},
    {"one": [12, 4.0], "two": [3, 3]},
])  # fmt: skip
def test_other_looks_are_one_line(values):
    with pytest.raises(UserError, match=r"^here: ") as caught:
        sizes_from(values, {"one": 12, "two": 3}, "here")
    assert "\n" not in str(caught.value)
