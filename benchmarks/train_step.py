"""Clips per second of a whole step of stage 1, ours against the plain way, in the same run.

    python -m benchmarks.train_step cnn_gru_attention|csn_r101|cnn_lstm [--batch 4] [--steps 5] [--threads 1]

A step is all that happens to a batch whose crops and log-mels lie on the device: four forward passes, the loss, the
backward pass, the optimiser, the teachers' average. Ours is what `crosstalk pretrain` runs. The plain way is the same
step as one would write it first: nn.Conv3d, ReLU, nn.MaxPool3d and a GRU or LSTM (for csn_r101 the network that
pytorchvideo builds), default memory layout, fp32 (on a GPU: fp16 autocast with GradScaler), the package `adamp`, a loop
over the parameters for the average. Sound's ResNet and the heads are plain PyTorch in both. All ways start from
the same weights, and their losses are compared over the first steps.

The ways take turns (plain, ours, ..., plain, ours, ...), a step each; figures are medians over the turns. On a CPU the
clock is the process's CPU time divided by the threads, which other people's programs change little; on a GPU it is
the wall clock, the device synchronised. Model FLOPs are those of the plain networks' matrix products and convolutions,
counted by PyTorch; what is computed twice counts once. The peak is that of a large matrix product, in the same run.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import adamp
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from backbones import Backbone, create
from backbones.cnn import TemporalAttention
from benchmarks.machine import describe, report
from engine.distributed import Context
from engine.optim import AdamP, Part, groups
from engine.precision import Precision
from engine.update import Update
from ssl_pretrain.model import Student, Students, Teachers, agreement_loss

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RATE, DECAY, MOMENTUM = 1e-4, 1e-2, 0.99
COMPARED = 4  # steps over which losses are compared
AGREE = {"fp32": 1e-3, "bf16": 2e-2}  # difference of losses in relation to their size: what rounding may do


@dataclass(frozen=True)
class Views:
    """What both students and both teachers look at."""

    student_video: Tensor  # (B, 3, 25, H, W)
    teacher_video: Tensor
    student_log_mel: Tensor  # (B, 1, 100, 80)
    teacher_log_mel: Tensor

    @classmethod
    def random(cls, batch: int, size: int, device: torch.device) -> Views:
        generator = torch.Generator().manual_seed(0)

        def pair(*shape: int) -> tuple[Tensor, Tensor]:
            """Two views of something that is different from clip to clip and from time to time."""
            clip = torch.randn(batch, *shape, generator=generator)
            one, other = ((clip + 0.3 * torch.randn(clip.shape, generator=generator)).to(device) for _ in range(2))
            return one, other

        return cls(*pair(3, 25, size, size), *pair(1, 100, 80))

    def first(self, clips: int) -> Views:
        return Views(*(getattr(self, name)[:clips] for name in self.__dataclass_fields__))


# ---------------------------------------------------------------------------------------------- the plain way

class PlainBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, pool: int):
        super().__init__()
        side = max(3, 2 * (stride // 2) + 1)
        self.conv = nn.Conv3d(channels_in, channels_out, (3, side, side), (1, stride, stride),
                              (1, side // 2, side // 2))  # fmt: skip
        self.pool = nn.MaxPool3d((1, pool, pool))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.conv(x)))


class PlainCnn(nn.Module):
    def __init__(self, recurrence: type[nn.GRU | nn.LSTM], attention: bool, *, channels: Sequence[int],
                 pools: Sequence[int], hidden: int, dim: int, input_size: int, stem_stride: int,
                 time_padding: str):  # fmt: skip
        super().__init__()
        assert time_padding == "zeros"
        before, strides = [3, *channels], [stem_stride, *[1] * len(channels)]
        self.blocks = nn.Sequential(*map(PlainBlock, before, channels, strides, pools))
        with torch.device("meta"):
            width = self.blocks.to("meta")(torch.empty(1, 3, 1, input_size, input_size)).numel()
        self.blocks.to_empty(device="cpu")
        self.recurrence = recurrence(width, hidden, batch_first=True, bidirectional=True)
        self.attention = TemporalAttention(2 * hidden) if attention else None
        self.output = nn.Linear(2 * hidden, dim)
        self.dim = dim

    def forward(self, video: Tensor) -> Tensor:
        x = self.recurrence(self.blocks(video).transpose(1, 2).flatten(2))[0]
        return self.output(self.attention(x)[0] if self.attention else x)


class PlainCsn(nn.Module):
    def __init__(self, *, depths: Sequence[int], width: int, stem_stride: int, time_padding: str):
        from pytorchvideo.models.csn import create_csn

        super().__init__()
        known: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
        assert tuple(depths) in known and time_padding == "zeros", "pytorchvideo builds depths 50, 101 and 152 only"
        whole = create_csn(model_depth=known[tuple(depths)], stem_dim_out=width, stem_pool=nn.MaxPool3d,
                           stem_conv_stride=(1, stem_stride, stem_stride),
                           stage_temporal_stride=(1, 1, 1, 1))  # fmt: skip
        self.blocks, self.dim = whole.blocks[:-1], 32 * width

    def forward(self, video: Tensor) -> Tensor:
        for block in self.blocks:
            video = block(video)
        return video.mean(dim=(3, 4)).transpose(1, 2)


def plain_backbone(name: str, arguments: dict[str, Any]) -> Backbone:
    if name == "csn_r101":
        return cast(Backbone, PlainCsn(**arguments))
    plain = PlainCnn(nn.LSTM if name == "cnn_lstm" else nn.GRU, name == "cnn_gru_attention", **arguments)
    return cast(Backbone, plain)


class Plain:
    """Students and teachers with the weights of `start`, and a step as one would write it first."""

    def __init__(self, name: str, arguments: dict[str, Any], start: Students, device: torch.device):
        self.video, self.audio = Student(plain_backbone(name, arguments)), copy.deepcopy(start.audio)
        self.video.load_state_dict(start.video.state_dict(), strict=True)
        self.video_teacher, self.audio_teacher = (
            copy.deepcopy(student.encoder).requires_grad_(False) for student in (self.video, self.audio))
        self.networks = [self.video, self.audio, self.video_teacher, self.audio_teacher]
        for network in self.networks:
            network.to(device)
        self.parameters = [*self.video.parameters(), *self.audio.parameters()]
        self.optimizer = adamp.AdamP(self.parameters, lr=RATE, weight_decay=DECAY)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def forward(self, views: Views) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                video, audio = self.video_teacher(views.teacher_video), self.audio_teacher(views.teacher_log_mel)
            seen, heard = self.video(views.student_video), self.audio(views.student_log_mel)
            agreement = [F.cosine_similarity(answer.prediction.float(), target.float(), dim=2).mean()
                         for answer, target in ((seen, audio), (heard, video))]  # fmt: skip
            return -torch.stack(agreement).sum()

    def step(self, views: Views) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.forward(views)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for teacher, student in ((self.video_teacher, self.video), (self.audio_teacher, self.audio)):
                for mine, theirs in zip(teacher.parameters(), student.encoder.parameters(), strict=True):
                    mine.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)
        return loss.detach()


# ---------------------------------------------------------------------------------------------------- our way

class Ours:
    """What ssl_pretrain/train.py does with a batch, from the same parts."""

    def __init__(self, start: Students, device: torch.device, kind: str, recompute: bool = False):
        self.students = copy.deepcopy(start).to(device)
        self.students.video.encoder.backbone.recompute = recompute
        self.teachers = Teachers(self.students)
        self.networks = [self.students, self.teachers]
        encoders, predictors = ([getattr(student, part) for student in (self.students.video, self.students.audio)]
                                for part in ("encoder", "predictor"))  # fmt: skip
        optimizer = AdamP(groups(Part("encoders", encoders), Part("predictors", predictors, constant=True)), lr=RATE,
                          weight_decay=DECAY)  # fmt: skip
        self.precision = Precision(kind, device)
        self.update = Update([optimizer], self.precision, Context(device=device))

    def forward(self, views: Views) -> Tensor:
        video, audio = self.teachers(views.teacher_video, views.teacher_log_mel)
        seen, heard = self.students(views.student_video, views.student_log_mel)
        return agreement_loss(seen.prediction, audio) + agreement_loss(heard.prediction, video)

    def step(self, views: Views) -> Tensor:
        with self.update.part(0, of=1):
            self.update.backward(self.forward(views))
        done = self.update.apply(0)
        self.teachers.follow(self.students, MOMENTUM)
        return done.values["loss"]


# ------------------------------------------------------------------------------------------------ measurement

class Kept(TorchDispatchMode):
    """Bytes of all that was computed inside and is still there."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Callable, types: Any, arguments: tuple = (),
                           keywords: dict | None = None) -> Any:  # fmt: skip
        result = function(*arguments, **(keywords or {}))
        given, made = ({tensor.untyped_storage() for tensor in tree_leaves(tree) if isinstance(tensor, Tensor)}
                       for tree in ((arguments, keywords), result))  # fmt: skip
        for storage in made - given:  # a view of what was there before is not new
            self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self) -> int:
        return sum(size for storage, size in self._storages.values() if not storage.expired())


def mib_per_clip(way: Plain | Ours, views: Views) -> float:
    """What one more clip adds to memory: on a GPU to the peak of forward and backward pass, on a CPU to what is kept
    between them."""
    def used(clips: int) -> int:
        with way.precision.autocast() if isinstance(way, Ours) else nullcontext():
            if views.student_video.is_cuda:
                torch.cuda.reset_peak_memory_stats()
                way.forward(views.first(clips)).backward()
                return torch.cuda.max_memory_allocated()
            with Kept() as kept:
                loss = way.forward(views.first(clips))
            assert loss.requires_grad  # and all that its backward pass needs is still there
            return kept.bytes()

    most = len(views.student_video)
    return (used(most) - used(most // 2)) / (most - most // 2) / 2**20


def flops(run: Callable[[], Any]) -> int:
    """Of matrix products and convolutions, two for each multiplication and addition."""
    def backward_of_convolution(gradient: Any, x: Any, weight: Any, *settings: Any, **_: Any) -> int:
        # PyTorch's own takes no account of groups.
        return sum(settings[7][:2]) * 2 * math.prod(gradient) * math.prod(weight[1:])

    counter = FlopCounterMode(display=False,
                              custom_mapping={torch.ops.aten.convolution_backward: backward_of_convolution})
    with counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that oneDNN's switch has to do with Intel's GPUs as well
        with torch.backends.mkldnn.flags(enabled=False):  # whose LSTM is not counted
            run()
    return counter.get_total_flops()


def gflop_per_clip(plain: Plain, views: Views) -> float:
    """Of a step, on the CPU: cuDNN's recurrent networks are not counted either."""
    return flops(lambda: plain.forward(views).backward()) / len(views.student_video) / 1e9


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    begin = clock(device)
    run()
    return clock(device) - begin


def peak_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """Of a product of large square matrices, the best of several."""
    side = 8192 if device.type == "cuda" else 3072
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2e-9 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(5))


def fitting(ways: Sequence[Plain | Ours], size: int, device: torch.device) -> Views:
    """As large a batch as fits on the GPU in each way, up to the published 256."""
    batch = 256
    while True:
        try:
            views = Views.random(batch, size, device)
            for way in ways:
                way.step(views)
            return views
        except torch.OutOfMemoryError:
            batch //= 2
            if batch < 2:
                raise
        torch.cuda.empty_cache()  # not inside `except`, where the traceback still holds the tensors


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    parser.add_argument("backbone", choices=sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml")))
    parser.add_argument("--batch", type=int, help="4; on a GPU as many as fit, up to 256")
    parser.add_argument("--steps", type=int, default=5, help="of each way")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.batch is not None and options.batch < 4:
        parser.error("--batch: at least 4")

    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `crosstalk pretrain` does
    machine, device = describe(), torch.device(options.device)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    small = "_small" if options.backbone.endswith("_small") else ""
    video, audio = (yaml.safe_load((CONFIGS / path).read_text()) for path in (
        f"backbone/{options.backbone}.yaml", f"audio_backbone/audio_resnet18{small}.yaml"))  # fmt: skip
    size = video["arguments"].get("input_size", 112)
    torch.manual_seed(0)
    start = Students(*(create(part["name"], **part["arguments"]) for part in (video, audio)))

    cpu = torch.device("cpu")
    gflop = gflop_per_clip(Plain(video["name"], video["arguments"], start, cpu), Views.random(2, size, cpu))
    print(f"{options.backbone}: {gflop:.1f} GFLOP a clip (students forward and backward, teachers forward)", flush=True)

    ways: dict[str, Plain | Ours] = {"plain": Plain(video["name"], video["arguments"], start, device)}
    ways |= {"ours_fp32": Ours(start, device, "fp32"), "ours": Ours(start, device, "bf16"),
             "ours_recompute": Ours(start, device, "bf16", recompute=True)}  # fmt: skip
    views = Views.random(options.batch or (32 if device.type == "cuda" else 4), size, device)
    losses = {name: [way.step(views).item() for _ in range(COMPARED)] for name, way in ways.items()}
    scale = statistics.mean(map(abs, losses["plain"]))
    off = {name: max(abs(a - b) for a, b in zip(values, losses["plain"], strict=True)) / scale
           for name, values in losses.items()}  # fmt: skip
    for name, values in losses.items():
        print(f"losses of the first steps, {name:15}", *(f"{value:9.6f}" for value in values), flush=True)

    memory = {name: mib_per_clip(way, views) for name, way in ways.items()}
    if device.type == "cuda" and options.batch is None:
        views = fitting(list(ways.values()), size, device)
    batch = len(views.student_video)
    print(f"measuring {options.steps} turns, a batch of {batch} clips, {torch.get_num_threads()} thread(s), {device}",
          flush=True)  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.steps):
        for name, way in ways.items():
            times[name].append(seconds(lambda: way.step(views), device))  # noqa: B023
    peaks = {"fp32": peak_gflops(torch.float32, device), "bf16": peak_gflops(torch.bfloat16, device)}

    rates = {name: batch / statistics.median(values) for name, values in times.items()}
    kinds = {"plain": "fp16" if device.type == "cuda" else "fp32", "ours_fp32": "fp32"}
    rows: list[tuple[Any, ...]] = [
        ("way", "clips/s", "slowest", "fastest", "x plain", "GFLOP/s", "of peak", "MiB/clip", "loss off by")]
    for name, values in times.items():
        peak = peaks["fp32" if kinds.get(name) == "fp32" else "bf16"]
        what = f"{name.removesuffix('_fp32').replace('_', ', ')} ({kinds.get(name, 'bf16')})"
        rows.append((what, rates[name], batch / max(values),
                     batch / min(values), rates[name] / rates["plain"], gflop * rates[name],
                     f"{gflop * rates[name] / peak:.0%}", memory[name], f"{off[name]:.1e}"))  # fmt: skip
    result: dict[str, Any] = {f"{name}_clips_per_s": round(rate, 4) for name, rate in rates.items()}
    result |= {
        "ratio": round(rates["ours"] / rates["plain"], 3),
        "share_of_peak": round(gflop * rates["ours"] / peaks["bf16"], 4), "share_of_peak_in": "bf16",
        "gflop_per_clip": round(gflop, 2),
        "peak_gflops": {kind: round(value, 1) for kind, value in peaks.items()},
        "mib_per_clip": {name: round(value, 2) for name, value in memory.items()},
        "loss_off_by": off, "losses_agree": all(off[name] < AGREE[kinds.get(name, "bf16")] for name in off),
        "backbone": options.backbone, "batch": batch, "threads": torch.get_num_threads(), "device": str(device),
        "clock": "wall, synchronised" if device.type == "cuda" else "process CPU time / threads", "machine": machine,
    }  # fmt: skip
    report(f"A step of stage 1 with {options.backbone}: clips per second", rows, result)


if __name__ == "__main__":
    main()
