"""Both losses by hand, and the traps of public implementations of this method, each with a test that it fails."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from backbones import create
from finetune.model import Detector, Student, Teacher, auxiliary_loss, supervised_loss
from tests.finetune.small import BACKBONE


def backbone(seed=0):
    torch.manual_seed(seed)
    return create(BACKBONE["name"], **BACKBONE["arguments"])


def test_supervised_loss_by_hand():
    logits, forged = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1, 0, 0])
    for prior in (0.5, 0.8, 0.1):
        shift = math.log(prior / (1 - prior))
        p = [1 / (1 + math.exp(-(z + shift))) for z in logits.tolist()]
        expected = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(1 - p[2])) / 3
        assert supervised_loss(logits, forged, prior).item() == pytest.approx(expected, rel=1e-6)


def test_logit_adjustment_makes_up_for_the_mix():
    """Logits that say the likelihood ratio have the least loss at any mix: that is what evaluation then sees."""
    generator = torch.Generator().manual_seed(0)
    for prior in (0.5, 0.9):
        forged = torch.rand(20000, generator=generator) < prior
        x = torch.randn(20000, generator=generator) + forged  # likelihood ratio exp(x - 1/2)
        offsets = torch.linspace(-1.5, 1.5, 31)
        losses = [supervised_loss(x - 0.5 + offset, forged, prior) for offset in offsets]
        assert abs(offsets[torch.stack(losses).argmin()]) < 0.11


def test_auxiliary_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 25, 8, generator=generator)
    weight = torch.tensor([0.5, 0.25, 0.25])
    expected = 0.0
    for r in range(3):
        for t in range(25):
            expected -= weight[r] * cosine_similarity(prediction[r, t], target[r, t], dim=0) / 25
    assert auxiliary_loss(prediction, target, weight).item() == pytest.approx(expected.item(), rel=1e-5)


def test_trap_flipped_sign():
    """A step down the auxiliary loss brings student and teacher together."""
    target = torch.randn(4, 25, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.full((4,), 0.25)
    assert auxiliary_loss(target, target, weight) == pytest.approx(-1)
    assert auxiliary_loss(-target, target, weight) == pytest.approx(1)
    prediction = torch.randn(4, 25, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    auxiliary_loss(prediction, target, weight).backward()
    before = cosine_similarity(prediction, target, dim=-1).mean()
    assert cosine_similarity(prediction - 300 * prediction.grad, target, dim=-1).mean() > before + 0.1


def test_auxiliary_loss_gives_forged_clips_no_gradient():
    student = Student(backbone(), auxiliary=True)
    video = torch.randn(4, 3, 25, 32, 32, requires_grad=True)
    real = torch.tensor([0, 2])
    _, prediction = student(video, real)
    auxiliary_loss(prediction, torch.randn(2, 25, 256), torch.full((2,), 0.5)).backward()
    per_clip = video.grad.abs().sum((1, 2, 3, 4))
    assert (per_clip[[0, 2]] > 0).all() and (per_clip[[1, 3]] == 0).all()


def test_teacher_has_no_gradient_and_its_statistics_stay():
    teacher = Teacher(backbone())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    assert not teacher.training and not teacher.projector.norm.training
    assert not teacher(torch.randn(2, 3, 25, 32, 32)).requires_grad
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())


def test_detector_is_the_mean_over_time_and_a_cosine():
    detector = Detector(backbone()).eval()
    video = torch.randn(3, 3, 25, 32, 32)
    with torch.no_grad():
        features = detector.backbone(video).mean(dim=1)
        for b in range(3):
            expected = 64 * cosine_similarity(features[b], detector.classifier.weight[0], dim=0)
            assert detector(video)[b].item() == pytest.approx(expected.item(), abs=1e-4)


def test_frozen_backbone_stays_in_evaluation_mode():
    student = Student(backbone(), auxiliary=False, freeze=True).train()
    assert student.training and not student.detector.backbone.training
    assert [name for name, p in student.named_parameters() if p.requires_grad] == ["detector.classifier.weight"]
    assert all(p.requires_grad for p in Student(backbone(), auxiliary=False).parameters())
