"""Losses, targets and teachers against hand-worked cases and slow loops."""

import ast
import math
from pathlib import Path

import pytest
import torch

import ssl_pretrain.model
from backbones import create
from ssl_pretrain.model import Students, Teachers, agreement_loss, centred


def students(seed=0):
    torch.manual_seed(seed)
    video = create("cnn_gru_attention", channels=[4, 8], pools=[2, 2], hidden=8, dim=16, input_size=32, stem_stride=4)
    return Students(video, create("audio_resnet18", depths=[1, 1, 1, 1], width=4))


def slow_loss(prediction, target, valid):
    """Frame by frame, with nothing but products and roots."""
    clips = []
    for b in range(len(prediction)):
        frames = []
        for t in range(prediction.shape[1]):
            if valid[b][t]:
                p, z = prediction[b, t], target[b, t]
                frames.append(-sum(p * z) / (math.sqrt(sum(p * p)) * math.sqrt(sum(z * z))))
        clips.append(sum(frames) / len(frames))
    return sum(clips) / len(clips)


def test_loss_by_hand():
    a = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]])
    b = torch.tensor([[[4.0, 3.0], [-1.0, 0.0]], [[0.0, 5.0], [1.0, -1.0]]])
    # cosines 24/25, -1; 1, 0
    assert agreement_loss(a, b).item() == pytest.approx(-(24 / 25 - 1 + 1 + 0) / 4)
    assert agreement_loss(a, a).item() == pytest.approx(-1)  # agreement is the minimum, not the maximum
    assert agreement_loss(a, -a).item() == pytest.approx(1)


def test_loss_leaves_out_padding_alone():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 7, 5, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 7, dtype=torch.bool)
    valid[1, 4:], valid[2, :1] = False, False
    expected = slow_loss(a, b, valid)
    assert agreement_loss(a, b, valid).item() == pytest.approx(float(expected), rel=1e-5)
    assert agreement_loss(a, b).item() == pytest.approx(float(slow_loss(a, b, torch.ones(3, 7))), rel=1e-5)
    changed = b.clone()
    changed[1, 4:] = 100 * torch.randn(3, 5, generator=generator)
    assert agreement_loss(a, changed, valid) == agreement_loss(a, b, valid)
    with pytest.raises(ValueError, match="padding only"):
        agreement_loss(a, b, valid & (torch.arange(3) > 0)[:, None])


def test_centred_targets_by_loops():
    z = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    out = centred(z)
    for b in range(4):
        for t in range(6):
            without = [z[c, t] - sum(z[c, s] for s in range(6)) / 6 for c in range(4)]
            assert torch.allclose(out[b, t], without[b] - sum(without) / 4, atol=1e-6)
    assert out.mean(0).abs().max() < 1e-6  # nothing left that the place in the clip tells
    assert out.mean(1).abs().max() < 1e-6  # nothing left that the clip tells
    place = torch.randn(1, 6, 3).expand(4, 6, 3)
    assert centred(place).abs().max() < 1e-6


def test_no_gradient_reaches_a_teacher_and_every_student_weight_gets_one():
    networks = students()
    teachers = Teachers(networks)
    video, log_mel = torch.randn(2, 3, 25, 32, 32), torch.randn(2, 1, 100, 80)
    seen, heard = networks(video, log_mel)
    video_target, audio_target = teachers(video, log_mel)
    assert not video_target.requires_grad and not audio_target.requires_grad
    (agreement_loss(seen.prediction, audio_target) + agreement_loss(heard.prediction, video_target)).backward()
    assert all(p.grad is None and not p.requires_grad for p in teachers.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in networks.parameters())


def test_the_video_loss_is_about_the_sound_teacher():
    """Each direction's gradient stays in its own student."""
    networks = students()
    teachers = Teachers(networks)
    video, log_mel = torch.randn(2, 3, 25, 32, 32), torch.randn(2, 1, 100, 80)
    seen, _ = networks(video, log_mel)
    agreement_loss(seen.prediction, teachers(video, log_mel)[1]).backward()
    assert all(p.grad is None for p in networks.audio.parameters())
    assert all(p.grad is not None for p in networks.video.parameters())


def test_gradient_is_that_of_a_slow_obvious_implementation():
    networks = students()
    teachers = Teachers(networks)
    generator = torch.Generator().manual_seed(3)
    video, log_mel = torch.randn(3, 3, 25, 32, 32, generator=generator), torch.randn(3, 1, 100, 80, generator=generator)
    video_target, audio_target = teachers(video + 0.1, log_mel - 0.1)

    def gradients(loss):
        networks.zero_grad()
        seen, heard = networks(video, log_mel)
        loss(seen.prediction, heard.prediction).backward()
        return {name: p.grad.clone() for name, p in networks.named_parameters()}

    ours = gradients(lambda seen, heard: agreement_loss(seen, audio_target) + agreement_loss(heard, video_target))

    def slowly(seen, heard):
        total = 0
        for prediction, target in ((seen, audio_target), (heard, video_target)):
            for b in range(3):
                for t in range(25):
                    p, z = prediction[b, t], target[b, t]
                    total = total - (p * z).sum() / ((p * p).sum().sqrt() * (z * z).sum().sqrt()) / 75
        return total

    theirs = gradients(slowly)
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6, rtol=1e-3), name


def test_teachers_start_equal_and_follow_by_the_formula():
    networks = students()
    teachers = Teachers(networks)
    for name in ("video", "audio"):
        teacher, student = getattr(teachers, name), getattr(networks, name).encoder
        ours, theirs = teacher.state_dict(), student.state_dict()
        assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    before = [p.clone() for p in teachers.parameters()]
    with torch.no_grad():
        for p in networks.parameters():
            p.add_(torch.randn(p.shape))
    teachers.follow(networks, 0.9)
    now = [*networks.video.encoder.parameters(), *networks.audio.encoder.parameters()]
    for old, new, teacher in zip(before, now, teachers.parameters(), strict=True):
        assert torch.allclose(teacher, 0.9 * old + 0.1 * new, atol=1e-6)


def test_model_needs_torch_alone():
    """So that it runs on a bare GPU machine, and in other people's code."""
    tree = ast.parse(Path(ssl_pretrain.model.__file__).read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert froms <= {"__future__", "typing", "torch", "backbones", "backbones.heads", "engine.ema"}
