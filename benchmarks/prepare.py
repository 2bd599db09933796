"""From a video file to face crops on the disk, on one core: searching faces now and then against in every frame."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.heads import generated_head, write
from benchmarks.machine import describe, report

SHORT_SECONDS, LONG_SECONDS = 10, 600
ROUNDS = 3
HEIGHT, WIDTH = 720, 1280

# Run in a process of its own: one thread, and a peak of memory that nothing else has raised.
MEASURED = """
import json, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
from datasets.extract import ExtractSettings, extract
from datasets.records import VideoRecord

video, search_every, warm = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "warm"
settings = ExtractSettings(frames="raw", jpeg_quality=95, landmarks="dlib", search_every=search_every, longest_gap=12,
                           shortest_track=25, tracks="main", sound="optional")
record = VideoRecord(id="b", path=video, dataset="b", method="real", label=0, split="test")

def once(record):
    with tempfile.TemporaryDirectory() as parts:
        [(spool, facts)] = extract(record, settings, Path(parts))
        frames = spool.frames
        spool.discard()
    return frames

if warm:
    once(replace(record, limit=50))  # the landmark model is loaded once per worker process, not once per video
began = time.process_time()
frames = once(record)
seconds = time.process_time() - began
# Not getrusage: its peak is inherited from the process that started this one.
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"frames": frames, "seconds": seconds, "peak_mib": peak / 1024}))
"""


def main() -> None:
    print(__doc__)
    print(f"A generated talking head in {WIDTH}x{HEIGHT} H.264 at 25 fps with sound; one process, one thread, {ROUNDS} "
          "rounds in turn, medians.\nSeconds are those of the processor: what else the machine does is not counted.")
    with tempfile.TemporaryDirectory() as folder:
        talking = generated_head(Path(folder), WIDTH, HEIGHT)
        short, long = Path(folder) / "short.mp4", Path(folder) / "long.mp4"
        write(short, talking, SHORT_SECONDS)
        write(long, talking, LONG_SECONDS)
        runs: dict[int, list[dict]] = {10: [], 1: []}
        for _ in range(ROUNDS):
            for search_every, results in runs.items():
                results.append(_measure(short, search_every))
        ours, every = (statistics.median(r["frames"] / r["seconds"] for r in results) for results in runs.values())
        peak_short = _measure(short, 10, warm=False)["peak_mib"]
        long_run = _measure(long, 10, warm=False)
    figures = {
        "frames_per_s": round(ours, 1),
        "every_frame_frames_per_s": round(every, 1),
        "ratio": round(ours / every, 2),
        "peak_mib_short": round(peak_short, 1),
        "peak_mib_long": round(long_run["peak_mib"], 1),
        "long_frames_per_s": round(long_run["frames"] / long_run["seconds"], 1),
        "machine": describe(),
    }
    report("prepare", [
        ("", "one core"),
        ("search every 10th frame (ours)", f"{ours:.1f} frames/s"),
        ("search every frame", f"{every:.1f} frames/s"),
        ("ratio", f"{ours / every:.2f}"),
        (f"peak memory, {SHORT_SECONDS} s of video", f"{peak_short:.0f} MiB"),
        (f"peak memory, {LONG_SECONDS} s of video", f"{long_run['peak_mib']:.0f} MiB"),
    ], figures)


def _measure(video: Path, search_every: int, *, warm: bool = True) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(video), str(search_every), "warm" if warm else "cold"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    main()
