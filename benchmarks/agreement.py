"""Lips and sound: is a known offset found, and does the score tell a video's own sound from somebody else's?

    python -m benchmarks.agreement BUNDLE [BUNDLE ...] [--videos FOLDER] [--people 10] [--clips FILE ...]

The bundles are of stage 1, trained on a generated corpus. People whom the same generator draws for this alone talk for
ten seconds each; videos of 3 and 1.2 s are cut from that. Every video is written again with its sound moved by known
amounts from -400 to 400 ms: the samples are moved, what is moved in is silence, what is moved out is lost, and the new
sound is encoded beside the same picture packets. Each file is judged as `crosstalk detect --sound` judges it, but that
the faces of equal pictures are followed only once. Foreign sound is that of four others, of the same length and not
moved. Intervals are 95 %, over people. Of --clips, real ones, the offset and the score are told as found, and the score
that they have with each other's sound.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks.machine import describe, report
from datasets.media import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME, encode, read_sound
from datasets.synthetic.camera import shoot
from datasets.synthetic.cast import HOUSES, person_of, stage
from datasets.synthetic.heads import cut_lips, render
from datasets.synthetic.seeds import rng_of
from datasets.synthetic.speech import voice
from engine.bootstrap import Interval, bootstrap
from engine.metrics import auc
from evaluation.verdict.agreement import Hearing
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.stream import FaceStream, FaceWindow

SHIFTS_MS = (-400, -340, -240, -180, -80, 0, 60, 160, 220, 320, 400)  # four of them end halfway between two frames
FRAMES = (30, 75, 250)  # of a video: 1.2, 3 and 10 s
CUTS = 2  # videos of one person and length, where the ten seconds have as many
OTHERS = 4  # foreign sounds for each video
NEAR_MS = 40
BATCH = 4  # as in `detect`


@dataclass(frozen=True)
class Video:
    path: Path
    person: str
    frames: int


@dataclass(frozen=True)
class Found:
    """What was said of one file."""

    person: str
    frames: int
    late_ms: int | None  # None: the sound is somebody else's
    offset_ms: float | None  # None: nothing was told
    score: float | None

    @property
    def error_ms(self) -> float | None:
        return None if self.offset_ms is None or self.late_ms is None else abs(self.offset_ms - self.late_ms)

    @property
    def is_near(self) -> bool:
        return self.error_ms is not None and self.error_ms <= NEAR_MS


# ------------------------------------------------------------------------------------------------ videos

def talks(folder: Path, people: int) -> Iterator[Video]:
    """Generated once; no corpus has these names, whatever its seed. CUTS videos at most of each length and person."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = max(FRAMES)
    for number in range(people):
        name = f"agreement/{number}"
        videos = {(length, cut): Video(folder / f"{number:02d}-{length}-{cut}.mp4", name, length)
                  for length in FRAMES for cut in range(min(CUTS, whole // length))}  # fmt: skip
        if not all(video.path.exists() for video in videos.values()):
            pictures, sound = talk(name, whole)
            for (length, cut), video in videos.items():
                first = cut * length
                written = video.path.with_name(f".tmp-{video.path.name}")
                encode(written, pictures[first : first + length], options={"crf": str(HOUSES["lrw"].crf)},
                       sound=sound[first * SAMPLES_PER_FRAME : (first + length) * SAMPLES_PER_FRAME])  # fmt: skip
                written.rename(video.path)
        yield from videos.values()


@torch.inference_mode()
def talk(name: str, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (frames, H, W, 3), int16 (frames * 640,): filmed as the corpus' single words are."""
    scene = stage(0, name, person_of(0, name), "lrw", frames=frames)
    grain, pictures = rng_of(0, f"grain/{name}"), []
    for start in range(0, frames, FRAME_RATE):
        end = min(start + FRAME_RATE, frames)
        take = render(scene.actor, scene.motion.cut(start, end), cut_lips(scene.lips, start, end))
        pictures.append(shoot(scene.camera, grain, take.frames, start))
    return np.concatenate(pictures), voice(rng_of(0, f"voice/{name}"), scene.utterance, frames)


def moved(sound: np.ndarray, late_ms: int) -> np.ndarray:
    """As many samples, later by that much; silence where there is none."""
    by = late_ms * SAMPLE_RATE // 1000
    out = np.zeros_like(sound)
    out[max(by, 0) : len(sound) + min(by, 0)] = sound[max(-by, 0) : len(sound) - max(by, 0)]
    return out


def with_sound(pictures: Path, sound: np.ndarray, path: Path) -> Path:
    """The same picture packets, other sound: int16 mono at 16 kHz."""
    with av.open(str(pictures)) as source, av.open(str(path), "w") as target:
        shown = target.add_stream_from_template(source.streams.video[0])
        played = target.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = shown
                target.mux(packet)
        block = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE, 0
        target.mux(played.encode(block))
        target.mux(played.encode())
    return path


# ----------------------------------------------------------------------------------------------- measure

def heard(reader: LipReader, windows: Sequence[FaceWindow], sound_of: Path) -> tuple[float | None, float | None]:
    """Offset and score of these faces with the sound of that file."""
    hearing = Hearing(reader, sound_of, has_sound=True)
    for first in range(0, len(windows), BATCH):
        hearing.add(windows[first : first + BATCH])
    found = hearing.found()
    return found.offset_ms, found.score


def measured(readers: Sequence[LipReader], videos: Sequence[Video], work: Path) -> list[list[Found]]:
    """For each reader what it says of each video with its own sound, moved, and with those of others."""
    found: list[list[Found]] = [[] for _ in readers]
    for number, video in enumerate(videos):
        windows = list(FaceStream(video.path))
        sound = np.concatenate(list(read_sound(video.path)))
        alike = [one for one in (*videos[number:], *videos[:number]) if one.frames == video.frames]
        others = [one for one in alike if one.person != video.person][::CUTS][:OTHERS]
        files = [(late, with_sound(video.path, moved(sound, late), work / f"{late}.mp4")) for late in SHIFTS_MS]
        for rows, reader in zip(found, readers, strict=True):
            rows += [Found(video.person, video.frames, late, *heard(reader, windows, path)) for late, path in files]
            rows += [Found(video.person, video.frames, None, *heard(reader, windows, other.path)) for other in others]
        print(f"  {number + 1} of {len(videos)} videos", end="\r", flush=True)
    return found


def share_near(rows: Sequence[Found]) -> Interval:
    """Of the files within 40 ms. `bootstrap` wants two classes; the second one here is nothing but zeros."""
    near, people = [float(row.is_near) for row in rows], [row.person for row in rows]
    return bootstrap([1] * len(rows) + [0] * len(rows), near + [0.0] * len(rows), people * 2,
                     metric=lambda label, value: value[label == 1].mean(), what="share within 40 ms")  # fmt: skip


def told_apart(own: Sequence[Found], foreign: Sequence[Found]) -> Interval:
    rows = [(row.late_ms is not None, row.score, row.person) for row in (*own, *foreign) if row.score is not None]
    labels, scores, people = zip(*rows, strict=True)
    return bootstrap(labels, scores, people, what="own against foreign sound")


def summary(rows: Sequence[Found]) -> dict[str, Any]:
    own, foreign = ([row for row in rows if (row.late_ms is None) == other] for other in (False, True))
    errors = [row.error_ms for row in own if row.error_ms is not None]
    near, apart = share_near(own), told_apart(own, foreign)
    scores = {name: np.array([row.score for row in group if row.score is not None])
              for name, group in (("own", own), ("foreign", foreign))}  # fmt: skip
    return {
        "files": len(own), "told": len(errors), "within_40_ms": [near.value, near.low, near.high],
        "mean_error_ms": statistics.mean(errors), "median_error_ms": statistics.median(errors),
        "auc": [apart.value, apart.low, apart.high],
        "own": dict(zip(("q05", "q50"), np.quantile(scores["own"], (0.05, 0.5)).tolist(), strict=True)),
        "foreign": dict(zip(("q50", "q95", "q99", "most"),
                            np.quantile(scores["foreign"], (0.5, 0.95, 0.99, 1)).tolist(), strict=True)),
        "within_40_ms_by_shift": {late: statistics.mean(row.is_near for row in own if row.late_ms == late)
                                  for late in sorted({row.late_ms for row in own if row.late_ms is not None})},
    }  # fmt: skip


def of_clips(reader: LipReader, clips: Sequence[Path]) -> dict[str, Any]:
    """Nobody knows their true offsets."""
    windows = {clip: list(FaceStream(clip)) for clip in clips}
    own = {clip: heard(reader, windows[clip], clip) for clip in clips}
    foreign = [heard(reader, windows[clip], other) for clip in clips for other in clips if other != clip]
    told = [[score for _, score in group if score is not None] for group in (own.values(), foreign)]
    return {"clips": {clip.name: [offset, score] for clip, (offset, score) in own.items()},
            "foreign": foreign, "auc": auc([1] * len(told[0]) + [0] * len(told[1]), told[0] + told[1])}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path, help="of stage 1")
    parser.add_argument("--videos", type=Path, help="where the generated ones lie, or are written; none: nowhere kept")
    parser.add_argument("--people", type=int, default=10, help="who talk in them")
    parser.add_argument("--clips", nargs="+", type=Path, default=[], help="real ones, beside")
    options = parser.parse_args()
    readers = [LipReader.load(bundle) for bundle in options.bundles]
    print(__doc__)
    with tempfile.TemporaryDirectory() as work:
        videos = list(talks(options.videos or Path(work) / "videos", options.people))
        found = measured(readers, videos, Path(work))
    result = {}
    head = ("bundle", "seconds", "files", "within 40 ms", "mean error ms", "median", "own > foreign", "own 5 %",
            "own median", "foreign median", "foreign 95 %", "foreign 99 %", "most")  # fmt: skip
    table, clips = [head], {}
    for bundle, reader, rows in zip(options.bundles, readers, found, strict=True):
        name = str(bundle)
        result[name] = {frames / FRAME_RATE: summary([row for row in rows if row.frames == frames])
                        for frames in FRAMES}  # fmt: skip
        for seconds, one in result[name].items():
            near, apart = ("{:.3f} ({:.3f} to {:.3f})".format(*one[key]) for key in ("within_40_ms", "auc"))
            table.append((name, seconds, one["files"], near, one["mean_error_ms"], one["median_error_ms"], apart,
                          *one["own"].values(), *one["foreign"].values()))  # fmt: skip
        if options.clips:
            clips[name] = of_clips(reader, options.clips)
            print(f"{name}, real clips (AUC against each other's sound {clips[name]['auc']:.2f}):")
            for clip, (offset, score) in clips[name]["clips"].items():
                print(f"  {clip}: {'nothing told' if offset is None else f'{offset:+.0f} ms, score {score:.2f}'}")
    report("Lips and sound, generated people who were never trained on", table,
           {"videos": result, "clips": clips, "people": options.people, "machine": describe()})  # fmt: skip


if __name__ == "__main__":
    main()
