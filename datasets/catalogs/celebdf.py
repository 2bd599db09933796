"""Celeb-DF v1 and v2 (Li et al., CVPR 2020): celebrities' faces exchanged, with care.

    ROOT/Celeb-real/id0_0000.mp4              real
    ROOT/YouTube-real/00000.mp4               real, of nobody that has a number
    ROOT/Celeb-synthesis/id0_id1_0000.mp4     the video id0_0000 with the face of id1
    ROOT/List_of_testing_videos.txt           "1 YouTube-real/00170.mp4": here 1 is REAL and 0 is FAKE

There is no official validation split. Of the videos that are not for testing, `val` is the share that is set
aside: all videos of some target identities (of some files, in YouTube-real), chosen by a hash of their name.
"""

from __future__ import annotations

import re
from pathlib import Path

from datasets.catalogs._reading import (
    falls_within,
    file_names,
    log,
    plain_name,
    read_lines,
    require_share,
    shown,
    wrong_layout,
)
from datasets.records import FORGED, REAL, Catalogue, VideoRecord
from engine.errors import UserError

LIST = "List_of_testing_videos.txt"
FOLDERS = {"Celeb-real": REAL, "YouTube-real": REAL, "Celeb-synthesis": FORGED}
LABEL_IN_LIST = {"1": REAL, "0": FORGED}  # the inverse of ours
FORMS = {"Celeb-real": r"(id\d+)_\d+", "YouTube-real": r"\d+", "Celeb-synthesis": r"(id\d+)_(id\d+)_(\d+)"}
FORGERIES = {1: 795, 2: 5639}  # as published: tells a version from the other


def catalogue(root: Path, *, version: int = 2, val: float = 0.1) -> Catalogue:
    if version not in FORGERIES:
        raise UserError(f"version={version}: Celeb-DF has the versions 1 and 2")
    val = require_share(val, "val")
    dataset = f"celebdf_v{version}"
    folders = [folder for folder in FOLDERS if (root / folder).is_dir()]
    if not folders:
        raise wrong_layout(
            f"Celeb-DF v{version}", root, f"ROOT/{{{','.join(FOLDERS)}}}/*.mp4 and ROOT/{LIST}", _looks_right)
    testing = _read_list(root / LIST)
    absent = [(f"{dataset}/{folder}", "no such folder") for folder in FOLDERS if folder not in folders]
    records = []
    for folder in folders:
        for name in file_names(root / folder):
            stem = name.removesuffix(".mp4")
            if re.fullmatch(FORMS[folder], stem, re.ASCII):
                in_test = f"{folder}/{name}" in testing
                records.append(_record(root, dataset, folder, stem, in_test, val))
            else:
                absent.append((f"{dataset}/{folder}/{shown(stem)}", f"not named like a video of {folder}"))
    present = {record.id for record in records} | {video_id for video_id, _ in absent}
    listed = [f"{dataset}/{name.removesuffix('.mp4')}" for name in testing]
    absent += [(video_id, f"in {LIST}, but not in its folder")
               for video_id in listed if video_id not in present]
    if not records:
        raise UserError(f"{root}: no video in {', '.join(folders)}")
    _warn_of_the_other_version(version, sum(record.label == FORGED for record in records))
    return Catalogue(records, absent)


def _looks_right(root: Path) -> bool:
    return (root / "Celeb-real").is_dir()


def _read_list(path: Path) -> set[str]:
    """The testing videos as FOLDER/NAME.mp4, each line checked against the folder that it names."""
    if not path.is_file():
        raise UserError(f"no {LIST} in {path.parent}: it comes with Celeb-DF and names the test videos")
    names = set()
    for where, line in read_lines(path):
        label, name = (*line.split(maxsplit=1), "")[:2]
        if label not in LABEL_IN_LIST:
            raise UserError(f"{where}: label {label!r}; in this list 1 is real and 0 is fake")
        folder, separator, file = name.partition("/")
        if not separator or folder not in FOLDERS:
            raise UserError(f"{where}: {name!r} is in none of {', '.join(FOLDERS)}")
        plain_name(file, where)
        if LABEL_IN_LIST[label] != FOLDERS[folder]:
            raise UserError(f"{where}: {name!r} is listed as {label}, but its folder says otherwise; "
                            "in this list 1 is real and 0 is fake")
        names.add(f"{folder}/{file}")
    if not names:
        raise UserError(f"{path}: names no video")
    return names


def _record(root: Path, dataset: str, folder: str, stem: str, in_test: bool, val: float) -> VideoRecord:
    identities: tuple[str, ...] = ()
    source = None
    if folder == "Celeb-real":
        identities = (stem.split("_")[0],)
    elif folder == "Celeb-synthesis":
        target, face, number = stem.split("_")
        identities, source = (target, face), f"{dataset}/Celeb-real/{target}_{number}"
    # Without the version in the dice's text, an identity falls on the same side in v1 and in v2.
    group = identities[0] if identities else stem
    split = "test" if in_test else "val" if falls_within(val, f"celebdf/{group}") else "train"
    label = FOLDERS[folder]
    return VideoRecord(
        id=f"{dataset}/{folder}/{stem}", path=root / folder / f"{stem}.mp4", dataset=dataset,
        method="real" if label == REAL else folder, label=label, split=split,
        identities=identities, source=source,
    )


def _warn_of_the_other_version(version: int, forgeries: int) -> None:
    for other, count in FORGERIES.items():
        if other != version and forgeries == count:
            log.warning("data=celebdf_v%d, but %d forgeries are what version %d has: is it data=celebdf_v%d?",
                        version, forgeries, other, other)
