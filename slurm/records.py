"""What was submitted, and what became of it: submission.json beside submitit's own files, and three sources of states.

    TARGET.jobs/1/          the first submission for this target
        submission.json     verb, code, and of each job its id, arguments and run folder
        code/               the copy of the code that its jobs run
        ID_submission.sh, ID_submitted.pkl, ID_RANK_log.out, ID_RANK_log.err, ID_RANK_result.pkl     submitit's

A state is asked of the queue first, then of the results that submitit writes, then of the queue's memory of ended jobs
(a few minutes) and of SLURM's accounting, if there is any.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import pickle_load

from engine.errors import UserError
from engine.files import write_atomically
from slurm.sweep import Combination

LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
        "SIGNALING", "STAGE_OUT", "STOPPED"}  # fmt: skip
FILE = "submission.json"


@dataclass(frozen=True)
class State:
    name: str
    is_live: bool = False
    reason: str = ""  # why it waits
    error: str = ""  # the line that says what went wrong


@dataclass(frozen=True)
class Record:
    """One job of a submission."""

    id: str
    arguments: tuple[str, ...]
    swept: Mapping[str, str]
    target: str | None
    tasks: int

    @property
    def title(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.swept.items()) or (self.target or "")


@dataclass
class Submission:
    folder: Path
    verb: str
    executor: str
    code: str
    when: str
    jobs: list[Record]

    @classmethod
    def new(cls, folder: Path, verb: str, executor: str, code: str) -> Submission:
        return cls(folder, verb, executor, code, datetime.now().astimezone().isoformat(" ", "seconds"), [])

    @classmethod
    def read(cls, folder: Path) -> Submission:
        path = folder / FILE
        try:
            facts = json.loads(path.read_text())
            jobs = [Record(**job | {"arguments": tuple(job["arguments"])}) for job in facts.pop("jobs")]
            return cls(folder=folder, jobs=jobs, **facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error

    def add(self, jobs: Sequence[submitit.Job], combinations: Sequence[Combination]) -> list[Record]:
        """On the disk afterwards."""
        new = []
        for job, one in zip(jobs, combinations, strict=True):
            target = one.target(self.verb)
            place = str(target.absolute()) if target else None
            new.append(Record(job.job_id, one.arguments, one.swept, place, job.num_tasks))
        self.jobs += new
        facts: dict[str, Any] = asdict(self) | {"jobs": [asdict(record) for record in self.jobs]}
        del facts["folder"]
        write_atomically(self.folder / FILE, json.dumps(facts, indent=1))
        return new

    def job(self, record: Record) -> submitit.Job:
        kind = submitit.SlurmJob if self.executor == "slurm" else submitit.LocalJob
        return kind(self.folder, record.id, tasks=list(range(record.tasks)))

    def state(self, record: Record) -> State:
        if self.executor == "slurm":
            name, reason = _queue().get(record.id, ("", ""))
            if name in LIVE:
                return State(_words(name), True, reason if name == "PENDING" else "")
        elif _is_running(record.id, self.folder):
            return State("running", True)
        else:
            name = ""
        results = [self._result(record, rank) for rank in range(record.tasks)]
        errors = [text for outcome, text in filter(None, results) if outcome == "error"]
        if errors:  # the rank that says why comes before those that only heard of it
            return State("failed", error=min((_last_line(text) for text in errors), key=_is_hearsay))
        if results[0]:
            return State("done")
        if self.executor == "slurm" and name in ("", "COMPLETED"):
            name = _accounting(record.id) or name
        if name:
            return State(_words(name))
        if self.executor == "local":
            return State("stopped")
        return State("gone", error="it left neither a result nor a trace in SLURM")

    def _result(self, record: Record, rank: int) -> tuple[str, Any] | None:
        path = submitit.core.utils.JobPaths(self.folder, record.id, rank).result_pickle
        return pickle_load(path) if path.exists() else None

    def log(self, record: Record, lines: int) -> tuple[Path, list[str]]:
        """The last lines of what rank 0 (or else the first that says more) wrote to its error log."""
        paths = [submitit.core.utils.JobPaths(self.folder, record.id, rank).stderr for rank in range(record.tasks)]
        written = {path: path.read_text(errors="replace").splitlines() for path in paths if path.exists()}
        for path, said in written.items():
            # What srun and slurmstepd say of every failure is not its reason.
            own = [line for line in said if not line.startswith(("srun: ", "slurmstepd"))]
            if own:
                return path, own[-lines:]
        return next(((path, said[-lines:]) for path, said in written.items() if said), (paths[0], []))

    def cancel(self, record: Record) -> None:
        if self.executor == "slurm":
            self.job(record).cancel()
        else:
            os.kill(int(record.id), signal.SIGTERM)


def folder_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.jobs")


def submissions(place: Path) -> list[Submission]:
    """Of a target, of its .jobs folder, or the one of a submission's own folder; oldest first."""
    if (place / FILE).exists():
        return [Submission.read(place)]
    for home in (place, folder_of(place.absolute())):
        found = sorted((path.parent for path in home.glob(f"*/{FILE}")), key=lambda path: (len(path.name), path.name))
        if found:
            return [Submission.read(folder) for folder in found]
    return []


# ---------------------------------------------------------------------------------------------- whom to ask

@functools.cache
def _queue() -> dict[str, tuple[str, str]]:
    """Job -> state and reason, of all that SLURM still has in mind; arrays one by one."""
    try:
        answer = subprocess.run(["squeue", f"--user={getpass.getuser()}", "--states=all", "--array", "--noheader",
                                 "--format=%i|%T|%r"], capture_output=True, text=True, timeout=120)  # fmt: skip
    except FileNotFoundError as error:
        raise UserError("no squeue on this machine: ask on a login node of the cluster") from error
    if answer.returncode:
        raise UserError(f"SLURM does not answer: {answer.stderr.strip().splitlines()[-1]}")
    return {job: (state, reason) for job, state, reason in (line.split("|", 2) for line in answer.stdout.splitlines())}


def _accounting(job: str) -> str:
    """What sacct remembers of a job; nothing where accounting is off, which is no error."""
    try:
        answer = subprocess.run(["sacct", "-o", "JobID,State", "--parsable2", "--noheader", "-X", "-j", job],
                                capture_output=True, text=True, timeout=120)  # fmt: skip
    except FileNotFoundError:
        return ""
    states = dict(line.split("|", 1) for line in answer.stdout.splitlines() if "|" in line)
    return states.get(job, "").split(" ")[0]  # CANCELLED by 1000


def _is_running(process: str, folder: Path) -> bool:
    """A local job's id is that of its first process; the number may belong to somebody else by now."""
    try:
        status, command = (Path("/proc", process, name).read_text() for name in ("stat", "cmdline"))
    except OSError:
        return False
    return str(folder) in command and status.rsplit(")", 1)[1].split()[0] != "Z"


def _words(state: str) -> str:
    known = {"COMPLETED": "done", "TIMEOUT": "time is up", "NODE_FAIL": "node failed"}
    return known.get(state, state.lower().replace("_", " "))


def _last_line(trace: str) -> str:
    lines = [line for line in trace.splitlines() if line and not line.startswith(" ")]
    return re.sub(r"^engine\.errors\.UserError: ", "", lines[-1]) if lines else trace.strip()


def _is_hearsay(line: str) -> bool:
    return "on another rank" in line or "Connection closed by peer" in line
