"""Any folder of videos: labelled by the folders `real` and `fake` somewhere above a video, or not at all.

    ROOT/.../real/.../anything.mp4            real
    ROOT/.../fake/METHOD/.../anything.mov     forged, by METHOD (by "fake" where there is no such folder)
    ROOT/.../anything.webm                    unlabelled

A folder `train`, `val` or `test` anywhere above a video gives its split; without one it is for testing. Of
several such folders the nearest counts, in upper or lower case. Links to folders are reported, not followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.catalogs._reading import is_file, is_folder, is_text, listing, log, plain_name, shown
from datasets.records import FORGED, REAL, Catalogue, VideoRecord
from engine.errors import UserError

SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".wmv", ".ts", ".3gp",
)
LABELS = {"real": REAL, "fake": FORGED}
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}


def catalogue(root: Path, *, dataset: str = "folder") -> Catalogue:
    """`dataset`: begins every id, so that two folders of yours can be judged together."""
    plain_name(dataset, "dataset", suffix="")
    records, absent = [], []
    for path, trouble in videos_below(root):
        relative = path.relative_to(root)
        if trouble is None and is_text(str(relative)):
            records.append(_record(path, relative, dataset))
        else:
            absent.append((f"{dataset}/{shown(str(relative))}", trouble or "the name is not UTF-8"))
    if not records:
        raise UserError(f"no videos anywhere below {root}: looked for {', '.join(SUFFIXES)}")
    unlabelled = sum(record.label is None for record in records)
    if 0 < unlabelled < len(records):
        log.warning("%s: %d of %d videos lie below neither real/ nor fake/: they stay unlabelled",
                    root, unlabelled, len(records))
    return Catalogue(records, absent)


def videos_below(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Every video file below, or what is wrong with it; a stack, since trees can be deeper than recursion."""
    stack = [root]
    while stack:
        for entry in listing(stack.pop()):
            path = Path(entry.path)
            if entry.is_symlink() and is_folder(entry):
                yield path, "a link to a folder: not followed"
            elif is_folder(entry):
                stack.append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield path, None if is_file(entry) else "not a file, or a link that leads nowhere"


def _record(path: Path, relative: Path, dataset: str) -> VideoRecord:
    folders = relative.parts[:-1]
    labelled_at = next((at for at in reversed(range(len(folders))) if folders[at].lower() in LABELS), None)
    label, method = None, "unknown"
    if labelled_at is not None:
        label = LABELS[folders[labelled_at].lower()]
        below = [folder for folder in folders[labelled_at + 1:] if folder.lower() not in SPLIT_FOLDERS]
        method = "real" if label == REAL else below[0] if below else "fake"
    split = next((SPLIT_FOLDERS[folder.lower()] for folder in reversed(folders)
                  if folder.lower() in SPLIT_FOLDERS), "test")
    return VideoRecord(
        id=f"{dataset}/{relative}", path=path, dataset=dataset, method=method, label=label, split=split,
    )
