"""Asked to stop: finish the step, save, leave. SLURM sends SIGTERM, or what `--signal` names, before it kills."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from engine.distributed import Context


class StopSignal:
    """Within `with StopSignal(context) as stop:` SIGTERM, SIGUSR1 and SIGUSR2 only set a flag.

    The loop asks `stop.requested()` after each step, on all ranks together: a signal that reached one rank stops all.
    Then it saves and ends with `stop.exit_code`, 128 + the signal's number as shells have it: 143 for SIGTERM, 138 for
    SIGUSR1, 140 for SIGUSR2. On leaving, the handlers from before are back; `signal.raise_signal(stop.number)` then
    gives the signal to them, which is how submitit's own handler comes to requeue the job.

    `AT_A_TERMINAL` is for work whose result so far is worth having: Ctrl-C sets the flag as well, the second one
    raises KeyboardInterrupt.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    AT_A_TERMINAL = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, context: Context, signals: Sequence[signal.Signals] = SIGNALS):
        self._context, self._signals = context, signals
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def requested(self) -> bool:
        self.number = self._context.highest(self.number)
        return bool(self.number)

    @property
    def exit_code(self) -> int:
        return 128 + self.number if self.number else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
