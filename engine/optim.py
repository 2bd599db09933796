"""AdamP, and groups of parameters whose learning rates follow the schedule.

AdamP is the optimiser of Heo et al. 2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant
Weights" (arXiv 2006.08217). A weight that is followed by normalisation is scale-invariant: its gradient is orthogonal
to it, and whatever momentum adds along the weight only makes it longer and so slows its effective learning. AdamP
takes that radial part out of the update, and lowers weight decay, wherever gradient and weight are nearly orthogonal:
seen for each output channel by itself or, failing that, for the tensor as a whole.

The package `adamp` is the reference, and its state has the same keys and shapes; tests hold the trajectories together.
This one is faster for three reasons. Norms and inner products are reductions without temporaries, and those of a whole
tensor are sums of its channels'. Taking the radial part out of the update is the same as scaling the weight by channel,
which weight decay does anyway, so both are one pass. And nothing asks the device for a value: the package waits
for the GPU once or twice for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


class AdamP(torch.optim.Optimizer):
    """Arguments as in the package: `delta` says how orthogonal is orthogonal, `wd_ratio` what is left of the decay."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, delta: float = 0.1, wd_ratio: float = 0.1,
                 nesterov: bool = False):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "delta": delta,
                                  "wd_ratio": wd_ratio, "nesterov": nesterov})  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] = {
                        "step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)
                    }
                self.state[parameter]["step"] += 1
            # A GPU wants few launches: all tensors at once. A CPU wants what it touches to stay in its cache.
            on_gpu = [parameter for parameter in parameters if parameter.is_cuda]
            for bucket in ([on_gpu] if on_gpu else []) + [[p] for p in parameters if not p.is_cuda]:
                self._update(bucket, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]  # those without one are left out before
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        rates = [group["lr"] / (1 - beta1 ** state["step"]) for state in states]

        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, gradients, alpha=1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [math.sqrt(1 - beta2 ** state["step"]) for state in states])
        torch._foreach_add_(denominators, group["eps"])
        if group["nesterov"]:
            updates = torch._foreach_mul(means, beta1)
            torch._foreach_add_(updates, gradients, alpha=1 - beta1)
            torch._foreach_div_(updates, denominators)
        else:
            updates = torch._foreach_div(means, denominators)
        del denominators

        for parameter, gradient, update, rate in zip(parameters, gradients, updates, rates, strict=True):
            scale = self._scale(parameter, gradient, update, rate, group)
            if isinstance(scale, Tensor) or scale != 1:
                parameter.mul_(scale)
        torch._foreach_mul_(updates, [-rate for rate in rates])
        torch._foreach_add_(parameters, updates)

    def _scale(
        self, parameter: Tensor, gradient: Tensor, update: Tensor, rate: float, group: dict[str, Any]
    ) -> Tensor | float:
        """What weight decay and the projection multiply the weight by: a number, or one for each output channel.

        With the update u, its projection is u - w <w, u> / (|w| + eps)^2; stepping by -rate times that is stepping by
        -rate * u after scaling w by 1 + rate * <w, u> / (|w| + eps)^2.
        """
        decay = group["lr"] * group["weight_decay"]
        if parameter.ndim < 2:
            return 1 - decay
        eps = group["eps"]
        g, w, u = (tensor.reshape(len(parameter), -1) for tensor in (gradient, parameter, update))  # (channels, rest)
        gw = torch.linalg.vecdot(g, w)  # (channels,)
        g_norm, w_norm = torch.linalg.vector_norm(g, dim=1), torch.linalg.vector_norm(w, dim=1)
        by_channel = (gw.abs() / (g_norm.clamp(min=eps) * w_norm.clamp(min=eps))).max()
        g_whole, w_whole = torch.linalg.vector_norm(g_norm), torch.linalg.vector_norm(w_norm)
        by_tensor = gw.sum().abs() / (g_whole.clamp(min=eps) * w_whole.clamp(min=eps))
        channel_orthogonal = by_channel < group["delta"] / math.sqrt(w.shape[1])
        tensor_orthogonal = by_tensor < group["delta"] / math.sqrt(w.numel())
        if not parameter.is_cuda and not channel_orthogonal and not tensor_orthogonal:
            return 1 - decay  # the common case, and looking costs nothing where there is no device to wait for
        uw = torch.linalg.vecdot(u, w)
        radial = torch.where(
            channel_orthogonal,
            uw / (w_norm + eps).square(),
            torch.where(tensor_orthogonal, uw.sum() / (w_whole + eps).square(), 0.0),
        )
        projected = (channel_orthogonal | tensor_orthogonal).to(w.dtype)
        less_decay = decay * (1 - group["wd_ratio"]) * projected
        return (1 - decay + less_decay + rate * radial).view(-1, *[1] * (parameter.ndim - 1))


@dataclass(frozen=True)
class Part:
    """A part of the networks with a learning rate of its own: `scale` times the base; `constant` ignores the schedule,
    its warm-up included, as the method wants of the predictors."""

    name: str
    modules: Sequence[nn.Module]
    scale: float = 1.0
    constant: bool = False


def groups(*parts: Part) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser, one for each part. A parameter in two parts, or a part of none, is a bug."""
    seen: dict[int, str] = {}
    found = []
    for part in parts:
        parameters = []
        for module in part.modules:
            for name, parameter in module.named_parameters():
                if not parameter.requires_grad:
                    continue
                if id(parameter) in seen:
                    raise ValueError(f"parameter {name} of part {part.name} is already in part {seen[id(parameter)]}")
                seen[id(parameter)] = part.name
                parameters.append(parameter)
        if not parameters:
            raise ValueError(f"part {part.name} has nothing to train")
        found.append({"params": parameters, "name": part.name, "scale": part.scale, "constant": part.constant})
    return found


def set_learning_rates(optimizer: torch.optim.Optimizer, base: float, factor: float) -> dict[str, float]:
    """Set each group's rate for the coming step from scratch, `factor` being the schedule's; returns them by name.

    Nothing is carried from step to step, so nothing can be frozen by a resume.
    """
    for group in optimizer.param_groups:
        group["lr"] = base * group["scale"] * (1.0 if group["constant"] else factor)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
