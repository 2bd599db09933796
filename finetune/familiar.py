"""Which faces a run's model knows: measured on the data alone, so that every bundle of the run has the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.appearance import SIZES, looks
from datasets.clips import ClipDataset
from datasets.loaders import WindowOrder
from engine.errors import UserError
from engine.familiarity import Familiarity

MOST = 2000  # clips of each data set that are looked at, evenly spread over it: its methods and labels, its people


def familiarity(training: Sequence[ClipDataset], validation: ClipDataset) -> Familiarity:
    """Fitted to the clips of training; what is still familiar is measured on those of validation, of other people."""
    parts = [described(data) for data in training]
    known = {name: torch.cat([part[name] for part in parts]) for name in SIZES}
    people = {validation.identity(clip) or validation.videos[clip] for clip in range(len(validation))}
    return Familiarity.fitted(known, described(validation), len(people))


def described(data: ClipDataset, most: int = MOST) -> dict[str, Tensor]:
    """A row for each of at most so many windows, (N, F) for each look."""
    windows = WindowOrder(data).epoch(0, 0)
    chosen = np.unique(np.linspace(0, len(windows.clips) - 1, most).round().astype(int))
    rows = []
    for window in zip(windows.clips[chosen].tolist(), windows.starts[chosen].tolist(), strict=True):
        read = data.__getitems__([window])
        if isinstance(read, UserError):
            raise read
        rows.append(looks(read[0][0].numpy()))
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in SIZES}
