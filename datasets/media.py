"""Video files: decoding to 25 frames and 16,000 samples a second on one clock, and encoding.

The clock starts at the first decoded picture. Output frame k stands for the time k/25 s and shows the picture whose
own time, rounded to the nearest output frame, is k or the last one before it (what FFmpeg's `fps` filter does): 25 fps
passes through untouched, any other rate is off by at most half an output frame (20 ms). Sample n of the sound stands
for the time n/16000 s on the same clock, so frame k owns samples 640 k ... 640 (k + 1).

Files are hostile until decoded: only plain containers are opened (a playlist inside an .mp4 could name other files or
addresses), every wait and every size is bounded, and whatever is wrong becomes one `MediaError` with its reason.

Names of array axes: H, W pixels; frames are uint8 (H, W, 3) RGB, sound is int16 (samples,) mono.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import av
import numpy as np

FRAME_RATE = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE  # 640

# The limits of what is taken for a video of a talking person.
MAX_PIXELS = 7680 * 4320  # 8K; more is refused before a picture is decoded
WORKING_SIDE = 1920  # larger pictures are worked on at this size of their longer side: a face is stored at 150 px
MAX_HOLD_SECONDS = 10  # a picture shown longer than this is a broken time stamp, not a pause
MAX_BAD_PACKETS = 0.05  # share of packets that may fail to decode

Layout = Literal["mono", "stereo"]

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc,nut,wtv,mxf,dv"
_OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}


# Pixel formats whose first plane is brightness, a byte a pixel.
_BRIGHTNESS_IN_BYTES = {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "nv12", "gray"}


class MediaError(Exception):
    """This file cannot be used; the message is the reason, fit for a list of skipped videos."""


# ---------------------------------------------------------------------------------------------- decoding

@dataclass(frozen=True)
class Frame:
    """One output frame. Pixels are converted on demand: most frames are needed in grey, few as a whole in colour."""

    index: int  # on the 25 fps clock, from 0
    source_index: int  # which decoded picture of the file it shows, from 0
    picture: av.VideoFrame

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) as shown: after the working size and the file's rotation are applied."""
        height, width = self._unrotated_size
        return (width, height) if self._quarter_turns % 2 else (height, width)

    @property
    def _unrotated_size(self) -> tuple[int, int]:
        return max(1, round(self.picture.height * self.shrink)), max(1, round(self.picture.width * self.shrink))

    @property
    def shrink(self) -> float:
        """The working size over the file's own."""
        return min(1.0, WORKING_SIDE / max(self.picture.height, self.picture.width))

    @property
    def _quarter_turns(self) -> int:
        """Counter-clockwise quarter turns that show the picture upright (phones store them sideways)."""
        return round(self.picture.rotation / 90) % 4

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3)"""
        return self._pixels("rgb24")

    @cached_property
    def grey(self) -> np.ndarray:
        """uint8 (H, W): brightness as the file stores it, if in bytes: that costs nothing, converting does."""
        if self.shrink < 1 or self.picture.format.name not in _BRIGHTNESS_IN_BYTES:
            return self._pixels("gray")
        plane, (height, width) = self.picture.planes[0], self._unrotated_size
        pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV's types do not say so
        stored = pixels.reshape(-1, plane.line_size)[:height, :width]
        return np.ascontiguousarray(np.rot90(stored, self._quarter_turns))

    def _pixels(self, pixel_format: str) -> np.ndarray:
        height, width = self._unrotated_size
        array = self.picture.to_ndarray(format=pixel_format, width=width, height=height)
        # Rows may be padded; the face detector reads memory as if they were not.
        return np.ascontiguousarray(np.rot90(array, self._quarter_turns))

    def repeated(self, index: int) -> Frame:
        """The same picture at a later time."""
        return Frame(index, self.source_index, self.picture)


@dataclass(frozen=True)
class Probe:
    """What a file says of itself before anything is decoded."""

    has_sound: bool
    seconds: float | None  # of the picture stream; None where the container does not say
    comment: str


def probe(path: Path) -> Probe:
    with _opened(path) as container:
        stream = _video_stream(container)
        comment = container.metadata.get("comment", "") or container.metadata.get("COMMENT", "")
        return Probe(bool(container.streams.audio), _declared_seconds(container, stream), comment)


def read_frames(path: Path, *, limit: int | None = None, threads: int = 1) -> Iterator[Frame]:
    """The video at 25 frames a second, one at a time; at most `limit` of them. Memory does not grow with its length."""
    if limit is not None and limit <= 0:
        return
    with _opened(path) as container:
        stream = _video_stream(container)
        stream.thread_type = "AUTO" if threads != 1 else "NONE"
        stream.codec_context.thread_count = threads
        shown: Frame | None = None  # the latest picture, not yet handed out
        slot_of = _Slots(container, stream)
        for source_index, picture in enumerate(_decode(container, stream)):
            slot = slot_of(picture)
            if shown is not None:
                if slot - shown.index > MAX_HOLD_SECONDS * FRAME_RATE:
                    seconds = (slot - shown.index) / FRAME_RATE
                    raise MediaError(f"time stamps jump by {seconds:.0f} s at {shown.index / FRAME_RATE:.1f} s")
                for index in range(shown.index, slot):
                    yield shown.repeated(index)
                    if index + 1 == limit:
                        return
            # A picture whose time rounds to the slot of the one before replaces it; one that goes back waits its turn.
            shown = Frame(max(slot, shown.index if shown else 0), source_index, picture)
        if shown is None:
            raise MediaError("no picture could be decoded")
        end = max(slot_of.end, 1)  # a last picture that begins in the last half frame is not shown
        for index in range(shown.index, min(end, shown.index + MAX_HOLD_SECONDS * FRAME_RATE)):
            yield shown.repeated(index)
            if index + 1 == limit:
                return
        declared = _declared_seconds(container, stream)
        if declared is not None and end / FRAME_RATE < min(0.9 * declared, declared - 0.2):
            raise MediaError(f"cut off: {end / FRAME_RATE:.1f} s of {declared:.1f} s can be decoded")


def read_sound(path: Path, rate: int = SAMPLE_RATE, layout: Layout = "mono") -> Iterator[np.ndarray]:
    """In int16 chunks, sample 0 at the time of the first picture. Nothing at all where there is no sound.

    A chunk is (samples,), of stereo sound (samples, 2). Every unbroken stretch of sound is placed by its own time
    stamp; gaps become silence, overlaps are dropped.
    """
    with _opened(path) as container:
        if not container.streams.audio:
            return
        origin = _first_picture_time(path)
        stream = container.streams.audio[0]
        coarse = Fraction(3, 2) * (stream.time_base or 0)  # such clocks round their stamps
        tolerance = max(Fraction(1, 1000), coarse)
        resampler: av.AudioResampler | None = None
        expected, position, written = origin, 0, 0
        for chunk in chain(_decode(container, stream), [None]):
            at = None if chunk is None or chunk.pts is None else chunk.pts * chunk.time_base
            broken = chunk is None or (at is not None and abs(at - expected) > tolerance)
            if resampler is not None and broken:
                for piece in _placed(resampler.resample(None), position, written):
                    written += len(piece)
                    yield piece
                resampler = None
            if chunk is None:
                return
            if resampler is None:
                resampler = av.AudioResampler(format="s16", layout=layout, rate=rate)
                expected = expected if at is None else at
                position = round((expected - origin) * rate)  # of the next resampled sample
            expected += Fraction(chunk.samples, chunk.sample_rate)
            chunk.pts = None  # the resampler counts samples; stamps were honoured above
            for resampled in resampler.resample(chunk):
                for piece in _placed([resampled], position, written):
                    written += len(piece)
                    yield piece
                position += resampled.samples


def _placed(resampled: list[av.AudioFrame], position: int, written: int) -> Iterator[np.ndarray]:
    """What must be appended after `written` samples so that these land at `position`."""
    for frame in resampled:
        samples = frame.to_ndarray()[0]
        if frame.layout.nb_channels > 1:
            samples = samples.reshape(-1, frame.layout.nb_channels)
        silence, rate = position - written, frame.sample_rate
        if silence > MAX_HOLD_SECONDS * rate:
            raise MediaError(f"the sound jumps by {silence / rate:.0f} s at {written / rate:.1f} s")
        if silence > 0:
            yield np.zeros((silence, *samples.shape[1:]), np.int16)
            written += silence
        kept = samples[max(0, -silence):]
        if len(kept):
            yield kept
        position += len(samples)
        written += len(kept)


class _Slots:
    """Time stamps to places on the 25 fps clock, in exact arithmetic; keeps where the last picture ends."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self._counted = _only_counts(container)
        self._usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or FRAME_RATE)
        self._origin: Fraction | None = None
        self._next: Fraction | None = None
        self.end = 0  # first slot after the last picture

    def __call__(self, picture: av.VideoFrame) -> int:
        at = _time(picture, self._counted)
        if at is None:
            at = self._next if self._next is not None else Fraction(0)
        if self._origin is None:
            self._origin = at
        duration = 0 if self._counted else Fraction(picture.duration or 0) * (picture.time_base or 0)
        duration = duration or self._usual
        self._next = at + duration
        self.end = max(self.end, _nearest((self._next - self._origin) * FRAME_RATE))
        return _nearest((at - self._origin) * FRAME_RATE)


def _only_counts(container: av.container.InputContainer) -> bool:
    """AVI stores no times: what its reader makes up for H.264 is late by the codec's delay. So we count."""
    return container.format.name == "avi"


def _time(picture: av.VideoFrame, counted: bool) -> Fraction | None:
    if counted or picture.pts is None or picture.time_base is None:
        return None
    return picture.pts * picture.time_base


def _nearest(value: Fraction) -> int:
    """Halves go up, whatever the sign: round() would send them to the even neighbour."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    if path.stat().st_size == 0:
        raise MediaError("empty file")
    try:
        container = av.open(str(path.absolute()), options=_OPEN_OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"not a readable video file ({_said(error)})") from error
    with container:
        yield container


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    # A cover picture inside a sound file is no video.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError("no picture stream, only sound" if container.streams.audio else "no picture stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError("its picture format is unknown to this decoder")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError(f"{width}x{height} pixels a picture; {MAX_PIXELS} are the limit")
    return stream


def _decode(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """Decoded pictures or stretches of sound. Some damage is survived, as a player would; much is an error."""
    packets = bad = 0
    for packet in container.demux(stream):
        packets += 1
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            bad += 1
            if bad > 1 + MAX_BAD_PACKETS * packets and bad > 3:
                what = f"damaged: {bad} of its first {packets} packets do not decode ({_said(error)})"
                raise MediaError(what) from error
            continue
        for frame in decoded:
            if stream.type == "video" and frame.width * frame.height > MAX_PIXELS:
                raise MediaError(f"a picture of {frame.width}x{frame.height} pixels; {MAX_PIXELS} are the limit")
            yield frame


def _first_picture_time(path: Path) -> Fraction:
    with _opened(path) as container:
        for picture in _decode(container, _video_stream(container)):
            return _time(picture, _only_counts(container)) or Fraction(0)
    raise MediaError("no picture could be decoded")


def _declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if not container.duration:
        return None
    # Matroska's length is that of its clock, from zero, wherever the first picture stands.
    late = max(container.start_time or 0, 0) if "matroska" in container.format.name else 0
    return (container.duration - late) / av.time_base


def _said(error: Exception) -> str:
    """FFmpeg's own words without the path that PyAV adds: skip lists are shared, home folders are not."""
    return getattr(error, "strerror", None) or str(error).split(":")[0]


# ---------------------------------------------------------------------------------------------- encoding

class Writer:
    """A new file, frame by frame: uint8 (H, W, 3), and sound as int16 (samples,) or, stereo, (samples, 2).

    One thread, so that equal input gives equal bytes. `options` go to the video codec (x264: crf, preset); the name
    picks the container. Sound and frames may come in any order, but players want them about together.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        *,
        rate: Fraction | int = FRAME_RATE,
        codec: str = "libx264",
        pixels: str = "yuv420p",
        options: dict[str, str] | None = None,
        sound: Layout | None = None,
        sound_rate: int = SAMPLE_RATE,
        sound_codec: str = "aac",
        sound_bits: int = 64_000,
        metadata: dict[str, str] | None = None,
    ):
        options = {"crf": "23", "preset": "veryfast"} if options is None and codec == "libx264" else options or {}
        # bitexact: no encoder version or date in the file, so that the bytes depend on the content alone.
        flags = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if path.suffix in (".mp4", ".mov") else {})
        self._container = av.open(str(path), "w", options=flags)
        self._container.metadata.update(metadata or {})
        self._video = cast(av.VideoStream, self._container.add_stream(codec, rate=rate, options=options))
        self._video.width, self._video.height, self._video.pix_fmt = width, height, pixels
        self._video.thread_count = 1
        self._audio: av.AudioStream | None = None
        self._heard = 0
        if sound is not None:
            added = self._container.add_stream(sound_codec, rate=sound_rate, layout=sound)
            self._audio = cast(av.AudioStream, added)
            self._audio.bit_rate = sound_bits

    def show(self, frame: np.ndarray) -> None:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._video.encode(picture))

    def play(self, samples: np.ndarray) -> None:
        """Right after what was played before."""
        if self._audio is None:
            raise ValueError("a file that was opened without sound cannot play any")
        block = np.ascontiguousarray(samples, dtype=np.int16).reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(block, format="s16", layout=self._audio.layout)
        sound.sample_rate = self._audio.rate
        sound.pts = self._heard
        self._heard += len(samples)
        self._container.mux(self._audio.encode(sound))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._video.encode())
                if self._audio is not None:
                    self._container.mux(self._audio.encode())
        finally:
            self._container.close()


def encode(path: Path, frames: Iterable[np.ndarray], *, sound: np.ndarray | None = None, **how: Any) -> None:
    """Write uint8 (H, W, 3) frames and, if given, int16 mono 16 kHz sound to a new file; `how` is as for `Writer`."""
    frames = iter(frames)
    first = next(frames)
    with Writer(path, *first.shape[:2], sound=None if sound is None else "mono", **how) as writer:
        for frame in chain([first], frames):
            writer.show(frame)
        if sound is not None:
            writer.play(sound)
