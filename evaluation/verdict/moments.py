"""The moments of a video that its report shows: a frame with the face, and the same with the heat map over it.

Their number is bounded, whatever the video's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets.clips import CLIP_FRAMES
from datasets.media import Frame
from evaluation.page import data_address
from evaluation.verdict.drawing import about, with_box, with_heat
from evaluation.verdict.judgement import Judgement
from evaluation.verdict.replay import Shown, replay

MOST = 60
WIDTH = 400  # of a picture, in pixels
BOX = (120, 130, 145)

# uint8 (25, 150, 150, 3) crops of a window -> heat, float (25, 150, 150) from 0 to 1
Explain = Callable[[np.ndarray], np.ndarray]
# the same -> how much of the model's attention each frame has, (25,), or None where it has none to give
Attend = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Moment:
    person: int
    start: int  # of its window
    frame: int  # that is shown: the one that moved the model most
    logit: float
    plain: str  # data: address of a JPEG
    heat: str
    attention: tuple[float, ...] = ()  # of each of its frames, relative to the highest


def moments(judgement: Judgement, explain: Explain, attend: Attend = lambda crops: None, most: int = MOST,
            progress: Callable[[int, int], None] = lambda done, total: None) -> list[Moment]:  # fmt: skip
    """Of all windows the most suspicious, and others at equal distances, in order of time."""
    wanted = chosen(judgement, most)
    found: list[Moment] = []
    recent: deque[Frame] = deque(maxlen=CLIP_FRAMES)
    for frame, ended in replay(judgement, lambda person, window: (person.number, window.start) in wanted):
        recent.append(frame)
        for shown in ended:
            found.append(_moment(shown, explain(shown.crops), attend(shown.crops), recent))
            progress(len(found), len(wanted))
        if len(found) == len(wanted):
            break
    return found


def chosen(judgement: Judgement, most: int) -> set[tuple[int, int]]:
    """(person, first frame) of the windows to be shown: of more than `most` half by suspicion, half evenly over all."""
    every = [(window.logit, person.number, window.start) for person in judgement.people for window in person.windows]
    if len(every) <= most:
        return {(person, start) for _, person, start in every}
    foremost = sorted(every, key=lambda item: -item[0])[: most // 2]
    rest = [item for item in every if item not in foremost]
    spread = [rest[k * len(rest) // (most - most // 2)] for k in range(most - most // 2)]
    return {(person, start) for _, person, start in foremost + spread}


def _moment(shown: Shown, heat: np.ndarray, attention: np.ndarray | None, recent: deque[Frame]) -> Moment:
    hottest = int(heat.sum(axis=(1, 2)).argmax())
    frame = next(frame for frame in recent if frame.index == shown.window.start + hottest)
    picture, place = frame.rgb(), shown.place(frame.index)
    view = about(picture.shape, *place)
    return Moment(shown.person.number, shown.window.start, frame.index, shown.window.logit,
                  _thumbnail(with_box(picture, *place, "", BOX)[view]),
                  _thumbnail(with_heat(picture, heat[hottest], *place)[view]),
                  () if attention is None else tuple((attention / attention.max()).tolist()))  # fmt: skip


def _thumbnail(pixels: np.ndarray) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return data_address(image, quality=80)
