"""Video files: decoding to 25 frames and 16,000 samples a second on one clock, and encoding.

Names of array axes: H, W pixels; frames are uint8 (H, W, 3) RGB, sound is int16 (samples,) mono.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

FRAME_RATE = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE  # 640


# ---------------------------------------------------------------------------------------------- encoding

def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    sound: np.ndarray | None = None,
    rate: Fraction | int = FRAME_RATE,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    sound_codec: str = "aac",
    sound_bits: int = 64_000,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write uint8 (H, W, 3) frames and, if given, int16 mono 16 kHz sound to a new file; the name picks the container.

    One thread, so that equal input gives equal bytes. `options` go to the video codec (x264: crf, preset).
    """
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    options = {"crf": "23", "preset": "veryfast"} if options is None and codec == "libx264" else options or {}
    # bitexact: no encoder version or date in the file, so that the bytes depend on the content alone.
    flags = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if path.suffix in (".mp4", ".mov") else {})
    with av.open(str(path), "w", options=flags) as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, pixels
        video.thread_count = 1
        audio = None
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = sound_bits
        for array in chain([first], frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, dtype=np.int16)[None], format="s16", layout="mono")
            samples.sample_rate = SAMPLE_RATE
            samples.pts = 0
            container.mux(audio.encode(samples))
            container.mux(audio.encode())
