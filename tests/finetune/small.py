"""A stage 2 that takes a second: a stage-1 bundle, a store of real and forged clips, and processes that run it."""

from __future__ import annotations

from pathlib import Path

import torch

from backbones import create
from backbones.heads import Predictor
from benchmarks.stores import Track, write_store
from datasets.store import Store
from engine.bundle import save_bundle
from finetune.model import Teacher
from tests.engine.processes import finished
from tests.ssl_pretrain.small import talking

BACKBONE = {"name": "cnn_gru_attention", "arguments": {
    "channels": [4, 8], "pools": [2, 2], "hidden": 8, "dim": 16, "input_size": 32, "stem_stride": 4,
    "time_padding": "zeros"}}  # fmt: skip
AUDIO_BACKBONE = {"name": "audio_resnet18", "arguments": {"depths": [1], "width": 4}}
SMALL = ("batch=4", "epochs=8", "warmup_epochs=1", "learning_rate=2e-2", "precision=fp32", "workers=0", "log_every=1",
         "validate_every=2", "device=cpu")  # fmt: skip


def small_bundle(folder: Path, seed: int = 0, backbone: dict = BACKBONE, *, audio: bool = False, **config) -> Path:
    """Of random weights, the teacher's other than the student's, as after a real stage 1; `audio`: its teacher, too."""
    torch.manual_seed(seed)

    def network():
        return create(backbone["name"], **backbone["arguments"])

    teacher = Teacher(network())
    with torch.no_grad():
        teacher.projector.norm.running_mean.normal_()
        teacher.projector.norm.running_var.uniform_(0.5, 2)
    student = Teacher(network())
    parts = {
        "video_student": {"backbone": student.backbone, "projector": student.projector, "predictor": Predictor()},
        "video_teacher": {"backbone": teacher.backbone, "projector": teacher.projector},
    }  # fmt: skip
    if audio:
        listener = Teacher(create(AUDIO_BACKBONE["name"], **AUDIO_BACKBONE["arguments"]))
        parts["audio_teacher"] = {"backbone": listener.backbone, "projector": listener.projector}
        config |= {"audio_backbone": AUDIO_BACKBONE, "views": {"size": backbone["arguments"]["input_size"]}}
    save_bundle(folder, parts, {"stage": "pretrain", "backbone": backbone, **config}, "# small\n")
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


def tuned(bundle: Path | str, store: Path, run: Path, *arguments: str, world: int = 1, prepare=None):
    """Exit codes of the ranks and all that they said."""
    return finished("finetune", run, f"init={bundle}", f"store={store}", *SMALL, *arguments, world=world,
                    prepare=prepare)  # fmt: skip
