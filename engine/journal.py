"""The run's diary: `metrics.jsonl`, TensorBoard, a progress bar.

A line of `metrics.jsonl`:

    {"step": 40, "epoch": 1, "split": "train", "values": {"loss": -0.25, ...}, "clips_per_s": 81.2, "seconds": 31.5}

`step` is the number of updates made, `seconds` the time since this session began, `clips_per_s` the speed over the
lines written together. Values are written with all digits; what is not finite is null in `values` and spelt out in
`non_finite`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from engine.distributed import Context
from engine.errors import UserError
from engine.progress import Bar


@dataclass(frozen=True)
class _Entry:
    step: int
    epoch: int
    split: str
    values: dict[str, float | Tensor]


class Journal:
    """`with Journal(run.folder, context, step=resumed_step, steps=total) as journal: journal.record(...)`.

    All ranks record the same names at the same steps; the main one writes. Values may be tensors on the device: they
    are fetched together, every `log_every` steps, so a step never waits for them. Training values are averaged over
    the ranks; those of other splits are rank 0's.

    Starting at `step` cuts off what an interrupted session wrote after it.
    """

    def __init__(self, folder: Path, context: Context, *, step: int, steps: int, log_every: int = 20,
                 title: str = "training"):  # fmt: skip
        if log_every < 1:
            raise UserError(f"log_every={log_every}: at least 1")
        self._folder, self._context = folder, context
        self._step, self._steps, self._log_every, self._title = step, steps, log_every, title
        self._pending: list[_Entry] = []
        self._clips = 0

    def __enter__(self) -> Self:
        self._began = self._flushed = time.monotonic()
        path = self._folder / "metrics.jsonl"
        with self._context.together(f"journal {path}"):
            if self._context.is_main:
                from torch.utils.tensorboard import SummaryWriter  # a third of a second

                _cut_after(path, self._step)
                self._file = path.open("a")
                self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._step + 1)
                self._bar = Bar(self._title, self._steps, unit="steps", done=self._step).__enter__()
        return self

    def record(self, step: int, epoch: int, values: Mapping[str, float | Tensor], *, split: str = "train",
               clips: int = 0) -> None:  # fmt: skip
        """`step` updates have been made; `clips` were seen since the last record, by all ranks together."""
        detached = {name: value.detach() if isinstance(value, Tensor) else value for name, value in values.items()}
        self._pending.append(_Entry(step, epoch, split, detached))
        self._clips += clips
        if split != "train" or step % self._log_every == 0 or step == self._steps:
            self._write(durably=False)

    def flush(self) -> None:
        """Everything recorded is on the disk afterwards. Call it before saving a checkpoint."""
        self._write(durably=True)

    def _write(self, *, durably: bool) -> None:
        entries, self._pending = self._pending, []
        fetched = self._averaged(_fetched(entries))
        with self._context.together(f"journal {self._folder / 'metrics.jsonl'}"):
            if self._context.is_main:
                now = time.monotonic()
                speed = self._clips / max(now - self._flushed, 1e-9)
                for entry, values in zip(entries, fetched, strict=True):
                    self._file.write(_line(entry, values, speed, now - self._began))
                    for name, value in values.items():
                        self._board.add_scalar(f"{entry.split}/{name}", value, entry.step)
                if entries and self._clips:
                    self._board.add_scalar("speed/clips_per_s", speed, entries[-1].step)
                self._file.flush()
                if durably:
                    os.fsync(self._file.fileno())
                self._advance(entries, fetched, speed)
        self._clips, self._flushed = 0, time.monotonic()

    def _averaged(self, fetched: list[tuple[_Entry, dict[str, float]]]) -> list[dict[str, float]]:
        names = [(number, name) for number, (entry, values) in enumerate(fetched) if entry.split == "train"
                 for name in values]  # fmt: skip
        if names and self._context.world > 1:
            means = self._context.mean({f"{number} {name}": fetched[number][1][name] for number, name in names})
            for (number, name), mean in zip(names, means.values(), strict=True):
                fetched[number][1][name] = mean
        return [values for _, values in fetched]

    def _advance(self, entries: list[_Entry], fetched: list[dict[str, float]], speed: float) -> None:
        for entry, values in zip(reversed(entries), reversed(fetched), strict=True):
            if entry.split == "train":
                loss = f", loss {values['loss']:.4g}" if "loss" in values else ""
                self._bar.reach(entry.step, self._steps, f"{speed:.0f} clips/s{loss}")
                return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error other ranks may never come to this point: what is pending stays unwritten, as after a kill.
        if error is None:
            self.flush()
        if self._context.is_main:
            self._bar.__exit__(kind, error, trace)
            self._board.close()
            self._file.close()


def read_metrics(folder: Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's journal, those of one split if asked."""
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return [line for line in lines if split in (None, line["split"])]


def _fetched(entries: list[_Entry]) -> list[tuple[_Entry, dict[str, float]]]:
    """Device values on the host, in one transfer; double precision holds those of every narrower format exactly."""
    tensors = [value for entry in entries for value in entry.values.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack([tensor.double().reshape(()) for tensor in tensors]).tolist() if tensors else [])
    return [(entry, {name: next(numbers) if isinstance(value, Tensor) else float(value)
                     for name, value in entry.values.items()}) for entry in entries]  # fmt: skip


def _line(entry: _Entry, values: dict[str, float], speed: float, seconds: float) -> str:
    line: dict[str, Any] = {
        "step": entry.step, "epoch": entry.epoch, "split": entry.split,
        "values": {name: value if math.isfinite(value) else None for name, value in values.items()},
    }  # fmt: skip
    strange = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    if strange:
        line["non_finite"] = strange
    if entry.split == "train":
        line["clips_per_s"] = round(speed, 2)
    line["seconds"] = round(seconds, 2)
    return json.dumps(line, allow_nan=False) + "\n"


def _cut_after(path: Path, step: int) -> None:
    """Drop what was written after `step`, the half line of a killed process included."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        for number, line in enumerate(iter(file.readline, b""), start=1):
            begin = file.tell() - len(line)
            if not line.endswith(b"\n"):
                file.truncate(begin)
                return
            try:
                written = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number} is damaged; remove that line to go on") from None
            if written > step:
                file.truncate(begin)
                return
