"""Videos of a talking head of any size and length, out of a few seconds of one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from datasets.media import FRAME_RATE, SAMPLE_RATE, encode, read_frames
from datasets.synthetic import synthesize


def generated_head(folder: Path, width: int, height: int) -> list[np.ndarray]:
    """A few seconds of a generated head."""
    synthesize(folder / "corpus", workers=1, lrw_clips=0, faceforensics_pairs=1, celebdf_identities=0, youtube_real=0,
               say=lambda line: None)
    return enlarged(sorted((folder / "corpus").rglob("original_sequences/**/*.mp4"))[:1], width, height)


def enlarged(videos: Iterable[Path], width: int, height: int) -> list[np.ndarray]:
    """The videos' pictures at full height in the middle, their own blurred background at the sides; each video there
    and back again, so that nothing jumps when it is repeated."""
    pictures = []
    for video in videos:
        there = [_wide(Image.fromarray(frame.rgb()), width, height) for frame in read_frames(video)]
        pictures += there + there[-2:0:-1]
    return pictures


def _wide(picture: Image.Image, width: int, height: int) -> np.ndarray:
    top = (width - height) // 2
    wide = picture.resize((width, width)).crop((0, top, width, top + height)).filter(ImageFilter.GaussianBlur(30))
    inner = round(picture.width * height / picture.height)
    wide.paste(picture.resize((inner, height), Image.Resampling.BICUBIC), ((width - inner) // 2, 0))
    return np.asarray(wide)


def write(path: Path, pictures: list[np.ndarray], seconds: int) -> None:
    def repeated() -> Iterator[np.ndarray]:
        for k in range(seconds * FRAME_RATE):
            yield pictures[k % len(pictures)]

    began = time.monotonic()
    sound = np.zeros(seconds * SAMPLE_RATE, np.int16)
    encode(path, repeated(), sound=sound, options={"preset": "superfast", "crf": "23"})
    print(f"  wrote {seconds} s of video in {time.monotonic() - began:.0f} s", flush=True)
