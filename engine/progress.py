"""Progress of long work: a bar on a terminal, now and then a plain line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """`with Bar("preparing", total) as bar: bar.advance(note="12 skipped")`. Goes to stderr; stdout is for results.

    Where the total is found out later, `bar.reach(done, total)` says it. Work that goes on after an interruption begins
    with what is `done` already, which does not count towards the speed.
    """

    LINE_EVERY_SECONDS = 30

    def __init__(self, title: str, total: int | None = None, *, unit: str = "videos", done: int = 0):
        self._title, self._total, self._unit = title, total, unit
        self._done, self._note, self._done_before = done, "", done
        self._began = self._said = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=self._total, completed=self._done, note="")
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.reach(self._done + count, self._total, note)

    def reach(self, done: int, total: int | None, note: str = "") -> None:
        self._done, self._total, self._note = done, total, note
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
        elif time.monotonic() - self._said > self.LINE_EVERY_SECONDS:
            self._line()

    def _line(self) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._began
        left = seconds / max(self._done - self._done_before, 1) * ((self._total or self._done) - self._done)
        note = f", {self._note}" if self._note else ""
        print(f"{self._title}: {self._done} of {self._total} {self._unit} in {seconds:.0f} s, "
              f"about {left:.0f} s left{note}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
