"""The verbs: what each is called, which module does it, and in how many processes. Modules are named, not imported."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence

from engine.errors import UserError

# verb: (module with `main(arguments) -> exit code`, what it does)
VERBS = {
    "demo": ("demo", "the whole way on generated people, and a page that leads through it"),
    "synthesize": ("datasets.synthetic.command", "write the embedded corpus in the real datasets' own layouts"),
    "prepare": ("datasets.prepare", "face crops and sound of one dataset, from its videos to a store"),
    "inspect": ("datasets.inspection", "what is in a store: counts, what was skipped and why, a contact sheet"),
    "pretrain": ("ssl_pretrain.train", "stage 1: learn from real clips how faces and voices move together"),
    "finetune": ("finetune.train", "stage 2: learn to tell real from forged faces, from a bundle of stage 1"),
    "benchmark": ("evaluation.benchmark", "what a detector is worth on unseen videos: scores, tables, a report"),
    "detect": ("evaluation.verdict.detect", "a verdict on a video, or on many: real, forged or cannot tell, and why"),
    "import": ("evaluation.published", "a published checkpoint of the original CSN work, as a bundle"),
    "serve": ("evaluation.serve.command", "a page on this machine where a video is dropped and its report appears"),
    "submit": ("slurm.submit", "any other verb as a job on SLURM, or one job for each combination of settings"),
    "jobs": ("slurm.jobs", "what became of submitted jobs; jobs cancel takes them back"),
    "doctor": ("doctor", "is this machine ready? versions, devices, decoder, SLURM, disk, each with a verdict"),
    "completion": ("engine.completion", "what a shell needs to complete verbs, settings and names"),
}

# Those that divide their work over the processes that they find themselves in; every other verb is one process.
DISTRIBUTED = ("pretrain", "finetune", "benchmark")


def main_of(verb: str) -> Callable[[Sequence[str]], int]:
    """The verb's `main`, imported now."""
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(VERBS)}"
        raise UserError(f"unknown verb {verb!r}; {hint}")
    return importlib.import_module(VERBS[verb][0]).main
