"""How well it does on videos that it is not trained on: what the journal says, and what the best checkpoint is by."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from datasets.clips import ClipDataset
from datasets.records import FORGED, REAL
from datasets.views import ViewSettings
from engine.calibration import Calibration, calibrate
from engine.distributed import Context
from engine.errors import UserError
from engine.metrics import auc
from engine.precision import Precision
from engine.scores import Score, judged
from finetune.model import Detector
from finetune.scoring import score


def by_method(rows: Collection[Score]) -> dict[str, list[Score]]:
    """The videos of each method with the real ones of their dataset: `Deepfakes`, or `celebdf_v2/Celeb-synthesis` where
    there are several datasets. A dataset with one class only has nothing to measure and is not in it."""
    datasets = sorted({row.dataset for row in rows})
    groups = {}
    for dataset in datasets:
        real = [row for row in rows if row.dataset == dataset and row.label == REAL]
        forged = [row for row in rows if row.dataset == dataset and row.label == FORGED]
        for method in sorted({row.method for row in forged}) if real else ():
            name = f"{dataset}/{method}" if len(datasets) > 1 else method
            groups[name] = real + [row for row in forged if row.method == method]
    return groups


def auc_of(rows: Collection[Score]) -> float:
    return auc(*judged(rows))


class Validation:
    """AUC of every method against the reals of its dataset. `selection` is the mean over the methods that are trained
    on: forgeries left out of training must not choose the checkpoint either."""

    def __init__(self, data: ClipDataset, left_out: Collection[str], views: ViewSettings):
        self._data, self._left_out, self._views = data, set(left_out), views
        labels = set(data.label.tolist())
        if not {REAL, FORGED} <= labels:
            raise UserError(f"validation needs real and forged videos in split val; it has {data.summary()}")

    def measure(self, detector: Detector, precision: Precision, context: Context, workers: int = 0,
                ) -> tuple[dict[str, float], Calibration]:  # fmt: skip
        """Values for the journal; threshold and temperature that fit these scores."""
        rows = score(detector, self._data, self._views, precision, context, workers=workers).rows
        groups = by_method(rows)
        values = {f"auc_{name}": auc_of(group) for name, group in groups.items()}
        chosen = [values[f"auc_{name}"] for name, group in groups.items() if group[-1].method not in self._left_out]
        if not chosen:
            raise UserError("validation has no forgeries of the methods that are trained on, only of those left out")
        trained = [row for row in rows if row.label == REAL or row.method not in self._left_out]
        values["selection"] = float(np.mean(chosen))
        return values, calibrate(*judged(trained), "validation")
