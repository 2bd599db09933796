"""`crosstalk jobs DIR`: what became of them; `crosstalk jobs cancel DIR`: take them back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from engine.errors import UserError
from engine.files import said_plainly, write_atomically
from engine.settings import Needed, load_exactly
from slurm.records import Record, State, Submission, submissions


@dataclass(frozen=True)
class JobsSettings:
    """configs/jobs.yaml explains each."""

    folder: Annotated[Path, Needed("name the folder: crosstalk jobs DIR")]
    measures: tuple[str, ...]
    lines: int
    csv: Path | None

    def __post_init__(self) -> None:
        if self.lines < 0:
            raise UserError(f"lines={self.lines}: at least 0")


def main(arguments: Sequence[str]) -> int:
    named = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    others = [argument for argument in arguments if argument not in named or argument in ("help", "job")]
    cancelling = named[:1] == ["cancel"]
    places = named[1:] if cancelling else named
    place, ids = places[:1], places[1:]
    settings = load_exactly("jobs", [*others, *(f"folder={folder}" for folder in place)], JobsSettings)
    if ids and not cancelling:
        raise UserError(f"one folder at a time: {place[0]} or {ids[0]}")
    found = submissions(settings.folder)
    if not found:
        raise UserError(f"{settings.folder}: no jobs were submitted for it")
    return cancel(found, ids) if cancelling else show(found, settings)


def cancel(found: Sequence[Submission], ids: Sequence[str]) -> int:
    known = {record.id: (submission, record) for submission in found for record in submission.jobs}
    for wanted in ids:
        if wanted not in known:
            raise UserError(f"{wanted} is none of these jobs: {', '.join(known)}")
    live = [(submission, record) for submission, record in known.values()
            if record.id in (ids or known) and submission.state(record).is_live]  # fmt: skip
    for submission, record in live:
        submission.cancel(record)
    print(f"cancelled: {', '.join(record.id for _, record in live)}" if live else "nothing of it waits or runs")
    return 0


def show(found: Sequence[Submission], settings: JobsSettings) -> int:
    """The table of each submission; exit code 1 if a job of the newest failed."""
    rows: list[dict[str, Any]] = []
    for submission in found:
        states = [submission.state(record) for record in submission.jobs]
        table = [_row(record, state) for record, state in zip(submission.jobs, states, strict=True)]
        print(f"{submission.folder}: {submission.verb}, submitted {submission.when}\ncode: {submission.code}")
        print(_aligned([_shown(row, settings.measures) for row in table]))
        for record, state in zip(submission.jobs, states, strict=True):
            if state.name not in ("done", "cancelled") and not state.is_live:
                path, log = submission.log(record, settings.lines)
                print(f"{record.id} {state.name}" + (f": {state.error}" if state.error else ""))
                print("\n".join([f"  {path} {'ends with:' if log else 'is empty'}", *(f"    {line}" for line in log)]))
        print()
        rows += table
    if settings.csv:
        _write(settings.csv, rows)
    return int(any(not state.is_live and state.name not in ("done", "cancelled") for state in states))


def _row(record: Record, state: State) -> dict[str, Any]:
    named = f"{state.name} ({state.reason})" if state.reason else state.name
    row: dict[str, Any] = {"job": record.id, **record.swept, "state": named}
    lines = _journal(Path(record.target)) if record.target else []
    if not record.target or not lines:
        return row
    newest, trained = lines[-1], [line for line in lines if line["split"] == "train"]
    epochs = _setting(Path(record.target), "epochs")
    row |= {"step": newest["step"], "epoch": f"{newest['epoch']}/{epochs}" if epochs else newest["epoch"]}
    if trained:
        row |= {"clips/s": trained[-1].get("clips_per_s"), **trained[-1]["values"]}
    judged = [line for line in lines if line["split"] != "train"]
    if judged:
        row |= {f"{judged[-1]['split']} {name}": value for name, value in judged[-1]["values"].items()}
    return row


def _journal(run: Path) -> list[dict[str, Any]]:
    """As far as it can be read: the last line of a running job may be half written."""
    lines = []
    try:
        for line in (run / "metrics.jsonl").read_text().splitlines():
            lines.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return lines


def _setting(run: Path, name: str) -> Any:
    try:
        return yaml.safe_load((run / "config.yaml").read_text()).get(name)
    except (OSError, yaml.YAMLError):
        return None


def _shown(row: dict[str, Any], measures: Sequence[str]) -> dict[str, str]:
    """Without the measures that nobody asked for."""
    keys = list(row)
    always = [*keys[: keys.index("state") + 1], *(key for key in ("step", "epoch", "clips/s") if key in row)]
    wanted = []
    for measure in measures:
        named = [key for key in row if f"{key.rsplit(' ', 1)[-1]}_".startswith(f"{measure}_")]
        wanted += [key for key in named if " " in key] or named  # of validation, else of training
    return {key: _number(row[key]) for key in [*always, *wanted]}


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """In the order of the longest row, then what others have besides."""
    longest = max(rows, key=len)
    return [*longest, *dict.fromkeys(key for row in rows for key in row if key not in longest)]


def _aligned(rows: Sequence[dict[str, str]]) -> str:
    columns = _columns(rows)
    widths = {column: max(len(column), *(len(row.get(column, "")) for row in rows)) for column in columns}
    lines = ["  ".join(f"{cell:<{widths[column]}}" for column, cell in zip(columns, cells, strict=True)).rstrip()
             for cells in [columns, *([row.get(column, "") for column in columns] for row in rows)]]  # fmt: skip
    return "\n".join(lines)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="")
    writer.writeheader()
    writer.writerows(rows)
    with said_plainly(f"csv={path}"):
        write_atomically(path, text.getvalue())
