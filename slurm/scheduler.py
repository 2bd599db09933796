"""submitit's executors, filled from our settings, and what can be known to be wrong before anything is submitted."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import cast

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env, environment_variables

from engine.errors import UserError
from slurm.job import VerbJob
from slurm.settings import SubmitSettings

# Disks of one machine; anything else (nfs, lustre, gpfs, beegfs, ceph, fuse...) may well be shared.
OF_ONE_MACHINE = {"tmpfs", "ramfs", "devtmpfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat"}


class _Slurm(submitit.SlurmExecutor):
    @classmethod
    def affinity(cls) -> int:
        return 2  # a dry run needs no SLURM; whether it is here is asked for by require_slurm, in one line


def executor(settings: SubmitSettings, verb: str, folder: Path, code: Path,
             after: str | None = None) -> submitit.Executor:  # fmt: skip
    """`after`: the id of a job that must have succeeded before this one starts."""
    if settings.executor == "local":
        local = submitit.LocalExecutor(folder, max_num_timeout=settings.requeues)
        local.update_parameters(timeout_min=settings.minutes, tasks_per_node=settings.tasks,
                                gpus_per_node=settings.gpus, signal_delay_s=settings.warning)  # fmt: skip
        return local
    more: dict[str, str | bool] = {"requeue": True}
    for line in settings.sbatch:
        name, _, value = line.removeprefix("--").partition("=")
        more[name] = value or True
    gpus: dict[str, int | str] = {}
    if settings.gpus:
        gres = settings.gres and settings.gres.format(gpus=settings.gpus)
        gpus = {"gres": gres} if gres else {"gpus_per_node": settings.gpus}
    remote = _Slurm(folder, max_num_timeout=settings.requeues, python=settings.python)
    remote.update_parameters(
        job_name=settings.name or f"crosstalk-{verb}", time=settings.minutes, signal_delay_s=settings.warning,
        nodes=settings.nodes, ntasks_per_node=settings.tasks, cpus_per_task=settings.cpus, mem=settings.memory,
        partition=settings.partition, account=settings.account, qos=settings.qos, constraint=settings.constraint,
        **gpus, dependency=after and f"afterok:{after}", array_parallelism=settings.parallel or 1000, wckey=None,
        additional_parameters=more,
        # PYTHONSAFEPATH: the folder that we are in does not go before the copy of the code.
        setup=[*settings.setup, f"export PYTHONPATH={shlex.quote(str(code))}", "export PYTHONSAFEPATH=1"],
        # Since SLURM 22.05 srun does not take over the CPUs of sbatch; and when one rank fails the others must end.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus}", *settings.srun],
    )  # fmt: skip
    return remote


def script(settings: SubmitSettings, verb: str, folder: Path, code: Path, count: int, after: str | None = None) -> str:
    """What sbatch would be given for so many jobs."""
    made = cast(_Slurm, executor(settings, verb, folder, code, after))
    if count > 1:
        made.parameters["map_count"] = count
    return made._make_submission_file_text(made._submitit_command_str, "dry-run")


def submit(made: submitit.Executor, jobs: Sequence[VerbJob], code: Path) -> list[submitit.Job]:
    """One job, or an array of them."""
    try:
        with _environment(made, code), redirect_stderr(io.StringIO()):  # sbatch's words come in the error, too
            return made.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        raise UserError(f"sbatch refused: {_reason(str(error))}; nothing was submitted") from None


@contextmanager
def _environment(made: submitit.Executor, code: Path) -> Iterator[None]:
    """A job that is submitted from within a job must not take itself for that one."""
    inside = clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()
    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    if isinstance(made, submitit.LocalExecutor):
        kept |= {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    with inside, environment_variables(**kept):
        yield


def _reason(said: str) -> str:
    lines = [line.split("error: ", 1)[1].strip() for line in said.splitlines() if "error: " in line]
    lines = [line.removeprefix("Batch job submission failed: ") for line in lines]
    return "; ".join(dict.fromkeys(lines)) or said.strip().splitlines()[-1]


def require_slurm(settings: SubmitSettings, folders: Sequence[Path]) -> None:
    """One line for what a person can get wrong about a cluster."""
    missing = [name for name in ("sbatch", "srun", "sinfo") if shutil.which(name) is None]
    if missing:
        raise UserError(f"no {missing[0]} on this machine: submit from a login node of a cluster with SLURM, or run "
                        "the same here with cluster=local")  # fmt: skip
    answer = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%P|%N|%G|%c"], capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"SLURM does not answer: {_reason(answer.stderr)}")
    nodes = [line.split("|") for line in answer.stdout.splitlines()]
    usual = [partition for partition, *_ in nodes if partition.endswith("*")]
    partitions = list(dict.fromkeys(partition.removesuffix("*") for partition, *_ in nodes))
    wanted = settings.partition.split(",") if settings.partition else [usual[0][:-1]] if usual else partitions
    for name in wanted:
        if name not in partitions:
            raise UserError(f"partition={name}: this cluster has {', '.join(partitions)}")
    nodes = [node for node in nodes if node[0].removesuffix("*") in wanted]
    _require_room(settings, f"partition {','.join(wanted)}", nodes)
    if not settings.shared:
        _require_shared(folders, [name for _, name, *_ in nodes])


def _require_room(settings: SubmitSettings, where: str, nodes: Sequence[Sequence[str]]) -> None:
    """Many clusters would take the job and let it wait for ever."""
    if settings.nodes > len(nodes):
        raise UserError(f"nodes={settings.nodes}: {where} has {len(nodes)}")
    most = max(_gpus(resources) for _, _, resources, _ in nodes)
    if (settings.gpus or 0) > most:
        raise UserError(f"gpus={settings.gpus}: no node of {where} has more than {most} (gpus= is for each node)")
    most, needed = max(int(cpus) for *_, cpus in nodes), (settings.tasks or 1) * (settings.cpus or 1)
    if needed > most:
        product = f"tasks x cpus is {settings.tasks} x {settings.cpus}"
        raise UserError(f"{product}: no node of {where} has more than {most} CPUs")


def _gpus(resources: str) -> int:
    """`gpu:a100:8(S:0-1),shard:4` -> 8."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", resources))


def _require_shared(folders: Sequence[Path], nodes: Sequence[str]) -> None:
    if all(_is_this_machine(node) for node in dict.fromkeys(nodes)):
        return
    for folder in folders:
        mount, kind = _mount(folder)
        if kind in OF_ONE_MACHINE:
            raise UserError(f"{folder} lies on {mount} ({kind}), a disk of this machine that the nodes do not see: "
                            "choose a folder on a shared one, or say shared=true if they do")  # fmt: skip


def _is_this_machine(node: str) -> bool:
    shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True).stdout
    host = re.search(r"NodeHostName=(\S+)", shown)
    return host is not None and host[1].split(".")[0] == socket.gethostname().split(".")[0]


def _mount(path: Path) -> tuple[str, str]:
    """The mount point that a path lies on, or would, and the kind of its file system."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    place = place.resolve()
    best = ("/", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if place.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best
