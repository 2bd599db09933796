"""What `crosstalk submit` can be told; configs/submit.yaml explains each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.errors import UserError
from engine.verbs import DISTRIBUTED


@dataclass(frozen=True)
class SubmitSettings:
    executor: Literal["slurm", "local", "debug"]
    nodes: int
    gpus: int | None
    tasks: int | None
    cpus: int | None
    memory: str | None
    time: str
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str | None
    sbatch: tuple[str, ...]
    srun: tuple[str, ...]
    setup: tuple[str, ...]
    python: str | None
    name: str | None
    parallel: int | None
    shards: int | None
    warning: int
    requeues: int
    jobs: Path | None
    shared: bool

    def __post_init__(self) -> None:
        least = {"nodes": 1, "gpus": 0, "tasks": 1, "cpus": 1, "parallel": 1, "shards": 1, "warning": 1, "requeues": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(f"{name}={value}: at least {smallest}")
        if self.executor != "slurm" and self.nodes > 1:
            raise UserError(f"nodes={self.nodes} needs a cluster; this machine is one node")
        if self.memory is not None and not re.fullmatch(r"\d+[KMGT]?B?", self.memory, re.IGNORECASE):
            raise UserError(f"memory={self.memory}: expected a size such as 64GB, or 0 for all of a node's")
        for line in self.sbatch:
            if not re.match(r"--[a-z]", line):
                raise UserError(f"sbatch: {line!r} is no option of sbatch; expected --NAME or --NAME=VALUE")
        if self.minutes * 60 <= self.warning:
            raise UserError(f"time={self.time} is not longer than warning={self.warning} seconds")

    @property
    def minutes(self) -> int:
        return minutes(self.time)

    def fitted(self, verb: str, wanted: Mapping[str, Any], gpus_here: int) -> SubmitSettings:
        """What was left open, from what the verb was asked to do. `wanted` are the verb's own settings."""
        distributed = verb in DISTRIBUTED
        if not distributed and (self.nodes > 1 or (self.tasks or 1) > 1):
            divided = "; shards=N divides it" if "shard" in wanted else ""
            raise UserError(f"{verb} is one process; nodes and tasks are for {', '.join(DISTRIBUTED)}{divided}")
        gpus = self.gpus
        if gpus is None:
            gpus = 0 if not distributed else gpus_here if self.executor == "local" else 1
        workers = wanted.get("workers")
        cpus = self.cpus or (8 if workers is None else workers + 2)
        return replace(self, gpus=gpus, tasks=self.tasks or (max(gpus, 1) if distributed else 1), cpus=cpus)


def minutes(text: str) -> int:
    """SLURM's ways to write a time: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; seconds are rounded up."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise UserError(f"time={text}: expected minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = (int(part or 0) for part in found.groups())
    if found[1] is not None or found[4] is not None:  # the first of the three are hours
        hours, of_hour, seconds = first, second, third
    else:
        hours, of_hour, seconds = 0, first, second
    return days * 1440 + hours * 60 + of_hour + -(-seconds // 60)
