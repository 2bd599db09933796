"""What `crosstalk benchmark` can be told; configs/benchmark.yaml and configs/protocol/ explain each."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import UserError
from engine.precision import Kind

# What may change between two sessions in a folder: scores are kept by model and data, tables are made anew each time.
MAY_DIFFER = ("model", "models", "store", "run", "data", "ablation", "protocol", "submission_clip", "draws", "seed",
              "batch", "workers", "device")  # fmt: skip


@dataclass(frozen=True)
class TestSet:
    __test__ = False  # no test, whatever pytest makes of the name

    name: str
    dataset: str
    methods: tuple[str, ...] | None
    reals: str | None


@dataclass(frozen=True)
class Published:
    """Somebody else's figures: AUC of videos in per cent."""

    model: str
    source: str
    values: dict[str, float]


@dataclass(frozen=True)
class Protocol:
    name: str
    title: str
    lines: Literal["methods", "sets", "left_out", "perturbations"]
    split: str | None
    methods: tuple[str, ...] | None
    sets: tuple[TestSet, ...]
    published: tuple[Published, ...]


@dataclass(frozen=True)
class BenchmarkSettings:
    protocol: Protocol
    model: Path | None
    models: tuple[Path, ...]
    store: tuple[Path, ...]
    run: Path | None
    ablation: Path | None
    submission: Path | None
    submission_clip: float
    draws: int
    seed: int
    batch: int
    workers: int
    device: Literal["auto", "cpu", "cuda"]
    precision: Kind

    def __post_init__(self) -> None:
        several = self.protocol.lines == "left_out"
        if self.ablation is not None:
            if self.model is not None or self.models or self.submission is not None:
                raise UserError("ablation=DIR takes its bundles from the runs in DIR: leave model=, models= and "
                                "submission= out")  # fmt: skip
            if several:
                raise UserError(f"protocol={self.protocol.name} is no ablation: choose in_dataset, cross_dataset or "
                                "robustness")  # fmt: skip
        elif several and (not self.models or self.model is not None):
            raise UserError(f"protocol={self.protocol.name} needs models=[A,B,...], bundles that were each trained "
                            f"without one forgery; see: crosstalk benchmark protocol={self.protocol.name} --help")
        elif not several and (self.model is None or self.models):
            raise UserError("model=BUNDLE is missing: what `crosstalk finetune` wrote to RUN/bundle" if not self.models
                            else f"models= is for protocol=cross_manipulation; {self.protocol.name} takes one model=")
        if not self.store:
            raise UserError("store=DIR is missing: one or several stores that `crosstalk prepare` made")
        if self.run is None and self.submission is None:
            raise UserError("run=DIR is missing: the folder for scores, tables and the report")
        for name, least in {"draws": 20, "seed": 0, "batch": 1, "workers": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: at least {least}")
        if not 0 <= self.submission_clip < 0.5:
            raise UserError(f"submission_clip={self.submission_clip}: at least 0 and below 0.5")

    @property
    def bundles(self) -> tuple[Path, ...]:
        return self.models or ((self.model,) if self.model else ())

    @property
    def folder(self) -> Path:
        """run=, which is there unless a submission alone is asked for."""
        if self.run is None:
            raise ValueError("a submission without run= has its files beside it")
        return self.run

    @property
    def stores(self) -> list[Path]:
        """With `*` and `?` spelt out; what matches nothing stays, to be refused by its name."""
        found: list[Path] = []
        for path in self.store:
            matches = sorted(glob.glob(str(path))) if any(mark in str(path) for mark in "*?") else []  # noqa: PTH207
            found += [Path(match) for match in matches] or [path]
        return list(dict.fromkeys(found))
