"""A judgement in words for people, as JSON for programs, and as rows of a table. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from evaluation.verdict.judgement import FRAME_RATE, Agreement, Judgement, Person
from evaluation.verdict.phrases import FITTING, of_agreement

SHOWN = 10  # people in words; JSON and the table have them all
COLUMNS = ("video", "verdict", "reason", "probability", "seconds", "complete", "person", "person_start_s",
           "person_seconds", "face_pixels", "windows", "logit", "person_probability", "person_verdict",
           "person_reason", "familiar")  # fmt: skip


def plain(text: object) -> str:
    """One line that a terminal can be given, whatever a file is called."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def as_text(judgement: Judgement) -> str:
    """The verdict in the first line, what it rests on below it."""
    lines = [f"{plain(judgement.video)}: {_verdict(judgement)}"]
    if len(judgement.people) > SHOWN:
        lines.append(f"  the {SHOWN} most suspicious of {len(judgement.people)}:")
    if len(judgement.people) > 1:
        chosen = sorted(judgement.people, key=lambda person: person.suspicion, reverse=True)[:SHOWN]
        lines += [_person(person) for person in sorted(chosen, key=lambda person: person.number)]
    if judgement.people:
        lines.append(_looked_at(judgement))
    if judgement.agreement is not None:
        lines.append(f"  lips and sound: {plain(of_agreement(judgement.agreement))}{_offset(judgement.agreement)}")
    return "\n".join([*lines, *(f"  note: {plain(note)}" for note in judgement.notes)])


def _verdict(found: Judgement | Person) -> str:
    if found.reason is not None or found.probability is None:  # both or neither
        return f"{found.verdict}: {plain(found.reason or '')}"
    answer = f"{found.verdict} (probability of a forgery {100 * found.probability:.0f} %)"
    return f"outside what this model knows: no finding; it would say {answer}" if found.familiar is False else answer


def _offset(found: Agreement) -> str:
    if found.offset_ms is None or found.score is None:
        return ""
    offset = "most likely offset" if found.score >= FITTING else "the best offset is"
    return f" ({offset} {found.offset_ms:+.0f} ms, agreement {found.score:.2f} of 1)"


def _person(person: Person) -> str:
    begin, end = person.start / FRAME_RATE, (person.start + person.frames) / FRAME_RATE
    return f"  person {person.number}, {begin:.1f} to {end:.1f} s, {person.side:.0f} pixels: {_verdict(person)}"


def _looked_at(judgement: Judgement) -> str:
    people, windows = len(judgement.people), sum(len(person.windows) for person in judgement.people)
    line = (f"  {people} {'face' if people == 1 else 'faces'}, {windows} {'window' if windows == 1 else 'windows'} of "
            f"a second in {judgement.seconds:.1f} s of video")  # fmt: skip
    if judgement.took:
        line += f", {judgement.seconds / judgement.took:.1f} times real time"
    return line


def as_dict(found: Any) -> Any:
    """What JSON can say of a judgement: everything but where each crop lies."""
    if is_dataclass(found):
        values = {field.name: as_dict(getattr(found, field.name)) for field in fields(found) if field.name != "places"}
        return values | ({"seconds": found.seconds} if isinstance(found, Judgement) else {})
    if isinstance(found, tuple):
        return [as_dict(one) for one in found]
    return str(found) if isinstance(found, Path) else found


def as_csv(judgements: Iterable[Judgement]) -> bytes:
    """A row for each person, and one for each video without any. Names are bytes as on the disk."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for judgement in judgements:
        video = (judgement.video, judgement.verdict, judgement.reason, judgement.probability, judgement.seconds,
                 judgement.complete)  # fmt: skip
        writer.writerows([*video, *_cells(person)] for person in judgement.people or (None,))
    return table.getvalue().encode("utf-8", "surrogateescape")


def _cells(person: Person | None) -> tuple:
    if person is None:
        return ("",) * (len(COLUMNS) - 6)
    return (person.number, person.start / FRAME_RATE, person.frames / FRAME_RATE, round(person.side, 1),
            len(person.windows), person.logit, person.probability, person.verdict, person.reason,
            person.familiar)  # fmt: skip
