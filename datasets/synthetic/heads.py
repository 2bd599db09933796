"""Moves a painted head: every frame is one warp of the portrait, with eyeballs, teeth and tongue drawn where it opens.

A pixel asks backwards where it comes from: frame -> (camera, head pose) -> the head's own coordinates (u, v), in eye
distances -> (jaw, lips) -> the portrait. Shapes: T frames, H, W pixels of a box of the frame; float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F

from datasets.synthetic.people import Person
from datasets.synthetic.places import MARGIN, paint_scene
from datasets.synthetic.portrait import HEIGHT, LEFT, SCALE, TOP, WIDTH, Light, paint_head
from datasets.synthetic.speech import Lips

Box = tuple[int, int, int, int]  # top, bottom, left, right in pixels


@dataclass(slots=True)
class Motion:
    """What head and camera do at each frame, float32 (frames,) each; lengths in pixels, angles in radians."""

    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    move_x: np.ndarray
    move_y: np.ndarray
    zoom: np.ndarray  # the head towards the camera: 1 is rest
    blink: np.ndarray  # 0 open .. 1 shut
    gaze_x: np.ndarray
    gaze_y: np.ndarray
    brow: np.ndarray  # raised by this many eye distances
    room_light: np.ndarray  # about 1: what goes on behind the speaker
    shake_x: np.ndarray
    shake_y: np.ndarray

    def __len__(self) -> int:
        return len(self.yaw)

    def cut(self, start: int, stop: int) -> Motion:
        return replace(self, **{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})


def cut_lips(lips: Lips, start: int, stop: int) -> Lips:
    return Lips(*(getattr(lips, f.name)[start:stop] for f in fields(lips)))


@dataclass(slots=True)
class Actor:
    """A person in a place under a lamp, ready to be moved."""

    person: Person
    light: Light
    portrait: torch.Tensor  # (1, 4, HEIGHT, WIDTH), premultiplied
    scene: torch.Tensor  # (1, 3, size + 2 MARGIN, ...)
    size: int
    centre: tuple[float, float]  # of the eyes, in pixels of the frame at rest
    scale: float  # pixels per eye distance


def make_actor(
    person: Person,
    light: Light,
    rng: np.random.Generator,
    *,
    size: int,
    centre: tuple[float, float],
    scale: float,
) -> Actor:
    return Actor(
        person,
        light,
        as_texture(paint_head(person, light)),
        as_texture(paint_scene(person, light, rng, size, centre, scale)),
        size,
        centre,
        scale,
    )


def as_texture(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32))[None]


def column(values: np.ndarray) -> torch.Tensor:
    """(T,) -> (T, 1, 1), to be spread over a picture."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[:, None, None]


def box_of(actor: Actor, motion: Motion, u: tuple[float, float], v: tuple[float, float]) -> Box:
    """The part of the frame that holds the head's region u x v at every frame of the motion."""
    reach = float(np.abs(motion.roll).max()) * 2.2 + float(np.abs(np.stack([motion.yaw, motion.pitch])).max()) * 0.9
    grown = actor.scale * float(motion.zoom.max())
    x, y = actor.centre[0] + motion.move_x + motion.shake_x, actor.centre[1] + motion.move_y + motion.shake_y
    top, bottom = y.min() + (v[0] - reach) * grown, y.max() + (v[1] + reach) * grown
    left, right = x.min() + (u[0] - reach) * grown, x.max() + (u[1] + reach) * grown
    inside = [int(np.clip(value, 0, actor.size)) for value in (top - 1, bottom + 2, left - 1, right + 2)]
    return inside[0], inside[1], inside[2], inside[3]


def head_coordinates(actor: Actor, motion: Motion, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    """(u, v), each (T, H, W): where each pixel of the box lies on the head, before jaw and lips move."""
    top, bottom, left, right = box
    x = (torch.arange(left, right) + 0.5)[None, None] - actor.centre[0] - column(motion.move_x + motion.shake_x)
    y = (torch.arange(top, bottom) + 0.5)[None, :, None] - actor.centre[1] - column(motion.move_y + motion.shake_y)
    scale, cos, sin = (
        actor.scale * column(motion.zoom),
        torch.cos(column(motion.roll)),
        torch.sin(column(motion.roll)),
    )
    across, down = (x * cos + y * sin) / scale, (y * cos - x * sin) / scale
    yaw, pitch = column(motion.yaw), column(motion.pitch)
    u, v = across, down
    for _ in range(2):  # what stands forward moves more: solved by going round twice
        depth = 1.15 * (1 - (u / 1.15) ** 2 - ((v - 0.15) / 2.0) ** 2).clamp_min(-0.25)
        depth = depth + 0.32 * torch.exp(-((u / 0.2) ** 2) - ((v - 0.55) / 0.35) ** 2)
        u, v = across - yaw * depth, down - pitch * depth
    return u, v


@dataclass(slots=True)
class Mouth:
    """The gap between the lips in head coordinates, (T, 1, 1) each."""

    half: torch.Tensor
    raise_upper: torch.Tensor
    drop_lower: torch.Tensor
    drop_chin: torch.Tensor
    stretch: torch.Tensor
    press: torch.Tensor


def shape_mouth(person: Person, lips: Lips) -> Mouth:
    open_ = lips.jaw * (1 - 0.97 * lips.press) * (1 - 0.85 * lips.tuck)
    stretch = 1.0 / (1.0 - 0.34 * np.maximum(lips.round, 0) + 0.15 * np.maximum(-lips.round, 0)) - 1.0
    half = person.mouth_width / (1 + 0.7 * stretch)
    upper = (
        0.035 * open_
        + 0.045 * lips.tuck
        + 0.02 * np.maximum(-lips.round, 0) * (1 - lips.press) * np.minimum(open_ * 4, 1)
    )
    return Mouth(
        column(half),
        column(upper),
        column(0.31 * open_),
        column(0.26 * lips.jaw),
        column(stretch),
        column(lips.press),
    )


def lip_edges(mouth: Mouth, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    share = (1 - (u / mouth.half) ** 2).clamp_min(0) ** 0.75
    return -mouth.raise_upper * share, mouth.drop_lower * share


def unmove(person: Person, mouth: Mouth, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes jaw and lips back to rest: head coordinates -> coordinates of the portrait."""
    y = v - person.mouth
    upper, lower = lip_edges(mouth, u)
    below = y > 0.5 * (upper + lower)
    near = torch.exp(-((y / 0.24) ** 2))
    with_jaw = ((y + 0.10) / 0.50).clamp(0, 1)
    with_jaw = with_jaw * with_jaw * (3 - 2 * with_jaw) * torch.exp(-((u / 1.05) ** 4))
    fall = lower * near + mouth.drop_chin * with_jaw * (1 - near)
    lift = upper * torch.exp(-((y / 0.16) ** 2))
    cheek = 0.25 * mouth.drop_chin * torch.exp(-(((u.abs() - 0.6) / 0.3) ** 2) - ((y + 0.15) / 0.35) ** 2)
    source_y = torch.where(below, y - fall, y - lift - 0.3 * cheek)
    source_y = source_y * (1 + 0.55 * mouth.press * torch.exp(-((y / 0.13) ** 2) - (u / 0.5) ** 4))
    source_u = u * (1 + mouth.stretch * torch.exp(-((u / 0.75) ** 2) - (y / 0.42) ** 2))
    return source_u, source_y + person.mouth


def head_layer(
    actor: Actor, motion: Motion, lips: Lips, u: torch.Tensor, v: torch.Tensor, *, teeth: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(T, 4, H, W) premultiplied sRGB of the moved head, and where on the portrait each pixel came from.

    `teeth` < 1 blurs away what is inside the mouth.
    """
    mouth = shape_mouth(actor.person, lips)
    source_u, source_v = unmove(actor.person, mouth, u, v)
    source_v = source_v + column(motion.brow) * torch.exp(-(((v + 0.42) / 0.26) ** 2))
    grid = torch.stack(
        [(source_u - LEFT) * (SCALE * 2 / WIDTH) - 1, (source_v - TOP) * (SCALE * 2 / HEIGHT) - 1], -1
    )
    layer = F.grid_sample(
        actor.portrait.expand(len(motion), -1, -1, -1), grid, padding_mode="zeros", align_corners=False
    )
    for region, draw in (
        ((-0.32, 0.26), _draw_eyes),
        ((actor.person.mouth - 0.12, actor.person.mouth + 0.42), _draw_inside),
    ):
        rows = torch.nonzero(((v > region[0]) & (v < region[1]) & (u.abs() < 0.05)).any(2).any(0)).flatten()
        if len(rows) == 0:
            continue
        reach = int(0.9 * actor.scale * float(np.abs(motion.roll).max())) + 2
        first, last = max(int(rows[0]) - reach, 0), int(rows[-1]) + reach + 1
        columns = torch.nonzero((u[:, first:last].abs() < 0.86).any(1).any(0)).flatten()
        if len(columns) == 0:
            continue
        part = (slice(None), slice(first, last), slice(int(columns[0]), int(columns[-1]) + 1))
        draw(actor, motion, lips, mouth, u[part], v[part], layer[:, :, part[1], part[2]], teeth)
    return layer, source_u, source_v


def _ramp(x: torch.Tensor, width: float = 0.022) -> torch.Tensor:
    return (x / width + 0.5).clamp(0, 1)


def _paint(
    layer: torch.Tensor, colour: tuple[torch.Tensor, torch.Tensor, torch.Tensor], alpha: torch.Tensor
) -> None:
    """Paint inside the head, in place, where the head is opaque."""
    for channel in range(3):
        layer[:, channel] += (colour[channel] - layer[:, channel]) * alpha


def _draw_eyes(
    actor: Actor,
    motion: Motion,
    lips: Lips,
    mouth: Mouth,
    u: torch.Tensor,
    v: torch.Tensor,
    layer: torch.Tensor,
    teeth: float,
) -> None:
    p, side = actor.person, torch.where(u < 0, -1.0, 1.0)
    out = u.abs() - 0.5  # towards the temple
    y = v + p.eye_slant * out / 0.25
    share = (1 - (out / p.eye_width) ** 2).clamp_min(0)
    shut = column(motion.blink)
    low = 0.60 * p.eye_open * share
    high = -p.eye_open * share**0.7 * (1 - shut) + (low - 0.01) * shut
    open_ = _ramp(y - high) * _ramp(low - y) * (share > 0) * (1 - shut**4)
    shade = 0.58 + 0.42 * ((y - high) / 0.10).clamp(0, 1)  # the lid's shadow
    bright = float((actor.light.fill + 0.75 * actor.light.key).mean()) ** (1 / 2.2)
    away_x, away_y = u - side * 0.5 - column(motion.gaze_x), y - 0.012 + 0.018 - column(motion.gaze_y)
    radius = torch.sqrt(away_x**2 + away_y**2)
    iris, pupil = _ramp(0.108 - radius, 0.03), _ramp(0.045 - radius, 0.025)
    ring = (1 - 0.55 * ((radius - 0.075) / 0.03).clamp(0, 1)) * (0.8 + 2.2 * (away_y + 0.02).clamp(0, 0.1))
    glint = _ramp(
        0.024 - torch.sqrt((away_x - 0.035 * float(np.sign(actor.light.direction[0]))) ** 2 + (away_y + 0.04) ** 2),
        0.025,
    )
    white = (0.90, 0.87, 0.85)
    colour = []
    for channel in range(3):
        tone = white[channel] * (1 - 0.22 * (out / p.eye_width) ** 2)
        tone = tone + (float(p.iris[channel]) * ring - tone) * iris
        tone = tone * (1 - 0.92 * pupil)
        colour.append((tone * shade * bright + 0.75 * glint).clamp(0, 1))
    crease = torch.exp(-(((y - high + 0.055) / 0.016) ** 2)) * share**0.5 * (0.28 * p.lids * (1 - shut))
    for channel in range(3):
        layer[:, channel] *= 1 - crease
    _paint(layer, (colour[0], colour[1], colour[2]), open_)
    wide = (1 - (out / (p.eye_width * 1.06)) ** 2).clamp_min(0) ** 0.4
    lash = torch.exp(-(((y - high + 0.004) / (0.018 + 0.010 * p.makeup)) ** 2)) * wide * (0.75 + 0.2 * p.makeup)
    lash = torch.maximum(lash, 0.30 * torch.exp(-(((y - low - 0.004) / 0.013) ** 2)) * wide)
    dark = [torch.full_like(lash, 0.10 * tone) for tone in (1.0, 0.8, 0.75)]
    _paint(layer, (dark[0], dark[1], dark[2]), lash * (wide > 0))


def _draw_inside(
    actor: Actor,
    motion: Motion,
    lips: Lips,
    mouth: Mouth,
    u: torch.Tensor,
    v: torch.Tensor,
    layer: torch.Tensor,
    teeth: float,
) -> None:
    p, y = actor.person, v - actor.person.mouth
    upper, lower = lip_edges(mouth, u)
    gap = lower - upper
    mask = _ramp(y - upper) * _ramp(lower - y) * (gap / 0.03).clamp(0, 1) * (u.abs() < mouth.half)
    bright = float((actor.light.fill + 0.6 * actor.light.key).mean()) ** (1 / 2.2)
    depth = (1 - (u / mouth.half.clamp_min(0.1)) ** 2).clamp(0, 1)
    soft = 0.012 + 0.05 * (1 - teeth)
    between = 1 - 0.30 * teeth * torch.exp(-(((torch.remainder(u + 0.045, 0.09) - 0.045) / 0.010) ** 2))
    row_up = _ramp(0.055 - 0.03 * (u / 0.3) ** 2 - y, soft * 2)
    floor = mouth.drop_chin * 0.92 + 0.03
    row_down = _ramp(y - floor + 0.075 + 0.04 * (1 - (u / 0.3) ** 2).clamp(0, 1) * 0.3, soft * 2)
    tongue_y = floor - 0.02 - 0.14 * column(lips.tongue)
    tongue = _ramp(1 - ((u / 0.26) ** 2 + ((y - tongue_y - 0.06) / 0.10) ** 2), 0.5)
    shadow = (0.45 + 0.55 * ((y - upper) / 0.07).clamp(0, 1)) * (0.35 + 0.65 * depth)
    tooth = p.teeth * bright * between * shadow
    colours = []
    for cavity, tongue_tone, tint in ((0.20, 0.62, 1.0), (0.07, 0.32, 0.96), (0.07, 0.31, 0.88)):
        tone = cavity + (tongue_tone * bright * shadow - cavity) * tongue * (0.7 + 0.3 * teeth)
        tone = tone + (0.72 * tooth * tint - tone) * row_down * (0.35 + 0.45 * teeth)
        colours.append((tone + (tooth * tint - tone) * row_up * (0.55 + 0.45 * teeth)).clamp(0, 1))
    _paint(layer, (colours[0], colours[1], colours[2]), mask)


def render_scene(actor: Actor, motion: Motion) -> torch.Tensor:
    """(T, 3, size, size): room and body; shoulders follow the head a little."""
    size, full = actor.size, actor.size + 2 * MARGIN
    x = (torch.arange(size) + 0.5)[None, None]
    y = (torch.arange(size) + 0.5)[None, :, None]
    body = ((y - actor.centre[1]) / actor.scale - 0.2).clamp(0, 1.2) / 1.2
    body = body * (2.2 - (x - actor.centre[0]).abs() / actor.scale).clamp(0, 1)
    follow = body * (1 - 0.5 * ((y - actor.centre[1]) / actor.scale - 1.6).clamp(0, 1))
    source_x = x - column(motion.shake_x) - follow * column(motion.move_x) + MARGIN
    source_y = y - column(motion.shake_y) - follow * column(motion.move_y) * 0.6 + MARGIN
    grid = torch.stack(torch.broadcast_tensors(source_x, source_y), -1) * (2 / full) - 1
    scene = F.grid_sample(
        actor.scene.expand(len(motion), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    return scene.mul_(torch.from_numpy(motion.room_light)[:, None, None, None])


@dataclass(slots=True)
class Take:
    """A few rendered frames and what a forger needs to know of them."""

    frames: torch.Tensor  # (T, 3, size, size) sRGB 0..1
    box: Box  # of the head
    u: torch.Tensor  # (T, H, W) head coordinates inside the box
    v: torch.Tensor
    source_u: torch.Tensor  # (T, H, W) the same with jaw and lips taken back to rest
    source_v: torch.Tensor
    alpha: torch.Tensor  # (T, H, W) how much of each pixel is head
    motion: Motion
    lips: Lips


def render(actor: Actor, motion: Motion, lips: Lips) -> Take:
    box = box_of(actor, motion, (-1.6, 1.6), (-2.45, 2.3))
    u, v = head_coordinates(actor, motion, box)
    layer, source_u, source_v = head_layer(actor, motion, lips, u, v)
    frames = render_scene(actor, motion)
    part = frames[:, :, box[0] : box[1], box[2] : box[3]]
    part.mul_(1 - layer[:, 3:]).add_(layer[:, :3])
    return Take(frames, box, u, v, source_u, source_v, layer[:, 3], motion, lips)
