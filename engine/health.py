"""What `crosstalk doctor` can find out about a machine without a video: one finding for each question."""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from engine import machine
from engine.files import alone

GIB = 2**30
DEMO_MEMORY, DEMO_DISK = 6 * GIB, 8 * GIB
# Batches on their way from loader processes: two for each of four processes, 25 crops of 150 x 150 a clip.
BATCHES, CLIP = 2 * 4, 25 * 150 * 150 * 3
SHOWN = ("torch", "torchvision", "torchaudio", "numpy", "av", "dlib-bin", "hydra-core", "submitit")


class Finding(NamedTuple):
    verdict: Literal["ok", "warning", "bad"]
    said: str
    advice: str = ""


def attempted(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:
        return Finding("bad", f"{type(error).__name__}: {error}".splitlines()[0], "make setup installs all anew")


# ------------------------------------------------------------------------------------------- what is installed

def python() -> Finding:
    version, wanted = platform.python_version(), metadata.metadata("crosstalk")["Requires-Python"]
    if not SpecifierSet(wanted).contains(version):
        return Finding("bad", f"{version}, where {wanted} is needed", "make clean setup PYTHON=python3.12")
    return Finding("ok", f"{version}, {platform.system()} {platform.machine()}")


def packages() -> Finding:
    wrong, installed = [], {}
    for requirement in map(Requirement, metadata.requires("crosstalk") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = installed[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Finding("bad", "; ".join(wrong), "make setup installs the versions of requirements.lock")
    import torch
    import torchaudio
    import torchvision

    # Compiled parts of the three: they load only where the three fit each other.
    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    torchaudio.functional.resample(torch.zeros(1, 160), 16_000, 8_000)
    return Finding("ok", ", ".join(f"{name} {installed[name]}" for name in SHOWN) + f", {len(installed)} in all")


# ------------------------------------------------------------------------------------------------- the machine

def processor() -> Finding:
    count = machine.cores()
    said = f"{machine.cpu_name()}, {count} core{'s' if count > 1 else ''} for us"
    if machine.multiplies_bf16():
        return Finding("ok", f"{said}, multiplies bf16")
    return Finding("ok", f"{said}, does not multiply bf16: to train on it precision=fp32 is quicker")


def memory() -> Finding:
    total, free = machine.memory()
    said = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    if free < DEMO_MEMORY:
        return Finding("warning", said, f"the demo takes up to {DEMO_MEMORY / GIB:.0f} GiB: end other programs first")
    return Finding("ok", said)


def gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
            return Finding("warning", "there is a driver, but PyTorch cannot use it",
                           f"this PyTorch wants CUDA {torch.version.cuda}: see what nvidia-smi says")  # fmt: skip
        return Finding("ok", "none: the demo and the small experiments run without; the published recipes want some")
    found = []
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        free, total = torch.cuda.mem_get_info(device)
        ones = torch.ones(64, 64, device=device)
        if float((ones @ ones).sum()) != 64.0**3:
            return Finding("bad", f"GPU {number} does not multiply right", "have it looked at, or hide it: "
                           "CUDA_VISIBLE_DEVICES")  # fmt: skip
        found.append(f"{torch.cuda.get_device_name(device)} ({free / GIB:.0f} of {total / GIB:.0f} GiB free)")
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Finding("ok", ", ".join(found) + ("" if bf16 else "; no bf16: use precision=fp16"))


def open_files() -> Finding:
    """Each loader process and each pack of a store holds some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < 1024:
        return Finding("warning", f"at most {limit}", "ulimit -n 4096 in the shell that starts training")
    return Finding("ok", f"at most {limit}")


# ------------------------------------------------------------------------------------------ cluster and disks

def slurm() -> Finding:
    wanted = ("sbatch", "srun", "sinfo", "squeue", "scontrol")
    missing = [name for name in wanted if shutil.which(name) is None]
    if len(missing) == len(wanted):
        return Finding("ok", "none here: crosstalk submit works on a login node, or with cluster=local")
    if missing:
        return Finding("warning", f"{', '.join(missing)} missing of {', '.join(wanted)}", "submit from a login node")
    code, answer = _asked("sinfo", "--noheader", "--format=%R")
    if code:
        return Finding("warning", f"does not answer: {answer}", "ask those who run the cluster, or wait")
    partitions = ", ".join(dict.fromkeys(answer.split())) or "none"
    code, answer = _asked("sacct", "--noheader", "--allocations", "--starttime=now")
    said = f"partitions: {partitions}; "
    if code:
        return Finding("ok", said + "no accounting: of ended jobs crosstalk jobs knows what their logs say")
    return Finding("ok", said + "accounting answers")


def _asked(*command: str) -> tuple[int, str]:
    """Exit code, and what it said, or the first line of its complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if not done.returncode else (done.stderr.strip() or "?").splitlines()[0]


def folder_for_runs(folder: Path) -> Finding:
    """A file is written, locked and removed there, as runs do."""
    if not folder.is_dir():
        return Finding("bad", f"{folder.absolute()}: no such folder", "name one with folder=DIR, or make it")
    free = shutil.disk_usage(folder).free
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor.") as place, (
                Path(place) / "lock").open("w") as file, alone(file, "locked"):
            pass
    except OSError as error:
        return Finding("bad", f"{folder.absolute()}: {error.strerror}", "name another with folder=DIR")
    said = f"{folder.absolute()}: {free / GIB:.0f} GiB free"
    if free < DEMO_DISK:
        return Finding("warning", said, f"the demo takes {DEMO_DISK / GIB:.0f} GiB; stores: docs/store.md")
    return Finding("ok", said)


def shared_memory() -> Finding:
    """Loader processes hand their batches over in it; where it is full they end with a bus error."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("warning", "no /dev/shm here", "workers=0 trains without loader processes")
    room = shutil.disk_usage(place).free
    small, large = 32 * BATCHES * CLIP, 256 * BATCHES * CLIP
    said = f"{room / GIB:.1f} GiB free in {place}"
    if room >= large:
        return Finding("ok", said)
    return Finding("warning", f"{said}; four loader processes take {small / GIB:.1f} GiB for batches of 32 clips and "
                   f"{large / GIB:.1f} for 256", "fewer workers=, workers=0, or more of it: docker run --shm-size=8g "
                   if room < small else "")
