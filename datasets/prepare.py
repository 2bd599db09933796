"""`crosstalk prepare`: catalogue -> decode -> faces -> crops and sound -> store, on several processes, resumable.

While it runs, the store's journal is the truth: a line per finished video, written after the video's bytes are on the
disk. What a killed run leaves behind the last line, torn lines and ends of packs, is cut away by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from datasets import catalogs
from datasets.extract import SCRATCH, ExtractSettings, worker
from datasets.perturbations import require_perturbation
from datasets.records import VideoRecord
from datasets.store import FORMAT, MANIFEST, PACKS, Entry, finish, read_index, read_manifest, read_skipped
from engine import pool
from engine.errors import UserError
from engine.files import alone, require_folder, said_plainly
from engine.progress import Bar
from engine.settings import Needed, load

JOURNAL, LOCK = "journal.jsonl", ".lock"


@dataclass(frozen=True)
class PrepareSettings:
    """configs/prepare.yaml explains each."""

    data: str | None
    root: Path | None
    store: Annotated[Path, Needed("store=DIR is missing: where the prepared clips go")]
    workers: int | None
    videos: int | None
    frames: Literal["raw", "jpeg"]
    jpeg_quality: int
    landmarks: Literal["dlib", "npy", "face-alignment"]
    search_every: int
    longest_gap: int
    shortest_track: int
    tracks: Literal["main", "all"]
    sound: Literal["required", "optional", "none"]
    perturb: str | None
    severity: int | None
    shard: str | None
    join: bool
    retry: bool

    def __post_init__(self) -> None:
        if self.join:
            return
        if self.data is None:
            raise UserError(f"data=NAME is missing: one of {', '.join(catalogs.available())}")
        if self.root is None:
            raise UserError(f"root=DIR is missing: the folder of the {self.data} videos")
        for name, least in {"search_every": 1, "longest_gap": 0, "shortest_track": 1}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {least}")
        for name in ("workers", "videos"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1, or null")
        if not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"jpeg_quality={self.jpeg_quality}: from 1 to 100")
        require_perturbation(self.perturb, self.severity)
        self.part  # noqa: B018  raises if it is not i/n

    @property
    def part(self) -> tuple[int, int]:
        if self.shard is None:
            return 0, 1
        try:
            index, count = map(int, self.shard.split("/"))
        except ValueError:
            index, count = -1, 0
        if not 0 <= index < count:
            raise UserError(f"shard={self.shard}: expected i/n with i from 0 to n-1, for example shard=0/4")
        return index, count

    @property
    def extraction(self) -> ExtractSettings:
        return ExtractSettings(**{name: getattr(self, name) for name in ExtractSettings.__dataclass_fields__})


def main(arguments: Sequence[str]) -> int:
    settings, options = load("prepare", arguments, PrepareSettings)
    if settings.join:
        return join(settings.store)
    return prepare(settings, options)


def prepare(settings: PrepareSettings, options: dict[str, Any], say: Callable[[str], None] = print) -> int:
    """Bring the store up to the dataset; returns the exit code."""
    if settings.data is None or settings.root is None:
        raise ValueError("data and root may be left out for joining alone")
    root = require_folder(settings.root, f"root={settings.root}")
    # Found out before hours of work: a source that is not installed.
    if settings.landmarks == "face-alignment":
        from datasets.landmarks import landmark_source

        landmark_source(settings.landmarks, Path())
    catalogue = catalogs.create(settings.data, root, **options)
    index, count = settings.part
    wanted = catalogue.records[index::count]
    absent = catalogue.absent if index == 0 else []
    if settings.videos is not None and settings.videos < len(wanted):
        wanted = [wanted[i * len(wanted) // settings.videos] for i in range(settings.videos)]
    if not wanted:
        where = f" in shard {settings.shard}" if settings.shard else ""
        raise UserError(f"{root}: no videos for {settings.data}{where}")
    target = settings.store if settings.shard is None else settings.store / shard_name(index, count)
    identity = {"data": settings.data, "options": options, "shard": settings.shard} | asdict(settings.extraction)

    with _locked(target):
        journal = _Journal.open(target, identity)
        pending = [record for record in wanted if journal.lacks(record.id, retry=settings.retry)]
        finished = (target / MANIFEST).exists()
        if finished and not pending and _lists(target) == sorted([*(r.id for r in wanted), *(v for v, _ in absent)]):
            say(f"{target} is finished: {_summary(read_manifest(target))}; nothing to do")
            return 0
        (target / MANIFEST).unlink(missing_ok=True)
        workers = min(settings.workers or len(os.sched_getaffinity(0)), len(pending)) or 1
        already = len(wanted) - len(pending)
        say(f"{settings.data}: {len(wanted)} videos" + (f", {already} of them done before" if already else "")
            + (f"; {len(absent)} listed but absent" if absent else "") + f"; {workers} processes")
        _work_off(pending, settings, target, journal, workers)
        journal.cut_packs()
        manifest = _finish(target, journal, wanted, absent, identity)
    say(f"{target}: {_summary(manifest)}")
    for reason, number in list(manifest["counts"]["reasons"].items())[:5]:
        say(f"  {number} skipped: {reason}")
    if manifest["counts"]["skipped"]:
        say(f"  each with its reason in {target / 'skipped.csv'}")
    if manifest["generated"]:
        say("  GENERATED data: no real person is in it")
    if manifest["counts"]["tracks"] == 0:
        raise UserError(f"{target}: not one of {len(wanted)} videos could be used; skipped.csv says why")
    return 0


def _work_off(
    pending: list[VideoRecord], settings: PrepareSettings, target: Path, journal: _Journal, workers: int
) -> None:
    parts = target / SCRATCH
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    skipped = 0
    answers = pool.run(workers, worker, (settings.extraction, target, journal.next_run()), pending)
    with closing(answers), Bar(f"preparing {settings.data}", len(pending)) as bar:
        for record, answer in answers:
            if isinstance(answer, pool.Died):
                answer = f"the decoder or face tracker crashed on it ({answer.how})"
            journal.add(record.id, answer)
            skipped += isinstance(answer, str)
            bar.advance(note=f"{skipped} skipped" if skipped else "")
    shutil.rmtree(parts, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- the journal

class _Journal:
    """One line per finished video, appended and flushed before the next one is taken on."""

    def __init__(self, root: Path, lines: dict[str, Any]):
        self._root, self._lines = root, lines
        self._file = os.open(root / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @classmethod
    def open(cls, root: Path, identity: dict[str, Any]) -> _Journal:
        path = root / JOURNAL
        if not path.exists():
            if (root / MANIFEST).exists():
                raise UserError(f"{root}: a store without a journal (joined from shards?); prepare into another")
            strangers = [entry.name for entry in root.iterdir() if entry.name != LOCK]
            if strangers and not all(name.startswith("shard-") for name in strangers):
                raise UserError(f"{root}: no store, and not empty (it holds {min(strangers)!r}); name a new folder")
            (root / PACKS).mkdir(exist_ok=True)
            path.write_text(json.dumps({"format": FORMAT, "settings": identity}) + "\n")
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # killed in the middle of a line
            os.truncate(path, len(whole))
        try:
            header, *rows = [json.loads(line) for line in whole.splitlines()] or [{}]
            then, found = header["settings"], header["format"]
            lines = {row["video"]: row["result"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); remove {root} and prepare again") from error
        if found != FORMAT:
            raise UserError(f"{root}: begun by another version of Crosstalk (store format {found}, here {FORMAT})")
        now = json.loads(json.dumps(identity))
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                raise UserError(f"{root} was begun with {key}={then.get(key)}, now {key}={now.get(key)}; "
                                "use the same settings to continue, or another store")
        journal = cls(root, lines)
        journal.cut_packs()
        return journal

    def lacks(self, video: str, *, retry: bool) -> bool:
        return video not in self._lines or (retry and isinstance(self._lines[video], str))

    def add(self, video: str, result: list[dict[str, Any]] | str) -> None:
        line = (json.dumps({"video": video, "result": result}) + "\n").encode()
        if os.write(self._file, line) != len(line):
            raise UserError(f"{self._root}: no space left on the disk; free some and run the same command again")
        self._lines[video] = result

    def of(self, video: str) -> list[dict[str, Any]] | str:
        return self._lines[video]

    def next_run(self) -> int:
        """Every run writes packs of its own: a process of a killed run can never touch what a later one writes."""
        runs = [int(path.name.split("-")[0].removeprefix("run")) for path in (self._root / PACKS).glob("run*-*.pack")]
        return max(runs, default=-1) + 1

    def cut_packs(self) -> None:
        """Remove what no line names; forget videos whose bytes are gone, so that they are prepared again."""
        packs = {f"{PACKS}/{path.name}": path for path in (self._root / PACKS).glob("*.pack")}
        ends: Counter[str] = Counter()
        for video, result in list(self._lines.items()):
            tracks = [] if isinstance(result, str) else [Entry(**_ENTRY_BLANK | track) for track in result]
            if any(t.pack not in packs or packs[t.pack].stat().st_size < t.offset + t.size for t in tracks):
                del self._lines[video]
                continue
            for track in tracks:
                ends[track.pack] = max(ends[track.pack], track.offset + track.size)
        for name, path in packs.items():
            if not ends[name]:
                path.unlink()
            elif path.stat().st_size > ends[name]:
                os.truncate(path, ends[name])


# The journal knows what was measured; who is in the video is the catalogue's to say when the store is finished.
_ENTRY_BLANK = dict.fromkeys(
    ("id", "video", "dataset", "method", "label", "split", "identities", "source", "word", "limit")
)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    with said_plainly(f"store={root}"):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"store={root}: a file is in the way; name a folder") from error
        refusal = f"{root}: another `crosstalk prepare` is writing this store (HOLDER)"
        with (root / LOCK).open("a+") as lock, alone(lock, refusal):
            yield


# ---------------------------------------------------------------------------------------------- finishing

def _lists(root: Path) -> list[str]:
    """The videos that a finished store knows of, used or skipped."""
    return sorted({entry.video for entry in read_index(root)} | {video for video, _ in read_skipped(root)})


def _finish(root: Path, journal: _Journal, wanted: list[VideoRecord], absent: list[tuple[str, str]],
            identity: dict[str, Any]) -> dict[str, Any]:
    entries: list[Entry] = []
    skipped = list(absent)
    for record in wanted:
        result = journal.of(record.id)
        if isinstance(result, str):
            skipped.append((record.id, result))
            continue
        for number, facts in enumerate(result, 1):
            facts = facts | {key: tuple(facts[key]) for key in ("jitter", "background")}
            known = {key: value for key, value in _fields(record).items() if key not in ("id", "path")}
            name = record.id if number == 1 else f"{record.id}#{number}"
            entries.append(Entry(id=name, video=record.id, **known, **facts))
    return finish(root, entries, skipped, _manifest(entries, skipped, len(wanted) + len(absent), identity))


def _fields(record: VideoRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _manifest(
    entries: list[Entry], skipped: list[tuple[str, str]], videos: int, identity: dict[str, Any]
) -> dict[str, Any]:
    frames = sum(e.frames for e in entries)
    steps = sum(max(e.frames - 1, 0) for e in entries) or 1
    jitter = [round(sum(e.jitter[k] * max(e.frames - 1, 0) for e in entries) / steps, 4) for k in (0, 1)]
    reasons = Counter(reason for _, reason in skipped)
    worse = identity.get("perturb")  # shards that are older than perturbations do not say
    packages = ("av", "dlib-bin", "face_recognition_models", "numpy", "pillow")
    return {
        "crosstalk": metadata.version("crosstalk"),
        "dataset": identity["data"],
        "perturb": {"name": worse, "severity": identity["severity"]} if worse else None,
        "settings": identity,
        "packages": {name: metadata.version(name) for name in packages},
        "counts": {
            "videos": videos, "tracks": len(entries), "skipped": len(skipped), "frames": frames,
            "with_sound": sum(e.sound for e in entries), "bytes": sum(e.size for e in entries),
            "reasons": dict(reasons.most_common()),
        },
        "jitter": jitter,
        "generated": any(e.generated for e in entries),
    }


def _summary(manifest: dict[str, Any]) -> str:
    counts, (before, after) = manifest["counts"], manifest["jitter"]
    return (f"{counts['tracks']} face tracks of {counts['videos']} videos, {counts['frames']} frames, "
            f"{counts['bytes'] / 1e9:.2f} GB, {counts['skipped']} skipped; "
            f"jitter {before:.2f} -> {after:.2f} px a frame; digest {manifest['digest']}")


# ---------------------------------------------------------------------------------------------- joining shards

def shard_name(index: int, count: int) -> str:
    return f"shard-{index}-of-{count}"


def join(root: Path, say: Callable[[str], None] = print) -> int:
    """Make one store of STORE/shard-i-of-n: a common index that points into the shards' packs, nothing is copied."""
    shards = sorted(path for path in require_folder(root, f"store={root}").glob("shard-*-of-*") if path.is_dir())
    if not shards:
        raise UserError(f"{root}: nothing to join; prepare its parts first with shard=0/n ... shard=n-1/n")
    counts = {path.name.rsplit("-", 1)[1] for path in shards}
    if len(counts) > 1:
        raise UserError(f"{root}: parts of different divisions lie here ({', '.join(p.name for p in shards)}); "
                        "remove those that do not belong")
    count = counts.pop()
    if not count.isdecimal():
        raise UserError(f"{root}: {shards[0].name} is no part of a store")
    names = [shard_name(index, int(count)) for index in range(int(count))]
    missing = [name for name in names if not (root / name / MANIFEST).exists()]
    if missing:
        raise UserError(f"{root}: not finished yet: {', '.join(missing)}")
    with _locked(root):
        manifests = [read_manifest(root / name) for name in names]
        common = [{**m["settings"], "shard": None} for m in manifests]
        for name, settings in zip(names, common, strict=True):
            for key in settings:
                if settings[key] != common[0].get(key):
                    raise UserError(f"{root}: {name} was prepared with {key}={settings[key]}, "
                                    f"{names[0]} with {key}={common[0].get(key)}; prepare one of them again")
        entries, skipped = [], []
        for name in names:
            for entry in read_index(root / name):
                entries.append(Entry(**asdict(entry) | {"pack": f"{name}/{entry.pack}"}))
            skipped += read_skipped(root / name)
        parts = [set(_lists(root / name)) for name in names]
        twice = sorted(video for video, number in Counter(v for part in parts for v in part).items() if number > 1)
        if twice:
            raise UserError(f"{root}: {twice[0]} is in two parts: the dataset changed in between; prepare again")
        total = sum(manifest["counts"]["videos"] for manifest in manifests)
        manifest = finish(root, entries, skipped, _manifest(entries, skipped, total, common[0]))
    say(f"{root}: {_summary(manifest)}")
    return 0

