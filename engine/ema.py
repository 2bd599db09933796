"""The teacher: a moving average of the student's parameters.

Parameters are averaged, buffers are not. The teacher's BatchNorm stays in train mode: it normalises with the statistics
of the teacher's own, unmasked batches, and gathers running statistics of those. The student's running statistics
describe masked views and would not fit. So: a teacher that is frozen in stage 2 brings running statistics of its own.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def teacher_of(student: M) -> M:
    """A copy, buffers included, that no gradient reaches and that is in train mode (see above)."""
    return copy.deepcopy(student).requires_grad_(False).train()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, in the teacher's own precision.

    Call it after the optimiser's step. `student` holds the same parameters under the same names: give the unwrapped
    module (not DistributedDataParallel's), and without the parts that the teacher lacks.
    """
    ours, theirs = list(teacher.named_parameters()), list(student.named_parameters())
    if [name for name, _ in ours] != [name for name, _ in theirs]:
        differing = sorted({name for name, _ in ours} ^ {name for name, _ in theirs})
        raise ValueError(f"teacher and student differ in {', '.join(differing[:5]) or 'the order of their parameters'}")
    teachers: list[Tensor] = [parameter for _, parameter in ours]
    students = [parameter.to(mine.dtype) for (_, parameter), mine in zip(theirs, teachers, strict=True)]
    torch._foreach_lerp_(teachers, students, 1 - momentum)
