"""The door: `crosstalk <verb> ...`. A new verb is one line in engine/verbs.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.command import run
from engine.errors import Shown, UserError
from engine.verbs import VERBS, main_of

__version__ = "0.1.0"


def usage() -> str:
    width = max(map(len, VERBS))
    lines = ["crosstalk finds forged talking faces.", "", "usage: crosstalk VERB key=value ...",
             "       crosstalk detect VIDEO ... --model BUNDLE", ""]  # fmt: skip
    lines += [f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items()]
    lines += ["", "crosstalk VERB --help explains a verb's settings; crosstalk --version prints the version."]
    return "\n".join(lines)


def show(texts: Sequence[str]) -> int:
    raise Shown("\n".join(texts))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if len(arguments) == 2 and arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return run("help", show, [usage()])
    if arguments[0] in ("-V", "--version", "version"):
        return run("version", show, [f"crosstalk {__version__}"])
    verb, *rest = arguments
    try:
        verb_main = main_of(verb)
    except UserError as error:
        print(f"crosstalk: {error}", file=sys.stderr)
        return 2
    return run(verb, verb_main, rest)


if __name__ == "__main__":
    sys.exit(main())
