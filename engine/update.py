"""One update of the weights: from the losses of one or several parts of a batch to the optimisers' step.

    for number, part in enumerate(parts):
        with update.part(number, of=len(parts)):
            video, audio = model(part)
            update.backward(video + audio, video=video, audio=audio)
    done = update.apply(step)

The gradient is that of the mean over parts, so cutting a batch into equal parts changes memory, not the update (but
for BatchNorm, which sees one part at a time).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.distributed import Context
from engine.errors import UserError
from engine.precision import Precision


class NonFiniteLoss(UserError):  # noqa: N818  says what was found
    """A loss, or its gradient, is infinite or not a number. Weights and optimisers are as before the step."""


@dataclass(frozen=True)
class Applied:
    values: dict[str, Tensor]  # on the device, detached, means over the parts: "loss" and its named shares
    gradient_norm: Tensor  # over all parameters of all optimisers, on the device
    skipped: bool  # fp16 only: the gradients overflowed, the weights were left alone


class Update:
    """`wrapped` are the modules that `Context.wrap` returned: their gradients cross ranks in the last part only."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], precision: Precision, context: Context,
                 wrapped: Sequence[nn.Module] = ()):  # fmt: skip
        self._optimizers, self._precision, self._context = list(optimizers), precision, context
        self._parallel = [m for m in wrapped if isinstance(m, nn.parallel.DistributedDataParallel)]
        if context.world > 1 and not self._parallel:
            raise ValueError("several ranks, but no module averages its gradients: pass those that Context.wrap made")
        self._values: list[dict[str, Tensor]] = []
        self._of = 1

    @contextmanager
    def part(self, number: int, *, of: int) -> Iterator[None]:
        """Forward and backward of one part of the batch, in the run's precision."""
        if number == 0:
            self._values, self._of = [], of
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            if number < of - 1:
                for module in self._parallel:
                    stack.enter_context(module.no_sync())
            stack.enter_context(self._precision.autocast())
            yield

    def backward(self, loss: Tensor, **shares: Tensor) -> None:
        """`shares` are the named terms of the loss, for the journal and for error messages."""
        self._values.append({"loss": loss.detach(), **{name: share.detach() for name, share in shares.items()}})
        with torch.autocast(self._precision.device.type, enabled=False):
            wide = loss if loss.dtype.itemsize >= 4 else loss.float()  # the factor is beyond what fp16 can hold
            (wide * (self._precision.scale / self._of)).backward()

    @torch.no_grad()
    def apply(self, step: int) -> Applied:
        """Step the optimisers, or raise `NonFiniteLoss` on all ranks before anything is changed.

        Losses and gradients are looked at together, once, after the backward pass: each look makes the host wait for
        the device.
        """
        if len(self._values) != self._of:
            raise ValueError(f"{len(self._values)} parts went backward, {self._of} were announced")
        gradients = [parameter.grad for optimizer in self._optimizers for group in optimizer.param_groups
                     for parameter in group["params"] if parameter.grad is not None]  # fmt: skip
        if not gradients:
            raise ValueError("nothing to apply: no parameter has a gradient")
        scale = self._precision.scale
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) / scale
        losses = torch.stack([value.double() for values in self._values for value in values.values()])
        loss_bad, gradient_bad = torch.stack([~losses.isfinite().all(), ~norm.isfinite()]).tolist()
        worst = self._context.highest(2 if loss_bad else int(gradient_bad))
        if worst == 2:
            raise NonFiniteLoss(self._lost(step, bool(loss_bad)))
        overflowed = worst == 1
        if overflowed and (self._precision.kind != "fp16" or scale <= 1):
            raise NonFiniteLoss(f"step {step}: the loss is finite ({self._shown()}) but its gradient is not; nothing "
                                f"was changed; lower the learning rate or use a wider precision than "
                                f"{self._precision.kind}")  # fmt: skip
        if not overflowed:
            if scale != 1:
                torch._foreach_mul_(gradients, 1 / scale)
            for optimizer in self._optimizers:
                optimizer.step()
        self._precision.after_step(overflowed)
        names = list(self._values[0])
        means = {name: torch.stack([values[name].double() for values in self._values]).mean() for name in names}
        return Applied(means, norm, overflowed)

    def _lost(self, step: int, here: bool) -> str:
        if not here:
            return f"step {step}: the loss of another rank is not finite (that rank says which); nothing was changed"
        return (f"step {step}: the loss is not finite ({self._shown()}) on rank {self._context.rank}; nothing was "
                f"changed; lower the learning rate, or use a wider precision than {self._precision.kind}")  # fmt: skip

    def _shown(self) -> str:
        several = len(self._values) > 1
        return "; ".join(
            (f"part {number}: " if several else "") + ", ".join(f"{k} {float(v):.6g}" for k, v in values.items())
            for number, values in enumerate(self._values)
        )
