"""Kaggle's form: `filename,label`, a probability for every video of a store without labels."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.clips import ClipDataset
from datasets.store import Store, read_skipped
from engine.calibration import Calibration
from engine.distributed import Context
from engine.errors import UserError
from engine.files import write_atomically
from engine.precision import Precision
from engine.report import Speaker
from engine.run import open_run
from engine.stop import StopSignal
from evaluation import record
from evaluation.detector import Detector
from evaluation.plan import Part, dataset_of
from evaluation.scored import SCORED, results, score
from evaluation.settings import MAY_DIFFER, BenchmarkSettings

UNKNOWN = 0.5  # of a video in which no face was found, or too short a one


def judge(settings: BenchmarkSettings, path: Path, detector: Detector, stores: Sequence[Store], precision: Precision,
          context: Context) -> int:  # fmt: skip
    """`path`: where the table goes."""
    say = Speaker(context)
    folder = settings.run or path.with_name(f"{path.name}.run")
    with context.together("what is to be judged"):
        if len(stores) != 1:
            raise UserError(f"submission={path} takes one store, not {len(stores)}")
        names = file_names(stores[0])
        part = Part(dataset_of(stores[0]), detector, ClipDataset(stores[0]))
    config = record.config_of(settings, [detector], stores)
    with open_run(folder, config, context, may_differ=(*MAY_DIFFER, "submission")) as run, StopSignal(context) as stop:
        for note in run.notes:
            say.attention(f"note: {note}")
        if not score([part], folder, precision, context, stop, batch=settings.batch, workers=settings.workers):
            return stop.exit_code
        with context.together(f"writing {path}"):
            if context.is_main:
                record.write_scores(folder, [part], precision)
                rows, _ = results(part, folder / SCORED, precision)
                logits = {row.video: row.logit for row in rows if row.logit is not None}
                write(path, names, logits, detector.calibration, settings.submission_clip)
                say.say(f"{path}: {len(names)} videos, {len(names) - len(logits)} of them without a face to look at "
                        f"({UNKNOWN})\nscores: {folder / 'scores.csv'}")  # fmt: skip
                if detector.calibration is None:
                    say.attention(f"note: {detector.bundle} is not calibrated: 0.5 stands for a logit of 0")
    return 0


def write(path: Path, names: dict[str, str], logits: dict[str, float], calibration: Calibration | None,
          clip: float) -> None:  # fmt: skip
    """`names` are the file names by video, those that have no logit among them."""
    calibration = calibration or Calibration()
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("filename", "label"))
    for video, name in sorted(names.items(), key=lambda item: item[1]):
        value = float(calibration.probability(logits[video])) if video in logits else UNKNOWN
        writer.writerow((name, repr(float(np.clip(value, clip, 1 - clip)))))
    write_atomically(path, table.getvalue().encode("utf-8", "surrogateescape"))


def file_names(store: Store) -> dict[str, str]:
    """video -> file name, of all videos that were to be prepared: those in the store and those that were skipped.

    A video's name is its path in the data set; as two folders may hold files of the same name, the path stays then.
    """
    videos = dict.fromkeys([*map(str, store.table.videos), *(video for video, _ in read_skipped(store.root))])
    paths = {video: video.split("/", 1)[-1] for video in videos}
    often = Counter(Path(path).name for path in paths.values())
    if max(often.values(), default=0) > 1:
        return paths
    return {video: Path(path).name for video, path in paths.items()}
