"""The report on one video: one HTML file for somebody who is no researcher, and all that the answer rests on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from datasets.clips import CLIP_FRAMES
from engine.calibration import Calibration
from engine.files import said_plainly, write_atomically
from evaluation import page
from evaluation.detector import Detector
from evaluation.figures import Axes, round_numbers
from evaluation.verdict import phrases
from evaluation.verdict.judgement import FRAME_RATE, Judgement, Person
from evaluation.verdict.moments import Moment
from evaluation.verdict.output import plain
from evaluation.verdict.rules import NO_CALIBRATION, UNFAMILIAR

FOREMOST = 6  # moments that are shown at once
CHARTED = 12  # people with a timeline
MOST_BARS = 900  # of a timeline: then one stands for several windows, by the most suspicious


@dataclass(frozen=True)
class Timeline:
    person: Person
    says: str
    picture: Markup
    bars: int


def write(path: Path, judgement: Judgement, detector: Detector, moments: Sequence[Moment],
          name: str | None = None) -> None:  # fmt: skip
    text = render(judgement, detector, moments, name)
    with said_plainly(f"writing {path}"):
        write_atomically(path, text.encode("utf-8", "replace"))


def render(judgement: Judgement, detector: Detector, moments: Sequence[Moment], name: str | None = None) -> str:
    """`name` is the video's for people, if its file is called otherwise."""
    calibration = detector.calibration or Calibration()
    calibrated = detector.calibration is not None
    probability, known = judgement.probability, judgement.verdict != "cannot tell" and judgement.familiar is not False
    foremost = sorted(moments, key=lambda moment: -moment.logit)[:FOREMOST]
    people = [{"person": one, "says": phrases.of_person(one),
               "seen": f"{clock(one.start)} – {clock(one.start + one.frames)}"}
              for one in judgement.people]  # fmt: skip
    found, name = judgement.agreement, plain(name or judgement.video.name)
    return page.render(
        "verdict/report.html.j2", title=name, name=name, judgement=judgement,
        # Two of them how_sure has said, in plainer words.
        notes=[note for note in judgement.notes if note not in (NO_CALIBRATION, UNFAMILIAR)],
        headline=phrases.headline(judgement), tone=phrases.tone(judgement),
        how_sure=phrases.how_sure(judgement, calibrated), generated=bool(detector.config.get("generated")),
        gauge=phrases.shown(probability) if probability is not None and known and calibrated else None, people=people,
        timelines=[timeline(one, calibration, phrases.of_person(one)) for one in judgement.people[:CHARTED]],
        moments=foremost, rest=[moment for moment in moments if moment not in foremost],
        clock=clock, agreement=phrases.of_agreement(found) if found else None,
        curve=curve(found.offsets_ms, found.similarity)
        if found and found.similarity and found.offset_ms is not None else None,
        facts=_facts(judgement, name), model=_about(detector), card=_card(detector), threshold=calibration.threshold,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=importlib.metadata.version("crosstalk"))  # fmt: skip


def timeline(person: Person, calibration: Calibration, says: str) -> Timeline:
    """A bar a window, from the threshold up or down to its logit. What the page's script says of it is in the bar."""
    ordered = sorted(person.windows, key=lambda window: window.start)
    several = math.ceil(len(ordered) / MOST_BARS)
    groups = [ordered[k : k + several] for k in range(0, len(ordered), several)]
    worst = max(ordered, key=lambda window: window.logit)
    reach = max(*(abs(window.logit - calibration.threshold) for window in ordered), calibration.temperature)
    low, high = calibration.threshold - 1.08 * reach, calibration.threshold + 1.08 * reach

    def x(frame: int) -> float:
        return (frame - person.start) / person.frames

    def y(logit: float) -> float:
        return (logit - low) / (high - low)

    times = {x(FRAME_RATE * second): clock(FRAME_RATE * second) for second in seconds_of(person)}
    axes = Axes("time", "real  ←  score  →  forged", times,
                {y(value): f"{value:g}" for value in round_numbers(low, high)}, width=900, height=210)  # fmt: skip
    for group, after in zip(groups, [*groups[1:], None], strict=True):
        window = max(group, key=lambda window: window.logit)
        end = group[-1].start + CLIP_FRAMES
        forged = bool(calibration.forged(window.logit))
        axes.bar(
            x(group[0].start), x(min(end, after[0].start) if after else end), 0.5, y(window.logit),
            "--forged" if forged else "--real", start=window.start, first="" if window is worst else None,
            says=f"{clock(window.start)} – {clock(window.start + CLIP_FRAMES)}: score {window.logit:+.2f}, looks "
                 f"{'forged' if forged else 'real'}",
        )  # fmt: skip
    axes.line((0, 1), (0.5, 0.5), "--ink", "dashed")
    return Timeline(person, says, axes.svg(f"scores of person {person.number} over time"), len(groups))


def seconds_of(person: Person, most: int = 12) -> range:
    """Round times for the axis, at most so many."""
    end = person.start + person.frames
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
    step = next((step for step in steps if person.frames <= step * most * FRAME_RATE), 3600)
    first = -(-person.start // (FRAME_RATE * step)) * step
    return range(first, end // FRAME_RATE + 1, step)


def curve(offsets_ms: Sequence[float], similarity: Sequence[float]) -> Markup:
    """How well sound and lips agree over the offset between them."""
    left, right = offsets_ms[0], offsets_ms[-1]
    low, high = min(similarity), max(similarity)
    low, high = low - 0.05 * (high - low or 1), high + 0.08 * (high - low or 1)
    axes = Axes("offset of the sound in ms: right of 0 it comes late", "agreement",
                {(x - left) / (right - left): f"{x:g}" for x in round_numbers(left, right)},
                {(y - low) / (high - low): f"{y:g}" for y in round_numbers(low, high)}, width=420)  # fmt: skip
    xs = [(x - left) / (right - left) for x in offsets_ms]
    ys = [(y - low) / (high - low) for y in similarity]
    axes.line(xs, ys, "--c0")
    best = max(range(len(ys)), key=ys.__getitem__)
    axes.dot(xs[best], ys[best], "--c1", 4)
    return axes.svg("agreement of lips and sound over the offset")


def clock(frame: int) -> str:
    """Minutes and seconds, tenths where they matter: 0:07, 1:02.4"""
    tenths = round(10 * frame / FRAME_RATE)
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes}:{tenths // 10:02d}" + (f".{tenths % 10}" if tenths % 10 else "")


def _facts(judgement: Judgement, name: str) -> dict[str, str]:
    facts = {"file": name}
    if judgement.video.is_file():
        size = judgement.video.stat().st_size
        with judgement.video.open("rb") as file:
            facts |= {"size": f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size} bytes",
                      "SHA-256": hashlib.file_digest(file, "sha256").hexdigest()}  # fmt: skip
    facts["length"] = f"{clock(judgement.frames)}, {judgement.frames} frames at 25 a second" \
        + ("" if judgement.complete else "; interrupted, there is more of it")  # fmt: skip
    if judgement.width:
        facts["picture"] = f"{judgement.width} × {judgement.height} pixels"
    facts["sound"] = "yes" if judgement.has_sound else "none"
    facts["faces"] = str(len(judgement.people))
    if judgement.took:
        times = judgement.seconds / judgement.took
        facts["time needed"] = f"{judgement.took:.1f} s, {times:.1f} times as fast as it plays"
    return facts


def _about(detector: Detector) -> dict[str, str]:
    config, calibration = detector.config, detector.calibration
    backbone = config.get("backbone") or {}
    measured = (f"{calibration.threshold:+.3f}, temperature {calibration.temperature:.3f}, measured on validation "
                "videos" if calibration else "never measured; 0 was taken")  # fmt: skip
    return {
        "bundle": detector.bundle.name, "digest": detector.digest, "backbone": str(backbone.get("name", "not said")),
        "learned from": phrases.of_training(config),
        "threshold": measured,
    }  # fmt: skip


def _card(detector: Detector) -> str:
    with said_plainly(f"bundle {detector.bundle}"):
        return (detector.bundle / "card.md").read_text(errors="replace")
