"""A picture of a store: each real video above its forgeries, a row per method, time to the right, sound beneath."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.media import FRAME_RATE, SAMPLE_RATE
from datasets.records import REAL
from datasets.store import Entry, Store
from engine.files import write_atomically

CELL, COLUMNS, LABEL, STRIP, GAP = 110, 10, 250, 34, 10
GROUPS_WITH_FORGERIES, ROWS_WITHOUT = 4, 16
INK, FAINT, PAPER, WARNING = (20, 20, 20), (110, 110, 110), (255, 255, 255), (180, 30, 30)


def draw(store: Store, entries: list[Entry], path: Path, *, generated: bool) -> None:
    groups = chosen_groups(entries)
    sound = any(entries[i].sound for group in groups for i in group)
    heading = 30
    row_height = CELL + (STRIP if sound else 0)
    height = heading + sum(len(group) * (row_height + 2) + GAP for group in groups)
    sheet = Image.new("RGB", (LABEL + COLUMNS * (CELL + 2), height), PAPER)
    pen = ImageDraw.Draw(sheet)
    fonts = ImageFont.load_default(15), ImageFont.load_default(12)
    pen.text((6, 6), f"{entries[0].dataset}: time runs to the right", INK, fonts[0])
    if generated:
        pen.text((LABEL + 300, 6), "GENERATED: no real person is shown", WARNING, fonts[0])
    top = heading
    for group in groups:
        for i in group:
            _row(sheet, pen, fonts, store, i, entries[i], top, sound)
            top += row_height + 2
        top += GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def chosen_groups(entries: list[Entry]) -> list[list[int]]:
    """Rows of the sheet by index: real videos with the most kinds of forgeries, each with one of every kind below;
    without any, different words or people."""
    real = {e.video: i for i, e in enumerate(entries) if e.label == REAL and e.id == e.video}
    forged: dict[str, dict[str, int]] = defaultdict(dict)
    for i, e in enumerate(entries):
        if e.source in real and e.id == e.video:
            forged[e.source].setdefault(e.method, i)
    if forged:
        most = max(map(len, forged.values()))
        sources = [source for source in sorted(forged) if len(forged[source]) == most]
        return [[real[s], *(forged[s][m] for m in sorted(forged[s]))] for s in _spread(sources, GROUPS_WITH_FORGERIES)]
    kinds: dict[tuple, list[int]] = defaultdict(list)
    for i, e in enumerate(entries):
        kinds[e.label if e.label is not None else -1, e.method, e.word or ""].append(i)
    rounds: list[int] = []  # one of each kind, then a second of each ...
    for k in range(ROWS_WITHOUT):
        rounds += [indices[(k * 37) % len(indices)] for indices in kinds.values() if k < len(indices)]
        if len(rounds) >= ROWS_WITHOUT:
            break
    return [[i] for i in dict.fromkeys(rounds[:ROWS_WITHOUT])]


def _spread(items: list, count: int) -> list:
    count = min(count, len(items))
    return [items[k * len(items) // count] for k in range(count)]


def _row(sheet: Image.Image, pen: ImageDraw.ImageDraw, fonts: tuple, store: Store, i: int, entry: Entry, top: int,
         sound: bool) -> None:
    shown = min(entry.frames, 3 * FRAME_RATE)
    title = entry.word or entry.method
    colour = INK if entry.label is None else {0: (20, 110, 40), 1: WARNING}[entry.label]
    pen.text((6, top + 4), _fitted(pen, title, fonts[0]), colour, fonts[0])
    facts = f"{entry.split}, {entry.frames} frames", f"first {shown / FRAME_RATE:.1f} s shown"
    for k, line in enumerate((entry.id.split("/", 1)[-1], *facts)):
        pen.text((6, top + 26 + 16 * k), _fitted(pen, line, fonts[1]), FAINT, fonts[1])
    for k in range(COLUMNS):
        at = round(k * (shown - 1) / (COLUMNS - 1))
        picture = Image.fromarray(store.frames(i, at, at + 1)[0]).resize((CELL, CELL), Image.Resampling.LANCZOS)
        sheet.paste(picture, (LABEL + k * (CELL + 2), top))
    samples = store.sound(i, 0, shown) if sound and entry.sound else None
    if samples is not None:
        strip = spectrogram(samples)
        size = (COLUMNS * (CELL + 2) - 2, STRIP - 2)
        sheet.paste(Image.fromarray(strip).resize(size, Image.Resampling.BILINEAR), (LABEL, top + CELL + 1))


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """int16 (n,) to a grey picture (bands, time), low notes at the bottom, loud is dark."""
    import librosa  # half a second to import, and only pictures need it

    power = librosa.feature.melspectrogram(y=samples.astype(np.float32) / 32768, sr=SAMPLE_RATE, n_fft=512,
                                           hop_length=160, n_mels=40, htk=True)
    level = librosa.power_to_db(power, ref=np.max, top_db=60)
    return (255 * -level[::-1] / 60).astype(np.uint8)


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    if pen.textlength(text, font) <= LABEL - 12:
        return text
    while pen.textlength(f"...{text}", font) > LABEL - 12:
        text = text[1:]
    return f"...{text}"
