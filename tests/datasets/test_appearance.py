"""What a crop looks like in numbers: edges of a known direction, waves of a known length, a known colour."""

import numpy as np
import pytest

from datasets.appearance import BANDS, CELL, DIRECTIONS, SIZES, looks

Y, X = np.mgrid[:150, :150]


def window(grey):
    return np.repeat(np.repeat(np.round(grey).astype(np.uint8)[None, ..., None], 3, axis=3), 5, axis=0)


def test_sizes():
    found = looks(np.random.default_rng(0).integers(0, 256, (25, 150, 150, 3), np.uint8))
    assert {name: vector.shape for name, vector in found.items()} == {name: (size,) for name, size in SIZES.items()}
    assert all(np.isfinite(vector).all() for vector in looks(np.zeros((25, 150, 150, 3), np.uint8)).values())


@pytest.mark.parametrize(("slope", "direction"), [((1, 0), 0), ((0, 1), 4), ((1, 1), 2), ((-1, 1), 6), ((-1, 0), 0)])
def test_a_slope_is_an_edge_of_its_direction_in_every_cell(slope, direction):
    """Direction k points k/8 of half a turn from the right towards the bottom, whatever its sign."""
    grey = 125 + 0.4 * (slope[0] * (X - 75) + slope[1] * (Y - 75))
    shape = looks(window(grey + 0.01))["shape"].reshape(10, 10, DIRECTIONS) ** 2
    share = shape.sum(axis=(0, 1)) / shape.sum()
    assert share[direction] + share[(direction - 1) % 8] / 2 + share[(direction + 1) % 8] / 2 > 0.75
    assert share.argmax() == direction


def test_an_edge_is_in_its_cell():
    grey = np.where((X > 67) & (abs(Y - 37) < 5), 200, 50)
    shape = (looks(window(grey))["shape"].reshape(10, 10, DIRECTIONS) ** 2)[..., 0]  # upright edges
    assert np.unravel_index(shape.argmax(), shape.shape) == (37 // CELL, 67 // CELL)
    assert (shape**2).sum() <= 1.0001


def test_a_wave_is_in_the_band_of_its_length():
    edges = np.geomspace(1 / 75, 0.5, BANDS + 1)
    for band in (3, 6, 8):
        frequency = np.sqrt(edges[band] * edges[band + 1])
        texture = looks(window(128 + 60 * np.sin(2 * np.pi * frequency * X)))["texture"]
        assert texture.argmax() == band
        assert texture[band] - np.delete(texture, band).max() > 1


def test_colour_by_hand():
    crops = np.zeros((25, 150, 150, 3), np.uint8)
    crops[..., 0], crops[:, ::2, :, 1] = 51, 102  # red 0.2 throughout; green 0.4 in every other row
    expected = np.log([0.2 + 0.05, 0.2 + 0.05, 0.05, 0.02, 0.2 + 0.02, 0.02])
    np.testing.assert_allclose(looks(crops)["colour"], expected, atol=1e-4)


def test_first_middle_and_last_frame_are_looked_at():
    crops = np.random.default_rng(1).integers(0, 256, (25, 150, 150, 3), np.uint8)
    other = crops.copy()
    other[1:12], other[13:24] = 0, 0
    assert all(np.array_equal(looks(crops)[name], looks(other)[name]) for name in SIZES)
    other[12] = 0
    assert not any(np.array_equal(looks(crops)[name], looks(other)[name]) for name in SIZES)
