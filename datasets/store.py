"""Prepared clips on disk: aligned crops and sound of every track, read by window without touching the rest.

A store is a folder:

    manifest.json   format, settings, versions, counts, digest; written last: a store without it is unfinished
    index.jsonl     one line per track, in order of id: what is known of it and where its bytes lie
    skipped.csv     video, reason
    packs/*.pack    the bytes, one track after another: crops | sizes of the crops (JPEG only) | sound

Crops are raw (67.5 kB each, nothing to decode) or JPEG (about a seventh). Sound is int16, 640 samples per frame. Few
large files, plain reads at known places, nothing that needs locks or memory maps: it works on network file systems,
and packs of several machines are joined by pointing at them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from datasets.faces import CROP
from datasets.media import SAMPLES_PER_FRAME
from datasets.records import require_unique
from engine.errors import UserError
from engine.files import inside, said_plainly, write_atomically

FORMAT = 1
FRAME_BYTES = CROP * CROP * 3
SOUND_BYTES = SAMPLES_PER_FRAME * 2
MANIFEST, INDEX, SKIPPED, PACKS = "manifest.json", "index.jsonl", "skipped.csv", "packs"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index: a face track of a video."""

    id: str  # the video's id; further people of the same video carry "#2", "#3" ...
    video: str
    dataset: str
    method: str
    label: int | None
    split: str
    identities: tuple[str, ...]
    source: str | None
    word: str | None
    limit: int | None
    # What preparation measured.
    start: int  # first frame of the track in its video, at 25 fps
    frames: int
    video_frames: int  # of the whole video, as far as it was read
    sound: bool
    face_side: float  # mean pixels of the face in the video
    jitter: tuple[float, float]  # frame-to-frame displacement of aligned landmarks, before and after smoothing
    file_bytes: int
    background: tuple[float, ...]  # numbers on the picture outside the face, for the baselines
    generated: bool  # the file says of itself that no real person is in it
    # Where it lies.
    pack: str  # relative to the store
    offset: int
    crops_bytes: int
    jpeg: bool
    checksum: str  # of all its bytes

    @property
    def size(self) -> int:
        per_frame = (4 if self.jpeg else 0) + (SOUND_BYTES if self.sound else 0)
        return self.crops_bytes + per_frame * self.frames


class Categories:
    """A column of repeated strings: int16 codes and the names they stand for."""

    def __init__(self, values: Iterable[str | None]):
        texts = [value if value is not None else "" for value in values]
        self.names: list[str] = sorted(set(texts))
        places = {name: code for code, name in enumerate(self.names)}
        self.codes = np.array([places[text] for text in texts], np.int16)

    def __getitem__(self, i: int) -> str:
        return self.names[self.codes[i]]


class Table:
    """The index by columns. Arrays, not objects: forked loader workers share their pages instead of copying them."""

    def __init__(self, entries: list[Entry]):
        self._packs = Categories(e.pack for e in entries)
        self.ids = np.array([e.id for e in entries], np.str_)
        self.videos = np.array([e.video for e in entries], np.str_)
        self.dataset = Categories(e.dataset for e in entries)
        self.method = Categories(e.method for e in entries)
        self.split = Categories(e.split for e in entries)
        self.word = Categories(e.word for e in entries)
        self._identities = np.array(["\0".join(e.identities) for e in entries], np.str_)
        self.label = np.array([-1 if e.label is None else e.label for e in entries], np.int8)
        self.limit = np.array([-1 if e.limit is None else e.limit for e in entries], np.int32)
        self.start = np.array([e.start for e in entries], np.int32)
        self.frames = np.array([e.frames for e in entries], np.int32)
        self.has_sound = np.array([e.sound for e in entries], bool)
        self.jpeg = np.array([e.jpeg for e in entries], bool)
        self.offset = np.array([e.offset for e in entries], np.int64)
        self.crops_bytes = np.array([e.crops_bytes for e in entries], np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def identities(self, i: int) -> tuple[str, ...]:
        joined = str(self._identities[i])
        return tuple(joined.split("\0")) if joined else ()

    def pack(self, i: int) -> str:
        return self._packs[i]


class Store:
    """Random access to a finished store. Safe to fork and to pickle: files are opened where they are read."""

    def __init__(self, root: Path, manifest: dict[str, Any], table: Table):
        self.root, self.manifest, self.table = root, manifest, table
        self._files: dict[str, int] = {}
        self._owner = os.getpid()

    @classmethod
    def open(cls, root: Path | str) -> Self:
        root = Path(root)
        manifest = read_manifest(root)
        return cls(root, manifest, Table(list(read_index(root))))

    def __len__(self) -> int:
        return len(self.table)

    def frames(self, i: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 (stop - start, 150, 150, 3): crops of track i, written into `out` if given."""
        self._check(i, start, stop)
        out = np.empty((stop - start, CROP, CROP, 3), np.uint8) if out is None else out
        at = int(self.table.offset[i])
        if not self.table.jpeg[i]:
            self._read(i, at + start * FRAME_BYTES, out)
            return out
        sizes = np.empty(int(self.table.frames[i]), np.uint32)
        self._read(i, at + int(self.table.crops_bytes[i]), sizes)
        ends = np.cumsum(sizes, dtype=np.int64)
        first = int(ends[start] - sizes[start])
        blob = np.empty(int(ends[stop - 1]) - first, np.uint8)
        self._read(i, at + first, blob)
        for k in range(start, stop):
            jpeg = blob[int(ends[k] - sizes[k]) - first : int(ends[k]) - first]
            out[k - start] = np.asarray(Image.open(io.BytesIO(jpeg.tobytes())))
        return out

    def sound(self, i: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray | None:
        """int16 ((stop - start) * 640,): the sound of the same frames; None where the track has none."""
        self._check(i, start, stop)
        if not self.table.has_sound[i]:
            return None
        out = np.empty((stop - start) * SAMPLES_PER_FRAME, np.int16) if out is None else out
        sizes = 4 * int(self.table.frames[i]) if self.table.jpeg[i] else 0
        at = int(self.table.offset[i]) + int(self.table.crops_bytes[i]) + sizes
        self._read(i, at + start * SOUND_BYTES, out)
        return out

    def _check(self, i: int, start: int, stop: int) -> None:
        if not 0 <= start < stop <= self.table.frames[i]:
            raise IndexError(f"frames {start}:{stop} of a track of {self.table.frames[i]}")

    def _read(self, i: int, at: int, into: np.ndarray) -> None:
        if self._owner != os.getpid():  # forked: the parent's file descriptors are the parent's to close
            self._files, self._owner = {}, os.getpid()
        name = self.table.pack(i)
        if name not in self._files:
            self._files[name] = _open_pack(self.root, name)
        view = memoryview(into).cast("B")  # type: ignore[arg-type]  # as of Python 3.12 NumPy's types say it is one
        done = 0
        while done < len(view):  # a read may be short, and is at most 2 GiB
            count = os.preadv(self._files[name], [view[done:]], at + done)
            if count == 0:
                raise UserError(f"{self.root / name}: cut off in track {self.table.ids[i]}; prepare the store again")
            done += count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def close(self) -> None:
        if self._owner == os.getpid():
            for file in self._files.values():
                os.close(file)
        self._files = {}


def _open_pack(root: Path, name: str) -> int:
    try:
        return os.open(inside(root, name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UserError(f"{root}: its {name} is missing; copy the store as a whole, or prepare it again") from error


# ---------------------------------------------------------------------------------------------- the small files

def read_manifest(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        command = f"crosstalk prepare data=NAME root=DIR store={root}"
        raise UserError(f"no store at {root}: no such folder; make one with: {command}")
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        found = manifest["format"]
    except FileNotFoundError as error:
        started = (root / "journal.jsonl").exists()
        what = "unfinished: run the same `crosstalk prepare` again to continue"
        what = what if started else "no store: manifest.json is missing"
        raise UserError(f"{root}: {what}") from error
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{root / MANIFEST}: damaged ({error}); prepare the store again") from error
    if found != FORMAT:
        age = "newer" if isinstance(found, int) and found > FORMAT else "other"
        what = f"written by a {age} version of Crosstalk (store format {found}; this one reads {FORMAT})"
        raise UserError(f"{root}: {what}")
    return manifest


def read_index(root: Path) -> Iterator[Entry]:
    path = root / INDEX
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    row |= {key: tuple(row[key]) for key in ("identities", "jitter", "background")}
                    yield Entry(**row)
                except (ValueError, TypeError, KeyError) as error:
                    raise UserError(f"{path}: line {number} is damaged ({error}); prepare the store again") from error
    except FileNotFoundError as error:
        raise UserError(f"{root}: its index.jsonl is missing; prepare the store again") from error


def read_skipped(root: Path) -> list[tuple[str, str]]:
    with (root / SKIPPED).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [(row[0], row[1]) for row in rows[1:]]


def finish(
    root: Path, entries: list[Entry], skipped: list[tuple[str, str]], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Write index, skip list and, as the last thing, the manifest with the digest of everything in the store."""
    entries.sort(key=lambda e: e.id)
    require_unique(entry.id for entry in entries)
    skipped = sorted(skipped)
    lines = [json.dumps(asdict(entry), ensure_ascii=True) + "\n" for entry in entries]
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("video", "reason"), *skipped])
    manifest = manifest | {"format": FORMAT, "digest": digest(entries, skipped)}
    with said_plainly(f"writing {root}"):
        write_atomically(root / INDEX, "".join(lines))
        write_atomically(root / SKIPPED, table.getvalue())
        write_atomically(root / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=True) + "\n")
    return manifest


def digest(entries: Iterable[Entry], skipped: Iterable[tuple[str, str]]) -> str:
    """Of what is stored, not of where: equal for a store written at once, resumed, or joined from shards."""
    total = hashlib.blake2b(digest_size=16)
    for entry in entries:
        row = {key: value for key, value in asdict(entry).items() if key not in ("pack", "offset")}
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    for video, reason in skipped:
        total.update(json.dumps([video, reason]).encode() + b"\n")
    return total.hexdigest()


# ---------------------------------------------------------------------------------------------- writing

class TrackSpool:
    """A track being written: crops go to a file of its own as they come, for nobody knows yet how long it will be."""

    def __init__(self, path: Path, *, jpeg_quality: int | None):
        self._path, self._quality = path, jpeg_quality
        self._file = path.open("w+b")
        self._sizes: list[int] = []
        self.sound_samples = 0

    @property
    def frames(self) -> int:
        return len(self._sizes)

    def add(self, crop: np.ndarray) -> None:
        """uint8 (150, 150, 3)"""
        if self._quality is None:
            data = crop.tobytes()
        else:
            buffer = io.BytesIO()
            # 4:4:4: thinning out the colours would wipe away what a blending seam leaves in them.
            Image.fromarray(crop).save(buffer, "JPEG", quality=self._quality, subsampling=0)
            data = buffer.getvalue()
        self._file.write(data)
        self._sizes.append(len(data))

    def end_of_crops(self) -> None:
        if self._quality is not None:
            self._file.write(np.array(self._sizes, np.uint32).tobytes())

    def add_sound(self, samples: np.ndarray) -> None:
        """int16 (n,); what comes after the last frame's end is dropped."""
        room = self.frames * SAMPLES_PER_FRAME - self.sound_samples
        samples = samples[:room]
        self._file.write(samples.tobytes())
        self.sound_samples += len(samples)

    def fill_sound(self) -> None:
        """Silence up to the end of the last frame."""
        while missing := self.frames * SAMPLES_PER_FRAME - self.sound_samples:
            self.add_sound(np.zeros(min(missing, 1 << 16), np.int16))

    def append_to(self, pack: PackWriter) -> dict[str, Any]:
        """Copy everything into a pack; returns the index's columns of where it lies."""
        place = pack.append(self._file)
        jpeg = self._quality is not None
        return place | {"frames": self.frames, "sound": self.sound_samples > 0, "jpeg": jpeg,
                        "crops_bytes": sum(self._sizes)}

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class PackWriter:
    """Appends to a pack of its own; nothing counts until the journal names it, so a torn end does no harm."""

    LARGEST = 4 << 30  # bytes, then a new file: still easy to copy

    def __init__(self, root: Path, name: str):
        self._root, self._name, self._number = root, name, 0
        self._file: io.BufferedWriter | None = None

    def append(self, source: Any) -> dict[str, Any]:
        if self._file is None or self._file.tell() >= self.LARGEST:
            self.close()
            self._relative = f"{PACKS}/{self._name}-{self._number}.pack"
            self._number += 1
            self._file = (self._root / self._relative).open("xb")
        offset = self._file.tell()
        source.seek(0)
        checksum = hashlib.blake2b(digest_size=16)
        while chunk := source.read(1 << 20):
            checksum.update(chunk)
            self._file.write(chunk)
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"pack": self._relative, "offset": offset, "checksum": checksum.hexdigest()}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def checksum_of(root: Path, entry: Entry) -> str | None:
    """Of the bytes that really lie there; None if they end early or their pack is missing."""
    total = hashlib.blake2b(digest_size=16)
    try:
        with inside(root, entry.pack).open("rb") as file:
            file.seek(entry.offset)
            left = entry.size
            while left:
                chunk = file.read(min(left, 1 << 20))
                if not chunk:
                    return None
                total.update(chunk)
                left -= len(chunk)
    except FileNotFoundError:
        return None
    return total.hexdigest()
