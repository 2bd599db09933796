"""`crosstalk inspect`: what is in a store, whether it is intact, and what it looks like."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from datasets.baselines import BASELINES, auc_table, features
from datasets.contact_sheet import draw
from datasets.records import FORGED, REAL, SPLITS
from datasets.store import Entry, Store, Table, checksum_of, digest, read_index, read_manifest, read_skipped
from engine.errors import UserError
from engine.files import said_plainly, write_atomically
from engine.progress import Bar
from engine.settings import Needed, load_exactly

BASELINES_FILE = "baselines.json"

BASELINES_FILE = "baselines.json"


@dataclass(frozen=True)
class InspectSettings:
    """configs/inspect.yaml explains each."""

    store: Annotated[Path, Needed("store=DIR is missing: a store that `crosstalk prepare` made")]
    sheet: Path | None
    verify: bool
    baseline_videos: int

    def __post_init__(self) -> None:
        if self.baseline_videos < 0:
            raise UserError(f"baseline_videos={self.baseline_videos}: must be at least 0")


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("inspect", arguments, InspectSettings)
    manifest = read_manifest(settings.store)
    entries = list(read_index(settings.store))
    skipped = read_skipped(settings.store)
    store = Store(settings.store, manifest, Table(entries))

    print("\n".join(_description(settings.store, manifest, entries, skipped)), flush=True)
    damage = [] if digest(entries, skipped) == manifest["digest"] else ["index.jsonl or skipped.csv was changed"]
    if settings.verify:
        damage += _damaged_tracks(settings.store, entries)
    print(_verdict(damage, settings.verify, entries), flush=True)
    if damage:
        return 1
    if settings.baseline_videos and entries:
        print("\n".join(_baselines(store, entries, settings.baseline_videos)), flush=True)
    if str(settings.sheet) != "none" and entries:
        path = settings.sheet or settings.store / "contact_sheet.png"
        with said_plainly(f"sheet={path}"):
            draw(store, entries, path, generated=manifest["generated"])
        print(f"contact sheet: {path}")
    return 0


def _description(root: Path, manifest: dict, entries: list[Entry], skipped: list[tuple[str, str]]) -> list[str]:
    counts, (before, after) = manifest["counts"], manifest["jitter"]
    kind = "JPEG" if entries and entries[0].jpeg else "raw"
    lines = [f"{root}: {manifest['dataset']}, prepared by crosstalk {manifest['crosstalk']}"]
    if worse := manifest.get("perturb"):  # stores that are older than perturbations do not say
        lines.append(f"PERTURBED: {worse['name']}, severity {worse['severity']} of 5; faces found in the clean frames")
    if manifest["generated"]:
        lines.append("GENERATED data: nobody in it is a real person; figures on it say nothing about real forgeries")
    lines += [
        f"{counts['tracks']} face tracks of {counts['videos']} videos, {counts['frames']:,} frames "
        f"({counts['frames'] / 25 / 60:.1f} min), {counts['with_sound']} with sound, "
        f"{counts['bytes'] / 1e9:.2f} GB of {kind} crops",
        f"digest {manifest['digest']}",
        f"jitter: aligned landmarks move {before:.3f} px a frame as fitted, {after:.3f} px smoothed",
        "",
        *_table([["method", *SPLITS, "frames", "identities"], *_counts(entries)]),
        "",
    ]
    if skipped:
        lines.append(f"{len(skipped)} videos skipped (each with its reason in {root / 'skipped.csv'}):")
        lines += [f"  {number:>6}  {reason}" for reason, number in Counter(r for _, r in skipped).most_common(10)]
    else:
        lines.append("no video was skipped")
    return lines


def _counts(entries: list[Entry]) -> list[list[str]]:
    rows = []
    for label in (REAL, FORGED, None):
        for method in sorted({e.method for e in entries if e.label == label}):
            chosen = [e for e in entries if e.method == method and e.label == label]
            per_split = Counter(e.split for e in chosen)
            identities = {identity for e in chosen for identity in e.identities}
            rows.append([method, *(str(per_split[split]) for split in SPLITS),
                         f"{sum(e.frames for e in chosen):,}", str(len(identities) or "-")])
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  " + row[0].ljust(widths[0]) + "".join("  " + cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:], strict=True)) for row in rows]


def _damaged_tracks(root: Path, entries: list[Entry]) -> list[str]:
    """Hashing lets other threads run: as many at a time as there are cores."""
    cores, damaged = len(os.sched_getaffinity(0)), []
    with ThreadPoolExecutor(cores) as threads, Bar("verifying", len(entries), unit="tracks") as bar:
        for entry, found in zip(entries, threads.map(lambda e: checksum_of(root, e), entries), strict=True):
            if found != entry.checksum:
                what = "are missing" if found is None else "changed"
                damaged.append(f"{entry.id}: its bytes in {entry.pack} {what}")
            bar.advance()
    return damaged


def _verdict(damage: list[str], verified: bool, entries: list[Entry]) -> str:
    if not damage:
        return f"intact: all {len(entries)} checksums agree" if verified else "index intact; bytes not verified"
    listed = "\n".join(f"  {what}" for what in damage[:10]) + ("\n  ..." if len(damage) > 10 else "")
    return f"DAMAGED in {len(damage)} places:\n{listed}"


def _baselines(store: Store, entries: list[Entry], most: int) -> list[str]:
    table = baselines_of(store, entries, most)
    if not table:
        return ["baselines: none, they need both real and forged videos"]
    path = store.root / BASELINES_FILE
    with said_plainly(f"writing {path}"):
        write_atomically(path, json.dumps(table, indent=1).encode())
    return [
        "",
        "linear baselines: AUC of a logistic regression per method against the real videos, cross-validated by",
        "identity; 0.5 is chance. What these can tell, a network need not have learnt from faces:",
        *_table([["method", *BASELINES], *([method, *(f"{aucs.get(name, np.nan):.2f}" for name in BASELINES)]
                                           for method, aucs in table.items())]),
    ]


def read_baselines(store: Path) -> dict[str, dict[str, float]]:
    """What an inspection of the store found last."""
    path = store / BASELINES_FILE
    with said_plainly(f"reading {path}"):
        return json.loads(path.read_bytes())


def baselines_of(store: Store, entries: list[Entry], most: int) -> dict[str, dict[str, float]]:
    """{method: {baseline: AUC}}: what a logistic regression on a few obvious numbers reaches, on at most so many videos
    of each method. Nothing if only real or only forged videos are there."""
    rows = [(i, e) for i, e in enumerate(entries) if "#" not in e.id.removeprefix(e.video) and e.frames > 1]
    if not any(e.label == REAL for _, e in rows) or not any(e.label == FORGED for _, e in rows):
        return {}
    chosen = []
    for method in sorted({(e.label, e.method) for _, e in rows if e.label is not None}):
        of_method = [row for row in rows if (row[1].label, row[1].method) == method]
        count = min(most, len(of_method))
        chosen += [of_method[k * len(of_method) // count] for k in range(count)]
    numbers = []
    with Bar("baselines", len(chosen)) as bar:
        for i, entry in chosen:
            frames = store.frames(i, 0, min(entry.frames, 250))
            numbers.append(features(frames, np.array(entry.background), entry.file_bytes))
            bar.advance()
    picked = [entry for _, entry in chosen]
    labels = [int(entry.label == FORGED) for entry in picked]
    return auc_table(numbers, labels, [entry.method for entry in picked], identity_groups(picked))


def identity_groups(entries: list[Entry]) -> list[str]:
    """A key per video such that no person is in two groups; where that would be one group, no source video is."""
    for members in ([e.identities or (e.id,) for e in entries], [(e.source or e.video,) for e in entries]):
        parent: dict[str, str] = {}

        def root(name: str, parent: dict[str, str] = parent) -> str:
            while parent.setdefault(name, name) != name:
                name = parent[name]
            return name

        for first, *others in members:
            for other in others:
                parent[root(other)] = root(first)
        groups = [root(first) for first, *_ in members]
        sizes: dict[str, int] = defaultdict(int)
        for group in groups:
            sizes[group] += 1
        if max(sizes.values()) <= len(entries) / 3:
            return groups
    return groups
