"""`crosstalk pretrain`: the training loop of stage 1, to be read beside the paper (ssl_pretrain/model.py names it)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from backbones import create
from datasets.clips import ClipDataset
from datasets.loaders import ClipLoader, make_loader
from datasets.records import REAL
from datasets.store import Store
from datasets.views import draw_views, make_views
from engine import schedule
from engine.bundle import save_bundle
from engine.checkpoint import Checkpoints, Stateful
from engine.distributed import Context, distributed
from engine.errors import UserError
from engine.journal import Journal, read_metrics
from engine.optim import AdamP, Part, groups, set_learning_rates
from engine.precision import Precision
from engine.randomness import Randomness, generator_for, seed_all
from engine.report import Speaker
from engine.run import Run, open_run, plain
from engine.settings import load_exactly
from engine.stop import StopSignal
from engine.update import Update
from ssl_pretrain import report
from ssl_pretrain.model import Students, Teachers, agreement_loss, centred, parts_of
from ssl_pretrain.monitor import Clips, Probes, Validation, Window, chance_level_warnings, training_measures
from ssl_pretrain.settings import MAY_DIFFER, PretrainSettings


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("pretrain", arguments, PretrainSettings)
    with distributed(settings.device) as context:
        return train(settings, context)


def train(settings: PretrainSettings, context: Context) -> int:
    # What can be wrong is found before the run folder is touched.
    precision = Precision(settings.precision, context.device)
    share = context.share_of(settings.batch, settings.accumulate)
    if settings.teacher == "student_with_gradient" and context.world > 1:
        raise UserError("teacher=student_with_gradient only shows what collapse is, in one process")
    with context.together("opening the data"):
        stores = [Store.open(path) for path in settings.store]
        data = ClipDataset(stores, split="train", labels=(REAL,), sound=True)
        loader = make_loader(data, share, seed=settings.seed, rank=context.rank, ranks=context.world,
                             workers=settings.workers)  # fmt: skip
        validation = None
        if settings.validation_split:
            held_out = ClipDataset(stores, split=settings.validation_split, labels=(REAL,), sound=True)
            validation = Validation(Clips(held_out, settings.views, settings.validation_clips),
                                    Clips(data, settings.views, settings.probe_clips, with_words=True))  # fmt: skip
    seed_all(settings.seed)
    students = Students(settings.backbone.built(create, recompute=settings.recompute),
                        settings.audio_backbone.built(create)).to(context.device)  # fmt: skip
    with open_run(settings.run, settings, context, may_differ=MAY_DIFFER) as run:
        code = _train(settings, context, run, precision, share, students, loader, validation)
    loader.close()
    return code


def _train(settings: PretrainSettings, context: Context, run: Run, precision: Precision, share: int,
           students: Students, loader: ClipLoader, validation: Validation | None) -> int:  # fmt: skip
    data, steps = loader.dataset, settings.epochs * len(loader)
    warmup = round(settings.warmup_epochs * len(loader))
    base_rate = schedule.learning_rate(settings.batch, base=settings.learning_rate)
    first_momentum = schedule.teacher_momentum(settings.batch, base=settings.teacher_momentum)
    targets = centred if settings.centred_targets else _as_they_are

    students = context.synchronised_norms(students)
    teachers = Teachers(students)
    model = context.wrap(students)
    look = students.embeddings if settings.teacher == "student_with_gradient" else teachers
    probes = Probes(students, len(data.word_names), context).to(context.device) if data.word_names else None
    optimizer = AdamP(groups(
        Part("encoders", [students.video.encoder, students.audio.encoder]),
        Part("predictors", [students.video.predictor, students.audio.predictor], scale=settings.predictor_rate,
             constant=True),
    ), weight_decay=settings.weight_decay)  # fmt: skip
    update = Update([optimizer], precision, context, [model])

    randomness = Randomness(settings.seed, context.rank, context.device)
    randomness.start()
    parts: dict[str, Stateful] = {"students": students, "teachers": teachers, "optimizer": optimizer,
                                  "precision": precision, "loader": loader}  # fmt: skip
    if probes:
        parts |= {"probes": probes, "probe_optimizer": probes.optimizer}
    checkpoints = Checkpoints(run.checkpoints, context, randomness, plain(settings), keep=settings.keep)
    resumed = checkpoints.load(parts, settings.checkpoint)
    step = resumed.step if resumed else 0
    say = Speaker(context)
    say.beginning(run, resumed, data.summary(), steps, len(loader))
    window = Window()

    def validate(step: int, epoch: int, journal: Journal) -> None:
        if validation is None or settings.validation_split is None:
            return
        with context.together("validation"):
            found = validation.measure(students, teachers, precision, targets)
        journal.record(step, epoch, found, split=settings.validation_split)
        say.say(report.validation_line(epoch, settings.epochs, found))

    with (StopSignal(context) as stop,
          Journal(run.folder, context, step=step, steps=steps, log_every=settings.log_every) as journal):  # fmt: skip
        if step == 0:
            validate(0, 0, journal)  # what chance looks like
        while step < steps:
            for batch in loader:
                factor = schedule.warmup_cosine(step, warmup=warmup, steps=steps)
                rates = set_learning_rates(optimizer, base_rate, factor)
                momentum = first_momentum
                if settings.teacher != "momentum":
                    momentum = 0.0
                elif settings.momentum_ramp:
                    momentum = schedule.momentum_to_one(step, start=first_momentum, steps=steps)
                masked = schedule.masked_share(step, steps=steps, begin=settings.mask_begin, share=settings.mask_share)

                # Drawn for the global batch on every rank, which then takes its own part of it.
                draws = draw_views(settings.views, settings.batch, generator_for(settings.seed, step),
                                   mask_probability=masked, mask_strength=float(masked > 0))  # fmt: skip
                draws = draws[context.rank * share : (context.rank + 1) * share]
                batch = batch.to(context.device)
                assert batch.sound is not None  # clips without were not asked for
                for number in range(settings.accumulate):
                    part = slice(number * share // settings.accumulate, (number + 1) * share // settings.accumulate)
                    views = make_views(settings.views, draws[part], batch.frames[part], batch.sound[part])
                    assert views.teacher_video is not None and views.teacher_log_mel is not None
                    assert views.student_log_mel is not None
                    with update.part(number, of=settings.accumulate):
                        # 1. The teachers look at clean views,
                        video, audio = look(views.teacher_video, views.teacher_log_mel)
                        video_target, audio_target = targets(video), targets(audio)
                        # 2. the students at masked ones, and each predicts the other modality's teacher;
                        seen, heard = model(views.student_video, views.student_log_mel)
                        video_to_audio = agreement_loss(seen.prediction, audio_target)
                        audio_to_video = agreement_loss(heard.prediction, video_target)
                        update.backward(video_to_audio + audio_to_video, video_to_audio=video_to_audio,
                                        audio_to_video=audio_to_video)  # fmt: skip
                    words = probes.learn(seen.features, heard.features, batch.word[part]) if probes else {}
                # 3. the students follow the gradient, the teachers follow the students.
                done = update.apply(step)
                teachers.follow(students, momentum)

                step += 1
                measures = training_measures(seen.prediction, heard.prediction, video_target, audio_target)
                window.add({"loss": done.values["loss"], **measures})
                journal.record(step, loader.epoch, {
                    **done.values, **measures, **words, "gradient_norm": done.gradient_norm, "masked_share": masked,
                    "teacher_momentum": momentum, **{f"rate_{name}": rate for name, rate in rates.items()},
                }, clips=settings.batch)  # fmt: skip

                epoch, rest = divmod(step, len(loader))
                if rest == 0:
                    for warning in chance_level_warnings(*window.take(), gallery=len(seen.prediction)):
                        say.attention(f"warning: step {step}: {warning}")
                if rest == 0 and (epoch % settings.validate_every == 0 or step == steps):
                    validate(step, epoch, journal)
                stopping = stop.requested()
                if stopping or step % settings.save_every == 0 or step == steps:
                    journal.flush()
                    checkpoints.save(step, parts)
                if stopping:
                    return stop.exit_code
                if step == steps:
                    break
        journal.flush()
        with context.together(f"bundle {run.bundle}"):
            if context.is_main:
                _finish(settings, run, loader.dataset, students, teachers)
    say.end(run)
    return 0


def _finish(settings: PretrainSettings, run: Run, data: ClipDataset, students: Students, teachers: Teachers) -> None:
    lines = read_metrics(run.folder)
    save_bundle(run.bundle, {
        "video_student": students.video.parts, "video_teacher": parts_of(teachers.video),
        "audio_student": students.audio.parts, "audio_teacher": parts_of(teachers.audio),
    }, {
        "stage": "pretrain", **plain(settings), "views": plain(settings.views), "generated": data.generated,
    }, report.card(settings, data, lines), overwrite=True)  # fmt: skip
    report.curves({"": lines}, run.folder / "curves.png")


def _as_they_are(target: Tensor) -> Tensor:
    return target
