"""What runs on the nodes: one verb, in each process of the job, under submitit's protocol for signals.

submitit has a handler for the warning signal (USR2, sent before the time limit): it calls `checkpoint` on rank 0 and
requeues the job. While a verb trains it notes signals itself (engine/stop.py), so that all ranks save the same step;
it then returns 128 + the signal's number, and the signal is handed on to submitit's handler from here. A verb without
such a loop (prepare, whose journal can be cut off anywhere) is interrupted by the handler directly.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable, DelayedSubmission

from engine.errors import UserError
from engine.run import PROJECT, code_revision
from engine.stop import StopSignal
from engine.verbs import main_of

STOPPED = {128 + number: number for number in StopSignal.SIGNALS}


class VerbJob(Checkpointable):
    """A verb and its arguments. `code` is the folder of the copy to be run, none for the project itself."""

    def __init__(self, verb: str, arguments: Sequence[str], code: Path | None, requeues: int):
        self.verb, self.arguments = verb, tuple(arguments)
        self.code, self.requeues = code, requeues
        self.times_requeued = 0  # SLURM counts, too; nobody else does for cluster=local

    def __call__(self) -> int:
        environment = submitit.JobEnvironment()
        # Compared as files: a disk may have another name on the node than where the job was submitted.
        if self.code is not None and not (self.code.exists() and self.code.samefile(PROJECT)):
            raise UserError(f"this job was to run the code in {self.code}, but Python found {PROJECT}: is PYTHONPATH "
                            "set by a set-up command, or is the folder not shared with the node?")  # fmt: skip
        if environment.global_rank == 0:
            again = f", requeued {self._restarts()} of at most {self.requeues} times" if self._restarts() else ""
            print(f"job {environment.job_id}{again}: crosstalk {self.verb} {shlex.join(self.arguments)}\n"
                  f"code: {code_revision()}, in {PROJECT}; {environment.num_tasks} processes on "
                  f"{environment.num_nodes} nodes", flush=True)  # fmt: skip
        code = main_of(self.verb)(self.arguments)
        if code in STOPPED:
            self._leave(environment, STOPPED[code])
        if code:
            raise UserError(f"crosstalk {self.verb} ended with exit code {code}; its output says why")
        return 0

    def _leave(self, environment: submitit.JobEnvironment, number: int) -> None:
        """The run has saved because of a signal. Never returns."""
        ending = number == signal.SIGTERM and environment.global_rank == 0 and not _goes_on(environment)
        if ending or environment.cluster == "debug":
            raise SystemExit(128 + number)
        # Rank 0: submitit's handler, which asks `checkpoint`, requeues and ends the process. On others it does nothing.
        signal.raise_signal(getattr(signal, f"SIG{environment.USR_SIG}"))
        raise SystemExit(0)

    def checkpoint(self) -> DelayedSubmission:
        """Asked by submitit on rank 0: what shall run when the job comes back."""
        if self._restarts() >= self.requeues:
            raise UserError(f"stopped before the end and not requeued: that was done {self._restarts()} times "
                            f"(requeues={self.requeues}); the same command, submitted again, continues")  # fmt: skip
        self.times_requeued += 1
        return DelayedSubmission(self)

    def _restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT", self.times_requeued))


def _goes_on(environment: submitit.JobEnvironment) -> bool:
    """After SIGTERM: does the scheduler still count the job as running?

    It does when SIGTERM announces that the job will be preempted after a time of grace; ending by itself then would
    count as failing. It does not when the job was cancelled, or is being requeued by somebody else.
    """
    if environment.cluster != "slurm":
        return False
    state = subprocess.run(["squeue", "--noheader", "--format=%T", f"--jobs={environment.job_id}"], capture_output=True,
                           text=True, timeout=60)  # fmt: skip
    return state.stdout.strip() == "RUNNING"
