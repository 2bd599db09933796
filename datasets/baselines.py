"""Linear baselines: what a forgery can be told by without looking at the face as a face.

If one of these separates real from forged, a corpus has a shortcut and a network's figures on it mean little. They are
computed from what `prepare` has at hand: the aligned crops, eight numbers of the background, the size of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

FRAME_RATE = 25
BASELINES = ("file_size", "colour", "sharpness", "noise", "energy", "background")
BACKGROUND_NUMBERS = 8
FOLDS, REPEATS = 5, 5
MOST_FRAMES = 64  # evenly spaced frame pairs of a longer video: these are statistics, not measurements of every frame

# Boxes of the aligned 150x150 crop (top, bottom, left, right): eyes near (49, 44) and (103, 44), mouth near (76, 108).
INNER_FACE = (28, 128, 36, 116)
MOUTH = (92, 126, 50, 102)


def features(crops: NDArray[np.uint8], background: np.ndarray | None, file_bytes: int) -> dict[str, np.ndarray]:
    """One video's numbers, a float64 vector for each of `BASELINES`, from its crops (T, 150, 150, 3).

    file_size   2: log of bytes and of bytes a second
    colour      6: mean and spread of R, G, B
    sharpness   4: mean gradient energy, and that of the Laplacian, on the whole crop and on the inner face (log)
    noise       4: median absolute residual of a 3x3 mean and its 90th percentile, whole and inner face (log)
    energy      6: frame-to-frame difference, mean and spread over time of whole crop, inner face, mouth (log)
    background  8: `background_numbers`; left out if `background` is None
    """
    if crops.ndim != 4 or crops.shape[3] != 3 or len(crops) < 2:
        raise ValueError(f"crops {crops.shape}: (T, H, W, 3) with at least 2 frames expected")
    seconds = len(crops) / FRAME_RATE
    start = np.unique(np.linspace(0, len(crops) - 2, min(len(crops) - 1, MOST_FRAMES)).astype(int))
    planes, later = _planes(crops[start]), _planes(crops[start + 1])  # (P, 3, H, W)
    gray = planes.mean(1)  # (P, H, W)
    inner, mouth = _cut(INNER_FACE, crops.shape[1:3]), _cut(MOUTH, crops.shape[1:3])
    clear = [_gradient(gray), np.abs(_laplacian(gray))]
    left, change = np.abs(_residual(gray)), np.abs(later.mean(1) - gray)
    sharp = np.stack([part.mean((1, 2)) for area in (..., (..., *inner)) for part in (each[area] for each in clear)])
    noise = np.concatenate([_percentiles(left), _percentiles(left[:, *inner])])
    moved = np.stack([part.mean((1, 2)) for part in (change, change[:, *inner], change[:, *mouth])])  # (3, P)
    numbers = {
        "file_size": np.log(np.array([file_bytes, file_bytes / seconds])),
        "colour": np.concatenate([planes.mean((2, 3)), planes.std((2, 3))], 1).mean(0),
        "sharpness": np.log(sharp.mean(1) + 1e-3),
        "noise": np.log(noise.mean(1) + 1e-3),
        "energy": np.log(np.concatenate([moved.mean(1), moved.std(1)]) + 1e-3),
    }
    if background is not None:
        numbers["background"] = np.asarray(background, np.float64)
    return {name: np.asarray(values, np.float64) for name, values in numbers.items()}


def background_numbers(
    frames: Sequence[NDArray[np.uint8]], boxes: np.ndarray, *, enlarge: float = 2.0
) -> NDArray[np.float32]:
    """(8,): mean R, G, B; spread of R, G, B; gradient energy; frame-to-frame change, outside the enlarged face boxes.

    `frames` are uint8 (H, W, 3) in the order of time, `boxes` (n, 4) their faces as left, top, right, bottom. The
    change is between frames that follow each other in `frames`. Where nothing is left outside, all eight are 0.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape != (len(frames), 4):
        raise ValueError(f"boxes {boxes.shape}: one box of 4 numbers for each of {len(frames)} frames expected")
    colours, sharp, change, before = [], [], [], None
    for frame, (left, top, right, bottom) in zip(frames, boxes, strict=True):
        height, width = frame.shape[:2]
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        half_x, half_y = (right - left) / 2 * enlarge, (bottom - top) / 2 * enlarge
        outside = np.ones((height, width), bool)
        # Below the face are neck and shoulders, which talk too.
        outside[
            max(int(middle_y - half_y), 0) :, max(int(middle_x - half_x), 0) : max(int(middle_x + half_x) + 1, 0)
        ] = False
        picture = frame.astype(np.float32)
        gray = picture.mean(2)
        if outside.any():
            pixels = picture[outside]
            colours.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
            clear = _all_around(outside)  # a gradient over the box' edge would see the face
            sharp.append(_gradient(gray)[clear].mean() if clear.any() else 0.0)
            if before is not None and (both := outside & before[1]).any():
                change.append(np.abs(gray - before[0])[both].mean())
        before = gray, outside
    if not colours:
        return np.zeros(BACKGROUND_NUMBERS, np.float32)
    return np.concatenate([np.mean(colours, 0), [np.mean(sharp), np.mean(change) if change else 0.0]]).astype(
        np.float32
    )


def auc_table(
    videos: Sequence[dict[str, np.ndarray]], labels: Sequence[int], methods: Sequence[str], groups: Sequence[str]
) -> dict[str, dict[str, float]]:
    """{method: {baseline: AUC}} of a logistic regression that tells each method from the real videos.

    For each method, its forgeries and all the real videos (label 0) are split into 5 folds (fewer if there are fewer
    groups) so that no group, that is no pair of identities, lies on both sides; numbers are standardised and their
    squares added (so that "in the middle" can be told from "at both ends"), classes weighted alike, C = 1. The figure
    is the mean of the folds' AUCs over five such divisions: a single one is off by 0.02 either way. 0.5 is chance;
    well below 0.5 is chance as well, on few videos. nan: too few videos.
    """
    label, method, group = np.asarray(labels), np.asarray(methods), np.asarray(groups)
    if not len(videos) == len(label) == len(method) == len(group):
        raise ValueError("videos, labels, methods and groups must be of one length")
    table: dict[str, dict[str, float]] = {}
    for name in sorted(set(method[label == 1])):
        chosen = np.flatnonzero((label == 0) | ((label == 1) & (method == name))).tolist()
        present = [baseline for baseline in BASELINES if all(baseline in videos[k] for k in chosen)]
        table[name] = {
            baseline: _cross_validated(
                np.stack([videos[k][baseline] for k in chosen]), label[chosen], group[chosen]
            )
            for baseline in present
        }
    return table


def _cross_validated(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    # Here, because preparing processes need `background_numbers` alone, and scikit-learn takes seconds to load.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, len(np.unique(group)), int((y == 0).sum()), int((y == 1).sum()))
    if folds < 2:
        return float("nan")
    aucs = []
    divisions = (StratifiedGroupKFold(folds, shuffle=True, random_state=k).split(x, y, group) for k in range(REPEATS))
    for train, test in chain.from_iterable(divisions):
        if len(set(y[train])) < 2 or len(set(y[test])) < 2:
            continue
        scale = StandardScaler().fit(x[train])
        inputs = [
            np.concatenate([scaled, scaled**2], 1)
            for scaled in (scale.transform(x[train]), scale.transform(x[test]))
        ]
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)).fit(
            inputs[0], y[train]
        )
        aucs.append(roc_auc_score(y[test], model.decision_function(inputs[1])))
    return float(np.mean(aucs)) if aucs else float("nan")


def _cut(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, bottom, left, right = (round(edge * shape[0] / 150) for edge in box)
    return slice(top, bottom), slice(left, right)


def _planes(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(P, H, W, 3) -> (P, 3, H, W): sums along what lies side by side in memory are many times as fast."""
    return np.ascontiguousarray(np.moveaxis(crops, 3, 1)).astype(np.float32)


def _percentiles(values: np.ndarray) -> np.ndarray:
    """(P, H, W) -> (2, P): the median and the 90th of each."""
    return np.percentile(values.reshape(len(values), -1), (50, 90), axis=1)


# Each of one picture (H, W), or of many (P, H, W).

def _gradient(gray: np.ndarray) -> np.ndarray:
    down, across = np.zeros_like(gray), np.zeros_like(gray)
    down[..., 1:-1, :], across[..., 1:-1] = gray[..., 2:, :] - gray[..., :-2, :], gray[..., 2:] - gray[..., :-2]
    return np.sqrt(down**2 + across**2)


def _all_around(mask: np.ndarray) -> np.ndarray:
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
    return inner


def _laplacian(gray: np.ndarray) -> np.ndarray:
    around = np.zeros_like(gray)
    across, down = gray[..., 1:-1, :], gray[..., 1:-1]
    around[..., 1:-1, 1:-1] = (down[..., 2:, :] + down[..., :-2, :] + across[..., 2:] + across[..., :-2]
                               - 4 * down[..., 1:-1, :])  # fmt: skip
    return around


def _residual(gray: np.ndarray) -> np.ndarray:
    padded = np.pad(gray, [(0, 0)] * (gray.ndim - 2) + [(1, 1)] * 2, mode="edge")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return gray - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
