"""What a video is to this project: one `VideoRecord`, whatever dataset it came from.

A catalogue (`datasets.catalogs`) turns somebody's folder into records; everything after it knows records only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UserError

REAL, FORGED = 0, 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video of one dataset.

    id          unique over all datasets: dataset, then the file's distinguishing path without its root
    path        of the video file, absolute
    method      how it was forged ("Deepfakes", "FaceShifter", ...); "real" for a real video
    label       0 real, 1 forged, None where nobody has said
    identities  whose face and whose head: one for a real video, both for a swap, empty where unknown
    source      id of the real video that a forgery was made from, if known
    word        what is said, where the dataset has word labels
    limit       the dataset's protocol looks at this many first frames (at 25 fps); None is the whole video
    """

    id: str
    path: Path
    dataset: str
    method: str
    label: int | None
    split: str
    identities: tuple[str, ...] = ()
    source: str | None = None
    word: str | None = None
    limit: int | None = None


@dataclass(slots=True)
class Catalogue:
    """The records of one dataset, in order of id, and the videos that its lists name but its folders lack."""

    records: list[VideoRecord]
    absent: list[tuple[str, str]] = field(default_factory=list)  # (video id, reason)

    def __post_init__(self) -> None:
        self.records.sort(key=lambda record: record.id)
        self.absent.sort()
        require_unique(record.id for record in self.records)


def require_unique(ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for video_id in ids:
        if video_id in seen:
            raise UserError(f"two videos share the id {video_id!r}: scores would be mixed up; rename one of them")
        seen.add(video_id)
