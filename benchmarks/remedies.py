"""What each remedy of `experiment=pretrain_small` brings: every one taken away in turn, over several seeds.

    crosstalk synthesize out=runs/remedies/corpus lrw_clips=800 faceforensics_pairs=0 celebdf_identities=0 \\
        youtube_real=0
    crosstalk prepare data=lrw root=runs/remedies/corpus/lrw store=runs/remedies/store
    python -m benchmarks.remedies runs/remedies/store runs/remedies/runs [--seeds 0 1 2] [--processes 2]

Each case is a run of stage 1, one thread each, validated on the test split (people never seen in training); finished
ones are not run again, interrupted ones continue. Prints a table of means and ranges over the seeds and draws
OUT/remedies.png. With three seeds on two cores: 33 runs, about an hour and a half.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.journal import read_metrics
from engine.report import validations
from engine.tables import Table
from ssl_pretrain.report import curves

LITERAL = ("centred_targets=false", "backbone.arguments.time_padding=zeros", "predictor_rate=1", "mask_fill=zero",
           "mask_begin=0", "mask_share=1", "momentum_ramp=false", "teacher_momentum=0.999",
           "learning_rate=7e-4")  # fmt: skip
CASES = {
    "all": ("all remedies: the small preset", ()),
    "literal": ("the published recipe, small networks", LITERAL),
    "no_centring": ("without centred targets", ("centred_targets=false",)),
    "zero_padding": ("without replicate padding in time", ("backbone.arguments.time_padding=zeros",)),
    "fast_predictor": ("without the slower predictor", ("predictor_rate=1",)),
    "zero_fill": ("without the masks' fill: zeros", ("mask_fill=zero",)),
    "masks_from_start": ("without the mask ramp: all clips, from the start", ("mask_begin=0", "mask_share=1")),
    "slow_teacher": ("without the momentum ramp: always 0.99983", ("momentum_ramp=false", "teacher_momentum=0.999")),
    "student_teacher": ("the teacher is the student (no gradient)", ("teacher=student",)),
    "collapse": ("the teacher is the student, with gradient, targets not centred",
                 ("teacher=student_with_gradient", "centred_targets=false")),
}  # fmt: skip
COLUMNS = {
    "right sound": "retrieval_video_to_audio", "right face": "retrieval_audio_to_video", "offset": "synchrony",
    "word": "word_video", "spread": "spread_video", "loss": "loss",
}  # fmt: skip
PICTURED = {"all": "all remedies", "literal": "as published", "collapse": "student teaches itself"}


def train(store: Path, out: Path, case: str, seed: int) -> None:
    run = out / f"{case}-{seed}"
    if (run / "bundle").exists():
        return
    print(f"{case}, seed {seed} -> {run}", flush=True)
    command = [sys.executable, "-m", "ssl_pretrain", f"store={store}", f"run={run}", "experiment=pretrain_small",
               "validation_split=test", f"seed={seed}", *CASES[case][1]]  # fmt: skip
    with (out / f"{run.name}.log").open("a") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def results(out: Path, seeds: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Values of the last validation of each finished run; `before` has those of the first, of the full preset."""
    found: dict[str, list[dict[str, float]]] = {"before": []}
    for case in CASES:
        runs = [out / f"{case}-{seed}" for seed in seeds if (out / f"{case}-{seed}" / "bundle").exists()]
        lines = [validations(read_metrics(run)) for run in runs]
        found[case] = [each[-1]["values"] for each in lines]
        if case == "all":
            found["before"] = [each[0]["values"] for each in lines]
    return {case: values for case, values in found.items() if values}


def cell(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remedies", description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="of generated LRW clips")
    parser.add_argument("out", type=Path, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(train, options.store.resolve(), options.out.resolve(), case, seed)
                for seed in options.seeds for case in options.cases]  # fmt: skip
        for job in jobs:
            job.result()
    found = results(options.out, options.seeds)
    what = {"before": "before training: random networks", **{case: text for case, (text, _) in CASES.items()}}
    rows = [[what[case], str(len(values)), *(cell([v[name] for v in values]) for name in COLUMNS.values())]
            for case, values in found.items()]  # fmt: skip
    print(f"\n{Table(['', 'seeds', *COLUMNS], rows).markdown()}\n")
    pictured = {label: read_metrics(options.out / f"{case}-{options.seeds[0]}") for case, label in PICTURED.items()
                if (options.out / f"{case}-{options.seeds[0]}" / "bundle").exists()}  # fmt: skip
    curves(pictured, options.out / "remedies.png")
    print(f"picture: {options.out / 'remedies.png'}")
    means = {case: {name: statistics.mean(v[name] for v in values) for name in COLUMNS.values()}
             for case, values in found.items()}  # fmt: skip
    print(json.dumps(means), flush=True)


if __name__ == "__main__":
    main()
