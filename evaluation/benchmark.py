"""`crosstalk benchmark`: every video is scored, and tables and a report are made of the scores.

    RUN/scores/       what is scored so far (evaluation.scored)
    RUN/scores.csv    a line a video; RUN/clips.csv a line a clip: all numbers below come from these two
    RUN/tables/       NAME.md, .tex, .csv, .json
    RUN/results.json  the tables and what they were made of;  RUN/report.html  the same for people
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datasets.store import Store
from engine.distributed import Context, distributed
from engine.precision import Precision
from engine.report import Speaker
from engine.run import open_run
from engine.settings import load_exactly
from engine.stop import StopSignal
from evaluation import ablation, record, report, results, submission
from evaluation.detector import Detector
from evaluation.measures import Tables
from evaluation.plan import Plan, plan
from evaluation.scored import score
from evaluation.settings import MAY_DIFFER, BenchmarkSettings


def main(arguments: Sequence[str]) -> int:
    settings = load_exactly("benchmark", arguments, BenchmarkSettings)
    # On a GPU fp32 convolutions would be TF32 by default: ten bits, and no longer the same whatever the batch.
    torch.backends.cudnn.allow_tf32 = False
    with distributed(settings.device) as context:
        precision = Precision(settings.precision, context.device)
        with context.together("opening the data"):
            stores = [Store.open(path) for path in settings.stores]
        if settings.ablation is not None:
            return ablation.judge(settings, settings.ablation, stores, precision, context)
        with context.together("opening the model"):
            detectors = [Detector.load(path) for path in settings.bundles]
        if settings.submission is not None:
            return submission.judge(settings, settings.submission, detectors[0], stores, precision, context)
        return judge(settings, detectors, stores, precision, context)


def judge(settings: BenchmarkSettings, detectors: Sequence[Detector], stores: Sequence[Store], precision: Precision,
          context: Context) -> int:  # fmt: skip
    with context.together("what is to be judged"):
        made = plan(settings.protocol, detectors, stores)
    config, say = record.config_of(settings, detectors, stores), Speaker(context)
    with open_run(settings.folder, config, context, may_differ=MAY_DIFFER) as run, StopSignal(context) as stop:
        for line in (*run.notes, *results.missing(made)):
            say.attention(f"note: {line}")
        if not score(made.parts, settings.folder, precision, context, stop, batch=settings.batch,
                     workers=settings.workers):  # fmt: skip
            return stop.exit_code
        with context.together(f"report in {settings.folder}"):
            if context.is_main:
                _conclude(settings, made, detectors, stores, precision, say)
    return 0


def _conclude(settings: BenchmarkSettings, made: Plan, detectors: Sequence[Detector], stores: Sequence[Store],
              precision: Precision, say: Speaker) -> None:  # fmt: skip
    """Write the scores, read them back, and make everything else of what was read."""
    folder, protocol = settings.folder, settings.protocol
    record.write_scores(folder, made.parts, precision)
    tables = Tables.read(folder)
    found = results.results(made, protocol, tables, settings.draws, settings.seed)
    about = record.provenance(settings, detectors, stores)
    record.write_tables(folder, found.tables)
    record.write_results(folder, protocol.name, about, found.notes, found.tables)
    report.write(folder / "report.html", protocol, found, tables, about)
    for note in found.notes:
        if note not in results.missing(made):  # which was said before scoring began
            say.attention(f"note: {note}")
    for name, cell in ({one.line.name: one.auc for one in found.found} | found.means).items():
        say.say(f"{name}: AUC {results.shown(cell)} %")
    if about["generated"]:
        say.say("GENERATED data: no real person is in it, and no figure says anything about real videos")
    say.say(f"tables: {folder / 'tables'}\nreport: {folder / 'report.html'}")
