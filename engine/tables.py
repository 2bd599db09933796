"""A table of results, written as Markdown, LaTeX, CSV and JSON.

Markdown and LaTeX are for readers: rounded, the best marked. CSV and JSON are for programs: all digits. What is missing
is "–" for readers, empty in CSV and null in JSON; it is never 0.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

MISSING = "–"
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", MISSING: "--", **{mark: f"\\{mark}" for mark in "_%&#${}"},
})  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number with an interval, or with a spread (say over seeds): Cell(87.1, 85.0, 89.2), Cell(87.1, spread=0.4)."""

    value: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None) or (self.low is not None and self.spread is not None):
            raise ValueError("a cell has low and high, or a spread, or neither")

    def extras(self) -> dict[str, float]:
        return {key: float(value) for key in ("low", "high", "spread") if (value := getattr(self, key)) is not None}


Content = str | float | Cell | None


@dataclass
class Table:
    """Whole numbers are counts and shown as they are; other numbers have `digits` decimals.

    `best` says of columns which end is better; all cells that read the same as the best one are marked.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Content]]
    digits: int = 2
    best: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.head)) != len(self.head):
            raise ValueError(f"columns need different names: {', '.join(self.head)}")
        unknown = set(self.best) - set(self.head)
        if unknown or not set(self.best.values()) <= {"max", "min"}:
            raise ValueError(f"best names columns, each max or min: {dict(self.best)}")
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"{len(row)} cells in a row of {len(self.head)} columns: {row}")
            for cell in row:
                numbers = [cell.value, *cell.extras().values()] if isinstance(cell, Cell) else [cell]
                if any(isinstance(number, Real) and not math.isfinite(number) for number in numbers):
                    raise ValueError(f"{cell} is no result; what is missing is None")

    def markdown(self) -> str:
        def text(value: str) -> str:
            return re.sub(r"([\\`*_|<~])", r"\\\1", " ".join(value.split()))

        lines = [[text(name) for name in self.head], ["---:" if right else "---" for right in self.right()]]
        for row in self.printed():
            lines.append([text(cell) if isinstance(cell, str) else cell.joined("**{}**", "±") for cell in row])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        """A booktabs tabular, without a float about it."""

        def text(value: str) -> str:
            return " ".join(value.split()).translate(_LATEX)

        def line(cells: list[str]) -> str:
            joined = " & ".join(cells)
            # After the line break before it, a bracket or a star would be taken for that command's argument.
            return f"{{}}{joined} \\\\\n" if joined.startswith(("[", "*")) else f"{joined} \\\\\n"

        body = [line([text(cell) if isinstance(cell, str) else
                      cell.joined(r"\textbf{{{}}}", r"$\pm$").replace("-", "$-$") for cell in row])
                for row in self.printed()]  # fmt: skip
        kinds = "".join("r" if right else "l" for right in self.right())
        return (f"\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{line([text(name) for name in self.head])}"
                f"\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n")  # fmt: skip

    def csv(self) -> str:
        """An interval or a spread is in columns of its own: `AUC`, `AUC low`, `AUC high`."""
        extras = [[key for key in ("low", "high", "spread")
                   if any(isinstance(cell := row[i], Cell) and key in cell.extras() for row in self.rows)]
                  for i in range(len(self.head))]  # fmt: skip
        head = [part for name, keys in zip(self.head, extras, strict=True)
                for part in (name, *(f"{name} {key}" for key in keys))]  # fmt: skip
        lines: list[list[str | float | None]] = [[*head]]
        for row in self.rows:
            line: list[str | float | None] = []
            for cell, keys in zip(row, extras, strict=True):
                found = cell.extras() if isinstance(cell, Cell) else {}
                line += [_plain(cell.value if isinstance(cell, Cell) else cell), *(found.get(key) for key in keys)]
            lines.append(line)
        table = io.StringIO(newline="")
        csv.writer(table, lineterminator="\n").writerows(lines)
        return table.getvalue()

    def json(self) -> str:
        """A list of objects, one a row; a number with more to say is {"value": ..., "low": ..., "high": ...}."""
        rows = [
            {name: {"value": float(cell.value), **cell.extras()} if isinstance(cell, Cell) else _plain(cell)
             for name, cell in zip(self.head, row, strict=True)}
            for row in self.rows
        ]  # fmt: skip
        return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def right(self) -> list[bool]:
        """Columns of numbers are set flush right."""
        columns = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.head))]
        return [bool(column) and not any(isinstance(cell, str) for cell in column) for column in columns]

    def printed(self) -> list[list[str | Number]]:
        """For readers: what each cell says, rounded, the best marked."""
        printed = [[self._cell(cell) for cell in row] for row in self.rows]
        for name, end in self.best.items():
            column = [row[self.head.index(name)] for row in printed]
            numbers = [cell for cell in column if isinstance(cell, Number)]
            top = (max if end == "max" else min)((float(number.value) for number in numbers), default=None)
            for number in numbers:
                number.best = float(number.value) == top
        return printed

    def _cell(self, cell: Content) -> str | Number:
        if cell is None:
            return MISSING
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Cell):
            return Number(self._number(cell.value), {k: self._number(v) for k, v in cell.extras().items()})
        return Number(self._number(cell), {})

    def _number(self, value: float) -> str:
        return str(int(value)) if isinstance(value, Integral) else f"{float(value):z.{self.digits}f}"


@dataclass
class Number:
    """As it reads."""

    value: str
    extras: dict[str, str]
    best: bool = False

    def joined(self, bold: str, plus_minus: str) -> str:
        shown = bold.format(self.value) if self.best else self.value
        if "spread" in self.extras:
            return f"{shown} {plus_minus} {self.extras['spread']}"
        return f"{shown} [{self.extras['low']}, {self.extras['high']}]" if self.extras else shown


def _plain(cell: str | float | None) -> str | float | None:
    """NumPy's numbers as Python's, which csv and json write with all digits."""
    if cell is None or isinstance(cell, str):
        return cell
    return int(cell) if isinstance(cell, Integral) else float(cell)
