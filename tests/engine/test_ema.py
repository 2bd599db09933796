"""The teacher's parameters follow the student's; its buffers are its own."""

import pytest
import torch
from torch import nn

from engine.ema import teacher_of, update_teacher


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_parameters_follow_in_closed_form():
    student = network()
    teacher = teacher_of(student)
    began = [parameter.clone() for parameter in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    for _ in range(5):
        update_teacher(teacher, student, 0.9)
    for parameter, start in zip(teacher.parameters(), began, strict=True):
        torch.testing.assert_close(parameter, start + (1 - 0.9**5))


def test_the_ends():
    student, teacher = network(), teacher_of(network())
    before = [parameter.clone() for parameter in teacher.parameters()]
    update_teacher(teacher, student, 1.0)
    assert all(torch.equal(now, was) for now, was in zip(teacher.parameters(), before, strict=True))
    update_teacher(teacher, student, 0.0)
    assert all(torch.equal(now, was) for now, was in zip(teacher.parameters(), student.parameters(), strict=True))


def test_buffers_are_the_teachers_own_and_no_gradient_reaches_it():
    torch.manual_seed(0)
    student = network()
    teacher = teacher_of(student)
    assert teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    masked, clean = torch.randn(64, 3), torch.randn(64, 3) + 5
    student(masked).sum().backward()
    output = teacher(clean)
    assert not output.requires_grad and all(parameter.grad is None for parameter in teacher.parameters())
    of_clean = teacher[0](clean).mean(0)
    torch.testing.assert_close(teacher[1].running_mean, 0.1 * of_clean)  # momentum 0.1, from zero
    kept = teacher[1].running_mean.clone()
    update_teacher(teacher, student, 0.5)
    assert torch.equal(teacher[1].running_mean, kept)
    assert not torch.allclose(student[1].running_mean, kept)


def test_a_copy_shares_nothing():
    student = network()
    teacher = teacher_of(student)
    with torch.no_grad():
        student[0].weight.zero_()
        student[1].running_mean.add_(3)
    assert teacher[0].weight.abs().sum() > 0 and teacher[1].running_mean.sum() == 0


def test_the_average_is_kept_in_the_teachers_precision():
    student, teacher = network().bfloat16(), teacher_of(network())
    with torch.no_grad():
        for parameter in (*student.parameters(), *teacher.parameters()):
            parameter.fill_(1.0)
        student[0].weight.fill_(2.0)
    update_teacher(teacher, student, 0.999)
    assert teacher[0].weight.dtype == torch.float32
    torch.testing.assert_close(teacher[0].weight, torch.full((4, 3), 1.001))  # bfloat16 would have stayed at 1


def test_different_networks_are_a_bug():
    with pytest.raises(ValueError, match=r"differ in 3\.bias, 3\.weight"):
        update_teacher(network(), nn.Sequential(*network(), nn.Linear(2, 2)), 0.5)
