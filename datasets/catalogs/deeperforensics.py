"""DeeperForensics-1.0 (Jiang et al., CVPR 2020): the videos of FaceForensics++ with faces of paid actors.

    ROOT/manipulated_videos/VARIANT/000_M101.mp4     the head of 000 with the face of actor M101
    ROOT/splits/{train,val,test}.json                the lists of FaceForensics++

Its real videos are those of FaceForensics++, at the compression c23, and not here: prepare them with
`data=faceforensics methods=[]`. The split is that of the leading id, so no head is trained on and judged.
"""

from __future__ import annotations

import re
from pathlib import Path

from datasets.catalogs._reading import file_names, folder_names, plain_name, shown, wrong_layout
from datasets.catalogs.faceforensics import read_pairs, split_of_identities
from datasets.records import FORGED, Catalogue, VideoRecord
from engine.errors import UserError


def catalogue(root: Path, *, variant: str = "end_to_end", splits: str | Path | None = None) -> Catalogue:
    """`variant`: the folder of manipulated_videos; `splits`: as for FaceForensics++."""
    plain_name(variant, "variant", suffix="")
    if not _looks_right(root):
        expected = f"ROOT/manipulated_videos/{variant}/000_M101.mp4"
        raise wrong_layout("DeeperForensics-1.0", root, expected, _looks_right)
    folder = root / "manipulated_videos" / variant
    if not folder.is_dir():
        there = ", ".join(map(shown, folder_names(folder.parent))) or "nothing"
        raise UserError(f"variant={variant}: no folder {folder}; there is {there}")

    pairs = read_pairs(root, splits)
    split_of = None if pairs is None else split_of_identities(pairs)
    prefix = f"deeperforensics/{variant}"
    records, absent, seen = [], [], set()
    for name in file_names(folder):
        stem = name.removesuffix(".mp4")
        if not re.fullmatch(r"[0-9A-Za-z]+_[MW]\d+", stem, re.ASCII):
            absent.append((f"{prefix}/{shown(stem)}", "not named like a video of DeeperForensics"))
            continue
        target, actor = stem.split("_")
        seen.add(target)
        split = "test" if split_of is None else split_of.get(target)
        if split is None:
            absent.append((f"{prefix}/{stem}", "in no split list"))
            continue
        records.append(VideoRecord(
            id=f"{prefix}/{stem}", path=folder / name, dataset="deeperforensics", method="DeeperForensics",
            label=FORGED, split=split, identities=(target, actor), source=f"faceforensics/c23/real/{target}",
        ))
    absent += [(f"{prefix}/{target}", f"in the list of {split}, but no video of it in {folder}")
               for target, split in (split_of or {}).items() if target not in seen]
    if not records:
        raise UserError(f"{folder}: no video such as 000_M101.mp4 that the split lists name")
    return Catalogue(records, absent)


def _looks_right(root: Path) -> bool:
    return (root / "manipulated_videos").is_dir()
