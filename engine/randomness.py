"""Seeds and random states of one rank.

The rule: networks are built after `seed_all(seed)`, which is the same on all ranks; training runs after
`seed_all(seed, rank)`. Seeds are mixed, not added, so that rank 1 of seed 0 is not rank 0 of seed 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def seed_all(*numbers: int) -> None:
    """Python's, NumPy's and PyTorch's generators (all devices), from numbers of which each matters, by its place."""
    for_python, for_numpy, for_torch = _mixed(numbers, 3)
    random.seed(for_python)
    np.random.seed(for_numpy % 2**32)
    torch.manual_seed(for_torch)


def generator_for(*numbers: int) -> torch.Generator:
    """A CPU generator that is a function of (seed, step): what is drawn from it needs no saving, and is the same
    whatever the number of ranks."""
    return torch.Generator().manual_seed(_mixed(numbers, 1)[0])


class Randomness:
    """What this rank's randomness hangs on, to be saved and restored: the global generators, and own CPU generators
    by name (`views=torch.Generator()`)."""

    def __init__(self, seed: int, rank: int, device: torch.device, **generators: torch.Generator):
        self._seed, self._rank, self._device, self._generators = seed, rank, device, generators

    def start(self, step: int = 0) -> None:
        """Seed for training; with a step, for going on where no saved state fits this rank."""
        numbers = (self._seed, self._rank, *((step,) if step else ()))
        seed_all(*numbers)
        for place, generator in enumerate(self._generators.values()):
            generator.manual_seed(_mixed((*numbers, 1_000_003 + place), 1)[0])

    def state_dict(self) -> dict[str, Any]:
        numpy = np.random.get_state(legacy=False)
        state = {
            "python": random.getstate(),
            "numpy": {"keys": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
                      "position": numpy["state"]["pos"], "has_gauss": numpy["has_gauss"], "gauss": numpy["gauss"]},
            "torch": torch.get_rng_state(),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
        }  # fmt: skip
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state["generators"]) != set(self._generators):
            raise KeyError(f"generators {sorted(state['generators'])} were saved, {sorted(self._generators)} are here")
        random.setstate(state["python"])
        saved = state["numpy"]
        keys = saved["keys"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, saved["position"], saved["has_gauss"], saved["gauss"]))
        torch.set_rng_state(state["torch"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        if self._device.type == "cuda" and "cuda" in state:  # a run that moved here from a CPU has none
            torch.cuda.set_rng_state(state["cuda"], self._device)


def _mixed(numbers: Sequence[int], count: int) -> list[int]:
    """The count of numbers is mixed in as well: NumPy takes (7,) and (7, 0) for the same."""
    words = np.random.SeedSequence((len(numbers), *numbers)).generate_state(count, np.uint64)
    return [int(word) >> 1 for word in words]  # PyTorch's seeds are signed
