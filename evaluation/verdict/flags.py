"""The command line of `crosstalk detect`: the one verb with ordinary flags, since it is the one for everybody."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from engine.errors import Shown, UserError
from engine.precision import Kind
from evaluation.verdict.judge import Settings
from evaluation.verdict.output import plain
from evaluation.verdict.rules import IN_SIGHT, INSIDE

USAGE = "crosstalk detect VIDEO ... --model BUNDLE [--report FILE.html] [--csv FILE] [--stride N] ..."
EXPLAINED = f"""\
Is a face in this video forged? Every face is followed, cut out and judged, a second at a time.

  crosstalk detect clip.mp4 --model runs/finetune/bundle
  crosstalk detect clip.mp4 another.mov folder/ --model runs/finetune/bundle --csv verdicts.csv
  crosstalk detect clip.mp4 --model runs/finetune/bundle --sound runs/pretrain/bundle --report clip.html

The verdict is "real", "forged" or "cannot tell", with the reason. A face is forged where the mean score of its windows
reaches the threshold that the model was calibrated with, and a video if one of its faces is. The probability is that of
the most suspicious face; it is 50 % at the threshold, for a video about which nothing was known beforehand. A score is
evidence to be weighed, not proof.

Nothing is told of: a file that is no video; no face; no face for an unbroken second; a face that is too small, or of
which less than {INSIDE:.0%} lies inside the picture; and "real" is not said of a video in which faces can be judged for
less than {IN_SIGHT:.0%} of the time.
"""
AFTERWARDS = """\
output
  stdout: a JSON object for each video, one a line, as it is finished; to a terminal only with --json.
  stderr: the verdicts in words, and progress.
  Ctrl-C: reading ends, and what is known by then is told; the next Ctrl-C ends at once.

exit code
  0 something is told of every video, 3 nothing could be told of some, 2 some could not be read or the command is wrong,
  130 after Ctrl-C, 143 after SIGTERM

in Python
  from evaluation import Detector
  detector = Detector.load("runs/finetune/bundle")
  print(detector.score("clip.mp4").verdict)
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what would be right."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see: crosstalk detect --help")

    def parsed(self, arguments: Sequence[str]) -> argparse.Namespace:
        flags = [flag for action in self._actions for flag in action.option_strings]
        if {"-h", "--help", "help"} & set(arguments):
            raise Shown(self.format_help().rstrip())
        options, unknown = self.parse_known_intermixed_args(arguments)
        for word in sorted(unknown, key=lambda word: not word.startswith("-")):
            flag = word.split("=")[0]
            near = difflib.get_close_matches(flag, flags, n=1)
            raise UserError(f"unknown flag {flag}; {f'did you mean {near[0]}?' if near else _known(flags)}")
        for word in map(str, options.videos):
            key, _, value = word.partition("=")
            if f"--{key}" in flags and not Path(word).exists():
                raise UserError(f"{word}: detect has flags; write --{key} {value}")
        if options.model is None:
            raise UserError("--model BUNDLE is missing: a folder that crosstalk finetune or crosstalk import wrote")
        if not options.videos:
            raise UserError("name a video file, several, or a folder: crosstalk detect VIDEO ... --model BUNDLE")
        for flag, suffix in (("--report", ".html"), ("--overlay", ".mp4")):
            self._one_output(flag, suffix, getattr(options, flag[2:]), options.videos)
        return options

    def _one_output(self, flag: str, suffix: str, target: Path | None, videos: Sequence[Path]) -> None:
        if target is None:
            return
        if len(videos) > 1 or videos[0].is_dir():
            raise UserError(f"{flag} is of one video; give one file, or call detect once for each")
        if target.suffix.lower() != suffix:
            raise UserError(f"{flag} {plain(target)}: its name must end in {suffix}")
        if not target.absolute().parent.is_dir():
            raise UserError(f"{flag} {plain(target)}: there is no such folder")
        if target.exists() and target.samefile(videos[0]):
            raise UserError(f"{flag} {plain(target)}: that is the video itself")


def parser() -> Parser:
    made = Parser(prog="crosstalk detect", usage=USAGE, description=EXPLAINED, epilog=AFTERWARDS, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add, default = made.add_argument, Settings()
    add("videos", nargs="*", type=Path, metavar="VIDEO", help="video files, or folders of them at any depth")
    add("--model", type=Path, metavar="BUNDLE", help="a bundle of stage 2, from crosstalk finetune or crosstalk import")
    add("--sound", type=Path, metavar="BUNDLE",
        help="a bundle of stage 1, to tell whether lips and sound belong together, and by how much they are shifted")
    add("--json", action="store_true", help="JSON on stdout even to a terminal")
    add("--csv", type=Path, metavar="FILE", help="a table with a row for each person, written at the end")
    add("--report", type=Path, metavar="FILE.html",
        help="a page about one video: the verdict in plain words, a timeline to click, its moments")  # fmt: skip
    add("--overlay", type=Path, metavar="FILE.mp4",
        help="the video itself with boxes, scores and heat maps, and its own sound")  # fmt: skip
    add("--stride", type=whole, default=default.stride, metavar="N",
        help="frames from one window to the next (%(default)s, as in benchmarks; 5 looks closer, in 5 times the time)")
    add("--frames", type=whole, metavar="N",
        help="look at the first N frames only; 110 is what benchmarks take of FaceForensics++")  # fmt: skip
    add("--smallest-face", type=whole, default=round(default.smallest_face), metavar="PIXELS",
        help="of smaller faces nothing is told (%(default)s)")  # fmt: skip
    add("--batch", type=whole, default=default.batch, metavar="N",
        help="windows at a time (%(default)s); changes no score")  # fmt: skip
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    add("--precision", choices=get_args(Kind), default=default.precision,
        help="fp32 as benchmarks; bf16 and fp16 (GPU only) are quicker but move a score by hundredths")  # fmt: skip
    return made


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, not {text!r}")
    return int(text)


def _known(flags: Sequence[str]) -> str:
    return f"known are {', '.join(flag for flag in flags if flag.startswith('--'))}"


