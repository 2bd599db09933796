"""`crosstalk detect VIDEO ... --model BUNDLE`: a verdict on each video, in words on stderr and as JSON on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from datasets.catalogs.folder import SUFFIXES, videos_below
from engine.distributed import distributed
from engine.errors import UserError, from_setting
from engine.files import said_plainly, write_atomically
from engine.progress import Bar
from engine.stop import StopSignal
from evaluation.detector import Detector
from evaluation.verdict import overlay, report
from evaluation.verdict.flags import parser
from evaluation.verdict.heat import heat, temporal_attention
from evaluation.verdict.judge import Progress, Settings, judge
from evaluation.verdict.judgement import Judgement
from evaluation.verdict.lipreader import LipReader
from evaluation.verdict.moments import moments
from evaluation.verdict.output import as_csv, as_dict, as_text, plain
from evaluation.verdict.rules import unreadable

TOLD, UNREADABLE, CANNOT_TELL = 0, 2, 3


def main(arguments: Sequence[str]) -> int:
    options = parser().parsed(arguments)
    if options.csv is not None and not options.csv.absolute().parent.is_dir():
        raise UserError(f"--csv {plain(options.csv)}: there is no such folder")
    torch.backends.cudnn.allow_tf32 = False  # on a GPU: fp32 is fp32, as in benchmarks
    with distributed(options.device) as context:
        with from_setting("--model"):
            detector = Detector.load(options.model, context.device)
        with from_setting("--sound"):
            reader = None if options.sound is None else LipReader.load(options.sound, context.device)
        judgements = []
        with StopSignal(context, StopSignal.AT_A_TERMINAL) as stop:
            for video, trouble in _listed(options.videos):
                judgement = unreadable(video, trouble) if trouble else _judged(detector, reader, video, options, stop)
                judgements.append(judgement)
                _tell(judgement, detector, options)
                if judgement.frames:
                    _draw(judgement, detector, options)
                if stop.requested():
                    break
    if options.csv is not None:
        with said_plainly(f"--csv {plain(options.csv)}"):
            write_atomically(options.csv, as_csv(judgements))
    return stop.exit_code or _exit_code(judgements)


def _judged(detector: Detector, reader: LipReader | None, video: Path, options: argparse.Namespace,
            stop: StopSignal) -> Judgement:  # fmt: skip
    settings = Settings(options.stride, options.frames, options.smallest_face, options.batch, options.precision)
    with Bar(plain(video.name), unit="frames") as bar:
        return judge(detector, video, settings, reader=reader, stop=lambda: stop.number != 0,
                     progress=lambda now: bar.reach(now.frames, now.expected, _so_far(now)))  # fmt: skip


def _so_far(now: Progress) -> str:
    found = now.so_far()
    if found.familiar is False:
        return "so far a face that this model does not know"
    return f"so far {found.verdict}" + ("" if found.probability is None else f" ({100 * found.probability:.0f} %)")


def _tell(judgement: Judgement, detector: Detector, options: argparse.Namespace) -> None:
    print(as_text(judgement), file=sys.stderr, flush=True)
    if options.json or not sys.stdout.isatty():
        print(json.dumps(as_dict(judgement) | {"model": str(detector.bundle), "digest": detector.digest}), flush=True)


def _draw(judgement: Judgement, detector: Detector, options: argparse.Namespace) -> None:
    """The report and the video with its heat maps, where they are asked for: a second look at the file each."""
    explain = partial(heat, detector)
    if options.report is not None:
        with Bar("report", unit="pictures") as bar:
            found = moments(judgement, explain, partial(temporal_attention, detector), progress=bar.reach)
        report.write(options.report, judgement, detector, found)
        print(f"report: {plain(options.report)}", file=sys.stderr, flush=True)
    if options.overlay is not None:
        with Bar("overlay", judgement.frames, unit="frames") as bar:
            notes = overlay.write(options.overlay, judgement, detector.calibration, explain, bar.reach)
        for line in (*notes, f"overlay: {plain(options.overlay)}"):
            print(line, file=sys.stderr, flush=True)


def _exit_code(judgements: Iterable[Judgement]) -> int:
    codes = {UNREADABLE if not found.frames else CANNOT_TELL if found.verdict == "cannot tell" else TOLD
             for found in judgements}  # fmt: skip
    return next(code for code in (UNREADABLE, CANNOT_TELL, TOLD) if code in codes)


def _listed(given: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Every file once, in the order given, with what is wrong with it, if anything is."""
    known: set[Path] = set()
    for path in given:
        for video, trouble in _below(path) if path.is_dir() else [(path, None)]:
            if video not in known:
                known.add(video)
                yield video, trouble


def _below(folder: Path) -> Iterator[tuple[Path, str | None]]:
    empty = True
    try:
        for found in videos_below(folder):
            empty = False
            yield found
    except UserError as error:  # a folder that may not be looked into
        yield folder, str(error)
        return
    if empty:
        yield folder, f"no videos anywhere below it: looked for {', '.join(SUFFIXES)}"
