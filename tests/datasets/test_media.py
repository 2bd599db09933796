"""Frames and sound land where the clock says, whatever the file looks like."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.media import (
    FRAME_RATE,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    MediaError,
    Writer,
    encode,
    probe,
    read_frames,
    read_sound,
)

H, W = 48, 64


def numbered(k: int, height: int = H, width: int = W) -> np.ndarray:
    """A picture that tells its own number: eight black or white bars, bit by bit."""
    picture = np.full((height, width, 3), 40, np.uint8)
    for bit in range(8):
        if k >> bit & 1:
            picture[:, bit * width // 8 : (bit + 1) * width // 8] = 220
    return picture


def number_of(picture: np.ndarray) -> int:
    width = picture.shape[1]
    row = picture[picture.shape[0] // 2].mean(-1)
    return sum(int(row[(2 * bit + 1) * width // 16] > 128) << bit for bit in range(8))


def numbers(path: Path, **options) -> list[int]:
    return [number_of(frame.rgb()) for frame in read_frames(path, **options)]


def write(path: Path, times: list[Fraction | float], *, codec="libx264", pixels="yuv420p", base=Fraction(1, 90000),
          sound_at: float | None = None, sound: np.ndarray | None = None, size=(H, W), rotation=0, rate=25,
          sound_rate=SAMPLE_RATE, interlaced=False, sound_codec="aac", layout="mono") -> None:
    """A file whose k-th picture, showing k, carries the time `times[k]`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = size[1], size[0], pixels
        video.codec_context.time_base = base
        if codec == "libx264":
            video.options = {"crf": "10", "preset": "ultrafast", "bf": "0"}
        if interlaced:
            video.options |= {"x264-params": "tff=1"}
        if rotation:
            video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
            audio.codec_context.time_base = Fraction(1, sound_rate)
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(k, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(Fraction(time) / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            channels = {"mono": 1, "stereo": 2}[layout]
            block = np.ascontiguousarray(np.repeat(sound[:, None], channels, 1).reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate, frame.time_base = sound_rate, Fraction(1, sound_rate)
            frame.pts = round((sound_at or 0) * sound_rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def even(count: int, rate: Fraction | float, start: float = 0) -> list[Fraction]:
    return [Fraction(start) + k / Fraction(rate) for k in range(count)]


def test_25_fps_passes_through_untouched(tmp_path):
    write(tmp_path / "a.mp4", even(40, 25))
    assert numbers(tmp_path / "a.mp4") == list(range(40))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 30, 24, Fraction(24000, 1001), 50, 60, 12, 15])
def test_other_rates_by_time_stamp(tmp_path, rate):
    """Independent rule: at k/25 s stands the last picture that begins less than half an output frame later."""
    count = 100
    write(tmp_path / "a.mp4", even(count, rate), rate=Fraction(rate))
    seconds = [k / Fraction(rate) for k in range(count)]
    total = round(count / Fraction(rate) * 25)
    expected = [max(i for i, t in enumerate(seconds) if t * 25 < k + Fraction(1, 2)) for k in range(total)]
    assert numbers(tmp_path / "a.mp4") == expected
    worst = max(abs(seconds[i] - Fraction(k, 25)) for k, i in enumerate(expected))
    assert worst <= Fraction(1, 50) or rate < 25  # never off by more than half an output frame


def test_variable_rate_holds_the_picture(tmp_path):
    write(tmp_path / "a.mp4", [0, 0.04, 0.40, 0.44, 0.45, 1.0])
    shown = numbers(tmp_path / "a.mp4")
    assert shown[:12] == [0] + [1] * 9 + [2] + [4]  # 0.44 and 0.45 share a place: the later one is shown
    assert shown[11:25] == [4] * 14 and shown[25] == 5


def test_streams_that_do_not_start_at_zero(tmp_path):
    for name in ("late.mkv", "late.ts", "late.mp4"):
        write(tmp_path / name, even(30, 25, start=7.24))
        assert numbers(tmp_path / name) == list(range(30)), name


@pytest.mark.parametrize("size", [(48, 64), (50, 64), (46, 62)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "gray", "yuvj420p", "yuv444p"])
def test_pixel_formats(tmp_path, size, pixels):
    write(tmp_path / "a.mp4", even(5, 25), pixels=pixels, size=size)
    frames = list(read_frames(tmp_path / "a.mp4"))
    assert [number_of(f.rgb()) for f in frames] == list(range(5))
    rgb, grey = frames[3].rgb(), frames[3].grey
    assert rgb.shape == (*size, 3) and grey.shape == size == frames[3].size
    assert rgb.flags["C_CONTIGUOUS"] and grey.flags["C_CONTIGUOUS"]  # the face detector ignores strides
    expected = numbered(3, *size)
    assert abs(rgb.mean() - expected.mean()) < 6
    # Brightness may be stored as 16..235: the same picture with a little less contrast.
    assert abs(grey.mean() - expected.mean()) < 14
    assert np.corrcoef(grey.ravel(), expected.mean(-1).ravel())[0, 1] > 0.99


def test_odd_sizes_and_interlaced_flags(tmp_path):
    write(tmp_path / "odd.mp4", even(5, 25), pixels="yuv444p", size=(49, 67))
    assert next(iter(read_frames(tmp_path / "odd.mp4"))).rgb().shape == (49, 67, 3)
    write(tmp_path / "tff.mp4", even(8, 25), interlaced=True)
    with av.open(str(tmp_path / "tff.mp4")) as container:
        assert any(frame.interlaced_frame for frame in container.decode(video=0))  # the file really says so
    assert numbers(tmp_path / "tff.mp4") == list(range(8))


@pytest.mark.parametrize("degrees", [90, 180, 270, -90])
def test_rotation_metadata(tmp_path, degrees):
    """A phone's file: stored sideways, shown upright."""
    write(tmp_path / "turned.mp4", even(4, 25), rotation=degrees)
    with av.open(str(tmp_path / "turned.mp4")) as container:
        assert round(next(container.decode(video=0)).rotation) % 360 == degrees % 360
    for frame in read_frames(tmp_path / "turned.mp4"):
        upright = np.rot90(numbered(frame.index), degrees // 90)
        assert frame.rgb().shape == upright.shape and frame.size == upright.shape[:2]
        assert np.abs(frame.rgb().astype(int) - upright).mean() < 6
        assert frame.grey.shape == upright.shape[:2]


def test_large_pictures_are_worked_on_smaller(tmp_path):
    write(tmp_path / "8k.mp4", even(2, 25), size=(4320, 7680))
    frame = next(iter(read_frames(tmp_path / "8k.mp4")))
    assert frame.size == (1080, 1920) and frame.rgb().shape == (1080, 1920, 3) and frame.shrink == 0.25
    assert number_of(list(read_frames(tmp_path / "8k.mp4"))[1].rgb()) == 1


def test_limit_stops_decoding(tmp_path):
    write(tmp_path / "a.mp4", even(40, 25))
    assert numbers(tmp_path / "a.mp4", limit=7) == list(range(7))
    assert numbers(tmp_path / "a.mp4", limit=0) == []
    write(tmp_path / "slow.mp4", even(4, 5))
    assert numbers(tmp_path / "slow.mp4", limit=7) == [0] * 5 + [1] * 2


def test_source_index_counts_the_files_own_pictures(tmp_path):
    write(tmp_path / "a.mp4", even(50, 50), rate=50)
    assert [f.source_index for f in read_frames(tmp_path / "a.mp4")] == numbers(tmp_path / "a.mp4")


# ---------------------------------------------------------------------------------------------- sound

def clicks(seconds: list[float], length: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Short bursts that survive a codec; each peaks at its time."""
    t = np.arange(round(length * rate)) / rate
    wave = sum(np.exp(-np.square((t - at) / 0.0015)) * np.cos(2 * np.pi * 1500 * (t - at)) for at in seconds)
    return (wave * 20000).astype(np.int16)


def found_clicks(samples: np.ndarray, count: int) -> list[float]:
    envelope = np.abs(samples.astype(float))
    envelope = np.convolve(envelope, np.hanning(33) / 16, "same")
    times = []
    for _ in range(count):
        peak = int(envelope.argmax())
        times.append(peak / SAMPLE_RATE)
        envelope[max(0, peak - 800) : peak + 800] = 0
    return sorted(times)


def heard(path: Path) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int16), *read_sound(path)])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov", "a.avi"])
@pytest.mark.parametrize("rate", [16000, 44100, 48000, 22050])
def test_sound_within_a_millisecond(tmp_path, name, rate):
    at = [0.2, 0.72, 1.5]
    write(tmp_path / name, even(50, 25), sound=clicks(at, 2, rate), sound_rate=rate,
          sound_codec="pcm_s16le" if name in ("a.avi", "a.mov") else "aac")
    samples = heard(tmp_path / name)
    assert samples.dtype == np.int16
    np.testing.assert_allclose(found_clicks(samples, 3), at, atol=1e-3)


@pytest.mark.parametrize(("video_at", "sound_at"), [(0, 0.5), (0.52, 0), (3.0, 3.0), (3.04, 3.5)])
def test_sound_is_placed_on_the_pictures_clock(tmp_path, video_at, sound_at):
    """A click in the sound at 1.0 s of the file's time must lie at 1.0 - (start of the pictures)."""
    write(tmp_path / "a.mkv", even(50, 25, start=video_at), sound=clicks([1.0], 2), sound_at=sound_at,
          sound_codec="pcm_s16le")
    samples = heard(tmp_path / "a.mkv")
    expected = sound_at + 1.0 - video_at
    np.testing.assert_allclose(found_clicks(samples, 1), [expected], atol=1e-3)
    if sound_at > video_at:
        assert not samples[: round((sound_at - video_at) * SAMPLE_RATE) - 32].any()


def test_a_gap_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = W, H, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for k in range(75):
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered(k), format="rgb24")))
        container.mux(video.encode())
        for start, piece in ((0.0, clicks([0.5], 1)), (1.75, clicks([0.5], 1))):
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, round(start * 1000), Fraction(1, 1000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    samples = heard(path)
    np.testing.assert_allclose(found_clicks(samples, 2), [0.5, 2.25], atol=1e-3)
    assert not samples[17_000:27_000].any()
    assert abs(len(samples) - 2.75 * SAMPLE_RATE) <= 2


def test_stereo_is_averaged(tmp_path):
    write(tmp_path / "a.mkv", even(25, 25), sound=clicks([0.5], 1), layout="stereo", sound_codec="pcm_s16le")
    assert abs(int(np.abs(heard(tmp_path / "a.mkv")).max()) - 20000) < 400


def test_no_sound_is_legal(tmp_path):
    write(tmp_path / "a.mp4", even(10, 25))
    assert not probe(tmp_path / "a.mp4").has_sound and list(read_sound(tmp_path / "a.mp4")) == []


def test_encode_and_read_back(tmp_path):
    sound = clicks([0.2, 0.8], 29 / 25)
    encode(tmp_path / "a.mp4", (numbered(k) for k in range(29)), sound=sound, metadata={"comment": "made up"})
    assert numbers(tmp_path / "a.mp4") == list(range(29))
    assert probe(tmp_path / "a.mp4").comment == "made up"
    np.testing.assert_allclose(found_clicks(heard(tmp_path / "a.mp4"), 2), [0.2, 0.8], atol=1e-3)
    encode(tmp_path / "b.mp4", (numbered(k) for k in range(29)), sound=sound, metadata={"comment": "made up"})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(("layout", "shape"), [("stereo", (48_000, 2)), ("mono", (48_000,))])
def test_sound_of_any_kind_is_written_in_pieces_and_read_as_it_was(tmp_path, layout, shape):
    """Uncompressed, so that every sample can be compared."""
    sound = np.random.default_rng(3).integers(-9000, 9000, shape, dtype=np.int16)
    with Writer(tmp_path / "a.mkv", 64, 64, sound=layout, sound_rate=48_000, sound_codec="pcm_s16le") as writer:
        for k in range(25):
            writer.play(sound[1920 * k: 1920 * (k + 1)])
            writer.show(numbered(k))
    assert numbers(tmp_path / "a.mkv") == list(range(25))
    pieces = list(read_sound(tmp_path / "a.mkv", 48_000, layout))
    assert len(pieces) > 1 and np.array_equal(np.concatenate(pieces), sound)


# ---------------------------------------------------------------------------------------------- bad files

def reason(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        list(read_frames(path))
    assert "\n" not in str(caught.value) and str(path.parent) not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "empty file"
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    assert "not a readable video file" in reason(tmp_path / "text.mp4")
    write(tmp_path / "a.mp4", even(40, 25))
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])  # its table of contents stood at the end
    assert reason(tmp_path / "cut.mp4") in ("not a readable video file (Invalid data found when processing input)",
                                            "no picture stream")


def test_a_file_cut_off_behind_its_table_of_contents(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (50, 96, 96, 3), dtype=np.uint8)
    encode(tmp_path / "a.mp4", noise)  # the table stands in front: most of the pictures can be opened
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    assert "cut off" in reason(tmp_path / "cut.mp4") or "damaged" in reason(tmp_path / "cut.mp4")


def test_sound_alone(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks([0.1], 1)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    assert reason(tmp_path / "a.mp4") == "no picture stream, only sound"


def test_more_pixels_than_8k(tmp_path):
    write(tmp_path / "huge.avi", even(1, 25), size=(4400, 7680), codec="ffv1")
    assert reason(tmp_path / "huge.avi") == "7680x4400 pixels a picture; 33177600 are the limit"


def test_a_playlist_inside_an_mp4_opens_nothing(tmp_path):
    """FFmpeg knows formats that are lists of other files and addresses; such a file must stay a file."""
    write(tmp_path / "secret.mp4", even(10, 25))
    for text in ("ffconcat version 1.0\nfile 'secret.mp4'\n",
                 "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"):
        (tmp_path / "list.mp4").write_text(text)
        assert "not a readable video file" in reason(tmp_path / "list.mp4")


def test_a_jump_in_time_is_no_pause(tmp_path):
    write(tmp_path / "jump.mkv", [0, 0.04, 0.08, 90_000], base=Fraction(1, 1000))
    assert "time stamps jump" in reason(tmp_path / "jump.mkv")


def test_memory_does_not_grow_with_length(tmp_path):
    for name, seconds in (("short.mp4", 4), ("long.mp4", 100)):
        encode(tmp_path / name, (numbered(k % 256, 240, 320) for k in range(25 * seconds)),
               sound=np.zeros(SAMPLE_RATE * seconds, np.int16), options={"preset": "ultrafast"})
    script = (
        "import sys\nfrom pathlib import Path\nfrom datasets.media import read_frames, read_sound\n"
        "n = sum(f.grey.size > 0 for f in read_frames(Path(sys.argv[1])))\n"
        "m = sum(len(c) for c in read_sound(Path(sys.argv[1])))\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "print(n, m, *[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    peak = {}
    for name, seconds in (("short.mp4", 4), ("long.mp4", 100)):
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parents[2])
        frames, samples, peak[name] = map(int, run.stdout.split())
        assert frames == seconds * FRAME_RATE and abs(samples - frames * SAMPLES_PER_FRAME) <= 1024
    assert peak["long.mp4"] < 1.1 * peak["short.mp4"]  # 96 s of grey 320x240 alone would be 184 MB
