"""Schedules, against values worked out by hand at the steps where something changes."""

import math
from itertools import pairwise

import pytest

from engine import schedule


def test_warmup_cosine():
    at = [schedule.warmup_cosine(step, warmup=4, steps=12) for step in range(13)]
    assert at[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]  # a line, its top at step 3, the cosine's at step 4
    assert at[6] == pytest.approx(0.5 + math.sqrt(2) / 4)  # a quarter of the cosine's way
    assert at[8] == pytest.approx(0.5)  # half of it
    assert at[11] == pytest.approx(0.038060, abs=1e-6)  # the last update, (1 + cos(7 pi / 8)) / 2
    assert at[12] == 0 and schedule.warmup_cosine(99, warmup=4, steps=12) == 0
    assert all(a > b for a, b in pairwise(at[4:]))


def test_warmup_cosine_without_a_warmup_and_with_nothing_else():
    assert schedule.warmup_cosine(0, warmup=0, steps=10) == 1.0
    assert schedule.warmup_cosine(9, warmup=10, steps=10) == 1.0
    assert schedule.warmup_cosine(10, warmup=10, steps=10) == 0.0


def test_warmup_constant():
    assert [schedule.warmup_constant(step, warmup=5) for step in (0, 1, 4, 5, 10**6)] == [0.2, 0.4, 1.0, 1.0, 1.0]
    assert schedule.warmup_constant(0, warmup=0) == 1.0


def test_learning_rate_goes_with_the_root_of_the_batch():
    assert schedule.learning_rate(256) == 7e-4
    assert schedule.learning_rate(64) == pytest.approx(3.5e-4)
    assert schedule.learning_rate(32) == pytest.approx(7e-4 / math.sqrt(8))


def test_teacher_momentum_goes_with_the_batch():
    assert schedule.teacher_momentum(96) == pytest.approx(0.999)
    assert schedule.teacher_momentum(256) == pytest.approx(1 - 0.001 * 256 / 96)
    assert schedule.teacher_momentum(16, base=0.99) == pytest.approx(1 - 0.01 / 6)
    assert schedule.teacher_momentum(10**6) == 0.0  # never negative


def test_momentum_to_one():
    at = [schedule.momentum_to_one(step, start=0.9, steps=10) for step in range(11)]
    assert at[0] == pytest.approx(0.9) and at[5] == pytest.approx(0.95) and at[10] == 1.0
    assert at[9] == pytest.approx(1 - 0.1 * (1 - math.cos(math.pi / 10)) / 2)  # the last update still moves it
    assert all(a < b for a, b in pairwise(at))


def test_masked_share():
    assert {schedule.masked_share(step, steps=100) for step in (0, 50, 99)} == {1.0}  # as published
    small = {"steps": 100, "begin": 0.35, "share": 0.2}
    assert [schedule.masked_share(step, **small) for step in (0, 34, 35, 99)] == [0.0, 0.0, 0.2, 0.2]
    ramp = {"steps": 100, "begin": 0.2, "full": 0.6, "share": 0.8}
    at = [schedule.masked_share(step, **ramp) for step in (19, 20, 40, 60, 99)]
    assert at == pytest.approx([0, 0, 0.4, 0.8, 0.8])
