"""Clips out of stores: the windows of a video, and the tracks of one or more stores that a run looks at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datasets.media import SAMPLES_PER_FRAME
from datasets.records import FORGED, REAL
from datasets.store import CROP, Store
from engine.errors import UserError

CLIP_FRAMES = 25
NO_LABEL = -1


def uniform_windows(frames: int, length: int = CLIP_FRAMES) -> list[int]:
    """First frames of the consecutive windows that cover a video, the last one moved back to fit.

    A video shorter than a window has none: what calls this has to report it.
    """
    if frames < length:
        return []
    starts = list(range(0, frames - length + 1, length))
    if starts[-1] + length < frames:
        starts.append(frames - length)
    return starts


# ------------------------------------------------------------------------------------------------- dataset

class ClipDataset:
    """The tracks of one or more stores that a run looks at, held in arrays so that forked workers share them.

    split      "train", "val", "test"; None takes all
    methods    keep only forgeries of these methods; real and unlabelled videos are not touched by it
    leave_out  drop the forgeries of these methods
    labels     keep only these, such as (REAL,) or (REAL, FORGED); None takes all, unlabelled ones too
    sound      True reads the sound and excludes tracks without; False reads none

    Tracks that pass the filters and cannot give a window are in `excluded`: reason -> ids. None is dropped silently.
    """

    def __init__(
        self,
        stores: Store | Sequence[Store],
        *,
        split: str | None = None,
        methods: Collection[str] | None = None,
        leave_out: Collection[str] = (),
        labels: Collection[int] | None = None,
        sound: bool = False,
        length: int = CLIP_FRAMES,
    ):
        self.stores = list(stores) if isinstance(stores, Sequence) else [stores]
        self.sound, self.length = sound, length
        tables = [store.table for store in self.stores]
        self.method_names, all_methods = _merge([table.method for table in tables])
        self.dataset_names, all_datasets = _merge([table.dataset for table in tables])
        word_names, all_words = _merge([table.word for table in tables])
        all_splits = np.concatenate([np.array(table.split.names)[table.split.codes] for table in tables])

        def joined(column: str) -> np.ndarray:
            return np.concatenate([getattr(table, column) for table in tables])

        all_labels = joined("label")
        forged_methods = sorted({self.method_names[code] for code in np.unique(all_methods[all_labels == FORGED])})
        for name in {*(methods or ()), *leave_out} - set(forged_methods):
            known = ", ".join(forged_methods) or "no forgeries"
            raise UserError(f"no forgeries of method {name!r} in {self._where()}; there are: {known}")

        def of_methods(names: Collection[str]) -> np.ndarray:
            codes = [self.method_names.index(name) for name in names]
            return np.isin(all_methods, codes) & (all_labels == FORGED)

        keep = np.ones(len(all_labels), bool)
        if split is not None:
            keep &= all_splits == split
        if labels is not None:
            keep &= np.isin(all_labels, list(labels))
        if methods is not None:
            keep &= (all_labels != FORGED) | of_methods(methods)
        keep &= ~of_methods(leave_out)

        frames, limit, first = joined("frames"), joined("limit"), joined("start")
        # A limit counts from the video's first frame, a window from the track's.
        usable = np.where(limit < 0, frames, np.clip(limit - first, 0, frames))
        self.excluded: dict[str, np.ndarray] = {}
        reasons = {f"fewer than {length} frames": usable < length}
        if sound:
            reasons["no sound"] = ~joined("has_sound")
        for reason, hit in reasons.items():
            if (keep & hit).any():
                self.excluded[reason] = joined("ids")[keep & hit]
            keep &= ~hit
        if not keep.any():
            filters = {"split": split, "methods": methods, "leave_out": leave_out or None, "labels": labels}
            asked = ", ".join(f"{k}={_plain(v)}" for k, v in filters.items() if v is not None) or "no filter"
            asked += " and with sound" if sound else ""
            lost = "".join(f"; {len(ids)} that match have {reason}" for reason, ids in self.excluded.items())
            has = f"splits {_counts(all_splits)}; methods {_counts(np.array(self.method_names)[all_methods])}"
            raise UserError(f"no clips with {asked} in {self._where()}{lost}; it has {has}")

        self._store = np.concatenate([np.full(len(t), k, np.int16) for k, t in enumerate(tables)])[keep]
        self._track = np.concatenate([np.arange(len(t), dtype=np.int32) for t in tables])[keep]
        self.usable = usable[keep].astype(np.int32)
        self.ids, self.videos = joined("ids")[keep], joined("videos")[keep]
        self.label = all_labels[keep]
        self.method, self.dataset = all_methods[keep], all_datasets[keep]
        # A track without a word has the name "" in its store; here it has no number, and the words are 0 .. n - 1.
        self.word_names = [name for name in word_names if name]
        self.word = all_words[keep] - np.int16("" in word_names)  # "" sorts first
        repeated = self.ids[np.sort(_repeats(self.ids))]
        if len(repeated):
            raise UserError(f"{len(repeated)} ids come more than once in {self._where()}: {str(repeated[0])!r}, ...")

    def __len__(self) -> int:
        return len(self.ids)

    def identity(self, clip: int) -> str:
        """Whose video it is, of a forged one the person whose video was forged; "" where nobody has said."""
        known = self.stores[self._store[clip]].table.identities(int(self._track[clip]))
        return known[0] if known else ""

    @property
    def generated(self) -> bool:
        """Whether any of it was drawn by us: figures on such data say nothing about real faces."""
        return any(store.manifest["generated"] for store in self.stores)

    def summary(self) -> str:
        """One line: how many of what, and what was excluded and why."""
        names = np.array(self.method_names)[self.method]
        kinds = np.where(self.label == REAL, "real", np.where(self.label == FORGED, names, "unlabelled"))
        out = "".join(f"; excluded {len(ids)} with {reason}" for reason, ids in self.excluded.items())
        return f"{len(self)} tracks ({_counts(kinds)}){out}"

    def fingerprint(self) -> str:
        """Of the tracks and their usable frames: equal exactly if saved positions mean the same clips."""
        total = hashlib.blake2b(digest_size=8)
        for column in (self.ids, self.usable, self.label, self.method):
            total.update(np.ascontiguousarray(column).tobytes())
        return total.hexdigest()

    def __getitems__(self, windows: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor | None] | UserError:
        """(clip, start) pairs -> uint8 (B, T, 150, 150, 3) and int16 (B, T * 640): read straight into the batch.

        A damaged store is handed over as its error: raised in a worker it would arrive wrapped in a traceback.
        """
        frames = _empty((len(windows), self.length, CROP, CROP, 3), torch.uint8)
        sound = _empty((len(windows), self.length * SAMPLES_PER_FRAME), torch.int16) if self.sound else None
        pictures, waves = frames.numpy(), None if sound is None else sound.numpy()
        try:
            for b, (clip, start) in enumerate(windows):
                store, track = self.stores[self._store[clip]], int(self._track[clip])
                store.frames(track, start, start + self.length, out=pictures[b])
                if waves is not None:
                    store.sound(track, start, start + self.length, out=waves[b])
        except UserError as error:
            return error
        return frames, sound

    def _where(self) -> str:
        names = " and ".join(str(store.root) for store in self.stores)
        return f"the store {names}" if len(self.stores) == 1 else f"the stores {names}"


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """In a worker the batch is read straight into shared memory, as PyTorch's own collate function does it.

    Private memory would be copied there when the batch is handed over, and worker processes that give megabytes
    back to the C library batch after batch have been seen to grow to eight batches before they levelled out.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def _merge(columns: list[Any]) -> tuple[list[str], np.ndarray]:
    """Categories of several stores -> the names of all, sorted, and one array of codes into them."""
    names = sorted({name for column in columns for name in column.names})
    codes = [np.array([names.index(name) for name in column.names], np.int16)[column.codes] for column in columns]
    return names, np.concatenate(codes)


def _repeats(ids: np.ndarray) -> np.ndarray:
    """Places of all but the first of equal ids."""
    return np.setdiff1d(np.arange(len(ids)), np.unique(ids, return_index=True)[1])


def _counts(values: np.ndarray) -> str:
    return ", ".join(f"{name} {n}" for name, n in zip(*np.unique(values, return_counts=True), strict=True))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "+".join(map(str, value))
