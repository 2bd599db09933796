"""Mixed precision: which number format the networks compute in; weights and optimisers are always fp32."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from engine.errors import UserError

Kind = Literal["bf16", "fp16", "fp32"]


class Precision:
    """`autocast()` for forward passes and, for fp16, the factor that keeps small gradients from vanishing.

    The factor is kept on the host, where the decision to skip a step is made and agreed on between ranks; PyTorch's
    own GradScaler would decide for each rank and each optimiser by itself.
    """

    FIRST_SCALE, GROWTH_EVERY = 2.0**16, 2000

    def __init__(self, kind: str, device: torch.device):
        if kind not in get_args(Kind):
            near = difflib.get_close_matches(kind, get_args(Kind), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"precision={kind}: {hint}known are {', '.join(get_args(Kind))}")
        if kind == "fp16" and device.type != "cuda":
            raise UserError(f"precision=fp16 needs a GPU, this run is on the {device.type}: use bf16 or fp32")
        if kind == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"precision=bf16: {torch.cuda.get_device_name(device)} cannot; use fp16 or fp32")
        self.kind, self.device = kind, device
        self.scale = self.FIRST_SCALE if kind == "fp16" else 1.0
        self._good_steps = 0

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 also lets matrix products of fp32 numbers, as in recurrent networks, round what they multiply: to
        bfloat16 on a CPU that multiplies it, to TF32 on a GPU. Sums and results stay fp32."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.kind)
        before = torch.get_float32_matmul_precision()
        if self.kind == "bf16":
            torch.set_float32_matmul_precision("medium")
        try:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def after_step(self, overflowed: bool) -> None:
        """fp16: halve the factor when gradients overflowed, double it after many steps without."""
        if self.kind != "fp16":
            return
        self._good_steps = 0 if overflowed else self._good_steps + 1
        if overflowed:
            self.scale /= 2
        elif self._good_steps == self.GROWTH_EVERY:
            self.scale, self._good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["kind"] == self.kind:  # else the user has changed it between two runs, and starts with a fresh factor
            self.scale, self._good_steps = state["scale"], state["good_steps"]
