"""FaceForensics++ (Rössler et al., ICCV 2019): five ways to forge a face, three compressions.

    ROOT/original_sequences/youtube/{raw,c23,c40}/videos/000.mp4
    ROOT/manipulated_sequences/METHOD/{raw,c23,c40}/videos/000_003.mp4     the head of 000, the face of 003
    ROOT/splits/{train,val,test}.json                                      [["000", "003"], ...]

The lists decide: a pair a, b of a list puts the reals a and b and the forgeries a_b and b_a into its split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets.catalogs._reading import file_names, read_json, shown, wrong_layout
from datasets.records import FORGED, REAL, SPLITS, Catalogue, VideoRecord
from engine.errors import UserError

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
COMPRESSIONS = ("raw", "c23", "c40")
FRAMES = {"train": 270, "val": 110, "test": 110}  # the protocol's first frames of a video

# (target, source), in both orders, -> split
Pairs = dict[tuple[str, str], str]


def catalogue(
    root: Path,
    *,
    compression: str = "c23",
    methods: Sequence[str] = METHODS,
    splits: str | Path | None = None,
) -> Catalogue:
    """`splits`: a folder with the three lists, None for ROOT/splits, or "none" to put every video in test."""
    if compression not in COMPRESSIONS:
        raise UserError(f"compression={compression}: expected one of {', '.join(COMPRESSIONS)}")
    methods = _known_methods(methods)
    if not _looks_right(root):
        raise wrong_layout(
            "FaceForensics++", root,
            f"ROOT/original_sequences/youtube/{compression}/videos/000.mp4 and "
            f"ROOT/manipulated_sequences/METHOD/{compression}/videos/000_003.mp4", _looks_right)
    folders = {"real": _videos(root / "original_sequences" / "youtube", compression, "the real videos")}
    for method in methods:
        others = [name for name in methods if name != method]
        folders[method] = _videos(
            root / "manipulated_sequences" / method, compression, method,
            f", or leave the method out: methods=[{','.join(others)}]")

    pairs = read_pairs(root, splits)
    records, absent = [], []
    for method, folder in folders.items():
        found = {name.removesuffix(".mp4") for name in file_names(folder)}
        listed = _listed(found, pairs, method == "real")
        prefix = f"faceforensics/{compression}/{method}"
        records += [_record(folder, prefix, method, stem, listed[stem]) for stem in found & listed.keys()]
        absent += [(f"{prefix}/{stem}", f"in the list of {listed[stem]}, but not in {folder}")
                   for stem in listed.keys() - found]
        absent += [(f"{prefix}/{shown(stem)}", "not named like a video of this folder" if pairs is None
                    else "in no split list") for stem in found - listed.keys()]
    if not records:
        raise UserError(f"{root}: none of the {compression} videos that the split lists name are here")
    return Catalogue(records, absent)


def read_pairs(root: Path, splits: str | Path | None) -> Pairs | None:
    """The pairs of the three official lists, each in both orders; None where the user wants no split."""
    if splits is not None and str(splits).lower() == "none":
        return None
    folder = root / "splits" if splits is None else Path(str(splits)).expanduser()
    missing = [split for split in SPLITS if not (folder / f"{split}.json").is_file()]
    if missing:
        raise UserError(
            f"no {missing[0]}.json in {folder}: the lists train.json, val.json and test.json come with "
            "the FaceForensics++ repository (dataset/splits); copy them there, give their folder with "
            "splits=DIR, or put every video in test with splits=none")
    pairs: Pairs = {}
    split_of: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        for first, second in _pairs_of(path):
            for identity in (first, second):
                if split_of.setdefault(identity, split) != split:
                    raise UserError(f"{path}: identity {identity!r} is also in {split_of[identity]}.json: "
                                    "a face that was trained on must not be judged")
            if (first, second) in pairs:
                raise UserError(f"{path}: the pair {first}, {second} is listed twice")
            pairs[first, second] = pairs[second, first] = split
    return pairs


def split_of_identities(pairs: Pairs) -> dict[str, str]:
    return {identity: split for (identity, _), split in pairs.items()}


def _looks_right(root: Path) -> bool:
    return (root / "original_sequences" / "youtube").is_dir()


def _known_methods(methods: Sequence[str]) -> list[str]:
    methods = [methods] if isinstance(methods, str) else methods
    if not isinstance(methods, Sequence):
        raise UserError(f"methods={methods}: expected a list such as methods=[{','.join(METHODS[:2])}]")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"methods: no method {method!r} in FaceForensics++; it has {', '.join(METHODS)}")
    return list(dict.fromkeys(methods))


def _videos(folder: Path, compression: str, what: str, otherwise: str = "") -> Path:
    videos = folder / compression / "videos"
    if videos.is_dir():
        return videos
    there = [name for name in COMPRESSIONS if (folder / name / "videos").is_dir()]
    has = f"it has compression={' and compression='.join(there)}" if there else "nothing of it is here"
    raise UserError(f"FaceForensics++: {what} of compression {compression}: no folder {videos}; {has}. "
                    f"Download it{otherwise}")


def _listed(found: set[str], pairs: Pairs | None, real: bool) -> dict[str, str]:
    """stem -> split of the videos that ought to be in a folder; without lists, of those that are."""
    if pairs is None:
        form = r"[0-9A-Za-z]+" if real else r"[0-9A-Za-z]+_[0-9A-Za-z]+"
        return {stem: "test" for stem in found if re.fullmatch(form, stem)}
    if real:
        return split_of_identities(pairs)
    return {f"{target}_{source}": split for (target, source), split in pairs.items()}


def _record(folder: Path, prefix: str, method: str, stem: str, split: str) -> VideoRecord:
    identities = tuple(stem.split("_"))
    real = method == "real"
    return VideoRecord(
        id=f"{prefix}/{stem}", path=folder / f"{stem}.mp4", dataset="faceforensics", method=method,
        label=REAL if real else FORGED, split=split, identities=identities,
        source=None if real else prefix.removesuffix(method) + f"real/{identities[0]}", limit=FRAMES[split],
    )


def _pairs_of(path: Path) -> list[tuple[str, str]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of pairs such as [[\"000\", \"003\"]]")
    for pair in content:
        if not (isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1] and all(map(_is_id, pair))):
            raise UserError(f"{path}: {str(pair)[:80]!r} is not a pair of two ids such as [\"000\", \"003\"]")
    return [(first, second) for first, second in content]


def _is_id(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9A-Za-z]+", text) is not None
