"""The door: `crosstalk <verb> ...`."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from engine.errors import UserError

__version__ = "0.1.0"

# verb: (module with `main(arguments) -> exit code`, what it does)
VERBS = {
    "demo": ("demo", "generate, prepare and inspect the embedded corpus"),
    "synthesize": ("datasets.synthetic.command", "write the embedded corpus in the real datasets' own layouts"),
    "prepare": ("datasets.prepare", "face crops and sound of one dataset, from its videos to a store"),
    "inspect": ("datasets.inspection", "what is in a store: counts, what was skipped and why, a contact sheet"),
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = ["crosstalk finds forged talking faces.", "", "usage: crosstalk VERB key=value ...", ""]
    lines += [f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items()]
    lines += ["", "crosstalk VERB --help explains a verb's settings; crosstalk --version prints the version."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        print(f"crosstalk {__version__}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(VERBS)}"
        print(f"crosstalk: unknown verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(VERBS[verb][0]).main(rest)
    except UserError as error:
        print(f"crosstalk {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"crosstalk {verb}: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
