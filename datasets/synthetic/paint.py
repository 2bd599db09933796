"""Small tools of the painters: smooth steps, noise, colour."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

SHEET = 700  # pixels; larger than any picture painted here


def step(low: float | np.ndarray, high: float | np.ndarray, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (also for low > high: falling)."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def blob(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def over(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Paint `colour` (3,) or (H, W, 3) over the canvas where alpha (H, W) says so."""
    return canvas + (colour - canvas) * alpha[..., None]


@lru_cache(maxsize=32)
def _cloud_sheet(coarse: float, octaves: int) -> np.ndarray:
    """A large sheet of smooth noise, made once for each kind: painters cut their pieces from it."""
    rng = np.random.default_rng([int(coarse * 10), octaves])
    total = np.zeros((SHEET, SHEET))
    for octave in range(octaves):
        sigma = max(coarse / 2**octave * 0.42, 0.3)
        layer = gaussian_filter(rng.normal(size=(SHEET, SHEET)).astype(np.float32), sigma, mode="wrap", truncate=3.0)
        total += layer / (layer.std() * 2**octave)
    return ((total - total.mean()) / total.std()).astype(np.float32)


def cloud(rng: np.random.Generator, shape: tuple[int, int], coarse: float, octaves: int = 3) -> np.ndarray:
    """Smooth noise of about unit spread (H, W): `coarse` pixels is the size of the largest lumps."""
    sheet = _cloud_sheet(float(coarse), octaves)
    top, left = int(rng.integers(SHEET - shape[0])), int(rng.integers(SHEET - shape[1]))
    piece = sheet[top : top + shape[0], left : left + shape[1]]
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def strands(rng: np.random.Generator, across: np.ndarray, along: np.ndarray, fineness: float) -> np.ndarray:
    """Hair: noise that varies fast `across` the flow and slowly `along` it; about -1.6..1.6, shaped as the inputs."""
    total = np.zeros(across.shape, np.float32)
    across, along = across.astype(np.float32), along.astype(np.float32)
    for frequency, weight in ((fineness, 0.5), (fineness * 2.3, 0.35), (fineness * 5.1, 0.25)):
        table = rng.normal(size=2048).astype(np.float32)
        place = np.mod(
            across * np.float32(frequency)
            + np.float32(0.5) * np.sin(along * np.float32(2.6) + np.float32(frequency))
            + 700,
            2046,
        )
        low = place.astype(np.int32)
        part = place - low
        total += weight * (table[low] * (1 - part) + table[low + 1] * part)
    return np.clip(total, -1.6, 1.6)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(picture, (sigma, sigma) + (0,) * (picture.ndim - 2), mode="nearest", truncate=3.0)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.clip(srgb, 0, 1) ** 2.2


def to_srgb(linear: np.ndarray) -> np.ndarray:
    return np.clip(linear, 0, 1) ** (1 / 2.2)
