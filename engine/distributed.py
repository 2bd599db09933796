"""One process or many, whoever started them: submitit on SLURM, torchrun, or nobody.

Gradients of a GPU run travel by NCCL; what the host has to agree on (stop? failed? finished?) always goes by Gloo over
the CPU, so that agreeing never waits for a GPU to finish what it has been given.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import UserError
from engine.files import said_plainly

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Context:
    """Who this process is among those of the run. Every method below is called by all ranks or by none."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str | None = None  # none for a single process

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def highest(self, number: int) -> int:
        """The largest number that any rank brought."""
        if self.world == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def any(self, flag: bool) -> bool:
        return bool(self.highest(int(flag)))

    def sum(self, tensor: Tensor) -> Tensor:
        """Of the ranks' tensors, in place; on a GPU nobody waits for it."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """What fails on one rank fails on all, so that none waits for ever. Errors of the disk become one line."""
        failure: Exception | None = None
        try:
            with said_plainly(doing):
                yield
        except Exception as error:
            failure = error
        if self.any(failure is not None):
            raise failure or UserError(f"{doing}: failed on another rank, which says why")

    def share_of(self, batch: int, parts: int = 1) -> int:
        """Clips of a global batch that fall to each process, which cuts them into equal parts."""
        if batch % (self.world * parts):
            among = [f"{self.world} processes"] * (self.world > 1) + [f"accumulate={parts} parts"] * (parts > 1)
            raise UserError(f"batch={batch} cannot be divided equally among {' of '.join(reversed(among))}")
        return batch // self.world

    def mean(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """Averages over the ranks, which bring the same names in the same order."""
        if self.world == 1:
            return {name: float(value) for name, value in values.items()}
        shared = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
        dist.all_reduce(shared)
        return dict(zip(values, (shared / self.world).tolist(), strict=True))

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the ranks (itself, if there is one rank); give it all that is trained
        in one step as one module. Buffers are not sent around: under `synchronised_norms` they are equal anyway."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

    def synchronised_norms(self, module: M) -> M:
        """BatchNorm over the global batch. PyTorch has it for GPUs only: on CPUs each rank keeps statistics of its own
        part, and rank 0's running statistics are the ones that are saved."""
        if self.world == 1 or self.device.type != "cuda":
            return module
        return cast(M, nn.SyncBatchNorm.convert_sync_batchnorm(module))


@contextmanager
def distributed(device: str = "auto", *, timeout: timedelta = timedelta(minutes=30)) -> Iterator[Context]:
    """Join the other processes of the run, if there are any. `device` is auto, cpu or cuda."""
    launch = _launch()
    # PyTorch then asks for huge pages for large tensors; it looks when it makes the first (docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    place = _device(device, launch.local_rank)
    torch.backends.cudnn.benchmark = True  # shapes stay the same, so trying all algorithms once is worth it
    if launch.world == 1:
        yield Context(launch.rank, 1, launch.local_rank, place)
        return
    backend = "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl"
    _join(launch, backend, timeout)
    try:
        yield Context(launch.rank, launch.world, launch.local_rank, place, backend)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Launch:
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    rank_0_opens_port: bool = True  # torchrun's agent has opened it already


def _launch() -> _Launch:
    """torchrun's variables come first: a job of submitit's may start torchrun, which then divides it further."""
    environment = os.environ
    if "RANK" in environment or "WORLD_SIZE" in environment:
        numbers: dict[str, int] = {}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
            text = environment.get(name, {"LOCAL_RANK": environment.get("RANK")}.get(name))
            if text is None and name == "MASTER_PORT" and numbers["WORLD_SIZE"] == 1:
                text = "0"
            if text is None or not text.isdecimal():
                raise UserError(f"{name} is {'not set' if text is None else text} in the environment: expected a whole "
                                "number; start with torchrun or `crosstalk submit`, or unset RANK and WORLD_SIZE")
            numbers[name] = int(text)
        if not numbers["RANK"] < numbers["WORLD_SIZE"]:
            raise UserError(f"RANK={numbers['RANK']} but WORLD_SIZE={numbers['WORLD_SIZE']}: ranks count from 0")
        address = environment.get("MASTER_ADDR", "")
        if not address and numbers["WORLD_SIZE"] > 1:
            raise UserError("MASTER_ADDR is not set in the environment: expected the host name of rank 0")
        return _Launch(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"], address, numbers["MASTER_PORT"],
                       environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True")  # fmt: skip
    if "SUBMITIT_EXECUTOR" in environment:
        import submitit.helpers

        job = submitit.helpers.TorchDistributedEnvironment()
        return _Launch(job.rank, job.world_size, job.local_rank, job.master_addr, job.master_port)
    return _Launch()


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={wanted}: known are auto, cpu, cuda")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch sees no GPU here; device=cpu runs without one")
    count = torch.cuda.device_count()
    index = 0 if count == 1 else local_rank  # SLURM may show each task its own GPU only
    if index >= count:
        raise UserError(f"process {local_rank} of this machine finds {count} GPUs: start one process for each GPU")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _join(launch: _Launch, backend: str, timeout: timedelta) -> None:
    where = f"{launch.address}:{launch.port}"
    in_use = f"port {launch.port} on {launch.address} is in use by another process: set MASTER_PORT to a free one"
    if launch.rank == 0 and launch.rank_0_opens_port and not _free(launch.port):
        raise UserError(in_use)
    try:
        dist.init_process_group(
            backend, init_method="env://" if not launch.rank_0_opens_port else f"tcp://{where}", rank=launch.rank,
            world_size=launch.world, timeout=timeout,
        )  # fmt: skip
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(in_use) from error
        first = str(error).strip().splitlines()[0]
        raise UserError(f"rank {launch.rank} of {launch.world} found no others through {where} ({first}); are all "
                        "started, and is MASTER_ADDR rank 0's host?") from error  # fmt: skip


def _free(port: int) -> bool:
    """Looked at beforehand, because PyTorch says it in ten lines on stderr before it raises."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
