"""One way for every verb to end: exit codes and single lines, the same from `crosstalk VERB` and `python -m`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from engine.errors import Shown, UserError


def run(verb: str, main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Call a verb's `main`; returns the exit code. A traceback means a bug of ours."""
    try:
        try:
            code = main(arguments)
            sys.stdout.flush()  # here, where it may fail
            return code
        except Shown as shown:
            print(shown, flush=True)
            return 0
    except UserError as error:
        print(f"crosstalk {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"crosstalk {verb}: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
