"""What the full LRW run (488,763 clips, 150 epochs) needs on 1, 8 and 64 GPUs, computed from measured speeds.

    python -m benchmarks.full_run --gpu-clips-per-s 600      the speed that benchmarks.train_step shows on your GPU

docs/cluster.md says where each default was measured.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

CLIPS, EPOCHS, BATCH = 488_763, 150, 256
FRAMES, WINDOW = 29, 25  # of a clip, and of what a step sees of it
GPUS, PER_NODE = (1, 8, 64), 8


@dataclass(frozen=True)
class Speeds:
    gpu_clips_per_s: float  # one GPU's training steps, whatever feeds it
    prepare_frames_per_s: float  # of one core
    load_clips_per_s: float  # of one core, store to batch
    clip_bytes: float  # in the store
    gradient_bytes: float  # summed over all GPUs at each step
    network_bytes_per_s: float  # between two nodes
    latency: float  # seconds a step spends on agreeing, whatever its size
    gpu_hour: float  # money


def prepare_core_hours(speeds: Speeds) -> float:
    return CLIPS * FRAMES / speeds.prepare_frames_per_s / 3600


def step_seconds(speeds: Speeds, gpus: int) -> dict[str, float]:
    """What one step of the global batch waits for: computing; the gradients, where they leave the node (those of a
    ring travel twice, and most of the way while the backward pass still computes: taken as not hidden at all)."""
    exchange = 2 * speeds.gradient_bytes / speeds.network_bytes_per_s if gpus > PER_NODE else 0.0
    return {"compute": BATCH / gpus / speeds.gpu_clips_per_s, "exchange": exchange,
            "latency": speeds.latency if gpus > 1 else 0.0}  # fmt: skip


def needs(speeds: Speeds, gpus: int) -> dict[str, float]:
    steps = CLIPS // BATCH * EPOCHS
    parts = step_seconds(speeds, gpus)
    second = sum(parts.values())
    hours = steps * second / 3600
    rate = BATCH / second
    return {
        "gpus": gpus, "clips_per_s": rate, "hours": hours, "gpu_hours": hours * gpus,
        "cost": hours * gpus * speeds.gpu_hour, "busy": parts["compute"] / second,
        "loader_cores_per_gpu": rate / gpus / speeds.load_clips_per_s,
        "read_gb_per_s": rate * speeds.clip_bytes * WINDOW / FRAMES / 1e9,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_run", description=__doc__.splitlines()[0])
    parser.add_argument("--gpu-clips-per-s", type=float, required=True)
    parser.add_argument("--prepare-frames-per-s", type=float, default=126)
    parser.add_argument("--load-clips-per-s", type=float, default=2000)
    parser.add_argument("--clip-bytes", type=float, default=1_994_000)
    parser.add_argument("--gradient-bytes", type=float, default=63_346_368 * 4)
    parser.add_argument("--network-bytes-per-s", type=float, default=25e9)
    parser.add_argument("--latency", type=float, default=0.01)
    parser.add_argument("--gpu-hour", type=float, default=2.5)
    speeds = Speeds(**vars(parser.parse_args()))
    table = [needs(speeds, gpus) for gpus in GPUS]
    stored = CLIPS * speeds.clip_bytes / 1e12
    print(f"Storage {stored:.2f} TB; preparing {prepare_core_hours(speeds):.0f} core hours.\n")
    print("| GPUs | clips/s | hours | GPU hours | cost | GPUs busy | loader cores a GPU | read, GB/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in table:
        print(f"| {row['gpus']} | {row['clips_per_s']:,.0f} | {row['hours']:,.0f} | {row['gpu_hours']:,.0f} "
              f"| {row['cost']:,.0f} | {row['busy']:.0%} | {row['loader_cores_per_gpu']:.1f} "
              f"| {row['read_gb_per_s']:.1f} |")  # fmt: skip
    print(json.dumps({"speeds": asdict(speeds), "runs": table}))


if __name__ == "__main__":
    main()
