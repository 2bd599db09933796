"""What a face crop looks like in a few hundred numbers, whoever it is: to tell whether a face is of a known kind.

No network: the features of one that learned from few faces do not notice that a face is of another kind
(docs/detect.md has the figures).
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

CELL, DIRECTIONS = 15, 8
BANDS = 10
SKIN = (slice(50, 130), slice(40, 110))  # of the aligned crop: from the eyes to the chin, between the cheeks
SIZES = {"shape": (150 // CELL) ** 2 * DIRECTIONS, "texture": BANDS, "colour": 6}
Looks = dict[str, NDArray[np.float64]]


def looks(crops: NDArray[np.uint8]) -> Looks:
    """Crops of a window, uint8 (T, 150, 150, 3), by first, middle and last -> a vector for each of `SIZES`.

    shape    where edges run in which direction: histograms over cells of 15 pixels, together of length 1, evened out by
             a square root (after Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005)
    texture  how much there is of each size of detail: log power in bands of the spectrum
    colour   log of mean and spread of R, G, B on the inner face
    """
    chosen = crops[[0, len(crops) // 2, -1]].astype(np.float32) / 255
    grey = chosen.mean(axis=-1)
    skin = chosen[:, *SKIN].astype(np.float64)  # in float32 the mean of a plain surface is not its colour
    colour = np.concatenate([np.log(skin.mean(axis=(0, 1, 2)) + 0.05),
                             np.log(skin.std(axis=(1, 2)).mean(axis=0) + 0.02)])  # fmt: skip
    every = {"shape": np.mean([_shape(one) for one in grey], axis=0),
             "texture": np.mean([_texture(one) for one in grey], axis=0), "colour": colour}  # fmt: skip
    return {name: np.asarray(vector, np.float64) for name, vector in every.items()}


def _shape(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    down, across = np.gradient(grey)
    strength = np.hypot(across, down)
    turn = np.arctan2(down, across) % np.pi / np.pi * DIRECTIONS
    first = np.floor(turn).astype(int) % DIRECTIONS
    share = turn - np.floor(turn)  # an edge between two directions counts for both
    cells, row = len(grey) // CELL, np.arange(len(grey)) // CELL
    cell = (row[:, None] * cells + row) * DIRECTIONS
    size = cells**2 * DIRECTIONS
    found = np.bincount((cell + first).ravel(), (strength * (1 - share)).ravel(), size)
    found += np.bincount((cell + (first + 1) % DIRECTIONS).ravel(), (strength * share).ravel(), size)
    return np.sqrt(found / (np.linalg.norm(found) + 1e-3 * CELL**2))


def _texture(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    window, band, sizes = _spectrum(len(grey))
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2
    return np.log(np.bincount(band.ravel(), power.ravel(), BANDS + 1)[:BANDS] / sizes + 1e-3)


@functools.cache
def _spectrum(side: int) -> tuple[NDArray, NDArray, NDArray]:
    """A window, the band of each frequency (those between 1/75 and 1/2 have one), the frequencies of each band."""
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    edges = np.geomspace(1 / 75, 0.5, BANDS + 1)
    band = np.searchsorted(edges, radius, side="right") - 1
    band[(radius < edges[0]) | (band >= BANDS)] = BANDS
    window = np.hanning(side)[:, None] * np.hanning(side)
    return window, band, np.bincount(band.ravel(), minlength=BANDS + 1)[:BANDS]
