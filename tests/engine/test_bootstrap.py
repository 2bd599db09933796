"""Intervals: the fast way equals scikit-learn's on the same draws, and 95 % means 95 %."""

from math import erf

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine import bootstrap as module
from engine import metrics
from engine.bootstrap import Scored, bootstrap, bootstrap_many, paired_difference
from engine.errors import UserError


def sample(generator, videos=100, apart=1.0):
    labels = np.repeat([0, 1], videos)
    return labels, generator.normal(size=2 * videos) + apart * labels


@pytest.mark.parametrize("digits", [0, 1, 15])
def test_each_draw_equals_scikit_learn_on_the_resampled_videos(digits):
    generator = np.random.default_rng(digits)
    labels, scores = sample(generator, 40)
    scores = np.round(scores, digits)  # with 0 digits nearly everything is a tie
    scores[-1] = np.nextafter(scores[0], 10)  # nearly a tie is none
    groups = generator.integers(0, 30, 80).astype(str)
    of, units = module._units(groups, 80)
    for counts in module._draw(units, 200, seed=1):
        fast = module._aucs(module._rank(labels, scores, of), counts)
        for row, value in zip(counts, fast, strict=True):
            index = np.repeat(np.arange(80), row[of])
            assert value == pytest.approx(roc_auc_score(labels[index], scores[index]), abs=1e-12)


def test_draws_take_as_many_units_as_there_are():
    rows = np.concatenate(list(module._draw(7, 500, seed=0)))
    assert rows.shape == (500, 7) and (rows.sum(axis=1) == 7).all() and (rows >= 0).all()
    assert rows.mean(axis=0) == pytest.approx(1, abs=0.15)  # each unit as often as any other
    assert rows.var(axis=0) == pytest.approx(6 / 7, abs=0.2)  # binomial


def test_draws_in_pieces_are_the_same(monkeypatch):
    whole = np.concatenate(list(module._draw(10, 50, seed=3)))
    monkeypatch.setattr(module, "_ENTRIES", 70)
    assert (np.concatenate(list(module._draw(10, 50, seed=3))) == whole).all()


def test_fast_and_general_way_agree():
    labels, scores = sample(np.random.default_rng(0), 30)
    fast, slow = bootstrap(labels, scores, draws=300), bootstrap(labels, scores, draws=300, metric=roc_auc_score)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)
    assert fast.used == slow.used == 300 and fast.units == 60 and fast.level == 0.95


def test_the_seed_decides():
    labels, scores = sample(np.random.default_rng(0))
    assert bootstrap(labels, scores) == bootstrap(labels, scores)
    assert bootstrap(labels, scores, seed=1) != bootstrap(labels, scores)


@pytest.mark.parametrize("metric", [name for name in metrics.BY_NAME if name != "auc"])
def test_other_metrics_by_name(metric):
    labels, scores = sample(np.random.default_rng(0), 40)
    found = bootstrap(labels, scores, metric=metric, draws=100)
    assert found.value == metrics.BY_NAME[metric](labels, scores) and found.low <= found.value <= found.high


def test_intervals_of_95_percent_hold_the_truth_in_about_95_percent():
    """Normals one apart: the true AUC is Phi(1 / sqrt 2), which is (1 + erf(1 / 2)) / 2."""
    truth, generator, held = (1 + erf(0.5)) / 2, np.random.default_rng(0), 0
    for seed in range(300):
        found = bootstrap(*sample(generator), draws=300, seed=seed)
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 300 <= 0.985


def clustered(generator, people=40, each=10):
    """What is hard about a person is hard in all of their videos, which are either all real or all forged."""
    labels = np.repeat(generator.integers(0, 2, people), each)
    scores = labels + np.repeat(generator.normal(size=people), each) + 0.3 * generator.normal(size=people * each)
    return labels, scores, [f"person {i}" for i in range(people) for _ in range(each)]


def test_videos_of_one_person_are_no_independent_evidence():
    truth, generator, held, alone = (1 + erf(0.5 / np.sqrt(1.09))) / 2, np.random.default_rng(1), 0, 0
    widths = []
    for _ in range(200):
        labels, scores, names = clustered(generator)
        grouped, single = bootstrap(labels, scores, names, draws=200), bootstrap(labels, scores, draws=200)
        widths.append((grouped.high - grouped.low) / (single.high - single.low))
        held += grouped.low <= truth <= grouped.high
        alone += single.low <= truth <= single.high
    assert np.median(widths) > 2 and min(widths) > 1
    assert held / 200 > 0.87 and alone / 200 < 0.7  # ungrouped intervals claim too much


def test_who_is_unknown_is_a_group_of_its_own():
    labels, scores = sample(np.random.default_rng(0), 20)
    assert bootstrap(labels, scores, [None] * 40) == bootstrap(labels, scores)
    assert bootstrap(labels, scores, [""] * 40) == bootstrap(labels, scores)
    assert bootstrap(labels, scores, ["a", "a", *[None] * 38]).units == 39
    with pytest.raises(ValueError, match="39 groups, 40 videos"):
        bootstrap(labels, scores, ["a"] * 39)


def test_draws_without_a_class_are_counted_not_guessed():
    scores = np.random.default_rng(0).normal(size=60)
    labels = np.repeat([0, 1], [3, 57])
    found = bootstrap(labels, scores, draws=4000)
    assert found.draws == 4000
    assert found.used / 4000 == pytest.approx(1 - (57 / 60) ** 60, abs=0.01)  # 5 % of the draws have no real video
    fast, general = (bootstrap(labels, scores, draws=200, metric=metric) for metric in ("auc", metrics.auc))
    assert general.used == fast.used < 200 and (general.low, general.high) == pytest.approx((fast.low, fast.high))


def test_too_few_of_a_class():
    labels = np.repeat([0, 1], [2, 58])
    with pytest.raises(UserError) as caught:
        bootstrap(labels, range(60), what="Celeb-DF")
    assert "Celeb-DF: defined in only 8" in str(caught.value) and str(caught.value).endswith(
        " of 1000 draws from 60 videos or groups; an interval needs more of the rarer class"
    )
    with pytest.raises(UserError, match=r"Celeb-DF: defined in only \d+ of 1000 draws from 41 videos or groups"):
        bootstrap([0] * 20 + [1] * 40, range(60), ["one person"] * 20 + [None] * 40, what="Celeb-DF")
    with pytest.raises(UserError, match="Celeb-DF: everything belongs to one group; an interval needs at least two"):
        bootstrap([0, 0, 1, 1], [1, 2, 3, 4], ["a"] * 4, what="Celeb-DF")
    labels, scores = sample(np.random.default_rng(0), 20)
    with pytest.raises(UserError, match="interval: defined in only 0 of 50 draws"):
        bootstrap(labels, scores, draws=50, metric=lambda labels, scores: None)
    with pytest.raises(UserError, match="Celeb-DF: 0 real and 2 forged"):
        bootstrap([1, 1], [1, 2], what="Celeb-DF")


def test_separated_classes_have_an_interval_without_width():
    found = bootstrap([0] * 20 + [1] * 20, range(40))
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_a_paired_difference_is_of_the_same_draws():
    generator = np.random.default_rng(0)
    labels, scores = sample(generator)
    others = scores + 0.1 * generator.normal(size=200)
    found = paired_difference(labels, scores, others, draws=200)
    assert found.value == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, others))
    by_hand = []
    for counts in module._draw(200, 200, seed=0):
        for row in counts:
            index = np.repeat(np.arange(200), row)
            y = labels[index]
            by_hand.append(roc_auc_score(y, scores[index]) - roc_auc_score(y, others[index]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=1e-12)
    apart = [bootstrap(labels, each, draws=200) for each in (scores, others)]
    assert found.high - found.low < 0.5 * min(each.high - each.low for each in apart)
    same = paired_difference(labels, scores, scores, draws=200)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_real_difference_is_seen_and_none_is_not_claimed_too_often():
    generator = np.random.default_rng(1)
    labels, scores = sample(generator, apart=2.0)
    assert paired_difference(labels, scores, scores + 2 * generator.normal(size=200), draws=400).low > 0
    claims = 0
    for seed in range(200):
        labels, scores = sample(generator, 60)
        ours, theirs = (scores + generator.normal(size=120) for _ in range(2))  # equally good
        found = paired_difference(labels, ours, theirs, draws=400, seed=seed)
        claims += not found.low <= 0 <= found.high
    assert claims / 200 < 0.1


def methods_on_shared_reals(generator, videos=30):
    reals = generator.normal(size=videos)
    real_names = [f"real {i}" for i in range(videos)]
    return {name: Scored([0] * videos + [1] * videos, [*reals, *(generator.normal(size=videos) + apart)],
                         real_names + [f"{name} {i}" for i in range(videos)])
            for name, apart in (("Deepfakes", 2.0), ("FaceSwap", 1.0), ("Face2Face", 0.5))}  # fmt: skip


def test_many_columns_share_their_draws():
    columns = methods_on_shared_reals(np.random.default_rng(0))
    each, mean = bootstrap_many(columns, draws=300)
    aucs = {name: roc_auc_score(column.labels, column.scores) for name, column in columns.items()}
    assert {name: interval.value for name, interval in each.items()} == pytest.approx(aucs)
    assert mean.value == pytest.approx(np.mean(list(aucs.values()))) and mean.units == 120
    assert each["FaceSwap"].units == 60

    names = [f"real {i}" for i in range(30)] + [f"{name} {i}" for name in columns for i in range(30)]
    means = []
    for counts in module._draw(120, 300, seed=0):  # all units, in order of first appearance
        for row in counts:
            weight = dict(zip(names, row, strict=True))
            means.append(np.mean([
                roc_auc_score(column.labels, column.scores, sample_weight=[weight[unit] for unit in column.units])
                for column in columns.values()
            ]))  # fmt: skip
    assert (mean.low, mean.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-9)


def test_shared_reals_make_the_mean_less_certain_than_separate_ones():
    columns = methods_on_shared_reals(np.random.default_rng(0), videos=100)
    apart = {name: column._replace(units=[f"{name} {unit}" for unit in column.units])
             for name, column in columns.items()}  # fmt: skip
    shared, separate = bootstrap_many(columns)[1], bootstrap_many(apart)[1]
    assert shared.high - shared.low > 1.15 * (separate.high - separate.low)


def test_one_column_is_a_plain_bootstrap():
    labels, scores = sample(np.random.default_rng(0), 30)
    each, mean = bootstrap_many({"only": Scored(labels, scores, [str(i) for i in range(60)])})
    assert each["only"] == mean == bootstrap(labels, scores)


def test_a_column_that_cannot_be_measured_is_named():
    columns = methods_on_shared_reals(np.random.default_rng(0))
    columns["FaceShifter"] = Scored([1, 1], [0.5, 1.5], ["a", "b"])
    with pytest.raises(UserError, match="FF\\+\\+, FaceShifter: 0 real and 2 forged"):
        bootstrap_many(columns, what="FF++")
    with pytest.raises(ValueError, match="one unit per score: 3 units, 2 scores"):
        bootstrap_many({"x": Scored([0, 1], [0.5, 1.5], ["a", "b", "c"])})
