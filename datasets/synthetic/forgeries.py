"""Imitates how faces are forged: another inner face, or another mouth, laid over the frames of a real video.

What gives a forgery away is what gives it away in the world: the face laid on top drifts slowly against the head under
it, its lips come late and move less than the jaw outside the mask, its fine texture was decoded from too few numbers,
its colour is matched but not equal. None of this is frame-to-frame jitter, and the camera (`camera.shoot`) is the same
for the real video and for each of its forgeries.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from datasets.synthetic.camera import drift
from datasets.synthetic.heads import Actor, Take, column, head_layer
from datasets.synthetic.paint import SHEET
from datasets.synthetic.people import Person
from datasets.synthetic.portrait import HEIGHT, LEFT, SCALE, TOP, WIDTH, outline, texture_grid
from datasets.synthetic.speech import Lips

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
CELEB = "Celeb-synthesis"
CURVES = ("jaw", "round", "press", "tuck", "tongue")
FINE = 2.6  # pixels of the portrait: what is smaller counts as fine texture
BLOTCHES = 0.075  # spread of the unevenness that a decoder leaves on skin
_TEXTURES: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = deque(maxlen=4)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One mechanism. Lengths in eye distances, times in frames; pairs are ranges to draw from, per video."""

    swaps: bool  # another person's face, else the same face with another clip's mouth
    relit: bool  # the donor is seen in the target's light
    middle: tuple[float, float]  # of the mask's ellipse
    half: tuple[float, float]
    feather: float
    drift: tuple[float, float]  # misplacement: twice this in place, a third of it in slow wandering
    lag: tuple[float, float]
    liveliness: tuple[float, float]  # of the lips: 1 moves as much as the true ones
    decoded: tuple[float, float]  # 0 keeps the fine texture, 1 replaces it all
    colour: float  # spread of the remaining error of colour
    teeth: tuple[float, float]


RECIPES: dict[str, Recipe] = {
    "Deepfakes": Recipe(
        swaps=True,
        relit=False,
        middle=(0.0, 0.56),
        half=(0.80, 1.10),
        feather=0.10,
        drift=(0.019, 0.033),
        lag=(1.5, 3.5),
        liveliness=(0.97, 1.25),
        decoded=(0.3, 0.6),
        colour=0.12,
        teeth=(0.55, 0.95),
    ),
    "FaceSwap": Recipe(
        swaps=True,
        relit=False,
        middle=(0.0, 0.58),
        half=(0.88, 1.18),
        feather=0.06,
        drift=(0.021, 0.035),
        lag=(1.0, 3.0),
        liveliness=(0.97, 1.25),
        decoded=(0.2, 0.5),
        colour=0.14,
        teeth=(0.6, 1.0),
    ),
    "Face2Face": Recipe(
        swaps=False,
        relit=True,
        middle=(0.0, 1.15),
        half=(0.78, 0.80),
        feather=0.10,
        drift=(0.014, 0.026),
        lag=(0.0, 0.0),
        liveliness=(0.92, 1.18),
        decoded=(0.4, 0.7),
        colour=0.12,
        teeth=(0.6, 1.0),
    ),
    "NeuralTextures": Recipe(
        swaps=False,
        relit=True,
        middle=(0.0, 1.25),
        half=(0.70, 0.60),
        feather=0.10,
        drift=(0.018, 0.034),
        lag=(0.0, 0.0),
        liveliness=(0.97, 1.25),
        decoded=(0.5, 0.9),
        colour=0.12,
        teeth=(0.55, 0.95),
    ),
    "FaceShifter": Recipe(
        swaps=True,
        relit=True,
        middle=(0.0, 0.55),
        half=(0.90, 1.22),
        feather=0.14,
        drift=(0.016, 0.028),
        lag=(1.0, 2.5),
        liveliness=(0.97, 1.25),
        decoded=(0.4, 0.7),
        colour=0.095,
        teeth=(0.6, 1.0),
    ),
    CELEB: Recipe(
        swaps=True,
        relit=True,
        middle=(0.0, 0.55),
        half=(0.92, 1.24),
        feather=0.10,
        drift=(0.020, 0.033),
        lag=(1.5, 3.5),
        liveliness=(0.97, 1.25),
        decoded=(0.25, 0.5),
        colour=0.11,
        teeth=(0.6, 1.0),
    ),
}


@dataclass(slots=True)
class Forger:
    """One forgery in the making: everything drawn for the whole video, so that it can be laid on in pieces."""

    recipe: Recipe
    target: Person
    donor: Actor
    lips: Lips  # what the laid-on mouth does
    shift_u: np.ndarray  # (frames,) the slow misalignment
    shift_v: np.ndarray
    turn: np.ndarray
    size: np.ndarray
    tint: np.ndarray  # (frames, 3) the slow error of colour
    teeth: float
    matched: tuple[torch.Tensor, torch.Tensor] | None = None  # gain and offset (3,) found on the first frames


def make_forger(
    method: str, rng: np.random.Generator, target: Actor, donor: Actor, target_lips: Lips, other_lips: Lips
) -> Forger:
    """`donor`: the other person, already in the target's light where the recipe asks; re-enactments do without."""
    recipe, n = RECIPES[method], len(target_lips)
    source = donor if recipe.swaps else target
    source = replace(
        source, portrait=decoded(rng, source.portrait, float(rng.uniform(*recipe.decoded))), light=target.light
    )
    amount = rng.uniform(*recipe.drift)
    if recipe.swaps:
        lips = late_lips(rng, target_lips, rng.uniform(*recipe.lag), rng.uniform(*recipe.liveliness), target_lips)
    else:
        lips = late_lips(rng, other_lips, 0.0, rng.uniform(*recipe.liveliness), target_lips)
    # Forgers match hue better than brightness: the eye forgives neither, but hue least.
    off = rng.choice([-1, 1]) * rng.uniform(0.6, 1.4) * recipe.colour
    tint = 1 + off + rng.normal(0, 0.2 * recipe.colour, 3)[None] + drift(rng, n, 0.9, 0.01)[:, None]
    off_u, off_v, off_size = rng.normal(0, amount * 2.0, 3).astype(np.float32)  # never quite in place
    # A forger's landmarks are pulled along by the mouth: the face slips a little where speech is fast.
    pull = gaussian_filter1d(lips.opening(), 0.7, mode="nearest")
    pull = ((pull - pull.mean()) * amount * 0.9).astype(np.float32)
    return Forger(
        recipe,
        target.person,
        source,
        lips,
        off_u + drift(rng, n, 0.9, amount * 0.38) + pull * rng.normal(0, 0.2),
        off_v + drift(rng, n, 0.9, amount * 0.38) + pull * rng.uniform(0.3, 1.0),
        drift(rng, n, 0.9, amount * 0.35),
        1 + off_size + drift(rng, n, 0.9, amount * 0.38),
        tint.astype(np.float32),
        float(rng.uniform(*recipe.teeth)),
    )


def late_lips(rng: np.random.Generator, lips: Lips, lag: float, liveliness: float, like: Lips) -> Lips:
    """The same speech as a forging network gives it back: late by a slowly varying time.

    The whole is scaled so that the lips move about as fast as those of `like`, times `liveliness`: how much a mouth
    moves is no secret of forgeries (a plain sum over pixels would find it), only when and how.
    """
    n = len(lips)
    wander = drift(rng, n, 0.5, 0.6 if lag else 0.0)
    at = np.clip(np.arange(n) - np.maximum(lag + wander, 0.0), 0, n - 1)

    def replay(curve: np.ndarray) -> np.ndarray:
        # A spline, not straight lines: those would flatten every peak that falls between two frames.
        return np.clip(CubicSpline(np.arange(n), curve)(at), curve.min(), curve.max()).astype(np.float32)

    late = Lips(*(replay(getattr(lips, name)) for name in CURVES))
    speed = float(np.abs(np.diff(like.opening())).mean() / (np.abs(np.diff(late.opening())).mean() + 1e-3))
    scale = float(np.clip(speed, 0.75, 1.35)) * liveliness
    return Lips(
        late.jaw * scale,
        np.clip(late.round * scale, -1, 1),
        np.clip(late.press * max(scale, 1), 0, 1),
        late.tuck,
        late.tongue,
    )


def decoded(rng: np.random.Generator, portrait: torch.Tensor, share: float) -> torch.Tensor:
    """The portrait as a small network would redraw it: fine texture replaced by other texture of the same energy.

    The energy is kept, region by region, so that the picture is neither softer nor noisier than the real one: a
    detector must look at what the texture is, not at how much there is.
    """
    texture, local = _texture_of(portrait)
    noise, blotches = (_piece(rng, sheet) for sheet in _sheets())
    new = portrait * (1 + BLOTCHES * (0.4 + 0.6 * share) * blotches) - share * texture
    new[:, :3] += 0.5 * noise * local * (1 - (1 - share) ** 2) ** 0.5 * portrait[:, 3:]
    new[:, 3] = portrait[:, 3]
    return new


def _texture_of(portrait: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The portrait's fine texture and its local strength; kept for the portraits that several forgers share."""
    for known, texture, local in _TEXTURES:
        if known is portrait:
            return texture, local
    # What is stronger is an outline, a brow, a nostril: any network draws those.
    texture = portrait - _smooth(portrait, FINE)
    texture = texture * (1 - (texture / 0.05) ** 2).clamp_min(0)
    local = torch.sqrt(_smooth((texture[:, :3] ** 2).mean(1, keepdim=True), 2.5) + 1e-8)
    _TEXTURES.append((portrait, texture, local))
    return texture, local


@lru_cache(maxsize=1)
def _sheets() -> tuple[torch.Tensor, torch.Tensor]:
    """Fine noise and coarse blotches of unit spread, (1, 1, SHEET, SHEET), from which forgers cut their pieces."""
    rng = np.random.default_rng(77)
    fine, coarse = (torch.from_numpy(rng.normal(size=(1, 1, SHEET, SHEET)).astype(np.float32)) for _ in range(2))
    fine = _smooth(fine, 0.9)
    fine, coarse = fine - _smooth(fine, FINE), _smooth(coarse, 5.0) - _smooth(coarse, 11.0)
    return fine / fine.std(), coarse / coarse.std()


def _piece(rng: np.random.Generator, sheet: torch.Tensor) -> torch.Tensor:
    top, left = int(rng.integers(SHEET - HEIGHT)), int(rng.integers(SHEET - WIDTH))
    piece = sheet[..., top : top + HEIGHT, left : left + WIDTH]
    return piece.flip(3) if rng.random() < 0.5 else piece


def _smooth(picture: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = int(3 * sigma) + 1
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).to(picture.dtype)
    channels = picture.shape[1]
    picture = torch.nn.functional.pad(picture, (reach, reach, reach, reach), mode="replicate")
    picture = torch.nn.functional.conv2d(
        picture, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels
    )
    return torch.nn.functional.conv2d(picture, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


_OUTLINES: dict[int, torch.Tensor] = {}


def _outline_texture(person: Person) -> torch.Tensor:
    if person.seed not in _OUTLINES:
        _OUTLINES.clear() if len(_OUTLINES) > 8 else None
        _OUTLINES[person.seed] = torch.from_numpy(outline(person, *texture_grid()).astype(np.float32))[None, None]
    return _OUTLINES[person.seed]


def forge(forger: Forger, take: Take, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay the forgery over a take that begins at the video's frame `start`.

    Returns new frames (T, 3, size, size) and the mask (T, size, size): pixels where it is 0 are the take's, unchanged.
    """
    recipe, count = forger.recipe, len(take.motion)
    stop = start + count
    mask = torch.zeros(count, *take.frames.shape[2:])
    frames = take.frames.clone()
    # The part of the head's box that the mask can reach.
    rows = torch.nonzero((take.source_v.sub(recipe.middle[1]).abs() < recipe.half[1]).any(2).any(0)).flatten()
    columns = torch.nonzero((take.source_u.abs() < recipe.half[0]).any(1).any(0)).flatten()
    r, c = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    u, v, source_u, source_v = take.u[:, r, c], take.v[:, r, c], take.source_u[:, r, c], take.source_v[:, r, c]

    ellipse = 1 - torch.sqrt(
        ((source_u - recipe.middle[0]) / recipe.half[0]) ** 2
        + ((source_v - recipe.middle[1]) / recipe.half[1]) ** 2
    )
    soft = (ellipse / recipe.feather).clamp(0, 1)
    soft = soft * soft * (3 - 2 * soft)
    rho = _sample(_outline_texture(forger.target), source_u, source_v)
    soft = soft * ((0.97 - rho) / 0.05).clamp(0, 1) * (take.alpha[:, r, c] > 0.99)

    cos, sin = torch.cos(column(forger.turn[start:stop])), torch.sin(column(forger.turn[start:stop]))
    x, y = (u - column(forger.shift_u[start:stop])), (v - 0.6 - column(forger.shift_v[start:stop]))
    size = column(forger.size[start:stop])
    moved_u, moved_v = (x * cos + y * sin) / size, (y * cos - x * sin) / size + 0.6
    lips = Lips(*(getattr(forger.lips, name)[start:stop] for name in CURVES))
    layer, _, _ = head_layer(forger.donor, take.motion, lips, moved_u, moved_v, teeth=forger.teeth)
    soft = soft * (layer[:, 3] > 0.99)  # never the donor's background

    top, left = take.box[0] + r.start, take.box[2] + c.start
    part = frames[:, :, top : top + u.shape[1], left : left + u.shape[2]]
    if forger.matched is None:
        forger.matched = match_colour(layer[:, :3], part, soft)
    gain, offset = forger.matched
    tint = torch.from_numpy(forger.tint[start:stop])[:, :, None, None]
    laid = (layer[:, :3] * gain[None, :, None, None] + offset[None, :, None, None]) * tint
    part += (laid - part) * soft[:, None]
    mask[:, top : top + u.shape[1], left : left + u.shape[2]] = soft
    return frames.clamp_(0, 1), mask


def match_colour(
    source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset, (3,) each, that give the source (T, 3, H, W) the target's mean and spread under the weight."""
    total = weight.sum() + 1e-6

    def moments(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = (picture * weight[:, None]).sum((0, 2, 3)) / total
        spread = torch.sqrt(
            (((picture - mean[None, :, None, None]) ** 2) * weight[:, None]).sum((0, 2, 3)) / total + 1e-6
        )
        return mean, spread

    (mean_source, spread_source), (mean_target, spread_target) = moments(source), moments(target)
    gain = (spread_target / spread_source).clamp(0.75, 1.3)
    return gain, mean_target - mean_source * gain


def _sample(texture: torch.Tensor, source_u: torch.Tensor, source_v: torch.Tensor) -> torch.Tensor:
    grid = torch.stack(
        [(source_u - LEFT) * (SCALE * 2 / WIDTH) - 1, (source_v - TOP) * (SCALE * 2 / HEIGHT) - 1], -1
    )
    return torch.nn.functional.grid_sample(
        texture.expand(len(source_u), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )[:, 0]
