"""Is this like what a model learned from? A distance from its training clips; 1 is the farthest that is familiar.

Clips are described by several vectors, their looks. To each look of the training clips a Gaussian is fitted: its main
axes, and one variance for all the others together (Tipping and Bishop, "Probabilistic Principal Component Analysis",
1999). The logarithms of the distances from it are measured in standard deviations of those of the validation clips, and
averaged over the looks: what is a little unusual in every way is farther away than what is so in one. What then has the
distance 1 is the one-sided tolerance limit of a normal distribution: with 95 % confidence, 99 % of the clips of new
people are nearer. Of few people nobody can read the 99th percentile off, and the fewer they are, the farther it is put.
Each standard deviation more is e times as far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy.stats import nct, norm
from torch import Tensor, nn

from engine.errors import UserError

AXES = 48  # at most
CLIPS_PER_AXIS = 4  # at least; of fewer clips an axis is chance
FAMILIAR, CONFIDENCE = 0.99, 0.95  # so many of the clips of people like those of validation; how sure that is
FARTHEST = 20.0  # standard deviations beyond the limit; what is farther away is as far


class Gaussian(nn.Module):
    """Of rows (N, F), with K main axes; F numbers are first brought to the same spread."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)
    axes: Tensor  # (K, F)
    variance: Tensor  # (K,)
    rest: Tensor  # ()

    def __init__(self, size: int, axes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("axes", torch.zeros(axes, size))
        self.register_buffer("variance", torch.ones(axes))
        self.register_buffer("rest", torch.ones(()))

    @classmethod
    def fitted(cls, rows: Tensor) -> Gaussian:
        rows = rows.double()
        count, size = rows.shape
        axes = min(AXES, size, max(1, (count - 1) // CLIPS_PER_AXIS))
        scale = rows.std(dim=0, correction=0) + 1e-4 * rows.std(correction=0) + 1e-8
        _, singular, directions = torch.linalg.svd((rows - rows.mean(dim=0)) / scale, full_matrices=False)
        variance = (singular.square() / count).clamp(min=1e-6)
        made = cls(size, axes)
        found = {"mean": rows.mean(dim=0), "scale": scale, "axes": directions[:axes], "variance": variance[:axes],
                 "rest": variance[axes:].sum().div(max(size - axes, 1)).clamp(min=1e-6)}  # fmt: skip
        made.load_state_dict({name: value.float() for name, value in found.items()})
        return made

    def distance(self, rows: Tensor) -> Tensor:
        """(N, F) -> (N,); about 1 for what it was fitted to."""
        size, axes = self.axes.shape[1], len(self.axes)
        standard = (rows.double() - self.mean.double()) / self.scale.double()
        along = standard @ self.axes.double().T
        total = (along.square() / self.variance.double()).sum(dim=1)
        if axes < size:
            beside = (standard.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0)
            total = total + beside / self.rest.double()
        return (total / size).sqrt()


class Familiarity(nn.Module):
    """`sizes`: of each look how many numbers it has and how many main axes."""

    usual: Tensor  # log distance of the validation clips, of each look
    spread: Tensor
    limit: Tensor  # ()

    def __init__(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.looks = nn.ModuleDict({name: Gaussian(*size) for name, size in sizes.items()})
        self.register_buffer("usual", torch.zeros(len(sizes)))
        self.register_buffer("spread", torch.ones(len(sizes)))
        self.register_buffer("limit", torch.zeros(()))

    @classmethod
    def fitted(cls, training: Mapping[str, Tensor], validation: Mapping[str, Tensor], people: int) -> Familiarity:
        """A row for each clip, (N, F) for each look. The clips of validation show so many people."""
        looks = {name: Gaussian.fitted(rows) for name, rows in training.items()}
        made = cls({name: (look.axes.shape[1], len(look.axes)) for name, look in looks.items()})
        made.looks = nn.ModuleDict(looks)
        logs = made._logs(validation)
        made.usual.copy_(logs.mean(dim=1))
        made.spread.copy_(logs.std(dim=1, correction=0).clamp(min=1e-3))
        unusual = made._unusual(validation)  # 0 on average
        made.limit.copy_(tolerance(people) * unusual.std(correction=0))
        return made

    @property
    def sizes(self) -> dict[str, list[int]]:
        """What to make another one with, as YAML knows it."""
        return {name: [look.axes.shape[1], len(look.axes)] for name, look in self._gaussians()}

    @torch.inference_mode()
    def distance(self, clips: Mapping[str, Tensor]) -> Tensor:
        """(N, F) for each look -> (N,)"""
        return (self._unusual(clips) - self.limit.double()).clamp(max=FARTHEST).exp()

    def _logs(self, clips: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([look.distance(clips[name]).clamp(min=1e-6).log() for name, look in self._gaussians()])

    def _gaussians(self) -> Iterator[tuple[str, Gaussian]]:
        for name, look in self.looks.items():
            assert isinstance(look, Gaussian)
            yield name, look

    def _unusual(self, clips: Mapping[str, Tensor]) -> Tensor:
        return ((self._logs(clips) - self.usual.double()[:, None]) / self.spread.double()[:, None]).mean(dim=0)

    def require_sound(self, where: str) -> None:
        """Of somebody's bundle: numbers that distances can be made of."""
        state = self.state_dict()
        for name, value in state.items():
            divides = name.rpartition(".")[2] in ("scale", "variance", "rest", "spread")
            if not bool(value.isfinite().all()) or (divides and not bool((value > 0).all())):
                raise UserError(f"{where}: {name} must hold finite numbers{' above 0' if divides else ''}")


def tolerance(people: int) -> float:
    """Standard deviations above the mean of so many independent draws (Owen, "A Survey of Properties and Applications
    of the Noncentral t-Distribution", 1968). Clips of one person are alike and count as one draw."""
    draws = max(people, 2)
    root = math.sqrt(draws)
    return float(nct.ppf(CONFIDENCE, draws - 1, norm.ppf(FAMILIAR) * root)) / root


def sizes_from(values: Any, expected: Mapping[str, int], where: str) -> dict[str, tuple[int, int]]:
    """What a bundle's settings say of its looks, checked against those that this version computes."""
    if not isinstance(values, Mapping) or set(values) != set(expected):
        raise UserError(f"{where}: expected the looks {', '.join(expected)}, found {str(values)[:100]}")
    for name, pair in values.items():
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not whole or pair[0] != expected[name] or not 1 <= pair[1] <= min(AXES, pair[0]):
            raise UserError(f"{where}: {name} is {str(pair)[:100]}; expected [{expected[name]}, 1 to "
                            f"{min(AXES, expected[name])}]")  # fmt: skip
    return {name: (values[name][0], values[name][1]) for name in expected}
