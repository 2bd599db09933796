"""The files that people really have on their disks, and the reason that each must be skipped with."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from datasets.media import SAMPLE_RATE, encode, read_frames

ODD_NAMES = (
    "two words.mp4", "it's \"quoted\".mp4", "line\nbreak.mp4", "한국어 영상.mp4", "a,b=[c]{d}$e.mp4", "#2.mp4",
    "-dash.mp4",
)


def pictures(video: Path) -> list[np.ndarray]:
    return [frame.rgb() for frame in read_frames(video)]


def blank(count: int, height: int = 64, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 90, np.uint8)] * count


def write_bad_videos(folder: Path, talking: Path) -> dict[str, str]:
    """Fill `folder`; returns {file name: part of the reason}, None for those that can be used."""
    faces = pictures(talking)
    whole = talking.read_bytes()
    expected: dict[str, str | None] = {}

    def bad(name: str, reason: str | None) -> Path:
        expected[name] = reason
        return folder / name

    bad("truncated.mp4", "cut off").write_bytes(whole[: len(whole) * 2 // 3])
    bad("truncated_early.mp4", "not a readable video file").write_bytes(whole[:500])
    bad("zero.mp4", "empty file").touch()
    bad("text.mp4", "not a readable video file").write_text("<html>404 not found</html>\n" * 50)
    bad("random.mp4", "not a readable video file").write_bytes(np.random.default_rng(0).bytes(20_000))
    with av.open(str(bad("sound_only.mp4", "no picture stream, only sound")), "w") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, SAMPLE_RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    encode(bad("no_face.mp4", "no face in any of 40 frames"), blank(40, 240, 320))
    encode(bad("one_pixel.mkv", "no face"), blank(40, 1, 1), codec="ffv1", pixels="yuv444p")
    encode(bad("three_frames.mp4", "only 3 frames; 25 are needed"), faces[:3])
    half = faces + [np.full_like(faces[0], 90)] * len(faces)
    encode(bad("half_the_time.mp4", None), half)
    encode(bad("blinking_light.mp4", "frames in a row; 25 are needed"),
           [picture for k in range(4) for picture in [*faces[:12], *blank(18, *faces[0].shape[:2])]])
    left, right = faces[0].shape[1], faces[0].shape[1] * 2
    canvas = np.full((left, right, 3), 60, np.uint8)
    both = []
    for picture in faces:
        canvas = canvas.copy()
        canvas[:, :left], canvas[:, left:] = picture, picture[:, ::-1]
        both.append(canvas)
    encode(bad("two_faces.mp4", None), both)
    large = np.repeat(np.repeat(faces[0], 16, 0), 16, 1)[:4096]
    wide = np.full((4320, 7680, 3), 60, np.uint8)
    wide[100 : 100 + len(large), 1000 : 1000 + large.shape[1]] = large
    encode(bad("8k.mp4", None), [wide] * 25, options={"preset": "ultrafast", "crf": "30"})
    with av.open(str(bad("variable_rate.mp4", None)), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *faces[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        at = 0
        for k, picture in enumerate(faces):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 90000)
            at += (1500, 3600, 6000, 2250)[k % 4]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for name in ODD_NAMES:
        bad(name, None).write_bytes(whole)
    os.mkfifo(bad("pipe.mp4", "not a file"))  # opening it would wait for ever
    return expected
