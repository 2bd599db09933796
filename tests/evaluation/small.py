"""Bundles and stores of a second: detectors with random weights, clips of four forgeries, and perturbed ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from backbones import create
from benchmarks.stores import Track, write_store
from datasets.store import Store
from engine.bundle import save_bundle
from engine.familiarity import Familiarity
from engine.run import PROJECT
from finetune.model import Detector
from tests.engine.processes import finished
from tests.finetune.small import BACKBONE
from tests.ssl_pretrain.small import talking

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
QUICK = ("device=cpu", "draws=40", "workers=0")


def small_detector(folder: Path, seed: int = 0, backbone: dict = BACKBONE, known: Familiarity | None = None,
                   **config) -> Path:  # fmt: skip
    """A bundle of stage 2 with random weights, and perhaps with the faces that it knows."""
    torch.manual_seed(seed)
    network = Detector(create(backbone["name"], **backbone["arguments"]))
    parts = {"video_student": {"backbone": network.backbone}, "classifier": network.classifier}
    if known is not None:
        parts, config = {**parts, "familiarity": known}, {"familiarity": known.sizes, **config}
    save_bundle(folder, parts, {
        "stage": "finetune", "backbone": backbone, "views": {"size": backbone["arguments"]["input_size"]},
        "calibration": {"threshold": 0.5, "temperature": 2.0}, "leave_out": [], "methods": None, "seed": seed,
        "ssl_weight": 0.3, "generated": True, "trained_on": {"datasets": ["faceforensics"]}, **config,
    }, "# small\n")  # fmt: skip
    return folder


def small_store(root: Path, dataset: str = "faceforensics", methods: tuple[str, ...] = METHODS, people: int = 4,
                perturb: tuple[str, int] | None = None, real: bool = True, prefix: str = "",
                labelled: bool = True) -> Store:  # fmt: skip
    """Forged faces have a cast of another colour per method; one track is too short for a clip."""
    tracks = []
    for person in range(people):
        for number, method in enumerate((*(("real",) if real else ()), *methods)):
            crops, _ = talking(10 * person + number, frames=29 + 30 * (person % 2))
            if method != "real":
                crops[..., number % 3] = crops[..., number % 3] // (2 + person % 2)
            if perturb:
                crops = crops // (1 + perturb[1]) * (1 + perturb[1])
            tracks.append(Track(crops, None, {
                "id": f"{dataset}/{prefix}{method}/{person:03d}.mp4", "dataset": dataset,
                "method": method if labelled else "unknown",
                "label": (None if not labelled else int(method != "real")), "split": "test",
                "identities": (f"{person:03d}",) if labelled else (),
            }))  # fmt: skip
    crops, _ = talking(99, frames=26)
    tracks.append(Track(crops[:20], None, {
        "id": f"{dataset}/{prefix}short.mp4", "dataset": dataset, "split": "test", "identities": ("short",),
        "method": "real" if labelled and real else methods[0] if labelled else "unknown",
        "label": None if not labelled else 0 if real else 1,
    }))  # fmt: skip
    write_store(root, tracks)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["perturb"] = {"name": perturb[0], "severity": perturb[1]} if perturb else None
    (root / "manifest.json").write_text(json.dumps(manifest))
    return Store.open(root)


def judged(run: Path, *arguments: str, world: int = 1, prepare=None) -> tuple[list[int], str]:
    """Exit codes of the ranks and all that they said."""
    return finished("benchmark", run, *QUICK, *arguments, world=world, prepare=prepare)


def commanded(run: Path, *arguments: str) -> tuple[int, str]:
    """The command itself: loader workers want a parent that was not forked."""
    command = [sys.executable, str(PROJECT / "crosstalk.py"), "benchmark", f"run={run}", *QUICK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr
