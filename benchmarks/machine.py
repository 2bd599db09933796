"""What every benchmark says about the machine, and how it says what it found."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from typing import Any

import torch

from engine import machine

PACKAGES = ("torch", "torchvision", "torchaudio", "pytorchvideo", "av", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, GPU if any, versions and the day."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": machine.cpu_name(),
        "cores": machine.cores(),
        "memory_gib": round(machine.memory().total / 2**30, 1),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "date": date.today().isoformat(),
    }


def report(title: str, rows: Iterable[Sequence[Any]], result: dict[str, Any]) -> None:
    """Print the title, a table whose first row is its head, and one JSON object as the last line."""
    cells = [[_number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        first, *others = (cell.ljust(width) if column == 0 else cell.rjust(width)
                          for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        print("  ".join([first, *others]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(json.dumps(result), flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
