"""What a training run tells people while it runs and when it is done: lines, and pictures of its journal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checkpoint import Resumed
from engine.distributed import Context
from engine.files import said_plainly
from engine.run import Run

Lines = Sequence[Mapping[str, Any]]  # of a journal, as `engine.journal.read_metrics` gives them


class Speaker:
    """Only the main process speaks: results on stdout, what needs attention on stderr."""

    def __init__(self, context: Context):
        self._silent = not context.is_main

    def beginning(self, run: Run, resumed: Resumed | None, data: str, steps: int, epoch: int) -> None:
        """`data` is a line on what is learned from, `epoch` the steps of one."""
        for note in (*run.notes, *([resumed.note] if resumed and resumed.note else [])):
            self.attention(f"note: {note}")
        self.say(f"data: {data}")
        if resumed and resumed.step == steps:
            self.say(f"all {steps} steps were made already")
        elif resumed:
            self.say(f"continuing after step {resumed.step} of {steps}")
        else:
            self.say(f"{steps} steps, {epoch} an epoch")

    def say(self, line: str) -> None:
        if not self._silent:
            print(line, flush=True)

    def attention(self, line: str) -> None:
        if not self._silent:
            print(line, file=sys.stderr, flush=True)

    def end(self, run: Run) -> None:
        self.say(f"bundle: {run.bundle}\ncurves: {run.folder / 'curves.png'}")


def validations(lines: Lines) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["split"] != "train"]


def draw_curves(panels: Mapping[str, Sequence[str]], runs: Mapping[str, Lines], path: Path) -> None:
    """Validation measures over the steps: a panel for each title with the values it names, a line for each run.

    Panels whose title names a loss have an axis of their own, all others go from 0 to 1.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = -(-len(panels) // 3)
    figure, axes = plt.subplots(rows, min(3, len(panels)), figsize=(12, 3 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for number, (run, lines) in enumerate(runs.items()):
            for place, name in enumerate(names):
                points = [(line["step"], line["values"][name]) for line in validations(lines) if name in line["values"]]
                if points:
                    label = " ".join(word for word in (run, name if len(names) > 1 else "") if word)
                    colour = f"C{(number if len(runs) > 1 else place) % 10}"
                    axis.plot(*zip(*points, strict=True), ("-", "--", ":")[place % 3 if len(runs) > 1 else 0],
                              marker=".", color=colour, label=label)  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if "loss" not in title:
            axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1] not in ([], [""]):
            axis.legend(fontsize=7)
    with said_plainly(f"picture {path}"):
        temporary = path.with_name(f".{path.name}.tmp")
        figure.savefig(temporary, format="png", dpi=110)
        temporary.replace(path)
    plt.close(figure)
