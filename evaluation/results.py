"""The tables of a benchmark, as Markdown, LaTeX, CSV and JSON: one for readers, one with everything, one of others'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.perturbations import SEVERITIES
from engine.tables import Cell, Content, Table
from evaluation.measures import Found, Tables, mean_of, measured
from evaluation.plan import CLEAN, Plan
from evaluation.settings import Protocol

WHAT = {"methods": "forgery", "sets": "test set", "left_out": "left out of training", "perturbations": "videos"}


@dataclass(frozen=True)
class Results:
    found: list[Found]  # of each line
    means: dict[str, Cell]
    notes: list[str]  # what a reader of the numbers must know
    tables: dict[str, Table]  # by file name, the most important first


def results(plan: Plan, protocol: Protocol, scores: Tables, draws: int, seed: int) -> Results:
    notes: list[str] = []
    found = [measured(line, scores, draws, seed, notes) for line in plan.lines]
    by_name = {line.name: line for line in plan.lines}
    means = {name: mean_of(name, [by_name[one] for one in lines], scores, draws, seed, notes)
             for name, lines in plan.means.items()}  # fmt: skip
    notes += _remarks(plan, protocol, found)
    tables = {"severities": _severities(found, means)} if protocol.lines == "perturbations" else {}
    tables["results"] = _main(plan, protocol, found, means)
    tables["details"] = _details(protocol, found)
    if protocol.published:
        tables["published"] = _published(protocol)
    return Results(found, means, notes, tables)


def missing(plan: Plan) -> list[str]:
    return [f"not measured: {line}" for line in plan.missing]


def percent(cell: Cell) -> Cell:
    return Cell(100 * cell.value, *(None if end is None else 100 * end for end in (cell.low, cell.high, cell.spread)))


def _main(plan: Plan, protocol: Protocol, found: Sequence[Found], means: dict[str, Cell]) -> Table:
    head = [WHAT[protocol.lines], "trained on", "real", "forged", "AUC %", "AUC of clips %", "AP %", "EER %",
            "accuracy %", "TPR at 1 % FPR", "TPR at 10 % FPR"]  # fmt: skip
    rows: dict[str, list[Content]] = {name: [name, *[None] * (len(head) - 1)] for name in _wanted(protocol)}
    for one in found:
        m, name = one.metrics, one.line.name
        rows[name] = [name, one.line.trained_on, m.n_real, m.n_forged, percent(one.auc), percent(one.clip_auc),
                      percent(one.average_precision), percent(one.eer), 100 * m.accuracy, 100 * m.tpr_at_fpr_1,
                      100 * m.tpr_at_fpr_10]  # fmt: skip
    rows |= {name: [name, None, None, None, percent(mean), *[None] * 6] for name, mean in means.items()}
    return Table(head, list(rows.values()))


def _wanted(protocol: Protocol) -> list[str]:
    """Lines that the protocol has whether or not there is anything to fill them with."""
    if protocol.lines == "sets":
        return [one.name for one in protocol.sets]
    return list(protocol.methods or ()) if protocol.lines == "left_out" else []


def _severities(found: Sequence[Found], means: dict[str, Cell]) -> Table:
    """AUC: a line a perturbation, a column a severity."""
    by_name = {one.line.name: one.auc for one in found}
    rows: list[list[Content]] = []
    if CLEAN in by_name:
        rows.append([CLEAN, *[None] * len(SEVERITIES), percent(by_name[CLEAN])])
    for kind in dict.fromkeys(one.line.name.split(" ")[0] for one in found if one.line.severity):
        each = [by_name.get(f"{kind} {severity}") for severity in SEVERITIES]
        rows.append([kind, *(cell and 100 * cell.value for cell in each), percent(means[kind])])
    return Table(["AUC %", *(f"severity {severity}" for severity in SEVERITIES), "mean"], rows)


def _details(protocol: Protocol, found: Sequence[Found]) -> Table:
    """At the threshold of the bundle, which was calibrated on validation videos."""
    head = [WHAT[protocol.lines], "detector", "clips", "without clips", "real called real", "real called forged",
            "forged called real", "forged called forged", "balanced accuracy %", "precision %", "recall %",
            "specificity %", "F1 %", "log loss", "calibration error %"]  # fmt: skip
    rows: list[list[Content]] = []
    for one in found:
        m, detector = one.metrics, one.line.forged.detector
        rows.append([one.line.name, detector.digest[:8], one.clips, one.without_clips, m.tn, m.fp, m.fn, m.tp,
                     100 * m.balanced_accuracy, None if m.precision is None else 100 * m.precision, 100 * m.recall,
                     100 * m.specificity, 100 * m.f1, m.log_loss, 100 * one.calibration_error])  # fmt: skip
    return Table(head, rows)


def _published(protocol: Protocol) -> Table:
    names = list(dict.fromkeys(name for one in protocol.published for name in one.values))
    rows: list[list[Content]] = [[one.model, one.source, *(one.values.get(name) for name in names)]
                                 for one in protocol.published]  # fmt: skip
    return Table(["model (figures of others, AUC %)", "source", *names], rows)


def _remarks(plan: Plan, protocol: Protocol, found: Sequence[Found]) -> list[str]:
    remarks = missing(plan)
    if protocol.lines == "perturbations":
        partial = {name: len(lines) for name, lines in plan.means.items() if len(lines) < len(SEVERITIES)}
        remarks += [f"{name}: the mean is over {count} severities, not {len(SEVERITIES)}"
                    for name, count in partial.items()]  # fmt: skip
        videos = {line.name: set(line.reals.data.videos.tolist()) for line in plan.lines}
        others = [name for name, its in videos.items() if its != videos.get(CLEAN, its)]
        if others:
            remarks.append(f"{', '.join(others)}: not the same videos as the clean ones, so that the difference is not "
                           "the perturbation's alone")  # fmt: skip
    lost = {(one.line.name, one.without_clips) for one in found if one.without_clips}
    remarks += [f"{name}: {count} videos are shorter than a clip and are in no number" for name, count in sorted(lost)]
    for detector in {id(part.detector): part.detector for part in plan.parts}.values():
        if detector.calibration is None:
            remarks.append(f"{detector.bundle}: not calibrated, so accuracy and what follows from it are at a logit of "
                           "0; AUC, AP and EER do not depend on it")  # fmt: skip
    return remarks


def shown(cell: Cell) -> str:
    """A share as per cent, as a line on a terminal has it."""
    text = f"{100 * cell.value:.2f}"
    ends = [f"{100 * end:.2f}" for end in (cell.low, cell.high) if end is not None]
    return f"{text} [{', '.join(ends)}]" if ends else text
