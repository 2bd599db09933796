"""The page that leads through a demo: what went in, what was learned, how it generalises, what it looks at, and what
none of the figures prove."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from sklearn.metrics import roc_curve

from datasets.inspection import read_baselines
from datasets.records import FORGED, REAL
from datasets.store import Store, read_manifest
from engine.files import said_plainly
from engine.journal import read_metrics
from engine.report import validations
from engine.scores import read_scores
from engine.tables import Cell, Table
from evaluation import figures, page
from evaluation.detector import Detector
from evaluation.verdict import phrases
from evaluation.verdict.heat import heat
from evaluation.verdict.moments import Moment, moments
from ssl_pretrain.monitor import GALLERY, OFFSETS

STORES = {"lrw": "for stage 1, in the form of LRW", "faceforensics": "for stage 2, in the form of FaceForensics++",
          "celebdf_v2": "for the test alone, in the form of Celeb-DF v2"}  # fmt: skip
SHEET_WIDTH, SHEET_TOP = 1100, 470  # of the contact sheets only so much from the top


@dataclass(frozen=True)
class Verdict:
    truth: str
    headline: str
    how_sure: str
    report: str  # its address from the page
    moments: Sequence[Moment]


def write(out: Path, left_out: Collection[str], videos: Mapping[str, Path]) -> Path:
    """`videos`: whether it is forged or real, and where it lies."""
    runs, target = out / "runs", out / "index.html"
    judged = json.loads((out / "benchmark" / "results.json").read_text())
    compared = json.loads((out / "ablation" / "results.json").read_text())
    lines = validations(read_metrics(runs / "pretrain"))
    words = Store.open(out / "stores" / "lrw").table
    learned_from = sum(words.split[i] == "train" for i in range(len(words.ids)))
    measured, curves = _measured(out / "stores" / "lrw", lines), _roc(out / "benchmark" / "scores.csv")
    page.save(
        target, "tour.html.j2", title="What this is, in one look", left_out=sorted(left_out),
        parts=[_part(out / "stores" / name, what) for name, what in STORES.items()],
        learned=_learned(measured, lines), learning=_learning(measured, lines), clips=learned_from,
        results=_results(judged, compared, _baselines(out)), roc=figures.roc(curves), methods=list(curves),
        ablation=page.data_address(_picture(out / "ablation" / "ablation.png", SHEET_WIDTH)),
        verdicts=[_verdict(out, name, video) for name, video in videos.items()],
    )  # fmt: skip
    return target


def _part(store: Path, what: str) -> dict[str, Any]:
    counts, sheet = read_manifest(store)["counts"], _picture(store / "contact_sheet.png", SHEET_WIDTH)
    return {"what": what, "videos": counts["videos"], "minutes": counts["frames"] / 25 / 60,
            "sheet": page.data_address(sheet.crop((0, 0, sheet.width, min(SHEET_TOP, sheet.height)))),
            "whole": f"stores/{store.name}/contact_sheet.png"}  # fmt: skip


def _picture(path: Path, width: int) -> Image.Image:
    with said_plainly(f"picture {path}"), Image.open(path) as image:
        made = image.convert("RGB")
    made.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    return made


# ------------------------------------------------------------------------------------------------ stage 1

@dataclass(frozen=True)
class Measure:
    name: str  # in the journal
    words: str
    chance: float


def measures(gallery: int, vocabulary: int) -> list[Measure]:
    """What a validation of stage 1 measures."""
    return [
        Measure("retrieval_video_to_audio", f"right sound of {gallery} for a video", 1 / gallery),
        Measure("retrieval_audio_to_video", f"right face of {gallery} for a sound", 1 / gallery),
        Measure("synchrony", f"right one of {len(OFFSETS)} offsets", 1 / len(OFFSETS)),
        Measure("word_video", f"spoken word of {vocabulary}, read off the face", 1 / vocabulary),
    ]


def _measured(store: Path, lines: Sequence[Mapping[str, Any]]) -> list[Measure]:
    table = Store.open(store).table
    tested = [i for i in range(len(table.ids)) if table.split[i] == "test"]
    found = measures(min(GALLERY, len(tested)), len({table.word[i] for i in range(len(table.ids))}))
    return [measure for measure in found if measure.name in lines[-1]["values"]]


def _learned(measured: Sequence[Measure], lines: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[measure.words, measure.chance, lines[0]["values"][measure.name], lines[-1]["values"][measure.name]]
            for measure in measured]  # fmt: skip
    return Table(["on people never seen", "by chance", "before training", "after"], rows)


def _learning(measured: Sequence[Measure], lines: Sequence[Mapping[str, Any]]) -> Markup:
    last = max(line["step"] for line in lines)
    axes = figures.Axes("steps", "share that is right", {line["step"] / last: str(line["step"]) for line in lines},
                        figures.SHARES, width=520)  # fmt: skip
    for number, measure in enumerate(measured):
        points = [(line["step"] / last, line["values"][measure.name]) for line in lines
                  if measure.name in line["values"]]  # fmt: skip
        axes.line([x for x, _ in points], [y for _, y in points], figures.colour(number))
    return axes.svg("what is learned over the steps of stage 1")


# ------------------------------------------------------------------------------------------------ stage 2

def _baselines(out: Path) -> dict[str, tuple[str, float]]:
    """Of each forgery the strongest simple measurement and its AUC."""
    best = {}
    for name in ("faceforensics", "celebdf_v2"):
        for method, aucs in read_baselines(out / "stores" / name).items():
            baseline = max(aucs, key=lambda name: aucs[name])
            best[method] = baseline.replace("_", " "), aucs[baseline]
    return best


def _results(judged: Mapping, compared: Mapping, baselines: Mapping[str, tuple[str, float]]) -> Table:
    scratch = next(row for row in compared["tables"]["runs"] if row["run"] == "scratch")
    rows = []
    for row in judged["tables"]["results"]:
        name, auc = row["forgery"], row["AUC %"]
        cell = Cell(auc["value"], auc.get("low"), auc.get("high")) if isinstance(auc, Mapping) else auc
        simple = baselines.get(name.rpartition(": ")[2])
        rows.append([name, row["trained on"], cell, scratch.get(name),
                     f"{100 * simple[1]:.1f} ({simple[0]})" if simple else ""])  # fmt: skip
    return Table(["forgery", "trained on", "AUC %", "from scratch", "best simple measurement"], rows, digits=1)


def _roc(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    rows = [row for row in read_scores(path) if row.logit is not None]
    curves = {}
    for method in sorted({row.method for row in rows if row.label == FORGED}):
        dataset = next(row.dataset for row in rows if row.method == method and row.label == FORGED)
        chosen = [row for row in rows if row.dataset == dataset and (row.label == REAL or row.method == method)]
        xs, ys, _ = roc_curve([row.label for row in chosen], [row.logit for row in chosen])
        curves[method] = xs.tolist(), ys.tolist()
    return curves


# ------------------------------------------------------------------------------------------------ verdicts

def _verdict(out: Path, name: str, video: Path) -> Verdict:
    detector = Detector.load(out / "runs" / "finetune" / "weight_0.3" / "bundle")
    judgement = detector.score(video)
    found = moments(judgement, partial(heat, detector), most=3)
    return Verdict(name, phrases.headline(judgement), phrases.how_sure(judgement, detector.calibration is not None),
                   f"verdicts/{name}.html", found)  # fmt: skip
