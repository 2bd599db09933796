"""Seeds that do not meet, and states that go on."""

import random

import numpy as np
import pytest
import torch

from engine.randomness import Randomness, seed_all
from engine.tree import load_tree, save_tree


def draws():
    return (random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(3).tolist())


def test_seeding_is_repeatable_and_every_number_counts():
    found = {}
    for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 5), (0, 1, 5)):
        seed_all(*numbers)
        found[numbers] = draws()
        seed_all(*numbers)
        assert draws() == found[numbers]
    for place in range(5):  # each generator by itself
        assert len({str(drawn[place]) for drawn in found.values()}) == len(found)


def test_a_saved_state_goes_on(tmp_path):
    views, other = torch.Generator(), torch.Generator()
    randomness = Randomness(3, 1, torch.device("cpu"), views=views, other=other)
    randomness.start()
    draws()
    random.gauss()
    np.random.randn()  # half of a pair: the other half is a part of the state
    save_tree(tmp_path, "rank-1", randomness.state_dict())
    expected = (draws(), torch.rand(2, generator=views).tolist(), torch.rand(2, generator=other).tolist())
    seed_all(99)
    views.manual_seed(0)
    randomness.load_state_dict(load_tree(tmp_path, "rank-1"))
    assert (draws(), torch.rand(2, generator=views).tolist(), torch.rand(2, generator=other).tolist()) == expected
    assert expected[1] != expected[2]
    with pytest.raises(KeyError, match="views"):
        Randomness(3, 1, torch.device("cpu")).load_state_dict(load_tree(tmp_path, "rank-1"))


def test_starting_afresh_at_a_step_differs_from_the_beginning_and_between_ranks():
    found = []
    for rank in (0, 1):
        for step in (0, 14):
            views = torch.Generator()
            Randomness(0, rank, torch.device("cpu"), views=views).start(step)
            found.append((torch.rand(1).item(), torch.rand(1, generator=views).item()))
    assert len({number for pair in found for number in pair}) == 8
