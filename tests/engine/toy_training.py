"""A stage in small that uses every part of the engine, for tests to interrupt:

    python -m tests.engine.toy_training run=DIR [steps=40 kill=update@17 ...]
"""

from __future__ import annotations

import os
import signal
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engine.checkpoint
from engine import command, schedule
from engine.bundle import save_bundle
from engine.checkpoint import Checkpoints
from engine.distributed import Context, distributed
from engine.ema import teacher_of, update_teacher
from engine.journal import Journal
from engine.optim import AdamP, Part, groups, set_learning_rates
from engine.precision import Precision
from engine.randomness import Randomness, seed_all
from engine.run import open_run
from engine.stop import StopSignal
from engine.update import Update

MAY_DIFFER = ("run", "checkpoint", "kill", "slow", "log_every")


@dataclass(frozen=True)
class Settings:
    run: Path
    steps: int = 40
    batch: int = 8
    parts: int = 1
    seed: int = 0
    save_every: int = 7
    log_every: int = 5
    norm: str = "batch"
    noise: float = 0.5
    precision: str = "fp32"
    checkpoint: str = ""
    poison: int = -1  # at this step the loss is not a number
    kill: str = ""  # place@step: end with SIGKILL, or with SIGTERM at "signal"
    slow: float = 0.0  # seconds a step


class Student(nn.Module):
    def __init__(self, norm: str):
        super().__init__()
        normalised = nn.BatchNorm2d(4) if norm == "batch" else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), normalised, nn.ReLU(), nn.Flatten(), nn.Linear(144, 6))
        self.predictor = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor, target: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # (B, 1, 8, 8), (B, 6), (B,)
        features = self.backbone(x)
        agreement = -F.cosine_similarity(self.predictor(features), target).mean()
        return agreement, F.binary_cross_entropy_with_logits(features[:, 0], label)


class Loader:
    """Batches in an order that is a function of (seed, epoch); its position is all its state."""

    def __init__(self, seed: int, batch: int, context: Context):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(60, 1, 8, 8, generator=generator)
        self.labels = (self.images.mean((1, 2, 3)) > 0).float()
        self.seed, self.batch, self.context = seed, batch, context
        self.epoch, self.place = 0, 0

    def __len__(self) -> int:
        return len(self.images) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        share = self.batch // self.context.world
        while self.place < len(self):
            order = torch.randperm(60, generator=torch.Generator().manual_seed(1000 * self.seed + self.epoch))
            begin = self.place * self.batch + self.context.rank * share
            self.place += 1
            chosen = order[begin : begin + share]
            yield self.images[chosen], self.labels[chosen]
        self.epoch, self.place = self.epoch + 1, 0

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.place = state["epoch"], state["place"]


def killer(settings: Settings, context: Context):
    """`maybe(place, step)` ends the process if that is what was asked for."""
    where, _, when = settings.kill.partition("@")

    def maybe(place: str, step: int) -> None:
        if place == where and step == int(when):
            os.kill(os.getpid(), signal.SIGTERM if place == "signal" else signal.SIGKILL)

    if where == "saving" and context.is_main:  # all files written, not yet renamed
        flush = engine.checkpoint._flush_folder

        def flush_and_die(folder: Path) -> None:
            flush(folder)
            if folder.name == f".step-{int(when):08d}.tmp":
                os.kill(os.getpid(), signal.SIGKILL)

        engine.checkpoint._flush_folder = flush_and_die
    return maybe


def train(settings: Settings, context: Context) -> int:
    precision = Precision(settings.precision, context.device)
    maybe_kill = killer(settings, context)
    with open_run(settings.run, settings, context, may_differ=MAY_DIFFER) as run:
        seed_all(settings.seed)
        student = Student(settings.norm)
        teacher = teacher_of(student.backbone)
        model = context.wrap(context.synchronised_norms(student))
        optimizer = AdamP(groups(Part("backbone", [student.backbone]),
                                 Part("predictor", [student.predictor], scale=0.5, constant=True)), weight_decay=1e-2)
        update = Update([optimizer], precision, context, [model])
        loader = Loader(settings.seed, settings.batch, context)
        views = torch.Generator()
        randomness = Randomness(settings.seed, context.rank, context.device, views=views)
        randomness.start()
        parts = {"student": student, "teacher": teacher, "optimizer": optimizer, "precision": precision,
                 "loader": loader}
        checkpoints = Checkpoints(run.checkpoints, context, randomness, {"toy": settings.steps}, keep=2)
        resumed = checkpoints.load(parts, Path(settings.checkpoint) if settings.checkpoint else None)
        step = resumed.step if resumed else 0
        for note in (*run.notes, *([resumed.note] if resumed and resumed.note else ())):
            if context.is_main:
                print(f"note: {note}", file=sys.stderr)
        with (StopSignal(context) as stop,
              Journal(run.folder, context, step=step, steps=settings.steps, log_every=settings.log_every) as journal):
            while step < settings.steps:
                for images, labels in loader:
                    rates = set_learning_rates(optimizer, 3e-3, schedule.warmup_cosine(step, warmup=5, steps=40))
                    momentum = schedule.momentum_to_one(step, start=0.9, steps=settings.steps)
                    for number, (image, label) in enumerate(zip(images.chunk(settings.parts),
                                                                labels.chunk(settings.parts), strict=True)):
                        with update.part(number, of=settings.parts):
                            with torch.no_grad():
                                target = teacher(image)
                            noise = torch.randn(image.shape, generator=views) + torch.randn(image.shape)
                            agreement, labelled = model(image + settings.noise * noise, target, label)
                            if step == settings.poison:
                                labelled = labelled * torch.nan
                            update.backward(agreement + labelled, agreement=agreement, labelled=labelled)
                    maybe_kill("forward", step)
                    done = update.apply(step)
                    maybe_kill("update", step)
                    update_teacher(teacher, student.backbone, momentum)
                    step += 1
                    journal.record(step, loader.epoch, {**done.values, "gradient_norm": done.gradient_norm, **rates},
                                   clips=settings.batch)
                    maybe_kill("record", step)
                    maybe_kill("signal", step)
                    if settings.slow:
                        signal.sigtimedwait([], settings.slow)  # sleeps without being woken by handled signals
                    stopping = stop.requested()
                    if stopping or step % settings.save_every == 0 or step == settings.steps:
                        journal.flush()
                        checkpoints.save(step, parts)
                    if stopping:
                        return stop.exit_code
                    if step == settings.steps:
                        break
        if context.is_main:
            save_bundle(run.bundle, {"student": {"backbone": student.backbone, "predictor": student.predictor},
                                     "teacher": teacher}, {"norm": settings.norm}, "# Toy\n", overwrite=True)
    return 0


def main(arguments: Sequence[str]) -> int:
    kinds = typing.get_type_hints(Settings)
    given = dict(argument.split("=", 1) for argument in arguments)
    settings = Settings(**{key: kinds[key](value) for key, value in given.items()})
    torch.set_num_threads(1)
    with distributed("cpu") as context:
        return train(settings, context)


if __name__ == "__main__":
    sys.exit(command.run("toy", main, sys.argv[1:]))
