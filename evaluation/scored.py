"""Scoring that can be interrupted: what a detector says of the videos of a part, kept on the disk as it is found.

    RUN/scores/NAME.jsonl    one line a finished video, with all its clips; the first line says of what model and data

A line is written once all clips of its video are scored, and flushed to the disk with those of the same piece. What a
killed run left of a last line is cut away; its other videos are not scored again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.loaders import WindowOrder
from engine.distributed import Context
from engine.errors import UserError
from engine.precision import Precision
from engine.progress import Bar
from engine.scores import Score, video_scores
from engine.stop import StopSignal
from evaluation.plan import Part
from finetune.scoring import clip_logits, described

FORMAT = 1
SCORED = "scores"  # the folder of a run that all this is in


@dataclass(frozen=True)
class Clip:
    """One clip of a video of scores.csv."""

    video: str
    dataset: str
    method: str
    track: str
    start: int  # first frame in the track
    logit: float


def windows_of(part: Part) -> int:
    return len(WindowOrder(part.data))


def score(parts: Sequence[Part], run: Path, precision: Precision, context: Context, stop: StopSignal, *, batch: int,
          workers: int) -> bool:  # fmt: skip
    """Every video of every part (True), or as far as it gets before somebody asks to stop. All ranks call it."""
    total = sum(map(windows_of, parts))
    with Bar("scoring", total, unit="clips") if context.is_main else nullcontext() as bar:
        advance = bar.advance if bar else lambda count: None
        return all(_score(part, run / SCORED, precision, context, stop, batch, workers, advance) for part in parts)


def _score(part: Part, folder: Path, precision: Precision, context: Context, stop: StopSignal, batch: int, workers: int,
           advance: Callable[[int], None]) -> bool:  # fmt: skip
    data, journal = part.data, Journal(folder, part, precision)
    with context.together(f"scores in {folder}"):
        done = set(journal.open()) if context.is_main else set()
    # Which videos are finished is the main process's to say: others may not see the file as it is yet.
    finished = torch.from_numpy(np.isin(data.videos, sorted(done)).astype(np.int64))
    tracks: list[int] = np.flatnonzero(context.sum(finished).numpy() == 0).tolist()
    order = WindowOrder(data, tracks).epoch(0, 0)
    advance(windows_of(part) - len(order.clips))
    if not tracks:
        return True
    wanted = Counter(data.videos[order.clips].tolist())
    waiting: dict[str, list[tuple[str, int, float]]] = {}
    part.detector.network.to(context.device)
    for piece in clip_logits(part.detector.network, data, part.detector.views, precision, context, tracks=tracks,
                             batch=batch, workers=workers):  # fmt: skip
        video_scores(piece.logits, data.videos[piece.tracks].tolist())  # what is not finite is refused, and named
        columns = (piece.tracks.tolist(), piece.starts.tolist(), piece.logits.tolist())
        for track, start, logit in zip(*columns, strict=True):
            waiting.setdefault(str(data.videos[track]), []).append((str(data.ids[track]), start, logit))
        whole = [video for video, clips in waiting.items() if len(clips) == wanted[video]]
        with context.together(f"scores in {folder}"):
            if context.is_main:
                journal.add({video: waiting[video] for video in whole})
        for video in whole:
            del waiting[video]
        advance(len(piece.logits))
        if stop.requested():
            return False
    part.detector.network.to("cpu")
    return True


class Journal:
    """Of one part. Only the main process touches it."""

    def __init__(self, folder: Path, part: Part, precision: Precision):
        self.identity = {"format": FORMAT, "model": part.detector.digest, "store": part.store.manifest["digest"],
                         "data": part.data.fingerprint(), "precision": precision.kind}  # fmt: skip
        name = hashlib.blake2b(json.dumps(self.identity).encode(), digest_size=6).hexdigest()
        readable = re.sub(r"[^A-Za-z0-9.=]+", "-", part.name)[:80].strip("-.")
        # The readable half may change with the command line, the other half says what is in it.
        found = sorted(folder.glob(f"*-{name}.jsonl"))
        self.path = found[0] if found else folder / f"{readable}-{name}.jsonl"

    def open(self) -> dict[str, list]:
        """Finished videos and their clips; a torn end is cut away."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._append([self.identity])
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        if not whole:
            self._append([self.identity])
            return {}
        try:
            header, *lines = map(json.loads, whole.splitlines())
            if header != self.identity:
                raise ValueError("its first line names other scores")
            return {line["video"]: line["clips"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: damaged ({error}); remove it, and its videos are scored again") from error

    def add(self, videos: dict[str, Sequence[Any]]) -> None:
        if videos:
            self._append([{"video": video, "clips": clips} for video, clips in videos.items()])

    def _append(self, lines: Iterable[dict[str, Any]]) -> None:
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


def results(part: Part, folder: Path, precision: Precision) -> tuple[list[Score], list[Clip]]:
    """All videos of a finished part, those that are too short for a clip among them, and all clips."""
    data, found = part.data, Journal(folder, part, precision).open()
    rows, clips = [], []
    for track, video in zip(*_first_tracks(data.videos), strict=True):
        logits = [logit for _, _, logit in found[video]]
        row = described(data, track, len(logits), float(np.mean(np.asarray(logits, np.float64))))
        rows.append(_renamed(row, part.name))
        clips += [Clip(video, part.name, row.method, name, start, logit) for name, start, logit in found[video]]
    return rows + _without_clips(part, {row.video for row in rows}), clips


def _first_tracks(videos: np.ndarray) -> tuple[list[int], list[str]]:
    names, first = np.unique(videos, return_index=True)
    return first.tolist(), names.tolist()


def _without_clips(part: Part, scored: set[str]) -> list[Score]:
    table, rows = part.store.table, {}
    for name in (name for ids in part.data.excluded.values() for name in ids.tolist()):
        track = int(np.flatnonzero(table.ids == name)[0])
        video = str(table.videos[track])
        if video not in scored:
            label, people = int(table.label[track]), table.identities(track)
            rows[video] = Score(video, part.name, table.method[track], None if label < 0 else label,
                                people[0] if people else "", 0, None)  # fmt: skip
    return list(rows.values())


def _renamed(row: Score, dataset: str) -> Score:
    return Score(row.video, dataset, row.method, row.label, row.identity, row.clips, row.logit)
