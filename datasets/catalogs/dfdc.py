"""DFDC, the Deepfake Detection Challenge (Dolhansky et al., 2020), in the three forms that it comes in.

    ROOT/dfdc_train_part_N/*.mp4 + metadata.json     {"abc.mp4": {"label": "FAKE", "original": "xyz.mp4"}}
    ROOT/test/*.mp4 + labels.csv (there or in ROOT)  filename,label with 0 real and 1 fake
    ROOT/test_videos/*.mp4                           Kaggle's public test, without labels

Whichever of them are found are taken together. The dataset does not say who is seen, so `source`, the video
that a forgery was made from, is what keeps related videos together: `val`, the share of the training parts
that is set aside, is drawn by a hash of the original's name, so that a real video and its forgeries stay on
one side.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from datasets.catalogs._reading import (
    falls_within,
    file_names,
    folder_names,
    is_text,
    plain_name,
    read_json,
    read_lines,
    read_text,
    require_share,
    shown,
    wrong_layout,
)
from datasets.records import FORGED, REAL, Catalogue, VideoRecord
from engine.errors import UserError

METHOD = {REAL: "real", FORGED: "DFDC", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a list says of one file."""

    label: int | None
    original: str | None = None


def catalogue(root: Path, *, list: str | Path | None = None, val: float = 0.1) -> Catalogue:
    """`list`: a text file with one file name per line that restricts the videos to those."""
    val = require_share(val, "val")
    wanted = None if list is None else _read_names(Path(str(list)).expanduser())
    claims = _claims(root)
    if not claims:
        raise wrong_layout(
            "DFDC", root, "ROOT/dfdc_train_part_N/*.mp4 with metadata.json, ROOT/test/*.mp4 with labels.csv, "
            "or ROOT/test_videos/*.mp4", _looks_right)

    absent = []
    if wanted is not None:
        known = {name for claimed in claims.values() for name in claimed}
        absent += [(f"dfdc/{name}", f"in {list}, but in no folder of {root}") for name in wanted - known]
    folder_of = {name: folder for folder, claimed in claims.items() for name in claimed}
    records = []
    for folder, claimed in claims.items():
        found = set(file_names(root / folder))
        for name in found | claimed.keys():
            if wanted is not None and name not in wanted:
                continue
            if name not in found:
                absent.append((f"dfdc/{folder}/{name}", f"in the list of {folder}, but not in the folder"))
            elif name not in claimed:
                absent.append((f"dfdc/{folder}/{shown(name)}", f"in no list of {folder}" if is_text(name)
                               else "the name is not UTF-8"))
            else:
                records.append(_record(root, folder, name, claimed, folder_of, val))
    if not records:
        raise UserError(f"{root}: the folders of DFDC are here ({', '.join(claims)}), but no video in them "
                        f"{'is listed' if list is None else f'is in {list}'}")
    return Catalogue(records, absent)


def _looks_right(root: Path) -> bool:
    return (
        (root / "test_videos").is_dir()
        or ((root / "test").is_dir() and any(path.is_file() for path in _label_files(root)))
        or any(map(_is_part, folder_names(root)))
    )


def _is_part(folder: str) -> bool:
    return re.fullmatch(r"dfdc_train_part_\d+", folder, re.ASCII) is not None


def _claims(root: Path) -> dict[str, dict[str, Claim]]:
    """folder -> file name -> what is said of it, over whatever parts of DFDC lie in the root."""
    here = folder_names(root)
    claims = {name: _read_metadata(root / name / "metadata.json") for name in here if _is_part(name)}
    if "test" in here:
        claims["test"] = _read_labels(root)
    if "test_videos" in here:
        names = file_names(root / "test_videos")
        claims["test_videos"] = {name: Claim(None) for name in names if is_text(name)}
    return claims


def _read_metadata(path: Path) -> dict[str, Claim]:
    if not path.is_file():
        raise UserError(f"no metadata.json in {path.parent}: it comes with the part and holds its labels")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object such as {{\"abc.mp4\": {{\"label\": \"REAL\"}}}}")
    claims = {}
    for name, entry in content.items():
        where = f"{path}, entry {name[:80]!r}"
        plain_name(name, where)
        if not isinstance(entry, dict) or entry.get("label") not in ("REAL", "FAKE"):
            raise UserError(f"{where}: expected \"label\" to be \"REAL\" or \"FAKE\"")
        original = entry.get("original")
        if original is not None:
            plain_name(original, f"{where}, original")
        claims[name] = Claim(REAL, None) if entry["label"] == "REAL" else Claim(FORGED, original)
    return claims


def _label_files(root: Path) -> tuple[Path, Path]:
    return root / "labels.csv", root / "test" / "labels.csv"


def _read_labels(root: Path) -> dict[str, Claim]:
    path = next((path for path in _label_files(root) if path.is_file()), None)
    if path is None:
        looked = " and ".join(map(str, _label_files(root)))
        raise UserError(f"no labels.csv for {root / 'test'}: looked for {looked}. "
                        "Videos without labels belong in ROOT/test_videos")
    claims = {}
    # Line endings stay as they are for the csv module: a quoted name may hold one.
    rows = csv.DictReader(StringIO(read_text(path), newline=""))
    try:
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path}: expected a first line with the columns filename,label")
        for row in rows:
            where = f"{path}:{rows.line_num}"
            name = plain_name(row["filename"], where)
            if row["label"] not in ("0", "1"):
                raise UserError(f"{where}: label {row['label']!r}; expected 0 (real) or 1 (fake)")
            if name in claims:
                raise UserError(f"{where}: {name!r} is listed twice")
            claims[name] = Claim(int(row["label"]))
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: {error}") from error
    return claims


def _read_names(path: Path) -> set[str]:
    return {plain_name(line, where) for where, line in read_lines(path)}


def _record(
    root: Path, folder: str, name: str, claimed: dict[str, Claim], folder_of: dict[str, str], val: float,
) -> VideoRecord:
    claim = claimed[name]
    source = None
    if claim.original is not None:  # nearly always in the same part; supposed to be if nobody lists it
        home = folder if claim.original in claimed else folder_of.get(claim.original, folder)
        source = f"dfdc/{home}/{claim.original}"
    split = "test"
    if _is_part(folder):
        split = "val" if falls_within(val, f"dfdc/{claim.original or name}") else "train"
    return VideoRecord(
        id=f"dfdc/{folder}/{name}", path=root / folder / name, dataset="dfdc",
        method=METHOD[claim.label], label=claim.label, split=split, source=source,
    )
