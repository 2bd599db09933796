"""The door: `crosstalk <verb> ...`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from engine.command import run

__version__ = "0.1.0"

# verb: (module with `main(arguments) -> exit code`, what it does)
VERBS = {
    "demo": ("demo", "generate, prepare and inspect the embedded corpus"),
    "synthesize": ("datasets.synthetic.command", "write the embedded corpus in the real datasets' own layouts"),
    "prepare": ("datasets.prepare", "face crops and sound of one dataset, from its videos to a store"),
    "inspect": ("datasets.inspection", "what is in a store: counts, what was skipped and why, a contact sheet"),
    "pretrain": ("ssl_pretrain.train", "stage 1: learn from real clips how faces and voices move together"),
    "import": ("evaluation.published", "a published checkpoint of the original CSN work, as a bundle"),
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
    return run(verb, importlib.import_module(VERBS[verb][0]).main, rest)


if __name__ == "__main__":
    sys.exit(main())
