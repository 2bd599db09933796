"""What the seven perturbations do to a frame at their five severities: a picture of all, and what a frame costs.

    python -m benchmarks.perturbations VIDEO sheet.png [--frame 20]

A row for each perturbation, the clean frame first. Prints milliseconds a frame, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datasets.media import read_frames
from datasets.perturbations import PARAMETERS, SEVERITIES, perturbed
from engine.tables import Table

WIDTH, MARGIN = 256, 22  # of a frame in the picture; above each row, for its name


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perturbations", description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path, help="where it goes")
    parser.add_argument("--frame", type=int, default=20, help="which frame is shown")
    options = parser.parse_args()
    frames = [frame.rgb() for frame in islice(read_frames(options.video), options.frame + 10)]
    shown, costs = {}, {}
    for name in PARAMETERS:
        row, seconds = [frames[options.frame]], []
        for severity in SEVERITIES:
            began = time.perf_counter()
            made = list(perturbed(frames, name, severity, video=options.video.stem))
            seconds.append((time.perf_counter() - began) / len(frames))
            row.append(made[options.frame])
        shown[name], costs[name] = row, [1000 * each for each in seconds]
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    sheet(shown).save(options.picture)
    height, width = frames[0].shape[:2]
    print(f"{len(frames)} frames of {width} x {height}; milliseconds a frame\n")
    print(Table(["", *map(str, SEVERITIES)], [[name, *each] for name, each in costs.items()]).markdown())
    print(f"picture: {options.picture}")
    print(json.dumps({name: max(each) for name, each in costs.items()}), flush=True)


def sheet(shown: dict[str, list[np.ndarray]]) -> Image.Image:
    first = next(iter(shown.values()))
    height = round(WIDTH * first[0].shape[0] / first[0].shape[1])
    made = Image.new("RGB", (WIDTH * len(first), (height + MARGIN) * len(shown)), "white")
    draw = ImageDraw.Draw(made)
    for down, (name, row) in enumerate(shown.items()):
        top = down * (height + MARGIN)
        for across, picture in enumerate(row):
            says = f"{name}, severity {across}" if across else "as it was"
            draw.text((across * WIDTH + 4, top + 5), says, fill="black")
            made.paste(Image.fromarray(picture).resize((WIDTH, height), Image.Resampling.LANCZOS),
                       (across * WIDTH, top + MARGIN))  # fmt: skip
    return made


if __name__ == "__main__":
    main()
