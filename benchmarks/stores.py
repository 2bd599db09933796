"""Small stores made of given arrays, for benchmarks and tests: no video, no face detector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.store import PACKS, Entry, PackWriter, Store, TrackSpool, finish

BLANK = Entry(
    id="", video="", dataset="small", method="real", label=0, split="train", identities=(), source=None, word=None,
    limit=None, start=0, frames=0, video_frames=0, sound=False, face_side=100.0, jitter=(0.0, 0.0), file_bytes=0,
    background=(), generated=True, pack="", offset=0, crops_bytes=0, jpeg=False, checksum="",
)  # fmt: skip


@dataclass
class Track:
    crops: np.ndarray  # uint8 (n, 150, 150, 3)
    sound: np.ndarray | None = None  # int16 (n * 640,)
    about: dict[str, Any] | None = None  # columns of the index: id, method, label, split, limit, start ...


def entry(**about: Any) -> Entry:
    """A line of the index with everything that is not said left blank; the video is named like the track."""
    return replace(BLANK, **({"video": about["id"].split("#")[0]} | about))


def write_store(root: Path, tracks: Iterable[Track], *, jpeg_quality: int | None = None) -> Store:
    (root / PACKS).mkdir(parents=True)
    pack = PackWriter(root, "small")
    entries = []
    for number, track in enumerate(tracks):
        spool = TrackSpool(root / "spool", jpeg_quality=jpeg_quality)
        for crop in track.crops:
            spool.add(crop)
        spool.end_of_crops()
        if track.sound is not None:
            spool.add_sound(track.sound)
        about = {"id": f"small/{number:04d}"} | (track.about or {})
        entries.append(entry(**about | spool.append_to(pack)))
        spool.discard()
    pack.close()
    finish(root, entries, [], {"settings": {}, "generated": True})
    return Store.open(root)
