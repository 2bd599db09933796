"""A stage 2 that takes a second: a stage-1 bundle, a store of real and forged clips, and processes that run it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import finetune.train
from backbones import create
from backbones.heads import Predictor
from benchmarks.stores import Track, write_store
from datasets.store import Store
from engine import command
from engine.bundle import save_bundle
from finetune.model import Teacher
from tests.engine.processes import CONTEXT, finish, ranks
from tests.ssl_pretrain.small import talking

BACKBONE = {"name": "cnn_gru_attention", "arguments": {
    "channels": [4, 8], "pools": [2, 2], "hidden": 8, "dim": 16, "input_size": 32, "stem_stride": 4,
    "time_padding": "zeros"}}  # fmt: skip
SMALL = ("batch=4", "epochs=8", "warmup_epochs=1", "learning_rate=2e-2", "precision=fp32", "workers=0", "log_every=1",
         "validate_every=2", "device=cpu")  # fmt: skip


def small_bundle(folder: Path, seed: int = 0, backbone: dict = BACKBONE) -> Path:
    """Of random weights, the teacher's other than the student's, as after a real stage 1."""
    torch.manual_seed(seed)

    def network():
        return create(backbone["name"], **backbone["arguments"])

    teacher = Teacher(network())
    with torch.no_grad():
        teacher.projector.norm.running_mean.normal_()
        teacher.projector.norm.running_var.uniform_(0.5, 2)
    student = Teacher(network())
    save_bundle(folder, {
        "video_student": {"backbone": student.backbone, "projector": student.projector, "predictor": Predictor()},
        "video_teacher": {"backbone": teacher.backbone, "projector": teacher.projector},
    }, {"stage": "pretrain", "backbone": backbone}, "# small\n")  # fmt: skip
    return folder


def small_store(root: Path, methods=("Deepfakes", "FaceSwap"), people: int = 6) -> Store:
    """Forged faces have a green cast of another strength per method; two people in three are for training."""
    tracks = []
    for person in range(people):
        split = "val" if person % 3 == 2 else "train"
        for number, method in enumerate(("real", *methods)):
            crops, _ = talking(10 * person + number, frames=29 + 30 * (person % 2))
            if method != "real":
                crops[..., 1] = crops[..., 1] // (2 + number)
            about = {"id": f"small/{method}/{person:03d}", "method": method, "label": int(method != "real"),
                     "split": split, "identities": (f"{person:03d}",)}  # fmt: skip
            tracks.append(Track(crops, None, about))
    return write_store(root, tracks)


def start(arguments: list[str], environment: dict[str, str], said: Path, prepare=None):
    process = CONTEXT.Process(target=_finetune, args=(arguments, environment, said, prepare), daemon=True)
    process.start()
    return process


def tuned(bundle: Path | str, store: Path, run: Path, *arguments: str, world: int = 1, prepare=None):
    """Exit codes of the ranks and all that they said."""
    run.parent.mkdir(parents=True, exist_ok=True)
    environments = ranks(world) if world > 1 else [{}]
    said = [run.parent / f"{run.name}.rank{rank}.txt" for rank in range(world)]
    crew = [start([f"init={bundle}", f"store={store}", f"run={run}", *SMALL, *arguments], environment, file, prepare)
            for environment, file in zip(environments, said, strict=True)]  # fmt: skip
    codes = [finish(process, 120) for process in crew]
    return codes, "".join(file.read_text() for file in said)


def _finetune(arguments: list[str], environment: dict[str, str], said: Path, prepare) -> None:
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    sys.exit(command.run("finetune", finetune.train.main, arguments))
