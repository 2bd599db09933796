"""Heat maps: how much of the heat lies where a generated video was really forged.

    crosstalk synthesize out=CORPUS;  a detector trained on it, or on another corpus of the same generator
    python -m benchmarks.heat BUNDLE CORPUS/faceforensics [--videos 24]

The corpus knows which pixels the forger laid on. Of the first window of each forged test video: the share of its heat
inside that region; of a random map with as many cells; of the heat of the real video that the forgery was made from, in
the same region (who looks at mouths only has much heat on a forged mouth, forged or not); and of plain Grad-CAM. The
edge that the network does not see counts for none. Intervals are 95 %, over people.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam
from PIL import Image

from benchmarks.machine import describe, report
from datasets.faces import CROP, cut, place
from datasets.synthetic.forgeries import METHODS
from datasets.views import evaluation_view
from engine.bootstrap import Interval, bootstrap
from engine.errors import UserError
from evaluation.detector import Detector
from evaluation.verdict.heat import cell_heat, laid_out
from evaluation.verdict.stream import FaceStream, FaceWindow


@dataclass(frozen=True)
class Shares:
    """Of one forged video: how much of each map lies inside the forged region."""

    method: str
    person: str  # whose video it was made from
    area: float
    random: float
    forged: float | None  # None: the map is empty
    real: float | None
    grad_cam: float | None


def pairs(corpus: Path, split: str) -> list[tuple[str, str]]:
    path = corpus / "splits" / f"{split}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: give the faceforensics folder of a corpus that crosstalk synthesize wrote")
    both = [(str(one), str(other)) for one, other in json.loads(path.read_text())]
    return both + [(other, one) for one, other in both]


def first_window(video: Path) -> tuple[FaceWindow, tuple[int, int]] | None:
    stream = FaceStream(video)
    return next(((window, stream.size) for window in stream), None)


def region(masks: np.ndarray, window: FaceWindow, size: tuple[int, int]) -> np.ndarray:
    """Masks of a whole video, uint8 (frames, 64, 64) -> those of a window's crops, 0 to 1, (25, 150, 150)."""
    found = []
    for number, landmarks in enumerate(window.landmarks):
        mask = Image.fromarray(masks[window.start + number]).resize(size[::-1], Image.Resampling.BILINEAR)
        found.append(cut(np.repeat(np.asarray(mask)[..., None], 3, axis=2), *place(landmarks))[..., 0])
    return np.stack(found).astype(np.float32) / 255


def inside(heat: np.ndarray, where: np.ndarray) -> float | None:
    return float((heat * where).sum() / heat.sum()) if heat.any() else None


def grad_cam(detector: Detector, crops: np.ndarray) -> np.ndarray:
    """The cells (T, h, w) of what captum calls so."""
    backbone = detector.network.backbone
    clip = evaluation_view(detector.views, torch.from_numpy(crops)[None])[0]
    explained = LayerGradCam(detector.network, backbone.get_submodule(backbone.spatial_layer))
    return explained.attribute(clip, relu_attributions=True)[0, 0].detach().numpy()


def measured(detector: Detector, corpus: Path, split: str, videos: int, methods: list[str]) -> Iterator[Shares]:
    backbone, random = detector.network.backbone, np.random.default_rng(0)

    def laid(cells: np.ndarray) -> np.ndarray:
        return laid_out(cells, backbone, detector.views, CROP)

    for target, donor in pairs(corpus, split)[:videos]:
        real = first_window(corpus / f"original_sequences/youtube/c23/videos/{target}.mp4")
        if real is None:
            continue
        of_real = cell_heat(detector, real[0].crops)
        seen = laid(np.ones_like(of_real)) > 0
        for method in methods:
            name = f"{target}_{donor}"
            forged = first_window(corpus / f"manipulated_sequences/{method}/c23/videos/{name}.mp4")
            if forged is None:
                continue
            masks = np.load(corpus / f"masks/{method}/{name}.npz", allow_pickle=False)["mask"]
            on_forged, on_real = (region(masks, *window) * seen for window in (forged, real))
            by_chance = laid(random.random(of_real.shape).astype(np.float32))
            yield Shares(method, target, float(on_forged.sum() / seen.sum()), inside(by_chance, on_forged) or 0.0,
                         inside(laid(cell_heat(detector, forged[0].crops)), on_forged),
                         inside(laid(of_real), on_real),
                         inside(laid(grad_cam(detector, forged[0].crops)), on_forged))  # fmt: skip


def beyond(rows: list[Shares], other: str) -> Interval:
    """The forged videos' share minus another one, over people."""
    both = [row for row in rows if row.forged is not None and getattr(row, other) is not None]
    values = [row.forged for row in both] + [getattr(row, other) for row in both]
    return bootstrap([1] * len(both) + [0] * len(both), values, [row.person for row in both] * 2,
                     metric=lambda label, share: share[label == 1].mean() - share[label == 0].mean(),
                     what=f"heat against {other}")  # fmt: skip


def shown(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heat", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="of stage 2")
    parser.add_argument("corpus", type=Path, help="faceforensics/ of a generated corpus")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--videos", type=int, default=24, help="people whose forgeries are looked at")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    detector = Detector.load(options.bundle)
    found = list(measured(detector, options.corpus, options.split, options.videos, options.methods))
    rows = [("forged by", "videos", "region", "random", "real", "Grad-CAM", "its empty", "heat", "empty",
             "heat - random", "heat - real")]  # fmt: skip
    result = {}
    for method in options.methods:
        own = [row for row in found if row.method == method]
        against = {other: beyond(own, other) for other in ("random", "real")}
        values = {name: mean([getattr(row, name) for row in own])
                  for name in ("area", "random", "real", "grad_cam", "forged")}  # fmt: skip
        empty = {name: sum(getattr(row, name) is None for row in own) for name in ("grad_cam", "forged")}
        rows.append((method, len(own), values["area"], values["random"], values["real"], values["grad_cam"],
                     empty["grad_cam"], values["forged"], empty["forged"], *map(shown, against.values())))  # fmt: skip
        result[method] = {**{name: round(value, 4) if value == value else None for name, value in values.items()},
                          "videos": len(own),
                          "empty": empty, **{f"beyond_{other}": [round(x, 4) for x in (i.value, i.low, i.high)]
                                             for other, i in against.items()}}  # fmt: skip
    report(f"Share of the heat inside the forged region, {options.bundle}", rows,
           {"methods": result, "digest": detector.digest, "machine": describe()})  # fmt: skip


if __name__ == "__main__":
    main()
