"""`crosstalk doctor`: is this machine ready? Nothing is taken on trust: a clip is generated, decoded and followed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine import health, pool
from engine.health import Finding, attempted
from engine.settings import load_exactly

MACHINE = {"Python": health.python, "packages": health.packages, "processor": health.processor,
           "memory": health.memory, "GPU": health.gpu}  # fmt: skip
AROUND = {"shared memory": health.shared_memory, "open files": health.open_files, "SLURM": health.slurm}


@dataclass(frozen=True)
class DoctorSettings:
    """configs/doctor.yaml explains each."""

    folder: Path
    json: bool


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("doctor", arguments, DoctorSettings)
    findings = {}
    for name, finding in examined(settings.folder):
        findings[name] = finding
        if not settings.json:
            print(f"{finding.verdict:<8} {name:<13} {finding.said}", flush=True)
            if finding.advice:
                print(f"{'':<22} -> {finding.advice}", flush=True)
    ready = all(finding.verdict != "bad" for finding in findings.values())
    if settings.json:
        print(json.dumps({"ready": ready, "findings": {name: f._asdict() for name, f in findings.items()}}, indent=1))
    elif not ready:
        print("\nnot ready: what is bad above has to be put right first")
    else:
        warned = sum(finding.verdict == "warning" for finding in findings.values())
        print(f"\nready{f', but for {warned} warning' if warned else ''}{'s' * (warned > 1)}; try: crosstalk demo")
    return 0 if ready else 1


def examined(folder: Path) -> Iterator[tuple[str, Finding]]:
    with tempfile.TemporaryDirectory() as scratch:
        # In a process of their own, which a library that was made for another processor may bring down; and meanwhile.
        worker = pool.Worker(_examiner, (Path(scratch),))
        try:
            worker.give(decoder)
            for name, look in MACHINE.items():
                yield name, attempted(look)
            answer = worker.answer()
            yield "decoder", died(answer) if isinstance(answer, pool.Died) else answer
            if not isinstance(answer, pool.Died):
                worker.give(face_tracker)
                answer = worker.answer()
                yield "face tracker", died(answer) if isinstance(answer, pool.Died) else answer
        finally:
            worker.kill()
            worker.end()
    yield "folder", attempted(partial(health.folder_for_runs, folder))
    for name, look in AROUND.items():
        yield name, attempted(look)


def died(answer: pool.Died) -> Finding:
    return Finding("bad", f"brings its process down ({answer.how})",
                   "the package may be made for another processor: make clean setup, on this machine")  # fmt: skip


# ---------------------------------------------------------------------------------------------------- videos

def _examiner(scratch: Path) -> Callable[[Callable[[Path], Finding]], Finding]:
    return lambda look: attempted(partial(look, scratch))


def decoder(scratch: Path) -> Finding:
    """A generated clip of 29 frames goes through the encoder and comes back."""
    import av

    from datasets.media import SAMPLES_PER_FRAME, read_frames, read_sound
    from datasets.synthetic.plan import WordClip, WordSpeaker
    from datasets.synthetic.write import WORD_FRAMES, WORDS, run_task

    run_task(scratch, 0, WordSpeaker("doctor", (WordClip(next(iter(WORDS)), "test", 1),)))
    video = _clip(scratch)
    pictures = sum(frame.size == (256, 256) and frame.grey.std() > 5 for frame in read_frames(video))
    samples = sum(len(chunk) for chunk in read_sound(video))
    if pictures != WORD_FRAMES or abs(samples - WORD_FRAMES * SAMPLES_PER_FRAME) > 2 * SAMPLES_PER_FRAME:
        return Finding("bad", f"{pictures} pictures and {samples} samples of {WORD_FRAMES} and "
                       f"{WORD_FRAMES * SAMPLES_PER_FRAME} came back", "make setup installs PyAV anew")  # fmt: skip
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return Finding("ok", f"H.264 and AAC, written and read back (PyAV {av.__version__}, libavcodec {ffmpeg})")


def face_tracker(scratch: Path) -> Finding:
    """The generated face is followed from the first picture to the last."""
    from datasets.faces import track_faces
    from datasets.landmarks import DlibLandmarks
    from datasets.media import read_frames

    seen = [(one.track, one.frame.index) for one in track_faces(read_frames(_clip(scratch)), DlibLandmarks())
            if one.frame is not None]  # fmt: skip
    tracks, frames = (len(set(column)) for column in zip(*seen, strict=True)) if seen else (0, 0)
    said = f"a generated face was followed through {frames} of 29 pictures"
    if frames < 29 or tracks != 1:
        return Finding("bad", f"{said}, in {tracks} pieces", "make setup installs dlib-bin and its models anew")
    return Finding("ok", said)


def _clip(scratch: Path) -> Path:
    return next(scratch.rglob("*.mp4"))
