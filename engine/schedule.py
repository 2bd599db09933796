"""Everything that changes during training, as pure functions of the step: nothing to save, nothing to restore wrongly.

`step` counts the updates already made, so a run of N steps asks for steps 0 .. N-1. Epochs are the caller's to
multiply out: `warmup=20 * steps_per_epoch`.
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, warmup: int, steps: int) -> float:
    """Factor of the learning rate: a line from 1/warmup at step 0 to 1 at step warmup-1, then half a cosine.

    The cosine is 1 at step `warmup` and would be 0 at step `steps`; the last step, steps-1, is therefore tiny but not
    zero: every update moves something.
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))) / 2 if step < steps else 0.0


def warmup_constant(step: int, *, warmup: int) -> float:
    """Factor of the learning rate: a line from 1/warmup at step 0 to 1 at step warmup-1, and 1 from there on."""
    return (step + 1) / warmup if step < warmup else 1.0


def learning_rate(batch: int, *, base: float = 7e-4, reference: int = 256) -> float:
    """`base` at a global batch of `reference`, scaled with the square root, as suits optimisers of Adam's kind."""
    return base * math.sqrt(batch / reference)


def teacher_momentum(batch: int, *, base: float = 0.999, reference: int = 96) -> float:
    """1 - (1 - base) * batch / reference: a larger batch makes fewer steps an epoch, so each moves the teacher more.

    Larger than `reference / (1 - base)` a batch cannot be; from there on the teacher is the student.
    """
    return max(0.0, 1 - (1 - base) * batch / reference)


def momentum_to_one(step: int, *, start: float, steps: int) -> float:
    """Half a cosine from `start` at step 0 towards 1, reached at step `steps` (BYOL, Grill et al. 2020).

    At the last step, steps-1, the teacher still moves a little.
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def masked_share(step: int, *, steps: int, begin: float = 0.0, full: float | None = None, share: float = 1.0) -> float:
    """Share of clips whose student view is masked.

    0 before the fraction `begin` of the run, `share` from the fraction `full` on (by default `begin`: a jump), a line
    between them. The published recipe masks every clip from the start, which is the default; small runs need
    `begin=0.35, share=0.2` to learn anything.
    """
    full = begin if full is None else full
    done = step / steps
    if done < begin:
        return 0.0
    return share if done >= full else share * (done - begin) / (full - begin)
