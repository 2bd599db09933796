"""Articulation first: one set of curves moves the lips and shapes the sound, so that the sound predicts the lips.

A phone says where jaw, lips and tongue want to be and what drives the sound (glottis, friction, nothing). A sequence of
phones, smoothed as muscles smooth it, gives curves at 200 Hz. The renderer samples them at the frames' middles; the
voice is a source-filter synthesis whose formants are functions of the same curves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from datasets.media import FRAME_RATE, SAMPLE_RATE

CURVE_RATE = 200  # points a second
JAW, ROUND, PRESS, TUCK, TONGUE, FRONT, VOICE, HISS, PITCH_OF_HISS = range(9)

# jaw 0 shut .. 1 wide; round -1 spread .. 1 rounded; press 1 lips sealed; tuck 1 lower lip at the upper teeth;
# tongue 1 raised to the teeth; front 0 back vowel .. 1 front; voice and hiss loudness; pitch of hiss 0 dull .. 1 sharp.
PHONES: dict[str, tuple[float, ...]] = {
    "_": (0.03, 0.0, 0.55, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5),
    "a": (1.00, 0.0, 0.0, 0.0, 0.0, 0.35, 1.0, 0.0, 0.5),
    "ae": (0.85, -0.5, 0.0, 0.0, 0.0, 0.75, 1.0, 0.0, 0.5),
    "e": (0.55, -0.4, 0.0, 0.0, 0.1, 0.80, 1.0, 0.0, 0.5),
    "i": (0.28, -1.0, 0.0, 0.0, 0.2, 1.00, 0.9, 0.0, 0.5),
    "o": (0.60, 0.8, 0.0, 0.0, 0.0, 0.15, 1.0, 0.0, 0.5),
    "u": (0.26, 1.0, 0.0, 0.0, 0.0, 0.10, 0.9, 0.0, 0.5),
    "er": (0.42, 0.35, 0.0, 0.0, 0.1, 0.50, 0.9, 0.0, 0.5),
    "uh": (0.48, 0.0, 0.0, 0.0, 0.0, 0.45, 0.9, 0.0, 0.5),
    "p": (0.08, 0.0, 1.0, 0.0, 0.0, 0.45, 0.0, 0.05, 0.2),
    "b": (0.08, 0.0, 1.0, 0.0, 0.0, 0.45, 0.25, 0.0, 0.2),
    "m": (0.08, 0.0, 1.0, 0.0, 0.0, 0.45, 0.55, 0.0, 0.2),
    "f": (0.12, 0.0, 0.0, 1.0, 0.0, 0.50, 0.0, 0.35, 0.7),
    "v": (0.12, 0.0, 0.0, 1.0, 0.0, 0.50, 0.45, 0.2, 0.7),
    "s": (0.12, -0.5, 0.0, 0.0, 0.7, 0.80, 0.0, 0.6, 1.0),
    "sh": (0.16, 0.7, 0.0, 0.0, 0.5, 0.60, 0.0, 0.7, 0.6),
    "ch": (0.14, 0.6, 0.0, 0.0, 0.7, 0.65, 0.0, 0.6, 0.6),
    "t": (0.18, -0.2, 0.0, 0.0, 1.0, 0.75, 0.0, 0.3, 0.9),
    "d": (0.18, -0.2, 0.0, 0.0, 1.0, 0.75, 0.35, 0.1, 0.8),
    "n": (0.20, -0.1, 0.0, 0.0, 1.0, 0.70, 0.6, 0.0, 0.5),
    "l": (0.32, -0.1, 0.0, 0.0, 1.0, 0.55, 0.8, 0.0, 0.5),
    "w": (0.20, 1.0, 0.1, 0.0, 0.0, 0.05, 0.7, 0.0, 0.5),
    "k": (0.30, 0.0, 0.0, 0.0, 0.0, 0.40, 0.0, 0.3, 0.4),
    "h": (0.45, 0.0, 0.0, 0.0, 0.0, 0.45, 0.1, 0.3, 0.4),
}
VOWELS = frozenset({"a", "ae", "e", "i", "o", "u", "er", "uh"})

# Words of LRW's vocabulary that differ to the eye; the first ten are the default.
WORDS: dict[str, str] = {
    "ABOUT": "uh b ae u t",
    "FAMILY": "f ae m uh l i",
    "PEOPLE": "p i p o l",
    "BEFORE": "b i f o er",
    "WORLD": "w er l d",
    "HOUSE": "h a u s",
    "SPEECH": "s p i ch",
    "MONEY": "m uh n i",
    "TODAY": "t u d e i",
    "SHOULD": "sh u d",
    "POWER": "p a w er",
    "WOMEN": "w i m e n",
    "PLACE": "p l e i s",
    "FORCE": "f o er s",
    "PRICE": "p er a i s",
    "ALWAYS": "o l w e i s",
    "LEVEL": "l e v e l",
    "MAYBE": "m e i b i",
    "WITHOUT": "w i v ae u t",
    "SEVEN": "s e v e n",
}


@dataclass(slots=True)
class Utterance:
    curves: np.ndarray  # float64 (points at 200 Hz, 9), columns as named above
    word: str | None = None
    word_seconds: float = 0.0


@dataclass(slots=True)
class Lips:
    """What the face does at each video frame, float32 (frames,) each."""

    jaw: np.ndarray
    round: np.ndarray
    press: np.ndarray
    tuck: np.ndarray
    tongue: np.ndarray

    def opening(self) -> np.ndarray:
        """How far the lips are apart, in the unit of `jaw`: the quantity that sound should predict."""
        return self.jaw * (1.0 - self.press) * (1.0 - 0.7 * self.tuck)

    def __len__(self) -> int:
        return len(self.jaw)


def speak_word(rng: np.random.Generator, word: str, frames: int) -> Utterance:
    """The word in the clip's middle, with the ends of other syllables around it, as in a broadcast."""
    tempo = rng.uniform(0.85, 1.15)
    middle = _timed(rng, WORDS[word].split(), tempo)
    word_seconds = sum(seconds for _, seconds in middle)
    total = frames / FRAME_RATE
    before_seconds = (total - word_seconds) / 2 + rng.uniform(-0.05, 0.05)
    before = _filler(rng, tempo, before_seconds)[::-1]
    after = _filler(rng, tempo, total - before_seconds - word_seconds + 0.2)
    early = sum(seconds for _, seconds in before) - before_seconds  # cut off what lies before the clip
    return Utterance(_curves(rng, before + middle + after, early, frames), word, word_seconds)


def speak_freely(rng: np.random.Generator, frames: int, words: tuple[str, ...] = tuple(WORDS)) -> Utterance:
    """Words in random order with short pauses: the talk of the face-forgery parts."""
    tempo, total = rng.uniform(0.8, 1.2), frames / FRAME_RATE
    sequence: list[tuple[str, float]] = []
    halting = rng.uniform(0.05, 0.6)  # some speak in one breath, some word by word
    early = rng.uniform(0.0, 0.5)  # begin in the middle of a word as often as not
    while sum(seconds for _, seconds in sequence) < total + early + 0.2:
        sequence += _timed(rng, WORDS[words[rng.integers(len(words))]].split(), tempo)
        if rng.random() < halting:
            sequence.append(("_", rng.uniform(0.08, 0.35)))
    return Utterance(_curves(rng, sequence, early, frames, vigour=rng.uniform(0.6, 1.2)))


def lips_at_frames(utterance: Utterance, frames: int) -> Lips:
    at = (np.arange(frames) + 0.5) / FRAME_RATE * CURVE_RATE
    points = np.arange(len(utterance.curves))
    columns = [
        np.interp(at, points, utterance.curves[:, k]).astype(np.float32) for k in (JAW, ROUND, PRESS, TUCK, TONGUE)
    ]
    return Lips(*columns)


def voice(rng: np.random.Generator, utterance: Utterance, frames: int) -> np.ndarray:
    """int16 (frames * 640,) sound of the utterance in a voice drawn anew: pitch, vocal tract, breath, room."""
    count = frames * SAMPLE_RATE // FRAME_RATE
    curve = utterance.curves
    pitch, tract = np.exp(rng.uniform(np.log(90), np.log(240))), rng.uniform(0.88, 1.16)
    source_tilt, breath, loudness = rng.uniform(0.7, 1.3), rng.uniform(0.01, 0.05), rng.uniform(0.5, 0.9)
    room = 10 ** rng.uniform(-3.4, -2.4)

    seconds = np.arange(count) / SAMPLE_RATE

    def at_samples(values: np.ndarray) -> np.ndarray:
        return np.interp(seconds * CURVE_RATE, np.arange(len(values)), values)

    melody = gaussian_filter1d(rng.normal(size=len(curve)), 20, mode="nearest")
    melody = 0.10 * melody / (melody.std() + 1e-9) - 0.10 * np.linspace(0, 1, len(curve))
    phase = np.cumsum(at_samples(pitch * np.exp(melody))) / SAMPLE_RATE
    ramp = phase % 1.0
    glottis = np.diff(
        np.where(ramp < 0.6, 0.5 - 0.5 * np.cos(np.pi * ramp / 0.6), np.cos(np.pi * (ramp - 0.6) / 0.8)),
        prepend=0.0,
    )
    glottis /= glottis.std() + 1e-9
    white = rng.normal(size=count)
    loud = curve[:, VOICE] * (0.25 + 0.75 * curve[:, JAW]) * (1.0 - 0.75 * curve[:, PRESS])
    voiced = at_samples(loud) * (glottis + breath * white * 3)

    # The filters change smoothly, so they are applied to overlapping windows in the spectrum.
    window, hop = 512, 128
    taper = np.hanning(window + 1)[:-1]
    starts = np.arange(-window + hop, count, hop)
    at = np.clip((starts + window / 2) / SAMPLE_RATE * CURVE_RATE, 0, len(curve) - 1)
    here = np.stack([np.interp(at, np.arange(len(curve)), curve[:, k]) for k in range(curve.shape[1])], 1)
    frequency = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)[None]
    tube = _formants(here, frequency, tract) * (200.0 / (frequency + 200.0)) ** (0.35 * source_tilt)
    middle = (1800 + 3800 * here[:, PITCH_OF_HISS : PITCH_OF_HISS + 1]) / tract**0.5
    friction = np.exp(-(((frequency - middle) / 1300) ** 2)) * here[:, HISS : HISS + 1]

    def windows(signal: np.ndarray) -> np.ndarray:
        padded = np.pad(signal, (window, 2 * window))
        return np.fft.rfft(padded[starts[:, None] + window + np.arange(window)[None]] * taper, axis=1)

    pieces = np.fft.irfft(windows(voiced) * tube + windows(white) * friction * 0.8, axis=1)
    sound = np.zeros(count + 3 * window)
    for start, piece in zip(starts, pieces, strict=True):
        sound[start + window : start + 2 * window] += piece
    sound = sound[window : window + count]
    sound = sound / (np.abs(sound).max() + 1e-9) * loudness + room * rng.normal(size=count)
    return np.clip(sound * 32767, -32768, 32767).astype(np.int16)


def _formants(here: np.ndarray, frequency: np.ndarray, tract: float) -> np.ndarray:
    """Gain (windows, bins) of a vocal tract whose resonances follow jaw, lips and tongue."""
    jaw, rounded, press, front = here[:, JAW], here[:, ROUND], here[:, PRESS], here[:, FRONT]
    centres = (
        np.stack(
            [
                270 + 520 * jaw - 40 * np.maximum(rounded, 0),
                850 + 1350 * front - 250 * np.maximum(rounded, 0) + 80 * np.minimum(rounded, 0),
                2450 + 350 * front - 200 * np.maximum(rounded, 0),
                3500 + 0 * jaw,
            ],
            1,
        )
        / tract
    )
    widths = np.array([80.0, 110.0, 160.0, 220.0])
    gain = np.ones((len(here), frequency.shape[1]))
    for k in range(4):
        centre = centres[:, k : k + 1]
        gain *= centre**2 / np.sqrt((centre**2 - frequency**2) ** 2 + (widths[k] * frequency * 1.2) ** 2)
    sealed = 1.0 / (1.0 + (frequency / 450.0) ** 2)  # closed lips let only the low hum through
    return gain * (1 - press[:, None] * (1 - sealed))


def _timed(rng: np.random.Generator, phones: list[str], tempo: float) -> list[tuple[str, float]]:
    base = {True: 0.125, False: 0.075}
    return [(phone, base[phone in VOWELS] * tempo * rng.uniform(0.85, 1.2)) for phone in phones]


def _filler(rng: np.random.Generator, tempo: float, seconds: float) -> list[tuple[str, float]]:
    """Parts of other words: consonant and vowel in turn, at least `seconds` long."""
    vowels, consonants = sorted(VOWELS), sorted(set(PHONES) - VOWELS - {"_"})
    sequence: list[tuple[str, float]] = []
    while sum(length for _, length in sequence) < seconds:
        kind = consonants if len(sequence) % 2 == 0 else vowels
        sequence += _timed(rng, [kind[rng.integers(len(kind))]], tempo)
        if rng.random() < 0.1:
            sequence.append(("_", rng.uniform(0.06, 0.15)))
    return sequence


def _curves(
    rng: np.random.Generator, sequence: list[tuple[str, float]], early: float, frames: int, vigour: float = 1.0
) -> np.ndarray:
    ends = np.cumsum([seconds for _, seconds in sequence]) - early
    length = int(np.ceil(frames / FRAME_RATE * CURVE_RATE)) + 1
    which = np.minimum(np.searchsorted(ends, np.arange(length) / CURVE_RATE), len(sequence) - 1)
    targets = np.array([PHONES[phone] for phone, _ in sequence])[which]
    targets[:, JAW] *= rng.uniform(0.85, 1.15) * vigour
    targets[:, ROUND] *= vigour
    smooth = np.empty_like(targets)
    slow = rng.uniform(0.022, 0.030) * CURVE_RATE
    for column in range(targets.shape[1]):
        sigma = (
            slow
            if column in (JAW, ROUND, FRONT)
            else 0.016 * CURVE_RATE
            if column in (PRESS, TUCK, TONGUE)
            else 0.008 * CURVE_RATE
        )
        smooth[:, column] = gaussian_filter1d(targets[:, column], sigma, mode="nearest")
    # Gaussian smoothing lowers a short closure's peak; lips do meet in "p", so the top of the curve is stretched.
    smooth[:, PRESS] = np.clip(smooth[:, PRESS] * 1.25, 0, 1)
    smooth[:, TUCK] = np.clip(smooth[:, TUCK] * 1.25, 0, 1)
    smooth[:, JAW] = np.clip(smooth[:, JAW], 0, 1.15)
    return smooth
