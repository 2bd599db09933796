"""One video to its verdict: `crosstalk detect` against the obvious way, on two cores, by the clock on the wall.

    python -m benchmarks.detect [--seconds 40] [--precision fp32] [--clips FILE ...]

A talking head of 640x480 at 25 frames a second (generated; with --clips, made of these files), and the default backbone
at full size with random weights, which cost what trained ones do. The obvious way is the one that is written first:
search the whole picture for faces in every frame, cut the face out, and when there are 25, crop, resize and normalise
them as floats and ask the network in fp32, one clip at a time. All begin with everything loaded and take turns; the
third also hears, with a stage-1 bundle of full size, whether lips and sound belong together.

Peak memory is that of a process of its own, everything in it (PyTorch, network, landmark model), for 10 s and 10 min.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from backbones import arguments, create
from backbones.heads import Encoder
from benchmarks.heads import enlarged, generated_head, write
from benchmarks.machine import describe, report
from datasets.faces import crop
from datasets.landmarks import landmark_source
from datasets.media import FRAME_RATE, read_frames
from engine.bundle import save_bundle
from evaluation import Detector
from evaluation.verdict.lipreader import LipReader
from finetune.model import Detector as Networks
from ssl_pretrain.model import Student, parts_of

CORES = 2
WIDTH, HEIGHT = 640, 480
SHORT = 10  # seconds
BACKBONE, LISTENER = "cnn_gru_attention", "audio_resnet18"

MEASURED = """
import json, os, sys
os.sched_setaffinity(0, json.loads(sys.argv[4]))
import torch
from evaluation import Detector
torch.set_num_threads(len(os.sched_getaffinity(0)))
found = Detector.load(sys.argv[1]).score(sys.argv[2], precision=sys.argv[3])
# Not getrusage: its peak is inherited from the process that started this one.
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"peak_mib": peak / 1024, "real_time_factor": found.seconds / found.took}))
"""


def obvious(detector: Detector, video: Path) -> float:
    view = v2.Compose([v2.CenterCrop(140), v2.Resize(detector.views.size, antialias=False),
                       v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])  # fmt: skip
    source, crops, logits = landmark_source("dlib", video), [], []
    for frame in read_frames(video):
        faces = source.find(frame)
        if faces:
            crops.append(torch.tensor(crop(frame.rgb(), faces[0])))
        if len(crops) == FRAME_RATE:
            clip = view(torch.stack(crops).permute(0, 3, 1, 2).float() / 255)  # T x C x H x W
            with torch.no_grad():
                logits.append(detector.network(clip.permute(1, 0, 2, 3)[None]).item())
            crops = []
    return statistics.mean(logits)


def bundle_of(folder: Path, **smaller: Any) -> Path:
    torch.manual_seed(0)
    made = {**arguments(BACKBONE), **smaller}
    network = Networks(create(BACKBONE, **made))
    views = {"size": made.get("input_size", 112)}
    save_bundle(folder, {"video_student": {"backbone": network.backbone}, "classifier": network.classifier}, {
        "stage": "finetune", "backbone": {"name": BACKBONE, "arguments": made}, "views": views,
        "calibration": {"threshold": 0.0, "temperature": 1.0}}, "# random weights\n")  # fmt: skip
    return folder


def hearing_bundle_of(folder: Path, **smaller: Any) -> Path:
    """What of a bundle of stage 1 `--sound` needs."""
    torch.manual_seed(0)
    made = {**arguments(BACKBONE), **smaller}
    student, teacher = Student(create(BACKBONE, **made)), Encoder(create(LISTENER))
    save_bundle(folder, {"video_student": student.parts, "audio_teacher": parts_of(teacher)}, {
        "stage": "pretrain", "backbone": {"name": BACKBONE, "arguments": made},
        "audio_backbone": {"name": LISTENER, "arguments": arguments(LISTENER)},
        "views": {"size": made.get("input_size", 112)}}, "# random weights\n")  # fmt: skip
    return folder


def alone(bundle: Path, video: Path, precision: str, cores: list[int]) -> dict[str, float]:
    """Peak memory and speed of a process that does nothing else."""
    command = [sys.executable, "-c", MEASURED, str(bundle), str(video), precision, json.dumps(cores)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock on the wall, and of the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detect", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", nargs="+", type=Path, help="real talking clips; none: a generated head")
    parser.add_argument("--seconds", type=int, default=40, help="of the video that is timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument("--long", type=int, default=600, help="seconds of the video for the second peak of memory")
    parser.add_argument("--small", action="store_true", help="a small variant of the backbone, for a look at the rest")
    options = parser.parse_args()
    smaller = {"channels": [8, 16, 32, 64], "hidden": 64, "dim": 256, "stem_stride": 4} if options.small else {}
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    print(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        head = enlarged(options.clips, WIDTH, HEIGHT) if options.clips else generated_head(home, WIDTH, HEIGHT)
        videos = {length: home / f"{length}.mp4" for length in (SHORT, options.seconds, options.long)}
        for length, video in videos.items():
            write(video, head, length)
        bundle = bundle_of(home / "bundle", **smaller)
        detector, reader = Detector.load(bundle), LipReader.load(hearing_bundle_of(home / "lips", **smaller))
        timed = videos[options.seconds]
        ways: dict[str, Callable[[], object]] = {
            "obvious": lambda: obvious(detector, timed),
            "ours": lambda: detector.score(timed, precision=options.precision),
            "ours, with sound": lambda: detector.score(timed, precision=options.precision, reader=reader),
        }
        detector.score(videos[SHORT], precision=options.precision)  # loads the landmark model, warms up
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, work in ways.items():
                taken[name].append(seconds(work))
        memory = {length: alone(bundle, videos[length], options.precision, cores) for length in (SHORT, options.long)}

    wall = {name: [options.seconds / one for one, _ in times] for name, times in taken.items()}
    cpu = {name: statistics.median(one for _, one in times) / options.seconds for name, times in taken.items()}
    factor = {name: statistics.median(values) for name, values in wall.items()}
    rows = [("way", "x real time", "slowest", "fastest", "CPU s per s of video")]
    rows += [(name, factor[name], min(wall[name]), max(wall[name]), cpu[name]) for name in ways]
    rows += [(f"peak memory of {length} s", f"{memory[length]['peak_mib']:.0f} MiB", "", "", "") for length in memory]
    short, long = memory[SHORT], memory[options.long]
    report(f"{WIDTH}x{HEIGHT}, {BACKBONE}, {len(cores)} cores, {options.precision}", rows, {
        "real_time_factor": round(factor["ours"], 2), "obvious_real_time_factor": round(factor["obvious"], 2),
        "ratio": round(factor["ours"] / factor["obvious"], 2),
        "with_sound_real_time_factor": round(factor["ours, with sound"], 2),
        "with_sound_cpu_s_per_s": round(cpu["ours, with sound"], 3),
        "cpu_s_per_s": round(cpu["ours"], 3), "obvious_cpu_s_per_s": round(cpu["obvious"], 3),
        "peak_mib_10s": round(short["peak_mib"], 1), "peak_mib_600s": round(long["peak_mib"], 1),
        "real_time_factor_600s": round(long["real_time_factor"], 2), "long_s": options.long,
        "precision": options.precision, "backbone": BACKBONE, "small": options.small, "cores_used": len(cores),
        "machine": describe(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
