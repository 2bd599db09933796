"""From stored clips to network inputs, on the device: one implementation for both stages and every dataset.

Three steps, each a function of its arguments alone:
    draws = draw_views(settings, B, generator)               all randomness of a batch, on the CPU
    views = make_views(settings, draws, frames, sound)       no randomness, on whatever device `frames` is
    video, log_mel = evaluation_view(settings, frames, sound)    centre crop, nothing drawn

Axes: B clips, T video frames, H W pixels, A audio frames (4 per video frame), M mel bins.
    frames   uint8 (B, T, 150, 150, 3) as stored       sound    int16 (B, 16000), or None where there is none
    video    float32 (B, 3, T, 112, 112), ImageNet-normalised
    log_mel  float32 (B, 1, A, M) = (B, 1, 100, 80)

"Zero" always means the value 0 in the network's input: after normalisation for video (so the data's mean
colour), after (dB + 40) / 40 for sound (so -40 dB). Erasing, time and frequency masks all write that value, as
published (Haliassos et al., "Leveraging Real Talking Faces via Self-Supervision for Robust Forgery Detection",
CVPR 2022).

Since the draws are made on the CPU, a CPU and a GPU see the same views, and a generator whose state is saved
and restored goes on with the same ones. Differences between the devices are those of float32 sums only: the
resize is done in whole numbers (see `_resize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import melscale_fbanks

ERASE_TRIES = 10  # torchvision's RandomErasing gives up after as many regions that do not fit
COLUMNS = 15 + 2 * ERASE_TRIES  # uniform numbers that one clip's views take
SAMPLES_PER_FRAME = 640  # as in datasets.media, which needs more than a GPU machine may have
_LUMA = (0.2989, 0.587, 0.114)  # torchvision's grayscale


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """The published values. Stage 2 uses the same ones with `time_mask_probability=0.5`.

    mask_fill     "zero" (published), or "clip_mean": masked frames get the mean over time of the frames that
                  stay visible, per pixel or per mel bin; masked mel bins get their own mean over time
    top_db        0 dB is the clip's own loudest bin, never the batch's, and its floor so much below; so log-mels
                  lie in [-1, 1] whatever the recording level, and a masked value of 0 is 40 dB below the loudest
    """

    crop: int = 140
    size: int = 112
    flip_probability: float = 0.5
    grayscale_probability: float = 0.5
    erase_probability: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.33)
    erase_aspect: tuple[float, float] = (0.3, 3.3)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    time_mask_probability: float = 1.0
    longest_time_mask: int = 12  # video frames
    frequency_mask: int = 27  # mel bins, torchaudio's `freq_mask_param`
    mask_fill: str = "zero"

    sample_rate: int = 16_000
    n_fft: int = 512
    window: int = 320
    hop: int = 160
    mel_bins: int = 80
    top_db: float = 80.0

    def __post_init__(self) -> None:
        if self.mask_fill not in ("zero", "clip_mean"):
            raise ValueError(f"mask_fill must be zero or clip_mean, not {self.mask_fill!r}")
        for field in fields(self):
            if field.name.endswith("_probability") and not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} must lie between 0 and 1, not {getattr(self, field.name)}")
        for name in ("erase_area", "erase_aspect", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, from YAML, could not be hashed

    @classmethod
    def of_network(cls, arguments: Mapping[str, Any], **others: Any) -> Self:
        """Pictures as large as a network with these arguments wants them, where it wants them so and no other way."""
        size = {"size": arguments["input_size"]} if "input_size" in arguments else {}
        return cls(**size, **others)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random choices for one batch: CPU tensors of shape (B,). A length of 0 means no mask."""

    student_top: Tensor
    student_left: Tensor
    student_flip: Tensor
    gray: Tensor
    erase_top: Tensor
    erase_left: Tensor
    erase_height: Tensor
    erase_width: Tensor
    time_start: Tensor  # in video frames
    time_length: Tensor
    frequency_start: Tensor
    frequency_length: Tensor
    teacher_top: Tensor
    teacher_left: Tensor
    teacher_flip: Tensor

    def __getitem__(self, clips: slice | Tensor) -> Draws:
        """The draws of some of the clips, as when only the real ones of a batch need a view."""
        return Draws(*(getattr(self, field.name)[clips] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Views:
    student_video: Tensor  # (B, 3, T, H, W)
    student_log_mel: Tensor | None  # (B, 1, A, M)
    teacher_video: Tensor | None
    teacher_log_mel: Tensor | None
    masked: Tensor  # bool (B, T): the frames that the time mask hides from the student


# ------------------------------------------------------------------------------------------------ drawing

def draw_views(
    settings: ViewSettings,
    batch: int,
    generator: torch.Generator,
    *,
    frames: int = 25,
    stored: int = 150,
    mask_probability: float | None = None,
    mask_strength: float = 1.0,
) -> Draws:
    """Draw one batch's random choices from a CPU generator.

    Exactly one call of the generator: `torch.rand(B, COLUMNS)` in double precision, whatever the settings, so
    that changing a probability in mid-training leaves all later draws as they were. The columns are used from
    left to right: the student's crop (top, left), flip, grayscale, erasing (whether, top, left, then the areas
    and the aspects that are tried), time mask (whether, length, start), frequency mask (length, start), the
    teacher's crop (top, left) and flip.

    Distributions. Crop offsets: uniform over the 0 .. stored - crop that fit. Time mask: length uniform over
    0 .. longest, then start uniform over all places where it fits. Frequency mask: torchaudio's rule, length =
    floor(u * frequency_mask), so never all of `frequency_mask`. Erasing: torchvision's rule, area uniform,
    aspect log-uniform, the first of ten regions that is smaller than the picture, else none.

    mask_probability  replaces the settings' `time_mask_probability`, for schedules
    mask_strength     0 .. 1, scales the longest time mask and the widest frequency mask, for a mask ramp
    """
    if not 0 <= mask_strength <= 1:
        raise ValueError(f"mask_strength must lie between 0 and 1, not {mask_strength}")
    probability = settings.time_mask_probability if mask_probability is None else mask_probability
    longest = min(round(mask_strength * settings.longest_time_mask), frames)
    offsets = stored - settings.crop + 1
    if offsets < 1:
        raise ValueError(f"a crop of {settings.crop} does not fit into stored frames of {stored}")

    columns = iter(torch.rand(batch, COLUMNS, dtype=torch.float64, generator=generator).unbind(1))

    def whole(u: Tensor, choices: Tensor | int) -> Tensor:
        return (u * choices).long()  # uniform over 0 .. choices - 1, as u < 1

    student_top, student_left = whole(next(columns), offsets), whole(next(columns), offsets)
    student_flip = next(columns) < settings.flip_probability
    gray = next(columns) < settings.grayscale_probability

    erase = next(columns) < settings.erase_probability
    place = next(columns), next(columns)
    areas = torch.stack([next(columns) for _ in range(ERASE_TRIES)], dim=1)
    aspects = torch.stack([next(columns) for _ in range(ERASE_TRIES)], dim=1)
    erase_height, erase_width = _erase_sizes(settings, areas, aspects)
    erase_height, erase_width = erase_height * erase, erase_width * erase
    erase_top = whole(place[0], settings.size - erase_height + 1)
    erase_left = whole(place[1], settings.size - erase_width + 1)

    time_length = (next(columns) < probability) * whole(next(columns), longest + 1)
    time_start = whole(next(columns), frames - time_length + 1)

    width = next(columns) * settings.frequency_mask * mask_strength
    frequency_start = whole(next(columns), settings.mel_bins - width)
    return Draws(
        student_top=student_top, student_left=student_left, student_flip=student_flip, gray=gray,
        erase_top=erase_top, erase_left=erase_left, erase_height=erase_height, erase_width=erase_width,
        time_start=time_start, time_length=time_length,
        frequency_start=frequency_start, frequency_length=width.long(),
        teacher_top=whole(next(columns), offsets), teacher_left=whole(next(columns), offsets),
        teacher_flip=next(columns) < settings.flip_probability,
    )  # fmt: skip


def _erase_sizes(settings: ViewSettings, areas: Tensor, aspects: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform numbers (B, tries) -> height and width (B,) of the first region that fits, else 0."""
    smallest, largest = settings.erase_area
    low, high = torch.tensor(settings.erase_aspect, dtype=torch.float64).log()
    area = (smallest + areas * (largest - smallest)) * settings.size**2
    aspect = (low + aspects * (high - low)).exp()
    heights, widths = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (heights < settings.size) & (widths < settings.size)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first of equal maxima
    found = fits.any(dim=1)
    return heights.gather(1, first)[:, 0] * found, widths.gather(1, first)[:, 0] * found


# ----------------------------------------------------------------------------------------------- applying

def make_views(
    settings: ViewSettings, draws: Draws, frames: Tensor, sound: Tensor | None = None, *, teacher: bool = True
) -> Views:
    """The student's masked and the teacher's clean view of a batch, on the device of `frames`.

    frames uint8 (B, T, S, S, 3), sound int16 (B, T * 640) or None; `teacher=False` leaves the teacher's out.
    """
    _check(frames, sound)
    T = frames.shape[1]
    student = _video(settings, frames, draws.student_top, draws.student_left, draws.student_flip, draws.gray)
    starts, lengths = draws.time_start.tolist(), draws.time_length.tolist()
    boxes = torch.stack([draws.erase_top, draws.erase_left, draws.erase_height, draws.erase_width], dim=1)
    for b, (top, left, height, width) in enumerate(boxes.tolist()):
        student[b, :, :, top : top + height, left : left + width] = 0
        _hide_time(student[b], starts[b], lengths[b], settings.mask_fill)

    clean = masked_sound = None
    if sound is not None:
        clean = log_mel(settings, sound)
        masked_sound = _mask_log_mel(settings, draws, clean, clean.shape[2] // T)

    taught = teacher_video(settings, draws, frames) if teacher else None

    step = torch.arange(T)
    masked = (step >= draws.time_start[:, None]) & (step < (draws.time_start + draws.time_length)[:, None])
    return Views(
        student_video=student,
        student_log_mel=masked_sound,
        teacher_video=taught,
        teacher_log_mel=clean if teacher else None,
        masked=masked.to(frames.device),
    )


def teacher_video(settings: ViewSettings, draws: Draws, frames: Tensor) -> Tensor:
    """The teacher's view alone, as when only some of a batch's clips need one: give `draws[those]`, `frames[those]`."""
    _check(frames, None)
    return _video(settings, frames, draws.teacher_top, draws.teacher_left, draws.teacher_flip)


def evaluation_view(
    settings: ViewSettings, frames: Tensor, sound: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Centre crop, resized and normalised (B, 3, T, H, W); clean log-mel (B, 1, A, M), or None without sound."""
    _check(frames, sound)
    centre = torch.full((len(frames),), (frames.shape[2] - settings.crop) // 2)
    video = _video(settings, frames, centre, centre, torch.zeros(len(frames), dtype=torch.bool))
    return video, None if sound is None else log_mel(settings, sound)


def _check(frames: Tensor, sound: Tensor | None) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (B, T, S, S, 3), not {frames.dtype} {tuple(frames.shape)}")
    expected = (frames.shape[0], frames.shape[1] * SAMPLES_PER_FRAME)
    if sound is not None and (sound.dtype != torch.int16 or sound.shape != expected):
        raise ValueError(f"sound must be int16 {expected}, not {sound.dtype} {tuple(sound.shape)}")


def _video(
    settings: ViewSettings,
    frames: Tensor,
    top: Tensor,
    left: Tensor,
    flip: Tensor,
    gray: Tensor | None = None,
) -> Tensor:
    """Crop, resize, flip, grayscale, normalise: uint8 (B, T, S, S, 3) -> float32 (B, 3, T, H, W).

    A GPU takes the batch in one piece. A CPU takes it clip by clip: each clip's intermediate pictures then stay
    in the processor's cache, which is a fifth faster than whole batches (docs/performance.md).
    """
    B, T = frames.shape[:2]
    crop, size = settings.crop, settings.size
    scale, shift = _normalisation(settings, frames.device)
    video = torch.empty(B, 3, T, size, size, device=frames.device)
    piece = B if frames.is_cuda else 1
    tops, lefts, flips = top.tolist(), left.tolist(), flip.tolist()
    grays = [False] * B if gray is None else gray.tolist()
    for begin in range(0, B, piece):
        clips = range(begin, min(begin + piece, B))
        crops = [frames[b, :, tops[b] : tops[b] + crop, lefts[b] : lefts[b] + crop] for b in clips]
        pictures = torch.cat(crops) if len(crops) > 1 else crops[0]  # (b * T, crop, crop, 3)
        pictures = _resize(pictures.permute(0, 3, 1, 2), size).unflatten(0, (-1, T))  # (b, T, 3, H, W)
        for b, clip in zip(clips, pictures, strict=True):
            video[b] = (clip.flip(-1) if flips[b] else clip).transpose(0, 1)
            if grays[b]:
                red, green, blue = video[b]
                video[b] = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
        video[begin : begin + piece].mul_(scale).add_(shift)
    return video


def _resize(pictures: Tensor, size: int) -> Tensor:
    """Bilinear resize of uint8 (N, 3, S, S) with channels last; whole numbers 0 .. 255, uint8 or float32.

    Without antialiasing: the original code resized tensors with a torchvision that had none for them, and from
    140 to 112 (5 pixels become 4) the filter would widen by a quarter of a pixel only. The weights are then
    eighths, hence exact in any arithmetic.

    On x86 PyTorch resizes bytes with integer vector instructions, six times faster than it turns them into
    floats and resizes these: along the width, rounded, then along the height, rounded. Elsewhere the same two
    roundings are done in float32. Both agree bit by bit where the weights are short binary fractions (140 -> 112,
    56, 64, 224), else in all but some per cent of the pixels, which differ by one or two levels of 255. Rounding
    itself costs one level at most.
    """
    if pictures.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        return F.interpolate(pictures, size=(size, size), mode="bilinear")
    wide = F.interpolate(pictures.float(), size=(pictures.shape[2], size), mode="bilinear").add_(0.5).floor_()
    return F.interpolate(wide, size=(size, size), mode="bilinear").add_(0.5).floor_()


@lru_cache(maxsize=16)
def _normalisation(settings: ViewSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as x * scale + shift, each (3, 1, 1, 1)."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1, 1) for v in (settings.mean, settings.std))
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)


# -------------------------------------------------------------------------------------------------- sound

def log_mel(settings: ViewSettings, sound: Tensor) -> Tensor:
    """int16 (B, samples) -> float32 (B, 1, samples / hop, mel bins), (dB + 40) / 40.

    Frames are centred with reflected edges; the last one (the 101st of a second) is dropped. Only the samples
    under the window are cut out, padded to n_fft by the FFT: compared with torch.stft that shifts each frame in
    time, which changes phases but no powers.
    """
    window, bank = _mel_tables(settings, sound.device)
    waves = F.pad(sound.float()[:, None], (settings.window // 2,) * 2, mode="reflect")[:, 0]
    count = sound.shape[1] // settings.hop
    pieces = waves.unfold(-1, settings.window, settings.hop)[:, :count] * window  # (B, A, window)
    spectrum = torch.fft.rfft(pieces, n=settings.n_fft)
    power = spectrum.real.square().add_(spectrum.imag.square())
    decibel = (power @ bank).clamp_(min=1e-10).log10_().mul_(10)  # (B, A, M)
    decibel = decibel.sub_(decibel.amax(dim=(1, 2), keepdim=True)).clamp_(min=-settings.top_db)
    return decibel.add_(40).div_(40)[:, None]


@lru_cache(maxsize=16)
def _mel_tables(settings: ViewSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window, which also brings int16 to [-1, 1], and the HTK mel filters without area normalisation."""
    rate, bins = settings.sample_rate, settings.n_fft // 2 + 1
    bank = melscale_fbanks(bins, 0.0, rate / 2, settings.mel_bins, rate, norm=None, mel_scale="htk")
    return (torch.hann_window(settings.window) / 32768).to(device), bank.to(device)


# -------------------------------------------------------------------------------------------------- masks

def _hide_time(clip: Tensor, start: int, length: int, fill: str) -> None:
    """In place: clip (channels, time, ...), `length` steps of time from `start` on."""
    if not length:
        return
    steps = clip.shape[1]
    if fill == "zero" or length == steps:
        clip[:, start : start + length] = 0
    else:
        # The mean of what stays visible: the mean of all would tell the student about the hidden frames.
        visible = clip[:, :start].sum(dim=1) + clip[:, start + length :].sum(dim=1)
        clip[:, start : start + length] = (visible / (steps - length))[:, None]


def _mask_log_mel(settings: ViewSettings, draws: Draws, clean: Tensor, per_frame: int) -> Tensor:
    masked = clean.clone()
    spans = torch.stack([draws.time_start * per_frame, draws.time_length * per_frame, draws.frequency_start,
                         draws.frequency_length], dim=1).tolist()  # fmt: skip
    for b, (start, length, low, width) in enumerate(spans):
        _hide_time(masked[b], start, length, settings.mask_fill)
        if settings.mask_fill == "zero":
            masked[b, :, :, low : low + width] = 0
        else:
            # After the time mask the hidden frames hold the visible ones' mean, so this is that mean again.
            masked[b, :, :, low : low + width] = masked[b, :, :, low : low + width].mean(dim=1, keepdim=True)
    return masked
