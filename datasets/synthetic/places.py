"""Paints what does not talk: a room out of focus, shoulders, clothes, the hair behind the neck."""

from __future__ import annotations

import numpy as np

from datasets.synthetic.paint import blur, cloud, over, step, strands, to_linear, to_srgb
from datasets.synthetic.people import Person
from datasets.synthetic.portrait import Light, hair_outline, outline

MARGIN = 16  # pixels around the frame, for a camera that is not held still
PLACES = ("wall", "studio", "shelves", "window", "curtain", "lights", "panels")


def paint_scene(
    p: Person, light: Light, rng: np.random.Generator, size: int, centre: tuple[float, float], scale: float
) -> np.ndarray:
    """float32 (size + 2 MARGIN, same, 3) sRGB: the room and the person's body.

    The head's place is at `centre`; `scale` pixels are an eye distance.
    """
    full = size + 2 * MARGIN
    pixels = np.arange(full, dtype=np.float32) - MARGIN + 0.5
    across, down = np.meshgrid(pixels, pixels)
    x, y = (across - centre[0]) / scale, (down - centre[1]) / scale
    y_body = y + 0.22  # necks are short
    picture = _room(rng, full)
    picture = _hair_behind(p, light, np.random.default_rng(p.seed + 1), picture, x, y)
    return _body(p, light, np.random.default_rng(p.seed + 2), picture, x, y_body).astype(np.float32)


def _room(rng: np.random.Generator, full: int) -> np.ndarray:
    line = np.linspace(0, 1, full, dtype=np.float32)
    across, down = np.meshgrid(line, line)
    tones = np.array(
        [
            [0.62, 0.60, 0.57],
            [0.48, 0.52, 0.56],
            [0.70, 0.66, 0.58],
            [0.35, 0.38, 0.42],
            [0.52, 0.46, 0.40],
            [0.56, 0.60, 0.55],
            [0.26, 0.28, 0.33],
            [0.78, 0.77, 0.74],
            [0.44, 0.36, 0.33],
            [0.33, 0.40, 0.47],
        ]
    )

    def tone() -> np.ndarray:
        return np.clip(
            tones[rng.integers(len(tones))] * rng.uniform(0.8, 1.15) + rng.normal(0, 0.02, 3), 0.06, 0.92
        )

    kind = PLACES[rng.integers(len(PLACES))]
    slope = rng.uniform(-0.25, 0.25) * (across - 0.5) + rng.uniform(-0.2, 0.2) * (down - 0.5)
    picture = np.broadcast_to(tone(), (full, full, 3)) * (1 + slope[..., None])
    softness = rng.uniform(3, 7)
    if kind == "studio":
        glow = np.exp(
            -(((across - rng.uniform(0.3, 0.7)) / 0.45) ** 2) - ((down - rng.uniform(0.2, 0.5)) / 0.45) ** 2
        )
        picture = picture * (0.55 + 0.65 * glow[..., None])
    elif kind == "shelves":
        picture = picture * 0.6
        height = rng.uniform(0.2, 0.3)
        top = rng.uniform(-0.2, 0.0)
        while top < 1:
            left = rng.uniform(-0.1, 0.05)
            while left < 1.0:
                width = rng.uniform(0.02, 0.06)
                tall = top + height * rng.uniform(0.1, 0.35)
                book = (
                    (across > left) & (across < left + width) & (down > tall) & (down < top + height * 0.93)
                ).astype(float)
                if rng.random() < 0.85:
                    picture = over(picture, tone() * rng.uniform(0.6, 1.1), book)
                left += width
            picture = over(
                picture,
                np.array([0.36, 0.27, 0.20]),
                ((down > top + height * 0.93) & (down < top + height)).astype(float),
            )
            top += height
    elif kind == "window":
        left, right, bottom = rng.uniform(-0.1, 0.55), rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.8)
        right = left + right
        inside = (
            step(left, left + 0.01, across) * step(right, right - 0.01, across) * step(bottom, bottom - 0.01, down)
        )
        sky = (
            np.array([0.80, 0.86, 0.90])
            + (np.array([0.62, 0.70, 0.62]) - np.array([0.80, 0.86, 0.90])) * step(0.2, 0.6, down)[..., None]
        )
        picture = over(picture, sky, inside * 0.92)
        bar = np.maximum(
            step(0.014, 0.008, np.abs(across - (left + right) / 2)), step(0.014, 0.008, np.abs(down - bottom * 0.5))
        )
        picture = over(picture, np.array([0.55, 0.53, 0.50]), bar * inside)
    elif kind == "curtain":
        bend = across * rng.uniform(35, 80) + 0.8 * np.sin(down * 3) + cloud(rng, (full, full), 90, 1) * 0.7
        picture = picture * (1 + 0.14 * np.sin(bend) + 0.06 * np.sin(2.3 * bend))[..., None]
        softness = rng.uniform(1.5, 4)
    elif kind == "lights":
        picture = picture * 0.45
        for _ in range(rng.integers(8, 20)):
            radius = rng.uniform(0.02, 0.06)
            disc = step(radius, radius * 0.8, np.hypot(across - rng.random(), down - rng.random() * 0.9))
            picture = picture + disc[..., None] * (tone() * np.array([1.15, 1.0, 0.8])) * rng.uniform(0.2, 0.6)
        softness = 2.5
    elif kind == "panels":
        for edge in np.sort(rng.uniform(0, 1, rng.integers(2, 5))):
            picture = over(picture, tone(), step(edge, edge + 0.004, across) * rng.uniform(0.3, 0.8))
        picture = over(picture, tone() * 0.7, step(0.72, 0.73, down + 0.03 * across) * rng.uniform(0, 0.8))
    picture = picture * (1 + 0.03 * cloud(rng, (full, full), 60, 3))[..., None]
    return np.clip(blur(picture, softness), 0.02, 0.97)


def _hair_behind(
    p: Person, light: Light, rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    if p.hair_style not in ("medium", "long", "curly"):
        return picture
    bulk = hair_outline(p, x, y, outline(p, x, y))
    mask = step(1.02, 0.97, bulk + 0.01 * cloud(rng, x.shape, 7, 2)) * step(-0.8, -0.4, y)
    flow = strands(rng, x, y, 6.5)
    shade = np.clip(0.30 + 0.22 * flow, 0.05, 1)[..., None] * (light.fill + 0.55 * light.key)
    return over(picture, to_srgb(to_linear(p.hair) * shade * 1.5), mask)


def _body(
    p: Person, light: Light, rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    ax = np.abs(x)
    neck_half = p.neck * (1 + 0.25 * step(2.1, 2.9, y) + 0.1 * step(1.5, 0.9, y))
    neck = step(1.02, 0.97, ax / neck_half) * step(0.7, 0.9, y) * step(3.4, 3.1, y)
    round_ = np.clip(x / neck_half, -1, 1)
    normal_z = np.sqrt(np.clip(1 - round_**2, 0.02, 1))
    toward = np.clip(round_ * light.direction[0] + normal_z * light.direction[2], 0, None)
    under_chin = 1 - 0.55 * step(2.5, 1.75, y)
    tendon = 1 - 0.10 * np.exp(-(((ax - 0.25 - 0.06 * (2.6 - y)) / 0.06) ** 2))
    skin = (
        to_linear(p.skin * np.array([0.97, 0.93, 0.92]))
        * (light.fill + light.key * toward[..., None])
        * (under_chin * tendon)[..., None]
    )
    picture = over(picture, to_srgb(skin * 0.92), neck)

    # Shoulders: a slope from the neck that falls off at the arms.
    slope = (
        2.42 + 0.50 * np.clip(ax / p.shoulders, 0, 1.2) ** 2.2 + 1.2 * np.clip(ax / p.shoulders - 0.86, 0, 1) * 3
    )
    slope = slope - 0.30 * np.exp(-((ax / (p.neck * 1.05)) ** 4)) * (p.collar == "suit") * 0.3
    torso = step(slope - 0.02, slope + 0.03, y)
    opening = {
        "round": np.hypot(x / (p.neck * 1.12), (y - 2.35) / 0.52),
        "vee": np.maximum(ax / 0.8 + (y - 2.2) / 1.25, 0) / 0.86,
        "shirt": np.maximum(ax / 0.62 + (y - 2.2) / 0.95, 0) / 0.86,
        "suit": np.maximum(ax / 0.75 + (y - 2.2) / 2.2, 0) / 0.86,
    }[p.collar]
    folds = cloud(rng, x.shape, 30, 3)
    lamp = 0.75 + 0.35 * np.clip(light.direction[0] * x / 2.2, -0.6, 0.6) + 0.07 * folds

    def cloth(colour: np.ndarray) -> np.ndarray:
        return to_srgb(to_linear(colour) * lamp[..., None] * (light.fill + 0.75 * light.key))

    garment = cloth(p.clothes)
    if p.collar == "suit":
        shirt = cloth(np.clip(p.clothes_second * 0.3 + 0.62, 0, 0.92))
        inside = step(1.04, 0.98, opening)
        garment = over(garment, shirt, inside)
        tie = step(0.13, 0.11, ax - 0.04 * (y - 2.5)) * step(2.45, 2.55, y)
        garment = over(garment, cloth(p.clothes_second), tie)
        lapel = np.exp(-(((opening - 1.12) / 0.05) ** 2))
        garment = garment * (1 - 0.25 * lapel[..., None])
        bare = step(2.55, 2.40, y + 0.35 * ax) * inside
    else:
        bare = step(1.03, 0.98, opening)
        rim = np.exp(-(((opening - 1.10) / 0.09) ** 2))
        garment = over(
            garment, cloth(np.clip(p.clothes * 1.18, 0, 1)), rim * (0.8 if p.collar == "shirt" else 0.45)
        )
        garment = garment * (1 - 0.22 * np.exp(-(((opening - 1.22) / 0.05) ** 2)))[..., None]
    skin_low = to_srgb(skin * 0.95)
    picture = over(picture, skin_low, torso * step(2.3, 2.45, y) * 0 + torso * bare)
    return over(picture, garment, torso * (1 - bare))
