"""What a benchmark leaves in its folder beside the report: scores, tables, and what they were made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.store import Store
from engine.files import said_plainly, write_atomically
from engine.precision import Precision
from engine.run import plain
from engine.tables import Table
from evaluation import measures
from evaluation.detector import Detector
from evaluation.plan import Part, dataset_of, perturbation_of
from evaluation.scored import SCORED, results
from evaluation.settings import BenchmarkSettings


def config_of(settings: BenchmarkSettings, detectors: Sequence[Detector], stores: Sequence[Store]) -> dict[str, Any]:
    """The folder's config.yaml. `judged` and the precision must stay as they are, or it is another benchmark."""
    protocol = settings.protocol
    judged = {"protocol": protocol.name, "split": protocol.split, "methods": plain(protocol.methods),
              "ablation": settings.ablation is not None,
              "models": sorted(detector.digest for detector in detectors)}  # fmt: skip
    return {"judged": judged, **plain(settings), "data": {str(s.root): s.manifest["digest"] for s in stores}}


def write_scores(folder: Path, parts: Iterable[Part], precision: Precision) -> None:
    """scores.csv and clips.csv, of the parts in their order."""
    rows, clips = [], []
    for part in parts:
        its_rows, its_clips = results(part, folder / SCORED, precision)
        rows += its_rows
        clips += its_clips
    measures.write_tables(folder, rows, clips)


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    places = folder / "tables"
    with said_plainly(f"tables in {places}"):
        places.mkdir(exist_ok=True)
        for name, table in tables.items():
            for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv()),
                                 ("json", table.json())):  # fmt: skip
                write_atomically(places / f"{name}.{suffix}", text)


def write_results(folder: Path, name: str, about: Mapping[str, Any], notes: Sequence[str],
                  tables: Mapping[str, Table]) -> None:  # fmt: skip
    content = {"protocol": name, "provenance": about, "notes": list(notes),
               "tables": {name: json.loads(table.json()) for name, table in tables.items()}}  # fmt: skip
    with said_plainly(f"writing {folder}"):
        write_atomically(folder / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def provenance(settings: BenchmarkSettings, detectors: Sequence[Detector], stores: Sequence[Store]) -> dict[str, Any]:
    """Which checkpoint, data, settings and code the numbers come from."""
    sessions = json.loads((settings.folder / "environment.json").read_text())["sessions"]
    models = [{"bundle": str(d.bundle), "digest": d.digest,
               "calibration": d.calibration.to_dict() if d.calibration else None, "settings": plain(d.config)}
              for d in detectors]  # fmt: skip
    data = []
    for store in stores:
        counts = store.manifest.get("counts", {})
        data.append({"store": str(store.root), "dataset": dataset_of(store), "perturbed": perturbation_of(store),
                     "digest": store.manifest["digest"], "tracks": len(store), "skipped": counts.get("skipped"),
                     "reasons": counts.get("reasons", {}), "generated": store.manifest["generated"]})  # fmt: skip
    return {"sessions": sessions, "settings": plain(settings), "models": models, "stores": data,
            "generated": any(one["generated"] for one in data)}  # fmt: skip
