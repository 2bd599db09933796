"""What is done to every video alike, real or forged: how a head and a hand-held camera move, exposure, focus, grain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d

from datasets.media import FRAME_RATE
from datasets.synthetic.heads import Motion
from datasets.synthetic.speech import Lips


def drift(rng: np.random.Generator, frames: int, seconds: float, amount: float) -> np.ndarray:
    """A slow random curve (frames,) of spread `amount` over endless time; `seconds` is how slow."""
    sigma = max(seconds * FRAME_RATE, 0.3)
    pad = int(4 * sigma) + 1
    smooth = gaussian_filter1d(rng.normal(size=frames + 2 * pad), sigma, mode="nearest")[pad : pad + frames]
    return (smooth * np.sqrt(2 * np.sqrt(np.pi) * sigma) * amount).astype(np.float32)


def draw_motion(rng: np.random.Generator, lips: Lips, *, liveliness: float, scale: float) -> Motion:
    """How somebody holds the head while saying this. `liveliness` 0.3 is a news reader, 1 a lively talker."""
    n = len(lips)
    blink = np.zeros(n, np.float32)
    at = rng.uniform(0, 3.0) * FRAME_RATE
    while at < n + 4:
        shape = np.exp(-((((np.arange(n) - at) / rng.uniform(1.3, 1.9)) ** 2) ** 1.3))
        blink = np.maximum(blink, shape.astype(np.float32))
        at += rng.uniform(1.2, 4.0) * FRAME_RATE
    stress = gaussian_filter1d(lips.jaw, 3.0, mode="nearest") - 0.4
    hold = int(rng.integers(6, 25))
    glance = np.repeat(rng.normal(0, rng.uniform(0.01, 0.05), n // hold + 1), hold)[:n]
    brow, expressive = np.zeros(n), rng.random() ** 2  # some speak with their brows, most do not
    for _ in range(rng.poisson(expressive * 2.5 * n / FRAME_RATE)):
        brow += rng.uniform(0.03, 0.11) * np.exp(
            -(((np.arange(n) - rng.uniform(0, n)) / rng.uniform(1.5, 5.0)) ** 2)
        )
    steady, pace = liveliness, rng.uniform(0.5, 0.9)
    hand = rng.uniform(0.15, 1.0)
    rest_yaw, rest_pitch, rest_roll = rng.normal(0, 0.07), rng.normal(0, 0.03), rng.normal(0, 0.02)
    return Motion(
        yaw=(rest_yaw + drift(rng, n, pace, 0.05 * steady)).clip(-0.22, 0.22).astype(np.float32),
        pitch=(rest_pitch + drift(rng, n, pace, 0.03 * steady) + 0.05 * steady * stress)
        .clip(-0.12, 0.12)
        .astype(np.float32),
        roll=(rest_roll + drift(rng, n, pace, 0.02 * steady)).astype(np.float32),
        move_x=drift(rng, n, pace, 0.035 * steady * scale),
        move_y=drift(rng, n, pace, 0.025 * steady * scale),
        zoom=(1 + drift(rng, n, 1.2, 0.012 * steady)).astype(np.float32),
        blink=np.minimum(blink, 1),
        gaze_x=gaussian_filter1d(glance, 0.6, mode="nearest").astype(np.float32) + rng.normal(0, 0.02),
        gaze_y=drift(rng, n, 0.5, 0.006),
        brow=np.minimum(brow, 0.13).astype(np.float32),
        room_light=room_light(rng, n),
        shake_x=drift(rng, n, 0.10, 0.25 * hand) + drift(rng, n, 0.5, 1.2 * hand),
        shake_y=drift(rng, n, 0.10, 0.25 * hand) + drift(rng, n, 0.5, 1.2 * hand),
    )


def room_light(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Behind the speaker a screen flickers or somebody walks past: from nothing to plainly visible, in fits and starts.

    Without it a video's motion would be the face's alone, and its rhythm would tell a face whose lips come late.
    """
    amount = np.exp(rng.uniform(np.log(0.002), np.log(0.09)))
    fits = gaussian_filter1d(rng.random(frames) ** 6, 1.5, mode="nearest") * 4
    flicker = gaussian_filter1d(np.clip(rng.standard_t(3, frames), -4, 4) * fits, 0.5, mode="nearest")
    return np.clip(1 + amount * flicker + drift(rng, frames, 0.4, amount), 0.7, 1.3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera of one video, to be used on its real and on each of its forged versions."""

    exposure: np.ndarray  # (frames,) flicker and slow changes, about 1
    focus: np.ndarray  # (frames,) 0 sharp .. 1 soft
    grain: float  # spread of the noise, of 255
    contrast: float
    saturation: float


def draw_camera(rng: np.random.Generator, frames: int, *, grain: tuple[float, float] = (1.0, 5.0)) -> Camera:
    # Flicker differs much between lamps: none to visible, and not alike from frame to frame.
    flicker = np.exp(rng.uniform(np.log(0.0005), np.log(0.010))) * np.clip(rng.standard_t(3, frames), -4, 4)
    exposure = 1 + drift(rng, frames, 0.8, 0.02 * rng.random()) + flicker
    focus = np.clip(rng.uniform(0.0, 0.55) + drift(rng, frames, 0.6, 0.22 * rng.random()), 0, 1)
    return Camera(
        exposure.astype(np.float32),
        focus.astype(np.float32),
        float(rng.uniform(*grain)),
        float(rng.uniform(0.88, 1.12)),
        float(rng.uniform(0.75, 1.08)),
    )


_NOISE = np.random.default_rng(20_240_229).normal(size=(640, 640, 3)).astype(np.float32)
_NOISE = (0.8 * _NOISE.mean(2, keepdims=True) * np.sqrt(3) + 0.35 * _NOISE).transpose(2, 0, 1)
_NOISE_BANK = torch.from_numpy(np.ascontiguousarray(np.stack([_NOISE, _NOISE[:, ::-1, ::-1]])))


def shoot(camera: Camera, rng: np.random.Generator, frames: torch.Tensor, start: int) -> np.ndarray:
    """(T, 3, H, W) sRGB 0..1, the video's frames from `start` on -> uint8 (T, H, W, 3) as the camera saves them."""
    count, channels, height, width = frames.shape
    focus, exposure = camera.focus[start : start + count], camera.exposure[start : start + count]
    # Softness, saturation, contrast and exposure are all linear: one small convolution per frame does them together.
    taps = np.stack([focus / 4, 1 - focus / 2, focus / 4], 1)
    colours = camera.saturation * np.eye(3) + (1 - camera.saturation) / 3
    gain = 255 * exposure * camera.contrast
    kernel = np.einsum("t,oi,ty,tx->toiyx", gain, colours, taps, taps).reshape(count * 3, 3, 3, 3)
    offset = np.repeat(255 * 0.45 * exposure * (1 - camera.contrast), 3) + 0.5  # the half rounds
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate").reshape(1, count * channels, height + 2, width + 2)
    picture = F.conv2d(
        padded,
        torch.from_numpy(kernel.astype(np.float32)),
        torch.from_numpy(offset.astype(np.float32)),
        groups=count,
    )[0]
    picture = picture.reshape(count, channels, height, width)
    for t in range(count):
        top, left = int(rng.integers(640 - height)), int(rng.integers(640 - width))
        picture[t].add_(
            _NOISE_BANK[int(rng.integers(2)), :, top : top + height, left : left + width], alpha=camera.grain
        )
    saved = torch.empty((count, height, width, channels), dtype=torch.uint8)
    saved.copy_(picture.clamp_(0, 255).permute(0, 2, 3, 1))
    return saved.numpy()
