"""Paints a person's head once, lips closed and lids shut: a lit height field with skin, brows, hair, glasses.

The renderer (`heads`) warps this picture for every frame and draws what moves inside it: eyeballs, teeth, tongue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from datasets.synthetic.paint import blob, blur, cloud, over, step, strands, to_linear, to_srgb
from datasets.synthetic.people import Person

SCALE = 72  # texture pixels per eye distance
LEFT, TOP, WIDTH, HEIGHT = -2.4, -2.5, 346, 360  # the texture's corner in eye distances, its size in pixels


@dataclass(frozen=True, slots=True)
class Light:
    direction: np.ndarray  # (3,) unit vector towards the lamp; x right, y down, z to the camera
    key: np.ndarray  # (3,) colour of the lamp
    fill: np.ndarray  # (3,) colour of the room


def draw_light(rng: np.random.Generator) -> Light:
    side, up = rng.uniform(-1.0, 1.0), rng.uniform(0.15, 0.8)
    direction = np.array([side, -up, rng.uniform(0.9, 1.3)])
    warmth = rng.normal(0, 0.05)
    key = np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.72, 0.98)
    fill = np.array([1 - warmth / 2, 1.0, 1 + warmth / 2]) * rng.uniform(0.24, 0.42)
    return Light(direction / np.linalg.norm(direction), key, fill)


def texture_grid() -> tuple[np.ndarray, np.ndarray]:
    x = (LEFT + (np.arange(WIDTH) + 0.5) / SCALE).astype(np.float32)
    y = (TOP + (np.arange(HEIGHT) + 0.5) / SCALE).astype(np.float32)
    return np.broadcast_to(x[None], (HEIGHT, WIDTH)), np.broadcast_to(y[:, None], (HEIGHT, WIDTH))


def outline(person: Person, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the middle of the face as a share of the way to its outline: 1 on the outline."""
    w, j, top = person.face_width, person.jaw_width, person.forehead
    points = np.array(
        [
            (0.0, -1.72 * top),
            (0.55 * w, -1.60 * top),
            (0.92 * w, -1.15 * top),
            (1.05 * w, -0.45),
            (1.05 * w, 0.15),
            (0.99 * w, 0.65),
            (0.86 * w * j, 1.15),
            (0.62 * w * j, 1.56 + person.chin / 2),
            (0.30 * j, 1.84 + person.chin),
            (0.0, 1.89 + person.chin),
        ]
    )
    angle, radius = np.arctan2(points[:, 0], 0.1 - points[:, 1]), np.hypot(points[:, 0], points[:, 1] - 0.1)
    turn = np.linspace(0, np.pi, 2000)
    curve = PchipInterpolator(angle, radius)(turn)
    here = np.interp(np.abs(np.arctan2(x, 0.1 - y)), turn, curve)
    return (np.hypot(x, y - 0.1) / here).astype(np.float32)


def height_field(p: Person, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> np.ndarray:
    ax = np.abs(x)
    z = 1.25 * np.sqrt(np.clip(1 - rho**2.3, 0, 1))
    t = np.clip((y + 0.15) / (p.nose_end + 0.15), 0, 1)
    ridge = (
        p.nose_height * (0.10 + 0.28 * t**1.3) * step(p.nose_end + 0.16, p.nose_end - 0.02, y) * step(-0.3, 0.05, y)
    )
    z = z + ridge * np.exp(-((ax / (0.085 + 0.07 * t * p.nose_width)) ** 2))
    z += 0.12 * p.nose_height * blob(ax, y, 0.0, p.nose_end, 0.13 * p.nose_width, 0.10)
    z += 0.11 * blob(ax, y, 0.165 * p.nose_width, p.nose_end + 0.04, 0.085, 0.085)
    z -= 0.15 * blob(ax, y, 0.47, -0.03, 0.30, 0.17)
    z += 0.09 * blob(ax, y, 0.5, 0.0, 0.25, 0.14)  # the eyeball under the lids
    z += 0.07 * blob(ax, y, 0.42, -0.36, 0.38, 0.10)
    z += 0.10 * p.cheeks * blob(ax, y, 0.64, 0.50, 0.28, 0.24)
    z += 0.09 * blob(ax, y, 0.0, p.mouth - 0.02, 0.42, 0.28)
    z += 0.045 * blob(ax, y, 0.0, p.mouth - p.lip_upper * 0.6, p.mouth_width * 0.7, 0.06)
    z += 0.06 * blob(ax, y, 0.0, p.mouth + p.lip_lower * 0.55, p.mouth_width * 0.62, 0.07)
    z -= 0.05 * blob(ax, y, 0.0, p.mouth + p.lip_lower + 0.09, 0.26, 0.07)
    z += 0.12 * blob(ax, y, 0.0, 1.66 + p.chin, 0.26, 0.15)
    z -= 0.02 * blob(ax, y, 0.0, p.nose_end + 0.27, 0.045, 0.11)  # philtrum
    fold = ax - (0.27 + 0.30 * np.clip((y - 0.68) / 0.55, 0, 1.2) ** 0.8)
    z -= (0.012 + 0.045 * p.age) * np.exp(-((fold / 0.045) ** 2)) * step(0.62, 0.8, y) * step(1.35, 1.05, y)
    return z


def paint_head(p: Person, light: Light) -> np.ndarray:
    """float32 (HEIGHT, WIDTH, 4): sRGB 0..1, premultiplied by the alpha in the last channel."""
    rng = np.random.default_rng(p.seed)
    x, y = texture_grid()
    ax, rho = np.abs(x), outline(p, x, y)
    face = step(1.012, 0.988, rho)
    z = blur(height_field(p, x, y, rho), 0.8)
    skin = _lit(p, light, _skin(p, rng, x, y, rho), z, rho, rng)
    picture, alpha = np.zeros((HEIGHT, WIDTH, 3)), np.zeros((HEIGHT, WIDTH))

    covered = p.hair_style in ("medium", "long", "curly")
    if not covered:
        ear_side = 1.04 * p.face_width
        inner = np.hypot((ax - ear_side - 0.03) / (0.15 * p.ear), (y - 0.12 - 0.04 * ax) / (0.30 * p.ear))
        ear = step(1.04, 0.94, inner)
        tone = to_linear(p.skin * np.array([0.97, 0.86, 0.84]))
        side = 0.55 + 0.45 * np.clip(light.direction[0] * np.sign(x) * 1.4, -0.6, 0.6)
        rim = 0.62 + 0.38 * step(0.45, 0.85, inner)
        picture = over(
            picture, to_srgb(tone[None, None] * (light.fill + light.key * side[..., None]) * rim[..., None]), ear
        )
        alpha = np.maximum(alpha, ear)
    picture, alpha = over(picture, skin, face), np.maximum(alpha, face)

    picture = _brows(p, rng, picture, ax, x, y)
    picture = _beard(p, rng, picture, ax, y, rho, face)
    picture, alpha = _hair(p, rng, light, picture, alpha, x, y, rho)
    picture, alpha = _glasses(p, picture, alpha, ax, y)
    return np.concatenate([picture * alpha[..., None], alpha[..., None]], 2).astype(np.float32)


def _skin(p: Person, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Unlit colour (linear light) of face and lips."""
    ax, shape = np.abs(x), x.shape
    colour = np.broadcast_to(to_linear(p.skin), (*shape, 3)).copy()
    lumps, pores = cloud(rng, shape, 26, 3), cloud(rng, shape, 5, 2)
    colour *= (1 + 0.045 * lumps + 0.03 * pores)[..., None]
    red = (
        0.9 * blob(ax, y, 0.62, 0.62, 0.30, 0.26)
        + 0.7 * blob(ax, y, 0, p.nose_end, 0.2, 0.18)
        + 0.25 * blob(ax, y, 0, 1.7, 0.3, 0.15)
    )
    red = (red + 0.12 * lumps) * (0.35 + 0.5 * p.ruddy + 0.3 * p.makeup)
    colour = colour * (1 - np.clip(red, -0.3, 1)[..., None] * np.array([0.03, 0.26, 0.24]))
    under = blob(ax, y, 0.47, 0.24, 0.24, 0.085) * (0.10 + 0.22 * p.age)
    socket = blob(ax, y, 0.47, -0.12, 0.26, 0.13) * (0.15 + 0.25 * p.makeup)
    colour *= 1 - (under + socket)[..., None] * np.array([0.8, 1.0, 0.9])
    if p.freckles:
        dots = step(1.5, 2.3, cloud(rng, shape, 3, 1)) * (
            blob(ax, y, 0.45, 0.5, 0.5, 0.35) + 0.3 * blob(ax, y, 0, -0.8, 0.7, 0.3)
        )
        colour *= 1 - 0.45 * p.freckles * dots[..., None] * np.array([0.5, 0.8, 1.0])
    for mole_x, mole_y, size in p.moles:
        colour = over(
            colour,
            colour * np.array([0.4, 0.3, 0.28]),
            step(size * 1.3, size * 0.6, np.hypot(x - mole_x, y - mole_y)),
        )
    if p.age > 0.45:  # lines of the forehead and at the eyes
        strength = (p.age - 0.45) * 0.5
        for line in (-0.92, -0.78, -0.65):
            wave = y - line - 0.03 * np.cos(2.2 * x) - 0.008 * cloud(rng, shape, 60, 1)
            colour *= 1 - strength * 0.6 * (np.exp(-((wave / 0.016) ** 2)) * step(0.62, 0.3, ax))[..., None]
        for k in (-1, 0, 1):
            wave = y - 0.02 - k * (0.02 + 0.28 * (ax - 0.78))
            colour *= (
                1
                - strength
                * (np.exp(-((wave / 0.014) ** 2)) * step(0.78, 0.84, ax) * step(0.98, 0.9, ax))[..., None]
            )
    nostril = blob(ax, y, 0.095 * p.nose_width, p.nose_end + 0.105, 0.05 * p.nose_width, 0.028)
    colour *= 1 - 0.85 * np.clip(nostril * 1.4, 0, 1)[..., None]
    wing = np.hypot((ax - 0.165 * p.nose_width) / 0.085, (y - p.nose_end - 0.045) / 0.085)
    colour *= 1 - 0.28 * (np.exp(-(((wing - 1.05) / 0.16) ** 2)) * step(0.12, 0.22, ax / p.nose_width))[..., None]
    return _lips(p, rng, colour, ax, x, y)


def _lips(
    p: Person, rng: np.random.Generator, colour: np.ndarray, ax: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    share = np.clip(1 - (ax / p.mouth_width) ** 2, 0, 1)
    bow = 1 - 0.30 * np.exp(-((x / 0.075) ** 2)) + 0.10 * np.exp(-(((ax - 0.12) / 0.08) ** 2))
    upper_edge, lower_edge = p.mouth - p.lip_upper * bow * share**0.75, p.mouth + p.lip_lower * share**0.7
    soft = 0.022
    lips = step(upper_edge - soft, upper_edge + soft * 0.5, y) * step(lower_edge + soft, lower_edge - soft * 0.5, y)
    lips *= step(p.mouth_width + 0.01, p.mouth_width - 0.05, ax)
    crease = 1 + 0.06 * strands(rng, x * 3, y, 9.0)
    tone = np.broadcast_to(to_linear(p.lip_colour), colour.shape) * crease[..., None]
    tone = tone * (1 - 0.22 * step(p.mouth + 0.02, p.mouth - 0.02, y))[..., None]
    colour = over(colour, tone, lips * 0.9)
    line = np.exp(-(((y - p.mouth) / 0.017) ** 2)) * step(p.mouth_width + 0.03, p.mouth_width - 0.06, ax)
    return colour * (1 - 0.72 * line[..., None] * np.array([0.9, 1.0, 1.0]))


def _lit(
    p: Person, light: Light, colour: np.ndarray, z: np.ndarray, rho: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """sRGB of the skin under the lamp: soft Lambert with blood glowing at the shadow's edge, some oil, a shaded rim."""
    down, right = np.gradient(z * SCALE)
    normal = np.stack([-right, -down, np.ones_like(z)], 2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    toward = normal @ light.direction
    wrap = np.array([0.38, 0.25, 0.20])
    lambert = np.clip((toward[..., None] + wrap) / (1 + wrap), 0, None)
    half = light.direction + np.array([0, 0, 1.0])
    gloss = np.clip(normal @ (half / np.linalg.norm(half)), 0, None)
    oil = (0.10 * gloss**14 + 0.10 * gloss**45) * (1 + 0.25 * cloud(rng, z.shape, 4, 2))
    sky = 0.75 + 0.25 * -normal[..., 1:2]
    hollow = np.clip(1 - 2.2 * (blur(z, 10) - z), 0.55, 1.12)[..., None]  # hollows see less of the room
    x, y = texture_grid()
    cast = 1 - 0.30 * blob(x + 0.12 * light.direction[0], y, 0, p.nose_end + 0.21, 0.17 * p.nose_width, 0.09)
    cast = cast * (1 - 0.16 * blob(np.abs(x), y, 0, p.mouth + p.lip_lower + 0.07, 0.24, 0.06))
    rim = 1 - 0.38 * step(0.80, 1.02, rho)
    lit = colour * (light.fill * sky + light.key * lambert * cast[..., None]) * hollow * rim[..., None]
    return to_srgb(lit + (light.key * oil[..., None]) * 0.55)


def _brows(
    p: Person, rng: np.random.Generator, picture: np.ndarray, ax: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    t = np.clip((ax - 0.16) / 0.66, 0, 1)
    middle = (
        -p.brow_height + 0.03 - p.brow_arch * 1.6 * np.sin(np.pi * np.clip(t * 0.95 + 0.05, 0, 1)) + 0.05 * t**2
    )
    thick = p.brow_thick * (1.0 - 0.65 * t**1.6) * step(0.0, 0.12, t)
    hairs = strands(rng, y * 2.2 + ax * 1.0, ax, 9.0) * 0.25 + 0.85
    alpha = step(1.15, 0.55, np.abs(y - middle) / (thick + 1e-6)) * step(0.12, 0.22, ax) * step(0.84, 0.74, ax)
    tone = np.clip(p.hair * 0.75, 0.04, 0.45)
    return over(picture, tone, np.clip(alpha * hairs, 0, 1) * p.brow_dark)


def _beard(
    p: Person,
    rng: np.random.Generator,
    picture: np.ndarray,
    ax: np.ndarray,
    y: np.ndarray,
    rho: np.ndarray,
    face: np.ndarray,
) -> np.ndarray:
    if p.beard == "none":
        return picture
    moustache = blob(ax, y, 0.17, p.mouth - p.lip_upper - 0.09, 0.30, 0.075)
    chin = blob(ax, y, 0.0, 1.66 + p.chin, 0.36, 0.25)
    jaw = (
        step(0.72, 0.93, rho + 0.10 * np.clip(y - 1.2, -1, 0.4))
        * step(0.35, 0.75, y)
        * step(0.5, 0.7, ax + y * 0.4)
    )
    lower = step(p.mouth + p.lip_lower + 0.02, p.mouth + p.lip_lower + 0.14, y)
    around = np.exp(-(((np.hypot(ax / 0.52, (y - p.mouth - 0.04) / 0.34) - 1) / 0.22) ** 2))
    region = {
        "stubble": 0.8 * np.maximum.reduce([moustache, chin, jaw, lower * step(0.55, 0.85, rho)]),
        "moustache": step(0.35, 0.75, moustache) * 1.2,
        "goatee": np.maximum.reduce([step(0.3, 0.7, moustache), step(0.3, 0.6, chin), step(0.4, 0.8, around)]),
        "full": np.maximum.reduce(
            [step(0.3, 0.7, moustache), step(0.25, 0.6, chin), jaw, lower * step(0.45, 0.7, rho)]
        ),
    }[p.beard]
    lip = np.hypot(ax / (p.mouth_width + 0.03), (y - p.mouth - 0.03) / (0.5 * (p.lip_upper + p.lip_lower) + 0.03))
    region = np.clip(region, 0, 1) * step(0.95, 1.2, lip)
    hairs = strands(rng, ax * 2.5 + 0.4 * y, y, 10.0)
    density = {"stubble": 0.34, "moustache": 0.85, "goatee": 0.85, "full": 0.88}[p.beard]
    tone = np.clip(p.hair * 0.8, 0.04, 0.6) * (1 + 0.35 * hairs[..., None])
    return over(
        picture, np.clip(tone, 0.02, 0.9), np.clip(blur(region, 1.5) * density * (1 + 0.3 * hairs), 0, 1) * face
    )


def hair_outline(p: Person, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Like `outline`, of the hair's bulk: 1 on its edge. Below the eyes only long styles have any."""
    bulk = {
        "bald": 0.0,
        "buzz": 0.012,
        "short": 0.05,
        "side": 0.07,
        "receding": 0.03,
        "fringe": 0.08,
        "medium": 0.10,
        "long": 0.09,
        "curly": 0.20,
        "bun": 0.03,
    }[p.hair_style] * p.hair_volume + 0.01
    upper = rho / (1 + bulk * (1.15 - 0.35 * np.clip(y + 1.0, 0, 1)))
    if p.hair_style not in ("medium", "long", "curly"):
        return np.where(y < 0.3, upper, 9.0)
    end = {"medium": 1.45, "long": 3.5, "curly": 1.0}[p.hair_style]
    half = 1.06 * p.face_width + bulk * 1.1 + 0.10 * np.clip(y, 0, 1.2) * (p.hair_style == "long")
    sides = np.abs(x) / (half * np.sqrt(np.clip(1 - np.clip((y - end + 0.5) / 0.5, 0, 0.999) ** 2, 0.05, 1)))
    blend = step(-0.5, 0.1, y)
    return np.where(y < end, upper * (1 - blend) + sides * blend, 9.0)


def _hair(
    p: Person,
    rng: np.random.Generator,
    light: Light,
    picture: np.ndarray,
    alpha: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rho: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    if p.hair_style == "bald":
        return picture, alpha
    ax, style = np.abs(x), p.hair_style
    bulk = hair_outline(p, x, y, rho)
    ragged = cloud(rng, x.shape, 9, 3)
    base = p.hairline - (0.32 if style == "receding" else 0.0)
    temple = ax / (0.97 * p.face_width)
    line = base + 0.9 * temple ** (2.6 if style == "receding" else 4.5)
    if style == "fringe":
        line = np.maximum(line, -0.56 + 0.05 * np.cos(2.5 * (x - p.parting)) + 0.04 * strands(rng, x, y * 0, 5.0))
    if style == "side":
        line = line + 0.22 * step(0.1, 0.8, np.sign(p.parting) * (x - p.parting))
    if style in ("medium", "long"):
        line = base + 0.06 + 1.15 * np.clip(np.abs(x - p.parting * 0.5) / (0.95 * p.face_width), 0, 2) ** 2.4
    soft = {"buzz": 0.10, "receding": 0.10}.get(style, 0.04)
    on_top = step(soft, -soft, y - line + 0.02 * ragged)
    on_top = np.where(y > 0.26, 0.0, on_top * step(0.28, 0.16, y))
    mask = on_top
    if style in ("medium", "long", "curly"):
        edge = (0.93 if style != "curly" else 1.0) * p.face_width * (1 - 0.10 * np.clip(y - 0.2, 0, 1.2))
        curtain = step(-0.03, 0.05, ax - edge + 0.015 * ragged) * step(-0.6, -0.2, y)
        mask = np.maximum(on_top, curtain)
        # The front of long hair ends softly: the rest of it hangs behind the shoulders and belongs to the scene.
        mask = mask * (step(2.3, 1.7, y) if style == "long" else 1.0)
    edge_soft = 0.05 if style == "curly" else 0.02
    mask = mask * step(1 + edge_soft, 1 - edge_soft, bulk + (0.05 if style == "curly" else 0.008) * ragged)
    if style == "bun":
        knot = np.hypot(x / 0.42, (y + 1.95) / 0.32)
        mask, bulk = (
            np.maximum(mask, step(1.03, 0.97, knot + 0.02 * ragged)),
            np.where(y < -1.72, np.minimum(bulk, knot), bulk),
        )

    if style in ("curly",):
        flow = 0.5 * cloud(rng, x.shape, 8, 2) + 0.5 * cloud(rng, x.shape, 4, 2)
    elif style in ("short", "buzz", "fringe"):
        flow = strands(rng, x * (1.6 if style == "fringe" else 2.0) / (0.8 + 0.3 * np.abs(y + 1.0)), y, 6.0)
    else:
        angle = np.arctan2(x - p.parting * 0.5, 1.75 + np.clip(y, -1.74, 0.6) * 0.9)
        falling = step(-0.5, 0.4, y)
        flow = strands(rng, (angle * 1.2) * (1 - falling) + np.sign(x) * ax * falling, np.hypot(x, y), 6.5)
    depth = np.sqrt(np.clip(1 - np.minimum(bulk, 1.0) ** 2, 0.0, 1))
    facing = np.clip(0.55 * depth + 0.45 * (x * light.direction[0] * 0.6 - (y + 0.6) * 0.35 + 0.3), 0.05, 1.2)
    sheen = np.exp(-(((y + 1.30 + 0.12 * ragged * 0.3) / 0.24) ** 2)) * (
        0.14 if style not in ("buzz", "curly") else 0.03
    )
    tone = to_linear(p.hair)
    shade = (
        (0.42 + 0.30 * np.clip(flow, -1.2, 1.4)[..., None])
        * (light.fill * 1.1 + light.key * facing[..., None])
        * 1.9
    )
    lit = to_srgb(
        tone * np.clip(shade, 0.05, None)
        + sheen[..., None] * light.key * (0.3 + 0.5 * np.clip(flow, 0, 1))[..., None] * (0.25 + tone)
    )
    shadow = blur(mask, 5) * (1 - mask) * 0.45  # hair darkens the forehead just below it
    picture = picture * (1 - shadow[..., None])
    strength = mask * (0.62 if style == "buzz" else 1.0)
    on_skin = np.where(alpha > 0.5, strength, mask)
    return over(picture, lit, on_skin), np.maximum(alpha, mask)


def _glasses(
    p: Person, picture: np.ndarray, alpha: np.ndarray, ax: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if p.glasses == "none":
        return picture, alpha
    thick = 0.018 if p.glasses == "thin" else 0.035
    rim = (np.abs((ax - 0.5) / 0.37) ** 3 + np.abs((y - 0.06) / 0.29) ** 3) ** (1 / 3)
    frame = step(thick * 1.5, thick * 0.7, np.abs(rim - 1) * 0.33)
    bridge = step(thick * 1.4, thick * 0.7, np.abs(y + 0.02 - 0.25 * (0.13 - ax))) * step(0.17, 0.13, ax)
    temple = step(thick * 1.4, thick * 0.7, np.abs(y + 0.06)) * step(0.84, 0.87, ax) * step(1.12, 1.08, ax)
    tone = np.array([0.10, 0.09, 0.10]) if p.glasses == "thick" else np.array([0.30, 0.28, 0.26])
    picture = over(picture, np.array([1.0, 1.0, 1.0]), 0.05 * step(1.0, 0.9, rim))
    painted = np.clip(np.maximum.reduce([frame, bridge, temple]), 0, 1)
    return over(picture, tone, painted), np.maximum(alpha, painted)
