"""`crosstalk finetune`: the training loop of stage 2, to be read beside the paper (finetune/model.py names it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datasets.clips import ClipDataset
from datasets.loaders import BalancedOrder, ClipBatch, ClipLoader, ShuffledOrder, make_loader
from datasets.records import FORGED, REAL
from datasets.store import Store
from datasets.views import ViewSettings, draw_views, make_views, teacher_video
from engine import schedule
from engine.bundle import save_bundle
from engine.checkpoint import Checkpoints, Stateful
from engine.distributed import Context, distributed
from engine.errors import UserError
from engine.familiarity import Familiarity
from engine.journal import Journal, read_metrics
from engine.optim import AdamP, Part, groups, set_learning_rates
from engine.precision import Precision
from engine.randomness import Randomness, generator_for, seed_all
from engine.report import Speaker
from engine.run import Run, open_run, plain
from engine.settings import Network, load_exactly
from engine.stop import StopSignal
from engine.update import Update
from finetune import report, transfer
from finetune.familiar import familiarity
from finetune.model import Student, Teacher, auxiliary_loss, supervised_loss
from finetune.settings import MAY_DIFFER, FinetuneSettings
from finetune.validation import Validation


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("finetune", arguments, FinetuneSettings)
    with distributed(settings.device) as context:
        return train(settings, context)


def train(settings: FinetuneSettings, context: Context) -> int:
    # What can be wrong is found before the run folder is touched.
    precision = Precision(settings.precision, context.device)
    seed_all(settings.seed)
    with context.together("opening the data"):
        network, student, teacher = transfer.start(
            None if settings.from_scratch else settings.init, settings.teaching, settings.backbone,
            freeze=settings.freeze_backbone, recompute=settings.recompute)  # fmt: skip
        views = ViewSettings.of_network(network.arguments, mask_fill=settings.mask_fill,
                                        time_mask_probability=settings.mask_share)  # fmt: skip
        data = _data(settings, context, views)
    with open_run(settings.run, settings, context, may_differ=MAY_DIFFER) as run:
        code = _train(settings, context, run, precision, network, student.to(context.device),
                      teacher.to(context.device) if teacher else None, data, views)  # fmt: skip
    data.close()
    return code


@dataclass(frozen=True)
class Data:
    labelled: ClipLoader
    reals: ClipLoader | None  # further real clips, real_ratio times as many
    validation: Validation
    held_out: ClipDataset  # what `validation` measures on
    prior: float  # forged share of all the clips of a step, on average

    @cached_property
    def familiarity(self) -> Familiarity:
        loaders = [loader for loader in (self.labelled, self.reals) if loader]
        return familiarity([loader.dataset for loader in loaders], self.held_out)

    def close(self) -> None:
        for loader in (self.labelled, self.reals):
            if loader:
                loader.close()


def _data(settings: FinetuneSettings, context: Context, views: ViewSettings) -> Data:
    stores = [Store.open(path) for path in settings.store]
    share = context.share_of(settings.batch)
    chosen = ClipDataset(stores, split="train", labels=(REAL, FORGED), methods=settings.methods,
                         leave_out=settings.leave_out)  # fmt: skip
    if set(chosen.label.tolist()) != {REAL, FORGED}:
        raise UserError(f"training needs real and forged videos; these are {chosen.summary()}")
    order = (ShuffledOrder(chosen) if settings.real_share is None else
             BalancedOrder(chosen, real_share=settings.real_share))  # fmt: skip
    ranks: dict[str, Any] = {"seed": settings.seed, "rank": context.rank, "ranks": context.world,
                             "workers": settings.workers}  # fmt: skip
    reals = None
    if settings.real_store:
        further = ClipDataset(Store.open(settings.real_store), split="train", labels=(REAL,))
        reals = make_loader(further, share * settings.real_ratio, **ranks)
    held_out = ClipDataset(stores, split="val", labels=(REAL, FORGED))
    trained = {chosen.method_names[code] for code in chosen.method[chosen.label == FORGED].tolist()}
    left_out = {name for name in held_out.method_names if name not in trained}
    return Data(make_loader(chosen, share, order=order, **ranks), reals, Validation(held_out, left_out, views),
                held_out, order.forged_share / (1 + settings.real_ratio))  # fmt: skip


@dataclass
class Best:
    """The best validation so far, and how many have not been better since."""

    value: float = -1.0
    since: int = 0

    def is_better(self, value: float) -> bool:
        better = value > self.value
        self.value, self.since = (value, 0) if better else (self.value, self.since + 1)
        return better

    def state_dict(self) -> dict[str, float | int]:
        return {"value": self.value, "since": self.since}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.value, self.since = state["value"], int(state["since"])


def _train(settings: FinetuneSettings, context: Context, run: Run, precision: Precision, network: Network,
           student: Student, teacher: Teacher | None, data: Data, views: ViewSettings) -> int:  # fmt: skip
    loader, clips = data.labelled, settings.batch * (1 + settings.real_ratio)
    steps, warmup = settings.epochs * len(loader), round(settings.warmup_epochs * len(loader))
    base_rate = schedule.learning_rate(settings.batch, base=settings.learning_rate)
    falling = partial(schedule.warmup_cosine, steps=steps)
    rate_factor = falling if settings.cosine else schedule.warmup_constant

    student = context.synchronised_norms(student)
    model = context.wrap(student)
    optimizer = AdamP(groups(Part("student", [student])), weight_decay=settings.weight_decay)
    update = Update([optimizer], precision, context, [model])
    randomness = Randomness(settings.seed, context.rank, context.device)
    randomness.start()
    best = Best()
    parts: dict[str, Stateful] = {"student": student, "optimizer": optimizer, "precision": precision, "loader": loader,
                                  "best": best}  # fmt: skip
    if data.reals:
        parts["reals"] = data.reals
    checkpoints = Checkpoints(run.checkpoints, context, randomness, plain(settings), keep=settings.keep)
    resumed = checkpoints.load(parts, settings.checkpoint)
    step = resumed.step if resumed else 0
    say = Speaker(context)
    say.beginning(run, resumed, loader.dataset.summary(), steps, len(loader))

    def validate(step: int, epoch: int, journal: Journal) -> None:
        with context.together("validation"):
            found, calibration = data.validation.measure(student.detector, precision, context, settings.workers)
        journal.record(step, epoch, found, split="val")
        better = best.is_better(found["selection"])
        say.say(report.validation_line(epoch, settings.epochs, found, better))
        with context.together(f"bundle {run.bundle}"):
            if better and context.is_main:
                save_bundle(run.bundle, _bundled(student) | {"familiarity": data.familiarity}, {
                    "stage": "finetune", **plain(settings), "backbone": plain(network), "views": plain(views),
                    "calibration": calibration.to_dict(), "familiarity": data.familiarity.sizes, "step": step,
                    "generated": loader.dataset.generated,
                    "trained_on": {"datasets": loader.dataset.dataset_names, "data": loader.dataset.fingerprint()},
                }, report.card(settings, network, loader.dataset, found, step), overwrite=True)  # fmt: skip

    def finished() -> bool:
        return step >= steps or (settings.patience is not None and best.since >= settings.patience)

    with (StopSignal(context) as stop,
          Journal(run.folder, context, step=step, steps=steps, log_every=settings.log_every) as journal):  # fmt: skip
        further = _endless(data.reals)
        while not finished():
            for labelled, reals in zip(loader, further, strict=False):
                rates = set_learning_rates(optimizer, base_rate, rate_factor(step, warmup=warmup))

                # Drawn for the global batch on every rank, which then takes its own part of it.
                draws = draw_views(views, clips, generator_for(settings.seed, step))
                draws = draws[_mine(context, settings.batch, len(labelled), len(reals) if reals else 0)]
                frames, label = _joined(labelled, reals)
                real = _real_clips(label)
                # Of all ranks' real clips each counts the same, however they are divided over the ranks.
                weight = context.world * real.counts / context.sum(real.counts.sum()).clamp(min=1)
                frames, label = frames.to(context.device, non_blocking=True), label.to(context.device)

                with update.part(0, of=1):
                    seen = make_views(views, draws, frames, teacher=False)
                    # 1. All clips: real or forged?
                    logits, prediction = model(seen.student_video, real.places.to(context.device))
                    supervised = supervised_loss(logits, label == FORGED, data.prior)
                    loss, shares = supervised, {"supervised": supervised}
                    # 2. Real clips: what does the teacher of stage 1 make of a clean view?
                    if teacher:
                        clean = teacher_video(views, draws[real.places], frames[real.places.to(frames.device)])
                        auxiliary = auxiliary_loss(prediction, teacher(clean), weight.to(context.device))
                        loss, shares = loss + settings.ssl_weight * auxiliary, {**shares, "auxiliary": auxiliary}
                    update.backward(loss, **shares)
                done = update.apply(step)

                step += 1
                journal.record(step, loader.epoch, {**done.values, "gradient_norm": done.gradient_norm,
                                                    "rate": rates["student"]}, clips=clips)  # fmt: skip
                epoch, rest = divmod(step, len(loader))
                if step == steps or (rest == 0 and epoch % settings.validate_every == 0):
                    validate(step, epoch, journal)
                stopping = stop.requested()
                if stopping or finished() or step % settings.save_every == 0:
                    journal.flush()
                    checkpoints.save(step, parts)
                if stopping:
                    return stop.exit_code
                if finished():
                    break
        journal.flush()
        with context.together("curves"):
            if context.is_main:
                report.curves({"": read_metrics(run.folder)}, run.folder / "curves.png")
    if step < steps:
        say.say(f"stopped after step {step}: {settings.patience} validations were no better")
    say.say(f"best validation AUC {best.value:.3f}")
    say.end(run)
    return 0


def _bundled(student: Student) -> dict[str, nn.Module | dict[str, nn.Module]]:
    parts: dict[str, nn.Module] = {"backbone": student.detector.backbone}
    if student.projector is not None and student.predictor is not None:
        parts |= {"projector": student.projector, "predictor": student.predictor}
    return {"video_student": parts, "classifier": student.detector.classifier}


def _endless(loader: ClipLoader | None) -> Iterator[ClipBatch | None]:
    """Epoch after epoch; or nothing, again and again."""
    while True:
        if loader is None:
            yield None
        else:
            yield from loader


def _mine(context: Context, batch: int, share: int, reals: int) -> Tensor:
    """Places of this rank's clips in the global batch: all ranks' labelled clips, then all ranks' further ones."""
    return torch.cat([context.rank * share + torch.arange(share), batch + context.rank * reals + torch.arange(reals)])


def _joined(labelled: ClipBatch, reals: ClipBatch | None) -> tuple[Tensor, Tensor]:
    if reals is None:
        return labelled.frames, labelled.label
    return torch.cat([labelled.frames, reals.frames]), torch.cat([labelled.label, reals.label])


class _Reals(NamedTuple):
    places: Tensor  # (R,) places of real clips in the batch
    counts: Tensor  # (R,) 1 for each; 0 for the stand-in where there is none


def _real_clips(label: Tensor) -> _Reals:
    """Where a rank happens to have no real clip, its first one stands in and counts nothing: the ranks' networks must
    all be run, or their gradients could not be averaged."""
    index = (label == REAL).nonzero()[:, 0]
    if len(index):
        return _Reals(index, torch.ones(len(index)))
    return _Reals(torch.zeros(1, dtype=torch.long), torch.zeros(1))
