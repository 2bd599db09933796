"""A benchmark's report: one HTML file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import figures, mistakes, page
from evaluation.measures import Found, Tables
from evaluation.results import Results
from evaluation.settings import Protocol

TITLES = {
    "severities": "Severities", "results": "Results", "details": "Everything measured",
    "published": "Published figures, none of them measured here",
}  # fmt: skip
CHARTED, PICTURED = 8, 12  # lines of a chart; histograms and matrices


def write(path: Path, protocol: Protocol, found: Results, tables: Tables, about: Mapping[str, Any]) -> None:
    lines = found.found
    charted = _charted(lines)
    pictured = lines if len(lines) <= PICTURED else charted
    span = _span(lines)
    histograms = [(one, figures.histogram(one.real, one.forged, one.line.forged.detector.calibration, span))
                  for one in pictured]  # fmt: skip
    page.save(path, "report.html.j2", title=protocol.title, protocol=protocol, found=found, about=about, titles=TITLES,
         tables=found.tables, histograms=histograms, charted=charted, chosen=len(charted) < len(lines),
         roc=figures.roc({one.line.name: one.roc for one in charted}),
         reliability=figures.reliability({one.line.name: one.bins for one in charted}),
         mistakes=mistakes.worst([one.line for one in pictured], tables))  # fmt: skip


def _charted(lines: Sequence[Found]) -> list[Found]:
    """As many as can be told apart; of perturbed videos the worst severity of each kind, beside the clean ones."""
    if len(lines) <= CHARTED:
        return list(lines)
    worst: dict[str, Found] = {}
    for one in lines:
        worst[one.line.name.rsplit(" ", 1)[0] if one.line.severity else one.line.name] = one
    return list(worst.values())[:CHARTED]


def _span(lines: Sequence[Found]) -> tuple[float, float]:
    values = np.concatenate([np.array([*one.real, *one.forged]) for one in lines])
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin
