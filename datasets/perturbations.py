"""Seven ways in which a picture gets worse, each at five severities: how robust is a detector?

The set of DeeperForensics-1.0 (Jiang et al., "DeeperForensics-1.0: A Large-Scale Dataset for Real-World Face Forgery
Detection", CVPR 2020) with its published parameters, on whole frames: what is cut out of them is cut out afterwards.
Where its code rounds down, so does this one; what differs is written in docs/datasets.md.

Frames are uint8 (H, W, 3) in RGB. YCbCr is full-range BT.601 in grey levels, chroma about zero, with the rounded
coefficients that the published code inherits from OpenCV.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from fractions import Fraction
from itertools import chain, groupby

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image

from datasets.media import FRAME_RATE
from engine.errors import UserError

SEVERITIES = range(1, 6)
PARAMETERS: dict[str, tuple[float, ...]] = {
    "saturation": (0.4, 0.3, 0.2, 0.1, 0.0),  # share of the colour that is left
    "contrast": (0.85, 0.725, 0.6, 0.475, 0.35),  # factor of every value
    "block": (16, 32, 48, 64, 80),  # grey squares, for each whole 256 pixels of the shorter side
    "noise": (0.001, 0.002, 0.005, 0.01, 0.05),  # variance
    "blur": (7, 9, 13, 17, 21),  # pixels of the kernel's side
    "pixelation": (2, 3, 4, 5, 6),  # times smaller, then as large as before
    "compression": (30, 32, 35, 38, 40),  # x264's constant rate factor
}

BLOCK, BLOCK_GREY, BLOCK_UNIT = 8, 128, 256
_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.299 * 0.564, -0.587 * 0.564, 0.886 * 0.564],
                      [0.701 * 0.713, -0.587 * 0.713, -0.114 * 0.713]])
_FROM_YCBCR = np.array([[1, 0, 1.403], [1, -0.344, -0.714], [1, 1.773, 0]])
# The published code works on studio-range values, 219 levels of brightness and 224 of chroma in a byte.
_LUMA_LEVELS, _CHROMA_LEVELS = 219, 224


def require_perturbation(name: str | None, severity: int | None) -> None:
    """Both or neither, and both known."""
    if name is None:
        if severity is not None:
            raise UserError(f"severity={severity} is of no use without perturb=NAME, one of {', '.join(PARAMETERS)}")
        return
    if name not in PARAMETERS:
        nearest = get_close_matches(name.lower(), PARAMETERS, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise UserError(f"perturb={name}: no such perturbation{hint}; known are {', '.join(PARAMETERS)}")
    if severity not in SEVERITIES:
        said = f"perturb={name} needs a severity" if severity is None else f"severity={severity}"
        raise UserError(f"{said}: from {SEVERITIES[0]} to {SEVERITIES[-1]}")


def perturbed(
    frames: Iterable[np.ndarray], name: str, severity: int, *, video: str, seed: int = 0
) -> Iterator[np.ndarray]:
    """The frames of a video, perturbed: as many, in the same order, of the same sizes.

    Chance hangs on seed, video and the frame's number alone, so that a frame is the same whoever asks for it; the
    severities share it. Memory does not grow with the length; compression runs some forty frames ahead.
    """
    require_perturbation(name, severity)
    parameter = PARAMETERS[name][severity - 1]
    if name == "compression":
        return _compressed(frames, int(parameter))
    if name in _BY_CHANCE:
        worsen = _BY_CHANCE[name]
        return (worsen(frame, parameter, _chance(seed, video, number)) for number, frame in enumerate(frames))
    return (_FIXED[name](frame, parameter) for frame in frames)


def _chance(seed: int, video: str, number: int) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}\0{number}\0{video}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))


# ---------------------------------------------------------------------------------------------- frame by frame

def _saturation(frame: np.ndarray, share: float) -> np.ndarray:
    matrix = _FROM_YCBCR @ np.diag([1, share, share]) @ _TO_YCBCR
    # The published code pulls chroma towards 127.5 where neutral is 128. That is 0.004 grey levels at most, but
    # rounding down makes a whole one of it: grey turns a trace of green.
    shift = _FROM_YCBCR @ [0, 1, 1] * (-0.5 * (1 - share) / _CHROMA_LEVELS)
    rows = np.column_stack([matrix, shift - 0.5])  # Pillow rounds to nearest
    return np.asarray(Image.fromarray(frame).convert("RGB", tuple(rows.ravel())))


def _contrast(frame: np.ndarray, factor: float) -> np.ndarray:
    return (np.arange(256, dtype=np.float32) * np.float32(factor)).astype(np.uint8)[frame]


def _block(frame: np.ndarray, count: int, chance: np.random.Generator) -> np.ndarray:
    height, width = frame.shape[:2]
    # Where the shorter side is below 256 pixels the published code draws none; that would be no perturbation.
    count *= max(1, min(height, width) // BLOCK_UNIT)
    out = frame.copy()
    # The last row and column stay free, as they do there.
    for top, left in chance.integers(0, (max(1, height - BLOCK), max(1, width - BLOCK)), (count, 2)):
        out[top : top + BLOCK, left : left + BLOCK] = BLOCK_GREY
    return out


def _noise(frame: np.ndarray, variance: float, chance: np.random.Generator) -> np.ndarray:
    """White noise in Y, Cb and Cr of studio range, which spreads when it is stretched to full range."""
    noise = chance.standard_normal((3, *frame.shape[:2]), np.float32)
    levels = 255 * np.sqrt(variance) * 255 / np.array([_LUMA_LEVELS, _CHROMA_LEVELS, _CHROMA_LEVELS])
    weights = (_FROM_YCBCR * levels).astype(np.float32)
    out = np.empty_like(frame)
    for channel, (y, cb, cr) in enumerate(weights):
        values = noise[0] * y
        values += noise[1] * cb
        values += noise[2] * cr
        values += frame[..., channel]
        out[..., channel] = values.clip(0, 255, out=values)
    return out


def _blur(frame: np.ndarray, side: int) -> np.ndarray:
    """A Gaussian whose standard deviation is a sixth of its side; beyond the edge the picture is mirrored."""
    from scipy import ndimage  # a quarter of a second that most preparations need not wait for

    kernel = np.exp(-0.5 * np.square((np.arange(side) - side // 2) / (side / 6)))
    kernel /= kernel.sum()
    rows = ndimage.correlate1d(frame, kernel, axis=0, output=np.float32, mode="mirror")
    both = ndimage.correlate1d(rows, kernel, axis=1, mode="mirror")
    return np.rint(both, out=both).astype(np.uint8)


def _pixelation(frame: np.ndarray, factor: int) -> np.ndarray:
    height, width = frame.shape[:2]
    return _resized(_resized(frame, max(1, height // factor), max(1, width // factor)), height, width)


def _resized(frame: np.ndarray, *size: int) -> np.ndarray:
    """Between the two nearest pixels on either axis, also where the picture shrinks: the others are left out."""
    picture = frame.astype(np.float32)
    for axis, (have, want) in enumerate(zip(frame.shape, size, strict=False)):
        at = ((np.arange(want) + 0.5) * have / want - 0.5).clip(0, have - 1)
        below = at.astype(int)
        share = (at - below).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        above = picture.take((below + 1).clip(max=have - 1), axis)
        picture = picture.take(below, axis)
        picture += (above - picture) * share
    return np.rint(picture).astype(np.uint8)


_FIXED: dict[str, Callable] = {
    "saturation": _saturation, "contrast": _contrast, "blur": _blur, "pixelation": _pixelation,
}
_BY_CHANCE: dict[str, Callable] = {"block": _block, "noise": _noise}


# ---------------------------------------------------------------------------------------------- the whole stream

# The quick ways between RGB and YUV round down: every frame would come back a grey level darker.
_EXACTLY = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

# With AVX-512 x264 reads beyond some small pictures: two runs give two files. SSE 4.2 is as quick.
_WITHOUT_AVX512 = {"x264-params": "asm=sse4.2"} if platform.machine() in ("x86_64", "AMD64") else {}


def _compressed(frames: Iterable[np.ndarray], rate_factor: int) -> Iterator[np.ndarray]:
    for _, same_size in groupby(frames, key=np.shape):  # an encoder has one size; a video may change its own
        yield from _through_h264(same_size, rate_factor)


def _through_h264(frames: Iterable[np.ndarray], rate_factor: int) -> Iterator[np.ndarray]:
    """x264 with its defaults, as `ffmpeg -crf` has them; every packet goes straight on to the decoder."""
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    to_even = ((0, height % 2), (0, width % 2), (0, 0))  # colours are stored at half the resolution
    encoder, decoder = av.CodecContext.create("libx264", "w"), av.CodecContext.create("h264", "r")
    encoder.height, encoder.width, encoder.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FRAME_RATE), Fraction(1, FRAME_RATE)
    encoder.options = {"crf": str(rate_factor), "preset": "medium", **_WITHOUT_AVX512}
    encoder.thread_count = decoder.thread_count = 1  # what x264 makes of a frame depends on the number of threads

    def packets() -> Iterator[av.Packet | None]:
        for number, frame in enumerate(chain([first], frames)):
            picture = av.VideoFrame.from_ndarray(np.pad(frame, to_even, mode="edge"), format="rgb24")
            picture = picture.reformat(format="yuv420p", interpolation=_EXACTLY)
            picture.pts, picture.time_base = number, encoder.time_base
            yield from encoder.encode(picture)
        yield from encoder.encode(None)
        yield None  # now the decoder gives out what it still holds

    pictures = (picture for packet in packets() for picture in decoder.decode(packet))
    for number, picture in enumerate(pictures):
        assert picture.pts == number, f"frame {number} came back as {picture.pts}"
        yield picture.to_ndarray(format="rgb24", interpolation=_EXACTLY)[:height, :width]
