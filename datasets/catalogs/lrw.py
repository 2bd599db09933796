"""LRW, Lip Reading in the Wild (Chung and Zisserman, ACCV 2016): one spoken word per clip, all of them real.

    ROOT/lipread_mp4/WORD/{train,val,test}/WORD_00001.mp4

The split is the official one. `subset` bounds the number of training clips; see `_fair_share` for which.
"""

from __future__ import annotations

from pathlib import Path

from datasets.catalogs._reading import file_names, folder_names, is_text, log, number_of, shown, wrong_layout
from datasets.records import REAL, SPLITS, Catalogue, VideoRecord
from engine.errors import UserError


def catalogue(root: Path, *, subset: int | None = 5000) -> Catalogue:
    """All of LRW (`subset=None`), or `subset` training clips and one clip per word for val and for test.

    A dataset with no more training clips than that is its own subset, and is taken whole.
    """
    if subset is not None and (isinstance(subset, bool) or not isinstance(subset, int) or subset < 1):
        raise UserError(f"subset={subset}: expected a number of training clips, or null for all")
    clips, absent = _clips(root)
    if not any(clips.values()):
        raise wrong_layout("LRW", root, "ROOT/lipread_mp4/WORD/{train,val,test}/WORD_00001.mp4", _looks_right)
    if subset is not None and subset < sum(map(len, clips["train"].values())):
        clips = {
            split: _fair_share(words, subset if split == "train" else len(words), split)
            for split, words in clips.items()
        }
    records = [
        _record(root, word, split, stem)
        for split, words in clips.items() for word, stems in words.items() for stem in stems
    ]
    return Catalogue(records, absent)


def _looks_right(root: Path) -> bool:
    return (root / "lipread_mp4").is_dir()


def _clips(root: Path) -> tuple[dict[str, dict[str, list[str]]], list[tuple[str, str]]]:
    """split -> word -> stems of its clips, and what was found amiss."""
    clips: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    absent = []
    top = root / "lipread_mp4"
    for word in folder_names(top) if top.is_dir() else ():
        if not is_text(word):
            absent.append((f"lrw/{shown(word)}", "the folder's name is not UTF-8"))
            continue
        here = folder_names(top / word)
        for split in SPLITS:
            if split not in here:
                absent.append((f"lrw/{word}/{split}", "no such folder"))
                continue
            stems = [name.removesuffix(".mp4") for name in file_names(top / word / split)]
            # The folder is the label: a clip that names another word has been put in the wrong place.
            ours = [stem for stem in stems if stem.startswith(f"{word}_") and is_text(stem)]
            if ours:
                clips[split][word] = ours
            if len(ours) < len(stems):
                absent += [
                    (f"lrw/{word}/{split}/{shown(stem)}", f"not named like a clip of {word}")
                    for stem in sorted(set(stems) - set(ours))
                ]
    return clips, absent


def _fair_share(words: dict[str, list[str]], total: int, split: str) -> dict[str, list[str]]:
    """`total` clips in rounds of one per word, so that no two words differ by more than one clip.

    Within a word, and in a last round that is not full, the order is that of a hash of the clip's name. So 5,000
    clips of LRW's 500 words are exactly 10 per word, the same on every machine; a smaller subset is part of every
    larger one; and where a word runs out of clips, the others fill its places.
    """
    queues = {word: sorted(stems, key=number_of) for word, stems in words.items()}
    in_rounds = sorted(
        (turn, number_of(stem), word, stem)
        for word, queue in queues.items() for turn, stem in enumerate(queue[:total])
    )
    chosen: dict[str, list[str]] = {}
    for _, _, word, stem in in_rounds[:total]:
        chosen.setdefault(word, []).append(stem)

    each = total // max(len(words), 1)
    short = [word for word in words if len(words[word]) < each]
    if short:
        log.warning("LRW %s: %d of %d words have fewer than the %d clips that an even subset takes (%s%s)",
                    split, len(short), len(words), each, ", ".join(short[:5]), ", ..." if len(short) > 5 else "")
    return chosen


def _record(root: Path, word: str, split: str, stem: str) -> VideoRecord:
    return VideoRecord(
        id=f"lrw/{word}/{split}/{stem}", path=root / "lipread_mp4" / word / split / f"{stem}.mp4",
        dataset="lrw", method="real", label=REAL, split=split, word=word,
    )
