"""`crosstalk demo`: the whole way on the embedded corpus, from nothing on the disk to prepared, inspected stores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import inspection, prepare
from datasets.synthetic import command as synthesize
from engine.settings import load_exactly

PARTS = ("lrw", "faceforensics", "celebdf_v2")


@dataclass(frozen=True)
class DemoSettings:
    """configs/demo.yaml explains each."""

    out: Path


def main(arguments: Sequence[str]) -> int:
    out = load_exactly("demo", arguments, DemoSettings).out
    corpus, stores = out / "corpus", out / "stores"
    steps = [(synthesize, "synthesize", [f"out={corpus}"], "2 minutes")]
    for name in PARTS:
        overrides = [f"data={name}", f"root={corpus / name}", f"store={stores / name}"]
        steps.append((prepare, "prepare", overrides, "1 minute"))
    steps += [(inspection, "inspect", [f"store={stores / name}"], "20 seconds") for name in PARTS]
    for number, (module, verb, overrides, lasts) in enumerate(steps, 1):
        step = f"[{number}/{len(steps)}]"
        print(f"\n{step} crosstalk {verb} {' '.join(overrides)}    (about {lasts} on two cores)", flush=True)
        began = time.monotonic()
        code = module.main(overrides)
        print(f"{step} took {time.monotonic() - began:.0f} s", flush=True)
        if code:
            return code
    sheets = "\n".join(f"  {stores / name / 'contact_sheet.png'}" for name in PARTS)
    print(f"\nLook at the generated people and what was done to them:\n{sheets}")
    return 0
