"""Blocks whose insides are computed a second time in the backward pass instead of being kept: memory for time.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (arXiv 1604.06174). A backbone that can do so has an
attribute `recompute`, False at first, and calls its blocks through `run_block`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # of any dimension, and the synchronised one
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, x: Tensor, *, recompute: bool) -> Tensor:
    """block(x), which with `recompute` keeps x alone for the backward pass."""
    if not recompute or not torch.is_grad_enabled():
        return block(x)
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_first_second, block))


def _first_second(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _statistics_left_alone(block)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """BatchNorm has gathered running statistics of this batch already; the second time it gathers on scrap paper."""
    statistics = [(norm, name, buffer) for norm in block.modules() if isinstance(norm, _BatchNorm)
                  for name, buffer in norm.named_buffers(recurse=False)]  # fmt: skip
    for norm, name, buffer in statistics:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in statistics:
            setattr(norm, name, buffer)
