"""`crosstalk submit VERB ...`: the verb as a job, or as one for each combination of comma-separated settings."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import submitit
from submitit.helpers import environment_variables

from engine.configs import verbs
from engine.errors import UserError
from engine.files import said_plainly
from engine.settings import load_exactly
from engine.verbs import main_of
from slurm import scheduler, snapshot
from slurm.job import VerbJob
from slurm.records import Record, Submission, folder_of, submissions
from slurm.settings import SubmitSettings
from slurm.sweep import Combination, combinations, target_key

OWN_KEYS = ("cluster", *SubmitSettings.__dataclass_fields__)


def main(arguments: Sequence[str]) -> int:
    verb, own, rest, dry = _sorted(arguments)
    settings = load_exactly("submit", own, SubmitSettings)
    if verb is None:
        raise UserError("name the verb to submit: crosstalk submit VERB key=value ...; see: crosstalk submit --help")
    main_of(verb)  # known at all?
    if verb not in verbs() or verb in ("submit", "jobs"):
        raise UserError(f"{verb} cannot be submitted")
    found = combinations(verb, rest, settings.shards)
    settings = settings.fitted(verb, found[0].settings, _gpus_here() if settings.executor == "local" else 0)
    if settings.executor == "debug":
        return _foreground(settings, verb, found, rest)
    home = settings.jobs or folder_of(_target(verb, found))
    if dry:
        _show(settings, verb, home, found)
        return 0
    if settings.executor == "slurm":
        ours = [] if settings.python else [Path(sys.executable)]
        scheduler.require_slurm(settings, [home, Path.cwd(), *ours, *_paths(found)])
    return _submit(settings, verb, home, found, rest)


def _gpus_here() -> int:
    import torch  # two seconds, which only cluster=local has to wait

    return torch.cuda.device_count()


def _sorted(arguments: Sequence[str]) -> tuple[str | None, list[str], list[str], bool]:
    """The verb, submit's own settings, the verb's, and whether to submit at all."""
    verb, own, rest, dry = None, [], [], False
    for argument in arguments:
        key = argument.split("=", 1)[0].lstrip("+~").split(".")[0]
        if argument == "--dry-run":
            dry = True
        elif ("=" in argument and key in OWN_KEYS) or argument.startswith("-") or argument == "job":
            own.append(argument)
        elif "=" not in argument and verb is None:
            verb = argument
        else:
            rest.append(argument)
    return (verb, own, rest, dry) if verb else (None, own + rest, [], dry)


def _target(verb: str, found: Sequence[Combination]) -> Path:
    """The folder that all runs of this submission lie in, or the only run's own."""
    targets = [target for one in found if (target := one.target(verb)) is not None]
    if len(targets) < len(found):
        key = target_key(verb)
        raise UserError(f"{key}=DIR is missing" if key else f"jobs=DIR is missing: {verb} has no folder of its own")
    return targets[0] if len(set(targets)) == 1 else targets[0].parent


def _paths(found: Sequence[Combination]) -> list[Path]:
    """What looks like a path among the verb's settings as they were typed."""
    values = {argument.split("=", 1)[-1].strip("[]'\"") for one in found for argument in one.arguments}
    return [Path(part) for value in sorted(values) for part in value.split(",") if "/" in part]


def _show(settings: SubmitSettings, verb: str, home: Path, found: Sequence[Combination]) -> None:
    if settings.executor != "slurm":
        raise UserError("--dry-run shows a script for SLURM; cluster=local has none")
    folder = home.absolute() / str(len(submissions(home)) + 1)
    print(scheduler.script(settings, verb, folder, folder / "code", len(found)))
    if settings.shards is not None:
        print("# ---- and when all parts are done:")
        print(scheduler.script(_one_process(settings), verb, folder, folder / "code", 1, after="ID_OF_THE_ARRAY"))


def _submit(settings: SubmitSettings, verb: str, home: Path, found: Sequence[Combination], rest: Sequence[str]) -> int:
    busy = [record.id for earlier in submissions(home) for record in earlier.jobs if earlier.state(record).is_live]
    if busy:
        raise UserError(f"{home} has jobs in the queue or running already ({', '.join(busy)}); wait for them, or: "
                        f"crosstalk jobs cancel {home}")  # fmt: skip
    folder = home.absolute() / str(len(submissions(home)) + 1)
    code = folder / "code"
    with said_plainly(f"jobs folder {folder}"):
        folder.mkdir(parents=True)
    try:
        name = snapshot.take(code)
        work = [VerbJob(verb, one.arguments, code, settings.requeues) for one in found]
        joining = VerbJob(verb, (*rest, "join=true"), code, settings.requeues) if settings.shards else None
        submission = Submission.new(folder, verb, settings.executor, name)
        if settings.executor == "slurm":
            return _queue(settings, submission, code, found, work, joining)
        return _run_here(settings, submission, code, found, work, joining)
    finally:
        if not (folder / "submission.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # there are earlier submissions
                home.rmdir()


def _queue(settings: SubmitSettings, submission: Submission, code: Path, found: Sequence[Combination],
           work: Sequence[VerbJob], joining: VerbJob | None) -> int:  # fmt: skip
    made = scheduler.executor(settings, submission.verb, submission.folder, code)
    jobs = scheduler.submit(made, work, code)
    submission.add(jobs, found)
    array = jobs[0].job_id.split("_")[0]
    if joining:
        try:
            made = scheduler.executor(_one_process(settings), submission.verb, submission.folder, code, after=array)
            submission.add(scheduler.submit(made, [joining], code), [_join(joining)])
        except BaseException:
            submission.job(submission.jobs[0]).cancel()
            (submission.folder / "submission.json").unlink()
            raise
    many = f"{len(jobs)} jobs, {settings.parallel or 'all'} at a time" if len(jobs) > 1 else "one job"
    then = f", then {submission.jobs[-1].id} joins them" if joining else ""
    print(f"{array}: {many}{then}\ncode: {submission.code}\nfolder: {submission.folder}\n"
          f"crosstalk jobs {submission.folder.parent} shows what becomes of it")  # fmt: skip
    return 0


def _run_here(settings: SubmitSettings, submission: Submission, code: Path, found: Sequence[Combination],
              work: Sequence[VerbJob], joining: VerbJob | None) -> int:  # fmt: skip
    """Without a scheduler, `parallel` at a time, to the end."""
    made = scheduler.executor(settings, submission.verb, submission.folder, code)
    # Asked to stop, we leave; what runs is told so on the way out.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    running: dict[submitit.Job, Record] = {}
    try:
        waiting = list(zip(work, found, strict=True))
        failed = _worked_off(settings.parallel or 1, made, submission, code, waiting, running)
        if joining and not failed:
            failed = _worked_off(1, made, submission, code, [(joining, _join(joining))], running)
    finally:
        signal.signal(signal.SIGTERM, before)
        for record in running.values():
            submission.cancel(record)
    print(f"{failed} of {len(submission.jobs)} jobs failed; crosstalk jobs {submission.folder.parent} says why"
          if failed else f"done: {len(submission.jobs)} of {len(submission.jobs)}; logs in {submission.folder}")
    return int(failed > 0)


def _worked_off(at_once: int, made: submitit.Executor, submission: Submission, code: Path,
                waiting: list[tuple[VerbJob, Combination]], running: dict[submitit.Job, Record]) -> int:  # fmt: skip
    failed = 0
    while waiting or running:
        while waiting and len(running) < at_once:
            work, one = waiting.pop(0)
            (job,) = scheduler.submit(made, [work], code)
            (record,) = submission.add([job], [one])
            running[job] = record
            print(f"{record.id} started: {record.title}", flush=True)
        for job in [job for job in running if job.done()]:
            record = running.pop(job)
            state = submission.state(record)
            failed += state.name != "done"
            print(f"{record.id} {state.name}: {record.title}" + (f": {state.error}" if state.error else ""), flush=True)
        time.sleep(0.2)
    return failed


def _foreground(settings: SubmitSettings, verb: str, found: Sequence[Combination], rest: Sequence[str]) -> int:
    """cluster=debug: nothing is written down, nothing copied; breakpoints work, and an error is the verb's own."""
    work = [VerbJob(verb, one.arguments, None, settings.requeues) for one in found]
    if settings.shards:
        work.append(VerbJob(verb, (*rest, "join=true"), None, settings.requeues))
    with environment_variables(SUBMITIT_DEBUG_JOB_ID="debug"):
        return max(job() for job in work)


def _one_process(settings: SubmitSettings) -> SubmitSettings:
    """Joining shards is a matter of seconds."""
    return replace(settings, cpus=1, parallel=None)


def _join(joining: VerbJob) -> Combination:
    return Combination(joining.arguments, {"shard": "join"}, {})
