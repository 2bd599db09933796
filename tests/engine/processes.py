"""Processes for tests to kill: forked from a server that has imported torch once, so that each starts in no time."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch._dynamo  # what any optimiser imports at its first step; two seconds

from engine import command
from engine.journal import read_metrics
from engine.verbs import main_of
from tests.engine import toy_training

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.engine.processes", "ssl_pretrain.train", "finetune.train"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def ranks(count: int) -> list[dict[str, str]]:
    """The environment that torchrun would give to each of the processes."""
    port = str(free_port())
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": port} for rank in range(count)]


def start(verb: str, arguments: Sequence[str], environment: dict[str, str], said: Path, prepare=None):
    """A verb (or the toy training) as a command of its own, after `prepare()` if there is something to change in it
    first; what it writes goes to the file `said`."""
    process = CONTEXT.Process(target=_command, args=(verb, list(arguments), environment, said, prepare), daemon=True)
    process.start()
    return process


def finish(process, seconds: float = 60) -> int:
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process hangs")
    return process.exitcode


def finished(verb: str, run: Path, *arguments: str, world: int = 1, prepare=None,
             seconds: float = 120) -> tuple[list[int], str]:  # fmt: skip
    """The verb with run=`run`, done, in so many processes: exit codes of the ranks and all they said."""
    run.parent.mkdir(parents=True, exist_ok=True)
    environments = ranks(world) if world > 1 else [{}]
    said = [run.parent / f"{run.name}.rank{rank}.txt" for rank in range(world)]
    crew = [start(verb, [f"run={run}", *arguments], environment, file, prepare)
            for environment, file in zip(environments, said, strict=True)]  # fmt: skip
    codes = [finish(process, seconds) for process in crew]
    return codes, "".join(file.read_text() for file in said)


def wait_for(run: Path, lines: int, said: Path) -> None:
    """Until the journal has so many lines of training."""
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count('"train"') < lines:
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.005)


def untimed(run: Path, split: str | None = None) -> list[dict]:
    """The journal without what is measured with a clock."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "clips_per_s")}
            for line in read_metrics(run, split)]  # fmt: skip


def toy(run: Path, *arguments: str, world: int = 1) -> tuple[list[int], str]:
    return finished("toy", run, *arguments, world=world, seconds=60)


def _command(verb: str, arguments: list[str], environment: dict[str, str], said: Path, prepare) -> None:
    os.environ.update(environment)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    sys.exit(command.run(verb, toy_training.main if verb == "toy" else main_of(verb), arguments))
