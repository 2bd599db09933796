"""Views against slow, independent computations: NumPy per clip, librosa, torchaudio, torchvision."""

import dataclasses

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torchvision.transforms import RandomErasing
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale

from datasets import views as views_module
from datasets.views import Draws, ViewSettings, draw_views, evaluation_view, log_mel, make_views

PUBLISHED = ViewSettings()
PLAIN = ViewSettings(flip_probability=0, grayscale_probability=0, erase_probability=0, time_mask_probability=0,
                     frequency_mask=0)  # fmt: skip
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(B: int, T: int = 25, seed: int = 0, low: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = generator(seed)
    frames = torch.randint(low, 256, (B, T, 150, 150, 3), dtype=torch.uint8, generator=source)
    sound = torch.randint(-9000, 9000, (B, T * 640), dtype=torch.int16, generator=source)
    return frames, sound


# ------------------------------------------------------------------------------------------------- pictures

def slow_resize(picture: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 3) -> (size, size, 3): the textbook's bilinear weights, one output row at a time, rounded twice."""
    for _ in range(2):  # along the width, then, transposed, along the height
        source = picture.shape[1]
        lines = []
        for i in range(size):
            x = min(max((i + 0.5) * source / size - 0.5, 0), source - 1)
            left = int(x)
            right = min(left + 1, source - 1)
            lines.append(picture[:, left] * (1 - (x - left)) + picture[:, right] * (x - left))
        picture = np.floor(np.stack(lines) + 0.5)  # already transposed: the columns became rows
    return picture


def slow_student(frames: np.ndarray, draws: Draws, b: int) -> np.ndarray:
    """uint8 (T, 150, 150, 3) -> (3, T, 112, 112), frame by frame."""
    one = {field.name: getattr(draws, field.name)[b].item() for field in dataclasses.fields(draws)}
    hidden = range(one["time_start"], one["time_start"] + one["time_length"])
    result = []
    for t, frame in enumerate(frames):
        top, left = one["student_top"], one["student_left"]
        picture = frame[top : top + 140, left : left + 140].astype(np.float64)
        if one["student_flip"]:
            picture = picture[:, ::-1]
        picture = slow_resize(picture, 112)
        if one["gray"]:
            luma = rgb_to_grayscale(torch.from_numpy(picture.transpose(2, 0, 1).copy())).numpy()
            picture = np.repeat(luma, 3, axis=0).transpose(1, 2, 0)
        picture = (picture / 255 - MEAN) / STD
        y, x = one["erase_top"], one["erase_left"]
        picture[y : y + one["erase_height"], x : x + one["erase_width"]] = 0
        if t in hidden:
            picture[:] = 0
        result.append(picture)
    return np.stack(result).transpose(3, 0, 1, 2)


def test_student_view_equals_a_slow_one():
    frames, _ = random_batch(6, T=5)
    draws = draw_views(PUBLISHED, 6, generator(2), frames=5)
    # Every kind of change is in this batch, both done and left out.
    for drawn in (draws.student_flip, draws.gray, draws.erase_height > 0, draws.time_length > 0):
        assert 0 < drawn.sum() < 6
    found = make_views(PUBLISHED, draws, frames).student_video
    for b in range(6):
        np.testing.assert_allclose(found[b].numpy(), slow_student(frames[b].numpy(), draws, b), atol=1e-5)


def test_teacher_view_is_clean_with_its_own_crop_and_flip():
    frames, sound = random_batch(4, T=3)
    draws = draw_views(PUBLISHED, 4, generator(3), frames=3)
    views = make_views(PUBLISHED, draws, frames, sound)
    nothing = torch.zeros(4, dtype=torch.long)
    clean = dataclasses.replace(draws, student_top=draws.teacher_top, student_left=draws.teacher_left,
                                student_flip=draws.teacher_flip, gray=nothing.bool(), erase_height=nothing,
                                erase_width=nothing, time_length=nothing)  # fmt: skip
    for b in range(4):
        expected = slow_student(frames[b].numpy(), clean, b)
        np.testing.assert_allclose(views.teacher_video[b].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(views.teacher_log_mel, log_mel(PUBLISHED, sound), rtol=0, atol=0)


def test_rounding_costs_at_most_one_level_against_torchvision():
    frames, _ = random_batch(2, T=2)
    video, _ = evaluation_view(PUBLISHED, frames)
    crop = frames[:, :, 5:145, 5:145].permute(0, 4, 1, 2, 3) / 255.0
    expected = (resize(crop, [112, 112], antialias=False) - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(
        STD).view(3, 1, 1, 1)  # fmt: skip
    assert (video - expected).abs().max() < 1.01 / 255 / STD.min()
    assert (video - expected).abs().mean() < 0.35 / 255 / STD.min()  # two roundings of at most half a level


@pytest.mark.parametrize(("crop", "size"), [(140, 112), (140, 56), (140, 64), (140, 140)])
def test_integer_and_float_resize_agree_bit_by_bit(monkeypatch, crop, size):
    pictures = random_batch(1, T=4)[0][0, :, :crop, :crop].permute(0, 3, 1, 2)
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor has no vector instructions for bytes: there is one way of resizing only")
    fast = views_module._resize(pictures, size)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    slow = views_module._resize(pictures, size)
    assert fast.dtype == torch.uint8 and slow.dtype == torch.float32  # really two ways
    torch.testing.assert_close(fast.float(), slow, rtol=0, atol=0)


def test_evaluation_view_by_hand():
    """A frame whose red is its column and whose green is its row: the resized values can be written down."""
    frames = torch.zeros(1, 1, 150, 150, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(150)[None, :]
    frames[..., 1] = torch.arange(150)[:, None]
    video, sound = evaluation_view(PUBLISHED, frames)
    assert sound is None and video.shape == (1, 3, 1, 112, 112)
    pixels = (video[0, :, 0].numpy() * STD[:, None, None] + MEAN[:, None, None]) * 255
    # The centre crop starts at 5; output i lies at 5 + 1.25 i + 0.125: 5.125, 6.375, 7.625, 8.875, then 10.125 ...
    by_hand = np.array([5 + 5 * k + rest for k in range(28) for rest in (0, 1, 3, 4)])
    np.testing.assert_allclose(pixels[0], np.tile(by_hand, (112, 1)), atol=1e-3)
    np.testing.assert_allclose(pixels[1], np.tile(by_hand[:, None], (1, 112)), atol=1e-3)
    np.testing.assert_allclose(pixels[2], 0, atol=1e-3)


def test_choices_are_constant_over_a_clip():
    frames = random_batch(8, T=1)[0].expand(8, 25, 150, 150, 3)
    draws = draw_views(PUBLISHED, 8, generator(1))
    views = make_views(PUBLISHED, draws, frames)
    assert views.masked.any() and draws.erase_height.any() and draws.gray.any() and draws.student_flip.any()
    for b in range(8):
        visible = views.student_video[b][:, ~views.masked[b]]
        assert torch.equal(visible, visible[:, :1].expand_as(visible))
        assert torch.equal(views.teacher_video[b], views.teacher_video[b][:, :1].expand_as(views.teacher_video[b]))


# ---------------------------------------------------------------------------------------------------- sound

def speech_like(seed: int, loudness: float) -> np.ndarray:
    """int16 (16000,): a few tones whose loudness swells, over weak noise, so that the dB span is wide."""
    rng = np.random.default_rng(seed)
    time = np.arange(16_000) / 16_000
    tones = sum(np.sin(2 * np.pi * f * time + p) / (k + 1) for k, (f, p) in enumerate(
        zip(rng.uniform(80, 4000, 6), rng.uniform(0, 6, 6), strict=True)))  # fmt: skip
    wave = tones * np.sin(np.pi * time) ** 2 / 4 + 1e-3 * rng.standard_normal(16_000)
    return (np.clip(wave * loudness, -1, 1) * 32767).astype(np.int16)


def sound_batch() -> torch.Tensor:
    return torch.from_numpy(np.stack([speech_like(0, 0.9), speech_like(1, 0.05), speech_like(2, 0.3)]))


def test_log_mel_equals_librosa():
    sound = sound_batch()
    found = log_mel(PUBLISHED, sound)
    assert found.shape == (3, 1, 100, 80) and found.dtype == torch.float32
    for b in range(3):
        power = librosa.feature.melspectrogram(
            y=sound[b].numpy() / 32768.0, sr=16_000, n_fft=512, win_length=320, hop_length=160, window="hann",
            center=True, pad_mode="reflect", power=2.0, n_mels=80, fmin=0, fmax=8000, htk=True, norm=None,
        )  # fmt: skip
        assert power.shape == (80, 101)
        decibel = librosa.power_to_db(power[:, :100], ref=np.max, amin=1e-10, top_db=80.0)
        np.testing.assert_allclose(found[b, 0].numpy(), (decibel.T + 40) / 40, atol=1e-4)


def test_log_mel_equals_torchaudio():
    sound = sound_batch()
    spectrogram = torchaudio.transforms.MelSpectrogram(16_000, n_fft=512, win_length=320, hop_length=160, n_mels=80)
    found = log_mel(PUBLISHED, sound)
    for b in range(3):
        power = spectrogram(sound[b : b + 1] / 32768.0)[:, :, :100]
        decibel = torchaudio.functional.amplitude_to_DB(power, 10, 1e-10, np.log10(power.max().item()), top_db=80)
        torch.testing.assert_close(found[b], (decibel.transpose(1, 2) + 40) / 40, rtol=0, atol=1e-4)


def test_the_80_decibel_count_from_each_clips_own_maximum():
    sound = sound_batch()
    together = log_mel(PUBLISHED, sound)
    alone = torch.cat([log_mel(PUBLISHED, sound[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.amax(dim=(1, 2, 3)), torch.ones(3))
    assert together.min() >= -1


def test_the_recording_level_does_not_matter():
    loud = sound_batch() // 2 * 2
    torch.testing.assert_close(log_mel(PUBLISHED, loud), log_mel(PUBLISHED, loud // 2), rtol=0, atol=1e-3)


def test_silence_is_finite():
    silence = torch.zeros(1, 16_000, dtype=torch.int16)
    assert torch.equal(log_mel(PUBLISHED, silence), torch.ones(1, 1, 100, 80))  # every bin is the loudest


# ---------------------------------------------------------------------------------------------------- masks

def test_masked_spans_are_exact_and_shared_by_picture_and_sound():
    B = 24
    frames, sound = random_batch(B, low=130)  # bright: nothing but a mask gives 0 after normalisation
    settings = ViewSettings(erase_probability=0)
    draws = draw_views(settings, B, generator(1))
    bare = dataclasses.replace(draws, time_length=draws.time_length * 0, frequency_length=draws.time_length * 0)
    found, whole = make_views(settings, draws, frames, sound), make_views(settings, bare, frames, sound)
    assert not whole.masked.any() and (whole.student_video != 0).all()
    assert torch.equal(whole.student_log_mel, whole.teacher_log_mel)
    assert set(draws.time_length.tolist()) >= {0, 12} and draws.frequency_length.max() > 20

    hidden_video = torch.zeros(B, 25, dtype=torch.bool)
    hidden_sound = torch.zeros(B, 100, 80, dtype=torch.bool)
    for b in range(B):
        start, length = draws.time_start[b], draws.time_length[b]
        low, width = draws.frequency_start[b], draws.frequency_length[b]
        hidden_video[b, start : start + length] = True
        hidden_sound[b, 4 * start : 4 * (start + length)] = True
        hidden_sound[b, :, low : low + width] = True
    assert torch.equal(found.masked, hidden_video)
    expected = torch.where(hidden_video[:, None, :, None, None], 0.0, whole.student_video)
    assert torch.equal(found.student_video, expected)
    assert torch.equal(found.student_log_mel, torch.where(hidden_sound[:, None], 0.0, whole.student_log_mel))
    assert torch.equal(found.teacher_video, whole.teacher_video)


def test_clip_mean_fill():
    frames, sound = random_batch(4)
    filled = dataclasses.replace(PUBLISHED, mask_fill="clip_mean")
    draws = draw_views(PUBLISHED, 4, generator(4))
    assert (draws.time_length > 0).any() and (draws.frequency_length > 0).all()
    bare = dataclasses.replace(draws, time_length=draws.time_length * 0, frequency_length=draws.time_length * 0)
    found, whole = make_views(filled, draws, frames, sound), make_views(filled, bare, frames, sound)
    for b in range(4):
        hidden = found.masked[b]
        expected = whole.student_video[b].clone()
        expected[:, hidden] = expected[:, ~hidden].mean(dim=1, keepdim=True)
        torch.testing.assert_close(found.student_video[b], expected, rtol=0, atol=1e-5)
        hidden, mel = hidden.repeat_interleave(4), whole.student_log_mel[b].clone()
        means = mel[:, ~hidden].mean(dim=1, keepdim=True)
        bins = slice(draws.frequency_start[b], draws.frequency_start[b] + draws.frequency_length[b])
        mel[:, hidden] = means
        mel[:, :, bins] = means[:, :, bins]
        torch.testing.assert_close(found.student_log_mel[b], mel, rtol=0, atol=1e-5)


def test_a_clip_that_is_hidden_whole_is_zero_under_either_fill():
    frames, _ = random_batch(1, T=2, low=130)
    settings = ViewSettings(mask_fill="clip_mean", longest_time_mask=2)
    draws = dataclasses.replace(draw_views(settings, 1, generator(), frames=2), time_start=torch.tensor([0]),
                                time_length=torch.tensor([2]))  # fmt: skip
    assert torch.equal(make_views(settings, draws, frames).student_video, torch.zeros(1, 3, 2, 112, 112))


def test_ramp_and_probability():
    def drawn(**arguments):
        return draw_views(PUBLISHED, 2000, generator(7), **arguments)

    off, part, full, half = drawn(mask_strength=0), drawn(mask_strength=5 / 12), drawn(), drawn(mask_probability=0.5)
    assert off.time_length.max() == 0 and off.frequency_length.max() == 0
    assert part.time_length.max() == 5 and part.frequency_length.max() == 11  # floor(27 * 5 / 12)
    assert full.time_length.max() == 12 and full.frequency_length.max() == 26
    lasting = half.time_length > 0
    assert abs(lasting.float().mean().item() - 0.5 * 12 / 13) < 0.03  # of 13 lengths one is 0
    # A mask that is applied is the one that was drawn, and a schedule leaves every other draw as it was.
    assert torch.equal(half.time_length[lasting], full.time_length[lasting])
    for field in dataclasses.fields(Draws):
        if not field.name.startswith(("time", "frequency")):
            assert torch.equal(getattr(off, field.name), getattr(full, field.name)), field.name


# --------------------------------------------------------------------------------------------- distributions

def uniform(values: torch.Tensor, choices: int) -> bool:
    """Every whole number 0 .. choices - 1 comes within five standard errors of its share, and no other."""
    counts = torch.bincount(values, minlength=choices).double()
    expected = len(values) / choices
    return len(counts) == choices and bool((counts - expected).abs().max() < 5 * expected**0.5)


def test_distributions():
    n = 20_000
    draws = draw_views(PUBLISHED, n, generator(11))
    for drawn in (draws.student_flip, draws.teacher_flip, draws.gray, draws.erase_height > 0):
        assert abs(drawn.double().mean().item() - 0.5) < 0.02
    for offset in (draws.student_top, draws.student_left, draws.teacher_top, draws.teacher_left):
        assert uniform(offset, 11)  # 150 - 140 + 1
    assert uniform(draws.time_length, 13)
    for length in (1, 6, 12):
        assert uniform(draws.time_start[draws.time_length == length], 25 - length + 1)
    assert uniform(draws.frequency_length, 27)
    assert (draws.frequency_start + draws.frequency_length).max() <= 80
    assert draws.frequency_start.min() == 0


def test_student_and_teacher_are_drawn_independently():
    draws = draw_views(PUBLISHED, 20_000, generator(12))
    pairs = [(draws.student_flip, draws.teacher_flip), (draws.student_top, draws.teacher_top),
             (draws.student_left, draws.teacher_left), (draws.student_top, draws.student_left),
             (draws.gray, draws.erase_height > 0), (draws.student_flip, draws.gray)]  # fmt: skip
    for first, second in pairs:
        assert abs(torch.corrcoef(torch.stack([first.double(), second.double()]))[0, 1].item()) < 0.03


def test_erasing_is_torchvisions():
    draws = draw_views(ViewSettings(erase_probability=1), 20_000, generator(13))
    height, width = draws.erase_height.double(), draws.erase_width.double()
    assert (height > 0).all() and height.max() < 112 and width.max() < 112
    assert draws.erase_top.min() == 0 and (draws.erase_top + draws.erase_height).max() == 112
    assert draws.erase_left.min() == 0 and (draws.erase_left + draws.erase_width).max() == 112
    area = height * width / 112**2
    assert 0.018 < area.min() < 0.022 and 0.32 < area.max() < 0.34

    torch.manual_seed(0)  # torchvision draws from the global generator
    picture = torch.zeros(3, 112, 112)
    theirs = torch.tensor([RandomErasing.get_params(picture, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(3000)])
    for ours, their in ((area, theirs[:, 2] * theirs[:, 3] / 112**2), (height, theirs[:, 2]), (width, theirs[:, 3]),
                        (draws.erase_top, theirs[:, 0]), (draws.erase_left, theirs[:, 1])):  # fmt: skip
        levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
        quantiles, scale = their.double().quantile(levels), their.double().std()
        assert ((ours.double().quantile(levels) - quantiles).abs() < 0.1 * scale).all()


# --------------------------------------------------------------------------------- determinism, edges, devices

def test_a_restored_generator_goes_on_with_the_same_views():
    source = generator(21)
    draw_views(PUBLISHED, 3, source)
    state = source.get_state()
    uninterrupted = [draw_views(PUBLISHED, 3, source) for _ in range(2)]
    restored = generator(99)
    restored.set_state(state)
    for expected in uninterrupted:
        found = draw_views(PUBLISHED, 3, restored)
        for field in dataclasses.fields(Draws):
            assert torch.equal(getattr(found, field.name), getattr(expected, field.name))
    assert not torch.equal(uninterrupted[0].student_top, uninterrupted[1].student_top)


def test_making_views_draws_nothing_and_changes_no_input():
    frames, sound = random_batch(2)
    copies = frames.clone(), sound.clone()
    state = torch.get_rng_state()
    draws = draw_views(PUBLISHED, 2, generator())
    first, second = make_views(PUBLISHED, draws, frames, sound), make_views(PUBLISHED, draws, frames, sound)
    assert torch.equal(first.student_video, second.student_video)
    assert torch.equal(first.student_log_mel, second.student_log_mel)
    assert torch.equal(frames, copies[0]) and torch.equal(sound, copies[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_clips_without_sound_and_students_without_teachers():
    frames, sound = random_batch(2)
    draws = draw_views(PUBLISHED, 2, generator())
    silent = make_views(PUBLISHED, draws, frames)
    heard = make_views(PUBLISHED, draws, frames, sound, teacher=False)
    assert silent.student_log_mel is None and silent.teacher_log_mel is None
    assert heard.teacher_video is None and heard.teacher_log_mel is None
    assert heard.student_log_mel.shape == (2, 1, 100, 80) and silent.teacher_video.shape == (2, 3, 25, 112, 112)
    assert torch.equal(silent.student_video, heard.student_video)


def test_views_of_some_clips_are_those_of_the_whole_batch():
    frames, sound = random_batch(4)
    draws = draw_views(PUBLISHED, 4, generator(8))
    chosen = torch.tensor([True, False, False, True])
    part, whole = (make_views(PUBLISHED, d, f, s) for d, f, s in (
        (draws[chosen], frames[chosen], sound[chosen]), (draws, frames, sound)))  # fmt: skip
    assert torch.equal(part.student_video, whole.student_video[chosen])
    assert torch.equal(part.teacher_video, whole.teacher_video[chosen])
    torch.testing.assert_close(part.student_log_mel, whole.student_log_mel[chosen], rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrong", [
    lambda: evaluation_view(PUBLISHED, torch.zeros(1, 2, 150, 150, 3)),
    lambda: evaluation_view(PUBLISHED, torch.zeros(1, 3, 2, 150, 150, dtype=torch.uint8)),
    lambda: evaluation_view(PUBLISHED, random_batch(1, T=2)[0], torch.zeros(1, 1280)),
    lambda: evaluation_view(PUBLISHED, random_batch(1, T=2)[0], torch.zeros(1, 1279, dtype=torch.int16)),
    lambda: ViewSettings(mask_fill="noise"),
    lambda: ViewSettings(flip_probability=50),
    lambda: draw_views(PUBLISHED, 1, generator(), mask_strength=1.5),
    lambda: draw_views(PUBLISHED, 1, generator(), stored=128),
])  # fmt: skip
def test_wrong_input_is_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_settings_from_yaml_lists_work():
    frames, _ = random_batch(1, T=1)
    lists = ViewSettings(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert lists == PUBLISHED
    assert torch.equal(evaluation_view(lists, frames)[0], evaluation_view(PUBLISHED, frames)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a CPU with a CUDA device, and there is none")
@pytest.mark.parametrize("fill", ["zero", "clip_mean"])
def test_cpu_and_cuda_agree(fill):
    settings = dataclasses.replace(PUBLISHED, mask_fill=fill)
    frames, _ = random_batch(8)
    sound = torch.from_numpy(np.stack([speech_like(b, 0.5) for b in range(8)]))
    draws = draw_views(settings, 8, generator(31))
    here, there = make_views(settings, draws, frames, sound), make_views(settings, draws, frames.cuda(), sound.cuda())
    for field in dataclasses.fields(here):
        tolerance = 1e-4 if "mel" in field.name else 1e-5
        torch.testing.assert_close(getattr(there, field.name).cpu(), getattr(here, field.name), rtol=0, atol=tolerance)
