"""Small trees of empty files in the datasets' own layouts, for the tests of the catalogues."""

import json
from collections import Counter
from pathlib import Path

from datasets.catalogs import create
from datasets.catalogs.faceforensics import METHODS
from datasets.records import Catalogue


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def by_id(catalogue: Catalogue) -> dict:
    return {record.id: record for record in catalogue.records}


def splits_of(records) -> dict[str, int]:
    return dict(Counter(record.split for record in records))


def write_pairs(root: Path, train, val=(), test=()) -> Path:
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for split, pairs in (("train", train), ("val", val), ("test", test)):
        (root / "splits" / f"{split}.json").write_text(json.dumps(pairs))
    return root


def faceforensics(root: Path, train, val=(), test=(), methods=METHODS, compression="c23") -> Path:
    write_pairs(root, train, val, test)
    for first, second in (*train, *val, *test):
        videos = f"{compression}/videos"
        touch(root / "original_sequences/youtube" / videos, f"{first}.mp4", f"{second}.mp4")
        for method in methods:
            touch(root / "manipulated_sequences" / method / videos, f"{first}_{second}.mp4",
                  f"{second}_{first}.mp4")
    return root


def celebdf(root: Path, listed: str, *names: str) -> Path:
    touch(root, "Celeb-real/id0_0000.mp4", "YouTube-real/00000.mp4", "Celeb-synthesis/id0_id1_0000.mp4", *names)
    (root / "List_of_testing_videos.txt").write_text(listed)
    return root


def dfdc_part(root: Path, number: int, metadata: object, *names: str) -> Path:
    """A training part whose folder holds what its metadata names, or only `names` where some are given."""
    part = root / f"dfdc_train_part_{number}"
    touch(part, *(names or metadata))
    (part / "metadata.json").write_text(metadata if isinstance(metadata, str) else json.dumps(metadata))
    return root


def every_dataset(root: Path) -> list[Catalogue]:
    """One tree of each, with names as alike as the layouts allow."""
    touch(root / "lrw", *(f"lipread_mp4/ABOUT/{split}/ABOUT_00001.mp4" for split in ("train", "val", "test")))
    faceforensics(root / "ff", [["000", "001"]])
    for version in (1, 2):
        celebdf(root / f"celebdf_v{version}", "1 Celeb-real/id0_0000.mp4\n")
    for part in (0, 1):
        dfdc_part(root / "dfdc", part, {"000.mp4": {"label": "REAL"}})
    touch(root / "dfdc", "test/000.mp4", "test_videos/000.mp4")
    (root / "dfdc/labels.csv").write_text("filename,label\n000.mp4,0\n")
    write_pairs(touch(root / "deeper", "manipulated_videos/end_to_end/000_M101.mp4"), [["000", "001"]])
    touch(root / "folder", "real/000.mp4", "fake/000.mp4", "fake/A/000.mp4", "fake/A/000.mov", "000.mp4")
    return [
        create("lrw", root / "lrw", subset=None), create("faceforensics", root / "ff"),
        create("celebdf_v1", root / "celebdf_v1"), create("celebdf_v2", root / "celebdf_v2"),
        create("dfdc", root / "dfdc"), create("deeperforensics", root / "deeper"),
        create("folder", root / "folder"),
    ]
