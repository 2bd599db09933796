"""Drawing on a video's pictures: heat over a face, a box about it."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.faces import CROP

STRONGEST = 0.6  # how much of the picture the hottest place hides


def with_heat(picture: np.ndarray, heat: np.ndarray, origin: complex, step: complex) -> np.ndarray:
    """A uint8 (H, W, 3) picture with a face's heat over it: float (150, 150), 0 to 1, as the crop at this place."""
    left, top, right, bottom = _bounds(origin, step, picture.shape)
    if right <= left or bottom <= top:
        return picture
    # The picture's point p shows the crop's (p - origin) / step. Pillow counts from pixel corners, we from centres.
    back, at = 1 / step, (complex(left, top) - origin) / step
    at += 0.5 * (1 + 1j) - back * 0.5 * (1 + 1j)
    coefficients = (back.real, -back.imag, at.real, back.imag, back.real, at.imag)
    laid = Image.fromarray(np.asarray(heat, np.float32)).transform(
        (right - left, bottom - top), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(laid), 0.0, 1.0)
    part = picture[top:bottom, left:right]
    colour = _colours()[np.round(255 * strength).astype(np.uint8)]
    share = STRONGEST * strength[..., None] ** 0.75
    result = picture.copy()
    result[top:bottom, left:right] = np.round(part * (1 - share) + colour * share).astype(np.uint8)
    return result


def with_box(picture: np.ndarray, origin: complex, step: complex, text: str,
             colour: tuple[int, int, int]) -> np.ndarray:  # fmt: skip
    """With the outline of the crop, and a line of text above it, or below where there is no room."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    corners = [origin + step * complex(x, y) for x, y in ((0, 0), (CROP - 1, 0), (CROP - 1, CROP - 1), (0, CROP - 1))]
    width = max(2, round(max(picture.shape) / 400))
    points = [(corner.real, corner.imag) for corner in corners]
    pen.line([*points, points[0]], fill=colour, width=width, joint="curve")
    if text:
        font = _font(max(13, round(max(picture.shape) / 45)))
        left, top, right, bottom = pen.textbbox((0, 0), text, font)
        high, pad = bottom - top, width + 2
        x = min(max(0, min(x for x, _ in points)), max(0, picture.shape[1] - (right - left) - 2 * pad))
        above = min(y for _, y in points) - high - 2 * pad - width
        y = above if above >= 0 else min(max(y for _, y in points) + width, picture.shape[0] - high - 2 * pad)
        pen.rectangle((x, y, x + right - left + 2 * pad, y + high + 2 * pad), fill=colour)
        pen.text((x + pad - left, y + pad - top), text, (255, 255, 255), font)
    return np.asarray(image)


def about(shape: tuple[int, ...], origin: complex, step: complex) -> tuple[slice, slice]:
    """The part of an (H, W, 3) picture that shows a face and what surrounds it."""
    centre, reach = origin + step * (CROP - 1) / 2 * (1 + 1j), abs(step) * CROP / 2
    height, width = shape[:2]
    left, right = int(centre.real - 2.1 * reach), int(centre.real + 2.1 * reach)
    top, bottom = int(centre.imag - 1.7 * reach), int(centre.imag + 1.7 * reach)
    return (slice(min(max(0, top), height - 1), max(1, min(height, bottom))),
            slice(min(max(0, left), width - 1), max(1, min(width, right))))  # fmt: skip


def _bounds(origin: complex, step: complex, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    corners = [origin + step * complex(x, y) for x in (-1, CROP) for y in (-1, CROP)]
    height, width = shape[:2]
    xs, ys = [corner.real for corner in corners], [corner.imag for corner in corners]
    return max(0, int(min(xs))), max(0, int(min(ys))), min(width, int(max(xs)) + 2), min(height, int(max(ys)) + 2)


@functools.cache
def _colours() -> np.ndarray:
    """uint8 (256, 3), from cold to hot."""
    import matplotlib

    return np.round(255 * matplotlib.colormaps["turbo"](np.linspace(0.1, 0.95, 256))[:, :3]).astype(np.uint8)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
