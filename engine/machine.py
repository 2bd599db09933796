"""Facts about the machine that we run on, as Linux tells them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import NamedTuple


def cpu_name() -> str:
    return next(iter(re.findall(r"^model name\s*: (.*)", _cpuinfo(), re.MULTILINE)), platform.processor() or "unknown")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bf16() -> bool:
    """In one instruction; a processor that does not is quicker with fp32."""
    flags = re.findall(r"^(?:flags|Features)\s*:(.*)", _cpuinfo(), re.MULTILINE)[:1]
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(" ".join(flags).split()))


class Memory(NamedTuple):
    """In bytes."""

    total: int
    free: int


def memory(limits: Path = Path("/sys/fs/cgroup")) -> Memory:
    """That this process may use: a container's limit may be far below what is built in."""
    known = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    total, free = 1024 * int(known["MemTotal"]), 1024 * int(known["MemAvailable"])
    limit = limits / "memory.max"
    allowed = limit.read_text().strip() if limit.exists() else "max"
    if allowed.isdecimal() and int(allowed) < total:
        total = int(allowed)
        free = min(free, total - int((limits / "memory.current").read_text()))
    return Memory(total, free)


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
